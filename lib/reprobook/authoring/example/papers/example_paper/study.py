"""The experiments of the chapter, as typed functions that tests call too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from reprobook.errors import ReprobookError
from reprobook.train import shuffled

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

Points = tuple[Tensor, Tensor]  # x and y, each (n,)


def points(n: int, seed: int, noise: float = 0.1) -> Points:
    """n points of y = x^3 - x / 2 + noise, x uniform in [-1, 1]; the same for the same seed."""
    if n < 2:
        raise ReprobookError(f"n is {n}; it must be 2 or more")
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.rand(n, generator=generator) - 1
    return x, x**3 - x / 2 + noise * torch.randn(n, generator=generator)


def batches(train: Points, batch_size: int, seed: int, device: torch.device | str = "cpu") -> Callable[[int], Points]:
    """Number of an update -> its batch, x and y (batch_size,), in the training loop's order of epochs."""
    order = shuffled(len(train[0]), batch_size, seed=seed)

    def batch(step: int) -> Points:
        x, y = (part[order(step)].to(device) for part in train)
        return x, y

    return batch


@torch.no_grad()
def errors(models: Mapping[str, nn.Module], train: Points, test: Points) -> dict[str, np.ndarray]:
    """Squared error (n,) on each test point: of the models, and of the mean of the training points (the blind row)."""
    x, y = test
    found = {"blind: training mean": (train[1].mean() - y).square().numpy()}
    for name, model in models.items():
        device = next(model.parameters()).device
        found[name] = (model(x.to(device)).cpu() - y).square().numpy()
    return found


def summary(errors: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """One row a model: its mean squared error."""
    return pd.DataFrame([{"model": name, "error": float(error.mean())} for name, error in errors.items()])


def recomputed(table: pd.DataFrame) -> pd.DataFrame:
    """What follows from the paper's Table 1 (columns model, error), beside what its text says."""
    error = table.set_index("model")["error"]
    return pd.DataFrame([{
        "quantity": "error of the baseline over that of the method", "paper's text": "2 times",
        "from Table 1": error["baseline"] / error["method"],
    }])  # fmt: skip
