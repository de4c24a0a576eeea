"""A text source whose likelihood is known exactly: a stationary first-order Markov chain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from torch import Tensor


class MarkovSource:
    """Stationary chain over ``n_symbols`` states; rows of the transition matrix are Dirichlet(``concentration``) draws.

    A small concentration gives a source of low entropy. Tokens are 0..n_symbols-1; all results are float64.
    """

    def __init__(self, n_symbols: int = 12, concentration: float = 0.3, seed: int = 0) -> None:
        if n_symbols < 2:
            raise ReprobookError(f"n_symbols must be at least 2, got {n_symbols}")
        generator = torch.Generator().manual_seed(seed)
        alpha = torch.full((n_symbols, n_symbols), concentration, dtype=torch.float64)
        self.transition = torch._sample_dirichlet(alpha, generator=generator).clamp_min(1e-4)
        self.transition /= self.transition.sum(1, keepdim=True)
        self.stationary = torch.linalg.matrix_power(self.transition, 4096)[0]

    @property
    def n_symbols(self) -> int:
        """Number of symbols; the mask is not one of them."""
        return self.transition.shape[0]

    def entropy_rate(self) -> float:
        """Nats per token: the least NLL any model can reach, given one token of context."""
        return float(-(self.stationary[:, None] * self.transition * self.transition.log()).sum())

    def sample(self, n: int, length: int, generator: torch.Generator) -> Tensor:
        """(n, length) token ids; vectorised over sequences (the chain itself is sequential)."""
        tokens = torch.empty(n, length, dtype=torch.long)
        tokens[:, 0] = torch.multinomial(self.stationary, n, replacement=True, generator=generator)
        for i in range(1, length):
            tokens[:, i] = torch.multinomial(self.transition[tokens[:, i - 1]], 1, generator=generator)[:, 0]
        return tokens

    def nll(self, tokens: Tensor) -> Tensor:
        """-log p of each sequence per scored token, (n,): position 0 is context."""
        return -self.transition[tokens[:, :-1], tokens[:, 1:]].log().mean(1)

    def denoiser(self, block_size: int) -> nn.Module:
        """The Bayes-optimal denoiser of the chain as a module with a network's one-pass interface; the mask is the
        last id."""
        return _Denoiser(self, block_size)

    def posterior(self, x_t: Tensor, x: Tensor, block_size: int, mask_id: int) -> Tensor:
        """Exact p(x_i | x_t^b, x^{<b}) (K, L, n_symbols): forward-backward over every block at once.

        The chain's memory is one token, so of the clean earlier blocks only the last token counts; the first block
        starts from the stationary distribution.
        """
        n_blocks = x.shape[1] // block_size
        evidence = torch.nn.functional.one_hot(x_t.clamp_max(self.n_symbols - 1), self.n_symbols).double()
        evidence[x_t == mask_id] = 1.0
        evidence = evidence.unflatten(1, (n_blocks, block_size))
        previous = x.unflatten(1, (n_blocks, block_size))[:, :-1, -1]
        start = torch.cat([self.stationary.expand(x.shape[0], 1, -1), self.transition[previous]], 1)
        forward, backward = [start * evidence[:, :, 0]], [torch.ones_like(start)]
        for i in range(1, block_size):
            forward.append((forward[-1] @ self.transition) * evidence[:, :, i])
            backward.append((backward[-1] * evidence[:, :, -i]) @ self.transition.T)
        joint = torch.stack(forward, 2) * torch.stack(backward[::-1], 2)
        return (joint / joint.sum(-1, keepdim=True)).flatten(1, 2)


class _Denoiser(nn.Module):
    def __init__(self, source: MarkovSource, block_size: int) -> None:
        super().__init__()
        self.source, self.block_size = source, block_size

    def forward(
        self,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,  # noqa: ARG002 (a model's interface)
        mask: Any = None,  # noqa: ARG002
        n_outputs: int | None = None,
    ) -> Tensor:
        """Log conditionals (K, L, n_symbols + 1) for ``x_t (+) x`` (K, 2L), or for ``x_t`` alone if it is one block."""
        x_t, x = (tokens, tokens) if n_outputs is None else (tokens[:, :n_outputs], tokens[:, n_outputs:])
        log_p = self.source.posterior(x_t, x, self.block_size, self.source.n_symbols).log()
        return F.pad(log_p, (0, 1)).float()
