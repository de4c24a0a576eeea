"""Tokens per second of the small language model: prefill and batched decoding, bf16 against fp32.

``python -m reprobook.nn.bench_lm`` prints the measured rates and the ratio; both precisions must agree on the text's
likelihood, otherwise it fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reprobook.data import ChapterData
from reprobook.nn import lm

TEXT = (
    "The harbour wakes before the town does. Boats come in with the last of the dark, their lamps still burning, and "
    "the first carts roll down the hill to meet them. By the time the bells ring, most of the fish has been sold. "
)


@dataclass(frozen=True)
class Rates:
    """Tokens per second; ``nll`` is the mean negative log-likelihood of the text in nats per token."""

    prefill: float
    decode: float
    nll: float


def measure(
    gguf: Path, dtype: str, *, batch: int = 8, length: int = 256, new_tokens: int = 48, repeats: int = 2
) -> Rates:
    """Best of ``repeats``: prefill of ``(batch, length)`` tokens; decoding ``new_tokens`` for short prompts."""
    model, tokenizer = lm.load_lm(gguf, dtype=dtype)
    ids = (tokenizer(TEXT).input_ids * length)[:length]
    x = torch.tensor([ids] * batch)
    prompt = x[:, :16]
    with torch.no_grad():
        prefill_s = _best(lambda: model(input_ids=x, use_cache=False, logits_to_keep=1), repeats)
        first_s = _best(lambda: _decode(model, prompt, 1), repeats)
        all_s = _best(lambda: _decode(model, prompt, 1 + new_tokens), repeats)
    nll = -lm.token_logprobs(model, tokenizer, [TEXT])[0].mean().item()
    return Rates(batch * length / prefill_s, batch * new_tokens / (all_s - first_s), nll)


def _decode(model: Any, prompt: torch.Tensor, new_tokens: int) -> None:
    made = model.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
        max_new_tokens=new_tokens, min_new_tokens=new_tokens, pad_token_id=model.config.eos_token_id,
    )  # fmt: skip
    assert made.shape[1] == prompt.shape[1] + new_tokens


def _best(work: Callable[[], object], repeats: int) -> float:
    """Shortest wall time in seconds after one run to warm up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Print both precisions and their ratio; raise ``SystemExit`` if they disagree on the likelihood."""
    gguf = ChapterData("shared", "laptop").path("smollm2-135m-instruct")
    rates = {name: measure(gguf, name) for name in ("fp32", "bf16")}
    print(f"SmolLM2-135M on {torch.get_num_threads()} threads, batch 8; auto = {lm.preferred_dtype()}")
    for name, rate in rates.items():
        print(f"  {name}: prefill {rate.prefill:7.0f} tokens/s, decode {rate.decode:6.0f} tokens/s, nll {rate.nll:.3f}")
    fp32, bf16 = rates["fp32"], rates["bf16"]
    print(f"  bf16 / fp32: prefill x{bf16.prefill / fp32.prefill:.2f}, decode x{bf16.decode / fp32.decode:.2f}")
    if abs(bf16.nll - fp32.nll) > 0.05:
        raise SystemExit(f"bf16 and fp32 disagree: {bf16.nll:.4f} against {fp32.nll:.4f} nats per token")


if __name__ == "__main__":
    main()
