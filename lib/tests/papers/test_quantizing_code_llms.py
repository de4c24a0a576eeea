"""AQLM, its rivals, blocks, tuning and storage against brute force, closed forms, textbooks and aqlm's own layer."""

from __future__ import annotations

import copy
import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from reprobook.errors import ReprobookError
from reprobook.papers.quantizing_code_llms import aqlm, bench, blocks, calibration, humaneval, storage, study, tuning
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
            zero, step = grid.lay(w[:, j : j + grid.group], 1)
        q[:, j] = grid.nearest(w[:, j : j + 1], zero, step)[:, 0]
        w[:, j:] -= ((w[:, j] - q[:, j]) / u[j, j])[:, None] * u[j, j:]
    return q


def test_the_column_update_is_gptq() -> None:
    w, gram = problem(8, 48)
    found = ColumnUpdate(Grid(3, 16), damping=0.01)("x", w, gram)
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


# --------------------------------------------------------------------------------------------------------------- blocks


@pytest.fixture(scope="module")
def little() -> Any:
    """A Llama of three blocks with random weights, large enough that no two next tokens are alike."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.2, tie_word_embeddings=True, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval().requires_grad_(False)


@pytest.fixture(autouse=True)
def _single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "preferred_dtype", lambda _: torch.float32)


ROWS = torch.randint(64, (12, 16), generator=torch.Generator().manual_seed(5))
FORM = Format(2, 4, 4)


class Counting:
    """A quantiser that remembers what it was given."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.given = inner, {}

    def __call__(self, name: str, w: Tensor, gram: Tensor) -> Any:
        self.given[name] = gram
        return self.inner(name, w, gram)

    def __repr__(self) -> str:
        return repr(self.inner)


def inputs_of(model: Any, block: int, layer: str) -> Tensor:
    """Inputs (tokens, d_in) of one layer in an ordinary forward pass of the model."""
    found = []
    module = model.model.layers[block].get_submodule(layer)
    hook = module.register_forward_pre_hook(lambda _, args: found.append(args[0]))
    model(input_ids=ROWS)
    hook.remove()
    return torch.cat(found).flatten(0, 1)


def test_g_of_a_block_is_collected_on_inputs_of_the_quantised_blocks_before_it(little: Any) -> None:
    model, counting = copy.deepcopy(little), Counting(RoundToNearest(Grid(2, 16)))
    blocks.quantise(model, ROWS, counting, n_blocks=2, batch_size=5)
    assert len(counting.given) == 14
    mixed_model = copy.deepcopy(little)  # quantised block 0, original block 1
    mixed_model.model.layers[0] = model.model.layers[0]
    for layer in ("self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"):
        x = inputs_of(mixed_model, 1, layer).double()
        assert torch.allclose(counting.given[f"block 1, {layer}"].double(), x.T @ x / len(x), rtol=1e-4, atol=1e-5)
    assert torch.equal(model.model.layers[2].mlp.up_proj.weight, little.model.layers[2].mlp.up_proj.weight)


def test_all_layers_take_aqlms_form_and_a_plain_copy_says_the_same(little: Any) -> None:
    model = copy.deepcopy(little)
    counting = Counting(Aqlm(FORM, QUICK, 0))
    blocks.quantise(model, ROWS, counting)
    assert list(counting.given)[:2] == ["block 0, self_attn.q_proj", "block 0, self_attn.k_proj"]
    assert len(counting.given) == 21
    for name, gram in counting.given.items():
        block, _, layer = name.removeprefix("block ").partition(", ")
        old, new = (m.model.layers[int(block)].get_submodule(layer) for m in (little, model))
        error = objective(old.weight, new.additive().weight(), gram)
        assert 0 < error < 0.5 * objective(old.weight, torch.zeros_like(old.weight), gram)
    plain = blocks.solid(model, torch.float32)
    assert not any(isinstance(m, blocks.AqlmLinear) for m in plain.modules())
    with torch.no_grad():
        a, b, c = (m(input_ids=ROWS).logits for m in (model, plain, little))
    assert torch.allclose(a, b, atol=1e-4) and not torch.allclose(a, c, atol=0.1)


