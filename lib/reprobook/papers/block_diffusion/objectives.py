"""Training losses and likelihood bounds: block diffusion (SUBS), AR, SEDD's score entropy, and the interval search.

Every loss is per scored token. Position 0 of a sequence is context: it is never masked and never scored, for any model.
``x`` is (K, L) token ids, ``x_t`` its masked version; all losses are in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reprobook.errors import ReprobookError
from reprobook.papers.block_diffusion.model import one_pass_logits
from reprobook.papers.block_diffusion.noise import EPS, candidate_intervals, check_blocks, stratified_times

if TYPE_CHECKING:
    from reprobook.papers.block_diffusion.model import DiT
    from reprobook.papers.block_diffusion.noise import NoiseProcess

EXACT_BLOCK_LIMIT = 8  # the exact sum needs 2^L' - 1 forward passes


def subs_log_probs(logits: Tensor, x_t: Tensor, mask_id: int) -> Tensor:
    r"""SUBS parameterisation: $\log p_\theta(x \mid x_t)$, (K, L, V), from logits (K, L, V).

    The mask token gets probability 0, and a token that is not masked is carried over: a point mass on ``x_t``.
    """
    logits = logits.index_fill(-1, torch.tensor([mask_id], device=logits.device), -torch.inf)
    log_probs = logits.log_softmax(-1)
    carried = torch.full_like(log_probs, -torch.inf).scatter_(-1, x_t[..., None], 0.0)
    return torch.where((x_t == mask_id)[..., None], log_probs, carried)


def masked_nll(logits: Tensor, x: Tensor, masked: Tensor, mask_id: int) -> Tensor:
    """-log p(x | x_t) under SUBS, (K, L): cross-entropy where masked, exactly 0 elsewhere; no (K, L, V) carry-over
    is built."""
    logits = logits.index_fill(-1, torch.tensor([mask_id], device=logits.device), -torch.inf)
    nll = F.cross_entropy(logits.transpose(1, 2), x, reduction="none")
    return torch.where(masked, nll, 0.0)


def diffusion_terms(
    model: nn.Module, x: Tensor, process: NoiseProcess, generator: torch.Generator | None = None,
    attention: str = "sdpa",
) -> Tensor:  # fmt: skip
    r"""One Monte-Carlo draw of the weighted losses (K, L) whose sum over L estimates the bound (Eq. 8):

    $$\mathcal L_{BD}(x)=\sum_{b}\mathbb E_{t}\,\mathbb E_{q}\Big[\tfrac{\alpha_t'}{1-\alpha_t}\log p_\theta(x^b\mid
    x^b_t,x^{<b})\Big]$$

    One stratified time a block.
    """
    n_blocks = check_blocks(x.shape[1], process.block_size)
    u = stratified_times(x.shape[0], n_blocks, generator, x.device)
    rate, weight = process.rate_and_weight(u)
    masked = process.mask(rate, generator)
    x_t = torch.where(masked, process.mask_id, x)
    logits = one_pass_logits(model, x_t, x, process.block_size, attention)
    return weight.repeat_interleave(process.block_size, 1) * masked_nll(logits, x, masked, process.mask_id)


def per_token(terms: Tensor) -> Tensor:
    """Mean over the scored tokens of (K, L) loss terms: position 0 is not scored, so the divisor is K (L - 1)."""
    return terms.sum() / (terms.shape[0] * (terms.shape[1] - 1))


def ar_terms(model: nn.Module, x: Tensor) -> Tensor:
    """-log p(x_i | x_{<i}), (K, L), of a causal model; 0 at position 0."""
    logits = model(x[:, :-1])
    return F.pad(F.cross_entropy(logits.transpose(1, 2), x[:, 1:], reduction="none"), (1, 0))


def thinned_ar_loss(model: nn.Module, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """AR loss on a random share of the tokens (Table 1, "random batch size"): each sequence keeps a share t ~ U[0,
    1]."""
    keep = torch.rand(x.shape, generator=generator) < stratified_times(x.shape[0], 1, generator)
    keep = keep.to(x.device)
    keep[:, 0] = False
    return (ar_terms(model, x) * keep).sum() / keep.sum().clamp_min(1)


def score_entropy_terms(model: nn.Module, x: Tensor, mask_id: int, generator: torch.Generator | None = None) -> Tensor:
    r"""SEDD's score entropy for the absorbing process, (K, L) (Section 3.7; Lou et al. 2024).

    With noise level $\sigma=-\log(1-p)$ and $r = 1/(e^\sigma-1)$, a masked token costs
    $\sigma'\,[\sum_{y\ne m}e^{s_y}-r\,s_{x_0}+r(\log r-1)]$, where s is the network's log score. The loss is an
    upper bound of the NLL, as the diffusion NELBO is.
    """
    t = EPS + (1 - EPS) * stratified_times(x.shape[0], 1, generator, x.device)[:, 0]
    rate = (1 - EPS) * t
    sigma, dsigma = -torch.log1p(-rate), (1 - EPS) / (1 - rate)
    masked = torch.rand(x.shape, generator=generator, device=x.device) < rate[:, None]
    masked[:, 0] = False
    log_score = sedd_log_score(model, torch.where(masked, mask_id, x), sigma, mask_id)
    total = log_score.index_fill(-1, torch.tensor([mask_id], device=x.device), -torch.inf).logsumexp(-1).exp()
    true_score = log_score.gather(-1, x[..., None])[..., 0]
    r = torch.exp(-torch.log(torch.expm1(sigma)))[:, None]
    terms = total - r * true_score + r * (r.log() - 1)
    return torch.where(masked, dsigma[:, None] * terms, 0.0)


def sedd_log_score(model: nn.Module, x_t: Tensor, sigma: Tensor, mask_id: int) -> Tensor:  # noqa: ARG001
    """SEDD's log ratios (K, L, V): logits - log(e^sigma - 1) - log(number of real tokens); 0 for the token that
    stands there."""
    logits = model(x_t, sigma=sigma)
    log_score = logits - torch.log(torch.expm1(sigma))[:, None, None] - math.log(logits.shape[-1] - 1)
    return log_score.scatter(-1, x_t[..., None], 0.0)


@torch.no_grad()
def nelbo(
    model: nn.Module, x: Tensor, block_size: int, mask_id: int, n_draws: int, batch_size: int = 64, seed: int = 0
) -> Tensor:
    r"""Monte-Carlo bound of each sequence's NLL per scored token, (N,), mean of ``n_draws`` draws.

    With $\int_0^1 t^{k-1}(1-t)^{n-k}dt=1/(k\binom nk)$ the bound of a block of n tokens is $\mathbb E_k\tfrac nk
    \mathbb E_{|S|=k}\sum_{i\in S}-\log p_\theta(x_i\mid x_{S^c},x^{<b})$ with k uniform on 1..n: numbers of masked
    tokens are drawn, stratified, instead of times, so that small times bring no variance. Draws depend on ``seed``
    alone: models with the same L' are compared on the same masks.
    """
    n_blocks = check_blocks(x.shape[1], block_size)
    maskable = torch.full((n_blocks,), block_size, device=x.device)
    maskable[0] -= 1  # position 0 is context
    generator = torch.Generator(device=x.device).manual_seed(seed)
    rows = []
    for chunk in x.split(batch_size):
        total = torch.zeros(len(chunk), device=x.device)
        for _ in range(n_draws):
            u = stratified_times(len(chunk), n_blocks, generator, x.device).flatten()  # they grow with the row
            u = u[torch.randperm(len(u), generator=generator, device=x.device)].view(-1, n_blocks)
            count = torch.minimum((u * maskable).long() + 1, maskable)
            race = torch.rand(chunk.shape, generator=generator, device=x.device)
            race[:, 0] = 1.0
            masked = (race.unflatten(1, (n_blocks, -1)).argsort(-1).argsort(-1) < count[..., None]).flatten(1)
            logits = one_pass_logits(model, torch.where(masked, mask_id, chunk), chunk, block_size)
            nll = masked_nll(logits, chunk, masked, mask_id).unflatten(1, (n_blocks, -1)).sum(-1)
            total += (nll * maskable / count.clamp_min(1)).sum(1) / n_draws
        rows.append(total)
    return torch.cat(rows) / (x.shape[1] - 1)


@torch.no_grad()
def exact_nelbo(model: nn.Module, x: Tensor, block_size: int, mask_id: int, batch_size: int = 256) -> Tensor:
    r"""The bound without Monte Carlo (linear schedule), (N,) per scored token: a sum over the subsets S of a block,

    $$\mathcal L(x^b)=\sum_{\emptyset\ne S\subseteq\{1..n\}}\frac{1}{|S|\binom{n}{|S|}}\sum_{i\in S}-\log
    p_\theta(x_i\mid x_{S^c},x^{<b}),$$

    as $\int_0^1 t^{k-1}(1-t)^{n-k}dt = 1/(k\binom nk)$. The first block has one maskable token less, as position 0
    is context.
    """
    if block_size > EXACT_BLOCK_LIMIT:
        raise ReprobookError(
            f"the exact sum needs 2^{block_size} - 1 forward passes: use nelbo() for blocks over {EXACT_BLOCK_LIMIT}"
        )
    n_blocks = check_blocks(x.shape[1], block_size)
    rows = []
    for chunk in x.split(batch_size):
        total = torch.zeros(chunk.shape[0], device=x.device, dtype=torch.float64)
        for code in range(1, 2**block_size):
            pattern = torch.tensor([bool(code >> i & 1) for i in range(block_size)], device=x.device)
            masked = pattern.repeat(n_blocks).expand_as(chunk).clone()
            masked[:, 0] = False
            x_t = torch.where(masked, mask_id, chunk)
            nll = masked_nll(one_pass_logits(model, x_t, chunk, block_size), chunk, masked, mask_id)
            by_block = nll.unflatten(1, (n_blocks, block_size)).sum(-1).double()
            # Block 0: patterns that differ in position 0 alone are the same subset, so count it once, with n - 1
            # tokens.
            first = 0.0 if pattern[0] else _subset_weight(int(pattern.sum()), block_size - 1)
            weight = torch.full((n_blocks,), _subset_weight(int(pattern.sum()), block_size), dtype=torch.float64)
            weight[0] = first
            total += by_block @ weight.to(x.device)
        rows.append(total)
    return (torch.cat(rows) / (x.shape[1] - 1)).float()


def _subset_weight(k: int, n: int) -> float:
    return 1 / (k * math.comb(n, k)) if 0 < k <= n else 0.0


@torch.no_grad()
def ar_nll(model: nn.Module, x: Tensor, batch_size: int = 256) -> Tensor:
    """Exact NLL of each sequence per scored token, (N,), of a causal model."""
    return torch.cat([ar_terms(model, chunk).sum(1) for chunk in x.split(batch_size)]) / (x.shape[1] - 1)


@torch.no_grad()
def sedd_bound(
    model: nn.Module, x: Tensor, mask_id: int, n_samples: int, batch_size: int = 64, seed: int = 0
) -> Tensor:
    """Monte-Carlo score-entropy bound of each sequence's NLL per scored token, (N,)."""
    generator = torch.Generator(device=x.device).manual_seed(seed)
    rows = []
    for chunk in x.split(batch_size):
        draws = []
        for _ in range(n_samples):  # times grow with the row, so that rows are visited in a random order
            order = torch.randperm(chunk.shape[0], generator=generator, device=x.device)
            terms = score_entropy_terms(model, chunk[order], mask_id, generator).sum(1)
            draws.append(torch.empty_like(terms).index_copy_(0, order, terms))
        rows.append(torch.stack(draws).mean(0))
    return torch.cat(rows) / (x.shape[1] - 1)


