"""Alias-free surgery on diffusers' own networks: samplers and activations are replaced, weights and their names stay.

Works on ``AutoencoderKL``, ``UNet2DModel`` and ``UNet2DConditionModel`` of any configuration whose samplers are
convolutions, Stable Diffusion's included; checkpoints load before or after.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import nn

from reprobook.errors import ReprobookError
from reprobook.papers.alias_free_ldm.operators import filtered, ideal_downsample, ideal_upsample

if TYPE_CHECKING:
    from torch import Tensor


class IdealDownsample(nn.Module):
    """The block's 3 x 3 convolution at stride 1 and padding 1, then the ideal filter and every second sample."""

    def __init__(self, sampler: nn.Module) -> None:
        super().__init__()
        conv = getattr(sampler, "conv", None)
        if not isinstance(conv, nn.Conv2d) or conv.stride != (2, 2):
            raise ReprobookError(f"{type(sampler).__name__} is not a strided convolution and cannot be made ideal")
        conv.stride, conv.padding = (1, 1), (1, 1)  # padding (0, 1, 0, 1) of the VAE becomes symmetric
        self.conv = conv
        if hasattr(sampler, "Conv2d_0"):
            self.Conv2d_0 = conv  # diffusers' old name of the same weights

    def forward(self, x: Tensor, *unused: object) -> Tensor:  # noqa: ARG002 (diffusers passes more)
        """x: (N, C, H, W) -> (N, C, H/2, W/2)."""
        return ideal_downsample(self.conv(x))


class IdealUpsample(nn.Module):
    """Ideal upsampling in the place of nearest neighbours, then the block's convolution."""

    def __init__(self, sampler: nn.Module) -> None:
        super().__init__()
        conv = getattr(sampler, "conv", None)
        if not isinstance(conv, nn.Conv2d):
            raise ReprobookError(f"{type(sampler).__name__} has no convolution after interpolation")
        self.conv = conv

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None, *unused: object) -> Tensor:  # noqa: ARG002
        """x: (N, C, H, W) -> (N, C, 2H, 2W); raises :class:`ReprobookError` if another size is asked for."""
        if output_size is not None and list(output_size) != [2 * n for n in x.shape[-2:]]:
            raise ReprobookError(
                f"a feature map of {list(x.shape[-2:])} was asked to become {list(output_size)}; ideal upsampling "
                "doubles: choose an image size that all levels divide"
            )
        return self.conv(ideal_upsample(x))


class FilteredActivation(nn.Module):
    """:func:`filtered` on feature maps; anything but (N, C, H, W), such as a time embedding, gets the plain one."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """x -> the same shape."""
        return filtered(self.activation, x) if x.ndim == 4 else self.activation(x)


def _blocks(network: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
    """(all blocks that may have samplers, the blocks whose activations are filtered)."""
    name = type(network).__name__
    if name == "AutoencoderKL":
        downs, ups = list(network.encoder.down_blocks), list(network.decoder.up_blocks)
        inner = [*downs[1:], network.encoder.mid_block, network.decoder.mid_block, *ups[:-1]]  # not at full resolution
        return [*downs, *ups], inner
    if name in ("UNet2DModel", "UNet2DConditionModel"):
        middle = [network.mid_block] if network.mid_block is not None else []
        blocks = [*network.down_blocks, *network.up_blocks]
        return blocks, [*blocks, *middle]
    raise ReprobookError(f"{name} cannot be made alias-free: use AutoencoderKL, UNet2DModel or UNet2DConditionModel")


def make_alias_free(network: nn.Module, *, sampling: bool = True, activations: bool = True) -> nn.Module:
    """Replace, in place, every down- and upsampler (``sampling``) and the activations of the ResNet blocks
    (``activations``) of a diffusers network; returns it. Doing it twice changes nothing.

    Placement as released: all samplers; activations of all U-Net blocks, and of the VAE's blocks below full resolution.
    Convolutions keep zero padding; normalisation and attention are unchanged.
    """
    samplers, active = _blocks(network)
    if sampling:
        for block in samplers:
            for kind, made in (("downsamplers", IdealDownsample), ("upsamplers", IdealUpsample)):
                found = getattr(block, kind, None)
                if found is not None:
                    fresh = [each if isinstance(each, made) else made(each) for each in found]
                    setattr(block, kind, nn.ModuleList(fresh))
    if activations:
        for block in active:
            for resnet in block.resnets:
                if not isinstance(resnet.nonlinearity, FilteredActivation):
                    resnet.nonlinearity = FilteredActivation(resnet.nonlinearity)
    return network
