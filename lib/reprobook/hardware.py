"""The machine: processor and the instructions that make its bits, cores, memory, GPUs, what it computes well."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def bf16_is_fast(device: torch.device) -> bool:
    """True if ``device`` multiplies bf16 in hardware: a GPU that says so, or a CPU with AMX or AVX512-bf16."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        probes = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
        return any(probe() for probe in probes if probe is not None)
    return False


def hardware() -> dict[str, Any]:
    """Processor, cores we may use, torch threads, memory in GB of 10^9 bytes, GPUs, precision of training, and
    :func:`arithmetic`."""
    import psutil
    import torch

    gpus = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    return {
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpus": gpus,
        "precision": "bf16" if bf16_is_fast(torch.device("cuda" if gpus else "cpu")) else "fp32",
        **arithmetic(),
    }


def openmp_threads(env: Mapping[str, str]) -> int | None:
    """``OMP_NUM_THREADS`` as OpenMP takes it, the first of a list; None if it is no positive number."""
    first = env.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) else None


def arithmetic() -> dict[str, str]:
    """What makes the bits of a sum on this processor: the instructions that ATen uses, BLAS, oneDNN."""
    import torch

    told = torch.__config__.show()
    blas = re.search(r"BLAS_INFO=(\w+)", told)
    onednn = re.search(r"oneDNN\) v([\d.]+)|MKL-DNN v([\d.]+)", told)
    return {
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "blas": blas[1] if blas else "unknown",
        "onednn": next((part for part in onednn.groups() if part), "unknown") if onednn else "none",
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
