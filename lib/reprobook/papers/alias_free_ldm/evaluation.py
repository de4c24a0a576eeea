"""Shift-PSNR of autoencoders and of samplers, a proxy for image quality, and the warp test with optical flow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from reprobook.errors import ReprobookError
from reprobook.papers.alias_free_ldm.operators import circular_shift, cropped_shift, spsnr, valid_mask
from reprobook.papers.alias_free_ldm.sampling import denoise

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reprobook.papers.alias_free_ldm.attention import Memory
    from reprobook.papers.alias_free_ldm.models import Latents


def offsets(n: int, side: int, k: int, seed: int, max_shift: float = 0.375) -> list[tuple[float, float]]:
    """``n`` shifts in latent samples, multiples of 1/k, drawn as in training, at least one axis not whole."""
    rng, m, found = np.random.default_rng(seed), int(max_shift * side), []
    while len(found) < n:
        drawn = rng.integers(-m, m + 1, 2)
        if (drawn % k).any():
            found.append((float(drawn[0] / k), float(drawn[1] / k)))
    return found


def decoder_spsnr(latents: Latents | Blurred, z: Tensor, shift: Sequence[float], k: int) -> Tensor:
    """SPSNR (N,) of Dec(T_D z) against T_kD Dec(z); ``shift`` D in latent samples, cropped shifts."""
    large = [k * d for d in shift]
    y = latents.decode(z)
    return spsnr(
        latents.decode(cropped_shift(z, shift)), cropped_shift(y, large), valid_mask(y.shape[-2:], large)
    )  # fmt: skip


def encoder_spsnr(latents: Latents, x: Tensor, shift: Sequence[float], k: int) -> Tensor:
    """SPSNR (N,) of E(T_kD x) against T_D E(x); ``shift`` D in latent samples, cropped shifts."""
    z = latents.encode(x)
    moved = latents.encode(cropped_shift(x, [k * d for d in shift]))
    return spsnr(moved, cropped_shift(z, shift), valid_mask(z.shape[-2:], shift))


@dataclass
class Shifted:
    """Latent and image SPSNR of a sampler, (offsets, N) each, dB, and its images: ``reference`` (N, 3, H, W) and
    ``moved`` (offsets, N, 3, H, W)."""

    latent: Tensor
    image: Tensor
    reference: Tensor
    moved: Tensor


def sampler_spsnr(
    unet: nn.Module, latents: Latents, noise: Tensor, shifts: Sequence[Sequence[float]], n_steps: int, k: int,
    memory: Memory | None = None,
) -> Shifted:  # fmt: skip
    """Sample from ``noise`` (N, 4, h, w) and from noise shifted by each D (latent samples, circular), compare.

    With a ``memory`` the shifted samples attend to the unshifted one (CFA at inference)."""
    around = {} if memory is None else {"around": memory.store}
    z = denoise(unet, noise, n_steps, **around)
    y, latent, image, images = latents.decode(z), [], [], []
    around = {} if memory is None else {"around": memory.load}
    for shift in shifts:
        large = [k * d for d in shift]
        moved = denoise(unet, circular_shift(noise, shift), n_steps, **around)
        decoded = latents.decode(moved)
        latent.append(spsnr(moved, circular_shift(z, shift), valid_mask(z.shape[-2:], shift)))
        images.append(decoded)
        image.append(spsnr(decoded, circular_shift(y, large), valid_mask(y.shape[-2:], large)))
    if memory is not None:
        memory.clear()
    return Shifted(torch.stack(latent), torch.stack(image), y, torch.stack(images))


class Blurred:
    """An autoencoder whose images are blurred by a Gaussian of ``sigma`` pixels (scipy's filter): a control. Blur
    hides differences, so it raises SPSNR without making anything equivariant."""

    def __init__(self, latents: Latents, sigma: float) -> None:
        self.latents, self.sigma = latents, sigma

    def encode(self, images: Tensor) -> Tensor:
        """The latents of the plain model."""
        return self.latents.encode(images)

    def decode(self, z: Tensor) -> Tensor:
        """The pictures of the plain model, blurred."""
        from scipy.ndimage import gaussian_filter

        sharp = self.latents.decode(z).float().numpy()
        return torch.from_numpy(gaussian_filter(sharp, self.sigma, mode="nearest", axes=(2, 3)))


def blurred_to(latents: Latents, images: Tensor, psnr: float) -> Blurred:
    """The strongest blur, 0 to 6 pixels in steps of 1/8, with which the PSNR of the reconstructed ``images``
    (N, 3, H, W) is still ``psnr`` dB; no blur if even the sharp ones do not reach it."""
    z, whole = latents.encode(images), torch.ones(1, 1, *images.shape[-2:])
    blurs = [Blurred(latents, sigma / 8) for sigma in range(49)]
    return next((b for b in reversed(blurs) if spsnr(b.decode(z), images, whole).mean() >= psnr), blurs[0])


# -------------------------------------------------------------------------------------------------------------- quality


class Features:
    """What the proxy distance looks at: 16 principal components of the pixels (scikit-learn) and the log energy in
    eight rings of the grey spectrum, so that blur counts. Fitted on real images (N, 3, H, W). This is not FID."""

    def __init__(self, images: Tensor, n_components: int = 16, n_rings: int = 8) -> None:
        from sklearn.decomposition import PCA

        if len(images) <= n_components:
            raise ReprobookError(f"features need more than {n_components} images, got {len(images)}")
        self.pca = PCA(n_components, random_state=0).fit(images.flatten(1).float().numpy())
        self.unit = float(np.sqrt(self.pca.explained_variance_.mean()))
        h, w = images.shape[-2:]
        radius = torch.hypot(torch.fft.fftfreq(h)[:, None], torch.fft.rfftfreq(w)[None])
        ring = (radius / 0.5 * n_rings).floor().clamp(max=n_rings - 1).long()
        self.rings = F.one_hot(ring, n_rings).float()
        self.rings[0, 0] = 0  # the mean is with the components

    def __call__(self, images: Tensor) -> Tensor:
        """(N, 24) float64."""
        images = images.float()  # a decoder inside autocast gives bfloat16, which numpy and the FFT refuse
        parts = torch.from_numpy(self.pca.transform(images.flatten(1).numpy()) / self.unit)
        energy = torch.fft.rfft2(images.mean(1), norm="ortho").abs().square()
        with torch.autocast(images.device.type, enabled=False):
            bands = torch.einsum("nhw,hwr->nr", energy, self.rings) / self.rings.sum((0, 1)).clamp(min=1)
        return torch.cat([parts, torch.log10(bands + 1e-4)], 1).double()


# ----------------------------------------------------------------------------------------------------------------- warp


def optical_flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Backward flow (H, W, 2) in pixels, (right, down): second(p) looks like first(p + flow(p)). OpenCV's DIS, in the
    place of GMFlow; frames (H, W, 3) uint8."""
    import cv2

    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (second, first)]
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*grey, None)


