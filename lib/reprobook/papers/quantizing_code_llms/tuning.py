"""End-to-end tuning: the whole quantised model distilled from the 16-bit one, its codes frozen.

The teacher's last hidden states are kept, and its distribution over next tokens is what a frozen copy of the head makes
of them. The loss is KL(teacher || student), averaged over tokens; codebooks, scales and norms are tuned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional as F

from reprobook.errors import ReprobookError
from reprobook.nn.lm import preferred_dtype
from reprobook.papers.quantizing_code_llms.blocks import AqlmLinear, decoder_blocks, linears, mixed

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 256  # tokens whose logits are in memory at a time


@dataclass(frozen=True)
class Distillation:
    """Adam with betas 0.9 and 0.999; the defaults are the study's."""

    lr: float = 1e-5
    batch_size: int = 1
    max_epochs: int = 5
    patience: int = 3  # epochs without a better validation loss
    n_valid: int = 128  # of 1,024 samples

    def __post_init__(self) -> None:
        lowest = {"batch_size": 1, "max_epochs": 1, "patience": 1, "n_valid": 1}
        for name, low in lowest.items():
            if getattr(self, name) < low:
                raise ReprobookError(f"{name} is {getattr(self, name)}; it must be at least {low}")


class Epoch(NamedTuple):
    """Divergence (nats a token) in an epoch: mean over its steps, and that of each validation sequence at its end."""

    train: float
    valid: list[float]

    @property
    def mean(self) -> float:
        """The validation loss."""
        return sum(self.valid) / len(self.valid)


@torch.no_grad()
def last_hidden(model: Any, rows: Tensor, batch_size: int = 8) -> Tensor:
    """What the head gets, (n, L, width) in bf16 on the CPU: after the final norm."""
    with mixed(model, model.device):
        parts = [_hidden(model, part).to("cpu", torch.bfloat16) for part in rows.split(batch_size)]
    return torch.cat(parts)


def _hidden(model: Any, rows: Tensor) -> Tensor:
    return model.model(input_ids=rows.to(model.device), use_cache=False).last_hidden_state


class _Divergence(torch.autograd.Function):
    """KL under a frozen head, some tokens at a time: neither logits nor their gradients are kept for all tokens. The
    derivative in a token's student logits is q - p."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, head: Tensor) -> Tensor:
        total, gradients = student.new_zeros((), dtype=torch.float64), []
        for x, y in zip(student.split(CHUNK), teacher.split(CHUNK), strict=True):
            q, p = (F.linear(each.to(head.dtype), head).float() for each in (x, y))
            norms = q.logsumexp(1, keepdim=True), p.logsumexp(1, keepdim=True)
            gap = p - q
            p.sub_(norms[1]).exp_()
            total += (gap.mul_(p).sum(1) + (norms[0] - norms[1]).squeeze(1)).sum()
            q.sub_(norms[0]).exp_().sub_(p)
            gradients.append((q.to(head.dtype) @ head).to(student.dtype) / len(student))
        ctx.save_for_backward(torch.cat(gradients))
        return (total / len(student)).float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0] * ctx.saved_tensors[0], None, None


def divergence(head: Tensor, teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher || student) in nats, averaged over tokens, of hidden states (..., width) under ``head`` (V, width)."""
    return _Divergence.apply(student.flatten(0, -2), teacher.flatten(0, -2), head)


def distil(model: Any, rows: Tensor, teacher: Tensor, plan: Distillation, seed: int) -> list[Epoch]:
    """Tune codebooks, scales and norms of a quantised model in place; the best validation loss is kept.

    ``rows`` (n, L) tokens, ``teacher`` (n, L, width) from :func:`last_hidden` of the 16-bit model on the same rows.
    Returns every epoch, the start being the first. Raises
    :class:`ReprobookError` if nothing is quantised in AQLM's form or no rows are left to train on.
    """
    layers = [layer for block in decoder_blocks(model) for layer in linears(block).values()]
    if not any(isinstance(layer, AqlmLinear) for layer in layers):
        raise ReprobookError("no layer is in AQLM's form: there are no codebooks to tune")
    if len(rows) <= plan.n_valid or len(teacher) != len(rows):
        raise ReprobookError(
            f"{len(rows)} rows, {len(teacher)} of the teacher: as many, and more than n_valid {plan.n_valid}"
        )
    head = model.get_output_embeddings().weight.detach().to(preferred_dtype(model.device), copy=True)
    parameters = _tuned(model)
    wanted = {id(p) for p in parameters}
    before = {p: p.requires_grad for p in model.parameters()}
    for p in before:
        p.requires_grad_(id(p) in wanted)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(rows), generator=generator)
    valid, train = order[: plan.n_valid], order[plan.n_valid :]
    optimiser = torch.optim.Adam(parameters, lr=plan.lr, betas=(0.9, 0.999))

    def loss(picked: Tensor) -> Tensor:
        with mixed(model, model.device):
            student = _hidden(model, rows[picked])
        return divergence(head, teacher[picked].to(model.device), student)

    @torch.no_grad()
    def valid_loss() -> list[float]:
        return [loss(one).item() for one in valid.split(1)]

    history = [Epoch(float("nan"), valid_loss())]
    best, kept, bad = history[0].mean, [p.detach().clone() for p in parameters], 0
    for _ in range(plan.max_epochs):
        spent = []
        for part in train[torch.randperm(len(train), generator=generator)].split(plan.batch_size):
            optimiser.zero_grad()
            with torch.enable_grad():
                value = loss(part)
                value.backward()
            optimiser.step()
            spent.append(value.item())
        history.append(Epoch(sum(spent) / len(spent), valid_loss()))
        now = history[-1].mean
        bad = 0 if now < best else bad + 1
        if now < best:
            best, kept = now, [p.detach().clone() for p in parameters]
        if bad == plan.patience:
            break
    with torch.no_grad():
        for p, value in zip(parameters, kept, strict=True):
            p.copy_(value)
            p.grad = None
    for p, flag in before.items():
        p.requires_grad_(flag)
    return history


def _tuned(model: Any) -> list[torch.nn.Parameter]:
    """Codebooks, scales and the weights of norms."""
    found = [p for block in decoder_blocks(model) for layer in linears(block).values() if isinstance(layer, AqlmLinear)
             for p in (layer.codebooks, layer.scales)]  # fmt: skip
    return found + [p for name, p in model.named_parameters() if "norm" in name.rsplit(".", 2)[-2]]
