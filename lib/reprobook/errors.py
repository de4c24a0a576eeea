"""The error every part of the library raises for something a user can put right."""

from __future__ import annotations


class ReprobookError(Exception):
    """A mistake or fault that the user can act on: the message names the thing, the value and the remedy."""
