r"""AQLM (Egiazarian et al., 2024) of one linear layer: additive codes, Adam on codebooks and scales, beam search.

A weight W (d_out, d_in) is cut into groups of g consecutive columns. Each group of each row is a sum of one word from
each of M codebooks of 2^B words, times the row's scale:

.. math:: \hat W_{i,\,jg:(j+1)g} = s_i \sum_{m=1}^{M} C_m[b_{i,j,m}]

Codes, codebooks and scales make :math:`\frac{1}{d_{out}}\mathrm{tr}[(\hat W-W)\,G\,(\hat W-W)^\top]` small, where
G = X X^T / number of tokens and X are the layer's inputs on the calibration text.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional as F

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from torch import Tensor

MOST_BITS = 16  # codes are stored as int8 or int16
EPS = 1e-9  # added to a row's norm: a row of zeros has a scale, too
CHUNK = 16  # groups whose inner products with the error are formed by one matrix product
ROWS = 1 << 11  # vectors whose distances to all words are formed at a time: the table stays in the cache


@dataclass(frozen=True)
class Format:
    """M codebooks of 2^B words over groups of g columns: ``Format(2, 15)`` is the study's 2x15, its "4 bits"."""

    n_codebooks: int
    bits: int = 8
    group: int = 8

    def __post_init__(self) -> None:
        if self.n_codebooks < 1 or self.group < 1:
            raise ReprobookError(f"n_codebooks and group must be at least 1, got {self.n_codebooks} and {self.group}")
        if not 1 <= self.bits <= MOST_BITS:
            raise ReprobookError(f"bits is {self.bits}; codes are int8 or int16, so 1 to {MOST_BITS} are allowed")

    def check(self, d_in: int, name: str = "the layer") -> None:
        """Raise :class:`ReprobookError` if the group does not divide the ``d_in`` columns of a layer."""
        if d_in % self.group:
            raise ReprobookError(f"{name} has {d_in} inputs, which groups of {self.group} do not divide")

    def __str__(self) -> str:
        return f"{self.n_codebooks}x{self.bits}g{self.group}"


@dataclass(frozen=True)
class Search:
    """How a layer is fitted. The defaults are the study's: AQLM's own with a tolerance of 0.01.

    ``kmeans_points``: groups that train a codebook's words (None: all). ``scale_lr``: multiply ``lr`` by
    sqrt(4096 / d_in), since entries of W / s are about 1 / sqrt(d_in) and 1e-4 suits widths of about 4,096.
    """

    kmeans_iterations: int = 100
    kmeans_points: int | None = None
    max_epochs: int = 1000
    steps: int = 100
    lr: float = 1e-4
    scale_lr: bool = False
    tolerance: float = 0.01
    beam: int = 1

    def __post_init__(self) -> None:
        lowest = {"kmeans_iterations": 1, "max_epochs": 0, "steps": 0, "beam": 1}
        for name, low in lowest.items():
            if getattr(self, name) < low:
                raise ReprobookError(f"{name} is {getattr(self, name)}; it must be at least {low}")
        if not (self.lr > 0 and 0 <= self.tolerance < 1):
            raise ReprobookError(f"lr must be above 0 and tolerance in [0, 1), got {self.lr} and {self.tolerance}")


