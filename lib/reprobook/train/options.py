"""The options of a fit, checked, and the history it returns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    import pandas as pd

Loss = Callable[[nn.Module, Any], Tensor | tuple[Tensor, dict[str, Tensor]]]
Evaluate = Callable[[nn.Module, int], dict[str, float]]
SCHEDULES = ("constant", "linear", "cosine", "wsd")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


class TrainingError(ReprobookError):
    """Training cannot start or go on: a wrong option, or a loss that is no longer finite."""


@dataclass
class History:
    """What a fit measured. ``seconds`` is the wall time of the steps alone (no evaluation, no checkpoint), summed over
    the parts of a resumed fit; ``resumed_from`` is the step it went on from, None for a fresh fit."""

    rows: list[dict[str, float]] = field(default_factory=list)
    eval_rows: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    steps: int = 0
    resumed_from: int | None = None

    def frame(self) -> pd.DataFrame:
        """One row per ``log_every`` updates: step, loss, lr, grad_norm and the loss's own extras. Loss, norm and
        extras are means over the updates since the row before."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    @property
    def evals(self) -> pd.DataFrame:
        """One row per evaluation: step and what ``evaluate`` returned."""
        import pandas as pd

        return pd.DataFrame(self.eval_rows)

    @property
    def steps_per_s(self) -> float:
        """Updates a second; NaN before the first."""
        return self.steps / self.seconds if self.seconds else math.nan


@dataclass(frozen=True)
class Options:
    """The options that move numbers: they are part of the checkpoint's fingerprint."""

    num_steps: int
    lr: float
    seed: int
    weight_decay: float
    betas: tuple[float, float]
    eps: float
    schedule: str
    warmup_steps: int
    grad_clip: float | None
    accumulation: int
    precision: str
    ema_decay: float | None
    evaluate_every: int | None
    log_every: int
    muon_lr: float | None

    def check(self) -> None:
        """Raise :class:`TrainingError` for a wrong option; those of EMA and Muon are checked where they are used."""
        rules = [
            ("num_steps", self.num_steps >= 1, "at least 1"),
            ("lr", math.isfinite(self.lr) and self.lr > 0, "a positive number"),
            ("weight_decay", self.weight_decay >= 0, "0 or more"),
            ("betas", len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), "two numbers in [0, 1)"),
            ("eps", self.eps > 0, "a positive number"),
            ("schedule", self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
            ("warmup_steps", 0 <= self.warmup_steps <= self.num_steps, f"from 0 to num_steps ({self.num_steps})"),
            ("grad_clip", self.grad_clip is None or self.grad_clip > 0, "a positive number or None"),
            ("accumulation", self.accumulation >= 1, "at least 1"),
            ("precision", self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
            ("evaluate_every", self.evaluate_every is None or self.evaluate_every >= 1, "at least 1 or None"),
            ("log_every", self.log_every >= 1, "at least 1"),
        ]
        for name, good, allowed in rules:
            if not good:
                raise TrainingError(f"fit: {name} is {getattr(self, name)!r}; it must be {allowed}")


def lr_factor(step: int, options: Options) -> float:
    """Learning rate of update ``step`` (from 0) as a part of the peak: warm-up, then the schedule."""
    if step < options.warmup_steps:
        return (step + 1) / options.warmup_steps
    if options.schedule == "constant":
        return 1.0
    if options.schedule == "wsd":  # warm-up, stable, decay: half a cosine to a tenth over the last fifth
        decay = 0.2 * options.num_steps
        done = min(1.0, max(0.0, (step + 1 - (options.num_steps - decay)) / decay))
        return 0.1 + 0.9 * 0.5 * (1.0 + math.cos(math.pi * done))
    done = min(1.0, (step - options.warmup_steps) / max(1, options.num_steps - options.warmup_steps))
    return 1.0 - done if options.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
