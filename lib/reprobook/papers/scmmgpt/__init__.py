"""scMMGPT."""
