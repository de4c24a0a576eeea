"""Small checkouts in a temporary folder: real notebooks, real kernels, no torch."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from hypothesis import settings
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

settings.register_profile("any machine", deadline=None)  # wall time says nothing where others work, too
settings.load_profile("any machine")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell starts background jobs deaf to it
    signal.signal(signal.SIGINT, signal.default_int_handler)
SLUG = "block_diffusion"
PARAMETERS = """\
scale = "smoke"  # smoke, laptop or paper
seed = 0  # seed of everything random
device = "auto"  # auto, cpu or cuda
out_dir = ""  # folder of this run; empty: a fresh one
lr = 1.0e-3  # step size; paper: 1e-4
steps = 2  # number of steps
"""


def notebook(*cells: str | tuple[str, str], parameters: str = PARAMETERS) -> nbformat.NotebookNode:
    """A notebook with a parameters cell, then ``cells``: code, or (tag, code)."""
    nb = new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}})
    nb.cells = [new_markdown_cell("# A chapter"), new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    for cell in cells:
        tag, source = cell if isinstance(cell, tuple) else ("", cell)
        nb.cells.append(new_code_cell(textwrap.dedent(source).strip(), metadata={"tags": [tag]} if tag else {}))
    return nb


class Checkout:
    """A checkout with one chapter in the folder ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("notebooks/params", "notebooks/expected", "data_manifests", "book/papers", "book/results"):
            (root / folder).mkdir(parents=True)
        self.write("requirements.lock", "numpy==2.4.6\ntorch==2.13.0\nscikit-learn==1.9.1\n")
        self.write(f"data_manifests/{SLUG}.yaml", "artefacts: []\n")
        for scale in ("laptop", "paper"):
            self.write(f"notebooks/params/{SLUG}.{scale}.yaml", f"scale: {scale}  # this scale\n")
        self.write(f"notebooks/params/{SLUG}.rehearsal.yaml", "steps: 1  # one step\n")

    def write(self, path: str, text: str) -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(textwrap.dedent(text))
        return target

    def commit(self) -> None:
        """Make it a repository in which everything is committed."""
        for arguments in (["init"], ["add", "-A"], ["commit", "-m", "all"]):
            who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
            subprocess.run(["git", *who, *arguments], cwd=self.root, check=True, capture_output=True)

    def notebook(self, *cells: str | tuple[str, str], **options: Any) -> Path:
        path = self.root / "notebooks" / f"{SLUG}.ipynb"
        nbformat.write(notebook(*cells, **options), path)
        return path


@pytest.fixture(scope="session")
def new_checkout() -> Callable[[Path, pytest.MonkeyPatch], Checkout]:
    """Makes a checkout below a folder, with a cache of its own, in which this process and its children work."""

    def make(parent: Path, patch: pytest.MonkeyPatch) -> Checkout:
        folder = parent / "check out é"
        folder.mkdir()
        patch.setenv("REPROBOOK_ROOT", str(folder))
        patch.setenv("REPROBOOK_CACHE", str(parent / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")
        return Checkout(folder)

    return make


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_checkout: Any) -> Checkout:
    return new_checkout(tmp_path, monkeypatch)


class Disks:
    """Mounts file systems in memory: ``disk("size=200k")`` returns the folder, ``remount`` changes its options."""

    def __init__(self, parent: Path) -> None:
        self.parent, self.mounted = parent, list[Path]()

    def __call__(self, options: str, folder: Path | None = None) -> Path:
        folder = folder or self.parent / f"disk {len(self.mounted)}"
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"needs the right to mount a file system: {done.stderr.strip()}")
        self.mounted.append(folder)
        return folder

    def remount(self, folder: Path, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disks]:
    """File systems in memory; skips where mounting is forbidden."""
    if sys.platform != "linux":
        pytest.skip("mounts a Linux file system")
    disks = Disks(tmp_path)
    yield disks
    for folder in disks.mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
