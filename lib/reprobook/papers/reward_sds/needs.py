"""What the paper scale needs: weights and operations from shapes, hours from the paper's own seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from reprobook.nn.needs import parameters, traced

if TYPE_CHECKING:
    from collections.abc import Callable

# Stable Diffusion 2.1 (base), its autoencoder, and CLIP ViT-L/14; the rest are the classes' defaults.
UNET = {"sample_size": 64, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True}  # fmt: skip
_BLOCKS = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
VAE = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4, **_BLOCKS}
TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "projection_dim": 768}  # fmt: skip
VISION = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
          "patch_size": 14, "projection_dim": 768}  # fmt: skip
SECONDS = {"SDS": 45, "RewardSDS": 2227, "RewardDDS": 211}  # an image on one L40S (Section 4.4 and Appendix B)


def table(n_candidates: int = 10) -> pd.DataFrame:
    """One row a model: parameters in millions, weights in GB in fp16, tera-operations of one call; for the decoder also
    what its largest layer holds for all candidates at once, GB in fp16: why they are decoded a few at a time."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPConfig, CLIPModel

    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**UNET), AutoencoderKL(**VAE)
        clip = CLIPModel(CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=768))
        latent, t, words = torch.empty(1, 4, 64, 64), torch.empty(1), torch.empty(1, 77, 1024)
        pixels = torch.empty(1, 3, 224, 224)
    largest = n_candidates * 256 * 512 * 512 * 2 / 1e9
    calls: list[tuple[str, Any, Callable[[], Any], float | None]] = [
        ("U-Net of 2.1 base, one call", unet, lambda: unet(latent, t, words), None),
        ("autoencoder, one decoding", vae, lambda: vae.decode(latent), largest),
        ("CLIP ViT-L/14, one picture", clip, lambda: clip.get_image_features(pixel_values=pixels), None),
    ]
    rows = []
    with torch.no_grad():
        for name, model, call, held in calls:
            count = parameters(model)
            rows.append({
                "model": name, "parameters (M)": count / 1e6, "weights (GB)": 2 * count / 1e9,
                "TFLOP": traced(call).flops / 1e12, "largest layer, all candidates (GB)": held,
            })  # fmt: skip
    return pd.DataFrame(rows)


def hours() -> pd.DataFrame:
    """L40S hours of one method on the paper's numbers of prompts."""
    jobs = (
        ("SDS, 25 prompts", "SDS", 25), ("RewardSDS, 25 prompts (Table 1)", "RewardSDS", 25),
        ("RewardSDS, 100 prompts (Table 2)", "RewardSDS", 100), ("RewardDDS, 100 edits", "RewardDDS", 100),
    )  # fmt: skip
    return pd.DataFrame([{"what": name, "hours": n * SECONDS[method] / 3600} for name, method, n in jobs])
