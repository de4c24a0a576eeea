"""The paper's own models and questions: loading, tuning over several GPUs, and what it all needs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from reprobook.errors import ReprobookError
from reprobook.nn.chat import Example, masked_loss
from reprobook.nn.lm import load_lm
from reprobook.nn.needs import causal_lm, gpu_hours, lm_step
from reprobook.nn.needs import needs as needs_of
from reprobook.papers.stasc.baselines import sft
from reprobook.papers.stasc.dialogue import Prompts
from reprobook.papers.stasc.learner import Learner, Tuning, tuning_batches
from reprobook.papers.stasc.loop import Iterate, frame, run, score
from reprobook.papers.stasc.questions import Splits, read_split, take_valid
from reprobook.papers.stasc.study import gains, plan
from reprobook.train import checkpoint, fit
from reprobook.train.launch import launch

if TYPE_CHECKING:
    import torch

    from reprobook.nn.sampling import Sampling
    from reprobook.papers.stasc.learner import Snapshot
    from reprobook.papers.stasc.study import Pairs

TOKENS = 512  # of a dialogue with a short rationale in both answers
LAYERS = {"qwen2.5-1.5b-instruct": "Qwen2DecoderLayer", "phi-3-mini": "Phi3DecoderLayer"}  # the units that FSDP shards
SIZES: dict[str, dict[str, Any]] = {  # configurations of the released models
    "Qwen2.5-1.5B-Instruct": {
        "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 1536, "num_hidden_layers": 28,
        "intermediate_size": 8960, "num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
    "Phi-3-mini-4k-instruct": {
        "model_type": "phi3", "vocab_size": 32064, "hidden_size": 3072, "num_hidden_layers": 32,
        "intermediate_size": 8192, "num_attention_heads": 32, "num_key_value_heads": 32, "pad_token_id": 32000,
    },
}  # fmt: skip
# The wording of the paper's prompts is not carried over; these say the same in our words.
PROMPTS = Prompts(
    instruction=(
        "You are a helpful reasoning assistant for general questions. Reason very briefly. Write a short rationale "
        'under the heading "Step-by-step reasoning:" and the answer under the heading "Final Answer:".'
    ),
    correction=(
        "Correct your answer if it is wrong: consider other options first. Use the same two headings, "
        '"Step-by-step reasoning:" and "Final Answer:".'
    ),
)


def open_questions(folder: Path | str, n_train: int, n_valid: int, n_test: int, seed: int) -> Splits:
    """The first ``n_train`` training questions of ``folder``, ``n_valid`` of them for validation, and ``n_test`` test
    questions."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ReprobookError(
            f"questions_folder {str(folder)!r} does not exist: give a folder with train and test files"
        )
    train, test = read_split(folder, "train")[:n_train], read_split(folder, "test")[:n_test]
    return Splits(*take_valid(train, n_valid, seed), test)


def launched_tuning(
    name: str, source: Path, tuning: Tuning, tokenizer: Any, seed: int, folder: Path, processes: int | None, cpu: bool
) -> Callable[[str, Snapshot, Sequence[Example]], Path]:
    """A way to train for :class:`~reprobook.papers.stasc.learner.Learner`: fully sharded over ``processes`` GPUs (None:
    all that are there), in processes of their own. ``source`` is the folder of M_0; ``name`` is in :data:`LAYERS`."""

    if name not in LAYERS:
        raise ReprobookError(f"model {name!r} is not known; models: {', '.join(LAYERS)}")
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0

    def train(key: str, start: Snapshot, examples: Sequence[Example]) -> Path:
        place = folder / "checkpoints" / key
        arguments = {
            "source": str(source), "start": None if start.file is None else str(start.file), "pad": pad, "seed": seed,
            "tuning": asdict(tuning), "examples": [[e.ids, e.labels] for e in examples],
        }  # fmt: skip
        launch(
            "reprobook.papers.stasc.released:tune", arguments, folder=place / "launch", num_processes=processes,
            strategy="fsdp", wrap=LAYERS[name], cpu=cpu,
        )  # fmt: skip
        (place / "launch" / "fit" / checkpoint.FINISHED).replace(place / checkpoint.FINISHED)
        (place / "launch" / "arguments.json").unlink()
        return place / checkpoint.FINISHED

    return train


