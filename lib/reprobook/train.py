"""One training loop for all chapters, on accelerate: checkpoints, exact resume, EMA, mixed precision, many processes.

``fit`` trains a model on ``batches(i)``, a pure function of the micro-step index: the position in the data is the
step, so a killed run that starts again ends with the weights of a run that was never killed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object, reduce, send_to_device
from torch import LongTensor, Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import get_ema_multi_avg_fn

from reprobook import checkpoint
from reprobook.devices import make_accelerator, plain_forward, precision_name
from reprobook.errors import ReprobookError
from reprobook.progress import Progress, StopSignal

if TYPE_CHECKING:
    import pandas as pd

Loss = Callable[[nn.Module, Any], Tensor | tuple[Tensor, dict[str, Tensor]]]
Evaluate = Callable[[nn.Module, int], dict[str, float]]
SCHEDULES = ("constant", "linear", "cosine")
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
        return self.steps / self.seconds if self.seconds else math.nan


@dataclass(frozen=True)
class _Options:
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

    def check(self) -> None:
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
            ("ema_decay", self.ema_decay is None or 0 <= self.ema_decay < 1, "in [0, 1) or None"),
            ("evaluate_every", self.evaluate_every is None or self.evaluate_every >= 1, "at least 1 or None"),
            ("log_every", self.log_every >= 1, "at least 1"),
        ]
        for name, good, allowed in rules:
            if not good:
                raise TrainingError(f"fit: {name} is {getattr(self, name)!r}; it must be {allowed}")


def fit(
    model: nn.Module,
    batches: Callable[[int], Any],
    loss: Loss,
    *,
    num_steps: int,
    lr: float,
    folder: Path,
    seed: int = 0,
    device: torch.device | str | None = None,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    schedule: str = "constant",
    warmup_steps: int = 0,
    grad_clip: float | None = 1.0,
    accumulation: int = 1,
    precision: str = "auto",
    ema_decay: float | None = None,
    evaluate: Evaluate | None = None,
    evaluate_every: int | None = None,
    checkpoint_every: int | None = None,
    checkpoint_s: float | None = 60.0,
    log_every: int = 10,
    keep: int = 1,
) -> History:
    """Train ``model`` for ``num_steps`` optimiser updates (AdamW) and leave it trained, in eval mode, on the device.

    - ``batches(i)`` gives the batch of global micro-step ``i``; it must be a pure function of ``i``. Update ``k``
      uses the ``accumulation * num_processes`` batches from ``k * accumulation * num_processes`` on.
    - ``loss(model, batch)`` gives a scalar, or a scalar and a dict of scalars to log. It must call the model as a
      function: mixed precision and several processes hook into that call. Noise comes from the global torch generator.
    - ``evaluate(model, step)`` runs after every ``evaluate_every`` updates and after the last one, in eval mode, without
      gradients, under EMA weights if there are any, with all generators seeded with ``seed``.
    - ``ema_decay``: weights are averaged as ``ema = decay * ema + (1 - decay) * weights`` after each update, from the
      initial weights on; on return the model has the average.
    - ``warmup_steps``: lr rises linearly to ``lr``; then ``constant``, or ``linear`` or ``cosine`` down to 0 at the end.
    - ``precision="auto"``: bf16 autocast where the processor multiplies bf16, else fp32; weights keep their type.
    - A checkpoint is written every ``checkpoint_every`` updates and every ``checkpoint_s`` seconds (None: never) into
      ``folder``; the newest ``keep`` stay. Called again, ``fit`` goes on from the newest, bit-equal to a fit that was
      never interrupted; a finished fit is loaded, not repeated. Ctrl-C and SIGTERM save first; twice stops at once.

    The global random states on return are those on entry. Raises :class:`TrainingError` for wrong options and for a
    loss that is not finite, :class:`reprobook.checkpoint.CheckpointError` if ``folder`` belongs to another fit.
    """
    options = _Options(
        num_steps, lr, seed, weight_decay, tuple(betas), eps, schedule, warmup_steps, grad_clip, accumulation,
        precision, ema_decay, evaluate_every, log_every,
    )  # fmt: skip
    options.check()
    if evaluate_every and not evaluate:
        raise TrainingError("fit: evaluate_every needs evaluate")
    accelerator = make_accelerator(device, precision, accumulation)
    with plain_forward(model), checkpoint.forked_rng(seed + accelerator.process_index, accelerator.device):
        run = _Run(accelerator, model, batches, loss, evaluate, options, Path(folder), keep)
        if not run.resume():
            run.train(checkpoint_every, checkpoint_s)
    model.eval()
    return run.history


class _Run:
    """The state of one fit: what a checkpoint holds, and the steps that change it."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        batches: Callable[[int], Any],
        loss: Loss,
        evaluate: Evaluate | None,
        options: _Options,
        folder: Path,
        keep: int,
    ) -> None:
        self.accelerator, self.raw, self.batches, self.loss, self.evaluate_fn = accelerator, model, batches, loss, evaluate
        self.options, self.folder, self.keep = options, folder, keep
        self.params = [p for p in model.parameters() if p.requires_grad]
        if not self.params:
            raise TrainingError("fit: the model has no trainable parameters (requires_grad is False everywhere)")
        self.model = accelerator.prepare_model(model.train())
        fused = accelerator.device.type in ("cpu", "cuda") and accelerator.scaler is None
        adamw = torch.optim.AdamW(
            self.params, lr=options.lr, betas=options.betas, eps=options.eps, weight_decay=options.weight_decay, fused=fused
        )
        self.optimizer = accelerator.prepare_optimizer(adamw)
        self.scheduler = LambdaLR(adamw, lambda step: _factor(step, options))
        self.ema = [p.detach().clone() for p in self.params] if options.ema_decay is not None else None
        self.update_ema = get_ema_multi_avg_fn(options.ema_decay) if self.ema is not None else None
        self.history = History()
        self.pending: list[Tensor] = []  # [loss, grad_norm, *extras] of the updates since the last row
        self.extras: list[str] | None = None
        shown = asdict(options) | {"precision": precision_name(accelerator), "num_processes": accelerator.num_processes}
        self.fingerprint = checkpoint.fingerprint(shown, model)

    # --- checkpoints

    def resume(self) -> bool:
        """Load the newest checkpoint if there is one; True if the fit was already finished."""
        self.accelerator.wait_for_everyone()
        saved = checkpoint.newest(self.folder)
        if saved is None:
            return False
        checkpoint.check_fingerprint(saved["fingerprint"], self.fingerprint, self.folder)
        checkpoint.load_weights(self.raw, saved["model"])
        self.history = History(**saved["history"], resumed_from=saved["history"]["steps"])
        if "optimizer" not in saved:
            return True
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.load_state_dict(saved["scheduler"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        if self.ema is not None:
            torch._foreach_copy_(self.ema, [t.to(self.accelerator.device) for t in saved["ema"]])
        self.extras = saved["extras"]
        self.pending = list(saved["pending"].to(self.accelerator.device)) if saved["pending"] is not None else []
        checkpoint.set_rng_state(saved["rng"][self.accelerator.process_index], self.accelerator.device)
        return False

    def _history_state(self) -> dict[str, Any]:
        h = self.history
        return {"rows": h.rows, "eval_rows": h.eval_rows, "seconds": h.seconds, "steps": h.steps}

    def save(self) -> None:
        """Write a checkpoint of this step. Nothing is written if a loss since the last row was not finite."""
        self._checked_pending()
        rng = gather_object([checkpoint.rng_state(self.accelerator.device)])
        if not self.accelerator.is_main_process:
            return
        payload = {
            "fingerprint": self.fingerprint,
            "history": self._history_state(),
            "model": checkpoint.weights(self.raw),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None,
            "ema": self.ema,
            "extras": self.extras,
            "pending": torch.stack(self.pending) if self.pending else None,
            "rng": rng,
        }
        checkpoint.write(checkpoint.step_file(self.folder, self.history.steps), payload)
        checkpoint.prune(self.folder, self.keep)

    def finish(self) -> None:
        """Give the model its final weights, write ``finished.pt`` and delete the step files."""
        if self.ema is not None:
            torch._foreach_copy_([p.detach() for p in self.params], self.ema)
        self.optimizer.zero_grad()
        if self.accelerator.is_main_process:
            payload = {"fingerprint": self.fingerprint, "history": self._history_state(), "model": checkpoint.weights(self.raw)}
            checkpoint.write(self.folder / checkpoint.FINISHED, payload)
            checkpoint.prune(self.folder, 0)
        self.accelerator.wait_for_everyone()

    # --- the loop

    def train(self, checkpoint_every: int | None, checkpoint_s: float | None) -> None:
        options, history = self.options, self.history
        progress = Progress(self.folder.name, options.num_steps, history.steps, enabled=self.accelerator.is_main_process)
        saved_at = began = time.monotonic()
        try:
            with StopSignal() as stop:
                while history.steps < options.num_steps:
                    self.step()
                    last = history.steps == options.num_steps
                    logs = last or history.steps % options.log_every == 0
                    if logs:
                        self.log()
                        progress.update(history.steps, history.rows[-1]["loss"])
                    now = time.monotonic()
                    history.seconds += now - began
                    if self.evaluate_fn and (last or options.evaluate_every and history.steps % options.evaluate_every == 0):
                        self.evaluate()
                    late = checkpoint_s is not None and time.monotonic() - saved_at >= checkpoint_s
                    due = bool(checkpoint_every) and history.steps % checkpoint_every == 0
                    if not last and (due or self._agreed(late or stop.received is not None, logs)):
                        self.save()
                        saved_at = time.monotonic()
                        stop.leave()
                    began = time.monotonic()
                self.finish()
                stop.leave()
        finally:
            progress.close()

    def step(self) -> None:
        """One optimiser update: ``accumulation`` micro-steps on this process, then clip, AdamW, schedule, EMA."""
        accelerator, options = self.accelerator, self.options
        total: Tensor | None = None
        for micro in range(options.accumulation):
            i = (self.history.steps * options.accumulation + micro) * accelerator.num_processes + accelerator.process_index
            batch = send_to_device(self.batches(i), accelerator.device)
            with accelerator.accumulate(self.model):
                value, values = self._losses(batch)
                accelerator.backward(value)
            total = values if total is None else total + values
        limit = options.grad_clip if options.grad_clip is not None else math.inf
        norm = accelerator.clip_grad_norm_(self.params, limit)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.update_ema(self.ema, self.params, None)
        total = total / options.accumulation
        self.pending.append(torch.cat([total[:1], norm.detach().reshape(1).to(total), total[1:]]))
        self.history.steps += 1

    def _losses(self, batch: Any) -> tuple[Tensor, Tensor]:
        """The loss of one micro-step, and it with its extras as one detached vector."""
        out = self.loss(self.model, batch)
        value, extras = out if isinstance(out, tuple) else (out, {})
        if self.extras is None:
            self.extras = list(extras)
        if list(extras) != self.extras:
            raise TrainingError(f"fit: the loss logged {list(extras)} after {self.extras}; it must log the same names always")
        if value.ndim != 0:
            raise TrainingError(f"fit: the loss has shape {list(value.shape)}; it must be a scalar")
        values = [value.detach(), *(torch.as_tensor(extras[name], device=value.device).detach() for name in self.extras)]
        return value, torch.stack([v.float() for v in values])

    def _checked_pending(self) -> Tensor | None:
        """``pending`` as (updates, 2 + extras), averaged over processes; raises at the first loss that is not finite."""
        if not self.pending:
            return None
        table = reduce(torch.stack(self.pending), reduction="mean").cpu()
        watched = table[:, :1] if self.accelerator.scaler is not None else table[:, :2]  # fp16 skips infinite gradients
        bad = (~torch.isfinite(watched)).any(dim=1).nonzero()
        if len(bad):
            row = int(bad[0])
            step = self.history.steps - len(self.pending) + row + 1
            what = "loss" if not math.isfinite(table[row, 0]) else "gradient norm"
            value = table[row, 0 if what == "loss" else 1].item()
            raise TrainingError(
                f"fit: the {what} is {value} at update {step} of {self.options.num_steps} in {self.folder.name!r}; nothing "
                f"was saved after it. Lower lr ({self.options.lr}), set grad_clip, or use precision='fp32'."
            )
        return table

    def log(self) -> None:
        """Close the row of the updates since the last one."""
        means = self._checked_pending().double().mean(dim=0).tolist()
        step = self.history.steps
        row = {"step": step, "loss": means[0], "lr": self.options.lr * _factor(step - 1, self.options), "grad_norm": means[1]}
        self.history.rows.append(row | dict(zip(self.extras or [], means[2:], strict=True)))
        self.pending = []

    def evaluate(self) -> None:
        """Append one row of ``evaluate``; weights, mode and random states are afterwards as they were before."""
        trained = [p.detach() for p in self.params]
        backup = [p.clone() for p in trained] if self.ema is not None else None
        try:
            if self.ema is not None:
                torch._foreach_copy_(trained, self.ema)
            self.raw.eval()
            with torch.no_grad(), checkpoint.forked_rng(self.options.seed, self.accelerator.device):
                metrics = self.evaluate_fn(self.raw, self.history.steps)
        finally:
            if backup is not None:
                torch._foreach_copy_(trained, backup)
            self.raw.train()
        self.history.eval_rows.append({"step": self.history.steps} | {k: float(v) for k, v in metrics.items()})

    def _agreed(self, wish: bool, logs: bool) -> bool:
        """The main process's wish, on all processes. Several processes talk about it at log steps only."""
        if self.accelerator.num_processes == 1:
            return wish
        return logs and bool(broadcast(torch.tensor(int(wish), device=self.accelerator.device)).item())


def _factor(step: int, options: _Options) -> float:
    """Learning rate of update ``step`` (from 0) as a part of the peak: warm-up, then the schedule."""
    if step < options.warmup_steps:
        return (step + 1) / options.warmup_steps
    if options.schedule == "constant":
        return 1.0
    done = min(1.0, (step - options.warmup_steps) / max(1, options.num_steps - options.warmup_steps))
    return 1.0 - done if options.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


def shuffled(
    dataset_len: int, batch_size: int, *, seed: int, num_processes: int = 1, rank: int = 0
) -> Callable[[int], LongTensor]:
    """Indices of batch ``i``: epochs without replacement, one after the other, as a pure function of ``i``.

    Batches run on over the end of an epoch, so every index comes once per ``dataset_len`` draws. ``fit`` asks for global
    micro-steps and needs neither ``num_processes`` nor ``rank``; with them, batch ``i`` is ``i * num_processes + rank``.
    Raises :class:`TrainingError` unless 1 <= batch_size <= dataset_len."""
    if not 1 <= batch_size <= dataset_len:
        raise TrainingError(f"shuffled: batch_size is {batch_size}; it must be from 1 to the data set's length ({dataset_len})")
    if not 0 <= rank < num_processes:
        raise TrainingError(f"shuffled: rank is {rank}; it must be from 0 to num_processes - 1 ({num_processes - 1})")

    @lru_cache(maxsize=2)
    def order(epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
        return torch.randperm(dataset_len, generator=generator)

    def indices(i: int) -> LongTensor:
        begin = (i * num_processes + rank) * batch_size
        epoch, offset = divmod(begin, dataset_len)
        head = order(epoch)[offset : offset + batch_size]
        rest = batch_size - len(head)
        return torch.cat([head, order(epoch + 1)[:rest]]) if rest else head.clone()

    return indices
