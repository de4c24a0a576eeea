"""NG-RANSAC's two training stages on any source of matches: a matcher's own, MCD's diffused ones, or a mixture.

Stage 1 fits p to the distances from the true model (KL). Stage 2 lowers the expected loss of RANSAC by policy gradient.
A point's label is its distance to the true model, never its membership in the diffused set: a diffused point can land
on its epipolar line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from reprobook.errors import ReprobookError
from reprobook.papers.mc_diffusion_ransac import ransac
from reprobook.papers.mc_diffusion_ransac.diffusion import msr_sample
from reprobook.papers.mc_diffusion_ransac.network import kl_loss, kl_target, log_probabilities
from reprobook.papers.mc_diffusion_ransac.pairs import Pairs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reprobook.papers.mc_diffusion_ransac.diffusion import Msr
    from reprobook.papers.mc_diffusion_ransac.problems import Problem

Array = np.ndarray
Source = Callable[[Array, np.random.Generator], Pairs]  # indices of pairs -> these pairs with matches to train on


def matcher_source(pairs: Pairs) -> Source:
    """The matches that one matcher found: the same every epoch."""
    return lambda index, rng: pairs[index]  # noqa: ARG005 (a Source)


def mixture_source(sets: Sequence[Pairs], n: int) -> Source:
    """For each pair, the matches of one of several matchers, chosen anew each time (the oracle: it knows them all)."""

    def drawn(index: Array, rng: np.random.Generator) -> Pairs:
        which = rng.integers(len(sets), size=len(index))
        lists = np.zeros((len(index), n, 4))
        for k, pairs in enumerate(sets):
            if (mine := which == k).any():
                lists[mine] = pairs[index[mine]].filled(n, rng)
        return sets[0][index].with_matches(lists)

    return drawn


def mcd_source(pairs: Pairs, config: Msr, keep: int) -> Source:
    """Monte Carlo diffusion of the true correspondences in ``pairs``: new matches each time."""

    def drawn(index: Array, rng: np.random.Generator) -> Pairs:
        chosen = pairs[index]
        return chosen.with_matches(msr_sample(chosen.matches, chosen.sizes, config, rng, keep).matches)

    return drawn


def true_correspondences(pairs: Pairs, n: int, rng: np.random.Generator) -> Pairs:
    """``n`` exact correspondences of pairs with a homography, uniform over the part of image 1 that image 2 shows.

    Raises :class:`ReprobookError` if a pair has no such part."""
    from reprobook.papers.mc_diffusion_ransac.geometry import transfer

    tried = rng.random((len(pairs), 20 * n, 2)) * pairs.sizes[:, :1]
    second = transfer(pairs.H, tried)
    seen = ((second >= 0) & (second < pairs.sizes[:, 1:])).all(-1)
    if (seen.sum(1) < 1).any():
        raise ReprobookError(f"pair {int(seen.sum(1).argmin())}: the second image shows nothing of the first")
    both = np.concatenate([tried, np.nan_to_num(second)], axis=-1)
    order = np.argsort(~seen, axis=1, kind="stable")
    matches = np.take_along_axis(both, order[..., None], 1)
    held = replace(pairs, matches=matches, count=seen.sum(1))
    return held.with_matches(held.filled(n, rng))


@dataclass(frozen=True)
class Batch:
    """What a step needs: network input (B, N, 5), the same in the problem's float64 coordinates, the pairs, and the
    squared distances to the true model (B, N); ``tau`` (B,) is the inlier threshold in those coordinates."""

    inputs: Tensor
    x: Array
    pairs: Pairs
    squared: Tensor
    tau: Array
    seed: int


def network_input(x: Array) -> Tensor:
    """Coordinates (B, N, 4) -> input (B, N, 5) with an empty side channel."""
    x = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
    return torch.cat([x, torch.zeros_like(x[..., :1])], dim=-1)


def make_batch(problem: Problem, pairs: Pairs, n: int, threshold_px: float, rng: np.random.Generator) -> Batch:
    """A batch of exactly ``n`` matches per pair."""
    c = pairs.filled(n, rng)
    x = problem.coordinates(c, pairs)
    tau = threshold_px / problem.pixels(pairs)
    squared = problem.distance(x, problem.truth(pairs)) / tau[:, None] ** 2
    squared = torch.from_numpy(np.minimum(squared, 1e6).astype(np.float32))  # in units of tau^2; the cap is far outside
    return Batch(network_input(x), x, pairs, squared, tau, int(rng.integers(2**31)))


def batches(
    problem: Problem, source: Source, n_pairs: int, batch_size: int, n: int, threshold_px: float, seed: int
) -> Callable[[int], Batch]:
    """Batch ``i`` as a pure function of ``i``, as :func:`reprobook.train.fit` wants it."""
    from reprobook.train import shuffled

    order = shuffled(n_pairs, batch_size, seed=seed)

    def batch(i: int) -> Batch:
        rng = np.random.default_rng([seed, i])
        return make_batch(problem, source(order(i).numpy(), rng), n, threshold_px, rng)

    return batch


def stage1_loss(model: nn.Module, batch: Batch) -> Tensor:
    """KL between the target of :func:`kl_target` and the network's p (NG-RANSAC, initialisation)."""
    device = next(model.parameters()).device
    target = kl_target(batch.squared.to(device), 1.0)  # distances are in units of tau
    return kl_loss(log_probabilities(model(batch.inputs.to(device))), target)


def policy_gradient(counts: Array, losses: Array) -> Array:
    """Gradient of the expected loss for log p: 1/K sum_k n_ki (l_k - mean l), with counts (K, N), losses (K,)."""
    return ((losses - losses.mean())[:, None] * counts).mean(0)


def stage2_loss(
    problem: Problem, n_runs: int = 4, n_hypotheses: int = 16
) -> Callable[[nn.Module, Batch], tuple[Tensor, dict[str, Tensor]]]:
    """Expected loss of guided RANSAC (stage 2). The value returned is a surrogate: only its gradient has a meaning.

    Per pair, ``n_runs`` runs of ``n_hypotheses`` hypotheses; the loss of a run is the pose error in degrees (corner
    error in px for H), capped at ``problem.cap``, which is also the loss of a run without a model.
    """

    def loss(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        device = next(model.parameters()).device
        log_p = log_probabilities(model(batch.inputs.to(device)))
        p = log_p.detach().double().exp().cpu().numpy()
        rng = np.random.default_rng(batch.seed)
        gradients, means = np.zeros(p.shape), np.zeros(len(p))
        for i, x in enumerate(batch.x):
            found = ransac.runs(problem, x, p[i], batch.tau[i], n_runs, n_hypotheses, rng)
            losses = run_losses(problem, found, x, batch.pairs, i)
            gradients[i], means[i] = policy_gradient(found.counts, losses), losses.mean()
        surrogate = (log_p * torch.from_numpy(gradients).to(log_p)).sum(-1).mean()
        return surrogate, {"expected loss": torch.tensor(means.mean())}

    return loss


def run_losses(problem: Problem, found: ransac.Runs, x: Array, pairs: Pairs, i: int) -> Array:
    """Capped error of each run's winner, (K,); E and F without folding, as the host does."""
    out = np.full(len(found.models), problem.cap)
    for k, model in enumerate(found.models):
        if np.isfinite(model).all():
            out[k] = min(problem.cap, problem.errors(model, x[found.inliers[k]], pairs, i)[1])
    return out
