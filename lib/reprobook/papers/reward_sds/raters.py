"""What scores pictures at paper scale: ImageReward, CLIPScore and the aesthetic head, on pixels in [0, 1]."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.data import ChapterData

Rater = Callable[["Tensor", Sequence[str]], "Tensor"]  # pixels (M, 3, H, W) in [0, 1], a text for each -> (M,)
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's and BLIP's inputs
HIDDEN = (1024, 128, 64, 16, 1)  # widths of ImageReward's head, linear layers without anything between them
SHIFT, SCALE = 0.16717362830052426, 1.0333394966054072  # its scores are standardised with these


def resized(pixels: Tensor, size: int) -> Tensor:
    """Pictures (M, 3, H, W) in [0, 1] as the towers want them: (M, 3, size, size), standardised."""
    small = nn.functional.interpolate(pixels, size=(size, size), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(each, device=pixels.device).view(1, 3, 1, 1) for each in (MEAN, STD))
    return (small - mean) / std


def open_raters(data: ChapterData, device: torch.device) -> dict[str, Rater]:
    """ImageReward, CLIP and aesthetic; the last two share a tower and are not independent."""
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, CLIPModel, CLIPTokenizer

    folder = Path(data.path("clip-vit-large-patch14"))
    clip = CLIPModel.from_pretrained(folder).to(device).eval().requires_grad_(False)
    head = load_file(Path(data.path("aesthetic-head")) / "model.safetensors")
    weight, bias = (head[f"predictor.{name}"].to(device) for name in ("weight", "bias"))
    blip = ImageReward.load(Path(data.path("image-reward"))).to(device).eval().requires_grad_(False)
    words = AutoTokenizer.from_pretrained(data.path("bert-base-uncased-tokenizer"))
    return clip_raters(clip, CLIPTokenizer.from_pretrained(folder), weight, bias) | {
        "ImageReward": lambda pixels, texts: blip(
            pixels, words(list(texts), padding="max_length", truncation=True, max_length=35, return_tensors="pt")
        )
    }


def clip_raters(clip: Any, tokenizer: Any, weight: Tensor, bias: Tensor) -> dict[str, Rater]:
    """CLIPScore, 100 times the cosine of the features of picture and text; and a linear head (``weight`` (1, d),
    ``bias`` (1,)) on the normalised feature of the picture, the aesthetic score."""
    if weight.shape != (1, clip.config.projection_dim):
        raise ReprobookError(f"the aesthetic head is {list(weight.shape)}; CLIP gives {clip.config.projection_dim}")

    @torch.no_grad()
    def seen(pixels: Tensor) -> Tensor:
        inputs = resized(pixels, clip.config.vision_config.image_size)
        return nn.functional.normalize(clip.get_image_features(pixel_values=inputs).pooler_output, dim=1)

    @torch.no_grad()
    def clip_score(pixels: Tensor, texts: Sequence[str]) -> Tensor:
        words = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(pixels.device)
        read = nn.functional.normalize(clip.get_text_features(**words).pooler_output, dim=1)
        return 100 * (seen(pixels) * read).sum(1)

    return {"CLIP": clip_score, "aesthetic": lambda pixels, _: (seen(pixels) @ weight.T + bias)[:, 0]}


class ImageReward(nn.Module):
    """BLIP (a vision transformer, and a text model that reads its output) with a linear head on the first token."""

    def __init__(self, vision: dict[str, Any], text: dict[str, Any]) -> None:
        from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

        super().__init__()
        self.vision: Any = BlipVisionModel(BlipVisionConfig(layer_norm_eps=1e-6, **vision))
        self.text: Any = BlipTextModel(BlipTextConfig(**text), add_pooling_layer=False)
        widths = (text["hidden_size"], *HIDDEN)
        self.head = nn.Sequential(*(nn.Linear(a, b) for a, b in zip(widths, HIDDEN, strict=False)))

    @classmethod
    def load(cls, folder: Path) -> ImageReward:
        """The published file, whose names of weights are BLIP's own; ``med_config.json`` describes the text model."""
        state = torch.load(folder / "ImageReward.pt", map_location="cpu", weights_only=True)
        given = json.loads((folder / "med_config.json").read_text("utf-8"))
        patches = state["blip.visual_encoder.patch_embed.proj.weight"]
        side = int((state["blip.visual_encoder.pos_embed"].shape[1] - 1) ** 0.5) * patches.shape[2]
        depth = len({k for k in state if re.fullmatch(r"blip\.visual_encoder\.blocks\.\d+\.norm1\.weight", k)})
        width = len(patches)
        vision = {
            "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": depth,
            "num_attention_heads": max(1, width // 64), "image_size": side, "patch_size": patches.shape[2],
        }  # fmt: skip
        names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                 "max_position_embeddings", "layer_norm_eps")  # fmt: skip
        model = cls(vision, {"encoder_hidden_size": width, **{name: given[name] for name in names if name in given}})
        renamed = {new: value for old, value in state.items() if (new := renamed_weight(old)) in model.state_dict()}
        missing = sorted(set(model.state_dict()) - set(renamed))
        if missing:
            raise ReprobookError(f"ImageReward.pt lacks {len(missing)} weights, the first is {missing[0]}")
        model.load_state_dict(renamed)
        return model

    @torch.no_grad()
    def forward(self, pixels: Tensor, words: Any) -> Tensor:
        """Scores (M,), standardised, of pictures (M, 3, H, W) in [0, 1] and their tokens."""
        words = words.to(pixels.device)
        seen = self.vision(pixel_values=resized(pixels, self.vision.config.image_size)).last_hidden_state
        read = self.text(
            input_ids=words.input_ids, attention_mask=words.attention_mask, encoder_hidden_states=seen, is_decoder=False
        )
        return (self.head(read.last_hidden_state[:, 0])[:, 0] - SHIFT) / SCALE


