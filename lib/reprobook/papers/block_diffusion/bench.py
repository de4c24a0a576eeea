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


def training_costs(
    model: DiT, x: Tensor, block_size: int, mask_id: int, repeats: int = 5, attention: str = "sdpa"
) -> Comparison:
    """Seconds of forward and backward on rows ``x`` (K, L): "two passes", "one pass" and "plain diffusion" (L' = L).

    Dropout is off, so that one pass and two passes must agree to 1e-4, logits and gradients of the loss alike. Both
    leave out, in the last layer, what nobody reads of the clean tokens. ``attention``: that of the one pass.
    """
    generator = torch.Generator(device=x.device).manual_seed(0)
    masked = torch.rand(x.shape, generator=generator, device=x.device) < 0.5
    x_t = torch.where(masked, mask_id, x)
    ways = {
        "two passes": lambda: two_pass_logits(model, x_t, x, block_size),
        "one pass": lambda: one_pass_logits(model, x_t, x, block_size, attention),
        "plain diffusion": lambda: one_pass_logits(model, x_t, x, x.shape[1]),
    }
    was_training = model.training
    model.eval()

    def step(way: str) -> Tensor:
        model.zero_grad(set_to_none=True)
        loss = masked_nll(ways[way](), x, masked, mask_id).mean()
        loss.backward()
        grad = model.vocab_embed.embedding.grad
        assert grad is not None
        return grad

    gap = float((step("one pass") - step("two passes")).abs().max())
    if gap > 1e-4:
        raise ReprobookError(f"one pass and two passes disagree: gradients differ by {gap:.2e}")
    taken = compare({name: partial(step, name) for name in ways}, equal=None, n=repeats, device=x.device)
    model.zero_grad(set_to_none=True)
    model.train(was_training)
    return taken


def training_times(
    dim: int, length: int, n_layers: int, n_rows: int, block_size: int, repeats: int, *, vocab_size: int, seed: int,
    attention: str, device: torch.device | str = "cpu",
) -> Comparison:  # fmt: skip
    """:func:`training_costs` of a fresh model, every weight random, on random rows."""
    generator = torch.Generator().manual_seed(seed)
    model = DiT(vocab_size, dim, n_layers, 4)
    for p in model.parameters():
        p.data = 0.02 * torch.randn(p.shape, generator=generator)
    x = torch.randint(vocab_size - 1, (n_rows, length), generator=generator)
    return training_costs(model.to(device), x.to(device), block_size, vocab_size - 1, repeats, attention)


def operations(
    length: int, block_size: int, dim: int, n_layers: int, vocab_size: int, mlp_ratio: int = 4, skip: bool = False
) -> dict[str, float]:
    """Operations (multiply and add) of a forward pass of one row: "one pass", "two passes" and "plain diffusion".

    Dense attention multiplies every query by every key it is given; ``skip``: only the pairs that the mask lets see
    each other, as FlexAttention nearly does. The clean half gives keys and values alone in the last layer. The constant
    adaLN input costs nothing here.
    """
    n, s = length, block_size
    token = 2 * (4 + 2 * mlp_ratio) * dim * dim  # query, key, value, output and MLP of a token in a layer
    pair, lent = 4 * dim, 2 * 2 * dim * dim  # scores and values of a pair; keys and values of a token
    noisy, clean = n * s + n * (n - s) // 2, n * (n + s) // 2  # visible pairs of each half
    head = 2 * n * dim * vocab_size
    below = n_layers - 1
    layers = 2 * n * token * below + n * (token + lent)
    one = pair * ((noisy + clean if skip else 4 * n * n) * below + (noisy if skip else 2 * n * n))
    two = pair * ((noisy + clean if skip else 3 * n * n) * below + (noisy if skip else 2 * n * n))
    plain = n_layers * (n * token + pair * n * n)
    return {"two passes": layers + two + head, "one pass": layers + one + head, "plain diffusion": plain + head}


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


def headline(length: int = 256) -> Comparison:
    """Two samples in blocks of 16 (4 layers, width 128): without a cache over with one, same tokens."""
    torch.manual_seed(0)
    model = DiT(vocab_size=28, dim=128, n_layers=4, n_heads=4).eval()
    torch.nn.init.normal_(model.output_layer.linear.weight, std=0.02)
    return compare_sampling(model, torch.randint(27, (2, 1)), length, 16, mask_id=27)
