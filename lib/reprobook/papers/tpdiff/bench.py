"""What the pyramid saves, measured in one run: a training step, sampling in 30 steps, attention alone (C1, C2, C7).

TPDiff and the vanilla method use the same network and batch; K = 1 is the vanilla method. ``python -m
reprobook.papers.tpdiff.bench`` prints measured ratios beside counted operations, and the peak of memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from reprobook.errors import ReprobookError
from reprobook.papers.tpdiff import pyramid, sampling
from reprobook.papers.tpdiff.costs import counted_flops
from reprobook.papers.tpdiff.network import small_wan
from reprobook.papers.tpdiff.schedule import FlowMatching
from reprobook.papers.tpdiff.training import predictor, pyramid_loss

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.papers.tpdiff.network import StageNetwork
    from reprobook.papers.tpdiff.pyramid import Stage
    from reprobook.papers.tpdiff.schedule import Path


def seconds(runs: dict[str, Callable[[], object]], device: torch.device, repeats: int) -> dict[str, float]:
    """Median seconds of each run; the runs take turns, so that a change of the machine's speed meets all of them."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:  # the first turn warms up
                taken[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in taken.items()}


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
    found = seconds(runs, videos.device, repeats)
    model.zero_grad(set_to_none=True)
    return found


def sampling_seconds(
    model: StageNetwork, shape: Sequence[int], prompts: Tensor, path: Path, n_steps: int = 30, repeats: int = 3
) -> dict[str, float]:
    """Seconds of ``n_steps`` network calls, "vanilla" and "TPDiff" with three equal stages; both give ``shape``."""

    def run(n_stages: int) -> Tensor:
        stages, steps = pyramid.stages(path, n_stages), sampling.split_steps(n_steps, n_stages)
        generator = torch.Generator(device=prompts.device).manual_seed(0)
        found = sampling.sample(
            predictor(model, prompts), stages, path, shape, steps, generator=generator, device=prompts.device
        )
        if found.shape != tuple(shape) or not found.isfinite().all():
            raise ReprobookError(f"{n_stages} stages gave clips {list(found.shape)}; expected {list(shape)}, finite")
        return found

    return seconds({"vanilla": lambda: run(1), "TPDiff": lambda: run(3)}, prompts.device, repeats)


def predicted_speedups(model: StageNetwork, shape: Sequence[int], prompts: Tensor, path: Path) -> dict[str, float]:
    """Operations of the full frame rate over the mean of three stages, of all and of attention, counted by torch."""
    import copy

    meta = copy.deepcopy(model).to("meta")

    def count(stage: Stage) -> tuple[int, int]:
        x = torch.empty(shape[0], stage.frames(shape[1]), *shape[2:], device="meta")
        times = torch.empty(shape[0], device="meta")
        return counted_flops(lambda: meta(x, times, stage, prompts.to("meta")))

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
        found = seconds({str(f): lambda f=f: attend(n_tokens // f) for f in (4, 2, 1)}, q.device, repeats)
    return sum(found.values()) / 3 / found["1"]


def peak_memory_mb(model: StageNetwork, videos: Tensor, prompts: Tensor, path: Path) -> dict[str, float]:
    """Megabytes that autograd keeps for the backward pass, "vanilla" and the mean over TPDiff's stages."""
    loss = pyramid_loss([*pyramid.stages(path, 1), *pyramid.stages(path, 3)], path, align=False)

    def kept(index: int) -> float:
        seen: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss(model, (videos, prompts, index))
        for p in model.parameters():
            seen.pop(p.untyped_storage().data_ptr(), None)  # weights are there anyway
        return sum(seen.values()) / 1e6

    return {"vanilla": kept(0), "TPDiff, largest stage": kept(3), "TPDiff, mean": sum(map(kept, (1, 2, 3))) / 3}


def main() -> None:
    """Print the comparison for clips of 8, 16 and 32 frames; about a minute on 2 cores."""
    torch.manual_seed(0)
    path, model = FlowMatching(), small_wan(n_labels=14, dim=96)
    torch.nn.init.normal_(model.net.proj_out.weight, std=0.02)
    for n_frames in (8, 16, 32):
        videos, prompts = torch.randn(8, n_frames, 1, 16, 16), torch.randint(14, (8, 2))
        step = training_seconds(model, videos, prompts, path, repeats=3)
        mean = sum(v for name, v in step.items() if name != "vanilla") / 3
        drawn = sampling_seconds(model, videos.shape, prompts, path, repeats=1)
        counted = predicted_speedups(model, videos.shape, prompts, path)
        memory = peak_memory_mb(model, videos, prompts, path)
        speedups = step["vanilla"] / mean, drawn["vanilla"] / drawn["TPDiff"]
        print(f"{n_frames} frames, batch 8 ({n_frames * 16} tokens a clip): vanilla, TPDiff, speed-up")
        print(f"  training step, mean over stages: {step['vanilla']:.3f} s, {mean:.3f} s, {speedups[0]:.2f}x")
        print(f"  30-step sampling: {drawn['vanilla']:.2f} s, {drawn['TPDiff']:.2f} s, {speedups[1]:.2f}x")
        print(f"  counted operations: {counted['all operations']:.2f}x; attention {counted['attention']:.2f}x")
        print("  MB kept for the backward pass: " + ", ".join(f"{name} {mb:.0f}" for name, mb in memory.items()))
    print(f"attention alone, 4096 tokens: mean of three stages / full = {attention_share():.3f} (formula 0.4375)")


if __name__ == "__main__":
    main()