def test_block_tuning_starts_at_the_quantised_block_and_never_ends_worse(little: Any) -> None:
    model = copy.deepcopy(little)
    x, keywords = blocks.first_inputs(little, ROWS, 4)
    targets, _ = blocks._Stage(little.model.layers[0], x, keywords, 4).collect()
    blocks.quantise(model, ROWS, Aqlm(FORM, QUICK, 0), n_blocks=1)
    for lr, better in ((3e-4, True), (1e3, False)):
        block = copy.deepcopy(model.model.layers[0])
        stage = blocks._Stage(block, x, keywords, 4)
        tuning = blocks.BlockTuning(lr=lr, batch_size=4, max_epochs=4, patience=2, n_valid=4)
        valid = torch.randperm(12, generator=generator(7))[:4]
        start = ((stage.run() - targets)[valid] ** 2).mean().item()
        found = blocks.tune_block(stage, targets, tuning, 7)
        end = ((stage.run() - targets)[valid] ** 2).mean().item()
        assert (found["before"], found["after"]) == pytest.approx((start, end), rel=1e-4)
        assert end < start if better else end == pytest.approx(start, rel=1e-4)
        assert torch.equal(block.mlp.up_proj.codes, model.model.layers[0].mlp.up_proj.codes)
    assert found["epochs"] == 2  # stopped by its patience


def test_a_run_cut_short_in_the_middle_of_a_model_goes_on_there(little: Any, tmp_path: Path) -> None:
    tuning = blocks.BlockTuning(lr=1e-3, batch_size=4, max_epochs=1, n_valid=4)
    options: dict[str, Any] = {"tuning": tuning, "folder": tmp_path / "run", "seed": 3}
    whole, counting = copy.deepcopy(little), Counting(Aqlm(FORM, QUICK, 0))
    blocks.quantise(whole, ROWS, counting, **options)
    file = tmp_path / "run" / "block-001.pt"
    file.write_bytes(file.read_bytes()[:5000])  # cut short
    (tmp_path / "run" / "block-002.pt").unlink()
    again, counting = copy.deepcopy(little), Counting(Aqlm(FORM, QUICK, 0))
    blocks.quantise(again, ROWS, counting, **options)
    assert {name.partition(",")[0] for name in counting.given} == {"block 1", "block 2"}
    for (name, a), (other, b) in zip(whole.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == other and torch.equal(a, b)
    with pytest.raises(ReprobookError, match="is of another run"):
        blocks.quantise(copy.deepcopy(little), ROWS + 1 - 1, Aqlm(FORM, QUICK, 1), **options)


def test_calibration_must_hold_text_and_give_finite_activations(little: Any) -> None:
    quantiser = RoundToNearest(Grid(2, 16))
    with pytest.raises(ReprobookError, match="calibration set is empty"):
        blocks.quantise(little, ROWS[:0], quantiser)
    with pytest.raises(ReprobookError, match="n_blocks is 4"):
        blocks.quantise(little, ROWS, quantiser, n_blocks=4)
    with pytest.raises(ReprobookError, match="n_valid 128 leaves nothing of 12"):
        blocks.quantise(little, ROWS, quantiser, tuning=blocks.BlockTuning())
    broken = copy.deepcopy(little)
    broken.model.layers[1].mlp.gate_proj.weight[0, 0] = float("nan")
    with pytest.raises(ReprobookError, match="block 1, mlp.*NaN or infinities"):
        blocks.quantise(broken, ROWS, quantiser)
    with pytest.raises(ReprobookError, match="no decoder like Llama's"):
        blocks.decoder_blocks(torch.nn.Linear(2, 2))


# --------------------------------------------------------------------------------------------------------------- tuning


def test_divergence_is_kl_per_token_with_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "CHUNK", 4)  # six tokens: two parts
    g = generator(1)
    head, a, b = torch.randn(7, 4, generator=g), torch.randn(2, 3, 4, generator=g), torch.randn(2, 3, 4, generator=g)
    direct = b.double().requires_grad_()
    p, q = ((x @ head.double().T).softmax(-1) for x in (a.double(), direct))
    expected = (p * (p / q).log()).sum() / 6
    expected.backward()
    found = tuning.divergence(head, a, b.requires_grad_())
    (2 * found).backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(b.grad.double(), 2 * direct.grad, atol=1e-6)  # type: ignore[union-attr]
    assert tuning.divergence(head, a, a).item() == pytest.approx(0, abs=1e-6)


