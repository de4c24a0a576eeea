"""The same training on public video models: Wan 2.1 (flow matching, LoRA) and AnimateDiff on SD 1.5 (VP, its temporal
modules). A substitute: TPDiff's own code and weights were never released.
"""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import torch

from reprobook.errors import ReprobookError
from reprobook.papers.tpdiff.network import StageNetwork
from reprobook.papers.tpdiff.schedule import FlowMatching, VariancePreserving

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reprobook.papers.tpdiff.openvid import VideoFile
    from reprobook.papers.tpdiff.schedule import Path

BASES = ("wan", "animatediff")
LORA_LAYERS = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass
class Base:
    """A public video model: network to tune, its path, and encoders from pixels and text to what it sees."""

    network: StageNetwork
    path: Path
    n_frames: int  # of a clip, in pixels
    shape: tuple[int, int, int, int]  # latents of a clip (T, C, H, W)
    encode: Callable[[Tensor], Tensor]  # frames (T, 3, H, W) in [-1, 1] -> latents (T', C, H', W')
    decode: Callable[[Tensor], Tensor]  # and back
    embed: Callable[[Sequence[str]], Tensor]  # texts -> (n, tokens, width)


def open_base(name: str, data: Any, device: torch.device, size: Sequence[int], n_frames: int, lora_rank: int) -> Base:
    """``wan`` or ``animatediff`` from the chapter's data; ``size``: height and width in pixels."""
    if name == "wan":
        return open_wan(data.path("wan-1.3b"), device, size, n_frames, lora_rank)
    if name == "animatediff":
        folders = (data.path("sd-1.5"), data.path("animatediff-adapter"))
        return open_animatediff(*folders, device, size, n_frames)
    raise ReprobookError(f"released must hold names of {', '.join(BASES)}, got {name!r}")


# --------------------------------------------------------------------------------------------------------------- Wan


def latent_frames(n_frames: int) -> int:
    """Latent frames of Wan's causal VAE, which keeps the first frame and merges each four after it: 1 + 4n -> 1 + n."""
    if n_frames < 1 or n_frames % 4 != 1:
        near = max(1, round((n_frames - 1) / 4) * 4 + 1)
        raise ReprobookError(f"{n_frames} frames do not fit a causal VAE, which takes 1 + 4n: use {near}")
    return (n_frames - 1) // 4 + 1


def open_wan(folder: str | FilePath, device: torch.device, size: Sequence[int], n_frames: int, lora_rank: int) -> Base:
    """Wan 2.1 with LoRA on the attention projections; everything else is frozen."""
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from transformers import AutoTokenizer, UMT5EncoderModel

    vae = AutoencoderKLWan.from_pretrained(folder, subfolder="vae").to(device).eval().requires_grad_(False)
    encoder = UMT5EncoderModel.from_pretrained(folder, subfolder="text_encoder", dtype=torch.bfloat16).to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(FilePath(folder) / "tokenizer")
    net = WanTransformer3DModel.from_pretrained(folder, subfolder="transformer")
    add_lora(net, lora_rank)
    net.enable_gradient_checkpointing()
    mean, std = (
        torch.tensor(each, device=device).view(1, -1, 1, 1, 1)
        for each in (vae.config.latents_mean, vae.config.latents_std)
    )

    @torch.no_grad()
    def encode(frames: Tensor) -> Tensor:
        z = vae.encode(frames.to(device).transpose(0, 1)[None]).latent_dist.mode()
        return ((z - mean) / std)[0].transpose(0, 1)

    @torch.no_grad()
    def decode(latents: Tensor) -> Tensor:
        z = latents.to(mean).transpose(0, 1)[None] * std + mean
        return vae.decode(z, return_dict=False)[0][0].transpose(0, 1).clamp(-1, 1)

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> Tensor:
        words = tokenizer(
            [clean(text) for text in texts], padding="max_length", max_length=512, truncation=True, return_tensors="pt"
        ).to(device)
        hidden = encoder(words.input_ids, words.attention_mask).last_hidden_state
        return hidden.float() * words.attention_mask[..., None]  # zeros after the end, as in its training

    shape = (latent_frames(n_frames), vae.config.z_dim, size[0] // 8, size[1] // 8)
    network = StageNetwork(net, empty_text=embed([""])[0]).to(device)
    return Base(network, FlowMatching(), n_frames, shape, encode, decode, embed)


def clean(text: str) -> str:
    """White space and HTML escapes tidied, as Wan's pipeline does."""
    return re.sub(r"\s+", " ", html.unescape(html.unescape(text))).strip()


def add_lora(net: nn.Module, rank: int) -> None:
    """Freeze ``net`` and add trainable LoRA layers to its attention projections."""
    from peft import LoraConfig

    net.requires_grad_(False)
    net.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(LORA_LAYERS)))