@torch.no_grad()
def interval_variances(
    model: nn.Module, batches: Sequence[Tensor], process: NoiseProcess, intervals: Sequence[tuple[float, float]],
    seed: int = 0,
) -> Tensor:  # fmt: skip
    """Variance of the loss for each interval and batch, (n_intervals, n_batches) (Section 6): per-block mean losses of
    a batch, their variance over sequences x blocks. The same random stream serves every interval."""
    found = []
    for beta, omega in intervals:
        candidate = replace(process, beta=beta, omega=omega)
        generator = torch.Generator(device=batches[0].device).manual_seed(seed)
        found.append(torch.stack([
            diffusion_terms(model, x, candidate, generator).unflatten(1, (-1, process.block_size)).mean(-1).var()
            for x in batches
        ]))  # fmt: skip
    return torch.stack(found)


def search_interval(
    model: nn.Module, batches: Sequence[Tensor], process: NoiseProcess, seed: int = 0, **candidates: Any
) -> tuple[float, float]:
    """The candidate interval (beta, omega) whose loss varies least on validation batches (Section 6)."""
    intervals = [pair for pair in candidate_intervals(process.block_size, **candidates) if _feasible(process, *pair)]
    variances = interval_variances(model, batches, process, intervals, seed).mean(1)
    return intervals[int(variances.argmin())]


