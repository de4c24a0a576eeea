"""Batches: many runs from one plan, on this machine or on a Slurm cluster, with the same records."""
