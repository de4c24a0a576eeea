"""Invariants of the method and its experiments, and one oracle: least squares in closed form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from reprobook.errors import ReprobookError
from reprobook.papers import rs_token_pruning as ex


def test_features_are_powers() -> None:
    x = torch.tensor([0.0, 2.0])
    assert ex.method.features(x, 2).tolist() == [[1.0, 0.0, 0.0], [1.0, 2.0, 4.0]]


def test_the_gradient_vanishes_at_the_least_squares_solution() -> None:
    x, y = ex.study.points(50, seed=1)
    model = ex.method.Polynomial(3)
    exact = torch.linalg.lstsq(ex.method.features(x, 3), y[:, None]).solution[:, 0]
    model.weights.data.copy_(exact)
    (gradient,) = torch.autograd.grad(ex.method.squared_error(model, (x, y)), [model.weights])
    assert gradient.abs().max() < 1e-5


def test_errors_are_those_of_each_point_and_of_a_blind_guess() -> None:
    train, test = ex.study.points(20, seed=1), ex.study.points(30, seed=2)
    model = ex.method.Polynomial(2)  # all weights are 0
    found = ex.study.errors({"zero": model}, train, test)
    assert found["zero"] == pytest.approx(test[1].square().numpy())
    assert found["blind: training mean"].mean() == pytest.approx(
        float(((test[1] - train[1].mean()) ** 2).mean()), rel=1e-6
    )
    assert ex.study.summary(found)["model"].tolist() == ["blind: training mean", "zero"]


def test_an_epoch_of_batches_has_every_point_once() -> None:
    train = ex.study.points(12, seed=0)
    batch = ex.study.batches(train, 4, seed=3)
    seen = np.sort(torch.cat([batch(step)[0] for step in range(3)]).numpy())
    assert seen == pytest.approx(np.sort(train[0].numpy()))


def test_the_benchmark_compares_equal_results() -> None:
    assert list(ex.bench.headline(n=100).seconds) == ["sum of powers", "Horner's rule"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ex.method.features(torch.zeros(1), -1), "degree is -1; it must be 0 or more"),
        (lambda: ex.study.points(1, seed=0), "n is 1; it must be 2 or more"),
    ],
)
def test_bad_input_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ReprobookError, match=message):
        call()