_NAMES = (
    (r"^blip\.text_encoder\.", "text."),
    (r"^mlp\.layers\.(\d+)\.", lambda m: f"head.{(0, 2, 4, 6, 7).index(int(m[1]))}."),  # the others are dropout
    (r"^blip\.visual_encoder\.patch_embed\.proj\.", "vision.embeddings.patch_embedding."),
    (r"^blip\.visual_encoder\.pos_embed$", "vision.embeddings.position_embedding"),
    (r"^blip\.visual_encoder\.cls_token$", "vision.embeddings.class_embedding"),
    (r"^blip\.visual_encoder\.norm\.", "vision.post_layernorm."),
    (r"^blip\.visual_encoder\.blocks\.", "vision.encoder.layers."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
    (r"\.attn\.qkv\.", ".self_attn.qkv."),
    (r"\.norm([12])\.", r".layer_norm\1."),
)


def renamed_weight(name: str) -> str:
    """The name in transformers of a weight of the published file."""
    for pattern, new in _NAMES:
        name = re.sub(pattern, new, name)
    return name


def write_image_reward(folder: Path) -> None:
    """A miniature of the published file: tiny, random, with its names."""
    text = {"vocab_size": 520, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "max_position_embeddings": 64, "layer_norm_eps": 1e-12}  # fmt: skip
    vision = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 1,
              "image_size": 32, "patch_size": 16}  # fmt: skip
    torch.manual_seed(0)
    model = ImageReward(vision, {"encoder_hidden_size": 64, **text})
    state = {published_name(name): value for name, value in model.state_dict().items()}
    torch.save(state, folder / "ImageReward.pt")
    (folder / "med_config.json").write_text(json.dumps(text), "utf-8")


def published_name(name: str) -> str:
    """The other way: the published name of a weight of :class:`ImageReward`."""
    name = re.sub(r"^head\.(\d)\.", lambda m: f"mlp.layers.{(0, 2, 4, 6, 7)[int(m[1])]}.", name)
    for new, old in (
        ("vision.embeddings.patch_embedding", "visual_encoder.patch_embed.proj"),
        ("vision.embeddings.position_embedding", "visual_encoder.pos_embed"),
        ("vision.embeddings.class_embedding", "visual_encoder.cls_token"),
        ("vision.post_layernorm", "visual_encoder.norm"), ("vision.encoder.layers", "visual_encoder.blocks"),
        ("self_attn.projection", "attn.proj"), ("self_attn.qkv", "attn.qkv"), ("layer_norm", "norm"),
    ):  # fmt: skip
        name = name.replace(new, old) if name.startswith(("vision.", "visual_encoder.")) else name
    return name if name.startswith("mlp.") else "blip." + re.sub(r"^text\.", "text_encoder.", name)


def write_head(folder: Path, width: int) -> None:
    """A miniature of the aesthetic head."""
    from safetensors.torch import save_file

    save_file({"predictor.weight": torch.full((1, width), 0.1), "predictor.bias": torch.zeros(1)},
              folder / "model.safetensors")  # fmt: skip
    (folder / "config.json").write_text("{}", "utf-8")
