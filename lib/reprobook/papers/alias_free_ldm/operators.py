"""Ideal resampling, fractional shifts, valid masks and the shift-PSNR (Section 3 of the paper; released code).

An array is read as the samples of one period of a band-limited signal. All operators work on the last two axes, on
rectangular arrays, and compute in float32 or float64 whatever the input type (FFTs of half precision are inexact or
missing). T_D moves content by D = (down, right) samples, towards larger indices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from torch import Tensor

MATRIX_UP_TO = 64  # input lengths up to which a product of matrices beats the FFT (measured)
AXES = (-2, -1)


def _real(x: Tensor, what: str) -> Tensor:
    """``x`` in float32 (or float64), checked to be a real floating array with two axes at least."""
    if x.ndim < 2 or not x.is_floating_point():
        raise ReprobookError(
            f"{what} needs a floating-point array with at least two axes (..., H, W), got {x.dtype}, {list(x.shape)}"
        )
    return x if x.dtype == torch.float64 else x.float()


def _up(x: Tensor, axis: int, factor: int) -> Tensor:
    """One axis of :func:`ideal_upsample`: pad the spectrum; both signs share the Nyquist bin of an even length."""
    n = x.shape[axis]
    spectrum = torch.fft.rfft(x, dim=axis)
    if n % 2 == 0:
        weight = torch.ones(n // 2 + 1, dtype=x.dtype, device=x.device)
        weight[-1] = 0.5
        spectrum = spectrum * weight.view([-1 if a == axis % x.ndim else 1 for a in range(x.ndim)])
    return torch.fft.irfft(spectrum, n=factor * n, dim=axis) * factor


def _down(x: Tensor, axis: int, factor: int) -> Tensor:
    """One axis of :func:`ideal_downsample`: keep |f| below the new Nyquist frequency, whose own bin becomes zero."""
    n = x.shape[axis] // factor
    kept = torch.fft.rfft(x, dim=axis).narrow(axis, 0, (n - 1) // 2 + 1)
    return torch.fft.irfft(kept, n=n, dim=axis) / factor


@lru_cache(maxsize=256)
def _matrix(kind: str, n: int, factor: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The operator of one axis as a matrix (output length, n)."""
    with torch.inference_mode(False), torch.no_grad():
        apply = _up if kind == "up" else _down
        return apply(torch.eye(n, dtype=torch.float64), 0, factor).to(dtype=dtype, device=device)


def _resample(x: Tensor, kind: str, factor: int, method: str) -> Tensor:
    if not isinstance(factor, int) or factor < 1:
        raise ReprobookError(f"factor must be a whole number of at least 1, got {factor!r}")
    if method not in ("auto", "fft", "matrix"):
        raise ReprobookError(f"method must be auto, fft or matrix, got {method!r}")
    y = _real(x, f"ideal_{kind}sample")
    h, w = y.shape[-2:]
    if kind == "down" and (h % factor or w % factor):
        raise ReprobookError(f"ideal_downsample: height {h} and width {w} must be multiples of factor {factor}")
    if factor == 1:
        return x
    if method == "matrix" or (method == "auto" and max(h, w) <= MATRIX_UP_TO):
        plain = nullcontext() if y.is_meta else torch.autocast(y.device.type, enabled=False)
        with plain:  # half precision would lose what the filter is for
            rows, columns = (_matrix(kind, n, factor, y.dtype, y.device) for n in (h, w))
            y = rows @ (y @ columns.T)
    else:
        for axis in AXES:
            y = (_up if kind == "up" else _down)(y, axis, factor)
    return y.to(x.dtype)


def ideal_upsample(x: Tensor, factor: int = 2, method: str = "auto") -> Tensor:
    """``x`` (..., H, W) sampled ``factor`` times as densely: (..., factor H, factor W), for even and odd lengths.

    Zero insertion, then the ideal low-pass: |f| < N/2 is kept and, for even N, the bin N/2 weighs one half on either
    side. ``up(x)[::factor, ::factor] == x``. method: ``fft``; ``matrix``, the same operator as two matrix products,
    faster for short axes; ``auto`` chooses.
    """
    return _resample(x, "up", factor, method)


def ideal_downsample(x: Tensor, factor: int = 2, method: str = "auto") -> Tensor:
    """``x`` (..., H, W) low-passed to the new band and decimated: (..., H / factor, W / factor).

    Only |f| below the new Nyquist frequency is kept; the bin at it is zero. Lengths must be multiples of ``factor``
    (the *new* length may be odd); methods as in :func:`ideal_upsample`.
    """
    return _resample(x, "down", factor, method)


def filtered(activation: Callable[[Tensor], Tensor], x: Tensor, method: str = "auto") -> Tensor:
    """A pointwise ``activation`` whose new frequencies do not fold back: upsample by 2, apply, downsample by 2."""
    return ideal_downsample(activation(ideal_upsample(x, 2, method)), 2, method)


# --------------------------------------------------------------------------------------------------------------- shifts


def _checked_shift(shift: Sequence[float], size: Sequence[int]) -> tuple[float, float]:
    if len(shift) != 2 or not all(math.isfinite(d) for d in shift):
        raise ReprobookError(f"a shift is two finite numbers (down, right) in samples, got {shift!r}")
    for d, n, name in zip(shift, size, ("height", "width"), strict=True):
        if abs(d) >= n:
            raise ReprobookError(f"shift {d:g} leaves nothing of {name} {n}: it must be smaller")
    return float(shift[0]), float(shift[1])