@dataclass
class Additive:
    """A weight in AQLM's form: ``codes`` (d_out, d_in / g, M) int32, ``codebooks`` (M, 2^B, g), ``scales`` (d_out,)."""

    codes: Tensor
    codebooks: Tensor
    scales: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in) of the weight."""
        return self.codes.shape[0], self.codes.shape[1] * self.codebooks.shape[2]

    def weight(self) -> Tensor:
        """The weight (d_out, d_in) that the codes stand for; differentiable in codebooks and scales."""
        return sums(self.codes, self.codebooks).view(self.shape) * self.scales[:, None]


class Fitted(NamedTuple):
    """A layer's codes and how the objective fell: (stage, value) in order; stages ``residual k-means``, ``Adam``,
    ``beam search``."""

    layer: Additive
    history: list[tuple[str, float]]


def sums(codes: Tensor, codebooks: Tensor) -> Tensor:
    """Sum over codebooks of the words that ``codes`` (..., M) name: (number of groups, g)."""
    return F.embedding_bag(_flat(codes, codebooks.shape[1]), codebooks.flatten(0, 1), mode="sum")


def _flat(codes: Tensor, words: int) -> Tensor:
    """Codes (groups, M) as rows of the codebooks laid one below the other."""
    offsets = torch.arange(codes.shape[-1], device=codes.device, dtype=codes.dtype) * words
    return codes.reshape(-1, codes.shape[-1]) + offsets


def objective(w: Tensor, quantised: Tensor, gram: Tensor) -> float:
    """tr[(W^ - W) G (W^ - W)^T] / d_out: the mean squared error of the layer's output, summed over a row's inputs."""
    d = quantised - w
    return ((d @ gram) * d).sum(dtype=torch.float64).item() / len(w)


def check_inputs(w: Tensor, gram: Tensor, name: str = "the layer") -> None:
    """Raise :class:`ReprobookError` for a G that does not fit the weight, or one of activations that are not finite."""
    if gram.shape != (w.shape[1], w.shape[1]):
        raise ReprobookError(f"{name} has {w.shape[1]} inputs, but its G is {list(gram.shape)}")
    if not (torch.isfinite(gram.sum()) and torch.isfinite(w.sum())):
        raise ReprobookError(f"{name}: weights or activations hold NaN or infinities; the calibration text or the "
                             "precision of the model is at fault")  # fmt: skip


# ------------------------------------------------------------------------------------------------------ initialisation


def kmeans(points: Tensor, k: int, iterations: int, generator: torch.Generator) -> Tensor:
    """Lloyd's algorithm: centres (k, g) of points (n, g), from random points; an empty cluster keeps its centre.
    Every tenth iteration looks whether the centres still move."""
    picked = torch.randperm(len(points), generator=generator)[:k].to(points.device)
    centres = points[picked]
    if len(picked) < k:
        centres = torch.cat([centres, centres[torch.arange(k - len(picked)) % len(picked)]])
    for i in range(iterations):
        nearest = assign(points, centres)
        total = torch.zeros_like(centres).index_add_(0, nearest, points)
        count = torch.bincount(nearest, minlength=k)[:, None]
        moved = torch.where(count > 0, total / count.clamp_min(1), centres)
        still = i % 10 == 0 and torch.allclose(moved, centres, rtol=1e-6, atol=1e-8)
        centres = moved
        if still:
            break
    return centres


def assign(points: Tensor, centres: Tensor) -> Tensor:
    """Index (n,) of the centre nearest to each point."""
    half = centres.square().sum(1) / 2
    parts = [_argmin(torch.addmm(half, part, centres.T, alpha=-1)) for part in points.split(ROWS)]
    return torch.cat(parts)


def _argmin(table: Tensor) -> Tensor:
    """Column of the lowest value of each row; on the CPU numpy finds it several times as fast as torch."""
    return table.argmin(1) if table.is_cuda else torch.from_numpy(table.numpy().argmin(1))


@torch.no_grad()
def residual_kmeans(w: Tensor, form: Format, search: Search, generator: torch.Generator) -> Additive:
    """Scales are the rows' norms; each codebook is the k-means of what the ones before it left of W / s."""
    scales = w.norm(dim=1) + EPS
    left = (w / scales[:, None]).reshape(-1, form.group)
    codebooks, codes = [], []
    for _ in range(form.n_codebooks):
        points = left
        if search.kmeans_points is not None and search.kmeans_points < len(left):
            picked = torch.randperm(len(left), generator=generator)[: search.kmeans_points]
            points = left[picked.to(left.device)]
        words = kmeans(points, 2**form.bits, search.kmeans_iterations, generator)
        nearest = assign(left, words)
        left = left - words[nearest]
        codebooks.append(words)
        codes.append(nearest.int())
    return Additive(torch.stack(codes, 1).view(len(w), -1, form.n_codebooks), torch.stack(codebooks), scales)


# ------------------------------------------------------------------------------------------------ codebooks and scales


