"""The state of one training run and its steps: what :func:`reprobook.train.fit` drives."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import DistributedType, broadcast, gather_object, send_to_device
from torch.optim.lr_scheduler import LambdaLR

from reprobook.train import checkpoint, shards
from reprobook.train.devices import precision_name
from reprobook.train.options import History, TrainingError, lr_factor
from reprobook.train.progress import Progress, StopSignal
from reprobook.train.rows import Rows

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor, nn

    from reprobook.train.ema import Average
    from reprobook.train.muon import Muon
    from reprobook.train.options import Evaluate, Loss, Options

DATA_PARALLEL = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
EVALUATION_STREAM = 7919  # added to the seed in evaluations: their noise is not the training's


class Run:
    """The state of one fit: what a checkpoint holds, and the steps that change it.

    ``average`` and ``muon`` are the classes of what a fit may have beside AdamW (None: it has not)."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        batches: Callable[[int], Any],
        loss: Loss,
        evaluate: Evaluate | None,
        options: Options,
        folder: Path,
        keep: int,
        average: type[Average] | None,
        muon: type[Muon] | None,
    ) -> None:
        self.accelerator, self.raw = accelerator, model
        self.batches, self.loss, self.evaluate_fn = batches, loss, evaluate
        self.options, self.folder, self.keep = options, folder, keep
        if accelerator.distributed_type not in DATA_PARALLEL:
            kind = accelerator.distributed_type.value
            raise TrainingError(f"fit: launched with {kind}; launch it with reprobook.train.launch, or as one process")
        shown = asdict(options) | {"precision": precision_name(accelerator), "num_processes": accelerator.num_processes}
        self.fingerprint = checkpoint.fingerprint(shown, model)
        self.sharded = shards.shard(model, accelerator.device)
        if self.sharded and accelerator.scaler is not None:
            raise TrainingError("fit: precision 'fp16' can't be sharded: use 'bf16', or strategy 'ddp'")
        self.params = [p for p in model.parameters() if p.requires_grad]
        if not self.params:
            raise TrainingError("fit: the model has no trainable parameters (requires_grad is False everywhere)")
        self.model = accelerator.prepare_model(model.train(), evaluation_mode=self.sharded)  # no DDP around shards
        fused = accelerator.device.type in ("cpu", "cuda") and accelerator.scaler is None
        plain = not self.sharded and accelerator.scaler is None
        self.muon = muon(model, self.params, options, plain=plain) if muon else None
        inner = {id(p) for p in self.muon.matrices} if self.muon else set()
        adamw = torch.optim.AdamW(
            [p for p in self.params if id(p) not in inner],
            lr=options.lr,
            betas=options.betas,
            eps=options.eps,
            weight_decay=options.weight_decay,
            fused=fused,
        )
        # accelerate's wrapper of the optimiser is for fp16's loss scaling; without it AdamW alone saves 0.3 ms a step
        self.optimizer = adamw if accelerator.scaler is None else accelerator.prepare_optimizer(adamw)
        self.scheduler = LambdaLR(adamw, lambda step: lr_factor(step, options))
        self.ema = average(self.params, options.ema_decay or 0.0) if average else None
        self.history = History()
        self.rows = Rows(folder.name, options, scaled=accelerator.scaler is not None)

    # --- checkpoints

    def resume(self) -> bool:
        """Load the newest checkpoint if there is one; True if the fit was already finished."""
        self.accelerator.wait_for_everyone()
        saved = checkpoint.newest(self.folder)
        found = gather_object([-1 if saved is None else saved["history"]["steps"]])
        if len(set(found)) > 1:
            raise TrainingError(
                f"fit: the processes see different checkpoints in {self.folder}; it must be shared by all"
            )
        if saved is None:
            return False
        checkpoint.check_fingerprint(saved["fingerprint"], self.fingerprint, self.folder)
        checkpoint.load_weights(self.raw, shards.spread(saved["model"], self.raw.state_dict()))
        self.history = History(**saved["history"], resumed_from=saved["history"]["steps"])
        if "optimizer" not in saved:
            if self.accelerator.is_main_process:
                checkpoint.prune(self.folder, 0)  # a kill may have come between the last write and this
            return True
        self.optimizer.load_state_dict(self._spread_moments(saved["optimizer"]))
        self.scheduler.load_state_dict(saved["scheduler"])
        if self.muon:
            self.muon.restore(saved)
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        if self.ema:
            self.ema.restore(saved["ema"])
        own = saved["processes"][self.accelerator.process_index]
        self.rows.restore(own["pending"], saved["extras"], self.accelerator.device)
        checkpoint.set_rng_state(own["rng"], self.accelerator.device)
        return False

    def _spread_moments(self, saved: dict[str, Any]) -> dict[str, Any]:
        """An optimiser's saved state with its moments sharded as their parameters are."""
        state = {
            i: {name: shards.like(t, self.params[i]) if t.ndim else t for name, t in moments.items()}
            for i, moments in saved["state"].items()
        }
        return {**saved, "state": state}

    def _history_state(self) -> dict[str, Any]:
        h = self.history
        return {"rows": h.rows, "eval_rows": h.eval_rows, "seconds": h.seconds, "steps": h.steps}

    def save(self) -> None:
        """Write a checkpoint of this step. Nothing is written if a loss since the last row was not finite."""
        pending = self.rows.pending
        if pending:
            self.rows.checked(self.history.steps)
        own = {"rng": checkpoint.rng_state(self.accelerator.device), "pending": [row.cpu() for row in pending]}
        processes = gather_object([own])
        trained = {
            "model": checkpoint.weights(self.raw),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.values if self.ema else None,
        }
        if self.sharded:
            trained = shards.whole(trained, "cpu")
        if not self.accelerator.is_main_process:
            return
        if self.muon:
            trained |= self.muon.state()
        payload = {
            "fingerprint": self.fingerprint,
            "history": self._history_state(),
            **trained,
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None,
            "extras": self.rows.extras,
            "processes": processes,
        }
        checkpoint.write(checkpoint.step_file(self.folder, self.history.steps), payload)
        checkpoint.prune(self.folder, self.keep)

    def finish(self) -> None:
        """Give the model its final weights, write ``finished.pt`` and delete the step files."""
        if self.ema:
            self.ema.keep()
        self.optimizer.zero_grad()
        weights = checkpoint.weights(self.raw)
        if self.sharded:
            weights = shards.whole(weights, "cpu")
        if self.accelerator.is_main_process:
            payload = {"fingerprint": self.fingerprint, "history": self._history_state(), "model": weights}
            checkpoint.write(self.folder / checkpoint.FINISHED, payload)
            checkpoint.prune(self.folder, 0)
        self.accelerator.wait_for_everyone()

    # --- the loop

    def train(self, checkpoint_every: int | None, checkpoint_s: float | None) -> None:
        """All updates that are left, with their rows, evaluations and checkpoints."""
        options, history = self.options, self.history
        progress = Progress(
            self.folder.name, options.num_steps, history.steps, enabled=self.accelerator.is_main_process
        )
        saved_at = began = time.monotonic()
        try:
            with StopSignal() as stop:
                while history.steps < options.num_steps:
                    self.step()
                    last = history.steps == options.num_steps
                    logs = last or history.steps % options.log_every == 0
                    if logs:
                        history.rows.append(self.rows.close(history.steps))
                        progress.update(history.steps, history.rows[-1]["loss"])
                    now = time.monotonic()
                    history.seconds += now - began
                    if self.evaluate_fn and (
                        last or (options.evaluate_every and history.steps % options.evaluate_every == 0)
                    ):
                        self.evaluate()
                    late = checkpoint_s is not None and time.monotonic() - saved_at >= checkpoint_s
                    due = checkpoint_every is not None and history.steps % checkpoint_every == 0
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
        """One optimiser update: ``accumulation`` micro-steps on this process, then clip, AdamW, Muon, schedule, EMA."""
        accelerator, options = self.accelerator, self.options
        total: Tensor | None = None
        for micro in range(options.accumulation):
            i = self.history.steps * options.accumulation + micro
            batch = self.batches(i * accelerator.num_processes + accelerator.process_index)
            batch = send_to_device(batch, accelerator.device)
            with accelerator.accumulate(self.model):
                value, values = self.rows.losses(self.loss(self.model, batch))
                accelerator.backward(value)
            total = values if total is None else total + values
        limit = options.grad_clip if options.grad_clip is not None else math.inf
        norm = shards.whole(accelerator.clip_grad_norm_(self.params, limit))
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        if self.muon:
            self.muon.step()
        if self.ema:
            self.ema.update()
        assert total is not None
        self.rows.add(total, norm)
        self.history.steps += 1

    def evaluate(self) -> None:
        """Append one row of ``evaluate``; weights, mode and random states are afterwards as they were before."""
        assert self.evaluate_fn is not None
        seed = self.options.seed + EVALUATION_STREAM
        try:
            with self.ema.in_model() if self.ema else nullcontext():
                self.raw.eval()
                with torch.no_grad(), checkpoint.forked_rng(seed, self.accelerator.device):
                    metrics = self.evaluate_fn(self.raw, self.history.steps)
        finally:
            self.raw.train()
        self.history.eval_rows.append({"step": self.history.steps} | {k: float(v) for k, v in metrics.items()})

    def _agreed(self, wish: bool, logs: bool) -> bool:
        """The main process's wish, on all processes. Several processes talk about it at log steps only."""
        if self.accelerator.num_processes == 1:
            return wish
        return logs and bool(broadcast(torch.tensor(int(wish), device=self.accelerator.device)).item())
