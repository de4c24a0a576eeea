"""The sampler against transformers' warpers, and against one sample at a time without a cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from reprobook.errors import ReprobookError
from reprobook.nn import sampling as sp


def tiny(layers: int = 2) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20, hidden_size=16, intermediate_size=32, num_hidden_layers=layers, num_attention_heads=2,
        max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval().double()


def test_draws_follow_the_nucleus_of_transformers() -> None:
    """With evenly spaced u the draws count out the probabilities of transformers' own temperature and top-p warpers."""
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    logits = torch.randn(3, 300, generator=torch.Generator().manual_seed(0)) * 2
    for temperature, top_p in ((0.6, 0.9), (1.5, 1.0), (3.0, 0.99), (1.0, 0.01)):
        scores = TopPLogitsWarper(top_p)(None, TemperatureLogitsWarper(temperature)(None, logits))
        u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
        sampling = sp.Sampling(temperature, top_p, 1)
        for row in range(3):
            ids = sp.draw(logits[row].expand(len(u), -1), u, sampling)
            counted = torch.bincount(ids, minlength=300) / len(u)
            assert (counted - scores[row].softmax(-1)).abs().max() < 2e-4
            assert set(ids.tolist()) <= set(scores[row].isfinite().nonzero().flatten().tolist())


@pytest.mark.parametrize("u", [0.0, 1 - 1e-16])
def test_draws_at_the_ends_of_the_interval_stay_in_the_nucleus(u: float) -> None:
    logits = torch.full((1, 100), -100.0)
    logits[0, [3, 7]] = torch.tensor([2.0, 1.0])
    found = sp.draw(logits, torch.tensor([u], dtype=torch.float64), sp.Sampling(1.0, 0.95, 1))
    assert found.item() == (3 if u == 0 else 7)


def test_sharing_batches_and_duplicates_change_no_sample() -> None:
    """Against one sample at a time, with transformers' plain forward and no cache."""
    net, stops, sampling = tiny(), [3], sp.Sampling(1.2, 0.95, 4)
    heads = [[5, 6, 7], [5, 6, 8], [5, 6, 9, 4], [5, 6, 7]]
    stems = [head for head in heads for _ in range(2)]
    prompts = [[*head, *rest] for head in heads for rest in ([1, 2], [4])]
    u = sp.uniforms(5, "x", (len(prompts), 3, 4))

    def alone(prompt: list[int], own: np.ndarray) -> list[int]:
        ids = list(prompt)
        for value in own:
            with torch.no_grad():
                logits = net(input_ids=torch.tensor([ids])).logits[:, -1]
            ids.append(sp.draw(logits, torch.tensor([value]), sampling).item())
            if ids[-1] in stops:
                return ids[len(prompt) : -1]
        return ids[len(prompt) :]

    expected = [[alone(p, own) for own in rows] for p, rows in zip(prompts, u, strict=True)]
    assert len({len(text) for rows in expected for text in rows}) > 1  # some end early
    reader = sp.Reader(net)
    for size in (1, 2, 1000):
        assert sp.sample(net, prompts, u, sampling, stops, stems=stems, batch_size=size, reader=reader) == expected
    assert sp.sample(net, prompts, u, sampling, stops) == expected
    unlike = [[7, 8], [9]]  # nothing in common
    made = sp.sample(net, unlike, u[:2], sampling, stops)
    assert made == [[alone(p, own) for own in rows] for p, rows in zip(unlike, u[:2], strict=True)]


def test_a_reader_forgets_what_other_weights_have_read() -> None:
    net, sampling = tiny(), sp.Sampling(1.0, 1.0, 3)
    u, prompts = sp.uniforms(0, "x", (2, 5, 3)), [[5, 6, 7], [5, 6, 8]]
    reader = sp.Reader(net)
    sp.sample(net, prompts, u, sampling, [3], reader=reader)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(-1.5)
    fresh = sp.sample(net, prompts, u, sampling, [3])
    assert sp.sample(net, prompts, u, sampling, [3], reader=reader) != fresh
    reader.forget()
    assert sp.sample(net, prompts, u, sampling, [3], reader=reader) == fresh


def test_uniform_numbers_belong_to_seed_and_name() -> None:
    one = sp.uniforms(1, "a", (2, 3))
    assert (one == sp.uniforms(1, "a", (2, 3))).all() and one.shape == (2, 3)
    assert (one != sp.uniforms(1, "b", (2, 3))).all() and (one != sp.uniforms(2, "a", (2, 3))).all()


def test_wrong_sampling_settings_are_named() -> None:
    for options, message in (
        ({"temperature": 0.0}, "temperature is 0.0; it must be above 0"),
        ({"top_p": 1.5}, r"top_p is 1.5; it must be in \(0, 1\]"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1"),
    ):
        with pytest.raises(ReprobookError, match=message):
            sp.Sampling(**options)
    for prompts, stems in (([[1], []], None), ([[1], [1, 2]], [[1], [2]])):
        with pytest.raises(ReprobookError, match="prompt 1 is empty or does not begin with its stem"):
            sp.sample(tiny(), prompts, np.zeros((2, 1, 256)), sp.Sampling(), [3], stems=stems)
    with pytest.raises(ReprobookError, match=r"u has shape \(1, 1, 2\)"):
        sp.sample(tiny(), [[1]], np.zeros((1, 1, 2)), sp.Sampling(), [3])
