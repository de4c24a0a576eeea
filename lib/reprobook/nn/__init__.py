"""Building blocks that at least two chapters share."""
