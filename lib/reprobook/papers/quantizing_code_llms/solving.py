"""pass@1 on HumanEval, cell by cell: a code model as it is and quantised in several ways, on the same problems."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from reprobook.errors import ReprobookError
from reprobook.nn.completion import complete
from reprobook.nn.lm import load_lm, load_tokenizer
from reprobook.papers.quantizing_code_llms.baselines import ColumnUpdate, Grid, RoundToNearest
from reprobook.papers.quantizing_code_llms.blocks import decoder_blocks, linears, quantise
from reprobook.papers.quantizing_code_llms.calibration import (
    calibration_rows,
    held_out,
    standard_library,
    wikipedia,
)
from reprobook.papers.quantizing_code_llms.humaneval import Outcome, broken, judge_all, program, solved
from reprobook.papers.quantizing_code_llms.storage import grid_bits
from reprobook.papers.quantizing_code_llms.study import by_file, read
from reprobook.project import atomic_write

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from reprobook.data import ChapterData
    from reprobook.papers.quantizing_code_llms.calibration import HeldOut, Kind
    from reprobook.papers.quantizing_code_llms.humaneval import Problem

ROUNDED = "rounded"  # in place of a calibration set: to the nearest value of the grid
SMALL = "smollm2-135m-instruct"
# What begins something else at the margin: HumanEval's own list, and the end of a block.
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint", "\nassert", "\n```")


@dataclass(frozen=True)
class Arm:
    """A cell: bits of the grid (None: the model as it is) and the calibration set, or :data:`ROUNDED`."""

    bits: int | None = None
    calibration: str = ""

    def __str__(self) -> str:
        return "reference" if self.bits is None else f"{self.bits} bits, {self.calibration}"


@dataclass(frozen=True)
class Drawing:
    """How completions are drawn; the study's temperature and nucleus. Temperature 0 is greedy."""

    temperature: float = 0.2
    top_p: float = 0.95
    max_new_tokens: int = 256
    batch_size: int = 164


class Solved(NamedTuple):
    """Completions of the problems, in their order, what became of each, the loss (nats a token) on each held-out file,
    and how many completions are as long as they may be (by two tokens or less, since they are encoded again): those
    were cut before they ended."""

    completions: list[str]
    outcomes: list[Outcome]
    loss: list[float]
    cut: int

    @property
    def passed(self) -> np.ndarray:
        """1 where a completion passes, else 0."""
        return np.array([float(each.passed) for each in self.outcomes])


def arms(wanted: Sequence[Sequence[Any]]) -> list[Arm]:
    """The reference and the arms that the parameters name: (bits, calibration set)."""
    found = [Arm(), *(Arm(int(bits), str(kind)) for bits, kind in wanted)]
    if len(set(found)) < len(found):
        raise ReprobookError(f"an arm is named twice: {', '.join(map(str, found))}")
    return found


def open_coder(data: ChapterData, name: str) -> Path:
    """The file of the model that solves problems. Where an optional one cannot be had, SmolLM2 stands in: it solves
    next to nothing, so the controls of every claim about pass@1 fail."""
    if name == SMALL:
        return data.path(name)
    if (found := data.path_or_none(name)) is None:
        print(f"{name} is not there; {SMALL} stands in, which decides nothing")
    return found or data.path(SMALL)


def open_texts(
    source: Path, articles: Path, wanted: Sequence[Sequence[Any]], n_rows: int, length: int, n_files: int, seed: int
) -> tuple[dict[str, Tensor], HeldOut]:
    """Calibration rows of the sets that the arms name, in the tokens of the model in ``source``, and held-out code."""
    tokenizer, general, code = load_tokenizer(source), wikipedia(articles), standard_library()
    kinds: dict[Kind, None] = dict.fromkeys(kind for _, kind in wanted if kind != ROUNDED)
    rows: dict[str, Tensor] = {
        kind: calibration_rows(kind, general, code, tokenizer, n_rows, length, seed) for kind in kinds
    }
    return rows, held_out(code.held_out, tokenizer, n_files, 1, length)


def open_arm(
    source: Path, arm: Arm, rows: Mapping[str, Tensor], group: int, n_blocks: int, *, folder: Path, device: torch.device
) -> tuple[Any, Any]:
    """The code model of an arm, every linear layer of its first ``n_blocks`` blocks (at most those it has) quantised on
    groups of ``group`` columns, by a column update with the arm's calibration rows or by rounding; and its tokenizer.
    Finished blocks are kept in ``folder``."""
    model, tokenizer = load_lm(source, device=device)
    if arm.bits is None:
        return model, tokenizer
    grid, n = Grid(arm.bits, group), min(n_blocks, len(decoder_blocks(model)))
    if arm.calibration == ROUNDED:
        for name, layer in linears(decoder_blocks(model)[:n]).items():
            layer.weight.data.copy_(RoundToNearest(grid).rounded(name, layer.weight.detach()))
    elif arm.calibration in rows:
        quantise(model, rows[arm.calibration], ColumnUpdate(grid), n_blocks=n, folder=folder, device=device)
        model.to(device)
    else:
        raise ReprobookError(f"calibration {arm.calibration!r} is not known; allowed: {', '.join([*rows, ROUNDED])}")
    return model, tokenizer


