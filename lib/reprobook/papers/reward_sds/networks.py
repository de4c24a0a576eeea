"""The small prior (a residual MLP), a companion for each picture, and the reward model (a convolutional network)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from reprobook.errors import ReprobookError
from reprobook.papers.reward_sds.diffusion import linear_alphas, signal_noise
from reprobook.papers.reward_sds.digits import ATTRIBUTES, N_CLASSES, SIDE, check_pictures, spoiled
from reprobook.train import shuffled

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.papers.reward_sds.digits import Digits
    from reprobook.papers.reward_sds.losses import Noised

N_QUALITIES = 3  # unsaid, good, with defects
EMPTY = N_CLASSES * N_QUALITIES  # the condition that says nothing


def prompt(y: Tensor, quality: int = 0) -> Tensor:
    """The condition of a class and a quality: 0 unsaid, 1 good, 2 with defects."""
    return y * N_QUALITIES + quality


class DigitPrior(nn.Module):
    """A diffusion model of digits: ``forward`` gives the clean pictures (M, 784) that it expects from x_t (M, 784),
    t (M,) and conditions y (M,), and the noise follows from them."""

    alphas_cumprod: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("alphas_cumprod", linear_alphas(), persistent=False)

    def noise(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Predicted noise, (x_t - a x_0) / s."""
        a, s = signal_noise(self.alphas_cumprod, t, 2)
        return (x - a * self(x, t, y)) / s

    def empty(self, y: Tensor) -> Tensor:
        """The empty condition."""
        return torch.full_like(y, EMPTY)


class ResidualPrior(DigitPrior):
    """Residual layers that are told t and the condition. (Noise fills all 784 dimensions and does not pass through
    narrower layers: with v-prediction the samples stay speckled.)"""

    def __init__(self, width: int = 512, n_blocks: int = 4, size: int = SIDE**2) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(size, width), nn.Linear(width, size)
        self.times = nn.Sequential(nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 128))
        self.conditions = nn.Embedding(EMPTY + 1, 128)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(n_blocks + 1))
        self.told = nn.ModuleList(nn.Linear(128, 2 * width) for _ in range(n_blocks))
        self.first = nn.ModuleList(nn.Linear(width, width) for _ in range(n_blocks))
        self.second = nn.ModuleList(nn.Linear(width, width) for _ in range(n_blocks))
        nn.init.zeros_(self.leave.weight)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Clean pictures (M, 784)."""
        rates = torch.exp(torch.arange(32, device=x.device) * (-math.log(10_000) / 32))
        angles = t[:, None] * rates
        said = nn.functional.silu(self.times(torch.cat([angles.sin(), angles.cos()], 1)) + self.conditions(y))
        h = self.enter(x)
        for norm, told, first, second in zip(self.norms, self.told, self.first, self.second, strict=False):
            scale, shift = told(said).chunk(2, 1)
            h = h + second(nn.functional.silu(first(norm(h) * (1 + scale) + shift)))
        return self.leave(self.norms[-1](h))


class UNetPrior(DigitPrior):
    """A small U-Net of diffusers, told t and the condition: slower a pass, and of the paper's family."""

    def __init__(self, channels: Sequence[int] = (16, 32)) -> None:
        from diffusers import UNet2DModel

        super().__init__()
        kinds = {"down_block_types": ["DownBlock2D"] * len(channels), "up_block_types": ["UpBlock2D"] * len(channels)}
        self.net: Any = UNet2DModel(
            sample_size=SIDE, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=tuple(channels),
            norm_num_groups=8, num_class_embeds=EMPTY + 1, add_attention=False, **kinds,
        )  # fmt: skip

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Clean pictures (M, 784)."""
        return self.net(x.view(-1, 1, SIDE, SIDE), t, class_labels=y).sample.flatten(1)


def denoising_error(found: Tensor, x: Tensor, s: Tensor) -> Tensor:
    """Mean squared error of clean pictures ``found`` (M, 784), times 1 / max(s_t^2, 0.1): that of v-prediction, with a
    cap where little noise is left. (The error of the *noise* would weigh the first t ten thousand times as much.)"""
    return ((found - x).square() / (s**2).clamp(min=0.1)).mean()


def prior_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean :func:`denoising_error` at random t and noise. batch: clean pictures (M, 784), conditions (M,)."""
    x, y = batch
    plain: Any = getattr(model, "module", model)  # inside, if several processes train it
    t = torch.randint(len(plain.alphas_cumprod), (len(x),), device=x.device)
    eps = torch.randn_like(x)
    a, s = signal_noise(plain.alphas_cumprod, t, 2)
    return denoising_error(model(a * x + s * eps, t, y), x, s)


