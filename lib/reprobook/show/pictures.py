"""Samples as files: pictures and films that stand beside a record and are shown from there."""

from __future__ import annotations

import base64
import io
import textwrap
from typing import Any

from reprobook.errors import ReprobookError
from reprobook.show.figures import png, publish_png
from reprobook.show.output import publish

PNG_SIGNATURE = b"\x89PNG"


def image_bytes(data: Any) -> bytes:
    """``data`` as the bytes of a PNG (or MP4) file: bytes stay; a matplotlib figure is drawn; an array (H, W[, 3]) of
    floats in [0, 1] or of uint8 becomes one pixel per value. Raises :class:`ReprobookError` for anything else."""
    if isinstance(data, bytes):
        if data[:4] != PNG_SIGNATURE and data[4:8] != b"ftyp":
            raise ReprobookError("picture: these bytes are neither a PNG nor an MP4 file")
        return data
    if hasattr(data, "savefig"):
        import matplotlib.pyplot as plt

        plt.close(data)
        return png(data)
    import numpy as np
    from PIL import Image

    array = np.asarray(data)
    if array.ndim not in (2, 3) or (array.dtype != np.uint8 and not ((array >= 0) & (array <= 1)).all()):
        what = f"an array of shape {array.shape} and type {array.dtype}"
        raise ReprobookError(f"picture: {what} is no picture (H, W[, 3]) with values in [0, 1]")
    pixels = array if array.dtype == np.uint8 else np.rint(255 * array).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="png", optimize=True)
    return stream.getvalue()


def picture(image: bytes, caption: str, alt: str) -> None:
    """Show the bytes of a PNG or MP4 file with a caption (Markdown) below it; ``alt`` is for who can't see it."""
    said = textwrap.shorten(alt, 80)
    if image[:4] == PNG_SIGNATURE:
        publish_png(image, alt, f"picture: {said}")
    else:
        text = base64.b64encode(image).decode()
        film = f'<video controls loop muted playsinline aria-label="{alt}" src="data:video/mp4;base64,{text}"></video>'
        publish({"text/html": film, "text/plain": f"film: {said}"})
    markdown(caption)


def markdown(text: str) -> None:
    """Show ``text`` as Markdown."""
    publish({"text/markdown": text, "text/plain": textwrap.shorten(text, 80)})
