"""Speed and memory of the assistant on the machine at hand: fp32, bf16 and int8 (dynamic quantisation).

Every precision is measured in a process of its own, so that its peak memory is its own. int8 quantises the weights of
all linear layers once and their inputs on the fly (``torch.ao.quantization.quantize_dynamic``: the one way in the
pinned torch that needs neither a compiler nor another package). Energy is not measured.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reprobook.errors import ReprobookError
from reprobook.papers.medical_assistant.decoding import Reader

PRECISIONS = ("fp32", "fp32, adapters", "bf16", "int8")


def quantised(model: nn.Module) -> nn.Module:
    """A copy whose linear layers compute in int8; embeddings and norms stay in fp32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces another package for this
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def open_precision(source: str | Path, precision: str) -> Any:
    """The model of ``source`` in one of :data:`PRECISIONS`."""
    from reprobook.nn.lm import load_lm
    from reprobook.papers.medical_assistant.training import add_adapters

    if precision not in PRECISIONS:
        raise ReprobookError(f"precision {precision!r} is not known; allowed: {', '.join(map(repr, PRECISIONS))}")
    model, _ = load_lm(source, dtype="bf16" if precision == "bf16" else "fp32")
    if precision == "int8":
        return quantised(model).eval()
    return add_adapters(model, ["planner", "caller"]).eval() if precision == "fp32, adapters" else model


def measure(source: Path, precision: str, n_prompt: int, n_observed: int, n_new: int) -> dict[str, float]:
    """One session in this process: read a prompt of ``n_prompt`` tokens, decode a turn of ``n_new``, read an
    observation of ``n_observed`` and decode another turn, whose time is the latency of a turn.

    Tokens per second of reading and decoding, latency (s), peak memory of the process and of it the part that the
    model added (MB), and the mean negative log-likelihood of the prompt (nats per token; what precision costs)."""
    from reprobook.record import peak_memory_mb

    before = _resident_mb()
    model = open_precision(source, precision)
    loaded = _resident_mb() - before
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(model.config.vocab_size, (n_prompt + n_observed,), generator=generator).tolist()
    reader = Reader(model, end=-1)  # no token ends a turn: each decodes n_new tokens
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([words[:n_prompt]]), use_cache=False).logits[0, :-1].float()
    nll = nn.functional.cross_entropy(logits, torch.tensor(words[1:n_prompt])).item()
    start = time.perf_counter()
    reader._read(words[:n_prompt], 1)
    read_s = time.perf_counter() - start
    start = time.perf_counter()
    made = reader.turn([*words[:n_prompt]], n_new)
    decode_s = time.perf_counter() - start
    session = [*words[:n_prompt], *made, *words[n_prompt:]]
    start = time.perf_counter()
    reader.turn(session, n_new)
    latency = time.perf_counter() - start
    return {
        "reading (tokens/s)": n_prompt / read_s, "decoding (tokens/s)": n_new / decode_s,
        "latency of a turn (s)": latency,
        "model in memory (MB)": loaded, "peak memory (MB)": peak_memory_mb(), "NLL of noise (nats)": nll,
    }  # fmt: skip


def _resident_mb() -> float:
    import psutil

    return psutil.Process().memory_info().rss / 1e6


def on_device(
    source: Path, precisions: tuple[str, ...] | list[str], n_prompt: int, n_observed: int, n_new: int
) -> list[dict[str, Any]]:
    """:func:`measure` of each precision in a fresh process, one after the other, with this process's threads."""
    rows = []
    for precision in precisions:
        command = [sys.executable, "-m", __name__, str(source), precision, *map(str, (n_prompt, n_observed, n_new)),
                   str(torch.get_num_threads())]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ReprobookError(f"the measurement of {precision} failed: {last}")
        rows.append({"precision": precision, **json.loads(done.stdout.splitlines()[-1])})
    return rows


def main(arguments: list[str]) -> None:
    """One measurement, printed as JSON: source, precision, three counts, threads."""
    torch.set_num_threads(int(arguments[5]))
    counts = [int(each) for each in arguments[2:5]]
    print(json.dumps(measure(Path(arguments[0]), arguments[1], *counts)))


if __name__ == "__main__":
    main(sys.argv[1:])
