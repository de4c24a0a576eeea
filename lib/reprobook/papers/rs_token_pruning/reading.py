"""Tiles of pictures that never are in memory whole: windows of a raster file, resized strip by strip."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse

from reprobook.errors import ReprobookError
from reprobook.papers.rs_token_pruning.pyramid import pyramid, thumbnail

if TYPE_CHECKING:
    from reprobook.papers.rs_token_pruning.pyramid import Level

STRIP = 4_000_000  # pixels of the source in memory at once


class Picture(NamedTuple):
    """``read(top, bottom, left, right)`` gives that window as (h, w, 3) uint8."""

    height: int
    width: int
    read: Callable[[int, int, int, int], np.ndarray]


def from_array(pixels: np.ndarray) -> Picture:
    """A picture in memory, (H, W, 3) uint8."""
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ReprobookError(f"pixels must be (H, W, 3) of uint8, got {pixels.shape} of {pixels.dtype}")
    return Picture(pixels.shape[0], pixels.shape[1], lambda top, bottom, left, right: pixels[top:bottom, left:right])


def open_picture(path: str | Path) -> Picture:
    """A raster file of any kind that GDAL reads. One band becomes grey; of several the first three count. Values of
    more than 8 bits are stretched between their 2nd and 98th percentile; what the file calls *no data* is black.

    Raises :class:`ReprobookError` for a file that is no picture, holds no data, or is cut off (at once, or where it
    ends)."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            file = rasterio.open(path)
        bands = [1, 2, 3] if file.count >= 3 else [1, 1, 1]
        thin = (len(bands), min(file.height, 512), min(file.width, 512))
        sample = file.read(bands, out_shape=thin, masked=True) if file.dtypes[0] != "uint8" else None
    except RasterioError as error:
        raise ReprobookError(f"{Path(path).name} cannot be read as a picture: {error}") from error
    if sample is not None and not sample.count():
        raise ReprobookError(f"{Path(path).name} holds no data: every value that was looked at is its *no data*")
    low, high = (0.0, 255.0) if sample is None else np.nanpercentile(sample.compressed().astype(float), [2, 98])

    def read(top: int, bottom: int, left: int, right: int) -> np.ndarray:
        try:
            found = file.read(bands, window=((top, bottom), (left, right)), masked=True)
        except RasterioError as error:
            raise ReprobookError(f"{Path(path).name} is broken in rows {top} to {bottom}: {error}") from error
        if sample is not None:
            found = np.clip((found.astype(np.float32) - low) / max(high - low, 1e-9), 0, 1) * 255
        return np.moveaxis(np.ma.filled(found, 0), 0, 2).astype(np.uint8)

    return Picture(file.height, file.width, read)


