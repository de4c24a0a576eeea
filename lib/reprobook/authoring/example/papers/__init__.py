"""Stands for ``reprobook.papers``."""
