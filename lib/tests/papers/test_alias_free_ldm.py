"""The operators of alias-free diffusion against scipy, closed forms and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reprobook.errors import ReprobookError
from reprobook.papers.alias_free_ldm import operators as op
from reprobook.papers.alias_free_ldm.data import textures
from torch import nn

SIZES = [(8, 8), (7, 9), (8, 5), (12, 10)]
F64 = torch.float64


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def without_nyquist(x):
    """``x`` without its Nyquist bins (even lengths)."""
    for axis in (-2, -1):
        n = x.shape[axis]
        if n % 2 == 0:
            s = torch.fft.fft(x, dim=axis)
            s.narrow(axis, n // 2, 1).zero_()
            x = torch.fft.ifft(s, dim=axis).real
    return x


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("factor", [2, 3, 4, 8])
@pytest.mark.parametrize("method", ["fft", "matrix"])
def test_upsampling_interpolates_and_equals_scipy(size, factor, method):
    x = noise(2, *size)
    up = op.ideal_upsample(x, factor, method)
    assert torch.allclose(up[..., ::factor, ::factor], x, atol=1e-12)
    theirs = x.numpy()
    for axis in (-2, -1):
        theirs = scipy.signal.resample(theirs, factor * x.shape[axis], axis=axis)
    assert np.allclose(up, theirs, atol=1e-12)


@pytest.mark.parametrize(("size", "factor"), [((8, 12), 2), ((10, 6), 2), ((12, 9), 3), ((16, 8), 4)])
@pytest.mark.parametrize("method", ["fft", "matrix"])
def test_downsampling_equals_scipy_once_the_new_nyquist_bin_is_gone(size, factor, method):
    x = noise(3, *size)
    ours = op.ideal_downsample(x, factor, method)
    theirs = x.numpy()
    for axis in (-2, -1):
        theirs = scipy.signal.resample(theirs, x.shape[axis] // factor, axis=axis)
    assert np.allclose(ours, without_nyquist(torch.from_numpy(theirs)), atol=1e-12)


def test_downsampling_is_the_released_mask_then_decimation():
    x, n = noise(16, 20), np.array([16, 20])
    masks = []
    for m in n:  # |f| < N/4, the bin at N/4 is zero
        f = np.abs(np.fft.fftfreq(m) * m)
        masks.append((f < m / 4).astype(float))
    filtered = np.fft.ifft2(np.fft.fft2(x) * np.outer(*masks)).real
    assert np.allclose(op.ideal_downsample(x), filtered[::2, ::2], atol=1e-12)


def test_what_lies_above_the_new_band_vanishes_but_plain_decimation_aliases():
    n = torch.arange(32, dtype=F64)
    wave = torch.cos(2 * math.pi * 11 * n / 32).expand(32, 32)  # above 8
    assert op.ideal_downsample(wave).abs().max() < 1e-12
    assert torch.allclose(wave[::2, ::2], torch.cos(2 * math.pi * 5 * n[::2] / 32).expand(16, 16))  # 16 - 11


def test_upsampled_waves_are_the_waves():
    x = lambda n, f: torch.cos(2 * math.pi * f * torch.arange(n, dtype=F64) / n + 0.3)  # noqa: E731
    for n in (9, 16):
        coarse = x(n, 3)[:, None] * x(n, 2)[None]
        assert torch.allclose(op.ideal_upsample(coarse, 4), x(4 * n, 3)[:, None] * x(4 * n, 2)[None], atol=1e-12)


def test_the_filtered_square_of_a_wave_is_its_mean():
    n = torch.arange(8, dtype=F64)
    wave = torch.cos(2 * math.pi * 3 * n / 8).expand(8, 8)  # squared: 0.5 + half a wave of frequency 6, above 4
    assert torch.allclose(op.filtered(torch.square, wave), torch.full((8, 8), 0.5, dtype=F64), atol=1e-12)
    assert (wave.square() - 0.5).abs().max() > 0.4


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 13), st.integers(2, 13), st.integers(0, 99), st.integers(-20, 20), st.integers(-20, 20))
def test_shifts_compose_and_whole_ones_are_rolls(h, w, seed, a, b):
    x = without_nyquist(noise(h, w, seed=seed))
    d, e = (a / 8 % h * 0.9, b / 8 % w * 0.9), (0.05 * h, -0.05 * w)
    both = op.circular_shift(op.circular_shift(x, d), e)
    assert torch.allclose(both, op.circular_shift(x, (d[0] + e[0], d[1] + e[1])), atol=1e-9)
    whole = (a % h, b % w)
    assert torch.equal(op.circular_shift(x, whole), x.roll(whole, (-2, -1)))


@pytest.mark.parametrize("size", SIZES)
def test_a_shift_equals_upsample_roll_decimate(size):
    x, u = noise(2, *size), 8
    for d in [(0.125, -0.5), (2.375, 1.0), (-1.75, 0.625)]:
        rolled = op.ideal_upsample(x, u).roll([round(each * u) for each in d], (-2, -1))
        assert torch.allclose(op.circular_shift(x, d), rolled[..., ::u, ::u], atol=1e-12)
        rows = torch.arange(size[0] * u)[:, None], torch.arange(size[1] * u)[None]
        for i, (each, n) in enumerate(zip(d, size, strict=True)):  # zero what wrapped, on the fine grid
            k = round(each * u)
            wrapped = (rows[i] < k) if k >= 0 else (rows[i] >= n * u + k)
            rolled = rolled.masked_fill(wrapped, 0.0)
        assert torch.allclose(op.cropped_shift(x, d), rolled[..., ::u, ::u], atol=1e-12)


def test_textures_are_shifted_exactly():
    sample = textures(3, (16, 12), 0.3, seed=1)
    for d in [(0.5, 0.25), (-3.125, 1.7)]:
        assert torch.allclose(op.circular_shift(sample((0, 0)), d), sample(d), atol=1e-5)
    with pytest.raises(ReprobookError, match="max_frequency"):
        textures(1, (8, 8), 0.5)


def test_a_circular_convolution_commutes_with_every_shift():
    conv = nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular").double()
    x = without_nyquist(noise(1, 3, 9, 8))
    for d in [(0.3, 1.7), (-2.5, 0.01)]:
        assert torch.allclose(conv(op.circular_shift(x, d)), op.circular_shift(conv(x), d), atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 12), st.integers(3, 12), st.floats(-0.6, 0.6), st.floats(-0.6, 0.6))
def test_a_mask_counts_what_is_valid(h, w, a, b):
    d = (a * h, b * w)
    mask = op.valid_mask((h, w), d)
    assert mask.shape == (1, 1, h, w)
    assert mask.sum() == (h - math.ceil(abs(d[0]))) * (w - math.ceil(abs(d[1])))
    assert bool((mask[0, 0, -1, -1] == 1) == (d[0] >= 0 and d[1] >= 0))
    inside = op.cropped_shift(torch.ones(h, w, dtype=F64), d)  # no valid sample was zeroed
    assert torch.allclose(inside[mask[0, 0] == 1], torch.ones((), dtype=F64))


def test_masked_error_and_psnr_by_hand():
    a, b = torch.zeros(2, 3, 2, 2), torch.zeros(2, 3, 2, 2)
    a[0, :, 0, 0], a[1, 0, 0, 1] = 2.0, 4.0
    mask = torch.tensor([[1.0, 1.0], [0.0, 0.0]])[None, None]
    assert op.mask_mse(a, b, mask) == pytest.approx((3 * 4 / 6 + 16 / 6) / 2)  # 2 pixels x 3 channels each
    assert op.spsnr(a, b, mask).tolist() == pytest.approx(
        [10 * math.log10(4 / 2), 10 * math.log10(16 / (16 / 6))], abs=1e-5
    )
    changed = a.clone()
    changed[..., 1, :] = 1e3  # outside
    assert op.mask_mse(changed, b, mask) == op.mask_mse(a, b, mask)
    assert torch.equal(op.spsnr(changed, b, mask), op.spsnr(a, b, mask))
    assert op.mask_mse(a, a, mask) == 0
    assert op.spsnr(a, a, mask).isinf().all()


def test_equal_constants_are_infinitely_alike_and_a_mask_of_nothing_is_an_error():
    """R^2 / 0 whatever R is; two constants c apart differ by R = c, which is 10 log10(1) = 0 dB."""
    flat, ones = torch.full((3, 1, 4, 4), 0.25), torch.ones(3, 1, 4, 4)
    other = flat.clone()
    other[1] += 0.5
    assert op.spsnr(flat, other, ones).tolist() == [math.inf, 0.0, math.inf]
    other[1, 0, 0, 0] = 0.25
    ones[1, 0, 0, 1:] = ones[1, 0, 1:] = 0  # now equal where the mask is one
    assert op.spsnr(flat, other, ones).tolist() == [math.inf] * 3 and op.mask_mse(flat, other, ones) == 0
    ones[1] = 0
    for mask in (ones, torch.zeros(1, 1, 4, 4)):
        for measure in (op.mask_mse, op.spsnr):
            with pytest.raises(ReprobookError, match="leaves no sample to compare"):
                measure(flat, other, mask)
    for measure in (op.mask_mse, op.spsnr):
        with pytest.raises(ReprobookError, match="one shape and not empty"):
            measure(flat[:0], other[:0], ones[:1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    x = noise(1, 2, 6, 10).to(dtype)
    for call in (op.ideal_upsample, op.ideal_downsample, lambda t: op.circular_shift(t, (0.5, 1.25))):
        ours = call(x)
        assert ours.dtype == dtype
        assert torch.equal(ours, call(x.float()).to(dtype))
        assert torch.allclose(ours.double(), call(x.double()), rtol=torch.finfo(dtype).eps, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):  # matrix products must not fall to half inside
        inside = op.ideal_upsample(x.float(), 2, "matrix").double()
    assert torch.allclose(inside, op.ideal_upsample(x.double()), atol=1e-5)


def test_gradients_pass_through_both_methods():
    for method in ("fft", "matrix"):
        x = noise(1, 1, 6, 4).requires_grad_()
        assert torch.autograd.gradcheck(lambda t, m=method: op.filtered(torch.tanh, t, m), x)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: op.ideal_downsample(torch.zeros(1, 1, 7, 8)), "height 7"),
        (lambda: op.ideal_upsample(torch.zeros(8)), "two axes"),
        (lambda: op.ideal_upsample(torch.zeros(4, 4, dtype=torch.int64)), "int64"),
        (lambda: op.ideal_upsample(torch.zeros(4, 4), 0), "factor"),
        (lambda: op.ideal_upsample(torch.zeros(4, 4), 2, "magic"), "magic"),
        (lambda: op.circular_shift(torch.zeros(4, 6), (0, 6)), "width 6"),
        (lambda: op.cropped_shift(torch.zeros(4, 6), (-9.5, 0)), "height 4"),
        (lambda: op.circular_shift(torch.zeros(4, 6), (math.nan, 0)), "finite"),
        (lambda: op.valid_mask((4, 4), (3.5, 0)), "no whole sample"),
        (lambda: op.mask_mse(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4), torch.ones(1, 1, 4, 5)), "does not fit"),
        (lambda: op.spsnr(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4), torch.ones(1, 3, 4, 4)), "does not fit"),
        (lambda: op.mask_mse(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 3), torch.ones(1, 1, 4, 4)), "one shape"),
        (lambda: op.spsnr(torch.full((1, 1, 2, 2), math.nan), torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)), "NaN"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, words):
    with pytest.raises(ReprobookError, match=words):
        call()
