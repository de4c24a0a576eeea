"""A small vision-language model with the paper's parts: tile encoder, projector, decoder, Region Focus Module."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from torch import Tensor

HEAD_DIM = 24
WAVES = 4  # half waves over a picture that say where a token lies
GAIN = 1.5  # of the first queries, keys and outputs
STRIDE = 8  # pixels a token of the encoder stands for along each side


def rotary(x: Tensor, positions: Tensor) -> Tensor:
    """RoPE, base 10,000, of neighbouring pairs: x (B, H, T, D), positions (B, T) or (1, T)."""
    pairs = x.shape[-1] // 2
    rates = 10_000.0 ** (-torch.arange(pairs, device=x.device) / pairs)
    angle = positions[:, None, :, None] * rates
    turned = torch.view_as_complex(x.unflatten(-1, (pairs, 2)).float()) * torch.polar(torch.ones_like(angle), angle)
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


class Block(nn.Module):
    """Pre-norm attention and a gated MLP, as in the language models of the paper."""

    def __init__(self, dim: int, mlp: int = 2) -> None:
        super().__init__()
        if dim % HEAD_DIM:
            raise ReprobookError(f"dim must be a multiple of {HEAD_DIM}, got {dim}")
        self.heads = dim // HEAD_DIM
        self.norm1, self.norm2 = nn.RMSNorm(dim), nn.RMSNorm(dim)
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        self.gate, self.up = nn.Linear(dim, mlp * dim, bias=False), nn.Linear(dim, mlp * dim, bias=False)
        self.down = nn.Linear(mlp * dim, dim, bias=False)

    @torch.no_grad()
    def start(self, blind: bool) -> None:
        """Weights at first: like attends to like, and what is attended to is copied. ``blind``: nothing is, ever."""
        self.q.weight.mul_(GAIN)
        self.k.weight.copy_(self.q.weight)
        self.out.weight.copy_(GAIN * self.v.weight.T)
        if blind:
            self.out.weight.zero_().requires_grad_(False)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, HEAD_DIM)).transpose(1, 2)

    def forward(self, x: Tensor, positions: Tensor, causal: bool = True, mask: Tensor | None = None) -> Tensor:
        """(B, T, dim) -> the same, with positions (B, T). ``mask`` (T, T), in place of ``causal``: who sees whom."""
        h = self.norm1(x)
        q, k = (rotary(self._split(part(h)), positions) for part in (self.q, self.k))
        causal = causal and mask is None
        mixed = F.scaled_dot_product_attention(q, k, self._split(self.v(h)), attn_mask=mask, is_causal=causal)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))

    def logits(self, x: Tensor, positions: Tensor, at: Tensor) -> Tensor:
        """(B, H, Q, T) attention logits of the tokens ``at`` (B, Q) on *all* tokens, the later ones too."""
        h = self.norm1(x)
        k = rotary(self._split(self.k(h)), positions)
        asking = h.gather(1, at[..., None].expand(-1, -1, h.shape[-1]))
        q = rotary(self._split(self.q(asking)), positions.expand(len(at), -1).gather(1, at))
        return q @ k.transpose(2, 3) / math.sqrt(HEAD_DIM)


class TileEncoder(nn.Module):
    """Tiles (n, B, B, 3) uint8 -> (n, g, g, dim), g = B / 8: three convolutions and a transformer block inside each
    tile, then the projector (two layers, GELU) to the language model's width."""

    def __init__(self, tile: int, dim: int) -> None:
        super().__init__()
        if tile % (2 * STRIDE):
            raise ReprobookError(f"tile must be a multiple of {2 * STRIDE}, got {tile}")
        widths = [3, 24, 48, dim]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in itertools.pairwise(widths))
        self.place = nn.Parameter(torch.randn((tile // STRIDE) ** 2, dim) * 0.02)
        self.block = Block(dim)
        self.projector = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))

    def patches(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """(n, g * g, dim) before the block, and their positions for it."""
        x = tiles.permute(0, 3, 1, 2).to(self.place.dtype) / 127.5 - 1
        for k, conv in enumerate(self.convs):
            x = conv(x) if k == len(self.convs) - 1 else F.gelu(conv(x))
        x = x.flatten(2).transpose(1, 2) + self.place
        return x, torch.arange(x.shape[1], device=x.device)[None]

    def forward(self, tiles: Tensor) -> Tensor:
        """See the class."""
        x, positions = self.patches(tiles)
        x = self.projector(self.block(x, positions, causal=False))
        side = math.isqrt(x.shape[1])
        return x.unflatten(1, (side, side))

    def received(self, tiles: Tensor) -> Tensor:
        """(n, g, g) attention that each token gets from its tile, mean over heads and queries: what stands here for the
        class token's attention, which reducers inside CLIP go by."""
        x, positions = self.patches(tiles)
        weights = self.block.logits(x, positions, positions.expand(len(x), -1)).softmax(-1).mean((1, 2))
        side = math.isqrt(x.shape[1])
        return weights.unflatten(1, (side, side))


def pooled(features: Tensor) -> Tensor:
    """(n, g, g, d) -> (n, g/2, g/2, d): bilinear, which at half size is the mean of four."""
    half = features.shape[1] // 2
    x = F.interpolate(features.permute(0, 3, 1, 2), size=(half, half), mode="bilinear", align_corners=False)
    return x.permute(0, 2, 3, 1)


class Naming(nn.Module):
    """The model's tokens read by its own words: the stand-in for the pre-training on captions that CLIP and the
    projector bring along. ``words``: for each thing that a pooled token can be asked, the words that may answer;
    behind them a vector of its own stands for *none of these*."""

    def __init__(self, model: VisionLanguage, words: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        self.encoder, self.words, self.norm, self.asked = model.encoder, model.words, model.norm, dict(words)
        dim = model.words.embedding_dim
        self.none = nn.ParameterDict({name: nn.Parameter(torch.randn(1, dim) * 0.05) for name in words})

    def forward(self, tiles: Tensor) -> dict[str, Tensor]:
        """Logits (n, c, c, words + 1) by name."""
        return self.named(pooled(self.encoder(tiles)))

    def named(self, tokens: Tensor) -> dict[str, Tensor]:
        """The same of tokens (..., d) as the encoder gives them: (..., words + 1)."""
        rows = {name: torch.cat([self.words.weight[list(each)], self.none[name]]) for name, each in self.asked.items()}
        return {name: F.linear(self.norm(tokens), row) for name, row in rows.items()}

    def likeness(self, tokens: Tensor, text: Sequence[int]) -> Tensor:
        """(n,) how well tokens (n, d) fit the words of a question that can be named: sum of their log-probabilities."""
        total = tokens.new_zeros(len(tokens))
        for name, logits in self.named(tokens).items():
            for k in (k for k, word in enumerate(self.asked[name]) if word in text):
                total = total + logits.log_softmax(-1)[:, k]
        return total


def with_newlines(features: Tensor, cells: Tensor, newline: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens (n, d) at cells (n, 2) of a grid in reading order, a newline behind each row that has a token, and the
    place of every token in what comes out."""
    wide = int(cells[:, 1].max()) + 2 if len(cells) else 1
    rows = cells[:, 0].unique()
    order = torch.cat([cells[:, 0] * wide + cells[:, 1], rows * wide + wide - 1]).argsort()
    return torch.cat([features, newline.expand(len(rows), -1)])[order], order.argsort()[: len(features)]


class Built(NamedTuple):
    """One sequence of embeddings (1, T, d): thumbnail, separator, local tokens with newlines, question. ``local``: (n,)
    where the local tokens stand, without newlines; ``vision``: (m,) where thumbnail and local tokens stand."""

    x: Tensor
    local: Tensor
    vision: Tensor


class VisionLanguage(nn.Module):
    """The whole model. ``pairs``: layers of the language model that teach; the module's blocks start as copies of the
    layers [pairs[0] - 1, *pairs]. The first layer attends to nothing: a question is read before a picture."""

    def __init__(self, n_words: int, *, tile: int = 32, dim: int = 96, n_layers: int = 4,
                 pairs: Sequence[int] = (1, 2, 3)) -> None:  # fmt: skip
        super().__init__()
        if list(pairs) != sorted(set(pairs)) or not pairs or not 1 <= pairs[0] <= pairs[-1] < n_layers:
            raise ReprobookError(f"pairs must rise within 1 and {n_layers - 1} (the layers), got {list(pairs)}")
        self.tile, self.per_tile, self.pairs = tile, tile // STRIDE // 2, tuple(pairs)
        self.encoder = TileEncoder(tile, dim)
        self.words = nn.Embedding(n_words, dim)
        self.newline, self.colon = (nn.Parameter(torch.randn(dim) * 0.02) for _ in range(2))
        blocks = [Block(dim) for _ in range(n_layers)]
        for k, block in enumerate(blocks):
            block.start(blind=k == 0)
        self.layers: Any = nn.ModuleList(blocks)
        self.norm = nn.RMSNorm(dim)
        self.where = nn.Linear(4 * WAVES, dim, bias=False)
        nn.init.normal_(self.words.weight, std=0.05)
        nn.init.normal_(self.where.weight, std=0.02)
        self.focus: Any = nn.ModuleList(copy.deepcopy(self.layers[k]) for k in (pairs[0] - 1, *pairs))

    # ------------------------------------------------------------------------------------------- sequences

    def encode(self, tiles: Tensor) -> Tensor:
        """Tiles (n, B, B, 3) -> local tokens (n, c, c, d), c = ``per_tile``."""
        return pooled(self.encoder(tiles))

    def asking(self, text: Tensor) -> Tensor:
        """(..., W) words of questions -> (..., W, d): each word with all before it, so that the last one stands for the
        question. A large language model would have read it so far."""
        return self.words(text).cumsum(-2)

    def whereabouts(self, cells: Tensor, grid: tuple[int, int]) -> Tensor:
        """(n, d) what is added to the tokens at ``cells`` (n, 2) of ``grid``: waves over the picture's height and
        width, the same for every level. A large language model counts newlines; this one is too small for that."""
        at = (cells + 0.5) / torch.tensor(grid, device=cells.device)
        angle = math.pi * at[..., None] * torch.arange(1, WAVES + 1, device=cells.device)
        return self.where(torch.cat([angle.sin(), angle.cos()], -1).flatten(1))

    def sequence(self, thumbnail: Tensor, features: Tensor, cells: Tensor, text: Tensor) -> Built:
        """``thumbnail`` (1, B, B, 3) tile; local ``features`` (n, d) at ``cells`` (n, 2) of the level's grid, in any
        order, and one newline behind each row of it that has a token; ``text`` (L,) words."""
        shown = self.encoder(thumbnail).flatten(0, 2)
        local, at = with_newlines(features, cells, self.newline)
        x = torch.cat([shown, self.colon[None], local, self.asking(text)])[None]
        at = len(shown) + 1 + at
        return Built(x, at, torch.cat([torch.arange(len(shown), device=x.device), at]))

    def read(self, x: Tensor, prune: Mapping[int, Callable[[Tensor], Tensor]] | None = None) -> Tensor:
        """Logits (B, V) of the word after the last token of x (B, T, d). ``prune``: before layer k the function gets
        the layer's attention logits (T,) of the last token, mean over heads after a softmax, and says which tokens
        stay, as indices into the *original* sequence."""
        positions = torch.arange(x.shape[1], device=x.device)[None]
        for k, layer in enumerate(self.layers):
            if prune and k in prune:
                last = torch.full((len(x), 1), x.shape[1] - 1, device=x.device)
                weights = layer.logits(x, positions, last).softmax(-1).mean(1)[0, 0]
                full = weights.new_full((int(positions.max()) + 1,), -1.0).index_copy(0, positions[0], weights)
                keep = torch.isin(positions[0], prune[k](full))
                x, positions = x[:, keep], positions[:, keep]
            x = layer(x, positions)
        return F.linear(self.norm(x[:, -1]), self.words.weight)

    # ------------------------------------------------------------------------------------------- the module

    def focus_logits(self, x: Tensor, at: Tensor, positions: Tensor | None = None,
                     mask: Tensor | None = None) -> list[Tensor]:  # fmt: skip
        """The module on the sequence x (B, T, d), from which no gradient flows back: after its block i, the attention
        logits (B, H, Q, T) that block i + 1 gives the tokens ``at`` (B, Q). The last ones rank tiles and tokens.
        ``positions`` (1, T) and ``mask``: see :func:`turn_by_turn`; without them one question follows the picture."""
        x = x.detach()
        positions = torch.arange(x.shape[1], device=x.device)[None] if positions is None else positions
        found = []
        for block, after in zip(self.focus[:-1], self.focus[1:], strict=True):
            x = block(x, positions, mask=mask)
            found.append(after.logits(x, positions, at))
        return found

    def teacher_logits(self, x: Tensor, at: Tensor, layers: Sequence[int] | None = None) -> list[Tensor]:
        """The same of the language model's ``layers``, rising; without them those that teach."""
        positions = torch.arange(x.shape[1], device=x.device)[None]
        found, chosen = [], layers or self.pairs
        for k, layer in enumerate(self.layers[: chosen[-1] + 1]):
            if k in chosen:
                found.append(layer.logits(x, positions, at))
            x = layer(x, positions)
        return found

    # ------------------------------------------------------------------------------------------- training

    def forward(
        self, thumbnails: Tensor, tiles: Tensor, text: Tensor, at: Tensor, grid: tuple[int, int]
    ) -> tuple[Tensor, list[Tensor], list[Tensor], slice, slice]:
        """Training on thumbnail and first level. ``thumbnails`` (b, B, B, 3), ``tiles`` (b, R * C, B, B, 3) of the grid
        R x C, ``text`` (b, Q * W) words of Q questions that do not see each other, ``at`` (b, Q) places in the text of
        the last word of each question.

        Returns logits (b, Q, V) of the answers, attention logits of teacher (detached) and module, layer by layer, and
        where thumbnail and local tokens stand (newlines included in the latter's stretch; see :func:`local_places`)."""
        b, (rows, cols), c = len(tiles), grid, self.per_tile
        shown = self.encoder(thumbnails).flatten(1, 2)
        local = self.encode(tiles.flatten(0, 1)).unflatten(0, (b, rows, cols))
        local = local.permute(0, 1, 3, 2, 4, 5).reshape(b, rows * c, cols * c, -1)
        cells = torch.cartesian_prod(torch.arange(rows * c), torch.arange(cols * c)).to(local.device)
        local = local + self.whereabouts(cells, (rows * c, cols * c)).view(local.shape[1:])
        local = torch.cat([local, self.newline.expand(b, rows * c, 1, -1)], 2).flatten(1, 2)
        asking = self.asking(text.unflatten(1, (at.shape[1], -1))).flatten(1, 2)
        x = torch.cat([shown, self.colon.expand(b, 1, -1), local, asking], 1)
        start = shown.shape[1] + 1
        positions, mask = turn_by_turn(start + local.shape[1], at.shape[1], text.shape[1] // at.shape[1])
        positions, mask = positions.to(x.device), mask.to(x.device)
        at = at + start + local.shape[1]
        student = self.focus_logits(x, at, positions, mask)
        teacher = []
        for k, layer in enumerate(self.layers):
            if k in self.pairs:
                with torch.no_grad():
                    teacher.append(layer.logits(x, positions, at))
            x = layer(x, positions, mask=mask)
        asked = self.norm(x).gather(1, at[..., None].expand(-1, -1, x.shape[-1]))
        logits = F.linear(asked, self.words.weight)
        return logits, teacher, student, slice(0, start - 1), slice(start, start + local.shape[1])


def turn_by_turn(n_vision: int, n_turns: int, width: int) -> tuple[Tensor, Tensor]:
    """Positions (1, T) and mask (T, T) of a picture's ``n_vision`` tokens and ``n_turns`` questions of ``width`` words
    behind it. Each question sees the picture and itself, and stands where it stands when it is asked alone: the answer
    of one would otherwise give away that of another."""
    turn = torch.cat([torch.full((n_vision,), -1), torch.arange(n_turns).repeat_interleave(width)])
    positions = torch.cat([torch.arange(n_vision), n_vision + torch.arange(width).repeat(n_turns)])
    before = torch.ones(len(turn), len(turn), dtype=torch.bool).tril()
    return positions[None], before & ((turn == -1) | (turn[:, None] == turn))


def local_places(stretch: slice, width: int) -> Tensor:
    """Where the local tokens of a whole grid stand: every ``width`` tokens of ``stretch`` a newline follows."""
    places = torch.arange(stretch.start, stretch.stop)
    return places[(places - stretch.start) % (width + 1) < width]
