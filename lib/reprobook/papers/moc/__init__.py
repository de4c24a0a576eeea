"""MoC (arXiv 2503.09600): what makes a chunk of text a good one, and a mixture of small models that cut."""
