"""The paper's scale: released weights, Stable Diffusion's autoencoder, and FFHQ images.

Released pipelines are read in diffusers' layout (``vae/`` and ``unet/``); they were made with the authors' own module
classes, whose weights carry the names of the plain ones. The weights are for non-commercial use only.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from reprobook.errors import ReprobookError
from reprobook.papers.alias_free_ldm.surgery import make_alias_free

if TYPE_CHECKING:
    from torch import Tensor, nn


def load_vae(folder: str | Path, alias_free: bool) -> nn.Module:
    """``AutoencoderKL`` from ``folder`` or its subfolder ``vae``, with alias-free modules if asked for."""
    from diffusers import AutoencoderKL

    inside = Path(folder) / "vae"
    vae = AutoencoderKL.from_pretrained(inside if inside.is_dir() else folder)
    return make_alias_free(vae) if alias_free else vae


def load_unet(folder: str | Path, alias_free: bool) -> nn.Module:
    """``UNet2DModel`` or ``UNet2DConditionModel``, whichever its configuration names, from subfolder ``unet``."""
    import json

    import diffusers

    folder = Path(folder)
    name = json.loads((folder / "unet" / "config.json").read_text("utf-8"))["_class_name"]
    if name not in ("UNet2DModel", "UNet2DConditionModel"):
        raise ReprobookError(f"{folder.name}: its unet is a {name}; expected UNet2DModel or UNet2DConditionModel")
    network = getattr(diffusers, name).from_pretrained(folder / "unet")
    return make_alias_free(network) if alias_free else network


class Photos:
    """Images of parquet files with a column ``image`` (as ``merkol/ffhq-256`` has it), one at a time."""

    def __init__(self, folder: str | Path, size: int) -> None:
        from datasets import load_dataset

        folder = Path(folder)
        files = sorted(str(p) for p in folder.rglob("*.parquet"))
        if not files:
            raise ReprobookError(f"{folder.name} holds no parquet file")
        self.rows = load_dataset("parquet", data_files=files, split="train")
        self.size = size

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, index: Tensor) -> Tensor:
        """(N, 3, size, size) in [-1, 1]; resized without a crop, as the released configuration does."""
        from PIL import Image

        found = []
        for i in index.tolist():
            image = self.rows[i]["image"]
            image = Image.open(io.BytesIO(image["bytes"])) if isinstance(image, dict) else image
            found.append(np.asarray(image.convert("RGB").resize((self.size, self.size), Image.Resampling.BICUBIC)))
        return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).float() / 127.5 - 1


def latent_batches(photos: Photos, vae: nn.Module, scale: float, order: Callable[[int], Tensor]) -> Callable:
    """Batch ``i`` of latents (samples of the posterior times ``scale``) for ``ch.fit``, encoded as they are needed."""
    device = next(vae.parameters()).device

    @torch.no_grad()
    def batch(i: int) -> Tensor:
        posterior = vae.encode(photos.batch(order(i)).to(device)).latent_dist
        generator = torch.Generator("cpu").manual_seed(i)
        noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
        return (posterior.mean + posterior.std * noise) * scale

    return batch
