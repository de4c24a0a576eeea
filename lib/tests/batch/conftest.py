"""The tiny chapter of :mod:`tiny_chapter` in a checkout of its own."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from copies import copy_to_change

sys.path.insert(0, str(Path(__file__).parent))
from tiny_chapter import Batches

BOOK = Path(__file__).parents[3] / "book"


@pytest.fixture
def batches(checkout: Any) -> Batches:
    return Batches(checkout)


@pytest.fixture
def page_commands() -> Callable[[str], list[list[str]]]:
    """Arguments of the batch commands in a section of "How to run a chapter", in order."""

    def commands(title: str) -> list[list[str]]:
        section = (BOOK / "how_to_run.md").read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
        lines = re.findall(r"^reprobook batch (.*)$", section, re.MULTILINE)
        assert lines, title
        return [shlex.split(line) for line in lines]

    return commands


@pytest.fixture
def checkout_with_plans(batches: Batches, monkeypatch: pytest.MonkeyPatch) -> Batches:
    """Clean and committed, as after a clone; plans are called by the paths that the page shows."""
    copy_to_change(BOOK / "plans", batches.root / "book/plans")
    batches.checkout.write(".gitignore", "runs/\n")
    batches.checkout.commit()
    monkeypatch.chdir(batches.root)
    return batches