def _feasible(process: NoiseProcess, beta: float, omega: float) -> bool:
    try:
        replace(process, beta=beta, omega=omega)
    except ReprobookError:
        return False
    return True


Loss = Callable[[nn.Module, Tensor], Tensor]


def diffusion_loss(process: NoiseProcess, attention: str = "sdpa") -> Loss:
    """Training loss of one fixed noise process."""
    return lambda model, x: per_token(diffusion_terms(model, x, process, attention=attention))


def clipped_loss(state: DiT, process: NoiseProcess, attention: str = "sdpa") -> Loss:
    """Training loss whose interval is read from ``state.interval`` at every step: the search moves it there."""

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        beta, omega = state.interval.tolist()
        return per_token(diffusion_terms(model, x, replace(process, beta=beta, omega=omega), attention=attention))

    return loss


def interval_search(
    state: DiT, process: NoiseProcess, batches: Sequence[Tensor], last: int | None = None
) -> Callable[[nn.Module, int], dict[str, float]]:
    """Evaluation hook of the training loop (Section 6): search on validation batches and keep (beta, omega) in
    ``state``, whose checkpoint carries it. After step ``last`` nothing is trained any more: nothing is searched."""

    def search(model: nn.Module, step: int) -> dict[str, float]:
        if step != last:
            state.interval.copy_(torch.tensor(search_interval(model, batches, process), dtype=torch.float64))
        beta, omega = state.interval.tolist()
        return {"beta": beta, "omega": omega}

    return search
