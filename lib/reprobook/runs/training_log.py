"""What a training says in a kernel goes to the log of its run, and not into the notebook."""

from __future__ import annotations

import logging
import os

LOG_FILE = "REPROBOOK_RUN_LOG"
KERNEL_LINE = "__import__('reprobook.runs.training_log').runs.training_log.install()"  # leaves no name behind


def install() -> None:
    """In a kernel: write what ``reprobook.train`` logs to the file that the variable names; no variable, no log."""
    path = os.environ.get(LOG_FILE)
    logger = logging.getLogger("reprobook.train")
    if path and not logger.handlers:
        handler = logging.FileHandler(path, encoding="utf-8", delay=True)
        handler.setFormatter(logging.Formatter("%(asctime)s training: %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
