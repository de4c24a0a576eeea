"""The loss that teaches the Region Focus Module to attend as the language model does (Section 4), in two readings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch.nn import functional as F

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from torch import Tensor

STYLES = ("paper", "code")


def first_and_last(layers: Sequence[Tensor]) -> list[Tensor]:
    """Of K pairs of layers those that are distilled (Section 5.1; the released code skips the ones between, too): the
    first and the last, or the only one. The blocks between learn through the last."""
    return list(layers) if len(layers) < 3 else [layers[0], layers[-1]]


def distillation(
    teacher: Sequence[Tensor], student: Sequence[Tensor], vision: Tensor, local: Tensor, *, style: str = "paper",
    weights: tuple[float, float, float] = (2.0, 1.0, 1.0), turns: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Attention logits (B, H, Q, T) of K pairs of layers; ``vision`` and ``local``: places of those tokens.

    ``paper``: (1 / KH) sum over pairs and heads of l_mse MSE(A^hr) + l_kl [KL(A) + l_hr KL(A^hr)], teacher first, A the
    softmax over vision tokens and A^hr over local ones; ``weights`` are l_hr, l_mse, l_kl (2, 1, 1).
    ``code``: the mean of three terms: KL of the softmax over the *whole* sequence without causal mask, KL over local
    tokens of logits / 2, and the MSE of those halved *logits*; weights do not count.
    ``turns`` (B, Q): which questions count (all). Means are taken over turns."""
    if style not in STYLES:
        raise ReprobookError(f"loss style must be one of {', '.join(STYLES)}, got {style!r}")
    l_hr, l_mse, l_kl = weights
    total = teacher[0].new_zeros(())
    for tea, stu in zip(teacher, student, strict=True):
        t, s = ((each if turns is None else each.transpose(1, 2)[turns][:, :, None]).float() for each in (tea, stu))
        t = t.detach()
        t_hr, s_hr = t[..., local], s[..., local]
        if style == "paper":
            kl = _kl(t[..., vision], s[..., vision]) + l_hr * _kl(t_hr, s_hr)
            mse = (s_hr.softmax(-1) - t_hr.softmax(-1)).square().mean()
            total = total + l_kl * kl + l_mse * mse
        else:
            total = total + (_kl(t, s) + _kl(t_hr / 2, s_hr / 2) + F.mse_loss(s_hr / 2, t_hr / 2)) / 3
    return total / len(teacher)


def _kl(t: Tensor, s: Tensor) -> Tensor:
    """KL(softmax t || softmax s), mean over all rows."""
    p, q = t.log_softmax(-1), s.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean()
