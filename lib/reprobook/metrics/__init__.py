"""Measures that at least two chapters share: statistics over seeds and pairs, and measures of text."""
