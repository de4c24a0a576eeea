"""A small scene in three dimensions with a differentiable renderer: density and ink on a grid, seen from all around.

It stands in for the paper's radiance fields: several views, each with its own prompt, weights shared by the views of a
scene, a candidate's reward being the mean over views (Section 3.3). One scene, pictures, no verdict.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from reprobook.errors import ReprobookError
from reprobook.papers.reward_sds.digits import SIDE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class Scene(nn.Module):
    """Ink in a cube: a grid of ``size``^3 densities, trilinear between its points, nothing outside.

    A view is orthographic from an angle around the vertical axis. A ray through n samples of density d >= 0, a step
    apart, meets ink with probability 1 - exp(-sum d step), the ink of its pixel."""

    def __init__(self, size: int = SIDE, n_samples: int = 28, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.n_samples = n_samples
        self.grid = nn.Parameter(0.1 * torch.randn(1, 1, size, size, size, generator=generator) - 3)

    def rays(self, angles: Tensor) -> Tensor:
        """Sample points (V, n_samples, 28, 28, 3), as (x, y, z), of the views at ``angles`` (V,) in radians."""
        across, depth = torch.linspace(-1, 1, SIDE), torch.linspace(-1.4, 1.4, self.n_samples)
        z, y, x = torch.meshgrid(depth, across, across, indexing="ij")
        cos, sin = angles.cos().view(-1, 1, 1, 1), angles.sin().view(-1, 1, 1, 1)
        return torch.stack([cos * x + sin * z, y.expand(len(angles), -1, -1, -1), cos * z - sin * x], -1)

    def forward(self, angles: Tensor) -> Tensor:
        """Pictures (V, 784) in [-1, 1] of the scene from ``angles`` (V,) in radians."""
        density = nn.functional.softplus(self.grid).expand(len(angles), -1, -1, -1, -1)
        met = nn.functional.grid_sample(density, self.rays(angles).to(density), align_corners=True)
        depth = met.sum(2).flatten(1) * (2.8 / self.n_samples)
        return 1 - 2 * torch.exp(-4 * depth)


def turn(scene: Scene, n_frames: int = 24) -> Tensor:
    """Pictures (n_frames, 784) of the scene over one full turn."""
    if n_frames < 1:
        raise ReprobookError(f"n_frames is {n_frames}; it must be at least 1")
    with torch.no_grad():
        return scene(torch.arange(n_frames) * (2 * math.pi / n_frames))


def view_angles(degrees: Sequence[float]) -> Tensor:
    """Angles of the views in radians."""
    return torch.deg2rad(torch.tensor(degrees, dtype=torch.float32))
