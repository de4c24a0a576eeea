"""What tests ask about processes that may end at any moment."""

from __future__ import annotations

import psutil


def alive(pids: list[int]) -> list[int]:
    """Those of the processes that still run. One may go between two questions about it: then it does not run."""

    def runs(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return [pid for pid in pids if runs(pid)]
