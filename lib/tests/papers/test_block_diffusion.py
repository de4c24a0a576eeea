"""Block diffusion against closed forms, brute force and other implementations (fact sheet, invariants 1 to 11)."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reprobook.errors import ReprobookError
from reprobook.papers import block_diffusion as bd
from reprobook.papers.block_diffusion import noise, sampling
from reprobook.papers.block_diffusion.bench import compare_sampling, operations, training_costs, training_times
from reprobook.papers.block_diffusion.model import KVCache, flex_training_mask
from scipy import stats

L, V = 16, 9
MASK = V - 1


def random_model(seed: int = 0, vocab_size: int = V, **kind: bool) -> bd.model.DiT:
    """A model whose every weight is random, so that nothing is zero by initialisation."""
    torch.manual_seed(seed)
    model = bd.model.DiT(vocab_size, dim=32, n_layers=2, n_heads=2, cond_dim=8, **kind).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return model


@pytest.fixture(scope="module")
def model() -> bd.model.DiT:
    return random_model()


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.randint(MASK, (3, L), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def x_t(x: torch.Tensor) -> torch.Tensor:
    hide = torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) < 0.5
    return torch.where(hide, MASK, x)


# ------------------------------------------------------------------------------------------------ mask and passes


@pytest.mark.parametrize("length, size", [(6, 2), (6, 1), (6, 6), (12, 4)])
def test_mask_is_who_may_see_whom(length: int, size: int) -> None:
    mask = bd.model.training_mask(length, size)
    for q, k in itertools.product(range(2 * length), repeat=2):
        q_block, k_block = (q % length) // size, (k % length) // size
        if q < length and k < length:
            allowed = q_block == k_block
        elif q < length:
            allowed = k_block < q_block
        else:
            allowed = k >= length and k_block <= q_block
        assert mask[q, k].item() == allowed
    assert mask.sum() == length**2 + length * size
    assert not mask[length:, :length].any()


def test_mask_of_the_worked_example_has_48_ones() -> None:
    assert bd.model.training_mask(6, 2).sum() == 48


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_one_pass_equals_two_passes_and_flex(
    model: bd.model.DiT, x: torch.Tensor, x_t: torch.Tensor, size: int
) -> None:
    with torch.no_grad():
        one = bd.model.one_pass_logits(model, x_t, x, size)
        torch.testing.assert_close(one, bd.model.two_pass_logits(model, x_t, x, size), atol=1e-5, rtol=0)
        torch.testing.assert_close(one, bd.model.one_pass_logits(model, x_t, x, size, "flex"), atol=1e-5, rtol=0)


def test_one_pass_equals_one_forward_per_block(model: bd.model.DiT, x: torch.Tensor, x_t: torch.Tensor) -> None:
    """Brute force: block b alone, after the clean blocks before it, which see only what stands before them."""
    size = 4
    with torch.no_grad():
        one = bd.model.one_pass_logits(model, x_t, x, size)
        for b in range(L // size):
            row = torch.cat([x[:, : b * size], x_t[:, b * size : (b + 1) * size]], 1)
            number = torch.arange(row.shape[1]) // size
            alone = model(row, mask=number[:, None] >= number[None, :])[:, b * size :]
            torch.testing.assert_close(one[:, b * size : (b + 1) * size], alone, atol=1e-5, rtol=0)


def test_one_block_is_plain_diffusion(model: bd.model.DiT, x: torch.Tensor, x_t: torch.Tensor) -> None:
    """With L' = L the clean half is never attended: the full pass with the three-part mask gives the same logits."""
    with torch.no_grad():
        full = model(
            torch.cat([x_t, x], 1), positions=torch.arange(L).repeat(2), mask=bd.model.training_mask(L, L), n_outputs=L
        )
        torch.testing.assert_close(full, model(x_t), atol=1e-5, rtol=0)
        assert torch.equal(bd.model.one_pass_logits(model, x_t, x, L), model(x_t))


def test_later_clean_tokens_change_nothing_before_them(model: bd.model.DiT, x: torch.Tensor, x_t: torch.Tensor) -> None:
    size = 4
    other = x.clone()
    other[:, 8:] = other[:, 8:].flip(1)
    with torch.no_grad():
        a, b = bd.model.one_pass_logits(model, x_t, x, size), bd.model.one_pass_logits(model, x_t, other, size)
    assert torch.equal(a[:, :12], b[:, :12])  # block 2 (8..11) may see blocks 0 and 1 alone
    assert not torch.equal(a[:, 12:], b[:, 12:])


