"""What the pyramid saves, measured in one run: a training step, sampling in 30 steps, attention alone (C1, C2, C7).

TPDiff and the vanilla method use the same network and batch; K = 1 is the vanilla method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from reprobook.bench import compare
from reprobook.errors import ReprobookError
from reprobook.nn.needs import traced
from reprobook.papers.tpdiff import pyramid, sampling
from reprobook.papers.tpdiff.network import small_wan
from reprobook.papers.tpdiff.schedule import FlowMatching
from reprobook.papers.tpdiff.training import predictor, pyramid_loss

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.bench import Comparison
    from reprobook.papers.tpdiff.network import StageNetwork
    from reprobook.papers.tpdiff.pyramid import Stage
    from reprobook.papers.tpdiff.schedule import Path


def training_seconds(
    model: StageNetwork, videos: Tensor, prompts: Tensor, path: Path, n_stages: int = 3, repeats: int = 5
) -> dict[str, float]:
    """Seconds of forward and backward: "vanilla", and each stage of TPDiff by its stride ("stride 4", ...).

    A training step of TPDiff costs the mean over its stages. Asserts that the pyramid with one stage has the loss of
    the vanilla method, written down independently, to 1e-5.
    """
    (vanilla,), stages = pyramid.stages(path, 1), pyramid.stages(path, n_stages)
    loss = pyramid_loss([vanilla, *stages], path, align=False)

    def step(index: int) -> Tensor:
        torch.manual_seed(0)
        model.zero_grad(set_to_none=True)
        value = loss(model, (videos, prompts, index))
        value.backward()
        return value.detach()

    torch.manual_seed(0)
    eps, t = torch.randn_like(videos), torch.rand(len(videos)).to(videos)
    g, s = (each.view(-1, 1, 1, 1, 1) for each in path.signal_noise(t))
    target = eps - videos if path.kind == "flow" else eps
    with torch.no_grad():
        plain = (model(g * videos + s * eps, t, vanilla, prompts) - target).square().mean()
    if (gap := float((step(0) - plain).abs())) > 1e-5:
        raise ReprobookError(f"one stage is not the vanilla method: losses differ by {gap:.2e}")
    runs = {"vanilla": lambda: step(0)}
    runs |= {f"stride {stage.stride}": lambda i=i: step(i) for i, stage in enumerate(stages, 1)}
    taken = compare(runs, equal=None, n=repeats, device=videos.device)
    model.zero_grad(set_to_none=True)
    return taken.medians


def compare_sampling(
    model: StageNetwork, shape: Sequence[int], prompts: Tensor, path: Path, n_steps: int = 30, repeats: int = 3
) -> Comparison:
    """``n_steps`` network calls, "vanilla" and "TPDiff" with three equal stages; both give finite clips."""

    def run(n_stages: int) -> Tensor:
        stages, steps = pyramid.stages(path, n_stages), sampling.split_steps(n_steps, n_stages)
        generator = torch.Generator(device=prompts.device).manual_seed(0)
        return sampling.sample(
            predictor(model, prompts), stages, path, shape, steps, generator=generator, device=prompts.device
        )

    return compare(
        {"vanilla": lambda: run(1), "TPDiff": lambda: run(3)}, n=repeats, what=f"{n_steps}-step sampling",
        equal=lambda _, clips: clips.shape == tuple(shape) and bool(clips.isfinite().all()), device=prompts.device,
    )  # fmt: skip


def sampling_seconds(
    model: StageNetwork, shape: Sequence[int], prompts: Tensor, path: Path, n_steps: int = 30, repeats: int = 3
) -> dict[str, float]:
    """Median seconds of :func:`compare_sampling`."""
    return compare_sampling(model, shape, prompts, path, n_steps, repeats).medians


def headline() -> Comparison:
    """30-step sampling of 4 clips of 16 frames, vanilla over TPDiff with three stages: the same network and calls."""
    torch.manual_seed(0)
    model = small_wan(n_labels=14, dim=96)
    torch.nn.init.normal_(model.net.proj_out.weight, std=0.02)
    return compare_sampling(model, (4, 16, 1, 16, 16), torch.randint(14, (4, 2)), FlowMatching())


def predicted_speedups(model: StageNetwork, shape: Sequence[int], prompts: Tensor, path: Path) -> dict[str, float]:
    """Operations of the full frame rate over the mean of three stages, of all and of attention, counted by torch."""
    import copy

    meta = copy.deepcopy(model).to("meta")

    @torch.no_grad()
    def count(stage: Stage) -> tuple[int, int]:
        x = torch.empty(shape[0], stage.frames(shape[1]), *shape[2:], device="meta")
        times = torch.empty(shape[0], device="meta")
        found = traced(lambda: meta(x, times, stage, prompts.to("meta")))
        return found.flops, found.attention

    full = count(pyramid.stages(path, 1)[0])
    means = [sum(each) / 3 for each in zip(*map(count, pyramid.stages(path, 3)), strict=True)]
    return {"all operations": full[0] / means[0], "attention": full[1] / means[1]}


def attention_share(n_tokens: int = 4096, width: int = 64, heads: int = 2, repeats: int = 3) -> float:
    """Measured seconds of full attention at T/4, T/2 and T frames, their mean over that at T (C7; formula 0.4375)."""
    q = torch.randn(1, heads, n_tokens, width // heads)

    def attend(n: int) -> Tensor:
        part = q[:, :, :n]
        return F.scaled_dot_product_attention(part, part, part)

    with torch.no_grad():
        ways = {str(f): lambda f=f: attend(n_tokens // f) for f in (4, 2, 1)}
        found = compare(ways, equal=None, n=repeats).medians
    return sum(found.values()) / 3 / found["1"]


def peak_memory_mb(model: StageNetwork, videos: Tensor, prompts: Tensor, path: Path) -> dict[str, float]:
    """Megabytes that autograd keeps for the backward pass, "vanilla" and the mean over TPDiff's stages."""
    loss = pyramid_loss([*pyramid.stages(path, 1), *pyramid.stages(path, 3)], path, align=False)

    def kept(index: int) -> float:
        return traced(lambda: loss(model, (videos, prompts, index)), model.parameters()).kept / 1e6

    return {"vanilla": kept(0), "TPDiff, largest stage": kept(3), "TPDiff, mean": sum(map(kept, (1, 2, 3))) / 3}
