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
from reprobook.nn.lm import load_lm
from reprobook.papers.quantizing_code_llms.baselines import ColumnUpdate, Grid
from reprobook.papers.quantizing_code_llms.blocks import quantise
from reprobook.papers.quantizing_code_llms.humaneval import Outcome, judge_all, pass_at_k, program
from reprobook.papers.quantizing_code_llms.storage import grid_bits
from reprobook.project import atomic_write

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from reprobook.papers.quantizing_code_llms.humaneval import Problem

# What begins something else at the margin: HumanEval's own list, and the end of a block.
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint", "\nassert", "\n```")


@dataclass(frozen=True)
class Arm:
    """A cell: bits of the grid (None: the model as it is) and the calibration set."""

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
    batch_size: int = 82


class Solved(NamedTuple):
    """Completions of the problems, in their order, and what became of each."""

    completions: list[str]
    outcomes: list[Outcome]

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


def open_arm(
    source: Path, arm: Arm, rows: Mapping[str, Tensor], group: int, *, folder: Path, device: torch.device
) -> tuple[Any, Any]:
    """The code model of an arm, every linear layer of every block quantised by a column update on groups of ``group``
    columns with the arm's calibration rows; and its tokenizer."""
    model, tokenizer = load_lm(source, device=device)
    if arm.bits is not None:
        if arm.calibration not in rows:
            raise ReprobookError(f"calibration {arm.calibration!r} is not known; allowed: {', '.join(rows)}")
        quantiser = ColumnUpdate(Grid(arm.bits, group))
        quantise(model, rows[arm.calibration], quantiser, folder=folder / f"blocks of {arm}", device=device)
        model.to(device)
    return model, tokenizer


def solve(
    model: Any, tokenizer: Any, problems: Sequence[Problem], drawing: Drawing, seed: int, *, file: Path, run_code: bool
) -> Solved:
    """One completion of each problem by continuing its prompt, judged. What is in ``file`` is not made again."""
    if not file.is_file():
        completions = complete(
            model, tokenizer, [p.prompt for p in problems], max_new_tokens=drawing.max_new_tokens, stop_strings=STOPS,
            batch_size=drawing.batch_size, temperature=drawing.temperature, top_p=drawing.top_p, seed=seed,
        )  # fmt: skip
        codes = [program(p, text) for p, text in zip(problems, completions, strict=True)]
        told = judge_all(problems, codes, run_code=run_code)
        atomic_write(file, json.dumps([completions, told]))
    completions, told = json.loads(file.read_text("utf-8"))
    return Solved(completions, [Outcome(*each) for each in told])


def table(solved: Mapping[str, Solved], problems: Sequence[Problem]) -> pd.DataFrame:
    """Outcomes in the authors' columns: a row for each arm and problem."""
    return pd.DataFrame([
        {"model": "Qwen2.5-Coder-0.5B-Instruct", "quantization": name, "language": "py", "problem": str(p), "pass": ok}
        for name, each in solved.items() for p, ok in zip(problems, each.passed, strict=True)
    ])  # fmt: skip


def bits_of(arm: Arm, group: int) -> float:
    """Bits per weight of an arm's linear layers; 16 for the model as it is."""
    return 16.0 if arm.bits is None else grid_bits(arm.bits, group)


def discordant(a: Solved, b: Solved) -> float:
    """Share of problems that exactly one of two cells solves."""
    return float(np.mean(a.passed != b.passed))


def told_apart(solved: Mapping[str, Solved], problems: Sequence[Problem], good: str, bad: str) -> pd.DataFrame:
    """What two arms wrote to a problem that the first solves and the second does not, the shortest such answers first:
    columns ``problem``, ``arm``, ``text``, ``outcome``."""
    pairs = [
        (p, x, y)
        for p, *pair in zip(problems, *(zip(*solved[n], strict=True) for n in (good, bad)), strict=True)
        for x, y in [pair]
        if x[1].passed and not y[1].passed
    ]
    pairs.sort(key=lambda pair: len(pair[1][0]) + len(pair[2][0]))
    return pd.DataFrame([
        {"problem": str(p), "arm": name, "text": program(p, text), "outcome": "passes" if told.passed else told.why}
        for p, *both in pairs[:3] for name, (text, told) in zip((good, bad), both, strict=True)
    ], columns=["problem", "arm", "text", "outcome"])  # fmt: skip


def pass_at(found: pd.DataFrame, ks: Sequence[int]) -> pd.DataFrame:
    """Unbiased pass@k of each arm from the runs of several seeds, one draw a problem and seed; NaN where there are not
    k draws. ``found``: columns ``quantization``, ``problem``, ``pass`` and ``seed``."""
    rows = []
    for name, part in found.groupby("quantization", sort=False):
        n = part["seed"].nunique() if "seed" in part else 1
        right = part.groupby("problem", sort=True)["pass"].sum().to_numpy(int)
        values = {f"pass@{k}": pass_at_k(n, right, k).mean() if k <= n else float("nan") for k in ks}
        rows.append({"quantization": name, "draws": n, **values})
    return pd.DataFrame(rows)
