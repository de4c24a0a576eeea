"""Completions against the slow path: one prompt at a time, the whole context read again for every token."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from reprobook.errors import ReprobookError
from reprobook.nn import completion
from reprobook.nn.completion import complete
from reprobook.nn.sampling import Sampling, draw

END, FIRST = 3, 97 - 5  # letters begin at token 5


class Letters:
    """A token is a letter; what a model makes of other tokens is shown as its neighbours in the character table."""

    eos_token_id = END

    def __call__(self, text: str, **_: Any) -> Any:
        return SimpleNamespace(input_ids=[ord(letter) - FIRST for letter in text])

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return "".join(chr(token + FIRST) for token in ids)


@cache
def tiny(kind: str) -> Any:
    """Random weights, four query heads on two of keys and values, untied as in the Qwen2 that we have."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind, vocab_size=31, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.4, eos_token_id=END, bos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        model.lm_head.weight[END] *= 2  # some texts end early
    return model


def slow(model: Any, prompt: str, n: int, u: Sequence[float] = (), sampling: Sampling | None = None) -> str:
    """Drawn with u, greedy without ``sampling``."""
    ids = Letters()(prompt).input_ids
    made: list[int] = []
    with torch.no_grad():
        while len(made) < n:
            logits = model(torch.tensor([ids + made])).logits[:, -1]
            chosen = draw(logits, torch.tensor([u[len(made)]]), sampling) if sampling else logits.argmax(-1)
            if chosen.item() == END:
                break
            made.append(int(chosen))
    return Letters().decode(made)


def words(n: int, beginning: str = "") -> list[str]:
    dice = random.Random(0)
    return [beginning + "".join(dice.choices("abcdefghij", k=dice.randint(1, 12))) for _ in range(n)]


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
@pytest.mark.parametrize("beginning", ["", "jihgfedcba" * 4])
def test_greedy_texts_are_those_of_the_slow_path(kind: str, beginning: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that end early give way to waiting prompts; equal prompts and a long common beginning are read once."""
    prompts = words(8, beginning)
    expected = [slow(tiny(kind), prompt, 10) for prompt in prompts]
    prompts, expected = prompts + prompts[:2], expected + expected[:2]
    assert len({len(text) for text in expected}) > 1  # some end early
    for size in (1, 4, 100):
        assert complete(tiny(kind), Letters(), prompts, max_new_tokens=10, batch_size=size) == expected
    monkeypatch.setattr(completion, "READ", 8)  # several passes for what is admitted at once
    assert complete(tiny(kind), Letters(), prompts, max_new_tokens=10, batch_size=9) == expected
    assert complete(tiny(kind), Letters(), [], max_new_tokens=10) == []


def test_a_common_beginning_and_equal_prompts_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, ...]] = []
    plain = completion._Rows._pass
    monkeypatch.setattr(completion._Rows, "_pass", lambda self, blocks, behind: (
        read.append((len(blocks), max(map(len, blocks)))) or plain(self, blocks, behind)))  # fmt: skip
    prompts = ["abcde" * 8 + rest for rest in ("fgh", "hgf", "fgh", "fgh")]
    complete(tiny("qwen2"), Letters(), prompts, max_new_tokens=2)
    assert read == [(1, 40), (2, 3)]


def test_a_text_ends_before_its_first_stop_string() -> None:
    model, prompts = tiny("qwen2"), words(8)
    whole = complete(model, Letters(), prompts, max_new_tokens=20)
    stops = [next(text for text in whole if len(text) == 20)[7:10], whole[0][:1] or "?"]  # of three tokens, and of one
    expected = [min((text.split(stop)[0] for stop in stops), key=len) for text in whole]
    assert expected != whole
    assert complete(model, Letters(), prompts, max_new_tokens=20, stop_strings=stops, batch_size=3) == expected
    steps: list[int] = []
    counted = completion._Rows.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(completion._Rows, "step", lambda self: steps.append(len(self.owners)) or counted(self))
        complete(model, Letters(), prompts, max_new_tokens=20, stop_strings=stops)
    assert sum(steps) <= sum(len(text) + 3 for text in expected)  # what comes after a stop is not computed


def test_draws_belong_to_seed_prompt_and_position() -> None:
    model, prompts, state = tiny("llama"), words(5) * 2, torch.get_rng_state()
    options = {"max_new_tokens": 8, "temperature": 1.3, "top_p": 0.9}
    made = complete(model, Letters(), prompts, seed=4, batch_size=3, **options)
    u = [np.random.default_rng([4, k]).random(8) for k in range(10)]
    pairs = zip(prompts, u, strict=True)
    assert made == [slow(model, prompt, 8, own, Sampling(1.3, 0.9, 8)) for prompt, own in pairs]
    assert made == complete(model, Letters(), prompts, seed=4, **options)
    assert made[:5] == complete(model, Letters(), prompts[:5], seed=4, **options)
    assert made[:5] != made[5:] and made != complete(model, Letters(), prompts, seed=5, **options)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"stop_strings": ["a", ""]}, r"stop_strings must be a list of texts that are not empty, got \['a', ''\]"),
        ({"stop_strings": "ab"}, "stop_strings must be a list of texts"), ({"batch_size": 0}, "batch_size must be"),
        ({"temperature": -1.0}, "temperature must be"), ({"prompts": ["a", ""]}, "a prompt is empty"),
    ],
)  # fmt: skip
def test_bad_arguments(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ReprobookError, match=says):
        complete(tiny("llama"), Letters(), **{"prompts": ["a"], "max_new_tokens": 1, **options})


def test_attention_in_bf16_works_where_aten_is_held_below_avx512() -> None:
    code = (
        "import torch; from reprobook.nn.completion import attention_of\n"
        "x = torch.ones(1, 2, 256, 32, dtype=torch.bfloat16)\n"
        "with attention_of(x.device): print(torch.nn.functional.scaled_dot_product_attention(x, x, x).sum().item())"
    )
    env = {**os.environ, "ATEN_CPU_CAPABILITY": "default"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout.strip() == f"{float(2 * 256 * 32)}", done.stderr