def flow_between(first: Tensor, second: Tensor) -> Tensor:
    """:func:`optical_flow` of images (N, 3, H, W) in [-1, 1]: (N, 2, H, W)."""
    frames = [x.permute(0, 2, 3, 1).float().cpu().numpy() for x in (first, second)]
    both = [((x + 1) * 127.5).round().astype(np.uint8) for x in frames]
    found = [optical_flow(np.ascontiguousarray(a), np.ascontiguousarray(b)) for a, b in zip(*both, strict=True)]
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)


def warp(x: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """``x`` (N, C, h, w) sampled at p + flow(p), bicubic, and the mask (N, 1, h, w) of samples from inside.

    ``flow`` (N, 2, H, W) in pixels of the images, (right, down); on smaller arrays it is averaged and scaled."""
    h, w = x.shape[-2:]
    ratio = flow.shape[-1] / w
    if flow.shape[0] != x.shape[0] or flow.shape[-2] / h != ratio:
        raise ReprobookError(f"flow {list(flow.shape)} does not fit {list(x.shape)}")
    flow = F.adaptive_avg_pool2d(flow, (h, w)) / ratio
    px = torch.arange(w) + flow[:, 0]
    py = torch.arange(h)[:, None] + flow[:, 1]
    grid = torch.stack([2 * px / (w - 1) - 1, 2 * py / (h - 1) - 1], -1)
    inside = (grid.abs() <= 1).all(-1)[:, None]
    return F.grid_sample(x, grid, mode="bicubic", padding_mode="border", align_corners=True), inside.float()


def warp_psnr(first: Tensor, second: Tensor, flow: Tensor) -> Tensor:
    """PSNR (N,) of warp(first) against second, inside, with the range of both as peak."""
    warped, inside = warp(first, flow)
    return spsnr(warped, second, inside)


def warp_test(
    unet: nn.Module, latents: Latents, first: Tensor, second: Tensor, flow: Tensor, n_steps: int,
    memory: Memory | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """The paper's warp test on frame pairs (N, 3, H, W): PSNR (N,) of the warped first against the second: of the
    ``input`` frames, the ``latents``, the noise after DDIM ``inversion``, and the images after ``generation`` from it.

    With a ``memory`` the second frame attends to the first, in both directions."""
    z = [latents.encode(x) for x in (first, second)]
    ends: dict[str, list[Tensor]] = {"inversion": z, "generation": []}
    for name, invert in (("inversion", True), ("generation", False)):
        start = ends["inversion"]
        found = []
        for i, each in enumerate(start):
            around = {} if memory is None else {"around": memory.load if i else memory.store}
            found.append(denoise(unet, each, n_steps, invert=invert, **around))
        ends[name] = found
        if memory is not None:
            memory.clear()
    pairs = {"input": [first, second], "latents": z, "inversion": ends["inversion"],
             "generation": [latents.decode(each) for each in ends["generation"]]}  # fmt: skip
    return {name: warp_psnr(a, b, flow) for name, (a, b) in pairs.items()}