def test_distillation_brings_the_model_nearer_and_moves_no_code(little: Any) -> None:
    model = copy.deepcopy(little)
    blocks.quantise(model, ROWS, Aqlm(FORM, QUICK, 0), n_blocks=2)
    before = copy.deepcopy(model.state_dict())
    teacher = tuning.last_hidden(little, ROWS)
    history = tuning.distil(model, ROWS, teacher, tuning.Distillation(3e-3, 4, 3, 3, 4), 0)
    assert len(history) == 4 and math.isnan(history[0].train) and all(len(epoch.valid) == 4 for epoch in history)
    assert min(epoch.mean for epoch in history) < 0.97 * history[0].mean
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(name.endswith(("codebooks", "scales")) or "norm" in name for name in moved)
    with pytest.raises(ReprobookError, match="no codebooks to tune"):
        tuning.distil(little, ROWS, teacher, tuning.Distillation(), 0)


# -------------------------------------------------------------------------------------------------------------- storage


@pytest.mark.parametrize("bits", [1, 8, 12, 15, 16])
def test_packed_codes_come_back(bits: int) -> None:
    codes = torch.randint(2**bits, (6, 3, 2), generator=generator()).int()
    codes[0, 0, 0], codes[0, 0, 1] = 2**bits - 1, 2 ** (bits - 1)
    layer = Additive(codes, torch.randn(2, 2**bits, 4).half().float(), torch.rand(6).half().float())
    packed = storage.pack(layer)
    assert packed["codes"].dtype == (torch.int8 if bits <= 8 else torch.int16)
    assert packed["codes"][0, 0].tolist() == [-1, -(2 ** (bits - 1))]
    back = storage.unpack(packed)
    assert torch.equal(back.codes, codes) and torch.equal(back.weight(), layer.weight())
    found = storage.bits_per_weight(Format(2, bits, 4), 6, 12)
    counted = sum(t.numel() * t.element_size() * 8 for t in packed.values()) / 72
    assert found.stored == pytest.approx(counted)
    assert found.effective == pytest.approx(found.stored - 2 * (storage.code_bits(bits) - bits) / 4)


def test_sizes_of_the_published_checkpoints_come_out() -> None:
    """7.47 and 2.26 GB are sizes of released files; 2.02 bits were confirmed by the first author."""
    seven = storage.STUDIED["CodeLlama-7B"]
    sizes = {form: round(seven.bytes(form and Format(*form)) / 1e9, 2) for form in (None, (4, 15), (2, 15), (1, 15))}
    assert sizes == {None: 13.48, (4, 15): 7.47, (2, 15): 4.0, (1, 15): 2.26}
    assert storage.mean_bits(seven.layers(), Format(1, 15)).effective == pytest.approx(2.02, abs=0.005)


@pytest.mark.parametrize("bits", [8, 12])
def test_aqlms_own_layer_reads_what_we_pack(bits: int) -> None:
    """At 8 bits its kernel of look-up tables, at 12 bits its dequantisation. The kernel's threads add to the same
    outputs without a lock: with two of them most results are wrong, so it gets one."""
    inference = pytest.importorskip("aqlm")
    pytest.importorskip("numba").set_num_threads(1)
    g = generator()
    codes = torch.randint(2**bits, (24, 4, 2), generator=g).int()
    ours = Additive(codes, torch.randn(2, 2**bits, 8, generator=g).half().float(), torch.ones(24) / 2)
    theirs = inference.QuantizedLinear(32, 24, 8, 1, 2, bits, bias=False, dtype=torch.float32)
    for name, value in storage.pack(ours).items():
        getattr(theirs, name).data = value if name == "codes" else value.float()
    x = torch.randn(3, 32, generator=g)
    assert torch.allclose(theirs(x), x @ ours.weight().T, atol=1e-4)


def test_a_saved_model_opens_with_transformers(little: Any, tmp_path: Path) -> None:
    pytest.importorskip("aqlm")
    from transformers import AutoModelForCausalLM

    model = copy.deepcopy(little)
    blocks.quantise(model, ROWS, Aqlm(FORM, QUICK, 0), n_blocks=2)
    size = storage.save(model, tmp_path, FORM)
    assert size == (tmp_path / "model.safetensors").stat().st_size
    opened = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        a, b = (m(input_ids=ROWS).logits for m in (model, opened))
    assert (a - b).abs().max() < 0.02 * a.std()  # fp16 on the way
    found = bench.decoding(model, tmp_path / "again", FORM, ROWS[:1], n_steps=3, n=1)  # asserts equal distributions
    assert found.same and list(found.seconds) == ["plain", "stored"]
    with pytest.raises(ReprobookError, match="no layer is in AQLM's form"):
        storage.save(little, tmp_path, FORM)


# ---------------------------------------------------------------------------------------------------------- calibration