def _shifted(x: Tensor, d: float, axis: int) -> Tensor:
    n = x.shape[axis]
    if d == round(d):
        return x.roll(int(d), axis)
    angle = torch.arange(n // 2 + 1, dtype=torch.float64) * (-2 * math.pi * d / n)
    ramp = torch.polar(torch.ones_like(angle), angle)
    if n % 2 == 0:
        ramp[-1] = math.cos(math.pi * d)  # both signs of the Nyquist frequency, half each
    ramp = ramp.to(torch.complex128 if x.dtype == torch.float64 else torch.complex64).to(x.device)
    shape = [-1 if a == axis % x.ndim else 1 for a in range(x.ndim)]
    return torch.fft.irfft(torch.fft.rfft(x, dim=axis) * ramp.view(shape), n=n, dim=axis)


def circular_shift(x: Tensor, shift: Sequence[float]) -> Tensor:
    """T_D of the periodic band-limited signal: ``x`` (..., H, W) moved by ``shift`` = (down, right) samples.

    Equals upsampling by u, rolling by u D and decimating, for D a multiple of 1/u. A whole shift is ``roll``."""
    down, right = _checked_shift(shift, x.shape[-2:])
    return _shifted(_shifted(_real(x, "circular_shift"), down, -2), right, -1).to(x.dtype)


def _inside(d: float, n: int, device: torch.device) -> Tensor:
    """Which of ``n`` samples came from inside the array, for a shift of ``d``."""
    i = torch.arange(n, device=device, dtype=torch.float64)
    return (i >= d) & (i < n + d)


def cropped_shift(x: Tensor, shift: Sequence[float]) -> Tensor:
    """:func:`circular_shift` with zeros where samples wrapped around."""
    down, right = _checked_shift(shift, x.shape[-2:])
    rows, columns = (_inside(d, n, x.device) for d, n in zip((down, right), x.shape[-2:], strict=True))
    return circular_shift(x, (down, right)).masked_fill(~(rows[:, None] & columns), 0.0)


def valid_mask(size: Sequence[int], shift: Sequence[float], device: torch.device | str = "cpu") -> Tensor:
    """Ones (1, 1, H, W) where both a shifted and an unshifted array are defined; ``size`` = (H, W), at the resolution
    that is compared. A shift t >= 0 loses the first ceil(t) rows, t < 0 the last \\|floor(t)\\|; columns likewise.
    Raises if nothing is left."""
    shift = _checked_shift(shift, size)
    mask = torch.ones(*size, device=device)
    for axis, d in enumerate(shift):
        lost = math.ceil(d) if d >= 0 else abs(math.floor(d))
        if lost >= size[axis]:
            raise ReprobookError(f"shift {d:g} leaves no whole sample of {size[axis]}")
        mask.narrow(axis, 0 if d >= 0 else size[axis] - lost, lost).zero_()
    return mask[None, None]


# -------------------------------------------------------------------------------------------------------------- metrics


def _pair(a: Tensor, b: Tensor, mask: Tensor, what: str) -> tuple[Tensor, Tensor, Tensor]:
    if a.ndim != 4 or a.shape != b.shape or not a.numel():
        raise ReprobookError(
            f"{what}: needs two arrays (N, C, H, W) of one shape and not empty, got {list(a.shape)} and {list(b.shape)}"
        )
    if (
        mask.ndim != 4
        or mask.shape[-2:] != a.shape[-2:]
        or any(m not in (1, n) for m, n in zip(mask.shape[:2], a.shape[:2], strict=True))
    ):
        raise ReprobookError(f"{what}: a mask {list(mask.shape)} does not fit {list(a.shape)}")
    if not (mask.flatten(1) > 0).any(1).all():
        raise ReprobookError(f"{what}: a mask leaves no sample to compare")
    return a.float(), b.float(), mask.float().expand_as(a)  # over all channels: their number is in the divisor


def mask_mse(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """Mean over the batch of sum((a - b)^2 M) / sum(M); ``a``, ``b`` (N, C, H, W), ``mask`` broadcasts to them.
    Raises on a mask without ones."""
    a, b, mask = _pair(a, b, mask, "mask_mse")
    return (((a - b).square() * mask).flatten(1).sum(1) / mask.flatten(1).sum(1)).mean()


def spsnr(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """Shift-PSNR of each sample (N,), dB: 10 log10(R^2 / mask_mse) with R the range of both arrays where M is one.

    ``a``: shift, then operate; ``b``: operate, then shift. Infinite for equal arrays, constant ones too. Raises on
    NaN and on a mask without ones."""
    a, b, mask = _pair(a, b, mask, "spsnr")
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise ReprobookError("spsnr: an array holds NaN or infinity")
    inside = torch.stack([a, b], 1).flatten(2), (mask > 0).unsqueeze(1).expand(-1, 2, -1, -1, -1).flatten(2)
    high = inside[0].masked_fill(~inside[1], -math.inf).flatten(1).amax(1)
    low = inside[0].masked_fill(~inside[1], math.inf).flatten(1).amin(1)
    error = ((a - b).square() * mask).flatten(1).sum(1) / mask.flatten(1).sum(1)
    return (10 * torch.log10((high - low).square() / error)).masked_fill(error == 0, math.inf)
