"""Costs, fits and search against hand calculation, brute force and `transformers` (fact sheet, invariants 1 to 12)."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reprobook import facts
from reprobook.errors import ReprobookError
from reprobook.papers import cost_optimal_gqa as gqa
from reprobook.papers.cost_optimal_gqa import Cost, Family, Objective, PowerLaw, Shape

# Released configurations and the parameter counts that their publishers state: L, d, d_ff, n_h, n_kv, d_h, vocabulary,
# tied embeddings. Mistral-Nemo's heads are decoupled: 32 x 128 is not 5120.
RELEASED = {
    "Llama-3.2-1B": (16, 2048, 8192, 32, 8, 64, 128_256, True, 1_235_814_400),
    "Llama-3.2-3B": (28, 3072, 8192, 24, 8, 128, 128_256, True, 3_212_749_824),
    "Llama-3.1-8B": (32, 4096, 14336, 32, 8, 128, 128_256, False, 8_030_261_248),
    "Llama-3.1-70B": (80, 8192, 28672, 64, 8, 128, 128_256, False, 70_553_706_496),
    "Llama-2-7b": (32, 4096, 11008, 32, 32, 128, 32_000, False, 6_738_415_616),
    "Llama-2-13b": (40, 5120, 13824, 40, 40, 128, 32_000, False, 13_015_864_320),
    "Llama-2-70b": (80, 8192, 28672, 64, 8, 128, 32_000, False, 68_976_648_192),
    "TinyLlama-1.1B": (22, 2048, 5632, 32, 4, 64, 32_000, False, 1_100_048_384),
    "SmolLM2-135M": (30, 576, 1536, 9, 3, 64, 49_152, True, 134_515_008),
    "SmolLM2-360M": (32, 960, 2560, 15, 5, 64, 49_152, True, 361_821_120),
    "SmolLM2-1.7B": (24, 2048, 8192, 32, 32, 64, 49_152, True, 1_711_376_384),
    "Mistral-7B-v0.1": (32, 4096, 14336, 32, 8, 128, 32_000, False, 7_241_732_096),
    "Mistral-Nemo-Base-2407": (40, 5120, 14336, 32, 8, 128, 131_072, False, 12_247_782_400),
}


def released(name: str) -> Shape:
    L, d, d_ff, n_h, n_kv, d_h, vocab, tied, _ = RELEASED[name]
    return Shape(L, d, n_h, n_kv, d_h=d_h, d_ff=d_ff, vocab=vocab, tied=tied)


def tiny(n_h: int = 4, n_kv: int = 2, **sizes: Any) -> Shape:
    return Shape(**{"n_layers": 2, "d": 32, "d_h": 8, "d_ff": 88, "vocab": 27, "n_h": n_h, "n_kv": n_kv, **sizes})


# ------------------------------------------------------------------------------------------------ costs


@pytest.mark.parametrize("name", RELEASED)
def test_parameters_of_released_models(name: str) -> None:
    """The formula, the model instantiated on the meta device, and the published number are one number."""
    shape = released(name)
    model = gqa.build(shape, 64, device="meta")
    body, total = gqa.count_parameters(model)
    assert gqa.parameters(shape) == total == RELEASED[name][-1]
    assert gqa.body_parameters(shape) == body
    assert gqa.shape_of(model.config) == shape


def test_costs_of_the_papers_example_by_hand() -> None:
    """C1 at 128K (fact sheet, Section 5): 57.7 % of the FLOPs go; of the memory 60.1 %, not the printed 50.8 %."""
    T, L, d_h = 131_072, 36, 64
    C = [2 * N + 4 * T * L * d_h * n_h for N, n_h in ((1.2e9, 24), (1.8e9, 8))]
    M = [N + 2 * T * L * d_h * n_kv for N, n_kv in ((1.2e9, 8), (1.8e9, 1))]
    assert (C[0] / 1e9, C[1] / 1e9, M[0] / 1e9, M[1] / 1e9) == pytest.approx((31.39, 13.26, 6.032, 2.404), abs=5e-3)
    for i, (n_h, n_kv) in enumerate(((24, 8), (8, 1))):
        shape = Shape(L, 1536, n_h, n_kv)
        assert gqa.attention_flops(shape, T) == C[i] - 2 * (1.2e9, 1.8e9)[i]
        assert gqa.kv_values(shape, T) == M[i] - (1.2e9, 1.8e9)[i]


@pytest.mark.parametrize(
    "L, d, attention, kv8, kv1",
    [(12, 1024, (49.9, 79.9, 94.1), (33.2, 66.5, 88.8), (5.9, 19.9, 49.9)),
     (24, 1280, (48.4, 79.0, 93.8), (27.3, 60.0, 85.7), (4.5, 15.8, 42.9)),
     (36, 1536, (45.2, 76.8, 93.0), (21.6, 52.4, 81.5), (3.3, 12.1, 35.5)),
     (36, 2048, (38.7, 71.6, 91.0), (13.6, 38.7, 71.6), (1.9, 7.3, 24.0))],
)  # fmt: skip
def test_time_variant_shares_of_the_fact_sheet(L: int, d: int, attention: Any, kv8: Any, kv1: Any) -> None:
    """Figures 7 and 8. The sheet keeps the N of MHA for every H, so the share is taken of that model's N."""
    mha = Shape(L, d, d // 64, d // 64)
    for i, T in enumerate((8192, 32_768, 131_072)):
        flops, memory = gqa.time_variant_shares(mha, T)
        assert flops == pytest.approx(memory, abs=1e-12)  # invariant 11
        assert 100 * flops == pytest.approx(attention[i], abs=0.11)
        for n_kv, shares in ((8, kv8), (1, kv1)):
            kv = 2 * T * L * 64 * n_kv
            assert 100 * kv / (kv + gqa.parameters(mha)) == pytest.approx(shares[i], abs=0.11)


def test_flops_are_those_that_torch_counts() -> None:
    """One token after T - 1 others, with a cache: the counter sees every matrix and T keys; norms it does not count."""
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import DynamicCache

    shape, T = tiny(n_h=8, n_kv=2), 24
    model = gqa.build(shape, 64, seed=0).eval()
    x = torch.randint(27, (1, T))
    model.set_attn_implementation("eager")  # its products are plain matrix products
    with torch.no_grad():
        cache = DynamicCache(config=model.config)
        model(input_ids=x[:, :-1], past_key_values=cache, use_cache=True)
        with FlopCounterMode(display=False) as counter:
            model(input_ids=x[:, -1:], past_key_values=cache, use_cache=True)
    norms = 2 * (2 * shape.n_layers + 1) * shape.d
    cost = gqa.inference_cost(shape, T)
    assert counter.get_total_flops() == cost.flops - norms == gqa.weight_flops(shape) - norms + 4 * T * 2 * 8 * 8
    assert norms / cost.flops < 0.01


@pytest.mark.parametrize("n_h, n_kv", [(4, 4), (4, 2), (4, 1), (8, 1), (1, 1)])
def test_cache_holds_what_the_formula_says(n_h: int, n_kv: int) -> None:
    from transformers import DynamicCache

    shape, T = tiny(n_h, n_kv), 11
    model = gqa.build(shape, 64, seed=0).eval()
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        for x in torch.randint(27, (1, T)).split((5, 5, 1), dim=1):
            model(input_ids=x, past_key_values=cache, use_cache=True)
    assert gqa.cache_values(cache) == gqa.kv_values(shape, T) == 2 * T * 2 * 8 * n_kv


@settings(max_examples=40, deadline=None)
@given(
    L=st.integers(1, 80), d=st.integers(1, 64), n_kv=st.sampled_from([1, 2, 4, 8]), group=st.sampled_from([1, 2, 4]),
    T=st.integers(1, 10**6), step=st.integers(1, 10**5),
)  # fmt: skip
def test_costs_are_affine_in_context(L: int, d: int, n_kv: int, group: int, T: int, step: int) -> None:
    shape = Shape(L, 64 * d, n_kv * group, n_kv)
    at = [np.array(gqa.inference_cost(shape, T + k * step)) for k in range(3)]
    np.testing.assert_allclose(at[2] - at[1], at[1] - at[0], rtol=1e-9)
    mean = gqa.inference_cost(shape, [T, T + step, T + 2 * step])  # a random context costs its mean
    np.testing.assert_allclose(mean, np.mean(at, axis=0), rtol=1e-12)


def test_compute_ignores_kv_heads_and_memory_ignores_query_heads() -> None:
    """At fixed N: what H adds to the costs beyond the parameters (invariant 3)."""
    base, more_kv, more_q = (Shape(12, 1024, *H) for H in ((16, 2), (16, 8), (32, 2)))
    flops = [gqa.inference_cost(s, 8192).flops - 2 * gqa.parameters(s) for s in (base, more_kv, more_q)]
    memory = [gqa.inference_cost(s, 8192).memory - gqa.parameters(s) for s in (base, more_kv, more_q)]
    assert flops[0] == flops[1] and flops[2] == 2 * flops[0]
    assert memory[0] == memory[2] and memory[1] == 4 * memory[0]


def test_batch_repeats_the_cache_and_not_the_weights() -> None:
    shape = tiny()
    one, four = gqa.inference_cost(shape, 100), gqa.inference_cost(shape, 100, batch=4)
    assert four.memory - one.memory == 3 * gqa.kv_values(shape, 100) and four.flops == one.flops


def test_training_cost_by_hand() -> None:
    """Equations 10 to 12: 6 D (N + 2 L Tbar d_h n_h) with Tbar = T / 2, and 4 N + T d L."""
    shape, D, T = Shape(12, 768, 12, 4), 1e9, 4096
    N = gqa.parameters(shape)
    assert gqa.training_cost(shape, D, T) == pytest.approx(
        (4 * N + T * 768 * 12, 6 * D * (N + 2 * 12 * 2048 * 64 * 12))
    )


def test_labels_are_the_mha_counts() -> None:
    """12 d^2 L without embeddings, but for the norms (Table 9); with (8, 1) heads "1.8B" is 1.29B."""
    for L, d, label in ((4, 256, 3.15e6), (6, 512, 18.9e6), (12, 768, 84.9e6), (24, 1280, 472e6), (36, 1536, 1.02e9)):
        assert gqa.body_parameters(Shape(L, d, d // 64, d // 64)) == pytest.approx(12 * d * d * L, rel=1e-2)
        assert gqa.body_parameters(Shape(L, d, d // 64, d // 64)) == pytest.approx(label, rel=1e-2)
    assert gqa.body_parameters(Shape(36, 2048, 8, 1)) == pytest.approx(1.29e9, rel=5e-3)
    assert gqa.body_parameters(Shape(36, 1536, 24, 8)) == pytest.approx(0.91e9, rel=5e-3)


def test_objective_at_its_ends_and_in_its_units() -> None:
    cost = Cost(4e9, 27e9)
    assert Objective(lam=1)(cost) == pytest.approx(2) and Objective(lam=0)(cost) == pytest.approx(3)
    assert Objective()(cost) == pytest.approx(0.9 * 2 + 0.1 * 3)
    assert Objective(unit=1)(cost) == pytest.approx(0.9 * math.sqrt(4e9) + 0.1 * 3000)


# ------------------------------------------------------------------------------------------------ models


@pytest.mark.parametrize("n_h, n_kv", [(4, 2), (4, 1), (8, 2), (4, 4)])
def test_gqa_equals_mha_with_tiled_heads(n_h: int, n_kv: int) -> None:
    model = gqa.build(tiny(n_h, n_kv), 32, seed=1).eval()
    tiled = gqa.tile_kv_heads(model)
    assert tiled.config.num_key_value_heads == n_h
    x = torch.randint(27, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(tiled(input_ids=x).logits, model(input_ids=x).logits, atol=1e-5, rtol=1e-4)


def test_repeat_in_place_of_interleave_is_another_model() -> None:
    model = gqa.build(tiny(4, 2), 32, seed=1).eval()
    tiled = gqa.tile_kv_heads(model)
    with torch.no_grad():
        for layer, wrong in zip(model.model.layers, tiled.model.layers, strict=True):
            for name in ("k_proj", "v_proj"):
                w = getattr(layer.self_attn, name).weight
                getattr(wrong.self_attn, name).weight.copy_(w.unflatten(0, (2, 8)).repeat(2, 1, 1).flatten(0, 1))
        x = torch.randint(27, (2, 9))
        assert not torch.allclose(tiled(input_ids=x).logits, model(input_ids=x).logits, atol=1e-4)


def test_token_nll_is_the_chain_rule() -> None:
    model = gqa.build(tiny(), 32, seed=2).eval()
    x = torch.randint(27, (3, 7), generator=torch.Generator().manual_seed(0))
    nll = gqa.token_nll(model, x, batch_size=2)
    with torch.no_grad():
        for t in range(6):
            log_p = model(input_ids=x[:, : t + 1]).logits[:, -1].log_softmax(-1)
            expected = -log_p.gather(1, x[:, t + 1 : t + 2])[:, 0]
            torch.testing.assert_close(nll[:, t], expected, atol=1e-5, rtol=1e-4)
    assert gqa.next_token_loss(model, x).item() == pytest.approx(nll.mean().item(), rel=1e-5)


def test_initial_weights_and_options_are_the_papers() -> None:
    model = gqa.build(gqa.rounded(Shape(2, 256, 8, 2)), 128, seed=0)
    config = model.config
    assert model.model.layers[0].mlp.up_proj.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert config.rope_parameters["rope_theta"] == 500_000 and config.rms_norm_eps == 1e-6
    assert model.lm_head.weight is model.model.embed_tokens.weight


# ------------------------------------------------------------------------------------------------ laws

SIZES = np.array([2e4, 4e4, 6e4, 9e4, 1.5e5])


@settings(max_examples=8, deadline=None)
@given(a=st.floats(5e3, 1e5), b=st.floats(0.15, 0.8), E=st.floats(0.2, 2.0))
def test_noise_free_fit_recovers_the_law(a: float, b: float, E: float) -> None:
    law = gqa.fit_power_law(SIZES, (a / SIZES) ** b + E)
    assert (law.a, law.b, law.E) == pytest.approx((a, b, E), rel=1e-6)
    assert law.r2 == pytest.approx(1) and law.left_out < 1e-6


@settings(max_examples=50, deadline=None)
@given(N=st.floats(1e3, 1e12), b=st.floats(0.1, 1.0), E=st.floats(0.0, 2.0))
def test_size_inverts_the_law(N: float, b: float, E: float) -> None:
    law = PowerLaw(1e5**b, b, E)
    target = float(law(N))
    if target - E > 1e-6:  # closer to E the difference has no digits left
        assert law.size_for(target) == pytest.approx(N, rel=1e-4)
        assert law.size_for(target * 1.01) < law.size_for(target)


def test_a_target_at_or_below_the_entropy_is_infeasible() -> None:
    law = PowerLaw(10.0, 0.5, 1.5)
    assert law.size_for(1.5) is None and law.size_for(1.2) is None and law.size_for(1.51) > 0
    assert PowerLaw(10.0, 0.01, 1.5).size_for(1.6) is None  # 10^200 parameters
    with pytest.raises(ReprobookError, match="target is nan"):
        law.size_for(math.nan)


def test_extrapolation_is_beyond_three_times_the_largest_size() -> None:
    law = gqa.fit_power_law(SIZES, (2e4 / SIZES) ** 0.4 + 1)
    assert not law.extrapolates(3 * 1.5e5) and law.extrapolates(3.01 * 1.5e5)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """Repeated fits of noisy points: a 95 % interval of b holds the true b in most, and is not infinitely wide."""
    rng, x = np.random.default_rng(0), np.geomspace(1e4, 1e6, 12)
    fits = [gqa.fit_power_law(x, ((3e4 / x) ** 0.4 + 1.1) * np.exp(rng.normal(0, 0.002, 12))) for _ in range(20)]
    covered = [fit.interval["b"][0] <= 0.4 <= fit.interval["b"][1] for fit in fits]
    assert sum(covered) >= 16 and max(fit.interval["b"][1] - fit.interval["b"][0] for fit in fits) < 0.5


def test_one_wild_point_hardly_moves_a_robust_fit() -> None:
    """Against plain least squares by brute force over (b, E), the scale in closed form."""
    x = np.geomspace(1e4, 1e6, 10)
    y = (3e4 / x) ** 0.4 + 1.1
    y[4] *= 1.1
    errors = {}
    for b, E in itertools.product(np.linspace(0.1, 0.9, 81), np.linspace(0.5, 1.3, 81)):
        basis = x**-b
        s = float(basis @ (y - E) / (basis @ basis))
        errors[b, E] = float(((s * basis + E - y) ** 2).sum())
    plain_b, plain_E = min(errors, key=errors.__getitem__)
    fit = gqa.fit_power_law(x, y)
    assert abs(fit.b - 0.4) < 0.5 * abs(plain_b - 0.4) and abs(fit.E - 1.1) < 0.5 * abs(plain_E - 1.1)


def test_left_out_error_by_hand() -> None:
    rng = np.random.default_rng(1)
    x = np.geomspace(1, 64, 6)
    y = (0.5 * x**-0.4 + 1.4) * np.exp(rng.normal(0, 0.003, 6))
    by_hand = []
    for i in range(6):
        keep = [k for k in range(6) if k != i]
        by_hand.append(abs(gqa.fit_power_law(x[keep], y[keep])(x[i]) / y[i] - 1))
    assert gqa.fit_power_law(x, y).left_out == pytest.approx(np.mean(by_hand))


def test_shared_entropy_is_found_and_shared() -> None:
    curves = {(h, 1): (SIZES, (2e4 * (1 + 1 / h) / SIZES) ** (0.4 + 0.02 * h) + 1.2) for h in (1, 2, 4)}
    laws = gqa.fit_size_laws(curves)
    assert {round(law.E, 12) for law in laws.values()} == {round(laws[1, 1].E, 12)}
    for h in (1, 2, 4):
        assert (laws[h, 1].a, laws[h, 1].b, laws[h, 1].E) == pytest.approx(
            (2e4 * (1 + 1 / h), 0.4 + 0.02 * h, 1.2), rel=1e-3
        )
    apart = gqa.fit_size_laws(curves, shared_entropy=False)
    assert pytest.approx(1.2, rel=1e-6) == apart[4, 1].E


def test_curves_pool_seeds_and_leave_out_heads_with_few_sizes() -> None:
    rows = [(1, 1, 10, 3.0), (1, 1, 20, 2.5), (1, 1, 30, 2.2), (1, 1, 30, 2.3), (2, 1, 10, 2.9), (2, 1, 10, 2.8)]
    frame = pd.DataFrame(rows, columns=["n_h", "n_kv", "N", "loss"])
    assert gqa.curves_of(frame, "loss") == {(1, 1): ([10, 20, 30, 30], [3.0, 2.5, 2.2, 2.3])}


def test_head_law_of_the_first_version() -> None:
    n_h = np.array([1, 2, 4, 8, 16])
    law = gqa.fit_head_law(n_h, 0.3 * n_h**-0.5 + 1.4)
    assert (law.scale, -law.exponent, law.constant) == pytest.approx((0.3, -0.5, 1.4), rel=1e-6)
    assert gqa.fit_head_law(n_h, 0.3 * n_h**-0.5 + 1.4, constant=1.4).exponent == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize(
    "x, y, constant, message",
    [
        ([1, 2], [3, 2], None, "3 parameters needs as many different x; got 2"),
        ([1, 1, 2], [3, 3, 2], None, "got 2"),
        ([1, 2, 3], [3, 2, math.nan], None, "positive finite"),
        ([1, 2, -3], [3, 2, 1], None, "positive finite"),
        ([1, 2, 3], [3, 2, 1.5], 1.5, "constant is 1.5; it must be from 0 to below the least loss"),
    ],
)
def test_fits_refuse_what_they_cannot_fit(x: Any, y: Any, constant: float | None, message: str) -> None:
    with pytest.raises(ReprobookError, match=message):
        gqa.fit_power_law(x, y, constant=constant)


# ------------------------------------------------------------------------------------------------ search

LAWS = {H: PowerLaw((3e7 * (1 + 2 / H[0] ** 0.5 + 1 / H[1] ** 0.5)) ** 0.35, 0.35, 1.8) for H in gqa.candidates(32)}


def test_there_are_21_candidates() -> None:
    found = gqa.candidates(32)
    assert len(found) == 21 == len(set(found)) and all(n_h % n_kv == 0 for n_h, n_kv in found)
    assert gqa.candidates(24) == gqa.candidates(16)  # powers of two up to 24; the paper rounds 24 up to 32 itself


@pytest.mark.parametrize("k", range(len(gqa.REFERENCES)))
def test_the_line_of_shapes_goes_through_the_references(k: int) -> None:
    L, d = gqa.REFERENCES[k]
    N = gqa.body_parameters(Shape(L, d, 8, 2))
    found = Family().shape_for(N, (8, 2))
    assert gqa.body_parameters(found) == pytest.approx(N, rel=1e-9)
    assert (found.n_layers, found.d) == pytest.approx((L, d), rel=2e-4)


@settings(max_examples=30, deadline=None)
@given(log_N=st.floats(4, 12.5), H=st.sampled_from(gqa.candidates(32)))
def test_shapes_have_the_size_asked_for(log_N: float, H: tuple[int, int]) -> None:
    found = Family().shape_for(10**log_N, H)
    assert gqa.body_parameters(found) == pytest.approx(10**log_N, rel=1e-8) and (found.n_h, found.n_kv) == H


def test_size_grows_along_the_line() -> None:
    family = Family()
    for H in ((1, 1), (32, 32)):
        sizes = [gqa.body_parameters(family.shape_at(s, H)) for s in np.linspace(-2, 16, 2000)]
        assert (np.diff(sizes) > -1e-9 * np.array(sizes[:-1])).all()


def test_between_neighbours_the_ratio_is_linear() -> None:
    """Half-way from (36, 2048) to (48, 2560): L = 42 and d / L the mean of the two ratios."""
    found = Family().shape_at(8.5, (8, 1))
    assert found.n_layers == 42 and found.d == pytest.approx(42 * (2048 / 36 + 2560 / 48) / 2)


def test_nearest_real_model_can_be_built() -> None:
    family = Family()
    ideal = family.shape_for(1.5e9, (8, 2))
    real = family.nearest_real(ideal)
    assert real.n_layers in (math.floor(ideal.n_layers), math.ceil(ideal.n_layers)) and real.d % 64 == 0
    assert real.ffn % 32 == 0 and abs(gqa.body_parameters(real) / 1.5e9 - 1) < 0.05
    gqa.build(real, 64, device="meta")


@pytest.mark.parametrize("T", [2**k * 1024 for k in (3, 5, 7, 9)])
@pytest.mark.parametrize("target", [3.0, 2.6, 2.3])
@pytest.mark.parametrize("lam", [0.9, 0.0, 1.0])
def test_search_equals_brute_force(T: int, target: float, lam: float) -> None:
    """The oracle knows neither inversion nor bisection: it walks up a fine ladder of shapes until the loss is met."""
    objective, family = Objective(lam=lam), Family()
    costs = {}
    for H, law in LAWS.items():
        for s in np.arange(-1, 16, 0.02):
            shape = family.shape_at(s, H)
            body = (
                2 * shape.n_layers * shape.d * 64 * sum(H)
                + 8 * shape.n_layers * shape.d**2
                + (2 * shape.n_layers + 1) * shape.d
            )
            if (law.a / body) ** law.b + law.E <= target:
                N = body + 50_304 * shape.d
                M = (N + 2 * T * shape.n_layers * 64 * H[1]) / 1e9
                C = (2 * N + 4 * T * shape.n_layers * 64 * H[0]) / 1e9
                costs[H] = lam * M**0.5 + (1 - lam) * C ** (1 / 3)
                break
    table = gqa.search(LAWS, target, T, family, objective)
    ranked = sorted(costs, key=costs.__getitem__)
    best = gqa.best_heads(table)
    assert best == ranked[0] or costs[best] < 1.01 * costs[ranked[0]]  # a tie within the ladder's step
    for row in table.itertuples():
        assert pytest.approx(costs[row.n_h, row.n_kv], rel=0.02) == row.Z and row.status == "ok"


def test_infeasible_heads_are_said_and_never_chosen() -> None:
    laws = {(1, 1): PowerLaw(1e3, 0.35, 2.5), (8, 1): PowerLaw(1e3, 0.35, 1.8)}
    table = gqa.search(laws, 2.4, 8192, Family()).set_index("n_h")
    assert table.loc[1, "status"] == "infeasible" and math.isnan(table.loc[1, "Z"])
    assert table["best"].tolist() == [False, True] and table["pareto"].tolist() == [False, True]
    nothing = gqa.search(laws, 1.7, 8192, Family())
    assert gqa.best_heads(nothing) is None and not nothing["best"].any() and not nothing["pareto"].any()
    grid = gqa.optima(laws, [2.4, 1.7], [8192], Family())
    assert grid["status"].tolist() == ["ok", "infeasible"] and pd.isna(grid["n_h"].iloc[1])


def test_memory_alone_and_compute_alone_at_endless_context() -> None:
    """Invariants 8 and 9: lambda = 1 ends at the fewest KV heads, lambda = 0 at the fewest query heads; what the other
    head count does to the cost goes through N alone."""
    far = 10**9
    assert gqa.best_heads(gqa.search(LAWS, 2.6, far, Family(), Objective(lam=1)))[1] == 1
    assert gqa.best_heads(gqa.search(LAWS, 2.6, far, Family(), Objective(lam=0)))[0] == 1
    same_N = {(n_h, 1): PowerLaw(1e3, 0.35, 1.8) for n_h in (2, 4)} | {(4, 4): PowerLaw(1e3, 0.35, 1.8)}
    family = Family()
    table = gqa.search(same_N, 2.6, 8192, family, Objective(lam=1))
    for row in table.itertuples():
        shape = family.shape_for(row.N, (row.n_h, row.n_kv))
        assert row.memory == pytest.approx(gqa.parameters(shape) + 2 * 8192 * shape.n_layers * 64 * row.n_kv)


def test_pareto_by_hand() -> None:
    costs = np.array([[1, 5], [2, 2], [3, 3], [5, 1], [2, 2], [np.nan, 0]])
    assert gqa.pareto(costs).tolist() == [True, True, False, True, True, False]


def test_fewer_heads_at_longer_context_and_more_at_lower_loss() -> None:
    """Table 4's pattern on a surface with a known answer, at sizes above 1B and in units of 1e9; with raw units compute
    hardly counts, and the best n_h stays where it was for much longer."""
    contexts, targets = [2**k * 1024 for k in range(3, 10)], [2.2, 2.1, 2.05]

    def best(unit: float) -> pd.DataFrame:
        grid = gqa.optima(LAWS, targets, contexts, Family(), Objective(unit=unit))
        return grid.pivot(index="target", columns="T", values="n_h").astype(int)

    grid = best(1e9)
    assert (grid.diff(axis=1).iloc[:, 1:] <= 0).all(axis=None) and (grid.diff().iloc[1:] <= 0).all(axis=None)
    assert grid.iloc[-1, 0] > grid.iloc[-1, -1] and grid.iloc[0, -1] > grid.iloc[-1, -1]
    raw = best(1)
    assert (raw >= grid).all(axis=None) and raw.iloc[-1, -1] > grid.iloc[-1, -1]


def test_saving_by_hand() -> None:
    rule = (16, 8)
    table = gqa.search(LAWS, 2.6, 131_072, Family()).set_index(["n_h", "n_kv"])
    found = gqa.saving(LAWS, rule, 2.6, 131_072, Family())
    best = table[table["best"]].iloc[0]
    assert (
        found["memory saved"] == pytest.approx(1 - best["memory"] / table.loc[rule, "memory"])
        and found["memory saved"] > 0
    )
    with pytest.raises(ReprobookError, match="no saving to state"):
        gqa.saving(LAWS, rule, 1.7, 8192, Family())


@pytest.mark.parametrize("equal", ["memory", "flops", "Z"])
def test_equal_cost_spends_the_budget_of_the_rule(equal: str) -> None:
    rule, N, T, family = (16, 8), 9e8, 131_072, Family()

    def spent(shape: Shape) -> float:
        cost = gqa.inference_cost(shape, T)
        return {"memory": cost.memory, "flops": cost.flops, "Z": float(Objective()(cost))}[equal]

    table = gqa.at_equal_cost(LAWS, rule, N, T, family, equal)
    for row in table.itertuples():
        shape = family.shape_for(row.N, (row.n_h, row.n_kv))
        assert spent(shape) == pytest.approx(spent(family.shape_for(N, rule)), rel=1e-6)
        assert row.loss == pytest.approx(float(LAWS[row.n_h, row.n_kv](row.N)))
    own = table[(table["n_h"] == 16) & (table["n_kv"] == 8)].iloc[0]
    assert own["N"] == pytest.approx(N) and table.loc[table["best"], "loss"].item() < own["loss"]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: gqa.at_equal_cost(LAWS, (8, 8), 1e9, 8, Family(), "time"), "equal is 'time'"),
        (lambda: Shape(2, 64, 6, 4), r"heads \(6, 4\): n_h must be a positive multiple of n_kv"),
        (lambda: Shape(2, 64, 0, 1), "n_h is 0"),
        (lambda: Shape(0, 64, 1, 1), "n_layers is 0"),
        (lambda: Shape(2, -64, 1, 1), "d is -64"),
        (lambda: gqa.inference_cost(tiny(), 0), "context T is 0; it must be at least 1 token"),
        (lambda: gqa.inference_cost(tiny(), [8, 0]), "at least 1 token"),
        (lambda: gqa.inference_cost(tiny(), 8, batch=0), "batch is 0"),
        (lambda: gqa.training_cost(tiny(), 0, 8), "n_tokens is 0"),
        (lambda: Objective(lam=1.5), "lambda is 1.5"),
        (lambda: Objective(unit=0), "unit is 0"),
        (lambda: gqa.candidates(0), "max_heads is 0"),
        (lambda: Family().shape_for(0, (1, 1)), "N is 0"),
        (lambda: gqa.search(LAWS, 2.6, 0, Family()), "context T is 0"),
        (lambda: gqa.search(LAWS, 1.0, 0, Family()), "context T is 0"),
        (lambda: gqa.build(Shape(2.5, 64, 1, 1), 8), "n_layers = 2.5"),
        (lambda: gqa.build(Shape(2, 64, 6, 3, d_ff=96), 8), "multiple of n_h = 6"),
        (lambda: gqa.plan(LAWS, (3, 1), 1e9, 8, Family()), r"no law for the rule \(3, 1\)"),
        (
            lambda: gqa.plan(LAWS, (8, 8), 1e9, 8, Family(), precision="fp8"),
            "precision is 'fp8'; it must be one of fp32",
        ),
        (lambda: gqa.plan(LAWS, (8, 8), -1, 8, Family()), "N is -1"),
        (lambda: gqa.plan(LAWS, (8, 8), 1e9, 8, Family(), gpu_gb=0), "gpu_gb is 0"),
        (lambda: gqa.open_corpus("c4", None, 8), "'wikipedia' or 'slimpajama', got 'c4'"),
    ],
)
def test_bad_input_is_named(call: Any, message: str) -> None:
    with pytest.raises(ReprobookError, match=message):
        call()


# ------------------------------------------------------------------------------------------------ the printed figures


def test_crossings_of_the_printed_fits() -> None:
    """Each root put back into both curves; the paper says "around 8K"."""
    for row in gqa.crossings(gqa.HEAD_FITS):
        first, second = (gqa.HEAD_FITS[name] for name in row["curves"].split(" and "))
        assert first(row["n_h"]) == pytest.approx(second(row["n_h"]), abs=1e-9) and 7000 < row["n_h"] < 14_000
    assert gqa.crossings(gqa.HEAD_FITS)[0]["n_h"] == pytest.approx(7079, abs=1)
    assert gqa.crossing(lambda x: 1.0, lambda x: 2.0) is None


def test_two_printed_fits_of_the_same_data() -> None:
    assert gqa.HEAD_FITS["470M"](8) == pytest.approx(2.9204, abs=1e-4)
    assert gqa.CONTEXT_FITS[1](8) == pytest.approx(2.9251, abs=1e-4)


@pytest.fixture(scope="module")
def table4() -> np.ndarray:
    return gqa.optima_array(facts.load("cost_optimal_gqa").frame("table4"))


@pytest.fixture(scope="module")
def optima_table() -> gqa.OptimaTable:
    frame = facts.load("cost_optimal_gqa").frame("table4")
    return gqa.OptimaTable(frame["L*"], [1024 * int(c[:-1]) for c in frame.columns[1:]])


def test_table4_is_read(table4: np.ndarray) -> None:
    assert table4.shape == (8, 5, 2) and table4[0, 0].tolist() == [32, 1] and table4[-1, -1].tolist() == [32, 8]


def test_fast_optima_are_those_of_the_search(optima_table: gqa.OptimaTable) -> None:
    surface = gqa.Surface(0.4, 2.19, 0.95, 0.25, 5e7, 1.6e8, 8e7)
    slow = gqa.optima(surface.laws(gqa.candidates(32)), optima_table.targets, optima_table.contexts, Family())
    fast = optima_table(surface, Objective()).reshape(-1, 2)
    assert (slow[["n_h", "n_kv"]].to_numpy(int) == fast).mean() > 0.97  # a tie may fall either way


def test_rebuilt_surface_meets_the_printed_losses(optima_table: gqa.OptimaTable, table4: np.ndarray) -> None:
    surface = gqa.rebuild(gqa.printed_anchors(), optima_table, table4)
    for H, N, loss in gqa.printed_anchors():
        assert surface.law(H)(N) == pytest.approx(loss, abs=1e-3)
    assert min(surface.a0, surface.u, surface.v) > 0  # more heads are never worse at equal N
    assert optima_table.match(surface, Objective(), table4)["doublings off"] < 1


def test_rebuilding_recovers_a_surface_of_its_own_kind(optima_table: gqa.OptimaTable) -> None:
    truth = gqa.Surface(0.4, 2.1, 0.8, 0.5, 5e7, 1.6e8, 8e7)
    anchors = [(H, N, float(truth.law(H)(N))) for H, N, _ in gqa.printed_anchors()]
    cells = optima_table(truth, Objective())
    found = gqa.rebuild(anchors, optima_table, cells)
    assert (found.b, found.E) == pytest.approx((truth.b, truth.E), rel=0.1)
    assert optima_table.match(found, Objective(), cells)["doublings off"] < 0.2


def test_llama3_rule() -> None:
    assert gqa.llama3_rule(1536) == (24, 8) and gqa.llama3_rule(2048) == (32, 8) and gqa.llama3_rule(100) == (8, 8)
