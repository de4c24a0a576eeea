"""The policy: a small vision encoder for cards, a causal decoder that writes the response, a head for the value.

A table is read as one token a number on it and one token a symbol of the prompt; the response follows. Rows of a batch
have prompts of one length, so that place k means the same in all of them; what is blank is masked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn
from torch.nn import functional as f

from reprobook.errors import ReprobookError
from reprobook.papers.gtr.cards import PLACES, SIDE

if TYPE_CHECKING:
    from torch import Tensor

PAD_ID = 0
END_ID = 1


@dataclass(frozen=True)
class Shape:
    """Sizes of a policy: numbers on a table, symbols of a prompt, tokens of a response at most, width, layers."""

    n_places: int
    n_prompt: int
    n_new: int
    vocabulary: int
    width: int = 64
    n_layers: int = 2
    n_heads: int = 2


class Eye(nn.Module):
    """Two convolutions over each digit of a number, at half its resolution, and one vector for the number."""

    def __init__(self, width: int, channels: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.AvgPool2d(2), nn.Conv2d(1, channels, 5, stride=2, padding=2), nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
        )  # fmt: skip
        self.out = nn.Linear(PLACES * 2 * channels * 16, width)

    def forward(self, pictures: Tensor) -> Tensor:
        """pictures: (..., 2, 28, 28) in [0, 1] -> (..., width)."""
        seen = self.layers(pictures.reshape(-1, 1, SIDE, SIDE))
        return self.out(seen.reshape(*pictures.shape[:-3], -1))


class Block(nn.Module):
    """Causal self-attention and a two-layer network, both behind a norm."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(
        self, x: Tensor, mask: Tensor, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x: (B, T, width); mask: (B, 1, T, S), True where a key may be seen; past: keys and values (B, heads, S - T,
        w)."""
        b, t, width = x.shape
        q, k, v = self.qkv(self.norms[0](x)).view(b, t, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        seen = f.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.mix(seen.transpose(1, 2).reshape(b, t, width))
        return x + self.down(f.relu(self.up(self.norms[1](x)))), (k, v)


class Written(NamedTuple):
    """Responses as sampled: ids (B, T), ``PAD_ID`` behind ``END_ID``; lengths (B,) with the end; log-probabilities of
    the tokens (B, T) and entropies (B, T) at the sampling temperature, 0 behind the end; values (B,)."""

    ids: Tensor
    lengths: Tensor
    logp: Tensor
    entropy: Tensor
    values: Tensor


class Policy(nn.Module):
    """Writes a response to a table, and says what the table is worth."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        if shape.width % shape.n_heads:
            raise ReprobookError(f"width is {shape.width}; it must be a multiple of {shape.n_heads}")
        self.shape = shape
        n = shape.n_places + shape.n_prompt
        self.eye = Eye(shape.width)
        self.words = nn.Embedding(shape.vocabulary, shape.width)
        self.places = nn.Parameter(0.02 * torch.randn(n + shape.n_new, shape.width))
        self.blocks = nn.ModuleList([Block(shape.width, shape.n_heads) for _ in range(shape.n_layers)])
        self.norm, self.out = nn.LayerNorm(shape.width), nn.Linear(shape.width, shape.vocabulary)
        self.value = nn.Sequential(nn.Linear(shape.width, shape.width), nn.ReLU(), nn.Linear(shape.width, 1))

    def _prompt(self, pictures: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor]:
        """Embedded prompts (B, n, width), and which of their places hold something (B, n). The last always does."""
        x = torch.cat([self.eye(pictures), self.words(prompt)], 1)
        there = torch.cat([pictures.flatten(2).amax(-1) > 0, prompt != PAD_ID], 1)
        there[:, -1] = True
        return x + self.places[: x.shape[1]], there

    def forward(self, pictures: Tensor, prompt: Tensor, response: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, T, vocabulary) of each token of ``response`` (B, T) given what is before it, and values (B,).

        pictures: (B, n_places, 2, 28, 28); prompt: (B, n_prompt) ids."""
        x, there = self._prompt(pictures, prompt)
        n, t = x.shape[1], response.shape[1]
        y = self.words(response[:, :-1]) + self.places[n : n + t - 1]
        hidden = torch.cat([x, y], 1)
        seen = torch.cat([there, there.new_ones(len(y), t - 1)], 1)
        mask = seen[:, None, None, :] & torch.ones(n + t - 1, n + t - 1, dtype=torch.bool, device=x.device).tril()
        mask = mask | torch.eye(n + t - 1, dtype=torch.bool, device=x.device)  # a blank place sees itself
        for block in self.blocks:
            hidden, _ = block(hidden, mask, None)
        hidden = self.norm(hidden[:, n - 1 :])
        return self._logits(hidden), self.value(hidden[:, 0]).squeeze(-1)

    def _logits(self, hidden: Tensor) -> Tensor:
        """Logits (..., vocabulary); padding is never written."""
        return self.out(hidden).index_fill(-1, torch.tensor([PAD_ID], device=hidden.device), -1e9)

    @torch.no_grad()
    def write(
        self,
        pictures: Tensor,
        prompt: Tensor,
        *,
        temperature: float,
        generator: torch.Generator,
        repetition: float = 1.0,
    ) -> Written:
        """Sample a response to each table, with keys and values kept; ``temperature`` 0 takes the likeliest token (its
        log-probabilities are those of temperature 1). ``repetition``: see :func:`penalised`; in sampling alone."""
        if temperature < 0 or repetition < 1:
            raise ReprobookError(
                f"temperature is {temperature} and repetition {repetition}; they must be >= 0 and >= 1"
            )
        x, there = self._prompt(pictures, prompt)
        b, n = x.shape[:2]
        mask = there[:, None, None, :] & torch.ones(n, n, dtype=torch.bool, device=x.device).tril()
        mask = mask | torch.eye(n, dtype=torch.bool, device=x.device)
        ids = torch.full((b, self.shape.n_new), PAD_ID, device=x.device)
        logp, entropy = torch.zeros(b, self.shape.n_new), torch.zeros(b, self.shape.n_new)
        going = torch.ones(b, dtype=torch.bool, device=x.device)
        written = torch.zeros(b, self.shape.vocabulary, dtype=torch.bool, device=x.device)
        values = torch.zeros(b)
        past: list[tuple[Tensor, Tensor] | None] = [None] * len(self.blocks)
        for t in range(self.shape.n_new):
            for k, block in enumerate(self.blocks):
                x, past[k] = block(x, mask, past[k])
            last = self.norm(x[:, -1])
            if t == 0:
                values = self.value(last).squeeze(-1)
            logits = self._logits(last)
            scaled = f.log_softmax(logits / (temperature or 1.0), -1)
            logits = penalised(logits, written, repetition)
            if temperature:
                odds = f.softmax(logits / temperature, -1)
                token = torch.multinomial(odds, 1, generator=generator).squeeze(1)
            else:
                token = logits.argmax(-1)
            ids[:, t] = torch.where(going, token, PAD_ID)
            logp[:, t] = torch.where(going, scaled.gather(1, token[:, None]).squeeze(1), 0.0)
            entropy[:, t] = torch.where(going, -(scaled.exp() * scaled).sum(-1), 0.0)
            written[torch.arange(b), token] = True
            going = going & (token != END_ID)
            if not bool(going.any()):
                break
            x = (self.words(token) + self.places[n + t])[:, None]
            there = torch.cat([there, there.new_ones(b, 1)], 1)
            mask = there[:, None, None, :]
        return Written(ids, (ids != PAD_ID).sum(1), logp, entropy, values)


def penalised(logits: Tensor, written: Tensor, repetition: float) -> Tensor:
    """The repetition penalty of text generators: logits (B, V) of tokens ``written`` before (mask (B, V)) are divided
    by it where positive, multiplied where negative."""
    return torch.where(written, torch.where(logits > 0, logits / repetition, logits * repetition), logits)


def token_logp(logits: Tensor, response: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probabilities (B, T) of the tokens of ``response`` (B, T), 0 at ``PAD_ID``; logits: (B, T, vocabulary)."""
    found = f.log_softmax(logits / temperature, -1).gather(2, response[..., None]).squeeze(-1)
    return found * (response != PAD_ID)
