"""Effects, controls, pooling over seeds and verdicts: what entitles the book to what it says."""
