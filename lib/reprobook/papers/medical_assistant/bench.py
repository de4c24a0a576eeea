"""Two small agents against one of twice their size, and an adapter swap against loading a second model.

Times do not depend on what weights have learned; that the ways say the same is asserted: cached reading against plain
decoding of the same model, and an adapter that was swapped away and back against itself.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from reprobook.bench import compare
from reprobook.errors import ReprobookError
from reprobook.papers.medical_assistant.agents import LmAgent
from reprobook.papers.medical_assistant.samples import AGENTS, Encoder, interleave
from reprobook.papers.medical_assistant.scenarios import make_case, play
from reprobook.papers.medical_assistant.training import small_decoder, small_tokenizer

if TYPE_CHECKING:
    from reprobook.bench import Comparison
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


def agents_in_turns(
    width: int, n_layers: int, n_heads: int, n: int, new_tokens: int = 24
) -> tuple[Comparison, int, int]:
    """One monolith against two specialised decoders of as many parameters in all; a turn is one turn of an agent in one
    of ``n`` sessions: reading what is new and decoding ``new_tokens``. And the parameters of both sides."""
    tokenizer = small_tokenizer()
    encoder = Encoder(tokenizer)
    wide = monolith_width(width, n_layers, n_heads, tokenizer)
    pair = [small_decoder(tokenizer, width, n_layers, n_heads, k).eval() for k in range(2)]
    one = small_decoder(tokenizer, wide, n_layers, n_heads, 2).eval()
    rng = np.random.default_rng(0)
    trajectories = [play(make_case("General", 0, rng))[0] for _ in range(n)]
    two = LmAgent(encoder, models=dict(zip(AGENTS, pair, strict=True)), max_new_tokens=8)
    single = LmAgent(encoder, models=dict.fromkeys(AGENTS, one), max_new_tokens=8)
    for agent in (two, single):
        check_reading(agent, trajectories[0])
        agent.max_new_tokens = new_tokens
    turns = [
        sample for t in trajectories
        for sample in sorted((s for role in AGENTS for s in interleave(t, role)), key=lambda s: len(s.context.turns))
    ]  # fmt: skip

    def speak(agent: LmAgent) -> Callable[[], str]:
        rest = iter(turns)
        return lambda: agent.respond((sample := next(rest)).context, sample.role)

    ways = {"one monolith": speak(single), "two specialised": speak(two)}
    taken = compare(ways, equal=None, n=len(turns), warmup=0, what="a turn of an agent")
    return taken, sum(map(parameters, pair)), parameters(one)


def two_against_one(width: int = 96, n_layers: int = 3, n_heads: int = 4, n: int = 2) -> dict[str, float]:
    """Seconds per turn of two specialised decoders and of one monolith of as many parameters, and their ratio."""
    taken, n_two, n_one = agents_in_turns(width, n_layers, n_heads, n)
    two, one = (taken.medians[way] for way in ("two specialised", "one monolith"))
    return {
        "two specialised (s)": two, "one monolith (s)": one, "one / two": one / two,
        "parameters, two": n_two, "parameters, one": n_one,
    }  # fmt: skip


def headline() -> Comparison:
    """A turn of one monolith (3 layers) over a turn of two specialised decoders with as many parameters in all. They
    say different things; that each says what plain decoding says is asserted."""
    return agents_in_turns(96, 3, 4, n=2)[0]


def swap_against_load(model: Any, load: Callable[[], Any], repeats: int = 20) -> dict[str, float]:
    """Seconds of switching between two adapters of ``model`` (median) and of loading a second model."""
    x = torch.arange(8)[None]
    model.set_adapter("planner")
    with torch.no_grad():
        before = model(input_ids=x).logits
    swaps = {name: lambda name=name: model.set_adapter(name) for name in ("caller", "planner")}
    taken = compare(swaps, equal=None, n=repeats, warmup=0)
    with torch.no_grad():
        if not torch.equal(before, model(input_ids=x).logits):
            raise ReprobookError("an adapter that was swapped away and back gives other logits")
    load_s = compare({"load": load}, equal=None, n=1, warmup=0).medians["load"]
    swap_s = statistics.median([s for times in taken.seconds.values() for s in times])
    return {"swap (s)": swap_s, "load (s)": load_s, "load / swap": load_s / swap_s}


def adapter_bytes(model: Any, name: str, folder: Path) -> int:
    """Bytes of one adapter's safetensors file."""
    model.save_pretrained(folder, selected_adapters=[name], safe_serialization=True)
    return next(folder.rglob("*.safetensors")).stat().st_size
