"""Muon for the matrices inside a network, beside AdamW for the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from reprobook.train.options import TrainingError, lr_factor

if TYPE_CHECKING:
    from reprobook.train.options import Options


class Muon:
    """``torch.optim.Muon`` with the schedule of the fit, over the matrices that are no embeddings.

    Raises :class:`TrainingError` for a rate that is not positive, and for a model without such matrices or with nothing
    else to train. ``plain`` is False with sharded weights and with fp16, where Muon can't be used.
    """

    def __init__(self, model: nn.Module, params: Sequence[nn.Parameter], options: Options, *, plain: bool) -> None:
        if options.muon_lr is None or not 0 < options.muon_lr < math.inf:
            raise TrainingError(f"fit: muon_lr is {options.muon_lr!r}; it must be a positive number or None")
        if not plain:
            raise TrainingError("fit: muon_lr can't be used with fp16 or with sharded weights: use 'bf16', or 'ddp'")
        tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        self.matrices = [p for p in params if p.ndim == 2 and id(p) not in tables]
        if not 0 < len(self.matrices) < len(params):
            raise TrainingError("fit: muon_lr needs a model with matrices besides embeddings, and with something else")
        self.optimizer = torch.optim.Muon(self.matrices, lr=options.muon_lr, weight_decay=options.weight_decay)
        self.scheduler = LambdaLR(self.optimizer, lambda step: lr_factor(step, options))

    def step(self) -> None:
        """One update from the gradients, which are then dropped."""
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {"muon": self.optimizer.state_dict(), "muon scheduler": self.scheduler.state_dict()}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self.optimizer.load_state_dict(saved["muon"])
        self.scheduler.load_state_dict(saved["muon scheduler"])