def open_learner(
    name: str, source: Path, sampling: Sampling, seed: int, folder: Path, device: torch.device, n_gpus: int
) -> Learner:
    """A learner over one of the paper's models in ``source``: batch of 8, one epoch, fully sharded over ``n_gpus``."""
    model, tokenizer = load_lm(source, dtype="bf16", device=device)
    tuning = Tuning(batch_size=8, accumulation=8 // n_gpus, precision="bf16")
    train = launched_tuning(name, source, tuning, tokenizer, seed, folder, n_gpus, device.type == "cpu")
    return Learner(
        model, tokenizer, PROMPTS, sampling, tuning, train=train, folder=folder, seed=seed, batch_size=16, chunk=50
    )


def tune(
    folder: Path, source: str, start: str | None, pad: int, seed: int, tuning: dict[str, Any], examples: list[Any]
) -> dict[str, Any]:
    """One of the launched processes: fine-tune in fp32 weights under autocast and leave them in ``folder/fit``."""
    import os

    settings, processes = Tuning(**tuning), int(os.environ.get("WORLD_SIZE", "1"))
    model, _ = load_lm(Path(source), dtype="fp32")
    if start is not None:
        checkpoint.load_weights(model, checkpoint.read(Path(start))["model"])
    rows = [Example(tuple(ids), tuple(labels)) for ids, labels in examples]
    history = fit(
        model, tuning_batches(rows, settings, pad, seed, processes), masked_loss, folder=folder / "fit", seed=seed,
        num_steps=settings.steps(len(rows)), accumulation=settings.accumulation, **settings.options(len(rows)),
    )  # fmt: skip
    return {"updates": history.steps, "seconds": history.seconds}


def study(
    learner: Learner, splits: Splits, names: Sequence[str], counts: tuple[int, int], n_iterations: int
) -> dict[str, list[Iterate]]:
    """Runs of the variants, and ``gold answers``: M_0 and what fine-tuning on them gives."""
    found = {name: run(learner, plan(name, *counts, n_iterations), splits, last_train=True) for name in names}
    gold = sft(learner, splits.train)
    test = functools.partial(score, learner, gold, splits.test)
    return {**found, "gold answers": [Iterate(0, gold, score(learner, gold, splits.valid, "valid"), test)]}


def effects(name: str, found: Mapping[str, list[Iterate]]) -> Pairs:
    """The paired effects of the plan at paper scale: what each variant gained, and FIE against FIF."""
    pairs: Pairs = {}
    for variant, iterates in found.items():
        if len(iterates) > 1:
            pairs |= gains(f"{name} {variant}", [iterates])
    if {"FIE", "FIF"} <= set(found):
        pairs[f"{name} FIE minus FIF"] = found["FIE"][-1].test.corrected, found["FIF"][-1].test.corrected
    return pairs


def table(name: str, found: Mapping[str, list[Iterate]]) -> pd.DataFrame:
    """Every iterate of a model's runs."""
    return pd.concat([frame(iterates).assign(model=name, run=variant) for variant, iterates in found.items()])


def needs(config: dict[str, Any], n_gpus: int = 2) -> dict[str, float]:
    """What full fine-tuning of an architecture and sampling from it need, found without storage: parameters (millions),
    gigabytes of fp32 weights, gradients and AdamW's moments in all and on each of ``n_gpus``, of the activations of one
    dialogue of :data:`TOKENS` tokens, of bf16 weights, and A100 hours of 1,000 such dialogues (operations over 40 % of
    the peak: our estimate)."""
    model = causal_lm(config)
    found = needs_of(model, lm_step(model, 1, TOKENS))
    state = found.training_state / 1e9
    return {
        "parameters (M)": found.parameters / 1e6, "tuning (GB)": state, "tuning, each GPU (GB)": state / n_gpus,
        "activations of a dialogue (GB)": (found.activations or 0) / 1e9,
        "sampling, bf16 weights (GB)": 2 * found.parameters / 1e9,
        "one stored iterate (GB)": 4 * found.parameters / 1e9,
        "A100 hours, 1,000 dialogues": gpu_hours(1000 * (found.flops or 0), "A100, bf16"),
    }  # fmt: skip
