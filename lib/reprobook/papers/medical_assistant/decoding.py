"""Greedy decoding that reads a session once: what two prompts have in common stays in the cache.

A draft (in evaluation: the true turn) is checked in one pass and kept as far as greedy decoding agrees with it, as in
speculative decoding. The result is that of plain greedy decoding; only tokens after the first difference are decoded
one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Counts:
    """Tokens that were read (prompts and drafts) and tokens that were decoded one by one."""

    read: int = 0
    decoded: int = 0


@dataclass
class Reader:
    """A model and what it has read: ``ids`` and their cache. One reader for each adapter."""

    model: Any
    end: int
    ids: list[int] = field(default_factory=list)
    cache: Any = None
    counts: Counts = field(default_factory=Counts)

    def forget(self) -> None:
        """To be called when the weights change."""
        self.ids, self.cache = [], None

    @torch.no_grad()
    def turn(self, prompt: Sequence[int], max_new_tokens: int = 100, draft: Sequence[int] = ()) -> list[int]:
        """Greedy continuation of ``prompt``, up to the end token (left out) or ``max_new_tokens``. ``draft``: a guess
        of it, with its end token; it changes the time, not the result."""
        draft = list(draft)[:max_new_tokens]
        shared = 0
        for shared, (a, b) in enumerate(zip(self.ids, prompt, strict=False)):  # noqa: B007
            if a != b:
                break
        else:
            shared = min(len(self.ids), len(prompt))
        self._crop(min(shared, len(prompt) - 1))  # at least one token is read: its logits are needed
        guesses = self._read([*prompt[len(self.ids) :], *draft], len(draft) + 1).argmax(-1).tolist()
        agreed = next((k for k, (a, b) in enumerate(zip(draft, guesses, strict=False)) if a != b), len(draft))
        made, token = draft[:agreed], guesses[agreed]
        if self.end in made:
            made = made[: made.index(self.end)]
            self._crop(len(prompt) + len(made))
            return made
        self._crop(len(prompt) + agreed)
        while token != self.end and len(made) < max_new_tokens:
            made.append(token)
            if len(made) == max_new_tokens:
                break
            token = int(self._read([token], 1).argmax(-1))
            self.counts.decoded += 1
        return made

    def _crop(self, n: int) -> None:
        """Forget all but the first ``n`` tokens."""
        if self.cache is None or n == 0:
            self.forget()
        elif n < len(self.ids):
            self.cache.crop(n - len(self.ids))
            self.ids = self.ids[:n]

    def _read(self, new: Sequence[int], n_logits: int) -> Tensor:
        """Read ``new`` tokens; logits (n_logits, vocabulary) after the last ones."""
        if self.cache is None:
            from transformers import DynamicCache

            self.cache = DynamicCache()
        x = torch.tensor([list(new)], device=self.model.device)
        out = self.model(input_ids=x, past_key_values=self.cache, use_cache=True, logits_to_keep=n_logits)
        self.ids = [*self.ids, *new]
        self.counts.read += len(new)
        return out.logits[0]
