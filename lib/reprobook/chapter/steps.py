"""How far a training is, for whoever started the run: the kernel's last heartbeat, in a small file."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

EVERY_S = 2.0


class StepFile(logging.Handler):
    """Writes the heartbeats of :mod:`reprobook.train.progress` (name, step, total, loss, steps/s, seconds left)."""

    def __init__(self, path: Path) -> None:
        super().__init__(logging.INFO)
        self.path = path

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno != logging.INFO or not isinstance(record.args, tuple) or len(record.args) != 6:
            return
        names = ("name", "step", "total", "loss", "steps_per_s", "left_s")
        temporary = self.path.with_name(f"{self.path.name}.tmp")
        try:
            temporary.write_text(json.dumps(dict(zip(names, record.args, strict=True))))
            os.replace(temporary, self.path)
        except OSError:  # nobody's training ends because its progress can't be told
            pass


def report_steps() -> None:
    """Write heartbeats to the file that ``REPROBOOK_STEPS`` names, if it does."""
    path = os.environ.get("REPROBOOK_STEPS")
    if not path:
        return
    from reprobook.train import progress

    progress.HEARTBEAT_S = EVERY_S
    logger = logging.getLogger("reprobook.train")
    logger.addHandler(StepFile(Path(path)))
    logger.setLevel(logging.INFO)
