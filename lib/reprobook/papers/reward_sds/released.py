"""The paper's own prior: Stable Diffusion 2.1 base on latents (4, 64, 64), its VAE, and CLIP as the reward.

DRAFT of the paper scale: ImageReward, the aesthetic head, DrawBench and InstructPix2Pix are not read yet.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from reprobook.errors import ReprobookError
from reprobook.papers.reward_sds.diffusion import add_noise, signal_noise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from reprobook.papers.reward_sds.loop import Reward
    from reprobook.papers.reward_sds.losses import Noised

LORA_LAYERS = ("to_q", "to_k", "to_v", "to_out.0")


class LatentPrior:
    """A U-Net of diffusers as a prior. Conditions are numbers of ``embeddings`` (P, tokens, width), of which the last
    one is the empty prompt's. ``prediction``: ``epsilon`` (2.1 base) or ``v_prediction`` (2.1)."""

    def __init__(self, unet: nn.Module, embeddings: Tensor, alphas_cumprod: Tensor, prediction: str) -> None:
        if prediction not in ("epsilon", "v_prediction"):
            raise ReprobookError(f"prediction is {prediction!r}; it must be epsilon or v_prediction")
        self.unet, self.embeddings, self.alphas_cumprod, self.prediction = unet, embeddings, alphas_cumprod, prediction

    def noise(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Predicted noise; of v it is a v + s x_t."""
        found = self.unet(x, t, encoder_hidden_states=self.embeddings[y]).sample
        if self.prediction == "epsilon":
            return found
        a, s = signal_noise(self.alphas_cumprod, t, x.ndim)
        return a * found + s * x

    def empty(self, y: Tensor) -> Tensor:
        """The empty prompt."""
        return torch.full_like(y, len(self.embeddings) - 1)


def open_prior(folder: str | Path, prompts: Sequence[str], device: torch.device) -> tuple[LatentPrior, Any]:
    """(prior of ``prompts`` and, last, of the empty one; VAE) from a folder in diffusers' layout, in fp16 on a GPU."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    folder = Path(folder)
    kind = torch.float16 if device.type == "cuda" else torch.float32
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=kind).to(device).eval()
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=kind).to(device).eval()
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=kind).to(device).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
    for model in (unet, vae, encoder):
        model.requires_grad_(False)
    words = tokenizer(
        [*prompts, ""], padding="max_length", max_length=encoder.config.max_position_embeddings, truncation=True,
        return_tensors="pt",
    )  # fmt: skip
    with torch.no_grad():
        embeddings = encoder(words.input_ids.to(device)).last_hidden_state
    alphas = scheduler.alphas_cumprod.to(device)
    return LatentPrior(unet, embeddings, alphas, scheduler.config.prediction_type), vae


@torch.no_grad()
def decoded(vae: Any, latents: Tensor, batch: int = 5) -> Tensor:
    """Pictures (M, 3, H, W) in [0, 1] of latents (M, 4, h, w), ``batch`` at a time: at 512 px the decoder takes more
    memory than anything else."""
    parts = [vae.decode(z / vae.config.scaling_factor).sample for z in latents.split(batch)]
    return (torch.cat(parts) / 2 + 0.5).clamp(0, 1)


def clip_reward(model: Any, tokenizer: Any, vae: Any, prompts: Sequence[str]) -> Reward:
    """CLIPScore: 100 times the cosine of CLIP's features of picture and prompt; ``prompts``: one for each picture."""
    device = next(model.parameters()).device
    words = tokenizer(list(prompts), padding=True, truncation=True, return_tensors="pt").to(device)
    with torch.no_grad():
        text = model.get_text_features(**words).pooler_output
    size = model.config.vision_config.image_size
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073], device=device).view(1, 3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711], device=device).view(1, 3, 1, 1)

    def reward(latents: Tensor, rows: Tensor) -> Tensor:
        pixels = torch.nn.functional.interpolate(decoded(vae, latents), size=(size, size), mode="bicubic")
        picture = model.get_image_features(pixel_values=((pixels - mean) / std).to(model.dtype)).pooler_output
        return 100 * torch.cosine_similarity(picture, text[rows], dim=1)

    return reward


class LoraCompanion:
    """VSD's companion at paper scale: LoRA layers on the attention of a U-Net, trained by the ordinary denoising loss
    on one fresh t and noise a picture (released code: AdamW, rate 3e-4, no decay, guidance 1, on Stable Diffusion 2.1).
    """

    def __init__(self, prior: LatentPrior, y: Tensor, rank: int = 4, lr: float = 3e-4, seed: int = 0) -> None:
        from peft import LoraConfig

        prior.unet.requires_grad_(False)
        unet: Any = prior.unet
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(LORA_LAYERS)))
        self.prior, self.y, self.generator = prior, y, torch.Generator().manual_seed(seed)
        self.optimiser = torch.optim.AdamW([p for p in unet.parameters() if p.requires_grad], lr, weight_decay=0)

    @torch.no_grad()
    def __call__(self, z: Noised) -> Tensor:
        """Predicted noise (B, n, ...)."""
        n = z.eps.shape[1]
        found = self.prior.noise(z.x_t.flatten(0, 1), z.t.repeat_interleave(n), self.y.repeat_interleave(n))
        return found.view_as(z.x_t)

    @torch.enable_grad()
    def learn(self, x: Tensor) -> None:
        """One update on the pictures x (B, ...)."""
        t = torch.randint(len(self.prior.alphas_cumprod), (len(x),), generator=self.generator).to(x.device)
        eps = torch.randn(x.shape, generator=self.generator).to(x)
        x_t = add_noise(self.prior.alphas_cumprod, x, eps[:, None], t)[:, 0]
        self.optimiser.zero_grad()
        (self.prior.noise(x_t, t, self.y) - eps).square().mean().backward()
        self.optimiser.step()
