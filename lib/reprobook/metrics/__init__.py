"""Measures that at least two chapters share: statistics over seeds and pairs, the Frechet distance, text."""
