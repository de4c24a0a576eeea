"""Text sources whose likelihood is known exactly: stationary Markov chains, with a memory and an end of document."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from torch import Tensor

MIXING_STEPS = 4096  # of the power iteration for the stationary distribution


class MarkovSource:
    """Stationary chain whose next symbol depends on the last ``order`` symbols. Its rows are Dirichlet draws around the
    row of the context that is one symbol shorter, so that every symbol of context tells something, as in text; a small
    ``concentration`` gives a source of low entropy.

    Tokens 0..n_symbols-1 are symbols. With ``end_rate`` > 0 token ``n_symbols`` ends a document: it comes with that
    probability after every token, and nothing before it matters for what follows. The mask is the next id. A *state*
    is the last ``order`` tokens, as a number to the base of the tokens. All results are float64.
    """

    def __init__(
        self, n_symbols: int = 12, concentration: float = 0.3, seed: int = 0, order: int = 1, end_rate: float = 0.0
    ) -> None:
        if n_symbols < 2:
            raise ReprobookError(f"n_symbols must be at least 2, got {n_symbols}")
        if order < 1:
            raise ReprobookError(f"order must be at least 1, got {order}")
        if not 0 <= end_rate < 1:
            raise ReprobookError(f"end_rate must be in [0, 1), got {end_rate}")
        self.order, self.end_id = order, n_symbols if end_rate else None
        self.n_tokens = n_symbols + bool(end_rate)
        generator = torch.Generator().manual_seed(seed)
        rows = torch.full((1, n_symbols), 1 / n_symbols, dtype=torch.float64)
        for _ in range(order):  # one token more of context, before those that are there
            alpha = concentration * n_symbols * rows.repeat(self.n_tokens, 1)
            rows = torch._sample_dirichlet(alpha.clamp_min(1e-3), generator=generator).clamp_min(1e-4)
            rows = rows / rows.sum(1, keepdim=True)
        if end_rate:
            rows = torch.cat([(1 - end_rate) * rows, torch.full((len(rows), 1), end_rate, dtype=torch.float64)], 1)
            rows = rows[self._forget_earlier_documents()]
        self.follow(rows)

    def follow(self, rows: Tensor) -> None:
        """From now on ``rows`` (n_states, n_tokens) are the probabilities of the next token."""
        self.transition = rows
        state = torch.full((len(rows),), 1 / len(rows), dtype=torch.float64)
        for _ in range(MIXING_STEPS):
            state = self.step(state)
        self.stationary = state

    def _forget_earlier_documents(self) -> Tensor:
        """(n_states,) each state with everything before its last end mark replaced by end marks."""
        base = self.n_tokens ** torch.arange(self.order - 1, -1, -1)
        digits = (torch.arange(self.n_tokens**self.order)[:, None] // base) % self.n_tokens
        ended = (digits == self.n_tokens - 1).flip(1).cumsum(1).flip(1) > 0
        return (torch.where(ended, self.n_tokens - 1, digits) * base).sum(1)

    def step(self, state: Tensor, weight: Tensor | None = None) -> Tensor:
        """Distribution over states (..., S) after one more token, which is weighted by ``weight`` (..., n_tokens)."""
        cut = state.unflatten(-1, (self.n_tokens, -1))  # the oldest token is forgotten
        moved = torch.einsum("...or,ory->...ry", cut, self.transition.view(*cut.shape[-2:], self.n_tokens))
        return (moved if weight is None else moved * weight[..., None, :]).flatten(-2)

    def entropy_rate(self) -> float:
        """Nats per token: the least NLL any model can reach that sees the last ``order`` tokens."""
        return float(-(self.stationary[:, None] * self.transition * self.transition.log()).sum())

    def entropies(self) -> list[float]:
        """Nats per token for a reader who sees the last 0, 1, ..., ``order`` tokens."""
        joint, found = (self.stationary[:, None] * self.transition).flatten(), []
        for seen in range(self.order + 1):
            p = joint.view(-1, self.n_tokens ** (seen + 1)).sum(0).view(-1, self.n_tokens)
            found.append(float(-torch.special.xlogy(p, p / p.sum(1, keepdim=True).clamp_min(1e-300)).sum()))
        return found

    def of_pairs(self) -> MarkovSource:
        """A source with this one's pairs of neighbours and no longer memory: what a writer of pairs would write."""
        joint = (self.stationary[:, None] * self.transition).reshape(-1, self.n_tokens, self.n_tokens).sum(0)
        found = copy.copy(self)
        found.order = 1
        found.follow(joint / joint.sum(1, keepdim=True))
        return found

    def sample(self, n: int, length: int, generator: torch.Generator, after_end: bool = False) -> Tensor:
        """(n, length) token ids; vectorised over sequences (the chain itself is sequential). ``after_end``: each begins
        with the end mark of the document before."""
        if after_end:
            state = torch.full((n,), len(self.transition) - 1)
        else:
            state = torch.multinomial(self.stationary, n, replacement=True, generator=generator)
        tokens = [state % self.n_tokens]
        for _ in range(1, length):
            tokens.append(torch.multinomial(self.transition[state], 1, generator=generator)[:, 0])
            state = (state * self.n_tokens + tokens[-1]) % len(self.transition)
        return torch.stack(tokens, 1)

    def filtered(self, tokens: Tensor) -> Tensor:
        """p(state after token i, x_0..x_i) (n, L, S) up to a factor; before token 0 the state is stationary."""
        seen = F.one_hot(tokens, self.n_tokens).double()
        state, found = self.stationary.expand(len(tokens), -1), []
        for i in range(tokens.shape[1]):
            state = self.step(state, seen[:, i])
            state = state / state.sum(-1, keepdim=True)
            found.append(state)
        return torch.stack(found, 1)

    def token_nll(self, tokens: Tensor) -> Tensor:
        """-log p(x_i | x_0..x_{i-1}) (n, L - 1): position 0 is context."""
        p = torch.einsum("nls,sy->nly", self.filtered(tokens)[:, :-1], self.transition)
        return -p.gather(-1, tokens[:, 1:, None])[..., 0].log()

    def nll(self, tokens: Tensor) -> Tensor:
        """-log p of each sequence per scored token, (n,)."""
        return torch.cat([self.token_nll(chunk).mean(1) for chunk in tokens.split(256)])

    def denoiser(self, block_size: int) -> Denoiser:
        """The Bayes-optimal denoiser of the chain as a module with a network's one-pass interface; the mask is the
        last id."""
        return Denoiser(self, block_size)

    def posterior(self, x_t: Tensor, x: Tensor, block_size: int, mask_id: int) -> Tensor:
        """Exact p(x_i | x_t^b, x^{<b}) (K, L, n_tokens): forward-backward over every block at once.

        Of the clean earlier blocks the state behind them counts; the first block starts from the stationary one.
        """
        n_blocks = x.shape[1] // block_size
        evidence = F.one_hot(x_t.clamp_max(self.n_tokens - 1), self.n_tokens).double()
        evidence[x_t == mask_id] = 1.0
        evidence = evidence.unflatten(1, (n_blocks, block_size))
        start = self.stationary.expand(len(x), 1, -1)
        if n_blocks > 1:
            start = torch.cat([start, self.filtered(x[:, :-block_size])[:, block_size - 1 :: block_size]], 1)
        table = self.transition.view(self.n_tokens, -1, self.n_tokens)  # oldest token, rest, next token
        forward = [start]
        for i in range(block_size - 1):
            forward.append(self.step(forward[-1], evidence[:, :, i]))
        found, back = [], torch.ones(*start.shape[:2], table.shape[1], self.n_tokens, dtype=torch.float64)
        for i in reversed(range(block_size)):
            moved = torch.einsum("kbor,ory->kbry", forward[i].unflatten(-1, table.shape[:2]), table)
            found.append((moved * back).sum(2) * evidence[:, :, i])
            back = torch.einsum("ory,kbry->kbor", table, back * evidence[:, :, i, None]).flatten(2)
            back = back.unflatten(-1, (-1, self.n_tokens))
        joint = torch.stack(found[::-1], 2)
        return (joint / joint.sum(-1, keepdim=True)).flatten(1, 2)


