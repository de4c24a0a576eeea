r"""The temporal pyramid: stages, stage-wise diffusion, data-noise alignment, renoising (Sections 3.2 to 3.4, A.1).

Videos are (B, T, ...): frames on the second axis. Stage k = K (first in sampling, lowest frame rate) .. 1 (last, full
rate) has T / 2^(k-1) frames. With D = Down(x_0, 2^(k-1)) and S = Up(Down(x_0, 2^k), 2), a stage leads from its noisy
start g_s S + s_s eps to its cleaner end g_e D + s_e eps with one and the same eps.

The printed Eq. 7-8 count stages from 0; here and in the text they count from 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.papers.tpdiff.schedule import Path

DownMode = Literal["subsample", "average"]
Renoising = Literal["correct", "printed", "white", "none"]


def down(x: Tensor, factor: int, mode: DownMode = "subsample") -> Tensor:
    """``factor`` times fewer frames: every factor-th, or means of ``factor`` neighbours. The paper names neither."""
    if factor < 1 or x.shape[1] % factor:
        raise ReprobookError(f"{x.shape[1]} frames cannot be reduced by {factor}: the factor must divide them")
    if mode == "subsample":
        return x[:, ::factor]
    if mode == "average":
        return x.unflatten(1, (-1, factor)).mean(2)
    raise ReprobookError(f"down mode must be 'subsample' or 'average', got {mode!r}")


def up(x: Tensor) -> Tensor:
    """Twice the frames: each one is repeated."""
    return x.repeat_interleave(2, dim=1)


@dataclass(frozen=True)
class Stage:
    """Stage ``k``: frame rate 1 / ``stride``, times ``start`` > ``end``, and (g, s) at both."""

    k: int
    n_stages: int
    start: float
    end: float
    g_s: float
    s_s: float
    g_e: float
    s_e: float

    @property
    def stride(self) -> int:
        """Every how many frames one is kept."""
        return 2 ** (self.k - 1)

    @property
    def spread(self) -> float:
        """s_s g_e - s_e g_s = g_s g_e (nsr_s - nsr_e): stays finite where g_s is 0."""
        return self.s_s * self.g_e - self.s_e * self.g_s

    def frames(self, n_frames: int) -> int:
        """Frames of this stage for a video of ``n_frames``."""
        return n_frames // self.stride


def check_frames(n_frames: int, n_stages: int) -> None:
    """Raise :class:`ReprobookError` unless ``n_frames`` halves n_stages - 1 times."""
    if n_stages < 1:
        raise ReprobookError(f"the number of stages must be at least 1, got {n_stages}")
    unit = 2 ** (n_stages - 1)
    if n_frames < unit or n_frames % unit:
        hint = " (a causal VAE gives 1 + 4n frames: keep the first one apart)" if n_frames % 4 == 1 else ""
        raise ReprobookError(f"{n_frames} frames do not halve {n_stages - 1} times: use a multiple of {unit}{hint}")


def stages(path: Path, n_stages: int, ends: list[float] | None = None) -> list[Stage]:
    """Stages in the order of sampling, k = K .. 1. ``ends``: their ends in time, falling to 0; default uniform.

    A stage starts noisier than the one before it ended: the renoising that doubles the frames adds noise, so
    nsr_start = sqrt(2) nsr_end (A.1). Times of neighbouring stages therefore overlap.
    """
    if n_stages < 1:
        raise ReprobookError(f"the number of stages must be at least 1, got {n_stages}")
    ends = [1 - (i + 1) / n_stages for i in range(n_stages)] if ends is None else list(ends)
    if len(ends) != n_stages or ends[-1] != 0 or any(b >= a for a, b in zip([1.0, *ends], ends, strict=False)):
        raise ReprobookError(f"ends must be {n_stages} times that fall from below 1 to 0, got {ends}")
    found, start = [], 1.0
    for i, end in enumerate(ends):
        (g_s, g_e), (s_s, s_e) = (
            each.tolist() for each in path.signal_noise(torch.tensor([start, end], dtype=torch.float64))
        )
        found.append(Stage(n_stages - i, n_stages, start, end, g_s, s_s, g_e, s_e))
        if end > 0:
            start = path.time_of(math.sqrt(2) * s_e / g_e)
    return found


def stage_ends(x0: Tensor, stage: Stage, mode: DownMode = "subsample") -> tuple[Tensor, Tensor]:
    """(D, S) of a stage, each (B, T / stride, ...): what it leads to and what it starts from.

    The lowest stage starts from (nearly) pure noise; where its frames cannot be halved again, S = D.
    """
    check_frames(x0.shape[1], stage.n_stages)
    data = down(x0, stage.stride, mode)
    if stage.k == stage.n_stages and (stage.g_s == 0 or stage.n_stages == 1 or data.shape[1] % 2):
        return data, data
    return data, up(down(data, 2, mode))


def diffuse(data: Tensor, source: Tensor, eps: Tensor, t: Tensor, stage: Stage, path: Path) -> tuple[Tensor, Tensor]:
    r"""(x_t, target) at times ``t`` (B,) inside ``stage`` from D, S and the noise, each (B, T_k, ...).

    $x_t = g_t S + w_t (D - S) + s_t\epsilon$ with $w_t = g_e (s_s g_t - s_t g_s) / (s_s g_e - s_e g_s)$: Eq. 10 with
    Eq. 11 put in, without its division by g_s, which is 0 in the first stage of flow matching. Target: the stage's
    constant noise $\epsilon_k$ (Eq. 11) for DDIM; the velocity $x_s - x_e$ (Eq. 13) for flow matching.
    """
    g, s = (each.view(-1, *[1] * (data.ndim - 1)) for each in path.signal_noise(t.to(data.dtype)))
    weight = stage.g_e * (stage.s_s * g - s * stage.g_s) / stage.spread
    x_t = g * source + weight * (data - source) + s * eps
    if path.kind == "flow":
        target = stage.g_s * source - stage.g_e * data + (stage.s_s - stage.s_e) * eps
    else:
        target = eps - (stage.g_s * stage.g_e / stage.spread) * (data - source)
    return x_t, target


def draw_times(n: int, stage: Stage, generator: torch.Generator | None = None) -> Tensor:
    """``n`` times (n,), uniform between the end and the start of a stage."""
    return stage.end + (stage.start - stage.end) * torch.rand(n, generator=generator)


def align_noise(data: Tensor, eps: Tensor) -> Tensor:
    """``eps`` permuted over the batch so that the sum of squared distances to ``data`` is least (Algorithm 1).

    Whole videos are matched, at the stage's shape, by scipy's assignment solver. A batch of one is left as it is.
    """
    from scipy.optimize import linear_sum_assignment

    if data.shape != eps.shape:
        raise ReprobookError(f"data has shape {list(data.shape)}, the noise {list(eps.shape)}: align at one shape")
    if len(data) == 1:
        return eps
    # ||x||^2 and ||e||^2 add the same to every assignment, so that the inner products decide
    with torch.autocast(data.device.type, enabled=False):  # TypeError in numpy, and ties, in half precision
        cost = -(data.flatten(1).float() @ eps.flatten(1).float().T)
    _, columns = linear_sum_assignment(cost.cpu().numpy())
    return eps[torch.as_tensor(columns, device=eps.device)]


def junction(before: Stage, after: Stage) -> tuple[float, float]:
    """(ratio, alpha) of a renoising: x_start = ratio Up(x_end) + alpha n', with n' = (z, -z) on each pair of frames.

    ratio = g_s / g_e matches the means, alpha = s_s / sqrt(2) the covariance, given nsr_s = sqrt(2) nsr_e.
    """
    return after.g_s / before.g_e, after.s_s / math.sqrt(2)


def printed_factor(after: Stage) -> float:
    """The factor before Up(x_end) as Eq. 15 and 23 print it. For flow matching this is g_e itself, not g_s / g_e."""
    return math.sqrt(2) * after.g_s / (after.s_s + math.sqrt(2) * after.g_s)


def renoise(
    x: Tensor, before: Stage, after: Stage, rule: Renoising = "correct", generator: torch.Generator | None = None
) -> Tensor:
    """Start of stage ``after`` (B, 2 T_k, ...) from the end ``x`` (B, T_k, ...) of stage ``before`` (A.1).

    rule: ``correct``; ``printed``: the factor that Eq. 15 and 23 print (:func:`printed_factor`); ``white``:
    independent noise of the same variance; ``none``: the ratio alone.
    """
    ratio, alpha = junction(before, after)
    if rule not in ("correct", "printed", "white", "none"):
        raise ReprobookError(f"renoising must be 'correct', 'printed', 'white' or 'none', got {rule!r}")
    doubled = (printed_factor(after) if rule == "printed" else ratio) * up(x)
    if rule == "none":
        return doubled
    if rule == "white":
        return doubled + alpha * torch.randn(doubled.shape, generator=generator, device=x.device, dtype=x.dtype)
    z = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return doubled + alpha * torch.stack([z, -z], 2).flatten(1, 2)
