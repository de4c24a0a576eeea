"""Quantizing code models (Giagnorio et al., 2025): AQLM at 8 to 2 bits, and what it does to pass@1."""
