"""Completions of many prompts at once, quickly: rows that have ended make room for the next prompts.

What all prompts begin with is read once; so is a prompt that is continued several times. Prompts are read in small
groups, and their keys and values are put into a cache that is allocated once. Every row has its own length in it: no
row computes with the padding of a prompt, and none waits for the end of others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from reprobook.errors import ReprobookError
from reprobook.nn.chat import stop_ids
from reprobook.nn.lm import _batches, _check_sampling, _pad, _prompt_ids
from reprobook.nn.sampling import Sampling, _shared, draw

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.nn.lm import Prompt

READ = 1024  # padded tokens read in one pass: with more, what lies between the layers leaves the processor's caches
COMMON = 32  # a shorter beginning is not worth a pass of its own


@torch.no_grad()
def complete(
    model: Any, tokenizer: Any, prompts: Sequence[Prompt], *, max_new_tokens: int, stop_strings: Sequence[str] = (),
    batch_size: int = 128, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0,
) -> list[str]:  # fmt: skip
    """Continue every prompt; returns the new text only, in the order of ``prompts``.

    Prompts are those of :func:`reprobook.nn.lm.generate`, and in exact arithmetic so are greedy texts
    (``temperature=0``). A text ends before the first of ``stop_strings`` in it, at an end token of the model (the
    tokenizer's and those of its generation configuration), or after ``max_new_tokens``. Draws use one uniform number
    for each (seed, prompt, position): they depend on neither the batches nor the other prompts. ``batch_size`` rows
    are decoded at a time; each takes memory for the keys and values of the longest prompt and its continuation.
    """
    _check_sampling(max_new_tokens, batch_size, temperature, top_p)
    if "" in stop_strings or isinstance(stop_strings, str):
        raise ReprobookError(f"stop_strings must be a list of texts that are not empty, got {stop_strings!r}")
    ids = [tuple(_prompt_ids(tokenizer, prompt)) for prompt in prompts]
    ends, tail = set(stop_ids(model, tokenizer)), max((len(text.encode()) for text in stop_strings), default=0)
    sampling = Sampling(temperature, top_p, max_new_tokens) if temperature > 0 else None
    u = [np.random.default_rng([seed, k]).random(max_new_tokens) for k in range(len(ids) if sampling else 0)]
    made: list[list[int]] = [[] for _ in ids]

    def ended(k: int, token: int) -> bool:
        """Whether prompt ``k`` ends with ``token``; a stop string of n bytes lies within the last n tokens."""
        if token in ends:
            return True
        made[k].append(token)
        if len(made[k]) == max_new_tokens:
            return True
        end = tokenizer.decode(made[k][-tail:], skip_special_tokens=True) if tail else ""
        return any(text in end for text in stop_strings)

    waiting = sorted(range(len(ids)), key=lambda k: (len(ids[k]), ids[k]))
    rows = _Rows(model, ids, min(batch_size, len(ids)), max_new_tokens)
    while waiting or rows.owners:
        free = rows.size - len(rows.owners)
        with attention_of(model.device):
            if waiting and 8 * free >= rows.size:  # reading a few at a time would cost as much as reading many
                new, waiting = waiting[:free], waiting[free:]
                asked, logits = rows.read(new)
            else:
                asked, logits = list(rows.owners), rows.step()
        tokens = _next(logits, sampling, [u[k][len(made[k])] for k in asked] if sampling else ())
        rows.go_on(tokens, [ended(k, token) for k, token in zip(asked, tokens.tolist(), strict=True)])
    return [_before(tokenizer.decode(tokens, skip_special_tokens=True), stop_strings) for tokens in made]


def attention_of(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """The kernel of attention that works on ``device``: torch's fused one for processors packs bf16 with AVX512 alone,
    and fails on longer inputs where ATen is held below that (``ATEN_CPU_CAPABILITY``)."""
    held = device.type == "cpu" and "AVX512" not in torch.backends.cpu.get_cpu_capability()
    return sdpa_kernel(SDPBackend.MATH) if held else contextlib.nullcontext()


def _before(text: str, stop_strings: Sequence[str]) -> str:
    return text[: min([at for stop in stop_strings if (at := text.find(stop)) >= 0], default=len(text))]


def _next(logits: Tensor, sampling: Sampling | None, u: Sequence[float]) -> Tensor:
    """Tokens (B,) from logits (B, V): the most probable ones, or draws by the uniform numbers u (B,)."""
    if sampling is None:
        return logits.max(-1).indices  # in bf16 three times as fast as argmax
    return draw(logits, torch.tensor(u, dtype=torch.float64, device=logits.device), sampling)


class _Rows:
    """The rows that are being decoded: the first ``len(owners)`` of a cache for ``size`` rows."""

    def __init__(self, model: Any, ids: Sequence[tuple[int, ...]], size: int, max_new_tokens: int) -> None:
        from transformers import DynamicCache

        self.model, self.ids, self.size = model, ids, size
        self.owners: list[int] = []  # prompt of each row
        distinct = sorted(set(ids))
        common = _shared(distinct) if len(distinct) > 1 else 0
        self.common = common if common >= COMMON else 0
        self.beginning: Any = None
        if self.common:
            self.beginning, _ = self._pass([ids[0][:common]], DynamicCache())
        self.lengths = torch.zeros(size, dtype=torch.long, device=model.device)
        self.tokens = torch.zeros_like(self.lengths)
        self.longest = max(map(len, ids), default=0) + max_new_tokens
        self.cache = DynamicCache()
        self.cache.layers = []

    def _pass(self, blocks: Sequence[Sequence[int]], cache: Any) -> tuple[Any, Tensor]:
        """Cache, and logits (B, V) after the last token of each block, read behind what ``cache`` holds. Padding is on
        the right, where a causal model does not see it."""
        x, _ = _pad(blocks, 0, left=False)
        x = x.to(self.model.device)
        positions = torch.arange(x.shape[1], device=x.device)[None] + cache.get_seq_length()
        hidden = self.model.get_decoder()(
            input_ids=x, position_ids=positions, past_key_values=cache, use_cache=True
        ).last_hidden_state
        last = torch.tensor([len(block) - 1 for block in blocks], device=x.device)
        return cache, self.model.get_output_embeddings()(hidden[torch.arange(len(blocks), device=x.device), last])

    def read(self, prompts: Sequence[int]) -> tuple[list[int], Tensor]:
        """Prompts into free rows; returns them in the order of their rows, with the logits (B, V) after each."""
        owners: dict[tuple[int, ...], list[int]] = {}
        for k in prompts:
            owners.setdefault(self.ids[k], []).append(k)
        distinct, found = list(owners), []
        rests = [prompt[self.common :] for prompt in distinct]
        for part in _batches([len(rest) for rest in rests], len(rests), READ):
            cache, logits = self._pass([rests[j] for j in part], self._begun(len(part)))
            copies = [b for b, j in enumerate(part) for _ in owners[distinct[j]]]
            self._put(cache, copies, [k for j in part for k in owners[distinct[j]]])
            found.append(logits[copies])
        return self.owners[-len(prompts) :], torch.cat(found)

    def _begun(self, n: int) -> Any:
        """A cache of ``n`` rows that hold the common beginning."""
        from transformers import DynamicCache

        cache = DynamicCache()
        for at, layer in enumerate(self.beginning.layers if self.common else ()):
            cache.update(layer.keys.expand(n, -1, -1, -1), layer.values.expand(n, -1, -1, -1), at)
        return cache

    def _put(self, cache: Any, copies: Sequence[int], prompts: Sequence[int]) -> None:
        """Rows ``copies`` of ``cache``, of ``prompts``, behind the rows there are."""
        if not self.cache.layers:
            self.cache.layers = [_Layer(layer.keys, self.size, self.longest) for layer in cache.layers]
        rows, width = slice(len(self.owners), len(self.owners) + len(copies)), cache.get_seq_length()
        for ours, theirs in zip(self.cache.layers, cache.layers, strict=True):
            ours.keys[rows, :, :width] = theirs.keys[copies]
            ours.values[rows, :, :width] = theirs.values[copies]
        self.lengths[rows] = torch.tensor([len(self.ids[k]) for k in prompts], device=self.lengths.device)
        self.owners += prompts

    def step(self) -> Tensor:
        """Logits (B, V) after the last token of each row."""
        n = len(self.owners)
        at = self.lengths[:n].clone()
        width = int(at.max()) + 1
        for layer in self.cache.layers:
            layer.here = torch.arange(n, device=at.device), at, width
        seen = torch.arange(width, device=at.device) <= at[:, None]
        out = self.model(
            input_ids=self.tokens[:n, None], attention_mask=seen[:, None, None], position_ids=at[:, None],
            past_key_values=self.cache, use_cache=True,
        )  # fmt: skip
        self.lengths[:n] += 1
        return out.logits[:, -1]

    def go_on(self, tokens: Tensor, ended: Sequence[bool]) -> None:
        """Give the last ``len(tokens)`` rows their next tokens; those that ended leave, and the last rows fill up."""
        n, first = len(self.owners), len(self.owners) - len(tokens)
        self.tokens[first:n] = tokens
        gone = [first + j for j, over in enumerate(ended) if over]
        left = n - len(gone)
        holes = [row for row in gone if row < left]
        movers = sorted(set(range(left, n)) - set(gone))
        if holes:
            parts = [part for layer in self.cache.layers for part in (layer.keys, layer.values)]
            for tensor in (self.tokens, self.lengths, *parts):
                tensor[holes] = tensor[movers]
            for hole, mover in zip(holes, movers, strict=True):
                self.owners[hole] = self.owners[mover]
        del self.owners[left:]


class _Layer:
    """Keys and values (rows, heads, longest, width of a head) of one layer; what transformers' cache asks of one."""

    is_sliding = False

    def __init__(self, like: Tensor, rows: int, longest: int) -> None:
        shape = rows, like.shape[1], longest, like.shape[3]
        self.keys, self.values = like.new_zeros(shape), like.new_zeros(shape)
        self.here: tuple[Tensor, Tensor, int]  # rows, their lengths, columns in use

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Add one token to each row."""
        rows, at, width = self.here
        self.keys[rows, :, at], self.values[rows, :, at] = keys[:, :, 0], values[:, :, 0]
        return self.keys[: len(rows), :, :width], self.values[: len(rows), :, :width]