def permuted_source(n_symbols: int, decay: float, seed: int) -> MarkovSource:
    """A first-order source of a given entropy: every row is a shuffle of exp(-decay k), normalised, so that the entropy
    rate is that of the row and the same for every ``seed``."""
    source, generator = MarkovSource(n_symbols, 1.0, seed), torch.Generator().manual_seed(seed)
    row = torch.softmax(-decay * torch.arange(n_symbols, dtype=torch.float64), 0)
    source.follow(torch.stack([row[torch.randperm(n_symbols, generator=generator)] for _ in range(n_symbols)]))
    return source


class Denoiser(nn.Module):
    """The exact conditionals of ``source`` with a network's interface."""

    def __init__(self, source: MarkovSource, block_size: int) -> None:
        super().__init__()
        self.source, self.block_size = source, block_size

    def forward(
        self, tokens: Tensor, *, positions: Any = None, mask: Any = None, n_outputs: int | None = None  # noqa: ARG002
    ) -> Tensor:  # fmt: skip
        """Log conditionals (K, L, n_tokens + 1) for ``x_t (+) x`` (K, 2L), or for ``x_t`` alone if it is one block."""
        x_t, x = (tokens, tokens) if n_outputs is None else (tokens[:, :n_outputs], tokens[:, n_outputs:])
        log_p = self.source.posterior(x_t, x, self.block_size, self.source.n_tokens).log()
        return F.pad(log_p, (0, 1)).float()

    def scores(self, tokens: Tensor, sigma: Tensor) -> Tensor:  # noqa: ARG002 (a model's interface)
        """What SEDD's network would have to give for exact scores: its constant is added, which its loss subtracts."""
        return self(tokens) + math.log(self.source.n_tokens)
