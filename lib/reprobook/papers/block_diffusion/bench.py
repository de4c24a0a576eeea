"""What block diffusion makes cheap, measured as ratios in one run: one pass against two, a KV cache against none (C6).

Each timing first asserts that both ways give the same result. ``python -m reprobook.papers.block_diffusion.bench``
prints the two tables at a size where the model, not the overhead of a call, sets the pace.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING

import torch

from reprobook.errors import ReprobookError
from reprobook.papers.block_diffusion.model import DiT, one_pass_logits, two_pass_logits
from reprobook.papers.block_diffusion.objectives import masked_nll
from reprobook.papers.block_diffusion.sampling import sample_blocks

if TYPE_CHECKING:
    from torch import Tensor


def _seconds(runs: dict[str, Callable[[], object]], device: torch.device, repeats: int) -> dict[str, float]:
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


def training_costs(model: DiT, x: Tensor, block_size: int, mask_id: int, repeats: int = 5) -> dict[str, float]:
    """Seconds of forward and backward on rows ``x`` (K, L): "one pass", "two passes" and "plain diffusion" (L' = L).

    Dropout is off, so that one pass and two passes must agree to 1e-4, logits and gradients of the loss alike.
    """
    generator = torch.Generator(device=x.device).manual_seed(0)
    masked = torch.rand(x.shape, generator=generator, device=x.device) < 0.5
    x_t = torch.where(masked, mask_id, x)
    ways = {
        "one pass": lambda: one_pass_logits(model, x_t, x, block_size),
        "two passes": lambda: two_pass_logits(model, x_t, x, block_size),
        "plain diffusion": lambda: one_pass_logits(model, x_t, x, x.shape[1]),
    }
    was_training = model.training
    model.eval()

    def step(way: str) -> Tensor:
        model.zero_grad(set_to_none=True)
        loss = masked_nll(ways[way](), x, masked, mask_id).mean()
        loss.backward()
        return model.vocab_embed.embedding.grad

    gap = float((step("one pass") - step("two passes")).abs().max())
    if gap > 1e-4:
        raise ReprobookError(f"one pass and two passes disagree: gradients differ by {gap:.2e}")
    seconds = _seconds({name: lambda name=name: step(name) for name in ways}, x.device, repeats)
    model.zero_grad(set_to_none=True)
    model.train(was_training)
    return seconds


def sampling_costs(
    model: DiT, prompt: Tensor, length: int, block_size: int, mask_id: int, repeats: int = 3
) -> dict[str, float]:
    """Tokens per second of block sampling "cached" and "whole context" (no cache); the samples must be identical."""

    def run(use_cache: bool) -> Tensor:
        generator = torch.Generator(device=prompt.device).manual_seed(0)
        return sample_blocks(
            model, prompt, length, block_size, mask_id, use_cache=use_cache, generator=generator
        ).tokens

    if not torch.equal(run(True), run(False)):
        raise ReprobookError("cached and uncached sampling gave different tokens for the same random stream")
    seconds = _seconds({"cached": lambda: run(True), "whole context": lambda: run(False)}, prompt.device, repeats)
    return {name: prompt.shape[0] * length / value for name, value in seconds.items()}


def main() -> None:
    """Print both comparisons for a model of 4 layers and width 128; under a minute on 2 cores."""
    torch.manual_seed(0)
    model = DiT(vocab_size=28, dim=128, n_layers=4, n_heads=4)
    torch.nn.init.normal_(model.output_layer.linear.weight, std=0.02)
    x = torch.randint(27, (8, 128))
    print("training step, L = 128, batch 8 (seconds; cost relative to plain diffusion)")
    for block_size in (4, 16):
        cost = training_costs(model, x, block_size, mask_id=27)
        ratio = ", ".join(f"{name} {s:.3f} ({s / cost['plain diffusion']:.2f}x)" for name, s in cost.items())
        print(f"  L' = {block_size:2d}: {ratio}; two passes / one pass = {cost['two passes'] / cost['one pass']:.2f}")
    print("sampling, batch 2, L' = 16 (tokens/s)")
    model.eval()
    for length in (64, 128, 256):
        speed = sampling_costs(model, x[:2, :1], length, 16, mask_id=27, repeats=1)
        rates = ", ".join(f"{name} {value:.0f}" for name, value in speed.items())
        print(f"  {length} tokens: {rates}; ratio {speed['cached'] / speed['whole context']:.2f}")


if __name__ == "__main__":
    main()
