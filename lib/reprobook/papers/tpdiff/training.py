"""Training of a video network through the pyramid (Algorithm 1), and the predictions its sampler asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import torch

from reprobook.errors import ReprobookError
from reprobook.papers.tpdiff import pyramid

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reprobook.papers.tpdiff.network import StageNetwork
    from reprobook.papers.tpdiff.pyramid import DownMode, Stage
    from reprobook.papers.tpdiff.sampling import Predict
    from reprobook.papers.tpdiff.schedule import Path


def stage_of_step(n_stages: int, seed: int = 0) -> Callable[[int], int]:
    """Index (0 .. K - 1, in the order of sampling) of the stage that update ``i`` trains: a pure function of i.

    Every K updates train each stage once, in random order: uniform as in the paper, but balanced.
    """

    def chosen(i: int) -> int:
        cycle, place = divmod(i, n_stages)
        generator = torch.Generator().manual_seed((seed * 1_000_003 + cycle) % 2**63)
        return int(torch.randperm(n_stages, generator=generator)[place])

    return chosen


def pyramid_loss(
    stages: Sequence[Stage],
    path: Path,
    *,
    align: bool = True,
    mode: DownMode = "subsample",
    drop_prompt: float = 0.0,
    diffuse: Callable[..., tuple[Tensor, Tensor]] = pyramid.diffuse,
) -> Callable[[nn.Module, tuple[Tensor, Tensor, int]], Tensor]:
    """Loss of a batch (videos (B, T, C, H, W), prompts, index of the stage): mean squared error of the target.

    The noise is drawn and aligned at the stage's shape, before both ends of the stage are built from it. Noise comes
    from the global torch generator. drop_prompt: share of prompts left empty, for guidance.
    """
    if not 0 <= drop_prompt < 1:
        raise ReprobookError(f"drop_prompt must be in [0, 1), got {drop_prompt}")

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor, int]) -> Tensor:
        videos, prompts, index = batch
        stage = stages[int(index)]
        data, source = pyramid.stage_ends(videos, stage, mode)
        eps = torch.randn_like(data)
        if align:
            eps = pyramid.align_noise(data, eps)
        t = pyramid.draw_times(len(data), stage).to(data)
        x_t, target = diffuse(data, source, eps, t, stage, path)
        if drop_prompt:
            empty = (torch.rand(len(data)) < drop_prompt).to(data.device)
            inner = getattr(model, "module", model)  # a launcher of several processes wraps the network
            prompts = torch.where(empty.view(-1, *[1] * (prompts.ndim - 1)), inner.empty(prompts), prompts)
        return (model(x_t, t, stage, prompts) - target).square().mean()

    return loss


def predictor(model: StageNetwork, prompts: Tensor, guidance: float = 1.0) -> Predict:
    """What :func:`sampling.sample` calls: the network's prediction for ``prompts``, one per video.

    guidance w: empty + w (prompt - empty), two passes in one batch; 1 needs no second pass.
    """

    def predict(x: Tensor, t: float, stage: Stage) -> Tensor:
        times = torch.full((len(x),), t, dtype=x.dtype, device=x.device)
        if guidance == 1.0:
            return model(x, times, stage, prompts)
        both = torch.cat([model.empty(prompts), prompts])
        empty, given = model(x.repeat(2, 1, 1, 1, 1), times.repeat(2), stage, both).chunk(2)
        return empty + guidance * (given - empty)

    return predict


def keep_weights(folder: FilePath) -> Callable[[nn.Module, int], dict[str, float]]:
    """An ``evaluate`` hook for ``ch.fit``: writes the (averaged) weights of each evaluation as
    ``step-<n>.safetensors``, so that a curve over training can be measured afterwards, from a resumed run, too."""
    from safetensors.torch import save

    from reprobook.project import atomic_write

    def evaluate(model: nn.Module, step: int) -> dict[str, float]:
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / f"step-{step:06d}.safetensors", save(model.state_dict()))
        return {}

    return evaluate


def kept_weights(folder: FilePath) -> dict[int, dict[str, Any]]:
    """Step -> weights of what :func:`keep_weights` wrote, in order."""
    from safetensors.torch import load_file

    found = sorted(folder.glob("step-*.safetensors"))
    if not found:
        raise ReprobookError(f"no weights were kept in {folder.name}: give its fit the hook of keep_weights")
    return {int(path.stem.removeprefix("step-")): load_file(path) for path in found}
