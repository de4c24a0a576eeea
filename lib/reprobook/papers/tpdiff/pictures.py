"""Clips as pictures: contact sheets, small PNG texts for records, and an animation with a row per variant."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from reprobook import show

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
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


def kept(table: pd.DataFrame) -> dict[str, Tensor]:
    """Name -> clips of the first seed in a recorded table with columns clips, frames, png and seed."""
    first = table[table["seed"] == table["seed"].min()]
    return {row.clips: from_text(row.png, row.frames) for row in first.itertuples()}


def stages(table: pd.DataFrame) -> Figure:
    """Clips at the end of each stage, of :func:`kept`."""
    import matplotlib.pyplot as plt

    ends = {name: v for name, v in kept(table).items() if name.startswith("end of")}
    widths = [v.shape[1] for v in ends.values()]
    fig, axes = plt.subplots(1, len(ends), figsize=(9.4, 2.6), width_ratios=widths)
    for ax, (name, v), n in zip(np.atleast_1d(axes), ends.items(), widths, strict=True):
        ax.imshow(strip(v), cmap="gray", vmin=0, vmax=255)
        ax.set(title=name, xlabel="frame", ylabel="clip", xticks=np.arange(n) * 17 + 8, yticks=[8, 25, 42, 59])
        ax.set(xticklabels=np.arange(n) * (8 // n), yticklabels=[1, 2, 3, 4])
        ax.grid(False)
    return fig


def sheet(table: pd.DataFrame, names: Sequence[str]) -> Figure:
    """The clips ``names`` of :func:`kept`, a strip each."""
    clips = kept(table)
    fig = show.grid([strip(clips[name]) for name in names], names, columns=2, size=3.6, cmap="gray", vmin=0, vmax=255)
    fig.set_size_inches(9.0, 9.4)
    return fig


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
