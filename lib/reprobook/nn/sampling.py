"""Sampling many answers to many prompts that share their beginnings: what is common is read once.

Three levels are shared through the key/value cache: what all prompts begin with (an instruction), what some of them
begin with (a question), and a prompt that is continued several times. Each sampled token uses one
uniform number that belongs to (sample, position), by inversion of the distribution function: the samples depend on
neither the batches nor the sharing, and any of them can be drawn again alone.
"""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from torch import Tensor

FIRST = 64  # most probable tokens looked at before a whole vocabulary is sorted


@dataclass(frozen=True)
class Sampling:
    """How continuations are drawn: temperature, mass of the nucleus, and at most how many tokens."""

    temperature: float = 0.6
    top_p: float = 0.9
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        rules = [
            ("temperature", self.temperature > 0 and math.isfinite(self.temperature), "above 0"),
            ("top_p", 0 < self.top_p <= 1, "in (0, 1]"),
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
        ]
        for name, good, allowed in rules:
            if not good:
                raise ReprobookError(f"{name} is {getattr(self, name)}; it must be {allowed}")


def uniforms(seed: int, stream: str, shape: Sequence[int]) -> np.ndarray:
    """Uniform numbers in [0, 1) of a named stream: the same seed, name and shape give the same numbers."""
    return np.random.default_rng([seed, zlib.crc32(stream.encode())]).random(tuple(shape))


def draw(logits: Tensor, u: Tensor, sampling: Sampling) -> Tensor:
    """Token ids (B,) from logits (B, V): temperature, then the nucleus (the fewest most probable tokens whose
    probabilities reach ``top_p``), then the inverse distribution function at u (B,), most probable token first.

    The nucleus is almost always found among the first :data:`FIRST` tokens; sorting 50,000 for each token of each
    sample, as the usual implementations do, would cost more than the network.
    """
    scores = logits.float() / sampling.temperature
    total = scores.logsumexp(-1, keepdim=True)
    size = min(FIRST, scores.shape[-1])
    while True:
        top, ids = scores.topk(size, dim=-1)
        mass = (top - total).exp().double().cumsum(-1)
        if size == scores.shape[-1] or bool((mass[:, -1] >= sampling.top_p).all()):
            break
        size = min(8 * size, scores.shape[-1])
    last = (mass < sampling.top_p).sum(-1, keepdim=True).clamp_max(size - 1)  # the token that reaches top_p stays
    whole = mass.gather(-1, last)
    chosen = torch.searchsorted(mass, u[:, None].to(mass) * whole, right=True)
    return ids.gather(-1, torch.minimum(chosen, last))[:, 0]


