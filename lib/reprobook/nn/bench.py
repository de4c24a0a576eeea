"""Reading of the small language model, bf16 against fp32; and how fast both real models read and complete."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from reprobook.bench import compare
from reprobook.data import ChapterData, DataError
from reprobook.errors import ReprobookError
from reprobook.hardware import peak_memory_mb
from reprobook.nn import lm
from reprobook.nn.completion import complete

if TYPE_CHECKING:
    from reprobook.bench import Comparison

T = TypeVar("T")

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


MODELS = {
    "SmolLM2-135M-Instruct": "smollm2-135m-instruct",
    "Qwen2.5-Coder-0.5B-Instruct": "qwen2.5-coder-0.5b-instruct",
}
SPEEDS = (
    "model", "precision", "threads", "weights, GB", "reads", "completes", "generates", "equal texts", "peak memory, GB",
)  # fmt: skip


def speeds(rows: int = 16, new: int = 16, threads: Sequence[int] = (1, 2)) -> Iterator[tuple[str, ...]]:
    """Row by row as they are measured, after a head: both real models in bf16 and fp32.

    Tokens a second, and in brackets a second of processor time, of reading ``rows`` texts of 128 tokens, and of
    continuing ``rows`` prompts greedily by ``new`` tokens each (the prompts included) with :func:`complete` and with
    :func:`lm.generate`, whose texts must be equal in fp32. The memory is the peak of this process so far. A model that
    cannot be had here has one row that says so."""
    yield SPEEDS
    before = torch.get_num_threads()
    for name, artefact in MODELS.items():
        try:
            gguf = ChapterData("shared", "laptop").path(artefact)
        except DataError:
            yield name, "model not available", *[""] * (len(SPEEDS) - 2)
            continue
        for precision in ("bf16", "fp32"):
            model, tokenizer = lm.load_lm(gguf, dtype=precision)
            size = f"{sum(p.nbytes for p in model.parameters()) / 1e9:.2f}"
            for n in threads:
                torch.set_num_threads(n)
                measured = _speed(model, tokenizer, rows, new, exact=precision == "fp32")
                yield name, precision, str(n), size, *measured
            del model
            gc.collect()
    torch.set_num_threads(before)


def _speed(model: Any, tokenizer: Any, rows: int, new: int, exact: bool) -> tuple[str, ...]:
    words = TEXT.split()
    prompts = [" ".join(words[k % 8 : k % 8 + 5 + k]) for k in range(rows)]
    ids = torch.tensor([(tokenizer(TEXT).input_ids * 128)[:128]] * 8)

    def read() -> None:
        with torch.no_grad():
            for _ in range(rows // 8):
                model.get_decoder()(input_ids=ids, use_cache=False)

    read()  # the first pass reads the weights from the disk
    _, reads = _timed(read, lambda _: rows // 8 * ids.numel())

    def count(texts: list[str]) -> int:
        return sum(len(tokenizer(text).input_ids) for text in (*prompts, *texts))

    ours, completes = _timed(lambda: complete(model, tokenizer, prompts, max_new_tokens=new, batch_size=rows), count)
    theirs, generates = _timed(
        lambda: lm.generate(model, tokenizer, prompts, max_new_tokens=new, batch_size=rows), count
    )
    equal = sum(a == b for a, b in zip(ours, theirs, strict=True))
    if exact and equal < rows:
        raise ReprobookError(f"complete and generate gave {rows - equal} different texts of {rows} in fp32")
    peak = peak_memory_mb()
    return reads, completes, generates, f"{equal}/{rows}", "" if peak is None else f"{peak / 1e3:.1f}"


def _timed(work: Callable[[], T], tokens: Callable[[T], int]) -> tuple[T, str]:
    """The result, and its tokens a second (a second of processor time)."""
    wall, cpu = time.perf_counter(), time.process_time()
    made = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return made, f"{tokens(made) / wall:.0f} ({tokens(made) / cpu:.0f})"
