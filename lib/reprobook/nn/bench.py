"""Reading of the small language model: bf16 against fp32."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from reprobook.bench import compare
from reprobook.data import ChapterData
from reprobook.nn import lm

if TYPE_CHECKING:
    from reprobook.bench import Comparison

TEXT = (
    "The harbour wakes before the town does. Boats come in with the last of the dark, their lamps still burning, and "
    "the first carts roll down the hill to meet them. By the time the bells ring, most of the fish has been sold. "
)


def headline(batch: int = 8, length: int = 256) -> Comparison:
    """Likelihood of ``batch`` texts of ``length`` tokens under SmolLM2-135M: in fp32 over in bf16, equal to 0.05 nats
    a token. Below 1 the processor has no bf16 arithmetic."""
    gguf = ChapterData("shared", "laptop").path("smollm2-135m-instruct")
    models = {name: lm.load_lm(gguf, dtype=name) for name in ("fp32", "bf16")}
    ids = (models["fp32"][1](TEXT).input_ids * length)[:length]

    def nll(name: str) -> float:
        found = lm.token_logprobs(*models[name], [ids] * batch, batch_size=batch)
        return -torch.stack(found).mean().item()

    ways = {name: lambda name=name: nll(name) for name in models}
    what = f"SmolLM2-135M reads {batch} x {length} tokens"
    return compare(ways, equal=lambda a, b: abs(a - b) < 0.05, n=3, what=what)
