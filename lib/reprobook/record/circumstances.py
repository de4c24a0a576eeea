"""Under what circumstances a run was made: versions of packages, commit."""

from __future__ import annotations

import platform
import subprocess

from reprobook.project import root

_PACKAGES = (
    "accelerate",
    "datasets",
    "diffusers",
    "huggingface_hub",
    "matplotlib",
    "numpy",
    "pandas",
    "papermill",
    "peft",
    "reprobook",
    "safetensors",
    "scikit-learn",
    "scipy",
    "tokenizers",
    "torch",
    "transformers",
)


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that can move a number."""
    from importlib import metadata

    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> tuple[str | None, bool]:
    """``(commit, clean)`` of the checkout; published results are no change. Without git: ``(None, False)``."""
    try:
        head = _git("rev-parse", "HEAD")
        return head, not _git("status", "--porcelain", "--", ".", ":(exclude)book/results")
    except (OSError, subprocess.CalledProcessError):
        return None, False


def commit_count() -> int:
    """How many commits led to this checkout; 0 without git."""
    try:
        return int(_git("rev-list", "--count", "HEAD"))
    except (OSError, subprocess.CalledProcessError):
        return 0


def _git(*arguments: str) -> str:
    run = subprocess.run(["git", *arguments], cwd=root(), capture_output=True, text=True, check=True)
    return run.stdout.strip()
