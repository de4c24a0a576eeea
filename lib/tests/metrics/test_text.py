"""Text measures against hand-computed values and a per-token evaluation."""

from __future__ import annotations

import math

import pytest
import torch
from reprobook.errors import ReprobookError
from reprobook.metrics.text import perplexity, windowed_nll, windows


def test_likelihood_measures_by_hand() -> None:
    assert perplexity(10 * math.log(7), 10) == pytest.approx(7.0)
    with pytest.raises(ReprobookError, match="n_tokens is 0"):
        perplexity(1.0, 0)


def test_windows_by_hand() -> None:
    assert windows(10, 4, 2) == [(0, 4, 1), (2, 6, 4), (4, 8, 6), (6, 10, 8)]
    assert windows(9, 4, 3) == [(0, 4, 1), (3, 7, 4), (6, 9, 7)]
    assert windows(3, 4, 2) == [(0, 3, 1)]


@pytest.mark.parametrize("window", [2, 3, 8])
def test_windows_score_every_token_once(window: int) -> None:
    for length in range(2, 30):
        for stride in range(1, window):
            spans = windows(length, window, stride)
            scored = [t for _, end, first in spans for t in range(first, end)]
            assert scored == list(range(1, length))
            assert all(end - begin <= window and first > begin for begin, end, first in spans)
            assert all(end - first <= stride for _, end, first in spans[1:])


@pytest.fixture(scope="module")
def gpt2() -> torch.nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=31, n_positions=16, n_embd=16, n_layer=2, n_head=2, initializer_range=0.5)
    return GPT2LMHeadModel(config).eval()


@pytest.mark.parametrize(
    ("length", "window", "stride"), [(50, 16, 8), (50, 16, 15), (50, 12, 1), (9, 16, 8), (2, 16, 8)]
)
def test_windowed_nll_equals_one_pass_per_token(gpt2: torch.nn.Module, length: int, window: int, stride: int) -> None:
    ids = torch.randint(0, 31, (length,), generator=torch.Generator().manual_seed(length))
    expected = 0.0
    for t in range(1, length):
        # the first window starts at 0; window w >= 1 starts at w * stride and scores from the end of window w - 1 on
        w = 0 if t < window else math.ceil((t - window + 1) / stride)
        with torch.no_grad():
            logits = gpt2(ids[w * stride : t][None]).logits[0, -1]
        expected -= logits.double().log_softmax(0)[ids[t]].item()
    total, n = windowed_nll(gpt2, ids, window=window, stride=stride, batch_size=3)
    assert n == length - 1
    assert total == pytest.approx(expected, rel=1e-5)


def test_windowed_nll_takes_plain_logits_and_refuses_nonsense() -> None:
    class Uniform(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.p = torch.nn.Parameter(torch.zeros(5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.p.expand(*x.shape, 5)

    total, n = windowed_nll(Uniform(), [0, 1, 2, 3, 4], window=3, stride=2)
    assert perplexity(total, n) == pytest.approx(5.0)
    with pytest.raises(ReprobookError, match="at least 2"):
        windowed_nll(Uniform(), [1])
    for stride in (0, 3):
        with pytest.raises(ReprobookError, match="stride"):
            windowed_nll(Uniform(), [1, 2, 3], window=3, stride=stride)
