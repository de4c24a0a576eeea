"""Under what circumstances a run was made: versions, commit, hardware, memory."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from reprobook.project import root

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


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that can move a number."""
    from importlib import metadata

    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> tuple[str | None, bool]:
    """``(commit, clean)`` of the checkout; published results are no change. Without git: ``(None, False)``."""
    try:
        head = _git("rev-parse", "HEAD")
        return head, not _git("status", "--porcelain", "--", ".", ":(exclude)book/results")
    except (OSError, subprocess.CalledProcessError):
        return None, False


def commit_count() -> int:
    """How many commits led to this checkout; 0 without git."""
    try:
        return int(_git("rev-list", "--count", "HEAD"))
    except (OSError, subprocess.CalledProcessError):
        return 0


def _git(*arguments: str) -> str:
    run = subprocess.run(["git", *arguments], cwd=root(), capture_output=True, text=True, check=True)
    return run.stdout.strip()


def hardware() -> dict[str, Any]:
    """Processor, cores we may use, torch threads, memory in GB of 10^9 bytes, GPUs, and the precision of training."""
    import psutil
    import torch

    from reprobook.train.devices import bf16_is_fast

    gpus = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    return {
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpus": gpus,
        "precision": "bf16" if bf16_is_fast(torch.device("cuda" if gpus else "cpu")) else "fp32",
    }


def _processor() -> str:
    """Name of the processor: from Linux's list, elsewhere as Python tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def peak_memory_mb() -> float | None:
    """Largest resident memory of this process so far, in MB of 10^6 bytes; None where the system doesn't tell."""
    try:  # getrusage hands the peak of the parent on to a new program; Linux has the figure of this one alone
        own = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text("utf-8"), re.MULTILINE)
    except OSError:
        own = None
    if own:
        return round(int(own[1]) * 1024 / 1e6, 1)
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)
