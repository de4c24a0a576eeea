"""Copies to be changed, of trees that may be closed to writing."""

from __future__ import annotations

import shutil
from pathlib import Path


def copy_to_change(source: Path, target: Path, *ignored: str) -> None:
    """``source`` without what fits a pattern of ``ignored``, as ``target``: files and folders can be written, whatever
    the modes of ``source`` are."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", *ignored), dirs_exist_ok=True)
    for path in (target, *target.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)
