"""Clips as pictures: contact sheets, small PNG texts for records, and an animation with a row per variant."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def strip(videos: Tensor, gap: int = 1) -> np.ndarray:
    """Clips (N, T, 1, H, W) in [-1, 1] as a grey image: a row per clip, a column per frame, ``gap`` pixels between."""
    grey = ((videos[:, :, 0].float().cpu().numpy() + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    framed = np.pad(grey, ((0, 0), (0, 0), (0, gap), (0, gap)), constant_values=255)
    n, t, h, w = framed.shape
    return framed.transpose(0, 2, 1, 3).reshape(n * h, t * w)


def to_text(videos: Tensor) -> str:
    """Clips as a base64 PNG of :func:`strip` without gaps, small enough for a record."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(strip(videos, gap=0)).save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()


def from_text(text: str, n_frames: int) -> Tensor:
    """Clips (N, T, 1, H, W) in [-1, 1] from :func:`to_text`; frames are square."""
    import torch
    from PIL import Image

    image = np.array(Image.open(io.BytesIO(base64.b64decode(text))))
    side = image.shape[1] // n_frames
    grey = image.reshape(-1, side, n_frames, side).transpose(0, 2, 1, 3)
    return torch.from_numpy(grey.copy()).float()[:, :, None] / 127.5 - 1


def animation(rows: Mapping[str, Tensor], zoom: int = 3, frame_ms: int = 180) -> bytes:
    """An animated PNG: a labelled row of clips (N, T, 1, H, W) per variant, all with the same T."""
    from PIL import Image, ImageDraw

    n_frames = next(iter(rows.values())).shape[1]
    images = []
    for k in range(n_frames):
        strips = {name: strip(v[:, k : k + 1].transpose(0, 1)) for name, v in rows.items()}
        height, width = next(iter(strips.values())).shape
        page = Image.new("L", (190 + zoom * width, zoom * height * len(strips)), 255)
        draw = ImageDraw.Draw(page)
        for i, (name, image) in enumerate(strips.items()):
            big = np.kron(image, np.ones((zoom, zoom), np.uint8))
            page.paste(Image.fromarray(big), (190, zoom * height * i))
            draw.text((4, zoom * height * i + 18), name, fill=0, font_size=14)
        images.append(page)
    stream = io.BytesIO()
    images[0].save(stream, "PNG", save_all=True, append_images=images[1:], duration=frame_ms, loop=0, optimize=True)
    return stream.getvalue()
