"""Reading a large picture: the same descent with every level in memory and by windows; and against all tiles."""

from __future__ import annotations

import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from reprobook.bench import compare
from reprobook.papers.rs_token_pruning.descent import Tokens, descend_by_tiles, token_cells
from reprobook.papers.rs_token_pruning.model import VisionLanguage
from reprobook.papers.rs_token_pruning.reading import Picture, Pyramid, from_array, open_picture, write_tiled
from reprobook.papers.rs_token_pruning.scenes import WORDS

if TYPE_CHECKING:
    from reprobook.bench import Comparison

LEAST = 96


def _noise(side: int) -> Picture:
    small = np.random.default_rng(0).integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
    return from_array(np.ascontiguousarray(small.repeat(8, 0).repeat(8, 1)))


def read(model: VisionLanguage, picture: Picture, n_tiles: int | None, whole: bool = False) -> tuple[np.ndarray, int]:
    """Local tokens of a descent that opens ``n_tiles`` tiles a level (None: of all tiles of the finest level), and
    the tiles that were encoded. Tiles are chosen by brightness: what chooses them is no part of this comparison."""
    pyramid = Pyramid(picture, model.tile, LEAST, whole=whole)
    if whole:
        for k in range(len(pyramid.levels)):
            pyramid.tiles(k, np.zeros((1, 2), int))  # the official code builds every level before it selects

    @torch.inference_mode()
    def encode(level: int, tiles: np.ndarray) -> Tokens:
        features = [model.encode(torch.from_numpy(pyramid.tiles(level, part))).flatten(0, 2)
                    for part in np.array_split(tiles, max(1, len(tiles) // 256))]  # fmt: skip
        cells, real = token_cells(pyramid.levels[level], tiles, model.tile, model.per_tile)
        return Tokens(torch.cat(features)[torch.from_numpy(real)], cells)

    if n_tiles is None:
        last = len(pyramid.levels) - 1
        return encode(last, pyramid.levels[last].tiles()).features.numpy(), pyramid.opened  # type: ignore[attr-defined]
    end = descend_by_tiles(pyramid.levels, encode, lambda _, t: t.features.mean(1).numpy(), n_tiles, tile=model.tile,  # type: ignore[attr-defined]
                           per_tile=model.per_tile)  # fmt: skip
    return end.tokens.features.numpy(), pyramid.opened  # type: ignore[attr-defined]


def windows(side: int = 2048, n_tiles: int = 8, n: int = 3) -> Comparison:
    """The same descent, every level built in memory and by windows; the tokens must agree."""
    torch.manual_seed(0)
    model, picture = VisionLanguage(len(WORDS), dim=48).eval(), _noise(side)
    ways: dict[str, Callable[[], np.ndarray]] = {
        "every level in memory": lambda: read(model, picture, n_tiles, whole=True)[0],
        "tiles by windows": lambda: read(model, picture, n_tiles)[0],
    }
    return compare(ways, equal=lambda a, b: np.allclose(a, b, atol=1e-4), n=n,
                   what=f"a descent in a picture of {side:,} pixels")  # fmt: skip


def headline(side: int = 2048, n_tiles: int = 8) -> Comparison:
    """Until the tokens of a picture of ``side`` pixels are there: all tiles of the finest level over a descent that
    opens ``n_tiles`` a level. Two methods, so the tokens are not the same."""
    torch.manual_seed(0)
    model, picture = VisionLanguage(len(WORDS), dim=48).eval(), _noise(side)
    ways: dict[str, Callable[[], np.ndarray]] = {
        "all tiles": lambda: read(model, picture, None)[0],
        "descent": lambda: read(model, picture, n_tiles)[0],
    }
    return compare(ways, equal=None, n=3, what=f"tokens of a picture of {side:,} pixels")


def growth(source: Picture, sides: Sequence[int], n_tiles: int = 8) -> list[dict[str, Any]]:
    """Rows by side of the picture: tiles encoded, seconds, and the largest memory of arrays (MB) while reading, of a
    descent by windows, and up to 5,400 pixels of the same with every level in memory and of all tiles of the finest
    level. Pictures larger than ``source`` are enlarged: their size counts here, not their content."""
    torch.manual_seed(0)
    model, rows = VisionLanguage(len(WORDS), dim=48).eval(), []
    with tempfile.TemporaryDirectory() as folder:
        for side in sides:
            scale = max(1, -(-side // min(source.height, source.width)))
            part = side // scale
            cut = Picture(part, part, source.read)
            path = Path(folder) / "large.tif"
            write_tiled(path, cut, scale)
            ways: dict[str, tuple[int | None, bool]] = {"descent by windows": (n_tiles, False)}
            if side <= 5400:
                ways |= {"descent, levels in memory": (n_tiles, True), "all tiles by windows": (None, False)}
            for way, (tiles, whole) in ways.items():
                tracemalloc.start()
                begin = time.perf_counter()
                _, opened = read(model, open_picture(path), tiles, whole)
                seconds, peak = time.perf_counter() - begin, tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
                rows.append({"side": part * scale, "way": way, "tiles": opened, "seconds": seconds, "MB": peak / 1e6})
    return rows