# ------------------------------------------------------------------------------------------------------- AnimateDiff


def open_animatediff(
    folder: str | FilePath, adapter: str | FilePath, device: torch.device, size: Sequence[int], n_frames: int
) -> Base:
    """SD 1.5 with AnimateDiff's temporal modules, which alone are trained."""
    from diffusers import AutoencoderKL, MotionAdapter, UNet2DConditionModel, UNetMotionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae").to(device).eval().requires_grad_(False)
    encoder = CLIPTextModel.from_pretrained(FilePath(folder) / "text_encoder").to(device).eval()
    tokenizer = CLIPTokenizer.from_pretrained(FilePath(folder) / "tokenizer")
    longest = encoder.config.max_position_embeddings
    net = UNetMotionModel.from_unet2d(
        UNet2DConditionModel.from_pretrained(folder, subfolder="unet"),
        MotionAdapter.from_pretrained(adapter),
    )
    net.freeze_unet2d_params()

    @torch.no_grad()
    def encode(frames: Tensor) -> Tensor:
        return vae.encode(frames.to(device)).latent_dist.mode() * vae.config.scaling_factor

    @torch.no_grad()
    def decode(latents: Tensor) -> Tensor:
        return vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0].clamp(-1, 1)

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> Tensor:
        words = tokenizer(
            list(texts), padding="max_length", max_length=longest, truncation=True, return_tensors="pt"
        ).to(device)
        return encoder(words.input_ids).last_hidden_state

    shape = (n_frames, vae.config.latent_channels, size[0] // 8, size[1] // 8)
    network = StageNetwork(net, empty_text=embed([""])[0]).to(device)
    return Base(network, VariancePreserving(), n_frames, shape, encode, decode, embed)


# ------------------------------------------------------------------------------------------------------------- clips


def prepare(
    base: Base, files: Sequence[VideoFile], size: Sequence[int], fps: float, folder: FilePath
) -> list[FilePath]:
    """Latents and text embedding of each clip in one safetensors file, written whole; what is there is kept.

    The files lie in a folder below ``folder`` that is named after everything they were made from.
    """
    from safetensors.torch import save

    from reprobook.project import atomic_write

    made_from = [*size, fps, base.n_frames, base.shape, base.network.empty_text.shape, [file.name for file in files]]
    folder = folder / hashlib.sha256(repr(made_from).encode()).hexdigest()[:16]
    paths = [folder / f"{i:06d}.safetensors" for i in range(len(files))]
    for path, file in zip(paths, files, strict=True):
        if not path.exists():
            latents = base.encode(file.frames(base.n_frames, size, fps))
            if tuple(latents.shape) != base.shape:
                raise ReprobookError(f"{file.name}: latents {list(latents.shape)}, expected {list(base.shape)}")
            content = {"latents": latents.half(), "text": base.embed([file.caption])[0].half()}
            atomic_write(path, save({name: each.contiguous().cpu() for name, each in content.items()}))
    return paths


def read_batch(paths: Sequence[str | FilePath], index: Tensor) -> tuple[Tensor, Tensor]:
    """(latents (B, T, C, H, W), text (B, n, D)) float32 of the clips ``index``."""
    from safetensors.torch import load_file

    rows = [load_file(paths[int(i)]) for i in index]
    latents, text = (torch.stack([row[name].float() for row in rows]) for name in ("latents", "text"))
    return latents, text


def batches(
    paths: Sequence[FilePath], order: Callable[[int], Tensor], turn: Callable[[int], int]
) -> Callable[[int], tuple[Tensor, Tensor, int]]:
    """Batch ``i`` for ``ch.fit``: the clips ``order(i)`` and the stage ``turn(i)``."""
    return lambda i: (*read_batch(paths, order(i)), turn(i))


def write_video(frames: Tensor, path: FilePath, fps: float) -> None:
    """Frames (T, 3, H, W) in [-1, 1] as an MP4 file, for VBench and for the eye."""
    import av

    images = ((frames.float().cpu() + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=round(fps), options={"qscale": "2"})
        stream.height, stream.width, stream.pix_fmt = images.shape[1], images.shape[2], "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