def prior_batches(digits: Digits, batch_size: int, seed: int) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Batch ``i`` of pictures and conditions, a pure function of i: a tenth says nothing (for guidance), a quarter is
    called good, a quarter has defects and is told so."""
    order = shuffled(len(digits.y), batch_size, seed=seed)

    def batch(i: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed((seed * 1_000_003 + i) % 2**63)
        x, y = digits.x[order(i)], digits.y[order(i)]
        draw = torch.rand(len(y), generator=generator)
        quality = (draw < 0.5).long() + (draw < 0.25).long()
        x = torch.where((quality == 2)[:, None], spoiled(x, generator), x)
        silent = (torch.rand(len(y), generator=generator) < 0.1) & (quality < 2)
        return x, torch.where(silent, torch.full_like(y, EMPTY), y * N_QUALITIES + quality)

    return batch


OWN_NOISE = 7919  # added to the seed of what a companion draws: an optimisation with this seed draws other noise


class LowRank(nn.Module):
    """A frozen linear layer with a low-rank addition of its own for each of ``n_owners`` pictures (LoRA)."""

    def __init__(self, base: nn.Linear, n_owners: int, rank: int) -> None:
        super().__init__()
        self.base, self.n_owners = base.requires_grad_(False), n_owners
        self.down = nn.Parameter(torch.randn(n_owners, base.in_features, rank) / math.sqrt(base.in_features))
        self.up = nn.Parameter(torch.zeros(n_owners, rank, base.out_features))

    def forward(self, x: Tensor) -> Tensor:
        """x (n_owners * n, in), the rows of each picture side by side."""
        added = x.view(self.n_owners, -1, x.shape[1]) @ self.down @ self.up
        return self.base(x) + added.flatten(0, 1)


class Companion:
    """The small network of VSD: a copy of the prior with LoRA layers of each picture's own, trained by the prior's own
    loss on the pictures as they are now, with one fresh t and noise a picture and no reward (Section 3.1)."""

    def __init__(self, prior: ResidualPrior, y: Tensor, rank: int = 4, lr: float = 3e-4, seed: int = 0) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.net = copy.deepcopy(prior).requires_grad_(False)
            for layers in (self.net.first, self.net.second):
                for k, layer in enumerate(layers):
                    layers[k] = LowRank(cast("nn.Linear", layer), len(y), rank)
            self.net.leave = LowRank(self.net.leave, len(y), rank)  # type: ignore[assignment]
        self.y, self.generator = y, torch.Generator().manual_seed(seed + OWN_NOISE)
        self.optimiser = torch.optim.AdamW([p for p in self.net.parameters() if p.requires_grad], lr, weight_decay=0)

    def __call__(self, z: Noised) -> Tensor:
        """Predicted noise (B, n, 784)."""
        n = z.eps.shape[1]
        with torch.no_grad():
            found = self.net.noise(z.x_t.flatten(0, 1), z.t.repeat_interleave(n), self.y.repeat_interleave(n))
        return found.view_as(z.x_t)

    @torch.enable_grad()
    def learn(self, x: Tensor) -> None:
        """One update on pictures x (B, 784)."""
        t = torch.randint(len(self.net.alphas_cumprod), (len(x),), generator=self.generator).to(x.device)
        eps = torch.randn(x.shape, generator=self.generator).to(x)
        a, s = signal_noise(self.net.alphas_cumprod, t, 2)
        self.optimiser.zero_grad()
        (len(x) * denoising_error(self.net(a * x + s * eps, t, self.y), x, s)).backward()  # a mean for each picture
        self.optimiser.step()


class RewardNet(nn.Module):
    """Class scores and attributes of a picture by a small convolutional network: the reward model."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, channels, 5, stride=2, padding=2), nn.SiLU(),
            nn.Conv2d(channels, 2 * channels, 5, stride=2, padding=2), nn.SiLU(),
            nn.Flatten(), nn.Linear(2 * channels * 49, 128), nn.SiLU(),
        )  # fmt: skip
        self.classes, self.attributes = nn.Linear(128, N_CLASSES), nn.Linear(128, len(ATTRIBUTES))
        self.register_buffer("mean", torch.zeros(len(ATTRIBUTES)))
        self.register_buffer("sd", torch.ones(len(ATTRIBUTES)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(class scores (M, 10), attributes (M, 3) in deviations of all digits) of pictures (M, 784)."""
        check_pictures(x)
        h = self.body(x.view(-1, 1, SIDE, SIDE))
        return self.classes(h), self.attributes(h)


def reward_loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Cross-entropy of the class plus squared error of the standardised attributes."""
    x, y, attributes = batch
    scores, found = model(x)
    return nn.functional.cross_entropy(scores, y) + (found - attributes).square().mean()


def reward_batches(
    digits: Digits, model: RewardNet, batch_size: int, seed: int
) -> Callable[[int], tuple[Tensor, Tensor, Tensor]]:
    """Batch ``i`` for the reward model, whose scale of attributes is set here."""
    model.mean, model.sd = digits.attributes.mean(0), digits.attributes.std(0)
    if not (model.sd > 0).all():
        raise ReprobookError("an attribute is the same for all digits: nothing to learn")
    standard = (digits.attributes - model.mean) / model.sd
    order = shuffled(len(digits.y), batch_size, seed=seed)
    return lambda i: (digits.x[order(i)], digits.y[order(i)], standard[order(i)])
