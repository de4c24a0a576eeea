"""AQLM, its rivals, blocks, tuning and storage against brute force, closed forms, textbooks and aqlm's own layer."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
import torch
from reprobook.errors import ReprobookError
from reprobook.papers.quantizing_code_llms import aqlm
from reprobook.papers.quantizing_code_llms.aqlm import Additive, Format, Search, objective
from reprobook.papers.quantizing_code_llms.baselines import Aqlm, ColumnUpdate, Grid, KMeans, RoundToNearest

if TYPE_CHECKING:
    from torch import Tensor

QUICK = Search(kmeans_iterations=5, max_epochs=2, steps=5, scale_lr=True)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problem(d_out: int, d_in: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """A random weight and G of correlated inputs."""
    g = generator(seed)
    w = torch.randn(d_out, d_in, generator=g, dtype=torch.float64) / d_in**0.5
    x = torch.randn(400, d_in, generator=g, dtype=torch.float64)
    x = x @ (torch.eye(d_in, dtype=torch.float64) + torch.randn(d_in, d_in, generator=g, dtype=torch.float64) / 4)
    return w.to(dtype), (x.T @ x / 400).to(dtype)


def some_layer(w: Tensor, m: int, bits: int, group: int, seed: int = 0) -> Additive:
    """Random codes and words for a weight."""
    g = generator(seed)
    codes = torch.randint(2**bits, (len(w), w.shape[1] // group, m), generator=g).int()
    books = torch.randn(m, 2**bits, group, generator=g, dtype=torch.float64).to(w.dtype) / w.shape[1] ** 0.5
    return Additive(codes, books, (w.norm(dim=1) * 0.7).contiguous())


# ------------------------------------------------------------------------------------------------------- representation


def test_a_weight_is_the_sum_of_its_words_times_the_scale() -> None:
    books = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.5, 0.0], [0.0, -1.0]]])
    codes = torch.tensor([[[0, 1], [1, 0]]], dtype=torch.int32)
    layer = Additive(codes, books, torch.tensor([2.0]))
    assert layer.weight().tolist() == [[2.0, 2.0, 7.0, 8.0]]


def test_as_many_words_as_groups_reproduce_the_weight() -> None:
    w, _ = problem(4, 16)  # 8 groups
    layer = aqlm.residual_kmeans(w, Format(1, 3, 8), QUICK, generator())
    assert torch.allclose(layer.weight(), w, atol=1e-6)


def test_residual_kmeans_leaves_less_with_every_codebook() -> None:
    w, _ = problem(32, 64)
    layer = aqlm.residual_kmeans(w, Format(4, 4, 8), QUICK, generator())
    left = [(w - Additive(layer.codes[..., :m].contiguous(), layer.codebooks[:m], layer.scales).weight()).norm()
            for m in range(1, 5)]  # fmt: skip
    assert all(a > b for a, b in itertools.pairwise([w.norm(), *left]))


def test_an_empty_cluster_keeps_its_centre() -> None:
    points = torch.tensor([[0.0], [0.0], [0.0], [9.0]])
    centres = aqlm.kmeans(points, 4, 10, generator())
    assert sorted(centres.flatten().tolist()) == [0.0, 0.0, 0.0, 9.0]


# ------------------------------------------------------------------------------------------------------------ objective


def test_objective_is_the_mean_squared_output_error() -> None:
    w, _ = problem(6, 8, dtype=torch.float64)
    x = torch.randn(50, 8, generator=generator(1), dtype=torch.float64)
    other = w + 0.1
    direct = ((x @ (other - w).T) ** 2).sum() / 50 / 6
    assert objective(w, other, x.T @ x / 50) == pytest.approx(direct.item(), rel=1e-12)
    assert objective(w, other, torch.eye(8, dtype=torch.float64)) == pytest.approx(8 * 0.01, rel=1e-12)  # G = I


def test_the_closed_gradient_is_autograds() -> None:
    w, gram = problem(6, 16, dtype=torch.float64)
    layer = some_layer(w, 2, 2, 4)
    books, scales = layer.codebooks.requires_grad_(), layer.scales.requires_grad_()
    d = Additive(layer.codes, books, scales).weight() - w
    value = ((d @ gram) * d).sum() / 6
    value.backward()
    with torch.no_grad():
        found = aqlm.Gradient(w, gram, layer.codes, 4)(books, scales)
    for ours, theirs in zip(found, (value, books.grad, scales.grad), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-14)


# ---------------------------------------------------------------------------------------------------------- beam search


def by_hand(w: Tensor, gram: Tensor, layer: Additive, beam: int, seed: int) -> Tensor:
    """The search as it is written down: the objective of every candidate from scratch, row by row."""
    g = generator(seed)
    m, words, _ = layer.codebooks.shape
    order = torch.randperm(layer.codes.shape[1], generator=g).tolist()
    places = [(j, k) for j in order for k in torch.randperm(m, generator=g).tolist()]
    found = []
    for i in range(len(w)):
        hypotheses = [layer.codes[i]]
        for j, k in places:
            tried = []
            for codes in hypotheses:
                for word in range(words):
                    new = codes.clone()
                    new[j, k] = word
                    row = Additive(new[None], layer.codebooks, layer.scales[i : i + 1]).weight()
                    tried.append((objective(w[i : i + 1], row, gram), new))
            tried.sort(key=lambda pair: pair[0])
            hypotheses = [codes for _, codes in tried[:beam]]
        found.append(hypotheses[0])
    return torch.stack(found)


@pytest.mark.parametrize("beam", [1, 2, 3])
def test_beam_search_is_the_search_by_brute_force(beam: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aqlm, "CHUNK", 2)  # three groups: inside a chunk and across chunks
    w, gram = problem(5, 12, dtype=torch.float64)
    layer = some_layer(w, 2, 2, 4)
    ours = aqlm.beam_search(w, gram, layer, beam, generator(3))
    hand = by_hand(w, gram, layer, beam, 3)
    values = [objective(w, Additive(c, layer.codebooks, layer.scales).weight(), gram) for c in (ours, hand)]
    assert values[0] == pytest.approx(values[1], rel=1e-10)
    assert torch.equal(ours, hand)


@pytest.mark.parametrize("beam", [1, 2])
def test_beam_search_never_raises_the_objective_and_scale_of_g_is_nothing_to_it(beam: int) -> None:
    w, gram = problem(16, 64)
    layer = aqlm.residual_kmeans(w, Format(2, 4, 8), QUICK, generator())
    codes = aqlm.beam_search(w, gram, layer, beam, generator(1))
    better = Additive(codes, layer.codebooks, layer.scales)
    assert objective(w, better.weight(), gram) < objective(w, layer.weight(), gram)
    assert torch.equal(codes, aqlm.beam_search(w, 4 * gram, layer, beam, generator(1)))  # a power of two: exact
    order = torch.randperm(16, generator=generator(2))
    shuffled = Additive(layer.codes[order], layer.codebooks, layer.scales[order])
    assert torch.equal(codes[order], aqlm.beam_search(w[order], gram, shuffled, beam, generator(1)))


def test_a_full_beam_over_one_group_finds_the_optimum() -> None:
    w, gram = problem(7, 4, dtype=torch.float64)
    layer = some_layer(w, 3, 2, 4)
    codes = aqlm.beam_search(w, gram, layer, 64, generator())
    combos = torch.tensor(list(itertools.product(range(4), repeat=3)), dtype=torch.int32)
    for i in range(len(w)):
        rows = [Additive(c[None, None], layer.codebooks, layer.scales[i : i + 1]).weight() for c in combos]
        best = min(objective(w[i : i + 1], row, gram) for row in rows)
        row = Additive(codes[i : i + 1], layer.codebooks, layer.scales[i : i + 1]).weight()
        assert objective(w[i : i + 1], row, gram) == pytest.approx(best, rel=1e-10)


def test_a_beam_of_two_finds_what_a_beam_of_one_misses() -> None:
    """1 = 1.95 - 0.95, but from 0 + 0 every single step but the one to 0.9 looks worse: greedy stops there."""
    books = torch.tensor([[[0.0], [0.9], [1.95]], [[0.0], [-0.95], [9.0]]], dtype=torch.float64)
    layer = Additive(torch.zeros(1, 1, 2, dtype=torch.int32), books, torch.ones(1, dtype=torch.float64))
    w, gram = torch.ones(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    for beam, expected in ((1, 0.01), (2, 0.0)):
        for seed in range(4):  # both orders of the books
            codes = aqlm.beam_search(w, gram, layer, beam, generator(seed))
            assert objective(w, Additive(codes, books, layer.scales).weight(), gram) == pytest.approx(
                expected, abs=1e-12
            )


def test_with_independent_inputs_groups_are_coded_independently() -> None:
    """G = I: the result does not hang on the order in which groups are visited."""
    w, _ = problem(16, 32)
    layer = aqlm.residual_kmeans(w, Format(1, 3, 8), QUICK, generator())
    found = [aqlm.beam_search(w, torch.eye(32), layer, 1, generator(seed)) for seed in range(3)]
    nearest = aqlm.assign((w / layer.scales[:, None]).view(-1, 8), layer.codebooks[0]).view(16, 4, 1)
    assert all(torch.equal(codes, nearest.int()) for codes in found)


# ------------------------------------------------------------------------------------------------------------ one layer


def test_every_stage_of_aqlm_lowers_the_objective_and_beats_its_rivals() -> None:
    w, gram = problem(64, 64)
    fitted = aqlm.fit(w, gram, Format(2, 4, 4), Search(kmeans_iterations=20, max_epochs=3, steps=20, scale_lr=True), 0)
    names, values = zip(*fitted.history, strict=True)
    assert names[:3] == ("residual k-means", "Adam", "beam search") and len(names) == 7
    assert all(a > b for a, b in itertools.pairwise(values))
    assert values[-1] == pytest.approx(objective(w, fitted.layer.weight(), gram))
    rivals: list[Any] = [RoundToNearest(Grid(2, 64)), KMeans(Format(1, 4, 2), QUICK, 0), ColumnUpdate(Grid(2, 64))]
    for rival in rivals:
        made = rival("x", w, gram)
        assert values[-1] < objective(w, made.weight() if isinstance(made, Additive) else made, gram)


def test_epochs_end_by_the_tolerance_and_a_start_can_be_handed_in() -> None:
    w, gram = problem(16, 32)
    search = Search(kmeans_iterations=5, steps=2, tolerance=0.5, scale_lr=True)
    fitted = aqlm.fit(w, gram, Format(2, 3, 4), search, 0)
    assert fitted.history[-1][0] == "beam search" and len(fitted.history) < 12
    kept = Aqlm(Format(2, 3, 4), search, 0)
    first, again = kept("a", w, gram), kept("a", w, gram)
    assert torch.equal(first.codes, again.codes) and torch.equal(first.codebooks, again.codebooks)
    assert list(kept.starts) == ["a"]


# ------------------------------------------------------------------------------------------------------------ baselines


def textbook_gptq(w: Tensor, gram: Tensor, grid: Grid, damping: float) -> Tensor:
    """GPTQ as published: the inverse of G, its upper Cholesky factor, errors spread over all columns to come."""
    w, q = w.double().clone(), torch.zeros_like(w, dtype=torch.float64)
    n = w.shape[1]
    damped = gram.double() + torch.eye(n) * (damping * gram.diagonal().mean() + 1e-12)
    u = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    for j in range(n):
        if j % grid.group == 0:
            low, step = grid.lay(w[:, j : j + grid.group], 1)
        q[:, j] = grid.nearest(w[:, j : j + 1], low, step)[:, 0]
        w[:, j:] -= ((w[:, j] - q[:, j]) / u[j, j])[:, None] * u[j, j:]
    return q


def test_the_column_update_is_gptq() -> None:
    w, gram = problem(8, 48)
    found = ColumnUpdate(Grid(3, 16))("x", w, gram)
    assert torch.allclose(found.double(), textbook_gptq(w, gram, Grid(3, 16), 0.01), atol=1e-6)
    nearest = RoundToNearest(Grid(3, 16))("x", w, gram)
    assert objective(w, found, gram) < objective(w, nearest, gram)


def test_rounding_keeps_to_its_grid() -> None:
    w = torch.tensor([[0.0, 1.0, 2.0, 3.0, -3.3, 0.3, 0.6, 0.0]])
    found = RoundToNearest(Grid(2, 4))("x", w, torch.eye(8))
    assert found[0, :4].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert found[0, 4:].tolist() == pytest.approx([-3.9, 0.0, 0.0, 0.0])  # step 1.3 from -3.3 to 0.6, zero on the grid


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("quantiser", "message"),
    [
        (RoundToNearest(Grid(3, 5)), "has 16 inputs, which groups of 5"),
        (ColumnUpdate(Grid(3, 5)), "has 16 inputs, which groups of 5"),
        (KMeans(Format(1, 3, 5), QUICK, 0), "has 16 inputs, which groups of 5"),
        (Aqlm(Format(1, 3, 5), QUICK, 0), "has 16 inputs, which groups of 5"),
    ],
)
def test_a_group_must_divide_the_layer(quantiser: Any, message: str) -> None:
    w, gram = problem(4, 16)
    with pytest.raises(ReprobookError, match=message):
        quantiser("block 0, up", w, gram)


@pytest.mark.parametrize("quantiser", [RoundToNearest(Grid(3, 4)), ColumnUpdate(Grid(3, 4)), Aqlm(Format(1), QUICK, 0)])
def test_activations_must_be_finite_and_fit(quantiser: Any) -> None:
    w, gram = problem(4, 16)
    with pytest.raises(ReprobookError, match="block 3.*NaN or infinities"):
        quantiser("block 3", w, gram * float("nan"))
    with pytest.raises(ReprobookError, match=r"its G is \[8, 8\]"):
        quantiser("block 3", w, gram[:8, :8])


def test_bits_must_fit_the_type_of_the_codes() -> None:
    for wrong in (0, 17):
        with pytest.raises(ReprobookError, match=f"bits is {wrong}; codes are int8 or int16"):
            Format(1, wrong)
    with pytest.raises(ReprobookError, match="steps is -1"):
        Search(steps=-1)


def test_a_singular_g_is_named() -> None:
    w, gram = problem(4, 16)
    with pytest.raises(ReprobookError, match="not positive definite"):
        ColumnUpdate(Grid(3, 4))("x", w, gram - 2 * gram.diagonal().mean() * torch.eye(16))