def solve(
    model: Any, tokenizer: Any, problems: Sequence[Problem], drawing: Drawing, seed: int, *, run_code: bool
) -> tuple[list[str], list[Outcome]]:
    """One completion of each problem by continuing its prompt, judged."""
    completions = complete(
        model, tokenizer, [p.prompt for p in problems], max_new_tokens=drawing.max_new_tokens, stop_strings=STOPS,
        batch_size=drawing.batch_size, temperature=drawing.temperature, top_p=drawing.top_p, seed=seed,
    )  # fmt: skip
    codes = [program(p, text) for p, text in zip(problems, completions, strict=True)]
    return completions, judge_all(problems, codes, run_code=run_code)


def cells(
    source: Path, wanted: Sequence[Arm], rows: Mapping[str, Tensor], held: HeldOut, problems: Sequence[Problem],
    drawing: Drawing, *, group: int, n_blocks: int, seed: int, folder: Path, device: torch.device, run_code: bool,
) -> dict[str, Solved]:  # fmt: skip
    """Every arm on the same problems and the same held-out files. A finished cell is kept in ``folder``, also one that
    was decoded greedily (``drawing`` at temperature 0), which takes the blocks that the drawn one made."""
    found = {}
    for arm in wanted:
        file = folder / (f"{arm}.json" if drawing.temperature else f"{arm}, greedy.json")
        if not file.is_file():
            model, tokenizer = open_arm(source, arm, rows, group, n_blocks, folder=folder / str(arm), device=device)
            loss = by_file(read(model, held.rows).loss, held).tolist()
            texts, outcomes = solve(model, tokenizer, problems, drawing, seed, run_code=run_code)
            cut = sum(len(tokenizer(text).input_ids) > drawing.max_new_tokens - 3 for text in texts)
            atomic_write(file, json.dumps((texts, outcomes, loss, cut)))
            del model  # before the next one is loaded
        texts, told, loss, cut = json.loads(file.read_text("utf-8"))
        found[str(arm)] = Solved(texts, [Outcome(*each) for each in told], loss, cut)
    return found


def table(found: Mapping[str, Solved], problems: Sequence[Problem], model: str) -> pd.DataFrame:
    """Outcomes of a ``model`` in the authors' columns: a row for each arm and problem."""
    return pd.DataFrame([
        {"model": model, "quantization": name, "language": "py", "problem": str(p), "pass": ok}
        for name, each in found.items() for p, ok in zip(problems, each.passed, strict=True)
    ])  # fmt: skip


def harness(problems: Sequence[Problem], *, run_code: bool) -> pd.DataFrame:
    """How many of the problems' own solutions pass, and of broken ones."""
    rows = []
    for name, make in (("solution", solved), ("broken solution", broken)):
        told = judge_all(problems, [make(p) for p in problems], run_code=run_code)
        rows.append({"program": name, "problems": len(problems), "pass": sum(each.passed for each in told)})
    return pd.DataFrame(rows)


def summary(found: Mapping[str, Solved], wanted: Sequence[Arm], group: int) -> pd.DataFrame:
    """A row for each cell: bits a weight, share of problems that pass, loss on held-out code, the share of problems
    that exactly one of cell and reference solves, what the failures are, and how many answers were cut."""
    rows = []
    for arm in wanted:
        each = found[str(arm)]
        failed = [o.why for o in each.outcomes if not o.passed]
        rows.append({
            "cell": str(arm), "bits": 16.0 if arm.bits is None else grid_bits(arm.bits, group),
            "pass@1": each.passed.mean(), "loss on code": np.mean(each.loss),
            "discordant": np.mean(each.passed != found["reference"].passed),
            "wrong answers": sum(why.startswith("wrong") for why in failed),
            "errors": sum(not why.startswith("wrong") for why in failed), "cut": each.cut,
        })  # fmt: skip
    return pd.DataFrame(rows)


def pairs(found: Mapping[str, Solved]) -> dict[str, tuple[Solved, Solved]]:
    """What is compared: every cell minus the reference, 3 bits minus 4 of one calibration, and at equal bits code with
    general calibration and both with plain rounding."""
    told = {f"{name} minus reference": (each, found["reference"]) for name, each in found.items()}
    del told["reference minus reference"]
    for name, each in found.items():
        bits, _, kind = name.partition(", ")
        if bits == "3 bits" and (finer := f"4 bits, {kind}") in found:
            told[f"{name} minus {finer}"] = each, found[finer]
        for other in {"code": ("general", ROUNDED), "general": (ROUNDED,)}.get(kind, ()):
            if (rival := f"{bits}, {other}") in found:
                told[f"{name} minus {rival}"] = each, found[rival]
    return told


def told_apart(found: Mapping[str, Solved], problems: Sequence[Problem], good: str, bad: str) -> pd.DataFrame:
    """What two arms wrote to the problems that the first solves and the second does not, the three with the shortest
    answers: columns ``problem``, ``arm``, ``text``, ``outcome``."""
    first, second = found[good], found[bad]
    apart = [k for k in range(len(problems)) if first.outcomes[k].passed and not second.outcomes[k].passed]
    apart.sort(key=lambda k: len(first.completions[k]) + len(second.completions[k]))
    rows = [
        {"problem": str(problems[k]), "arm": name, "text": program(problems[k], each.completions[k]),
         "outcome": "passes" if each.outcomes[k].passed else each.outcomes[k].why}
        for k in apart[:3] for name, each in ((good, first), (bad, second))
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["problem", "arm", "text", "outcome"])