class Gradient:
    """Value and gradient of the objective in codebooks and scales for fixed codes.

    With D = W - W^ and P = D G: the derivative in W^ is -2 P / d_out; a word collects it from all groups that use it,
    times the rows' scales, and a scale collects its product with the row of sums of words.
    """

    def __init__(self, w: Tensor, gram: Tensor, codes: Tensor, words: int) -> None:
        self.w, self.gram, self.codes = w, gram, codes
        flat = _flat(codes, words)
        n, m = flat.shape
        order = torch.argsort(flat.T.reshape(-1), stable=True)
        ends = torch.bincount(flat.reshape(-1), minlength=m * words).cumsum(0)
        starts = torch.cat([ends.new_zeros(1), ends])
        ones = torch.ones(n * m, device=w.device, dtype=w.dtype)
        with warnings.catch_warnings():  # torch calls this layout a beta
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
            self.users = torch.sparse_csr_tensor(
                starts.int(), (order % n).int(), ones, (m * words, n), check_invariants=False
            )  # fmt: skip

    def __call__(self, codebooks: Tensor, scales: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(objective, gradient in codebooks, gradient in scales)."""
        u = sums(self.codes, codebooks).view(self.w.shape)
        d = torch.addcmul(self.w, u, scales[:, None], value=-1)
        p = d @ self.gram
        n = len(self.w)
        value = (p * d).sum() / n
        by_scale = (p * u).sum(1) * (-2 / n)
        p *= scales[:, None] * (-2 / n)
        return value, (self.users @ p.view(-1, codebooks.shape[2])).view_as(codebooks), by_scale


# --------------------------------------------------------------------------------------------------------- beam search


@torch.no_grad()
def beam_search(w: Tensor, gram: Tensor, layer: Additive, beam: int, generator: torch.Generator) -> Tensor:
    r"""Better codes (d_out, d_in / g, M) for fixed codebooks and scales; with a beam of 1 the objective never rises.

    Groups are visited in random order and inside a group the codebooks in random order; at each visit and for each row
    by itself, all 2^B words are tried in this one place. Replacing word :math:`c_0` by c in columns J changes a row's
    squared error by

    .. math:: \Delta = -2s\,\langle c-c_0,\,(DG)_J\rangle+s^2\,(c^\top G_{JJ}c-c_0^\top G_{JJ}c_0)

    with D the row's error without this word: all of G counts. For each row the ``beam`` best of (hypothesis, word) go
    on. Rows are kept divided by their scales, so s drops out of the comparison. Products D G are formed for ``CHUNK``
    groups at once and corrected for what changes inside the chunk, which leaves the search exactly the same.
    """
    g, n_rows = layer.codebooks.shape[2], len(w)
    n_groups, n_books = layer.codes.shape[1:]
    error = w / layer.scales[:, None] - sums(layer.codes, layer.codebooks).view(w.shape)
    codes = layer.codes.permute(1, 2, 0).long()  # (groups, books, rows): a visit reads one contiguous line
    state = _Beam(error, codes.contiguous(), ((error @ gram) * error).sum(1)[None], error[:, :0])
    minus_twice = [(-2 * book.T).contiguous() for book in layer.codebooks]
    order = torch.randperm(n_groups, generator=generator).tolist()
    for start in range(0, n_groups, CHUNK):
        chunk = order[start : start + CHUNK]
        columns = torch.tensor([j * g + k for j in chunk for k in range(g)], device=w.device)
        inner = gram[columns][:, columns]
        state.products = state.error @ gram[:, columns]
        for place, j in enumerate(chunk):
            here = slice(place * g, (place + 1) * g)
            before = state.products[:, here].contiguous()
            products, moved = before, torch.zeros_like(before)
            for m in torch.randperm(n_books, generator=generator).tolist():
                book = layer.codebooks[m]
                words = book @ inner[here, here]
                squares = (words * book).sum(1)
                old = state.codes[j, m].clone()
                old_words = words[old]
                table = torch.addmm(squares, products + old_words, minus_twice[m])
                parent, new = state.choose(table, old, n_rows, beam)
                if parent is not None:
                    state.keep(parent)
                    products, moved, old, old_words = (x[parent] for x in (products, moved, old, old_words))
                state.codes[j, m] = new
                products = products - words[new] + old_words
                moved += book[new] - book[old]
            state.error[:, j * g : (j + 1) * g] -= moved
            later = slice((place + 1) * g, None)
            state.products[:, later].addmm_(moved, inner[here, later], alpha=-1)
    best = state.losses.argmin(0) * n_rows + torch.arange(n_rows, device=w.device)
    return state.codes[:, :, best].permute(2, 0, 1).contiguous().int()


@dataclass
class _Beam:
    """Hypotheses of every row, hypothesis by hypothesis: line h * rows + i is hypothesis h of row i."""

    error: Tensor  # (lines, d_in), rows divided by their scales
    codes: Tensor  # (groups, books, lines)
    losses: Tensor  # (hypotheses, rows), divided by the squared scales
    products: Tensor  # (lines, columns of the chunk): error times G

    def choose(self, table: Tensor, old: Tensor, n_rows: int, beam: int) -> tuple[Tensor | None, Tensor]:
        """Lines to go on from (None: all as they are) and the new word of each, from the table (lines, 2^B) of changes
        up to a constant of the line."""
        if beam == 1:
            return None, _argmin(table)
        table = table - table.gather(1, old[:, None]) + self.losses.reshape(-1, 1)
        words = table.shape[1]
        wide = table.view(-1, n_rows, words).transpose(0, 1).reshape(n_rows, -1)
        best = wide.topk(min(beam, wide.shape[1]), dim=1, largest=False)
        self.losses = best.values.T.contiguous()
        lines = best.indices // words * n_rows + torch.arange(n_rows, device=table.device)[:, None]
        return lines.T.reshape(-1), (best.indices % words).T.reshape(-1)

    def keep(self, lines: Tensor) -> None:
        """Go on from these lines alone."""
        self.error, self.products, self.codes = self.error[lines], self.products[lines], self.codes[:, :, lines]


# ----------------------------------------------------------------------------------------------------------- one layer


@torch.no_grad()
def fit(
    w: Tensor, gram: Tensor, form: Format, search: Search, seed: int, name: str = "the layer",
    start: Additive | None = None,
) -> Fitted:  # fmt: skip
    """AQLM of one weight: residual k-means; then epochs of Adam on codebooks and scales and a beam search over codes.

    An epoch begins by looking at the objective: unless it fell by more than the tolerance since the best epoch's
    start, the search ends there, so the last act is a beam search. Adam (betas 0 and 0.95, AMSGrad) keeps its state
    over the epochs. ``w`` (d_out, d_in) and ``gram`` are taken in fp32. ``start``: a residual k-means made before; it
    depends on W alone. Raises :class:`ReprobookError` for shapes or numbers that cannot be used.
    """
    form.check(w.shape[1], name)
    check_inputs(w, gram, name)
    w, gram = w.float(), gram.float()
    generator = torch.Generator().manual_seed(seed)
    start = start or residual_kmeans(w, form, search, torch.Generator().manual_seed(seed))
    layer = Additive(start.codes, start.codebooks.clone(), start.scales.clone())
    history = [("residual k-means", objective(w, layer.weight(), gram))]
    lr = search.lr * (math.sqrt(4096 / w.shape[1]) if search.scale_lr else 1)
    optimiser = torch.optim.Adam([layer.codebooks, layer.scales], lr=lr, betas=(0.0, 0.95), amsgrad=True)
    best = math.inf
    for _ in range(search.max_epochs):
        value = history[-1][1]
        if not value < (1 - search.tolerance) * best:
            break
        best = value
        gradient = Gradient(w, gram, layer.codes, 2**form.bits)
        for _ in range(search.steps):
            _, layer.codebooks.grad, layer.scales.grad = gradient(layer.codebooks, layer.scales)
            optimiser.step()
        history.append(("Adam", objective(w, layer.weight(), gram)))
        layer.codes = beam_search(w, gram, layer, search.beam, generator)
        history.append(("beam search", objective(w, layer.weight(), gram)))
        if not math.isfinite(history[-1][1]):
            raise ReprobookError(f"{name}: the objective is {history[-1][1]}; lower lr ({search.lr})")
    return Fitted(layer, history)
