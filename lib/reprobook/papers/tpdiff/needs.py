"""What the public models need in memory and operations, from the real architectures without storage (meta device)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from reprobook.nn.needs import FP32, needs, traced
from reprobook.papers.tpdiff import pyramid
from reprobook.papers.tpdiff.network import StageNetwork
from reprobook.papers.tpdiff.released import add_lora, latent_frames
from reprobook.papers.tpdiff.schedule import FlowMatching, VariancePreserving

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reprobook.papers.tpdiff.schedule import Path

WAN = {
    "num_attention_heads": 12,
    "ffn_dim": 8960,
    "num_layers": 30,
}  # the 1.3B model; the rest are the class's defaults
SD_UNET = {"cross_attention_dim": 768, "use_motion_mid_block": True}


def paper_needs(wan_clip: Sequence[int], animatediff_clip: Sequence[int], lora_rank: int) -> list[dict[str, Any]]:
    """One row per public model; clips are (frames, height, width) in pixels.

    Memory in GB: weights in fp32; gradients and AdamW's two moments of what is trained. Operations of one pass.
    """
    from diffusers import UNetMotionModel, WanTransformer3DModel

    with torch.device("meta"):
        wan, unet = WanTransformer3DModel(**WAN), UNetMotionModel(**SD_UNET)
    add_lora(wan, lora_rank)
    unet.freeze_unet2d_params()
    n, height, width = wan_clip
    wan_latents = (latent_frames(n), 16, height // 8, width // 8)
    n, height, width = animatediff_clip
    return [
        _row("Wan 2.1 1.3B, LoRA", wan, FlowMatching(), wan_latents, torch.empty(1, 512, 4096, device="meta")),
        _row("AnimateDiff, temporal modules", unet, VariancePreserving(), (n, 4, height // 8, width // 8),
             torch.empty(1, 77, 768, device="meta")),
    ]  # fmt: skip


def _row(name: str, net: nn.Module, path: Path, latents: tuple[int, ...], text: Tensor) -> dict[str, Any]:
    found = needs(net, frozen=FP32)
    network = StageNetwork(net).to("meta")

    @torch.no_grad()
    def flops(stage: pyramid.Stage) -> float:
        x = torch.empty(1, stage.frames(latents[0]), *latents[1:], device="meta")
        return traced(lambda: network(x, torch.empty(1, device="meta"), stage, text)).flops / 1e15

    full = flops(pyramid.stages(path, 1)[0])
    mean = sum(flops(stage) for stage in pyramid.stages(path, 3)) / 3
    return {
        "model": name, "parameters (M)": found.parameters / 1e6, "trained (M)": found.trained / 1e6,
        "weights (GB)": found.weights / 1e9, "gradients and AdamW (GB)": (found.gradients + found.moments) / 1e9,
        "latents (T, C, H, W)": str(latents), "PFLOP a clip, vanilla": full, "PFLOP a clip, TPDiff": mean,
        "ratio": full / mean,
    }  # fmt: skip