class Letters:
    """A tokenizer of characters."""

    def __call__(self, text: str, add_special_tokens: bool = True) -> Any:
        return type("Ids", (), {"input_ids": [ord(c) % 64 for c in text]})


def documents(kind: str, n: int) -> list[calibration.Document]:
    return [calibration.Document(f"{kind} {k}", f"{kind} {k % 3}", kind[0] + chr(97 + k) * (40 + k)) for k in range(n)]


def test_calibration_sets_are_equal_in_tokens_and_in_starts_of_documents() -> None:
    general, code = (calibration.Corpus(documents(kind, 9), []) for kind in ("@text", "Acode"))
    heads = {"general": ord("@") % 64, "code": ord("A") % 64}
    counts = {}
    for kind in calibration.KINDS:
        rows = calibration.calibration_rows(kind, general, code, Letters(), 16, 20, 1)
        assert rows.shape == (16, 20)
        counts[kind] = [int((rows[:, 0] == head).sum()) for head in heads.values()]
        again = calibration.calibration_rows(kind, general, code, Letters(), 16, 20, 1)
        other = calibration.calibration_rows(kind, general, code, Letters(), 16, 20, 2)
        assert torch.equal(rows, again) and not torch.equal(rows, other)
    assert [sum(c) >= 8 for c in counts.values()] == [True] * 3
    assert counts["general"][1] == counts["code"][0] == 0 and min(counts["mixed"]) >= 4


def places(rows: torch.Tensor) -> set[int]:
    """The documents' tokens in ``rows``, where token 100 k + i stands at place i of document k."""
    return set(rows.flatten().tolist())


class Numbers:
    """A tokenizer of texts that are numbers."""

    def __call__(self, text: str, **_: object) -> SimpleNamespace:
        return SimpleNamespace(input_ids=[int(word) for word in text.split()])


def test_no_two_rows_of_one_draw_overlap_and_no_later_one_does() -> None:
    texts = [
        calibration.Document(str(k), "", " ".join(map(str, range(100 * k, 100 * k + 100)))) for k in range(8)
    ]  # fmt: skip
    rows = calibration.rows_of(texts, Numbers(), 8, 20, seed=1)
    assert len(places(rows)) == 8 * 20 and sum(int(row[0]) % 100 == 0 for row in rows) >= 4
    more = calibration.rows_of(texts, Numbers(), 6, 20, seed=1, after=8)
    assert len(places(more)) == 6 * 20 and places(more).isdisjoint(places(rows))
    assert sum(int(row[0]) % 100 == 0 for row in more) >= 3  # half of these begin their document, too
    unlike = calibration.rows_of(texts, Numbers(), 6, 20, seed=2)
    assert not places(unlike).isdisjoint(places(rows))  # another seed alone would not do
    with pytest.raises(ReprobookError, match="8 documents have hardly any 42 stretches of 20 tokens"):
        calibration.rows_of(texts, Numbers(), 2, 20, seed=1, after=40)
    with pytest.raises(ReprobookError, match="a mixed set of 4 rows after 3 others cannot be halved"):
        calibration.calibration_rows("mixed", *[calibration.Corpus(texts, [])] * 2, Numbers(), 4, 20, 1, after=3)


def test_an_empty_calibration_set_is_refused() -> None:
    none = calibration.Corpus([], [])
    with pytest.raises(ReprobookError, match="calibration set is empty: 4 rows of 8 tokens from 0 documents"):
        calibration.calibration_rows("code", none, none, Letters(), 4, 8, 0)
    with pytest.raises(ReprobookError, match="calibration 'random' is not known"):
        calibration.calibration_rows("random", none, none, Letters(), 4, 8, 0)  # type: ignore[arg-type]
    with pytest.raises(ReprobookError, match="hardly any"):
        calibration.rows_of(documents("a", 3), Letters(), 2, 500, 0)


def test_held_out_files_are_spread_over_packages_and_never_trained_on() -> None:
    found = calibration.held_out(documents("@text", 9), Letters(), 5, 2, 16, shortest=40)
    assert found.names == [f"@text {k}" for k in (0, 1, 2, 3, 4)] and found.rows.shape == (10, 16)
    assert study.by_file(np.arange(10 * 15.0).reshape(10, 15), found).tolist() == [14.5 + 30 * k for k in range(5)]
    # "@@@...": windows of 16 of a text of 41 characters start at 1/4 and 3/4 of the way to the last start
    text = "".join(map(chr, range(64, 64 + 41)))
    one = calibration.held_out([calibration.Document("a", "a", text)], Letters(), 1, 2, 16, shortest=40)
    assert one.rows[:, 0].tolist() == [6, 18]
    with pytest.raises(ReprobookError, match="9 held-out documents are long enough; 10 are wanted"):
        calibration.held_out(documents("@text", 9), Letters(), 10, 1, 16, shortest=40)


