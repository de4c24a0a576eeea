"""Under what circumstances a run was made: versions of packages, commit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import tempfile

from reprobook.errors import ReprobookError
from reprobook.project import check_package, root

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
SOURCES = (  # what numbers are made from: git may not leave any of it out, whatever it is told to ignore
    ":(glob)lib/reprobook/**/*.py", ":(glob)notebooks/*.ipynb", ":(glob)notebooks/params/*.yaml",
    ":(glob)book/papers/*.yaml", ":(glob)data_manifests/*.yaml", "requirements.lock",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that can move a number; PyTorch's by its own word, since the
    installed package's may not name the build (2.13.0 for 2.13.0+cu130)."""
    from importlib import metadata

    import torch

    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found | {"torch": str(torch.__version__)}


def commit() -> tuple[str | None, bool]:
    """``(commit, clean)`` of the checkout; see :func:`of_commit`."""
    head, why_not = of_commit()
    return head, not why_not


def of_commit() -> tuple[str | None, str]:
    """The checkout's commit, None if git names none; and why the code that runs is not that commit's, "" if it is.

    Published results are no change. git's own index and settings are not asked: they can hide changes."""
    try:
        check_package()
        head = _head()
        with tempfile.TemporaryDirectory() as folder:
            index = {"GIT_INDEX_FILE": f"{folder}/index"}
            _git("read-tree", "HEAD", **index)
            everything = ("--porcelain", "--untracked-files=normal", "--", ".", ":(exclude)book/results")
            changed = _git("status", *everything, **index) or _git("ls-files", "--others", "--", *SOURCES, **index)
    except (OSError, ReprobookError) as error:
        return None, str(error)
    unclean = "the checkout has uncommitted changes: commit them, so that the record can name its code"
    return head, f"{unclean} ({changed.splitlines()[0].strip()})" if changed else ""


def commit_count() -> int:
    """A number that each commit changes: how many led to this checkout or, where the clone does not have them all, one
    made of the commit's name; 0 without git."""
    try:
        head = _head()
        shallow = _git("rev-parse", "--is-shallow-repository") == "true"
        return int(head, 16) if shallow else int(_git("rev-list", "--count", "HEAD"))
    except (OSError, ReprobookError):
        return 0


def _head() -> str:
    """The commit of the checkout's own repository. Raises :class:`ReprobookError` if there is none."""
    top = _git("rev-parse", "--show-toplevel")
    if not root().samefile(top):
        raise ReprobookError(f"the git repository {top} is not this checkout's own: publish from a clone")
    try:
        head = _git("rev-parse", "--verify", "HEAD")
    except ReprobookError:
        raise ReprobookError("the checkout has uncommitted changes: nothing was ever committed") from None
    if not _git("ls-tree", "HEAD", "notebooks"):
        raise ReprobookError(f"the git repository {top} tracks none of its notebooks: publish from a clone")
    return head


def _git(*arguments: str, **more: str) -> str:
    """What git says of the checkout; raises :class:`ReprobookError` with its words if it fails. Variables may choose
    its settings (such as whom it trusts), but not another repository, index or way to read paths."""
    env = {name: value for name, value in os.environ.items() if not re.match("GIT_(?!CONFIG|TEST)", name)}
    command = ["git", "--no-replace-objects", "-c", "core.fsmonitor=false", *arguments]
    run = subprocess.run(command, cwd=root(), capture_output=True, text=True, env=env | more)
    if run.returncode:
        raise ReprobookError(f"git says: {' '.join(run.stderr.split())}")
    return run.stdout.strip()
