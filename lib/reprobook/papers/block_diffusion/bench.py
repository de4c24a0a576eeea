"""What block diffusion makes cheap, measured as ratios in one run: one pass against two, a KV cache against none (C6).

Each timing asserts that both ways give the same result."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from reprobook.bench import compare
from reprobook.errors import ReprobookError
from reprobook.papers.block_diffusion.model import DiT, one_pass_logits, two_pass_logits
from reprobook.papers.block_diffusion.objectives import masked_nll
from reprobook.papers.block_diffusion.sampling import sample_blocks

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.bench import Comparison


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
    taken = compare({name: partial(step, name) for name in ways}, equal=None, n=repeats, device=x.device)
    model.zero_grad(set_to_none=True)
    model.train(was_training)
    return taken.medians


def compare_sampling(
    model: DiT, prompt: Tensor, length: int, block_size: int, mask_id: int, repeats: int = 3
) -> Comparison:
    """Block sampling by reading the "whole context" for every block and "cached"; the samples must be identical."""

    def run(use_cache: bool) -> Tensor:
        generator = torch.Generator(device=prompt.device).manual_seed(0)
        return sample_blocks(
            model, prompt, length, block_size, mask_id, use_cache=use_cache, generator=generator
        ).tokens

    ways = {"whole context": lambda: run(False), "cached": lambda: run(True)}
    what = f"sampling {length} tokens, L' = {block_size}"
    return compare(ways, equal=torch.equal, n=repeats, what=what, device=prompt.device)


def sampling_costs(
    model: DiT, prompt: Tensor, length: int, block_size: int, mask_id: int, repeats: int = 3
) -> dict[str, float]:
    """Tokens per second of :func:`compare_sampling`."""
    taken = compare_sampling(model, prompt, length, block_size, mask_id, repeats).medians
    return {name: prompt.shape[0] * length / seconds for name, seconds in taken.items()}


def headline() -> Comparison:
    """Two samples of 256 tokens in blocks of 16 (4 layers, width 128): without a cache over with one, same tokens."""
    torch.manual_seed(0)
    model = DiT(vocab_size=28, dim=128, n_layers=4, n_heads=4).eval()
    torch.nn.init.normal_(model.output_layer.linear.weight, std=0.02)
    return compare_sampling(model, torch.randint(27, (2, 1)), 256, 16, mask_id=27)