def test_the_standard_library_is_split_by_package() -> None:
    library = calibration.standard_library()
    packages = [{d.group for d in part} for part in library]
    assert packages[0].isdisjoint(packages[1]) and {"json", "asyncio"} <= packages[1] and "dataclasses" in packages[0]
    assert "test" not in packages[0] | packages[1]
    with pytest.raises(ReprobookError, match="no sources of Python's standard library"):
        calibration.standard_library(Path(calibration.__file__).parent / "nothing")


# ------------------------------------------------------------------------------------------------------------ benchmark


def test_the_published_algorithm_ends_where_ours_does() -> None:
    w, gram = problem(128, 32)
    search = Search(kmeans_iterations=20, max_epochs=2, steps=5, scale_lr=True)
    found = bench.encoding(w, gram, Format(1, 4, 4), search, n=1)
    assert found.same and set(bench.speeds(found, w.numel())) == {"as published", "gathered"}


def test_reading_gives_each_tokens_loss_and_first_choice(little: Any) -> None:
    found = study.read(little, ROWS)
    with torch.no_grad():
        logits = little(input_ids=ROWS).logits[:, :-1].double()
    direct = -logits.log_softmax(-1).gather(2, ROWS[:, 1:, None]).squeeze(2)
    assert found.loss == pytest.approx(direct.numpy(), abs=1e-4)
    assert (found.choice == logits.argmax(-1).numpy()).all()


@pytest.fixture
def lab(little: Any) -> study.Lab:
    rows = {kind: torch.randint(64, (8, 16), generator=generator(k)) for k, kind in enumerate(("general", "code"))}
    files = calibration.HeldOut(ROWS, [f"file {k}" for k in range(6)], ["package"] * 6, 2)
    reference = {what: study.read(little, ROWS) for what in ("code", "text")}
    sizes = study.Sizes(8, 16, 1, 6, 6, 6, 8)
    return study.Lab(little, rows, rows, dict.fromkeys(("code", "text"), files), reference, 0, sizes, 0)


def test_cells_are_measured_once_and_compared_in_pairs(lab: study.Lab, tmp_path: Path) -> None:
    wanted = ["AQLM 1, general", "AQLM 1, code", "AQLM 1, code, tuned", "column update 3, code"]
    options: dict[str, Any] = {
        "search": Search(kmeans_iterations=2, max_epochs=1, steps=2, scale_lr=True), "group": 16, "folder": tmp_path,
        "tuning": blocks.BlockTuning(1e-3, 4, 1, 1, 2), "distillation": tuning.Distillation(1e-4, 6, 3, 3, 2),
    }  # fmt: skip
    found = study.cells(lab, wanted, **options)
    assert list(found) == ["reference", *wanted]
    assert found["reference"].loss["code"] == pytest.approx(study.by_file(lab.reference["code"].loss, lab.held["code"]))
    assert found["column update 3, code"].bits == 3 + 19 / 16
    sizes = {shape: n * shape[0] * shape[1] for shape, n in storage.Shape(1, 32, 64, 16, 64).layers().items()}
    by_hand = sum(n * storage.bits_per_weight(Format(1), *shape).effective for shape, n in sizes.items())
    assert found["AQLM 1, code"].bits == pytest.approx(by_hand / sum(sizes.values()))
    assert np.mean(found["column update 3, code"].agreement["code"]) < 1
    told = study.pairs(found, "code")
    assert set(told) == {f"{name}: loss above reference" for name in wanted} | {
        "AQLM 1, general minus code", "AQLM 1, code: before minus after tuning",
    }  # fmt: skip
    before, after = told["AQLM 1, code: before minus after tuning"]
    assert not np.array_equal(before, after) and before.shape == (6,)
    assert set(study.pairs(found, "text")) == {name for name in told if "tun" not in name}  # tuned: code alone
    start, last = study.divergences(found["AQLM 1, code, tuned"])
    told_of = study.tunings(found)
    assert set(told_of["cell"]) == {"AQLM 1, code, tuned"} and told_of["epoch"].tolist() == [0, 1, 2, 3]
    assert [np.mean(start), np.mean(last)] == told_of["validation"].iloc[[0, -1]].tolist()
    (tmp_path / "AQLM 1, code.json").write_text(json.dumps(found["reference"]))
    assert study.cells(lab, wanted, **options)["AQLM 1, code"] == found["reference"]  # read, not made again
    summary = study.summary(found).set_index("cell")
    assert list(summary.index) == ["reference", *wanted]
    assert summary["loss on text"].isna().tolist() == [", tuned" in name for name in summary.index]


