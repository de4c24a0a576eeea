"""The chapter's experiments, as its cells call them: one layer's objective, loss on held-out text, quantised models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from reprobook.papers.quantizing_code_llms.blocks import mixed

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.papers.quantizing_code_llms.calibration import HeldOut


class Reading(NamedTuple):
    """What a model makes of rows (n, L): the loss (nats) of each next token and its first choice, both (n, L - 1)."""

    loss: np.ndarray
    choice: np.ndarray


@torch.no_grad()
def read(model: Any, rows: Tensor, batch_size: int = 4) -> Reading:
    """Loss and first choice at every place of ``rows``."""
    losses, choices = [], []
    for part in rows.split(batch_size):
        x = part.to(model.device)
        with mixed(model, model.device):
            logits = model(input_ids=x, use_cache=False).logits[:, :-1].float()
        target = logits.gather(2, x[:, 1:, None]).squeeze(2)
        losses.append((logits.logsumexp(2) - target).cpu().numpy())
        choices.append(logits.cpu().numpy().argmax(2))
    return Reading(np.concatenate(losses), np.concatenate(choices))


def by_file(values: np.ndarray, of: HeldOut) -> np.ndarray:
    """Means (files,) of values (rows, L - 1) over the windows of each file."""
    return values.reshape(len(of.names), -1).mean(1)
