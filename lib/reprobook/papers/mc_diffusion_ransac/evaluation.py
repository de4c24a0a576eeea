"""Test of a network, or of none, on fixed pairs: errors per pair, AUC, and paired comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from reprobook.metrics.statistics import paired_bootstrap
from reprobook.papers.mc_diffusion_ransac import geometry, ransac
from reprobook.papers.mc_diffusion_ransac.network import log_probabilities
from reprobook.papers.mc_diffusion_ransac.training import network_input

if TYPE_CHECKING:
    from torch import nn

    from reprobook.metrics.statistics import Interval
    from reprobook.papers.mc_diffusion_ransac.pairs import Pairs
    from reprobook.papers.mc_diffusion_ransac.problems import Problem

Array = np.ndarray


@torch.no_grad()
def probabilities(model: nn.Module, problem: Problem, pairs: Pairs, n: int, seed: int) -> tuple[Array, Array]:
    """Coordinates (P, n, 4) and probabilities (P, n) of ``n`` matches of each pair (see :meth:`Pairs.filled`)."""
    c = pairs.filled(n, np.random.default_rng([seed, 77]))
    x = problem.coordinates(c, pairs)
    device, found = next(model.parameters()).device, []
    for start in range(0, len(x), 64):
        z = model.eval()(network_input(x[start : start + 64]).to(device))
        found.append(log_probabilities(z).double().exp().cpu().numpy())
    return x, np.concatenate(found)


def evaluate(
    problem: Problem, pairs: Pairs, model: nn.Module | None, n: int, n_hypotheses: int, threshold_px: float, seed: int,
    refine: ransac.Refine = "none",
) -> pd.DataFrame:  # fmt: skip
    """One row per pair: ``error`` and ``error, not folded`` in ``problem.unit`` (inf if failed), ``failed`` (why).

    ``model`` None: uniform RANSAC. Every model sees the same lists of ``n`` matches.
    """
    if model is None:
        x, p = problem.coordinates(pairs.filled(n, np.random.default_rng([seed, 77])), pairs), None
    else:
        x, p = probabilities(model, problem, pairs, n, seed)
    tau, rows = threshold_px / problem.pixels(pairs), []
    for i in range(len(pairs)):
        rng = np.random.default_rng([seed, i])
        found = ransac.estimate(problem, x[i], None if p is None else p[i], tau[i], n_hypotheses, rng, refine)
        folded, plain = ransac.error_of(problem, found, x[i], pairs, i)
        rows.append({"error": folded, "error, not folded": plain, "failed": found.failed})
    return pd.DataFrame(rows)


def summary(problem: Problem, errors: pd.DataFrame) -> dict[str, float]:
    """Exact AUC at the problem's thresholds, in per cent; for poses also the binned AUC of NG-RANSAC; failures."""
    out = {f"AUC@{t:g}": 100 * geometry.auc_exact(errors["error"], t) for t in problem.thresholds}
    if problem.unit == "degrees":
        plain = errors["error, not folded"]
        out |= {f"binned@{t:g}": 100 * geometry.auc_binned(plain, t) for t in problem.thresholds}
    return out | {"failed": float(np.isinf(errors["error"]).sum()), "pairs": float(len(errors))}


def areas(problem: Problem, errors: pd.DataFrame) -> Array:
    """Per pair, its part of the area under the recall steps up to the largest threshold, in AUC points (0 to 100)."""
    return 100 * geometry.area(errors["error"], problem.thresholds[-1])


Key = tuple[str, str]  # (trained on, tested on)


def gain(found: Mapping[Key, Array], a: str | Sequence[str], b: str | Sequence[str], tests: Sequence[str],
         slack: float = 0.0, seed: int = 0) -> Interval:  # fmt: skip
    """Area of ``a`` plus ``slack`` minus area of ``b`` over the pairs of all ``tests``, with a bootstrap interval.

    A list stands for the average of its models; the name "own" for the model trained on the test matcher, "others" for
    the average of the models trained on the other matchers (among ``tests``). Test sets of one benchmark show the same
    scenes: a scene's differences are averaged over the matchers first, and scenes are drawn.
    """
    differences = [_mean(found, a, test, tests) + slack - _mean(found, b, test, tests) for test in tests]
    per_scene = np.mean(differences, axis=0)
    return paired_bootstrap(per_scene, np.zeros(len(per_scene)), seed=seed)


def _mean(found: Mapping[Key, Array], name: str | Sequence[str], test: str, tests: Sequence[str]) -> Array:
    names = [name] if isinstance(name, str) else list(name)
    expanded: list[str] = []
    for each in names:
        expanded += [test] if each == "own" else [t for t in tests if t != test] if each == "others" else [each]
    return np.mean([found[each, test] for each in expanded], axis=0)


def recall(problem: Problem, errors: pd.Series, n: int = 20) -> pd.DataFrame:
    """Recall curve at ``n`` + 1 even thresholds up to the problem's largest: ``error``, ``pairs below (%)``."""
    levels = np.linspace(0, problem.thresholds[-1], n + 1)
    below = 100 * (errors.to_numpy()[:, None] <= levels).mean(0)
    return pd.DataFrame({"error": levels, "pairs below (%)": below})