def test_what_tuning_gains_is_compared_at_equal_shares_of_the_loss() -> None:
    loss = {"reference": [1.0, 1.0], "AQLM 3, general": [1.1, 1.3], "AQLM 2, general": [1.5, 2.5]}
    tuned = {"AQLM 3, general, tuned": [1.0, 1.3], "AQLM 2, general, tuned": [1.4, 2.2]}
    found = {name: study.Cell(2.0, {"code": values}, {}) for name, values in {**loss, **tuned}.items()}
    told = study.pairs(found, "code")
    gained, shared = told["AQLM 3, general: gain beyond the share that AQLM 2, general regains"]
    assert gained == pytest.approx([0.1, 0.0]) and shared == pytest.approx([0.1 * 0.2, 0.3 * 0.2])  # 0.2 lost of 1
    assert np.subtract(*told["AQLM 2, general minus AQLM 3, general"]) == pytest.approx([0.4, 1.2])


def test_a_lab_has_the_sets_that_its_cells_need_and_programs_of_the_problems(
    little: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reprobook.nn.lm.load_lm", lambda *_, **__: (little, Letters()))
    long = [calibration.Document(str(k), str(k), f"{k} " * 600) for k in range(4)]
    corpus = calibration.Corpus(long, long)
    monkeypatch.setattr(study, "wikipedia", lambda _: corpus)
    monkeypatch.setattr(study, "standard_library", lambda: corpus)
    words = {k: "def f(x):\n" + "    # some words\n" * k for k in (0, 3)}
    toys = [humaneval.Problem(f"toy/{k}", text, "f", "    return x\n", "") for k, text in words.items()]
    sizes, names = study.Sizes(4, 60, 1, 2, 2, 1, 6), ["AQLM 2, code, tuned", "k-means 3, mixed"]
    made = study.open_lab(Path(), Path(), toys, sizes, names, 0, device=torch.device("cpu"))
    assert list(made.rows) == ["code", "mixed"] and made.rows["mixed"].shape == (4, 60)
    assert list(made.tuning) == ["code"] and made.tuning["code"].shape == (6, 60)
    assert not (made.tuning["code"][:, None] == made.rows["code"]).all(2).all()
    assert made.held["HumanEval"].names == ["toy/3"] and made.held["HumanEval"].rows.shape == (1, 30)
    text = humaneval.solved(toys[1])  # the window lies in the middle
    at = (len(text) - 30) // 2
    assert made.held["HumanEval"].rows[0].tolist() == Letters()(text[at : at + 30]).input_ids


@pytest.mark.parametrize(
    "name", ["AQLM, code", "AQLM 2", "k-means 2, code, tuned", "AQLM 2, code, often", "GPTQ 2, code"]
)
def test_a_cell_of_another_name_is_refused(lab: study.Lab, tmp_path: Path, name: str) -> None:
    options: dict[str, Any] = {"search": QUICK, "group": 16, "tuning": blocks.BlockTuning(), "folder": tmp_path}
    with pytest.raises(ReprobookError, match="is not known; names are like"):
        study.cells(lab, [name], distillation=tuning.Distillation(), **options)


def test_a_ladder_falls_to_aqlm() -> None:
    w, gram = problem(96, 96)
    _, other = problem(96, 96, seed=1)
    search = Search(kmeans_iterations=5, max_epochs=2, steps=10, scale_lr=True)
    found = study.ladder(w, gram, other, Format(2, 4, 4), search, 48, 0).set_index("method")["objective"]
    steps = found[["AQLM: residual k-means", "AQLM: Adam", "AQLM: beam search", "AQLM"]].tolist()
    assert all(a > b for a, b in itertools.pairwise(steps))
    assert found["AQLM"] == min(found) and found["round to nearest"] > found["column update"]


def test_products_are_exact_for_what_bf16_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(300, 40, generator=generator()).bfloat16()
    exact = x.double().T @ x.double()
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(blocks, "preferred_dtype", lambda _, dtype=dtype: dtype)
        assert torch.allclose(blocks.products(x).double(), exact, rtol=1e-5, atol=1e-3)
    assert torch.backends.mkldnn.matmul.fp32_precision != "bf16"
