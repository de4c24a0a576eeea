"""Images as small PNG texts for records, and an animation with a column per variant."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor


def sheet(images: Tensor, columns: int, gap: int = 1) -> np.ndarray:
    """Images (N, 3, H, W) in [-1, 1] as one RGB array, ``columns`` a row, white lines of ``gap`` pixels between."""
    n, _, h, w = images.shape
    rows = -(-n // columns)
    pixels = ((images.float().cpu().permute(0, 2, 3, 1).numpy() + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    page = np.full((rows * columns, h + gap, w + gap, 3), 255, np.uint8)
    page[:n, :h, :w] = pixels
    page = page.reshape(rows, columns, h + gap, w + gap, 3).transpose(0, 2, 1, 3, 4)
    return page.reshape(rows * (h + gap), columns * (w + gap), 3)


def to_text(images: Tensor) -> str:
    """Images (N, 3, H, W) in [-1, 1] side by side as a base64 PNG, small enough for a record."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(sheet(images, len(images), gap=0)).save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()


def from_text(text: str) -> Tensor:
    """Square images (N, 3, H, H) in [-1, 1] from :func:`to_text`."""
    from PIL import Image

    page = np.array(Image.open(io.BytesIO(base64.b64decode(text))))
    h = len(page)
    return torch.from_numpy(page).float().view(h, -1, h, 3).permute(1, 3, 0, 2) / 127.5 - 1


def animation(columns: Mapping[str, Tensor], zoom: int = 5, frame_ms: int = 160) -> bytes:
    """An animated PNG: a labelled picture per variant, whose frames (T, 3, H, W) run in step, to and fro."""
    from PIL import Image, ImageDraw

    n, _, h, w = next(iter(columns.values())).shape
    pages = []
    for k in [*range(n), *range(n - 2, 0, -1)]:
        page = Image.new("RGB", ((zoom * w + 8) * len(columns), zoom * h + 22), "white")
        draw = ImageDraw.Draw(page)
        for i, (name, frames) in enumerate(columns.items()):
            tile = Image.fromarray(sheet(frames[k : k + 1], 1, gap=0)).resize((zoom * w, zoom * h), 0)
            page.paste(tile, ((zoom * w + 8) * i, 22))
            draw.text(((zoom * w + 8) * i + 2, 2), name, fill="black", font_size=13)
        pages.append(page)
    stream = io.BytesIO()
    pages[0].save(stream, "PNG", save_all=True, append_images=pages[1:], duration=frame_ms, loop=0, optimize=True)
    return stream.getvalue()
