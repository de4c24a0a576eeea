"""What test_launch.py launches in several processes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from reprobook.train import fit, shuffled
from reprobook.train.launch import accumulation
from reprobook.train.shards import whole
from torch import nn

X = torch.linspace(-2, 2, 64 * 4).sin().reshape(64, 4)


def train(
    folder: Path, *, micro_batch: int, num_steps: int = 12, pause_s: float = 0.0, **options: Any
) -> dict[str, Any]:
    """Train with a global batch of 16 rows, whatever the number of processes; some weights are frozen."""
    size = int(os.environ["WORLD_SIZE"]) if "WORLD_SIZE" in os.environ else 1
    torch.set_num_threads(1)
    torch.manual_seed(1)
    order = shuffled(64, micro_batch, seed=2)

    def batches(i: int) -> torch.Tensor:
        time.sleep(pause_s)
        (folder / f"step.{os.environ.get('RANK', '0')}").write_text(str(i))
        return X[order(i)]

    model = nn.Sequential(nn.Linear(4, 15), nn.Tanh(), nn.Linear(15, 15), nn.Linear(15, 4))  # 15: shards are uneven
    model[2].requires_grad_(False)
    evaluated = []

    def evaluate(m: nn.Module, step: int) -> dict[str, float]:
        evaluated.append(float(((m(X) - X) ** 2).mean()))
        return {"error": evaluated[-1]}

    history = fit(
        model, batches, lambda m, x: ((m(x) - x) ** 2).mean(), num_steps=num_steps, lr=0.02, folder=folder / "fit",
        accumulation=accumulation(16, micro_batch, size), log_every=1, precision="fp32", checkpoint_s=None,
        evaluate=evaluate, ema_decay=0.5, **options,
    )  # fmt: skip
    weight = whole(model[0].weight.detach())
    held = sum(getattr(p, "to_local", lambda p=p: p)().numel() for p in model.parameters())
    return {"loss": [row["loss"] for row in history.rows], "norm": [row["grad_norm"] for row in history.rows],
            "processes": size, "resumed_from": history.resumed_from, "weight": weight.tolist(), "held": held,
            "error": history.eval_rows[-1]["error"]}  # fmt: skip
