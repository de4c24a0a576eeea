"""Checkpoints of :func:`reprobook.train.fit`: atomic files, random states, and the fingerprint that guards a resume.

A folder holds ``step-00001200.pt`` files while a fit runs and ``finished.pt`` once it is done. Files are read with
``torch.load(weights_only=True)``: they hold tensors, numbers and strings, never code.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from torch import nn

FORMAT = 1
FINISHED = "finished.pt"
SAMPLE = 64  # values of each frozen tensor that enter the fingerprint
logger = logging.getLogger("reprobook.train")


class CheckpointError(ReprobookError):
    """A checkpoint that cannot be used: damaged, or written by a fit with other options."""


# --- files


def write(path: Path, payload: Mapping[str, Any]) -> None:
    """Write ``payload`` to ``path`` so that a reader sees all of it or nothing, whenever the process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            torch.save({"format": FORMAT, **payload}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch's zip writer turns the first into the second
        temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"cannot write checkpoint {path}: {error}; free space or choose another folder"
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    """Make a rename durable (a no-op where folders cannot be opened)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(path: Path) -> dict[str, Any]:
    """The payload of ``path``, tensors on the CPU. Raises :class:`CheckpointError` naming the file if it is damaged."""
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many types for a damaged file
        raise CheckpointError(f"checkpoint {path} cannot be read ({type(error).__name__}): delete it") from error
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise CheckpointError(f"checkpoint {path} is not of format {FORMAT}: delete it")
    return payload


def step_file(folder: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` is."""
    return folder / f"step-{step:08d}.pt"


def newest(folder: Path) -> dict[str, Any] | None:
    """The payload to go on from: ``finished.pt``, else the readable step file with the highest step, else None.

    A damaged step file is passed over with a warning when an older one can be read."""
    if (folder / FINISHED).is_file():
        return read(folder / FINISHED)
    damaged: CheckpointError | None = None
    for path in sorted(folder.glob("step-*.pt"), reverse=True):
        try:
            return read(path)
        except CheckpointError as error:
            logger.warning("%s", error)
            damaged = damaged or error
    if damaged:
        raise damaged
    return None


def prune(folder: Path, keep: int) -> None:
    """Delete all but the ``keep`` newest step files, and what killed writes left behind."""
    steps = sorted(folder.glob("step-*.pt"))
    for path in [*steps[: max(len(steps) - keep, 0)], *folder.glob(".*.pt.*.tmp")]:
        path.unlink(missing_ok=True)


# --- random states


def rng_state(device: torch.device) -> dict[str, Any]:
    """The states of the python, numpy, torch and (on a GPU) CUDA generators, as tensors and plain tuples."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002 - a chapter may draw from it
    state = {
        "python": random.getstate(),
        "numpy": (str(kind), torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_rng_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Put back what :func:`rng_state` gave."""
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


@contextmanager
def forked_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Seed all generators with ``seed`` inside the block; afterwards they are as they were before it."""
    before = rng_state(device)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)
    try:
        yield
    finally:
        set_rng_state(before, device)


# --- weights and fingerprint


def weights(model: nn.Module) -> dict[str, Any]:
    """What training may change: trainable parameters and persistent buffers by name. Frozen weights are not copied
    into checkpoints (a LoRA checkpoint stays small); the fingerprint makes sure that they are the same."""
    frozen = {id(p) for p in model.parameters() if not p.requires_grad}
    kept = {name: v for name, v in model.state_dict(keep_vars=True).items() if id(v) not in frozen}
    return {name: v.detach() if isinstance(v, Tensor) else v for name, v in kept.items()}


def load_weights(model: nn.Module, saved: Mapping[str, Any]) -> None:
    """Put back what :func:`weights` gave."""
    with torch.no_grad():
        model.load_state_dict(dict(saved), strict=False)


def fingerprint(options: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """What must be equal between the fit that wrote a checkpoint and the one that reads it: every option that moves
    numbers, the names, shapes and types of all parameters, and a digest of the frozen ones."""
    digest = hashlib.sha256()
    for p in model.parameters():
        if not p.requires_grad:
            flat = p.detach().flatten()
            digest.update(flat[:: max(1, flat.numel() // SAMPLE)].cpu().float().numpy().tobytes())
    return {
        "options": {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()},
        "parameters": {name: _describe(p) for name, p in model.named_parameters()},
        "frozen weights": digest.hexdigest()[:16],
    }


def _describe(p: Tensor) -> str:
    dtype = str(p.dtype).removeprefix("torch.")
    return f"{dtype}{list(p.shape)}{'' if p.requires_grad else ' frozen'}"


def check_fingerprint(saved: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Raise :class:`CheckpointError` naming what differs between the checkpoint's fingerprint and this fit's."""
    differences = _differences("", saved["options"], now["options"])
    differences += _differences("parameter ", saved["parameters"], now["parameters"])
    if not differences and saved["frozen weights"] != now["frozen weights"]:
        differences = ["the frozen weights have other values"]
    if differences:
        more = f" and {len(differences) - 6} more" if len(differences) > 6 else ""
        raise CheckpointError(
            f"the checkpoint in {folder} was written by a fit with other settings: {'; '.join(differences[:6])}{more}. "
            "Restore them, give this fit another name, or delete that folder to train again."
        )


def _differences(prefix: str, saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    names = [*saved, *(name for name in now if name not in saved)]
    return [
        f"{prefix}{name} was {saved.get(name, 'absent')}, is {now.get(name, 'absent')}"
        for name in names
        if saved.get(name, "absent") != now.get(name, "absent")
    ]
