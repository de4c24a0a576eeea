"""Progress of a training loop on its way out of a kernel: the loop tells its logger, the log of the run keeps the line,
and whoever waits for the run sees the last one."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

VARIABLE = "REPROBOOK_RUN_LOG"
KERNEL_LINE = "__import__('reprobook.runs.training_log').runs.training_log.install()"  # leaves no name behind
_TAIL_BYTES = 16_384


def install() -> None:
    """In a kernel: write what ``reprobook.train`` logs to the file that the variable names; no variable, no log."""
    path = os.environ.get(VARIABLE)
    logger = logging.getLogger("reprobook.train")
    if path and not logger.handlers:
        handler = logging.FileHandler(path, encoding="utf-8", delay=True)
        handler.setFormatter(logging.Formatter("%(asctime)s training: %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)


_STEPS = re.compile(r"(.*): step (\d+) of (\d+), loss \S+, (\S+) steps/s, (\d+) s left")


def last_steps(path: Path) -> dict[str, str | int | float] | None:
    """The numbers of :func:`last_line`: name, step, total, steps_per_s, left_s."""
    found = _STEPS.fullmatch(last_line(path) or "")
    if not found:
        return None
    name, step, total, rate, left = found.groups()
    return {"name": name, "step": int(step), "total": int(total), "steps_per_s": float(rate), "left_s": int(left)}


def last_line(path: Path) -> str | None:
    """What training said last in the cell that runs: ``base: step 300 of 850, loss 2.1, 3.1 steps/s, 177 s left``."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            text = stream.read().decode("utf-8", errors="replace")
    except OSError:
        return None
    found = re.findall(r"^\d\d:\d\d:\d\d training: (.*)$", text.rpartition("Executing Cell")[2], re.MULTILINE)
    return found[-1] if found else None
