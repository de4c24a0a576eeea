"""Manners of a long loop: a bar for a person who watches, a log line for everybody else, and a safe place to stop."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

logger = logging.getLogger("reprobook.train")
HEARTBEAT_S = 30.0


def watched() -> bool:
    """True if a person watches: a terminal, or a notebook front end that could answer a prompt.

    papermill, nbval and nbconvert execute cells with ``allow_stdin`` off: bars stay out of stored outputs there.
    ``REPROBOOK_PROGRESS=0`` switches bars off everywhere."""
    if os.environ.get("REPROBOOK_PROGRESS") == "0":
        return False
    ipython = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    kernel = getattr(ipython, "kernel", None)
    if kernel is not None:
        return bool(getattr(kernel, "_allow_stdin", False))
    return sys.stderr is not None and sys.stderr.isatty()


class Progress:
    """Reports steps of ``total``. ``update`` is cheap but not free: call it at log steps, not at every step."""

    def __init__(self, name: str, total: int, start: int, *, enabled: bool = True) -> None:
        self.name, self.total, self.start = name, total, start
        self.began = self.last = time.monotonic()
        self.enabled = enabled
        self.bar = None
        if enabled and watched():
            from tqdm.auto import tqdm  # a widget in JupyterLab: a text bar would leave an empty line of stderr

            self.bar = tqdm(total=total, initial=start, desc=name, leave=False, mininterval=0.5, file=sys.stderr)

    def update(self, step: int, loss: float) -> None:
        """Say that ``step`` updates are done and the last mean loss is ``loss``."""
        now = time.monotonic()
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {loss:.4g}", refresh=False)
            self.bar.update(step - self.bar.n)
        elif self.enabled and now - self.last >= HEARTBEAT_S:
            self.last = now
            rate = (step - self.start) / max(now - self.began, 1e-9)
            left = (self.total - step) / max(rate, 1e-9)
            text = f"{self.name}: step {step} of {self.total}, loss {loss:.4g}, {rate:.3g} steps/s, {left:.0f} s left"
            logger.info(text)
            message = {"name": self.name, "step": step, "total": self.total, "steps_per_s": rate, "left_s": left}
            _tell({**message, "text": text})

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()


def _tell(message: Mapping[str, Any]) -> None:
    """Add a JSON line to the file in which whoever waits for this run looks, if the variable names one."""
    if path := os.environ.get("REPROBOOK_PROGRESS_FILE"):
        with suppress(OSError), Path(path).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(message) + "\n")


class StopSignal:
    """SIGINT and SIGTERM wait for a safe place: ``received`` is the signal's number, ``leave`` lets it act."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _receive(self, number: int, *_: object) -> None:
        if self.received is not None:  # the second time: at once
            self.leave()
        self.received = number
        logger.warning("stopping after this step; interrupt again to stop at once without saving")

    def leave(self) -> None:
        """Do what the signal does without us (KeyboardInterrupt, or the end of the process), if one came."""
        number, self.received = self.received, None
        if number is not None:
            self.__exit__()
            signal.raise_signal(number)
