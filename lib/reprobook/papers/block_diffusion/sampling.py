"""Generation: KV-cached block sampling, first-hitting and ancestral steps, AR and SEDD samplers, stop rules (Section
3.6).

NFE counts network calls that a sequence needed for its tokens; storing a finished block in the cache is not counted,
as in the released code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from reprobook.errors import ReprobookError
from reprobook.papers.block_diffusion.model import KVCache
from reprobook.papers.block_diffusion.noise import EPS, check_blocks
from reprobook.papers.block_diffusion.objectives import sedd_log_score, subs_log_probs

if TYPE_CHECKING:
    from reprobook.papers.block_diffusion.model import DiT

ENTROPY_WINDOW = 256  # tokens; the degeneration check starts once more than this many exist


@dataclass
class Samples:
    """tokens (K, length); nfe (K,) network calls of each sequence."""

    tokens: Tensor
    nfe: Tensor = field(repr=False)


def nucleus(probs: Tensor, top_p: float, rule: str = "code") -> Tensor:
    """Renormalised top-p distribution along the last axis.

    rule "code": tokens whose cumulative probability is at most ``top_p`` stay, so the token that crosses it is dropped;
    the most likely token always stays. rule "usual": the crossing token stays too.
    """
    if not 0 < top_p <= 1:
        raise ReprobookError(f"top_p must be in (0, 1], got {top_p}")
    if rule not in ("code", "usual"):
        raise ReprobookError(f"nucleus rule must be 'code' or 'usual', got {rule!r}")
    if top_p == 1:
        return probs
    ordered, index = probs.sort(dim=-1, descending=True)
    total = ordered.cumsum(-1)
    keep = total <= top_p if rule == "code" else total - ordered < top_p
    keep[..., 0] = True
    kept = torch.zeros_like(probs).scatter(-1, index, ordered * keep)
    return kept / kept.sum(-1, keepdim=True)


def categorical(probs: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One draw per row by an exponential race in float64 (float32 truncates the noise and lowers the temperature,
    C.5)."""
    noise = torch.empty(probs.shape, dtype=torch.float64, device=probs.device).exponential_(generator=generator)
    return (probs.double() / noise).argmax(-1)


def token_probs(logits: Tensor, block: Tensor, mask_id: int, top_p: float, at: Tensor | None = None) -> Tensor:
    """p(x^b | x_t^b, x^{<b}) (K, L', V) from logits (K, L', V); ``at`` (K, 1): of one position a row, (K, 1, V)."""
    if at is not None:  # a whole page times the vocabulary, sorted and in float64, fits no memory
        logits = logits.gather(1, at[..., None].expand(-1, -1, logits.shape[-1]))
        block = block.gather(1, at)
    return nucleus(subs_log_probs(logits, block, mask_id).exp(), top_p)


def _block_logits(model: DiT, block: Tensor, done: Tensor, cache: KVCache | None, block_size: int) -> Tensor:
    """Logits (K, L', V): with a cache one block goes through the network, without it everything does."""
    if cache is not None:
        return model(block, cache=cache)
    whole = torch.cat([done, block], 1)
    number = torch.arange(whole.shape[1], device=whole.device) // block_size
    return model(whole, mask=number[:, None] >= number[None, :])[:, -block.shape[1] :]


# partly masked block (K, L'), positions (K, 1) or None for all -> p(x | block) (K, 1 or L', V)
ProbsOf = Callable[[Tensor, Tensor | None], Tensor]


