"""Small checkouts in a temporary folder: real notebooks, real kernels, no torch."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

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

    def notebook(self, *cells: str | tuple[str, str], **options: Any) -> Path:
        path = self.root / "notebooks" / f"{SLUG}.ipynb"
        nbformat.write(notebook(*cells, **options), path)
        return path


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    folder = tmp_path / "check out é"
    folder.mkdir()
    monkeypatch.setenv("REPROBOOK_ROOT", str(folder))
    monkeypatch.setenv("REPROBOOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")])]))
    return Checkout(folder)