def write_tiled(path: str | Path, picture: Picture, scale: int = 1) -> None:
    """Write ``picture``, each pixel repeated ``scale`` times along both sides, as a tiled TIFF, strip by strip."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
    shape = {"height": picture.height * scale, "width": picture.width * scale, "count": 3, "dtype": "uint8"}
    layout = {"driver": "GTiff", "tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate",
              "zlevel": 1, "BIGTIFF": "IF_SAFER"}  # fmt: skip
    step = max(1, 512 // scale)
    with rasterio.open(path, "w", **shape, **layout) as file:
        for top in range(0, picture.height, step):
            strip = picture.read(top, min(top + step, picture.height), 0, picture.width)
            strip = strip.repeat(scale, 0).repeat(scale, 1)
            file.write(np.moveaxis(strip, 2, 0), window=((top * scale, top * scale + len(strip)), (0, strip.shape[1])))


@functools.lru_cache(maxsize=256)
def _weights(n_in: int, n_out: int, begin: int, end: int) -> tuple[int, sparse.csr_matrix]:
    """Weights of bilinear resizing with anti-aliasing (a triangle as wide as the step, as Pillow has it) for outputs
    ``begin:end``: the first input that counts, and (end - begin, inputs) rows that sum to one."""
    step = n_in / n_out
    reach = max(step, 1.0)
    centres = (np.arange(begin, end) + 0.5) * step
    first = np.maximum(np.floor(centres - reach).astype(int), 0)
    offsets = np.arange(int(2 * reach) + 3)
    at = first[:, None] + offsets
    values = np.clip(1 - np.abs(at + 0.5 - centres[:, None]) / reach, 0, None) * (at < n_in)
    values /= values.sum(1, keepdims=True)
    rows = np.broadcast_to(np.arange(end - begin)[:, None], at.shape)[values > 0]
    low, high = at[values > 0].min(), at[values > 0].max() + 1
    shape, places = (end - begin, high - low), (rows, at[values > 0] - low)
    return int(low), sparse.csr_matrix((values[values > 0].astype(np.float32), places), shape=shape)


def resized(picture: Picture, level: Level, top: int, bottom: int, left: int, right: int) -> np.ndarray:
    """Window ``top:bottom, left:right`` of the picture resized to the level's size, (h, w, 3) uint8. No more than
    :data:`STRIP` pixels of the picture (or one of its rows) are in memory at once."""
    if (level.height, level.width) == (picture.height, picture.width):
        return picture.read(top, bottom, left, right)
    y, down = _weights(picture.height, level.height, top, bottom)
    x, across = _weights(picture.width, level.width, left, right)
    height, width = down.shape[1], across.shape[1]
    out = np.zeros((bottom - top, 3, right - left), np.float32)
    step = max(1, STRIP // width)
    for at in range(0, height, step):
        end = min(at + step, height)
        strip = picture.read(y + at, y + end, x, x + width).astype(np.float32)
        narrow = (across @ strip.transpose(1, 0, 2).reshape(width, -1)).reshape(right - left, end - at, 3)
        flat = np.ascontiguousarray(narrow.transpose(1, 2, 0)).reshape(end - at, -1)
        out += (down[:, at:end] @ flat).reshape(out.shape)
    return np.round(out.transpose(0, 2, 1)).clip(0, 255).astype(np.uint8)


class Pyramid:
    """The layers of a picture, read tile by tile; ``opened`` counts the tiles. ``whole`` keeps resized levels in
    memory, which is quicker for small pictures."""

    def __init__(self, picture: Picture, tile: int, least: int, rule: str = "code", whole: bool = False) -> None:
        self.picture, self.tile, self.whole, self.opened = picture, tile, whole, 0
        self.levels = pyramid(picture.height, picture.width, tile=tile, least=least, rule=rule)
        self._kept: dict[Level, np.ndarray] = {}

    def thumbnail(self) -> np.ndarray:
        """(tile, tile, 3) uint8, zeros beyond the picture."""
        return self._tile(thumbnail(self.picture.height, self.picture.width, self.tile), 0, 0)

    def tiles(self, level: int, cells: np.ndarray) -> np.ndarray:
        """(n, tile, tile, 3) uint8 of the tiles (n, 2) of level number ``level`` (0 the coarsest)."""
        self.opened += len(cells)
        found = [self._tile(self.levels[level], row, col) for row, col in cells.tolist()]
        return np.stack(found) if found else np.zeros((0, self.tile, self.tile, 3), np.uint8)

    def _tile(self, level: Level, row: int, col: int) -> np.ndarray:
        if not (0 <= row < level.rows and 0 <= col < level.cols):
            raise ReprobookError(f"tile {row}, {col} is none of {level.rows} x {level.cols}")
        top, left = row * self.tile, col * self.tile
        bottom, right = min(top + self.tile, level.height), min(left + self.tile, level.width)
        out = np.zeros((self.tile, self.tile, 3), np.uint8)
        out[: bottom - top, : right - left] = self._window(level, top, bottom, left, right)
        return out

    def _window(self, level: Level, top: int, bottom: int, left: int, right: int) -> np.ndarray:
        if not self.whole:
            return resized(self.picture, level, top, bottom, left, right)
        if level not in self._kept:
            self._kept[level] = resized(self.picture, level, 0, level.height, 0, level.width)
        return self._kept[level][top:bottom, left:right]
