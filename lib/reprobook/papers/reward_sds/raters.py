"""What scores pictures at paper scale: ImageReward, CLIPScore and the aesthetic head, on pixels in [0, 1]."""

from __future__ import annotations

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
    blip = (
        ImageReward.load(Path(data.path("image-reward")) / "model.safetensors").to(device).eval().requires_grad_(False)
    )
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
    length = clip.config.text_config.max_position_embeddings

    @torch.no_grad()
    def seen(pixels: Tensor) -> Tensor:
        inputs = resized(pixels, clip.config.vision_config.image_size)
        return nn.functional.normalize(clip.get_image_features(pixel_values=inputs).pooler_output, dim=1)

    @torch.no_grad()
    def clip_score(pixels: Tensor, texts: Sequence[str]) -> Tensor:
        words = tokenizer(list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt")
        read = nn.functional.normalize(clip.get_text_features(**words.to(pixels.device)).pooler_output, dim=1)
        return 100 * (seen(pixels) * read).sum(1)

    return {"CLIP": clip_score, "aesthetic": lambda pixels, _: (seen(pixels) @ weight.T + bias)[:, 0]}


class ImageReward(nn.Module):
    """BLIP (a vision transformer, and a text model that reads its output) with a linear head on the first token."""

    def __init__(self, vision: dict[str, int], text: dict[str, int]) -> None:
        from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

        super().__init__()
        self.vision: Any = BlipVisionModel(BlipVisionConfig(layer_norm_eps=1e-6, **vision))
        self.text: Any = BlipTextModel(
            BlipTextConfig(bos_token_id=None, eos_token_id=None, **text), add_pooling_layer=False
        )
        widths = (text["hidden_size"], *HIDDEN)
        self.head = nn.Sequential(*(nn.Linear(a, b) for a, b in zip(widths, HIDDEN, strict=False)))

    @classmethod
    def load(cls, file: str | Path) -> ImageReward:
        """The published weights under their own names; sizes are read off their shapes (heads are 64 wide)."""
        from safetensors.torch import load_file

        state = {renamed_weight(name): value for name, value in load_file(file).items()}
        sizes = []
        for part, layer in (("vision", "layer_norm1"), ("text", "attention.output.LayerNorm")):
            named = re.compile(rf"{part}\.encoder\.layers?\.\d+\.{layer}\.weight")
            found = [value for name, value in state.items() if named.fullmatch(name)]
            if not found:
                raise ReprobookError(f"{Path(file).name} has no layers of the {part} model of ImageReward")
            sizes.append({"hidden_size": len(found[0]), "num_hidden_layers": len(found),
                          "num_attention_heads": max(1, len(found[0]) // 64),
                          "intermediate_size": 4 * len(found[0])})  # fmt: skip
        vision, text = sizes
        vision["patch_size"] = state["vision.embeddings.patch_embedding.weight"].shape[2]
        n_patches = state["vision.embeddings.position_embedding"].shape[1] - 1
        vision["image_size"] = round(n_patches**0.5) * vision["patch_size"]
        text["encoder_hidden_size"] = vision["hidden_size"]
        text["vocab_size"] = len(state["text.embeddings.word_embeddings.weight"])
        text["max_position_embeddings"] = len(state["text.embeddings.position_embeddings.weight"])
        model = cls(vision, text)
        if missing := sorted(set(model.state_dict()) - set(state)):
            name = Path(file).name
            raise ReprobookError(f"{name} lacks {len(missing)} weights of ImageReward, the first is {missing[0]}")
        model.load_state_dict({name: state[name] for name in model.state_dict()})
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


LINEAR = (0, 2, 4, 6, 7)  # places of the linear layers in the published head; the others are dropout
_NAMES = (  # published, in transformers
    ("blip.text_encoder.", "text."),
    ("blip.visual_encoder.patch_embed.proj.", "vision.embeddings.patch_embedding."),
    ("blip.visual_encoder.pos_embed", "vision.embeddings.position_embedding"),
    ("blip.visual_encoder.cls_token", "vision.embeddings.class_embedding"),
    ("blip.visual_encoder.norm.", "vision.post_layernorm."),
    ("blip.visual_encoder.blocks.", "vision.encoder.layers."),
    (".attn.proj.", ".self_attn.projection."),
    (".attn.qkv.", ".self_attn.qkv."),
    (".norm1.", ".layer_norm1."),
    (".norm2.", ".layer_norm2."),
    *((f"mlp.layers.{old}.", f"head.{new}.") for new, old in enumerate(LINEAR)),
)


def renamed_weight(name: str, back: bool = False) -> str:
    """The name in transformers of a published weight, or the other way."""
    for old, new in _NAMES:
        name = name.replace(new, old) if back else name.replace(old, new)
    return name


def write_image_reward(folder: Path) -> None:
    """A miniature of the published file: tiny, random, with its names."""
    from safetensors.torch import save_file

    same = {"num_hidden_layers": 1, "num_attention_heads": 1, "hidden_size": 64, "intermediate_size": 256}
    torch.manual_seed(0)
    model = ImageReward(
        {**same, "image_size": 32, "patch_size": 16},
        {**same, "vocab_size": 520, "max_position_embeddings": 64, "encoder_hidden_size": 64},
    )
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.2)  # the class's own start is next to nothing
    state = {renamed_weight(name, back=True): value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")


def write_head(folder: Path, width: int) -> None:
    """A miniature of the aesthetic head."""
    from safetensors.torch import save_file

    head = {"predictor.weight": torch.full((1, width), 0.1), "predictor.bias": torch.zeros(1)}
    save_file(head, folder / "model.safetensors")
