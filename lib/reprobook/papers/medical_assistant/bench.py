"""Two small agents against one of twice their size, and an adapter swap against loading a second model.

``python -m reprobook.papers.medical_assistant.bench`` prints seconds per turn and ratios. Times do not depend on what
weights have learned; that the ways say the same is asserted: cached reading against plain decoding of the same model,
and an adapter that was swapped away and back against itself.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from reprobook.errors import ReprobookError
from reprobook.papers.medical_assistant.agents import LmAgent
from reprobook.papers.medical_assistant.samples import AGENTS, Encoder, interleave
from reprobook.papers.medical_assistant.scenarios import make_case, play
from reprobook.papers.medical_assistant.training import add_adapters, small_decoder, small_tokenizer

if TYPE_CHECKING:
    from reprobook.papers.medical_assistant.scenarios import Trajectory


def parameters(model: Any) -> int:
    """Parameters of a model."""
    return sum(p.numel() for p in model.parameters())


def monolith_width(width: int, n_layers: int, n_heads: int, tokenizer: Any) -> int:
    """The width of one decoder with about as many parameters as two of ``width``: the nearest multiple of
    2 x ``n_heads`` (rotary embeddings need an even width of each head)."""
    with torch.device("meta"):
        target = 2 * parameters(small_decoder(tokenizer, width, n_layers, n_heads, 0))
        sizes = {
            w: parameters(small_decoder(tokenizer, w, n_layers, n_heads, 0))
            for w in range(width, 2 * width + 1, 2 * n_heads)
        }
    return min(sizes, key=lambda w: abs(sizes[w] - target))


def seconds_per_turn(agent: LmAgent, trajectories: Sequence[Trajectory], new_tokens: int = 24) -> float:
    """Median seconds of a turn (reading what is new and decoding ``new_tokens``) over all turns of both agents."""
    agent.max_new_tokens = new_tokens
    took = []
    for trajectory in trajectories:
        samples = sorted(
            (s for role in AGENTS for s in interleave(trajectory, role)), key=lambda s: len(s.context.turns)
        )
        for sample in samples:
            start = time.perf_counter()
            agent.respond(sample.context, sample.role)
            took.append(time.perf_counter() - start)
    return statistics.median(took)


def check_reading(agent: LmAgent, trajectory: Trajectory) -> None:
    """Raise unless ``agent`` says what plain greedy decoding of the whole prompt says."""
    sample = interleave(trajectory, "Caller")[-1]
    said = agent.respond(sample.context, "Caller")
    ids = torch.tensor([agent.encoder.context(sample.context, "Caller")])
    model = agent._models["Caller"]
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=agent.max_new_tokens, do_sample=False,
        pad_token_id=agent.encoder.end,
    )  # fmt: skip
    plain = agent.encoder.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()
    if said != plain:
        raise ReprobookError("cached and plain decoding differ")


def two_against_one(width: int = 96, n_layers: int = 3, n_heads: int = 4, n: int = 2) -> dict[str, float]:
    """Seconds per turn of two specialised decoders and of one monolith of as many parameters, and their ratio."""
    tokenizer = small_tokenizer()
    encoder = Encoder(tokenizer)
    wide = monolith_width(width, n_layers, n_heads, tokenizer)
    pair = [small_decoder(tokenizer, width, n_layers, n_heads, k).eval() for k in range(2)]
    one = small_decoder(tokenizer, wide, n_layers, n_heads, 2).eval()
    rng = np.random.default_rng(0)
    trajectories = [play(make_case("General", 0, rng))[0] for _ in range(n)]
    two = LmAgent(encoder, models=dict(zip(AGENTS, pair, strict=True)))
    single = LmAgent(encoder, models=dict.fromkeys(AGENTS, one))
    for agent in (two, single):
        agent.max_new_tokens = 8
        check_reading(agent, trajectories[0])
    took = {"two": seconds_per_turn(two, trajectories), "one": seconds_per_turn(single, trajectories)}
    return {
        "two specialised (s)": took["two"], "one monolith (s)": took["one"], "one / two": took["one"] / took["two"],
        "parameters, two": sum(map(parameters, pair)), "parameters, one": parameters(one),
    }  # fmt: skip


def swap_against_load(model: Any, load: Callable[[], Any], repeats: int = 20) -> dict[str, float]:
    """Seconds of switching between two adapters of ``model`` (median) and of loading a second model."""
    x = torch.arange(8)[None]
    model.set_adapter("planner")
    with torch.no_grad():
        before = model(input_ids=x).logits
    took = []
    for k in range(2 * repeats):
        start = time.perf_counter()
        model.set_adapter(("caller", "planner")[k % 2])
        took.append(time.perf_counter() - start)
    with torch.no_grad():
        if not torch.equal(before, model(input_ids=x).logits):
            raise ReprobookError("an adapter that was swapped away and back gives other logits")
    start = time.perf_counter()
    load()
    load_s = time.perf_counter() - start
    swap_s = statistics.median(took)
    return {"swap (s)": swap_s, "load (s)": load_s, "load / swap": load_s / swap_s}


def adapter_bytes(model: Any, name: str, folder: Path) -> int:
    """Bytes of one adapter's safetensors file."""
    model.save_pretrained(folder, selected_adapters=[name], safe_serialization=True)
    return next(folder.rglob("*.safetensors")).stat().st_size


def main() -> None:
    """Print both comparisons; about a minute on 2 cores."""
    from reprobook.data import ChapterData
    from reprobook.nn.lm import load_lm

    for name, value in two_against_one().items():
        print(f"  {name}: {value:,.4f}")
    source = ChapterData("medical_assistant", "laptop").path("smollm2-135m-instruct")
    model = add_adapters(load_lm(source, dtype="fp32")[0], ["planner", "caller"]).eval()
    for name, value in swap_against_load(model, lambda: load_lm(source, dtype="fp32")).items():
        print(f"  SmolLM2-135M, {name}: {value:,.5f}")


if __name__ == "__main__":
    main()
