"""Text-guided editing of video frames by DDIM inversion and equivariant attention to the first frame (released script).

Each frame is inverted with an empty prompt and drawn again with the new one; in both directions all frames attend to
the first. There is no other mechanism for consistency.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from reprobook.errors import ReprobookError
from reprobook.papers.alias_free_ldm.models import schedulers

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reprobook.papers.alias_free_ldm.attention import Memory
    from reprobook.papers.alias_free_ldm.models import Latents

SD_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012}  # Stable Diffusion's own, scaled linear as well


def text_encoder(folder: Any, device: torch.device) -> Callable[[list[str]], Tensor]:
    """Texts -> (n, tokens, width) by the CLIP text encoder in ``folder``."""
    from transformers import CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").to(device).eval()
    longest = encoder.config.max_position_embeddings

    @torch.no_grad()
    def embed(texts: list[str]) -> Tensor:
        words = tokenizer(texts, padding="max_length", max_length=longest, truncation=True, return_tensors="pt")
        return encoder(words.input_ids.to(device)).last_hidden_state

    return embed


@torch.no_grad()
def edit_frames(
    unet: nn.Module, latents: Latents, embed: Callable[[list[str]], Tensor], frames: Tensor, prompt: str, *,
    n_steps: int = 50, strength: float = 0.7, guidance: float = 7.5, memory: Memory | None = None,
) -> Tensor:  # fmt: skip
    """Frames (T, 3, H, W) in [-1, 1] edited to ``prompt``, one after the other; the first is the reference.

    ``strength``: the share of the ``n_steps`` that are inverted and drawn again, in (0, 1]; ``guidance`` weighs the
    prompt against the empty one. Without ``memory`` every frame stands alone (the plain baseline)."""
    if not 0 < strength <= 1:
        raise ReprobookError(f"strength must be in (0, 1], got {strength}")
    device = next(unet.parameters()).device
    count = max(1, round(strength * n_steps))
    empty, asked = embed([""]), embed([prompt])
    sampler, inverse = schedulers(n_steps, **SD_SCHEDULE)

    def around(i: int, t: Tensor) -> Any:
        if memory is None:
            from contextlib import nullcontext

            return nullcontext()
        return memory.load(int(t)) if i else memory.store(int(t))

    z, edited = latents.encode(frames).to(device), []
    for i in range(len(z)):  # inversion; all frames before the maps of this direction are forgotten
        one = z[i : i + 1]
        for t in inverse.timesteps[:count]:
            with around(i, t):
                predicted = unet(one, t.to(device), empty).sample
            one = inverse.step(predicted, t, one).prev_sample
        edited.append(one)
    if memory is not None:
        memory.clear()
    for i, one in enumerate(edited):
        for t in sampler.timesteps[n_steps - count :]:
            with around(i, t):
                without, given = unet(one.repeat(2, 1, 1, 1), t.to(device), torch.cat([empty, asked])).sample.chunk(2)
            one = sampler.step(without + guidance * (given - without), t, one).prev_sample
        edited[i] = one
    if memory is not None:
        memory.clear()
    return latents.decode(torch.cat(edited).cpu())
