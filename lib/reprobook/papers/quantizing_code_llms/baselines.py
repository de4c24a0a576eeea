"""What AQLM is compared with, at equal effective bits: rounding to nearest, k-means, and a column update.

A quantiser is called with a layer's name, its weight W (d_out, d_in) and G = X X^T / tokens, and returns the new
weight: a tensor, or AQLM's form of it. All of them get the same G; rounding and k-means do not look at it.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch

from reprobook.errors import ReprobookError
from reprobook.papers.quantizing_code_llms.aqlm import Additive, check_inputs, fit, residual_kmeans

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.papers.quantizing_code_llms.aqlm import Format, Search


class Quantiser(Protocol):
    """A way to quantise one layer; its ``repr`` tells two of them apart."""

    def __call__(self, name: str, w: Tensor, gram: Tensor) -> Additive | Tensor:
        """The layer's new weight."""
        ...


@dataclass(frozen=True)
class Grid:
    """2^bits equally spaced values between the lowest and the highest weight of a group of columns of a row."""

    bits: int
    group: int

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 16:
            raise ReprobookError(f"bits is {self.bits}; 1 to 16 are allowed")
        if self.group < 1:
            raise ReprobookError(f"group is {self.group}; it must be at least 1")

    def check(self, d_in: int, name: str) -> None:
        """Raise :class:`ReprobookError` if the group does not divide the ``d_in`` columns of a layer."""
        if d_in % self.group:
            raise ReprobookError(f"{name} has {d_in} inputs, which groups of {self.group} do not divide")

    def lay(self, w: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """(zero point, step) of the grids of groups that lie along ``dim``; 0 is the value with the number of the zero
        point."""
        low, high = w.amin(dim, keepdim=True).clamp_max(0), w.amax(dim, keepdim=True).clamp_min(0)
        step = ((high - low) / (2**self.bits - 1)).clamp_min(1e-12)
        return torch.round(-low / step), step

    def nearest(self, w: Tensor, zero: Tensor, step: Tensor) -> Tensor:
        """Grid values next to ``w``."""
        return w.div(step).round_().clamp_(-zero, 2**self.bits - 1 - zero).mul_(step)


@dataclass(frozen=True)
class RoundToNearest:
    """Every weight to the nearest value of its group's grid."""

    grid: Grid

    def __call__(self, name: str, w: Tensor, gram: Tensor) -> Tensor:
        """The rounded weight; ``gram`` is only checked."""
        check_inputs(w, gram, name)
        return self.rounded(name, w)

    def rounded(self, name: str, w: Tensor) -> Tensor:
        """The rounded weight, for which no text is needed."""
        self.grid.check(w.shape[1], name)
        groups = w.float().view(len(w), -1, self.grid.group)
        return self.grid.nearest(groups, *self.grid.lay(groups, 2)).view(w.shape)


@dataclass(frozen=True)
class KMeans:
    """Codes of a k-means in the space of weights (residual, where there are several codebooks)."""

    form: Format
    search: Search
    seed: int

    def __call__(self, name: str, w: Tensor, gram: Tensor) -> Additive:
        """The clustered weight; ``gram`` is only checked."""
        self.form.check(w.shape[1], name)
        check_inputs(w, gram, name)
        return residual_kmeans(w.float(), self.form, self.search, _generator(self.seed, name))


@dataclass(frozen=True)
class ColumnUpdate:
    """Column after column to the nearest value of its group's grid, the error spread over the columns to come
    (GPTQ; Frantar et al., 2023).

    With G + damping = R R^T, R upper triangular, a row's error D has the squared error sum over j of (D R)_j^2, and
    (D R)_j only needs the columns up to j. So column j is rounded at :math:`w_j+\\sum_{k<j}D_kR_{kj}/R_{jj}`: what
    GPTQ reaches through the inverse, with one Cholesky factor and no inverse. The grid of a group is laid when its turn
    comes, over the weights that would be best after the columns before it if none had to be rounded any more.
    """

    grid: Grid
    # Of the mean of G's diagonal. GPTQ's own 0.01 suits a hundred thousand calibration tokens; with a few thousand the
    # update learns them by heart and is worse than rounding on other text.
    damping: float = 1.0

    def __post_init__(self) -> None:
        if not self.damping > 0:
            raise ReprobookError(f"damping is {self.damping}; it must be above 0")

    @torch.no_grad()
    def __call__(self, name: str, w: Tensor, gram: Tensor) -> Tensor:
        """The updated weight. Raises :class:`ReprobookError` if the damped G is not positive definite."""
        self.grid.check(w.shape[1], name)
        check_inputs(w, gram, name)
        factor = self._factor(name, gram.float())
        columns = w.float().T.contiguous()  # as lines: each is read and written in one piece
        rounded, error = torch.empty_like(columns), torch.zeros_like(columns)
        for a in range(0, len(columns), self.grid.group):
            b = a + self.grid.group
            inner = factor[a:b, a:b]
            shift = factor[:a, a:b].T @ error[:a]
            ideal = torch.linalg.solve_triangular(inner.T, shift, upper=False, unitriangular=True)
            zero, step = self.grid.lay(columns[a:b] + ideal, 0)
            for j in range(a, b):
                rounded[j] = self.grid.nearest(columns[j] + shift[j - a], zero[0], step[0])
                error[j] = columns[j] - rounded[j]
                shift[j - a + 1 :].addr_(inner[j - a, j - a + 1 :], error[j])
        return rounded.T.contiguous()

    def _factor(self, name: str, gram: Tensor) -> Tensor:
        """R with every column divided by its last entry: how much of an earlier column's error a column takes."""
        damped = gram.clone()
        damped.diagonal().add_(self.damping * gram.diagonal().mean() + 1e-12)
        found, fault = torch.linalg.cholesky_ex(damped.flip(0, 1))
        if fault:  # fewer tokens than inputs, and one input far larger than the others
            found, fault = torch.linalg.cholesky_ex(damped.double().flip(0, 1))
        if fault:
            raise ReprobookError(
                f"{name}: G is not positive definite with damping {self.damping}; raise it, or collect G in fp32"
            )
        r = found.flip(0, 1).float()
        return r / r.diagonal()


@dataclass(frozen=True)
class Aqlm:
    """AQLM, layer by layer. ``starts`` keeps each layer's residual k-means for other calibration sets."""

    form: Format
    search: Search
    seed: int
    starts: dict[str, Additive] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, name: str, w: Tensor, gram: Tensor) -> Additive:
        """The layer in AQLM's form."""
        if name not in self.starts or len(self.starts[name].codebooks) < self.form.n_codebooks:
            self.form.check(w.shape[1], name)
            check_inputs(w, gram, name)
            self.starts[name] = residual_kmeans(w.float(), self.form, self.search, _generator(self.seed, name))
        seed = _number(self.seed, name)
        return fit(w, gram, self.form, self.search, seed, name, start=self._prefix(name)).layer

    def _prefix(self, name: str) -> Additive:
        """The start with the first M codebooks: a residual k-means of more codebooks begins with that of fewer."""
        kept, m = self.starts[name], self.form.n_codebooks
        return Additive(kept.codes[..., :m].contiguous(), kept.codebooks[:m], kept.scales)


def _number(seed: int, name: str) -> int:
    return zlib.crc32(f"{seed} {name}".encode())


def _generator(seed: int, name: str) -> torch.Generator:
    """Random numbers of a layer, whatever was quantised before it."""
    return torch.Generator().manual_seed(_number(seed, name))
