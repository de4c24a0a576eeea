"""A small training run for tests that kill it: run by test_train.py in processes of their own, and by launchers."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from reprobook.errors import ReprobookError
from reprobook.train import fit, shuffled
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

NUM_STEPS = 30
X = torch.linspace(-2, 2, 64 * 4).sin().reshape(64, 4)

CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {"accumulation": 2, "schedule": "cosine", "warmup_steps": 4},
    "ema": {"ema_decay": 0.9, "precision": "bf16", "schedule": "linear", "weight_decay": 0.1, "muon_lr": 0.02},
}


class Net(nn.Module):
    """Dropout draws from the torch generator; the batch norm has buffers; the first layer is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.body = nn.Sequential(nn.Linear(4, 32), nn.BatchNorm1d(32), nn.Dropout(0.2), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.frozen(x))


def make_model() -> Net:
    torch.manual_seed(11)
    return Net()


def noisy_loss(model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    out = model(x + 0.1 * torch.randn_like(x))
    return ((out - x) ** 2).mean(), {"spread": out.std()}


def evaluate(model: nn.Module, step: int) -> dict[str, float]:
    assert not model.training
    return {"error": ((model(X + 0.1 * torch.randn(64, 4)) - X) ** 2).mean().item()}


def run(
    folder: Path,
    config: str,
    *,
    kill_at: int | None = None,
    before: Callable[[int], None] = lambda i: None,
    **options: Any,
) -> dict[str, Any]:
    """Train in ``folder``; with ``kill_at`` this process kills itself when that micro-step asks for its batch."""
    torch.set_num_threads(1)
    order = shuffled(64, 16, seed=5)

    def batches(i: int) -> Tensor:
        if i == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        before(i)
        return X[order(i)]

    model = make_model()
    defaults = {
        "num_steps": NUM_STEPS,
        "lr": 0.01,
        "seed": 3,
        "evaluate": evaluate,
        "evaluate_every": 7,
        "log_every": 4,
    }
    options = defaults | {"precision": "fp32", "checkpoint_every": 3} | CONFIGS[config] | options
    history = fit(model, batches, noisy_loss, folder=folder, **options)
    return {
        "model": model.state_dict(),
        "rows": history.rows,
        "evals": history.eval_rows,
        "resumed_from": history.resumed_from,
    }


def child(folder: Path, config: str, fault: str = "", **options: Any) -> None:
    """Entry of a child process: ``run``, with a fault at the border to the operating system, then store the outcome."""
    install_fault(fault)
    try:
        found = run(folder, config, **options)
    except ReprobookError as error:
        folder.with_name(f"{folder.name}.error").write_text(f"{type(error).__name__}: {error}")
        sys.exit(1)
    torch.save(found, folder.parent / f"{folder.name}.outcome")


def slow_child(folder: Path, config: str, *, pause_at: int, pause_s: float = 1.5, **options: Any) -> None:
    """``child`` that says ``<folder>.paused`` and sleeps when micro-step ``pause_at`` asks for its batch."""

    def before(i: int) -> None:
        if i == pause_at:
            folder.with_name(f"{folder.name}.paused").touch()
            time.sleep(pause_s)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is born ignoring it
    run(folder, config, before=before, **options)


def install_fault(fault: str) -> None:
    """``replace-before:2`` dies before the second rename of this process, ``replace-after:2`` right after it;
    ``fsync:2`` before the second fsync; ``bytes:2000`` when a file grows over 2000 bytes; ``full:2000`` fails there."""
    kind, _, text = fault.partition(":")
    if kind in ("bytes", "full"):
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if kind == "bytes" else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(text), resource.RLIM_INFINITY))
    elif kind:
        name = "fsync" if kind == "fsync" else "replace"
        real, calls = getattr(os, name), []

        def faulty(*args: Any) -> None:
            calls.append(args)
            if len(calls) == int(text) and kind != "replace-after":
                os.kill(os.getpid(), signal.SIGKILL)
            real(*args)
            if len(calls) == int(text):
                os.kill(os.getpid(), signal.SIGKILL)

        setattr(os, name, faulty)


def linear_model(folder: Path, accumulation: int) -> None:
    """A run without noise, to compare one process with several; rank 0 stores the outcome."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 4))
    order = shuffled(64, 8, seed=2)
    for part in ("first", "second"):  # twice: the second fit finds the state that the first left in the process
        history = fit(
            model,
            lambda i: X[order(i)],
            lambda m, x: ((m(x) - x) ** 2).mean(),
            num_steps=12,
            lr=0.02,
            folder=folder / part,
            accumulation=accumulation,
            ema_decay=0.8,
            log_every=3,
            precision="fp32",
            checkpoint_every=5,
        )
    if int(os.environ.get("RANK", "0")) == 0:
        outcome = {"model": model.state_dict(), "rows": history.rows, "processes": PartialState().num_processes}
        torch.save(outcome, folder / "outcome")


def in_group(rank: int, size: int, port: int, folder: Path, config: str, kill_at: int | None = None) -> None:
    """One of ``size`` gloo processes that train together; each stores its own outcome."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.save(run(folder, config, kill_at=kill_at), folder.parent / f"{folder.name}.rank{rank}")


if __name__ == "__main__":
    linear_model(Path(sys.argv[1]), int(sys.argv[2]))