class Prefix:
    """What a model has read so far: cache and mask (B, L) of B rows, and their next-token logits (B, V)."""

    def __init__(self, model: Any, cache: Any = None, mask: Tensor | None = None, logits: Tensor | None = None) -> None:
        self.model, self.cache, self.mask, self.logits = model, cache, mask, logits

    def fork(self, rows: Tensor) -> Prefix:
        """A copy with the given rows (they may repeat)."""
        if self.mask is None:
            return Prefix(self.model)
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]  # shallow: selecting makes new tensors
        cache.batch_select_indices(rows)
        logits = None if self.logits is None else self.logits[rows]
        return Prefix(self.model, cache, self.mask[rows], logits)

    def select(self, rows: Tensor) -> None:
        """Keep only ``rows``."""
        assert self.mask is not None
        self.cache.batch_select_indices(rows)
        self.mask = self.mask[rows]

    def read(self, blocks: Sequence[Sequence[int]]) -> Prefix:
        """Read a block of tokens in each row; shorter ones are padded on the left and the padding is masked."""
        width = max(map(len, blocks))
        if width == 0:
            return self
        device = self.model.device
        ids = torch.tensor([[0] * (width - len(b)) + list(b) for b in blocks], device=device)
        new = torch.tensor([[0] * (width - len(b)) + [1] * len(b) for b in blocks], device=device)
        return self.step(ids, new)

    def step(self, ids: Tensor, new: Tensor) -> Prefix:
        """Read ids (B, n); ``new`` is 0 where a token is padding."""
        mask = new if self.mask is None else torch.cat([self.mask, new], 1)
        positions = (mask.cumsum(1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        if self.cache is None:
            from transformers import DynamicCache

            self.cache = DynamicCache()
        out = self.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=self.cache, use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
        self.mask, self.logits = mask, out.logits[:, -1]
        return self


class Reader:
    """Reads the beginnings of prompts once: what all of them begin with, and the stems.

    What was read stays until :meth:`forget`, so that later turns find the stems of earlier ones read."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._read: dict[tuple[tuple[int, ...], ...], Prefix] = {}

    def forget(self) -> None:
        """To be called when the weights change."""
        self._read.clear()

    def stems(self, stems: Sequence[tuple[int, ...]], common: int) -> Prefix:
        """State after the given stems, which share their first ``common`` tokens. Not to be changed: fork it."""
        key = tuple(stems)
        if key not in self._read:
            shared = (stems[0][:common],)
            if common and shared not in self._read:
                self._read[shared] = Prefix(self.model).read(shared)
            start = self._read[shared] if common else Prefix(self.model)
            rows = torch.zeros(len(stems), dtype=torch.long, device=self.model.device)
            self._read[key] = start.fork(rows).read([stem[common:] for stem in stems])
        return self._read[key]


@torch.no_grad()
def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    u: np.ndarray,
    sampling: Sampling,
    stops: Sequence[int],
    *,
    stems: Sequence[Sequence[int]] | None = None,
    batch_size: int = 64,
    reader: Reader | None = None,
) -> list[list[list[int]]]:
    """``n`` continuations of each prompt, without the end token.

    ``u`` (P, n, max_new_tokens) are the uniform numbers of the samples. ``stems``: what each prompt begins with and
    shares with other prompts (its question); default: the prompts themselves. ``batch_size``: stems at a time.
    Equal stems and equal prompts are read once.
    """
    n = u.shape[1]
    if u.shape != (len(prompts), n, sampling.max_new_tokens):
        raise ReprobookError(f"u has shape {u.shape}; it must be ({len(prompts)}, n, {sampling.max_new_tokens})")
    reader = reader or Reader(model)
    owners: dict[tuple[int, ...], dict[tuple[int, ...], list[int]]] = {}
    for k, prompt in enumerate(prompts):
        stem = tuple(prompt if stems is None else stems[k])
        if not stem or tuple(prompt[: len(stem)]) != stem:
            raise ReprobookError(f"prompt {k} is empty or does not begin with its stem")
        owners.setdefault(stem, {}).setdefault(tuple(prompt[len(stem) :]), []).append(k)
    found: list[list[list[int]]] = [[] for _ in prompts]
    order = sorted(owners, key=lambda stem: (len(stem), stem))  # similar lengths together: little padding
    common = _shared(order) if order else 0
    for at in range(0, len(order), batch_size):
        part = order[at : at + batch_size]
        state = reader.stems(part, common)
        rests = [(k, rest) for k, stem in enumerate(part) for rest in owners[stem]]
        state = state.fork(torch.tensor([k for k, _ in rests], device=model.device)).read([rest for _, rest in rests])
        members = [owners[part[k]][rest] for k, rest in rests]
        rows = [k for each in members for k in each]
        repeated = torch.arange(len(rests)).repeat_interleave(torch.tensor([len(m) * n for m in members]))
        state = state.fork(repeated.to(model.device))
        flat = decode(state, torch.as_tensor(u[rows]).flatten(0, 1).to(model.device), sampling, stops)
        for j, k in enumerate(rows):
            found[k] = flat[j * n : (j + 1) * n]
    return found


def _shared(prompts: Sequence[tuple[int, ...]]) -> int:
    """Number of tokens that all prompts begin with; at least one token of each is left to be read."""
    low, high = min(prompts), max(prompts)  # in lexicographic order the extremes share the least
    most = min(map(len, prompts)) - 1
    return next((k for k in range(most) if low[k] != high[k]), most)


def decode(state: Prefix, u: Tensor, sampling: Sampling, stops: Sequence[int]) -> list[list[int]]:
    """Draw token after token; rows that have ended leave the batch."""
    ends = torch.tensor(list(stops), device=u.device)
    made = torch.full((len(u), sampling.max_new_tokens), -1, dtype=torch.long, device=u.device)
    alive = torch.arange(len(u), device=u.device)
    for t in range(sampling.max_new_tokens):
        assert state.logits is not None
        token = draw(state.logits, u[alive, t], sampling)
        going = ~torch.isin(token, ends)
        alive, token = alive[going], token[going]
        made[alive, t] = token
        if not len(alive) or t + 1 == sampling.max_new_tokens:
            break
        if not bool(going.all()):
            state.select(going.nonzero().flatten())
        state.step(token[:, None], torch.ones_like(token[:, None]))
    return [[token for token in row if token >= 0] for row in made.tolist()]
