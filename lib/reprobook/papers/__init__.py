"""The method of each paper: pure functions and modules, one file or package a chapter."""
