"""A run that was killed again and again ends with the weights, metrics and tables of an undisturbed one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprobook.runs.runner import run

sys.path.insert(0, str(Path(__file__).parent))
import resuming

if TYPE_CHECKING:
    import pytest
    from reprobook.runs.runner import RunResult

SLUG = "block_diffusion"


def _run(monkeypatch: pytest.MonkeyPatch, kill: str = "") -> RunResult:
    monkeypatch.setenv(resuming.KILL, kill)
    return run(SLUG, "smoke")


def test_killed_runs_end_as_undisturbed_ones(checkout: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three kills in a row: in the first training, while one of its checkpoints is written, and in the second training
    before its first checkpoint. Random steps in numbers: test_train_resume.py and `make chaos`."""
    checkout.notebook(*resuming.CELLS)
    undisturbed = _run(monkeypatch)
    expected = resuming.outcome(undisturbed.folder)
    assert undisturbed.status == "complete" and len(expected["tables"]["rows"]["rows"]) == 10
    undisturbed.folder.rename(checkout.root / "runs" / "undisturbed")
    for kill in ("7", "write:2", "21"):
        killed = _run(monkeypatch, kill)
        assert killed.status == "failed" and "the kernel died in cell" in str(killed.where), kill
        assert killed.folder == undisturbed.folder
        assert list((killed.folder / "checkpoints").rglob("*.pt"))
    resumed = _run(monkeypatch)
    assert resumed.status == "complete"
    assert resuming.outcome(resumed.folder) == expected
    assert not list((resumed.folder / "checkpoints").rglob(".*.tmp")), "nothing half-written is left"
    assert _run(monkeypatch).status == "skipped"
