"""The control of claim C6: every stage treated as a complete DDIM process between its own two ends.

The paper says in one sentence (Section 3.4) that this does not converge, and gives no formula. Our reading: what flow
matching does with a straight line is done with the whole VP schedule, the stage's end in the place of the data and its
start in the place of the noise: x = g(t') x_e + s(t') x_s for t' from 1 to 0, the network predicts x_s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.papers.tpdiff.pyramid import Stage
    from reprobook.papers.tpdiff.schedule import Path


def diffuse(data: Tensor, source: Tensor, eps: Tensor, t: Tensor, stage: Stage, path: Path) -> tuple[Tensor, Tensor]:
    """(x, target) in place of :func:`pyramid.diffuse`: same arguments and shapes."""
    inside = (t.to(data.dtype) - stage.end) / (stage.start - stage.end)
    g, s = (each.view(-1, *[1] * (data.ndim - 1)) for each in path.signal_noise(inside))
    start, end = stage.g_s * source + stage.s_s * eps, stage.g_e * data + stage.s_e * eps
    return g * end + s * start, start


def step(x: Tensor, prediction: Tensor, t: float, t_next: float, stage: Stage, path: Path) -> Tensor:
    """A DDIM step of the whole schedule, in place of :func:`sampling.step`."""
    times = torch.tensor([t, t_next], dtype=torch.float64)
    (g, g_next), (s, s_next) = (
        each.tolist() for each in path.signal_noise((times - stage.end) / (stage.start - stage.end))
    )
    return g_next / g * x + (s_next - g_next / g * s) * prediction
