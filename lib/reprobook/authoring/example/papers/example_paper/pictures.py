"""The figures of the chapter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import torch

from reprobook.authoring.example.papers.example_paper import method

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import nn

    from reprobook.authoring.example.papers.example_paper.study import Points

SIZE = (5.0, 3.2)  # inches


def features(degree: int = 3) -> Figure:
    """The powers of x that the model adds up."""
    x = torch.linspace(-1, 1, 101)
    fig, ax = plt.subplots(figsize=SIZE)
    for k, column in enumerate(method.features(x, degree).T):
        ax.plot(x, column, label=f"k = {k}")
    ax.set(xlabel="x", ylabel="feature", title="powers of x")
    ax.legend()
    return fig


@torch.no_grad()
def fits(models: Mapping[str, nn.Module], data: Points) -> Figure:
    """The points and the curve of each model."""
    x = torch.linspace(-1, 1, 101)
    fig, ax = plt.subplots(figsize=SIZE)
    ax.scatter(*data, s=9, color="0.6", label="points")
    for name, model in models.items():
        ax.plot(x, model(x.to(next(model.parameters()).device)).cpu(), label=name)
    ax.set(xlabel="x", ylabel="y", title="fitted curves")
    ax.legend()
    return fig


def errors(rows: pd.DataFrame) -> Figure:
    """The test error of each model, a point a seed. rows: columns model, error, seed."""
    fig, ax = plt.subplots(figsize=SIZE)
    ax.plot(rows["error"], rows["model"], "o", alpha=0.7)
    ax.set(xlabel="squared error", ylabel="", title="test error")
    ax.set_xlim(left=0)
    return fig
