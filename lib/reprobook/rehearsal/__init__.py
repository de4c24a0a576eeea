"""Rehearsal of the paper scale: its own code path, on tiny stand-ins for its models and data sets, without network."""

from __future__ import annotations

from reprobook.rehearsal.rehearse import rehearse

__all__ = ["rehearse"]
