"""What the paper's networks need, from the real architectures on the meta device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from reprobook.nn.needs import needs, traced
from reprobook.papers.alias_free_ldm.models import unet
from reprobook.papers.alias_free_ldm.surgery import make_alias_free

if TYPE_CHECKING:
    from torch import nn


def paper_networks() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Name -> (network on the meta device, input of one image): the VAE at 256 px, the FFHQ U-Net, SD 1.5's U-Net."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    with torch.device("meta"):
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, latent_channels=4,
        )  # fmt: skip
        ffhq = unet((192, 384, 384, 768, 768), 32, head_dim=24, layers=2, groups=32)
        sd = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
    return {
        "AF-VAE, 256 px": (vae, (1, 3, 256, 256)),
        "AF-LDM (FFHQ)": (ffhq, (1, 4, 32, 32)),
        "AF-SD 1.5, 512 px": (sd, (1, 4, 64, 64)),
    }


def _run(network: nn.Module, shape: tuple[int, ...]) -> torch.Tensor:
    x, t = torch.empty(shape, device="meta"), torch.zeros(1, device="meta")
    match type(network).__name__:
        case "AutoencoderKL":
            return network(x).sample
        case "UNet2DModel":
            return network(x, t).sample
    return network(x, t, torch.empty(1, 77, 768, device="meta")).sample


def paper_needs() -> list[dict[str, float | str]]:
    """Per network: parameters (million), memory of weights, gradients and AdamW in fp32 (GB), activations that one
    image keeps for the backward pass, plain and alias-free (GB), operations of a forward pass (GFLOP; FFTs and the
    equivalent small matrix products are counted only where a matrix is used)."""
    rows = []
    for name, (network, shape) in paper_networks().items():
        found = needs(network)
        row: dict[str, float | str] = {
            "network": name, "parameters (M)": found.parameters / 1e6,
            "training state (GB)": found.training_state / 1e9,
        }  # fmt: skip
        for kind in ("plain", "alias-free"):
            if kind == "alias-free":
                make_alias_free(network)
            one = traced(lambda network=network, shape=shape: _run(network, shape).sum(), network.parameters())
            row[f"activations an image, {kind} (GB)"] = one.kept / 1e9
            row[f"GFLOP a pass, {kind}"] = one.flops / 1e9
        rows.append(row)
    return rows