@pytest.mark.parametrize("size", [1, 4, 8])
def test_last_layer_without_the_clean_half_changes_no_output_and_no_gradient(size: int, x: torch.Tensor) -> None:
    """All 2L tokens through every layer, then the first L outputs: what the trimmed pass must equal, in float64."""
    net = random_model().double()
    x_t = torch.where(torch.arange(L) % 3 == 0, MASK, x)
    options = {"positions": torch.arange(L).repeat(2), "mask": bd.model.training_mask(L, size)}
    whole = net(torch.cat([x_t, x], 1), **options)[:, :L]
    trimmed = bd.model.one_pass_logits(net, x_t, x, size)
    weights = torch.randn(whole.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    parameters = list(net.parameters())
    for a, b in zip(
        [whole, *torch.autograd.grad((whole * weights).sum(), parameters)],
        [trimmed, *torch.autograd.grad((trimmed * weights).sum(), parameters)],
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-8)


def test_cache_of_clean_tokens_is_stored_without_outputs(model: bd.model.DiT, x: torch.Tensor) -> None:
    caches = [KVCache(2), KVCache(2)]
    with torch.no_grad():
        assert model(x, cache=caches[0], store=True, n_outputs=0).shape == (3, 0, V)
        model(x, cache=caches[1], store=True)
    for a, b in zip(caches[0].layers, caches[1].layers, strict=True):
        torch.testing.assert_close(a, b)
    assert caches[0].next_position == L


def test_rotary_equals_the_one_of_transformers() -> None:
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    config = llama.LlamaConfig(hidden_size=32, num_attention_heads=2, rope_theta=10_000.0)
    q = torch.randn(2, 2, 7, 16, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(3, 10)
    cos, sin = llama.LlamaRotaryEmbedding(config)(q, positions[None])
    expected = llama.apply_rotary_pos_emb(q, q, cos, sin)[0]
    torch.testing.assert_close(bd.model.rotary(q, positions), expected, atol=1e-5, rtol=1e-5)


def test_causal_body_predicts_from_the_past_alone(x: torch.Tensor) -> None:
    ar = random_model(adaln=False, causal=True)
    with torch.no_grad():
        whole = ar(x)
        for n in (1, 5, L):
            torch.testing.assert_close(ar(x[:, :n])[:, -1], whole[:, n - 1], atol=1e-5, rtol=0)


def test_time_conditioning_matters_only_where_it_is_on(x: torch.Tensor) -> None:
    sigma = torch.tensor([0.5, 1.0, 2.0])
    with torch.no_grad():
        for on in (False, True):
            net = random_model(time_conditioning=on)
            assert torch.equal(net(x, sigma=sigma), net(x)) == (not on)


# ------------------------------------------------------------------------------------------------ noise


@pytest.mark.parametrize("name", list(bd.noise.SCHEDULES))
def test_weight_is_the_relative_slope_of_the_mask_rate(name: str) -> None:
    """w(t) = p'(t) / p(t), by automatic differentiation (cosine adds eps to the divisor, as released)."""
    t = torch.linspace(0.1, 0.95, 30, dtype=torch.float64, requires_grad=True)
    rate = bd.noise.SCHEDULES[name].rate(t)
    (slope,) = torch.autograd.grad(rate.sum(), t)
    expected = slope / (rate + (noise.EPS if name == "cosine" else 0.0))
    torch.testing.assert_close(bd.noise.SCHEDULES[name].weight(t.detach()), expected.detach(), atol=1e-6, rtol=1e-6)


@given(k=st.integers(1, 7), b=st.integers(1, 9), seed=st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_stratified_times_fill_every_cell_once(k: int, b: int, seed: int) -> None:
    t = bd.noise.stratified_times(k, b, torch.Generator().manual_seed(seed)).flatten()
    assert torch.equal((t * k * b).floor().long(), torch.arange(k * b))


def test_stratified_mean_has_tiny_variance() -> None:
    n = 16  # Var(mean) = 1 / (12 n^3) for one uniform draw in each of n cells
    means = torch.stack([bd.noise.stratified_times(4, 4, torch.Generator().manual_seed(s)).mean() for s in range(4000)])
    assert means.var().item() == pytest.approx(1 / (12 * n**3), rel=0.1)


@given(
    size=st.sampled_from([1, 2, 4, 8, 16]), start=st.integers(1, 9), width=st.integers(5, 9), seed=st.integers(0, 50)
)
@settings(max_examples=60, deadline=None)
def test_resampled_blocks_lie_inside_the_interval(size: int, start: int, width: int, seed: int) -> None:
    beta, omega = start / 20, min(1.0, start / 20 + width / 10)
    try:
        process = bd.noise.NoiseProcess(MASK, size, beta=beta, omega=omega)
    except ReprobookError:
        return  # no count of masked tokens fits; tested below
    generator = torch.Generator().manual_seed(seed)
    rate, _ = process.rate_and_weight(bd.noise.stratified_times(8, L // size, generator))
    share = process.mask(rate, generator).view(8, -1, size).float().mean(-1)[:, 1:]  # block 0 loses position 0
    assert (share >= beta - 1e-6).all()
    assert (share <= omega + 1e-6).all()


def test_blocks_of_four_between_045_and_095_have_two_or_three_masked_tokens() -> None:
    process = bd.noise.NoiseProcess(MASK, 4, beta=0.45, omega=0.95)
    masked = process.mask(torch.full((200, 4), 0.7), torch.Generator().manual_seed(0)).view(200, 4, 4)[:, 1:]
    assert set(masked.sum(-1).unique().tolist()) == {2, 3}


def test_full_masking_masks_all_but_the_context() -> None:
    process = bd.noise.NoiseProcess(MASK, 1, beta=1.0, omega=1.0)
    rate, weight = process.rate_and_weight(torch.rand(2, L))
    masked = process.mask(rate)
    assert masked[:, 1:].all() and not masked[:, 0].any() and (weight == 1).all()


def test_weightings_of_paper_and_code_differ_by_the_width() -> None:
    u = torch.rand(5, 4)
    code = bd.noise.NoiseProcess(MASK, 4, beta=0.3, omega=0.8)
    rate, weight = code.rate_and_weight(u)
    torch.testing.assert_close(weight, 1 / rate)
    torch.testing.assert_close(replace(code, weighting="paper").rate_and_weight(u)[1], 0.5 * weight)
    heavy = replace(code, beta=0.55, omega=1.0)
    assert (heavy.rate_and_weight(u)[1] == 1).all()


def test_candidates_of_the_search() -> None:
    found = bd.noise.candidate_intervals(16)
    assert len(found) == 11 + 9 + 7 + 5 + 3 + 1
    assert found[0] == (1e-3, 0.5) and found[-1] == (1e-3, 1.0) and (0.45, 0.95) in found and (0.5, 1.0) in found
    assert bd.noise.candidate_intervals(1) == [(1e-3, 1.0), (1.0, 1.0)]


# ------------------------------------------------------------------------------------------------ losses and bounds


class Uniform(torch.nn.Module):
    """A denoiser that knows nothing: equal logits."""

    def forward(self, tokens: torch.Tensor, n_outputs: int | None = None, **_: object) -> torch.Tensor:
        return torch.zeros(*tokens[:, :n_outputs].shape, V)


def test_subs_gives_distributions_without_mask_and_copies_what_is_known(model: bd.model.DiT, x_t: torch.Tensor) -> None:
    with torch.no_grad():
        probs = bd.objectives.subs_log_probs(model(x_t), x_t, MASK).exp()
    torch.testing.assert_close(probs.sum(-1), torch.ones(x_t.shape))
    assert (probs[..., MASK][x_t == MASK] == 0).all()
    known = x_t != MASK
    assert (probs.gather(-1, x_t[..., None])[..., 0][known] == 1).all()


def test_unmasked_tokens_cost_exactly_nothing(model: bd.model.DiT, x: torch.Tensor, x_t: torch.Tensor) -> None:
    with torch.no_grad():
        logits = model(x_t)
        nll = bd.objectives.masked_nll(logits, x, x_t == MASK, MASK)
        expected = -bd.objectives.subs_log_probs(logits, x_t, MASK).gather(-1, x[..., None])[..., 0]
    assert (nll[x_t != MASK] == 0).all()
    torch.testing.assert_close(nll, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", list(bd.noise.SCHEDULES))
@pytest.mark.parametrize("size", [1, 4, L])
def test_uniform_denoiser_costs_log_of_the_tokens_under_every_schedule(name: str, size: int) -> None:
    """E[w(t) p(t)] = integral of p' = p(1) - p(eps): 1 for the linear schedule, a little less for the others."""
    x = torch.randint(MASK, (512, L))
    process = bd.noise.NoiseProcess(MASK, size, schedule=name, resample=False)
    generator = torch.Generator().manual_seed(3)
    draws = torch.stack(
        [bd.objectives.per_token(bd.objectives.diffusion_terms(Uniform(), x, process, generator)) for _ in range(60)]
    )
    t = torch.linspace(noise.EPS, 1, 400_001, dtype=torch.float64)
    schedule = bd.noise.SCHEDULES[name]
    expected = (schedule.weight(t) * schedule.rate(t)).mean().item() * math.log(V - 1)
    error = 5 * draws.std().item() / math.sqrt(len(draws)) + 1e-3
    assert draws.mean().item() == pytest.approx(expected, abs=error)


@pytest.mark.parametrize("beta, omega", [(1e-3, 1.0), (0.5, 1.0), (0.3, 0.8), (0.45, 0.95), (1e-3, 0.5)])
@pytest.mark.parametrize("size", [4, 16])
def test_variance_of_a_constant_loss_has_its_closed_form(beta: float, omega: float, size: int) -> None:
    """Rare, tiny mask rates carry most of the variance, so the error of the estimate is taken from 30 repetitions."""
    x = torch.randint(MASK, (1500, 64))
    process = bd.noise.NoiseProcess(MASK, size, beta=beta, omega=omega, resample=False)
    found = []
    for seed in range(30):
        terms = bd.objectives.diffusion_terms(Uniform(), x, process, torch.Generator().manual_seed(seed))
        found.append(terms.unflatten(1, (-1, size)).mean(-1)[:, 1:].var().item())  # block 0 holds the context
    expected = bd.noise.constant_loss_variance(beta, omega, size, c=math.log(V - 1))
    assert np.mean(found) == pytest.approx(expected, abs=5 * np.std(found) / math.sqrt(30) + 0.01 * expected)


def test_closed_form_reproduces_the_printed_factors() -> None:
    inverse = {(1e-3, 1.0): 6.915, (0.5, 1.0): 1.386, (0.3, 0.8): 1.962, (0.45, 0.95): 1.494, (1e-3, 0.5): 12.45}
    for (beta, omega), value in inverse.items():
        assert 1 + bd.noise.constant_loss_variance(beta, omega, 1) == pytest.approx(value, abs=6e-3)
    assert bd.noise.constant_loss_variance(1.0, 1.0, 1) == 0


def test_all_masked_single_tokens_give_the_autoregressive_likelihood(model: bd.model.DiT, x: torch.Tensor) -> None:
    """L' = 1, everything masked, weight 1: -log p(x_i | x_<i), one prefix at a time."""
    expected = []
    with torch.no_grad():
        for i in range(1, L):
            row = torch.cat([x[:, :i], torch.full((len(x), 1), MASK)], 1)
            logits = model(row, mask=torch.ones(i + 1, i + 1).tril().bool())[:, -1]
            logits[:, MASK] = -torch.inf
            expected.append(torch.nn.functional.cross_entropy(logits, x[:, i], reduction="none"))
        expected = torch.stack(expected, 1)
        process = bd.noise.NoiseProcess(MASK, 1, beta=1.0, omega=1.0)
        terms = bd.objectives.diffusion_terms(model, x, process)
    torch.testing.assert_close(terms[:, 1:], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(bd.objectives.exact_nelbo(model, x, 1, MASK), expected.mean(1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_monte_carlo_bound_is_unbiased_for_the_exact_sum(model: bd.model.DiT, x: torch.Tensor, size: int) -> None:
    exact = bd.objectives.exact_nelbo(model, x, size, MASK)
    draws = torch.stack(
        [bd.objectives.nelbo(model, x.repeat(40, 1), size, MASK, 1, seed=s).view(40, 3).mean(0) for s in range(30)]
    )
    error = 5 * draws.std(0) / math.sqrt(30) + 1e-5
    assert ((draws.mean(0) - exact).abs() < error).all()


def test_drawn_numbers_of_masks_have_the_mean_of_drawn_times_and_less_noise(
    model: bd.model.DiT, x: torch.Tensor
) -> None:  # fmt: skip
    rows, process = x.repeat(200, 1), bd.noise.NoiseProcess(MASK, L, resample=False)
    with torch.no_grad():
        by_time = bd.objectives.diffusion_terms(model, rows, process, torch.Generator().manual_seed(0)).sum(1) / (L - 1)
    by_number = bd.objectives.nelbo(model, rows, L, MASK, 1, batch_size=600)
    error = 4 * (by_time.std() + by_number.std()) / math.sqrt(len(rows))
    assert (by_time.mean() - by_number.mean()).abs() < error
    assert by_number.view(200, 3).var(0).mean() < 0.5 * by_time.view(200, 3).var(0).mean()


def test_exact_sum_for_two_tokens_by_hand(model: bd.model.DiT, x: torch.Tensor) -> None:
    """Block {a, b}: weights 1/2 for each single token given the other, 1/2 for both together."""
    row = x[:1, :4]
    with torch.no_grad():

        def nll(hidden: list[int]) -> torch.Tensor:
            x_t = row.clone()
            x_t[:, hidden] = MASK
            logits = bd.model.one_pass_logits(model, x_t, row, 2)
            logits[..., MASK] = -torch.inf
            return -logits.log_softmax(-1)[0, torch.arange(4), row[0]]

        first = nll([1])[1]  # position 0 is context: block 0 has one maskable token
        both, a, b = nll([2, 3]), nll([2])[2], nll([3])[3]
        expected = (first + 0.5 * a + 0.5 * b + 0.5 * (both[2] + both[3])) / 3
    torch.testing.assert_close(bd.objectives.exact_nelbo(model, row, 2, MASK)[0], expected, atol=1e-5, rtol=1e-5)


def test_clean_context_enters_the_bound(model: bd.model.DiT, x: torch.Tensor) -> None:
    """Another past must give another loss: nothing of the conditioning is lost on the way."""
    other = torch.cat([(x[:, :4] + 1) % MASK, x[:, 4:]], 1)
    masked = torch.zeros(x.shape, dtype=torch.bool)
    masked[:, 4:8] = True
    with torch.no_grad():
        a, b = (
            bd.objectives.masked_nll(
                bd.model.one_pass_logits(model, torch.where(masked, MASK, y), y, 4), y, masked, MASK
            )
            for y in (x, other)
        )
    assert not torch.allclose(a[:, 4:8], b[:, 4:8])


def test_score_entropy_of_the_posterior_is_the_diffusion_loss() -> None:
    """With scores s_y = r p(y | x_t) a masked token costs sigma' r (-log p(x_0)) = (1/t)(-log p(x_0)): SEDD's loss
    is MDLM's."""
    source = bd.source.MarkovSource(V - 1, seed=1)
    x = source.sample(64, L, torch.Generator().manual_seed(0))

    class Posterior(torch.nn.Module):
        def forward(self, tokens: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            return source.denoiser(L)(tokens) + math.log(V - 1)  # undoes the constant that SEDD subtracts

    found = bd.objectives.score_entropy_terms(Posterior(), x, MASK, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    t = noise.EPS + (1 - noise.EPS) * bd.noise.stratified_times(64, 1, generator)
    masked = torch.rand(x.shape, generator=generator) < (1 - noise.EPS) * t
    masked[:, 0] = False
    nll = bd.objectives.masked_nll(source.denoiser(L)(torch.where(masked, MASK, x)), x, masked, MASK)
    torch.testing.assert_close(found, nll / t, atol=2e-3, rtol=2e-3)


def test_interval_search_finds_the_closed_form_minimum_for_equal_losses() -> None:
    batches = torch.randint(MASK, (256, 64), generator=torch.Generator().manual_seed(0)).split(64)
    process = bd.noise.NoiseProcess(MASK, 16, resample=False)
    closed = {pair: bd.noise.constant_loss_variance(*pair, 16) for pair in bd.noise.candidate_intervals(16)}
    assert bd.objectives.search_interval(Uniform(), batches, process) == min(closed, key=closed.get) == (0.5, 1.0)
    found = bd.objectives.interval_variances(Uniform(), batches, process, [(0.5, 1.0), (1e-3, 1.0)])
    assert found.shape == (2, 4) and (found[0] < found[1]).all()


def test_search_hook_keeps_the_interval_in_the_models_state(x: torch.Tensor) -> None:
    net = random_model()
    found = bd.objectives.interval_search(net, bd.noise.NoiseProcess(MASK, 4), [x])(net, 0)
    assert net.state_dict()["interval"].tolist() == [found["beta"], found["omega"]]
    copy = random_model(seed=1)
    copy.load_state_dict(net.state_dict())
    assert copy.interval.tolist() == [found["beta"], found["omega"]]


def test_thinned_loss_is_a_mean_of_token_losses(x: torch.Tensor) -> None:
    ar = random_model(adaln=False, causal=True)
    with torch.no_grad():
        terms = bd.objectives.ar_terms(ar, x)[:, 1:]
        loss = bd.objectives.thinned_ar_loss(ar, x, torch.Generator().manual_seed(0))
    assert terms.min() <= loss <= terms.max()


# ------------------------------------------------------------------------------------------------ the source


def test_exact_conditionals_give_the_true_likelihood_at_every_block_size() -> None:
    source = bd.source.MarkovSource(5, seed=2)
    x = source.sample(64, 16, torch.Generator().manual_seed(0))
    for size in (1, 2, 4, 8):
        bound = bd.objectives.exact_nelbo(source.denoiser(size), x, size, 5)
        torch.testing.assert_close(bound, source.nll(x).float(), atol=1e-4, rtol=1e-4)


def test_posterior_equals_enumeration() -> None:
    source = bd.source.MarkovSource(3, seed=0)
    x = torch.tensor([[0, 2, 1, 1, 0, 2]])
    x_t = torch.tensor([[0, 3, 1, 3, 3, 2]])
    found = source.posterior(x_t, x, 3, 3)[0]
    for b in range(2):
        start = source.stationary if b == 0 else source.transition[x[0, 2]]
        weights = torch.zeros(3, 3, dtype=torch.float64)
        for word in itertools.product(range(3), repeat=3):
            seen = x_t[0, 3 * b : 3 * b + 3].tolist()
            if all(s in (3, w) for s, w in zip(seen, word, strict=True)):
                p = start[word[0]] * source.transition[word[0], word[1]] * source.transition[word[1], word[2]]
                for i, symbol in enumerate(word):
                    weights[i, symbol] += p
        torch.testing.assert_close(found[3 * b : 3 * b + 3], weights / weights.sum(1, keepdim=True))


def chain_probability(source: bd.source.MarkovSource, tokens: tuple[int, ...]) -> float:
    """p(tokens) by summing over every state that may come before them."""
    total = 0.0
    for state, p in enumerate(source.stationary.tolist()):
        for token in tokens:
            p *= source.transition[state, token].item()
            state = (state * source.n_tokens + token) % len(source.transition)
        total += p
    return total


def test_source_with_a_memory_equals_enumeration() -> None:
    """Order 2 with an end of document: likelihood, posterior of a block and entropies, each summed by brute force."""
    source = bd.source.MarkovSource(2, 0.5, seed=0, order=2, end_rate=0.2)
    x = source.sample(4, 6, torch.Generator().manual_seed(0))
    for row, nll in zip(x.tolist(), source.nll(x).tolist(), strict=True):
        first = chain_probability(source, (row[0],))
        assert nll == pytest.approx(-math.log(chain_probability(source, tuple(row)) / first) / 5)
    x_t = x.clone()
    x_t[:, [1, 4, 5]] = source.n_tokens
    found = source.posterior(x_t, x, 3, source.n_tokens)
    for row, p in zip(x.tolist(), found, strict=True):
        words = {w: chain_probability(source, (*row[:4], *w)) for w in itertools.product(range(3), repeat=2)}
        for i in range(2):
            share = torch.tensor([sum(v for w, v in words.items() if w[i] == y) for y in range(3)], dtype=torch.float64)
            torch.testing.assert_close(p[4 + i], share / share.sum())
    for size in (1, 2, 3):
        bound = bd.objectives.exact_nelbo(source.denoiser(size), x, size, source.n_tokens)
        torch.testing.assert_close(bound, source.nll(x).float(), atol=1e-5, rtol=1e-5)
    for seen, entropy in enumerate(source.entropies()):
        block = [
            -p * math.log(p)
            for n in (seen, seen + 1)
            for p in [chain_probability(source, w) for w in itertools.product(range(3), repeat=n)] or [1.0]
        ]
        longer = sum(block[3**seen :]) if seen else sum(block[1:])
        assert entropy == pytest.approx(longer - (sum(block[: 3**seen]) if seen else 0.0), abs=1e-6)


def test_documents_forget_what_came_before_and_end_at_the_stated_rate() -> None:
    source = bd.source.MarkovSource(3, 0.4, seed=1, order=2, end_rate=0.1)
    after_end = source.transition.view(4, 4, 4)[:, source.end_id]
    torch.testing.assert_close(after_end, after_end[:1].expand(4, 4))
    assert (source.transition[:, source.end_id] == 0.1).all()
    x = source.sample(400, 100, torch.Generator().manual_seed(0))
    assert (x == source.end_id).double().mean().item() == pytest.approx(0.1, abs=0.01)
    begun = source.sample(4000, 8, torch.Generator().manual_seed(0), after_end=True)
    assert (begun[:, 0] == source.end_id).all()
    longer = (begun[:, 1:] != source.end_id).all(1).double().mean().item()
    assert longer == pytest.approx(0.9**7, abs=0.03)


def test_permuted_sources_have_the_entropy_of_their_row() -> None:
    q = np.exp(-1.2 * np.arange(6))
    for seed in (0, 1):
        source = bd.source.permuted_source(6, 1.2, seed)
        assert source.entropy_rate() == pytest.approx(stats.entropy(q))
        torch.testing.assert_close(source.stationary @ source.transition, source.stationary)
        assert np.sort(source.transition.numpy(), 1)[:, ::-1] == pytest.approx(np.tile(q / q.sum(), (6, 1)))


@pytest.mark.parametrize(
    "options, says", [({"n_symbols": 1}, "n_symbols"), ({"order": 0}, "order"), ({"end_rate": 1.0}, "end_rate")]
)
def test_source_refuses(options: dict[str, float], says: str) -> None:
    with pytest.raises(ReprobookError, match=says):
        bd.source.MarkovSource(**options)  # type: ignore[arg-type]


def test_entropy_rate_is_the_mean_likelihood_of_long_text() -> None:
    source = bd.source.MarkovSource(6, seed=3)
    torch.testing.assert_close(source.stationary @ source.transition, source.stationary)
    x = source.sample(200, 500, torch.Generator().manual_seed(0))
    assert source.nll(x).mean().item() == pytest.approx(source.entropy_rate(), abs=0.02)


# ------------------------------------------------------------------------------------------------ sampling


@given(
    size=st.sampled_from([1, 2, 4, 8]), seed=st.integers(0, 30), sampler=st.sampled_from(["first_hitting", "ancestral"])
)
@settings(max_examples=15, deadline=None)
def test_cached_and_uncached_sampling_agree(size: int, seed: int, sampler: str) -> None:
    net = random_model(seed)
    prompt = torch.arange(3)[:, None]
    runs = [
        bd.sampling.sample_blocks(
            net, prompt, L, size, MASK, sampler=sampler, num_steps=12, top_p=0.9, use_cache=cache,
            generator=torch.Generator().manual_seed(seed),
        )
        for cache in (True, False)
    ]  # fmt: skip
    assert torch.equal(runs[0].tokens, runs[1].tokens) and torch.equal(runs[0].nfe, runs[1].nfe)
    assert (runs[0].tokens != MASK).all() and torch.equal(runs[0].tokens[:, :1], prompt)


def test_first_hitting_needs_one_call_a_token(model: bd.model.DiT) -> None:
    found = bd.sampling.sample_blocks(model, torch.zeros(4, 1, dtype=torch.long), L, 4, MASK)
    assert found.nfe.tolist() == [L - 1] * 4


def test_first_hitting_takes_every_order_alike() -> None:
    n = 4
    seen: list[torch.Tensor] = []

    def spy(block: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        seen.append(block == MASK)
        return torch.full((*at.shape, V), 1 / (V - 1)).index_fill(-1, torch.tensor([MASK]), 0.0)

    bd.sampling.first_hitting_block(spy, torch.full((6000, n), MASK), MASK, torch.Generator().manual_seed(1))
    steps = torch.stack([*seen, torch.zeros_like(seen[0])]).int()
    order = (steps[:-1] - steps[1:]).argmax(-1).T  # which position each call unmasked
    _, counts = order.unique(dim=0, return_counts=True)
    assert len(counts) == math.factorial(n)
    expected = 6000 / len(counts)
    assert ((counts - expected) ** 2 / expected).sum() < 49.7  # chi-square, 23 degrees, p = 0.001


def test_ancestral_calls_have_their_expectation() -> None:
    T, n = 20, 8
    uniform = torch.full((V,), 1 / (V - 1)).index_fill(0, torch.tensor([MASK]), 0.0)
    block, nfe = sampling.ancestral_block(
        lambda b, _at: uniform.expand(*b.shape, V),
        torch.full((4000, n), MASK),
        MASK,
        T,
        torch.Generator().manual_seed(0),
    )
    assert (block != MASK).all()
    assert nfe.double().mean().item() == pytest.approx(T * (1 - (1 - 1 / T) ** n), abs=0.06)


@pytest.mark.parametrize("sampler", ["first_hitting", "ancestral"])
@pytest.mark.parametrize("size", [2, 4])
def test_exact_denoiser_samples_the_source(sampler: str, size: int) -> None:
    """With exact conditionals first-hitting samples are draws of the chain. Ancestral steps that reveal several tokens
    at once draw them independently, so with many steps they come close."""
    source = bd.source.MarkovSource(4, seed=1)
    generator = torch.Generator().manual_seed(0)
    prompt = source.sample(4000, 1, generator)
    found = bd.sampling.sample_blocks(
        source.denoiser(size), prompt, 8, size, 4, sampler=sampler, num_steps=200, use_cache=False, generator=generator
    )
    pairs = torch.bincount((found.tokens[:, :-1] * 4 + found.tokens[:, 1:]).flatten(), minlength=16).view(4, 4).double()
    share = pairs / pairs.sum()
    expected = source.stationary[:, None] * source.transition
    assert (share - expected).abs().sum().item() < 0.03


def test_sedd_sampler_with_exact_scores_samples_the_source() -> None:
    source = bd.source.MarkovSource(4, seed=1)

    class Posterior(torch.nn.Module):
        def forward(self, tokens: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            return source.denoiser(8)(tokens) + math.log(4)

    generator = torch.Generator().manual_seed(0)
    found = bd.sampling.sample_sedd(Posterior(), source.sample(3000, 1, generator), 8, 4, 200, generator=generator)
    assert (found.tokens < 4).all() and found.nfe.tolist() == [200] * 3000
    assert source.nll(found.tokens).mean().item() == pytest.approx(source.entropy_rate(), abs=0.04)


def test_ar_sampling_with_a_cache_equals_sampling_without() -> None:
    ar = random_model(adaln=False, causal=True)
    prompt = torch.zeros(2, 1, dtype=torch.long)
    cached = bd.sampling.sample_ar(ar, prompt, 10, forbidden=MASK, generator=torch.Generator().manual_seed(4)).tokens
    generator, tokens = torch.Generator().manual_seed(4), prompt
    with torch.no_grad():
        for _ in range(9):
            logits = ar(tokens)[:, -1].index_fill(-1, torch.tensor([MASK]), -torch.inf)
            tokens = torch.cat([tokens, sampling.categorical(logits.softmax(-1), generator)[:, None]], 1)
    assert torch.equal(cached, tokens)


def test_cache_keeps_the_last_tokens_only(model: bd.model.DiT) -> None:
    cache = KVCache(2, max_length=6)
    with torch.no_grad():
        for start in range(0, 12, 4):
            model(torch.arange(start, start + 4)[None] % MASK, cache=cache, store=True)
    assert len(cache) == 6 and cache.next_position == 12
    long = bd.sampling.sample_blocks(model, torch.zeros(2, 1, dtype=torch.long), 4 * L, 4, MASK, context=L)
    assert long.tokens.shape == (2, 4 * L) and (long.tokens != MASK).all()


def test_strided_sampling_fills_the_whole_length(model: bd.model.DiT) -> None:
    found = bd.sampling.sample_strided(model, torch.zeros(2, 1, dtype=torch.long), 32, 16, 8, MASK)
    assert found.tokens.shape == (2, 32) and (found.tokens != MASK).all() and found.nfe.tolist() == [31, 31]


def test_nucleus_by_hand() -> None:
    p = torch.tensor([0.5, 0.3, 0.15, 0.05])
    torch.testing.assert_close(sampling.nucleus(p, 0.9), torch.tensor([0.625, 0.375, 0, 0]))
    torch.testing.assert_close(sampling.nucleus(p, 0.9, "usual"), torch.tensor([0.5, 0.3, 0.15, 0]) / 0.95)
    torch.testing.assert_close(sampling.nucleus(p, 0.1), torch.tensor([1.0, 0, 0, 0]))
    assert torch.equal(sampling.nucleus(p, 1.0), p)


def test_categorical_draws_follow_the_probabilities() -> None:
    p = torch.tensor([0.1, 0.0, 0.6, 0.3])
    counts = sampling.categorical(p.expand(40_000, 4), torch.Generator().manual_seed(0)).bincount(minlength=4) / 40_000
    torch.testing.assert_close(counts, p, atol=0.01, rtol=0)
    assert counts[1] == 0


def unigram_entropy(tokens: torch.Tensor) -> float:
    """Entropy in nats of the token frequencies, by scipy."""
    return float(stats.entropy(torch.unique(tokens, return_counts=True)[1].numpy()))


def test_stop_rules() -> None:
    lively = torch.randint(1, 5000, (1000,), generator=torch.Generator().manual_seed(0))
    assert bd.sampling.stop_position(lively, eos_id=0) == (1000, "length")
    ended = lively.clone()
    ended[[0, 700]] = 0  # BOS and EOS share the id: the second one ends the text
    assert bd.sampling.stop_position(ended, eos_id=0) == (701, "eos")
    dull = lively.clone()
    dull[300:] = 7
    end, why = bd.sampling.stop_position(dull, eos_id=0, block_size=4)
    assert why == "entropy"
    first = next(n for n in range(260, 1001, 4) if unigram_entropy(dull[n - 256 : n]) < 4)
    assert end == first - 256
    assert bd.sampling.stop_position(torch.full((200,), 7), eos_id=None) == (
        200,
        "length",
    )  # no check before 256 tokens


def test_window_entropies_equal_the_plain_ones() -> None:
    tokens = torch.randint(6, (80,), generator=torch.Generator().manual_seed(0))
    found = sampling.window_entropies(tokens, window=20, step=7)
    assert found.tolist() == pytest.approx([unigram_entropy(tokens[i : i + 20]) for i in range(0, 61, 7)])


# ------------------------------------------------------------------------------------------------ benchmark


def test_costs_are_measured_on_equal_results(model: bd.model.DiT, x: torch.Tensor) -> None:
    taken = training_costs(model, x, 4, MASK, repeats=2)
    assert list(taken.seconds) == ["two passes", "one pass", "plain diffusion"]
    assert all(len(times) == 2 and min(times) > 0 for times in taken.seconds.values())
    assert all(v > 0 for v in compare_sampling(model, x[:, :1], L, 4, MASK, repeats=1).medians.values())
    assert training_times(32, 16, 2, 2, 4, repeats=1, vocab_size=9, seed=0, attention="sdpa").medians["one pass"] > 0


@pytest.mark.parametrize("size", [1, 4, 16])
def test_operations_of_dense_attention_are_those_that_torch_counts(size: int) -> None:
    """The formula against torch's own counter on the meta device, where attention shows its two products."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        net = bd.model.DiT(V, dim=32, n_layers=3, n_heads=2, adaln=False)
        row = torch.zeros(1, L, dtype=torch.long)
    ways = {
        "one pass": lambda: bd.model.one_pass_logits(net, row, row, size),
        "two passes": lambda: bd.model.two_pass_logits(net, row, row, size),
        "plain diffusion": lambda: net(row),
    }
    found = operations(L, size, 32, 3, V)
    for way, run in ways.items():
        if size == L and way == "one pass":
            continue  # one block: the clean half is left out altogether
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            run()
        assert counter.get_total_flops() == found[way]


def test_operations_that_the_mask_leaves_are_its_ones() -> None:
    full, less = operations(L, 4, 32, 1, V), operations(L, 4, 32, 1, V, skip=True)
    ones = bd.model.training_mask(L, 4)[:L].sum().item()  # in the only, hence last, layer the noisy half alone looks
    assert full["one pass"] - less["one pass"] == 4 * 32 * (2 * L * L - ones)
    two = operations(L, 4, 32, 2, V)["one pass"] - operations(L, 4, 32, 2, V, skip=True)["one pass"]
    every = bd.model.training_mask(L, 4).sum().item()
    assert two == 4 * 32 * (4 * L * L - every) + 4 * 32 * (2 * L * L - ones)


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    "options, says",
    [
        ({"block_size": 0}, "block_size must be at least 1, got 0"),
        ({"beta": 0.8, "omega": 0.3}, "0 < beta < omega"),
        ({"beta": 0.5, "omega": 0.5}, "beta=0.5, omega=0.5"),
        ({"mask_id": -1}, "vocabulary needs a mask token"),
        ({"schedule": "cubic"}, "schedules: linear"),
        ({"weighting": "mine"}, "'code' or 'paper'"),
        ({"beta": 0.3, "omega": 0.45}, "no number of masked tokens"),
    ],
)
def test_noise_process_refuses(options: dict[str, object], says: str) -> None:
    with pytest.raises(ReprobookError, match=says):
        bd.noise.NoiseProcess(**{"mask_id": MASK, "block_size": 4, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [3, 5, 0, -1, 32])
def test_lengths_that_blocks_do_not_divide(model: bd.model.DiT, x: torch.Tensor, size: int) -> None:
    with pytest.raises(ReprobookError, match=r"block_size"):
        bd.model.one_pass_logits(model, x, x, size)
    with pytest.raises(ReprobookError, match=r"block_size"):
        bd.sampling.sample_blocks(model, x[:, :1], L, size, MASK)


def test_other_bad_input(model: bd.model.DiT, x: torch.Tensor) -> None:
    with pytest.raises(ReprobookError, match="use nelbo"):
        bd.objectives.exact_nelbo(model, x, 16, MASK)
    with pytest.raises(ReprobookError, match="first_hitting"):
        bd.sampling.sample_blocks(model, x[:, :1], L, 4, MASK, sampler="euler")
    with pytest.raises(ReprobookError, match="top_p"):
        sampling.nucleus(torch.ones(3) / 3, 0.0)
    with pytest.raises(ReprobookError, match="without a cache"):
        bd.sampling.sample_blocks(model, x[:, :1], 2 * L, 4, MASK, context=L, use_cache=False)
    with pytest.raises(ReprobookError, match="num_steps"):
        bd.sampling.sample_blocks(model, x[:, :1], L, 4, MASK, sampler="ancestral", num_steps=0)
    with pytest.raises(ReprobookError, match="stride"):
        bd.sampling.sample_strided(model, x[:, :1], 33, 16, 8, MASK)
    with pytest.raises(ReprobookError, match="multiple of 2"):
        bd.model.DiT(V, dim=30, n_heads=4)
    with pytest.raises(ReprobookError, match="'sdpa' or 'flex'"):
        bd.model.one_pass_logits(model, x, x, 4, attention="flash")


def test_flex_mask_refuses_what_the_dense_mask_refuses() -> None:
    with pytest.raises(ReprobookError, match="does not divide"):
        flex_training_mask(10, 4)


def test_corpus_needs_a_mask_and_text() -> None:
    from reprobook.data.corpus import Corpus

    rows = np.zeros((2, 4), dtype=np.int64)
    with pytest.raises(ReprobookError, match="append a mask token"):
        Corpus(rows, rows, rows, vocab_size=27, mask_id=27, decode=str)
    with pytest.raises(ReprobookError, match="valid split"):
        Corpus(rows, rows[:0], rows, vocab_size=28, mask_id=27, decode=str)
