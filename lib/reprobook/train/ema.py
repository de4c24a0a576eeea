"""The exponential moving average of the weights: ``average = decay * average + (1 - decay) * weights``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch.optim.swa_utils import get_ema_multi_avg_fn

from reprobook.train import shards
from reprobook.train.options import TrainingError

if TYPE_CHECKING:
    from torch import Tensor, nn


class Average:
    """The average of ``params``, from their values now on. Raises :class:`TrainingError` for a decay out of [0, 1)."""

    def __init__(self, params: Sequence[nn.Parameter], decay: float) -> None:
        if not 0 <= decay < 1:
            raise TrainingError(f"fit: ema_decay is {decay!r}; it must be in [0, 1) or None")
        self.params = params
        self.values = [p.detach().clone() for p in params]
        self._update = get_ema_multi_avg_fn(decay)

    def update(self) -> None:
        """Count the weights of one more update."""
        self._update(self.values, self.params, None)

    def restore(self, saved: Sequence[Tensor]) -> None:
        """Go on from the averages of a checkpoint (whole tensors)."""
        pairs = zip(saved, self.values, strict=True)
        shards.copy(self.values, [shards.like(t.to(own.device), own) for t, own in pairs])

    def keep(self) -> None:
        """Give the model the average for good."""
        shards.copy([p.detach() for p in self.params], self.values)

    @contextmanager
    def in_model(self) -> Iterator[None]:
        """The model has the average inside the block, and its own weights after it."""
        trained = [p.detach() for p in self.params]
        backup = [p.clone() for p in trained]
        try:
            self.keep()
            yield
        finally:
            shards.copy(trained, backup)
