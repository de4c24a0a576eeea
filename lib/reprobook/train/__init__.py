"""One training loop for all chapters, on accelerate: checkpoints, exact resume, EMA, mixed precision, many processes.

``fit`` trains a model on ``batches(i)``, a pure function of the micro-step index: the position in the data is the
step, so a killed run that starts again ends with the weights of a run that was never killed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from reprobook.train import checkpoint
from reprobook.train.devices import make_accelerator, plain_forward
from reprobook.train.ema import Average
from reprobook.train.muon import Muon
from reprobook.train.options import History, Options, TrainingError
from reprobook.train.run import Run

if TYPE_CHECKING:
    from torch import LongTensor, Tensor, nn

    from reprobook.train.options import Evaluate, Loss

__all__ = ["History", "TrainingError", "fit", "shuffled"]


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
    muon_lr: float | None = None,
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
    - ``evaluate(model, step)`` runs after every ``evaluate_every`` updates and after the last one, in eval mode,
      without gradients, under EMA weights if there are any, with all generators seeded from ``seed`` alone.
      With several processes it runs in each of them.
    - ``ema_decay``: weights are averaged as ``ema = decay * ema + (1 - decay) * weights`` after each update, from the
      initial weights on; on return the model has the average.
    - ``warmup_steps``: lr rises linearly to ``lr``; then ``constant``, or ``linear`` or ``cosine`` down to 0,
      or ``wsd``: constant, and over the last fifth of the updates half a cosine down to a tenth.
    - ``muon_lr``: the matrices inside the network are trained by Muon (``torch.optim.Muon``) with this peak rate, the
      same schedule and weight decay; embeddings (and an output that shares their weights) and vectors stay with AdamW
      and ``lr``. Not with fp16 or sharded weights.
    - ``precision="auto"``: bf16 autocast where the processor multiplies bf16, else fp32; weights keep their type.
    - A checkpoint is written every ``checkpoint_every`` updates and every ``checkpoint_s`` seconds (None: never) into
      ``folder``; the newest ``keep`` stay. Called again, ``fit`` goes on from the newest, bit-equal to a fit that was
      never interrupted; a finished fit is loaded, not repeated. Ctrl-C and SIGTERM save first; twice stops at once.

    The global random states on return are those on entry. Raises :class:`TrainingError` for wrong options and for a
    loss that is not finite, :class:`reprobook.train.checkpoint.CheckpointError` if ``folder`` belongs to another fit.
    """
    options = Options(
        num_steps,
        lr,
        seed,
        weight_decay,
        tuple(betas),  # type: ignore[arg-type]  # check() counts them
        eps,
        schedule,
        warmup_steps,
        grad_clip,
        accumulation,
        precision,
        ema_decay,
        evaluate_every,
        log_every,
        muon_lr,
    )
    options.check()
    if evaluate_every and not evaluate:
        raise TrainingError("fit: evaluate_every needs evaluate")
    if keep < 1 or (checkpoint_every is not None and checkpoint_every < 1):
        name, value = ("keep", keep) if keep < 1 else ("checkpoint_every", checkpoint_every)
        raise TrainingError(f"fit: {name} is {value}; it must be at least 1")
    accelerator = make_accelerator(device, precision, accumulation)
    with plain_forward(model), checkpoint.forked_rng(seed + accelerator.process_index, accelerator.device):
        run = Run(
            accelerator, model, batches, loss, evaluate, options, Path(folder), keep,
            average=Average if ema_decay is not None else None, muon=Muon if muon_lr is not None else None,
        )  # fmt: skip
        if not run.resume():
            run.train(checkpoint_every, checkpoint_s)
    model.eval()
    return run.history


def shuffled(
    dataset_len: int, batch_size: int, *, seed: int, num_processes: int = 1, rank: int = 0
) -> Callable[[int], LongTensor]:
    """Indices of batch ``i``: epochs without replacement, one after the other, as a pure function of ``i``.

    Batches run on over the end of an epoch, so every index comes once per ``dataset_len`` draws. ``fit`` asks for
    global micro-steps and needs neither ``num_processes`` nor ``rank``; with them, batch ``i`` of a rank is global
    batch ``i * num_processes + rank``.
    Raises :class:`TrainingError` unless 1 <= batch_size <= dataset_len."""
    if not 1 <= batch_size <= dataset_len:
        raise TrainingError(
            f"shuffled: batch_size is {batch_size}; it must be from 1 to the data set's length ({dataset_len})"
        )
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
        return torch.cat([head, order(epoch + 1)[:rest]]) if rest else head.clone()  # type: ignore[return-value]

    return indices