def first_hitting_block(
    probs_of: ProbsOf, block: Tensor, mask_id: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Unmask one uniformly chosen position a call (Zheng et al. 2024). The hitting times are ``t_{n-1} = t_n u^{1/n}``
    (Eq. 25); the network has no time input, so the output does not depend on them."""
    nfe = (block == mask_id).sum(1)
    for _ in range(int(nfe.max())):
        masked = block == mask_id
        race = torch.rand(block.shape, generator=generator, dtype=torch.float64, device=block.device)
        chosen = race.masked_fill(~masked, -1.0).argmax(1, keepdim=True)
        drawn = categorical(probs_of(block, chosen), generator)
        here = torch.zeros_like(masked).scatter(1, chosen, True) & masked
        block = torch.where(here, drawn, block)
    return block, nfe


def ancestral_block(
    probs_of: ProbsOf, block: Tensor, mask_id: int, num_steps: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """``num_steps`` steps on the grid 1 = t_0 > ... > t_T = 0: a masked token stays masked with probability s/t.

    The prediction stays valid until a token changes, so only steps that reveal a token call the network: with n masked
    tokens ``T (1 - (1 - 1/T)^n)`` calls are expected, never more than n.
    """
    if num_steps < 1:
        raise ReprobookError(f"num_steps must be at least 1, got {num_steps}")
    times = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
    nfe = torch.zeros(block.shape[0], dtype=torch.long, device=block.device)
    for t, s in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        masked = block == mask_id
        race = torch.rand(block.shape, generator=generator, dtype=torch.float64, device=block.device)
        reveal = masked & (race >= s / t)
        if reveal.any():
            block = torch.where(reveal, categorical(probs_of(block, None), generator), block)
            nfe += reveal.any(1)
    return block, nfe


@torch.no_grad()
def sample_blocks(
    model: DiT, prompt: Tensor, length: int, block_size: int, mask_id: int, *, sampler: str = "first_hitting",
    num_steps: int = 5000, top_p: float = 1.0, context: int | None = None, use_cache: bool = True,
    watch: Callable[[Tensor], None] | None = None, generator: torch.Generator | None = None,
) -> Samples:  # fmt: skip
    """Algorithm 2: start block b from masks, denoise it given the clean blocks, run it once more to store its keys
    and values.

    prompt: (K, 1) first token of each sequence (BOS or context). length: tokens to produce, a multiple of L'; it may
    exceed ``context``, the number of tokens the model looks back over, including the block at hand (default: all).
    ``watch`` sees what is written so far, masks included, before every network call.
    """
    n_blocks = check_blocks(length, block_size)
    if sampler not in ("first_hitting", "ancestral"):
        raise ReprobookError(f"sampler must be 'first_hitting' or 'ancestral', got {sampler!r}")
    if context is not None and not use_cache and length > context:
        raise ReprobookError(f"without a cache the length {length} must not exceed the context {context}")
    window = None if context is None else max(0, context - block_size)
    cache = KVCache(len(model.blocks), window) if use_cache else None
    done = prompt[:, :0]
    nfe = torch.zeros(prompt.shape[0], dtype=torch.long, device=prompt.device)
    for b in range(n_blocks):
        block = torch.full((prompt.shape[0], block_size), mask_id, device=prompt.device)
        if b == 0:
            block[:, : prompt.shape[1]] = prompt[:, :block_size]

        def probs_of(current: Tensor, at: Tensor | None, done: Tensor = done) -> Tensor:
            if watch is not None:
                watch(torch.cat([done, current], 1))
            return token_probs(_block_logits(model, current, done, cache, block_size), current, mask_id, top_p, at)

        if sampler == "first_hitting":
            block, calls = first_hitting_block(probs_of, block, mask_id, generator)
        else:
            block, calls = ancestral_block(probs_of, block, mask_id, num_steps, generator)
        nfe += calls
        if cache is not None and b + 1 < n_blocks:
            model(block, cache=cache, store=True, n_outputs=0)
        done = torch.cat([done, block], 1)
    return Samples(done, nfe)


@torch.no_grad()
def sample_strided(
    model: DiT, prompt: Tensor, length: int, context: int, stride: int, mask_id: int, *, top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Samples:  # fmt: skip
    """MDLM beyond its context: fill a window of ``context`` tokens, then keep its last ``context - stride`` as given
    and fill on."""
    if not 0 < stride <= context or (length - context) % stride:
        raise ReprobookError(
            f"stride {stride} must be in 1..{context} and divide length - context = {length - context}"
        )
    tokens, given = prompt, prompt
    nfe = torch.zeros(prompt.shape[0], dtype=torch.long, device=prompt.device)
    while tokens.shape[1] < length:
        window = torch.full((prompt.shape[0], context), mask_id, device=prompt.device)
        window[:, : given.shape[1]] = given
        window, calls = first_hitting_block(
            lambda block, at: token_probs(model(block), block, mask_id, top_p, at), window, mask_id, generator
        )
        tokens = torch.cat([tokens, window[:, given.shape[1] :]], 1)
        given = tokens[:, tokens.shape[1] - (context - stride) :]
        nfe += calls
    return Samples(tokens, nfe)


@torch.no_grad()
def sample_ar(
    model: DiT, prompt: Tensor, length: int, *, forbidden: int | None = None, top_p: float = 1.0,
    context: int | None = None, generator: torch.Generator | None = None,
) -> Samples:  # fmt: skip
    """Next-token sampling with a KV cache. ``forbidden`` is never drawn (the mask id of a shared vocabulary)."""
    cache = KVCache(len(model.blocks), None if context is None else context - 1)
    tokens, new = prompt, prompt
    while tokens.shape[1] < length:
        logits = model(new, cache=cache, store=True)[:, -1]
        if forbidden is not None:
            logits[:, forbidden] = -torch.inf
        new = categorical(nucleus(logits.softmax(-1), top_p), generator)[:, None]
        tokens = torch.cat([tokens, new], 1)
    nfe = torch.full((prompt.shape[0],), length - prompt.shape[1], device=prompt.device)
    return Samples(tokens, nfe)


@torch.no_grad()
def sample_sedd(
    model: DiT, prompt: Tensor, length: int, mask_id: int, num_steps: int, *, top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Samples:  # fmt: skip
    r"""SEDD's analytic (Tweedie) sampler for the absorbing process (Lou et al. 2024, Section 4.2).

    From noise $\sigma_t$ to $\sigma_s$, with $\Delta=\sigma_t-\sigma_s$ and scores s: a masked token becomes y with
    probability $\propto (e^{\Delta}-1)\,s_y$ and stays masked with $\propto 1-(e^{\Delta}-1)\sum_y s_y$ (cut at 0).
    The last step goes to $\sigma_s=0$ and may not leave a mask.
    """
    tokens = torch.full((prompt.shape[0], length), mask_id, device=prompt.device)
    tokens[:, : prompt.shape[1]] = prompt
    rates = (1 - EPS) * torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
    sigmas = -torch.log1p(-rates)
    for t, s in pairwise(sigmas):
        masked = tokens == mask_id
        level = t.expand(tokens.shape[0]).to(tokens.device, torch.float32)
        score = sedd_log_score(model, tokens, level, mask_id).double().exp()
        score[..., mask_id] = 0
        leave = torch.expm1(t - s) * score
        probs = leave
        if s > 0:
            stay = (1 - leave.sum(-1, keepdim=True)).clamp_min(0)
            probs = leave.index_add(-1, torch.tensor([mask_id], device=tokens.device), stay)
        probs = nucleus(probs / probs.sum(-1, keepdim=True), top_p)
        tokens = torch.where(masked, categorical(probs, generator), tokens)
    nfe = torch.full((prompt.shape[0],), num_steps, device=prompt.device)
    return Samples(tokens, nfe)


def window_entropies(tokens: Tensor, window: int, step: int) -> Tensor:
    """Unigram entropy (nats) of each window of ``tokens`` (length,) -> (n_windows,), one window every ``step`` tokens.

    With c_i the count of token i inside its window of w tokens, the entropy is ``log w - mean_i log c_i``.
    """
    windows = tokens.unfold(0, window, step)
    counts = torch.stack([(row[:, None] == row[None, :]).sum(1) for row in windows])
    return math.log(window) - counts.double().log().mean(1)


def stop_position(
    tokens: Tensor, eos_id: int | None, block_size: int = 1, min_entropy: float = 4.0, window: int = ENTROPY_WINDOW
) -> tuple[int, str]:
    """Where a long sample (length,) ends and why: ``("eos" | "entropy" | "length")`` (Section 6.2, Table 6).

    eos: BOS and EOS share an id, so the cut is right after the second one. entropy: the unigram entropy (nats) of the
    last ``window`` tokens is below ``min_entropy``; those tokens are dropped. The entropy is looked at after every
    block, once more than ``window`` tokens exist.
    """
    end, why = tokens.numel(), "length"
    if eos_id is not None:
        found = (tokens == eos_id).nonzero()[:, 0]
        if len(found) > 1:
            end, why = int(found[1]) + 1, "eos"
    first = (window // block_size + 1) * block_size  # first block end beyond the window
    if end >= first:
        low = (window_entropies(tokens[first - window : end], window, block_size) < min_entropy).nonzero()
        if len(low):
            return first - window + int(low[0]) * block_size, "entropy"
    return end, why
