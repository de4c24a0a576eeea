"""What a fit logs: loss, gradient norm and the loss's own extras, watched for values that are not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import reduce

from reprobook.train.options import TrainingError, lr_factor

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.train.options import Options


class Rows:
    """Updates since the last row. ``name`` is the fit's, ``scaled`` says whether fp16's loss scaling skips updates."""

    def __init__(self, name: str, options: Options, *, scaled: bool) -> None:
        self.name, self.options, self.scaled = name, options, scaled
        self.pending: list[Tensor] = []  # [loss, grad_norm, *extras] of the updates since the last row
        self.extras: list[str] | None = None

    def losses(self, out: Any) -> tuple[Tensor, Tensor]:
        """The loss of one micro-step, and it with its extras as one detached vector, from what the loss returned."""
        value, extras = out if isinstance(out, tuple) else (out, {})
        if self.extras is None:
            self.extras = list(extras)
        if list(extras) != self.extras:
            raise TrainingError(
                f"fit: the loss logged {list(extras)} after {self.extras}; it must log the same names always"
            )
        if value.ndim != 0:
            raise TrainingError(f"fit: the loss has shape {list(value.shape)}; it must be a scalar")
        values = [
            value.detach(),
            *(torch.as_tensor(extras[name], device=value.device).detach().reshape(()) for name in self.extras),
        ]
        return value, torch.stack([v.float() for v in values])

    def add(self, total: Tensor, norm: Tensor) -> None:
        """Keep one update: ``total`` is the sum of its micro-steps' vectors."""
        mean = total / self.options.accumulation
        self.pending.append(torch.cat([mean[:1], norm.detach().reshape(1).to(mean), mean[1:]]))

    def checked(self, step: int) -> Tensor:
        """(updates, 2 + extras) up to ``step``, averaged over processes; raises at the first that is not finite."""
        table = reduce(torch.stack(self.pending), reduction="mean").cpu()
        watched = table[:, :1] if self.scaled else table[:, :2]  # fp16 skips infinite gradients
        bad = (~torch.isfinite(watched)).any(dim=1).nonzero()
        if len(bad):
            row = int(bad[0])
            at = step - len(self.pending) + row + 1
            what = "loss" if not math.isfinite(table[row, 0]) else "gradient norm"
            value = table[row, 0 if what == "loss" else 1].item()
            raise TrainingError(
                f"fit: the {what} is {value} at update {at} of {self.options.num_steps} in {self.name!r}; "
                f"nothing was saved after it. Lower lr ({self.options.lr}), set grad_clip, or use precision='fp32'."
            )
        return table

    def close(self, step: int) -> dict[str, float]:
        """The row of the updates since the last one."""
        means = self.checked(step).double().mean(dim=0).tolist()
        self.pending = []
        row = {
            "step": step, "loss": means[0], "lr": self.options.lr * lr_factor(step - 1, self.options),
            "grad_norm": means[1],
        }  # fmt: skip
        return row | dict(zip(self.extras or [], means[2:], strict=True))

    def restore(self, pending: Sequence[Tensor], extras: list[str] | None, device: torch.device) -> None:
        """Go on from a checkpoint."""
        self.pending, self.extras = [row.to(device) for row in pending], extras
