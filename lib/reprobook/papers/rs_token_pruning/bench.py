"""Reading a large picture: the same descent with every level in memory and by windows; and the whole way from the file
to the answer, against reading all tiles."""

from __future__ import annotations

import math
import multiprocessing
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from reprobook.bench import compare
from reprobook.errors import ReprobookError
from reprobook.hardware import peak_memory_mb
from reprobook.papers.rs_token_pruning.descent import Tokens, descend_by_tiles, token_cells, top_share
from reprobook.papers.rs_token_pruning.model import VisionLanguage
from reprobook.papers.rs_token_pruning.reading import Picture, Pyramid, from_array, open_picture, write_tiled
from reprobook.papers.rs_token_pruning.scenes import WORDS, encode_words

if TYPE_CHECKING:
    from reprobook.bench import Comparison
    from reprobook.papers.rs_token_pruning.model import Built

LEAST = 96
QUESTION = "what color is cross on water"


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


@torch.inference_mode()
def answer(
    model: VisionLanguage, picture: Picture, n_tiles: int | None, keep: float = 0.25, question: str = QUESTION
) -> tuple[np.ndarray, int, int]:
    """From the file to the answer: logits (V,) of the next word, local tokens read, tiles encoded. A descent by windows
    that the module leads, ``n_tiles`` a level, and of the last level's tokens the share ``keep`` by the module; None:
    all tiles of the finest level and all their tokens, which nobody chooses."""
    pyramid, text = Pyramid(picture, model.tile, LEAST), torch.tensor(encode_words(question))
    levels, sizes = pyramid.levels, {"tile": model.tile, "per_tile": model.per_tile}
    thumbnail = torch.from_numpy(pyramid.thumbnail()[None])

    def encode(level: int, tiles: np.ndarray) -> Tokens:
        parts = np.array_split(tiles, max(1, len(tiles) // 256))
        features = [model.encode(torch.from_numpy(pyramid.tiles(level, part))).flatten(0, 2) for part in parts]
        cells, real = token_cells(levels[level], tiles, **sizes)
        at = model.whereabouts(torch.from_numpy(cells), levels[level].cells(**sizes))
        return Tokens(torch.cat(features)[torch.from_numpy(real)] + at, cells)

    def built(tokens: Tokens) -> Built:
        return model.sequence(thumbnail, tokens.features, torch.from_numpy(tokens.cells), text)  # type: ignore[arg-type]

    def score(_: int, tokens: Tokens) -> np.ndarray:
        made = built(tokens)
        last = torch.tensor([[made.x.shape[1] - 1]])
        return model.focus_logits(made.x, last)[-1][0, :, 0, made.local].softmax(-1).mean(0).numpy()

    if n_tiles is None:
        tokens = encode(len(levels) - 1, levels[-1].tiles())
    else:
        tokens = descend_by_tiles(levels, encode, score, n_tiles, **sizes).tokens
        tokens = tokens if keep == 1 else tokens.kept(top_share(score(len(levels) - 1, tokens), keep))
    return model.read(built(tokens).x)[0].numpy(), len(tokens.cells), pyramid.opened + 1


def _model() -> VisionLanguage:
    """The laptop scale's model before training: weights change what is answered, not how long it takes."""
    torch.manual_seed(0)
    return VisionLanguage(len(WORDS), dim=72, pairs=[1]).eval()


def _same_where_nothing_is_left_out(model: VisionLanguage, picture: Picture) -> None:
    """A descent that opens and keeps everything must answer as reading all tiles does."""
    every, whole = (answer(model, picture, n, keep=1.0) for n in (10**9, None))
    if every[1] != whole[1] or not np.allclose(every[0], whole[0], atol=1e-4):
        raise ReprobookError("a descent that leaves nothing out and reading all tiles answer differently")


def headline(side: int = 2048, n_tiles: int = 8) -> Comparison:
    """From a picture of ``side`` pixels to the answer: all tiles and all their tokens over a descent that opens
    ``n_tiles`` a level and keeps a quarter of the tokens. Two methods, so their answers may differ; that both are one
    where nothing is left out is checked first, on a quarter of the side."""
    model, picture = _model(), _noise(side)
    _same_where_nothing_is_left_out(model, _noise(max(side // 4, LEAST)))
    ways: dict[str, Callable[[], np.ndarray]] = {
        "all tiles": lambda: answer(model, picture, None)[0],
        "descent": lambda: answer(model, picture, n_tiles)[0],
    }
    return compare(ways, equal=None, n=3, what=f"the answer about a picture of {side:,} pixels")


def _measured(path: str, n_tiles: int | None) -> tuple[int, int, float, float]:
    model, small = _model(), _noise(256)
    answer(model, small, n_tiles)
    before, begin = peak_memory_mb() or math.nan, time.perf_counter()
    _, tokens, tiles = answer(model, open_picture(path), n_tiles)
    return tiles, tokens, time.perf_counter() - begin, (peak_memory_mb() or math.nan) - before


def whole_picture(
    source: Picture, sides: Sequence[int] = (), n_tiles: int = 8, all_up_to: int = 10_800
) -> list[dict[str, Any]]:
    """Rows by picture (``source`` itself, or its squares of ``sides``; larger ones are enlarged) and way, of a descent
    with pruning and, up to a longer side of ``all_up_to`` pixels, of all tiles: tiles encoded, local tokens read,
    seconds from the file to the answer, and by how many MB the largest resident memory of a process of its own rose
    meanwhile, tensors and all."""
    rows, own = [], multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        for side in sides or (0,):
            scale = max(1, -(-side // min(source.height, source.width)))
            part = side // scale or max(source.height, source.width)
            cut = Picture(min(part, source.height), min(part, source.width), source.read)
            path = str(Path(folder) / "large.tif")
            write_tiled(path, cut, scale)
            ways: dict[str, int | None] = {"descent": n_tiles, "all tiles": None}
            if max(cut.height, cut.width) * scale > all_up_to:
                del ways["all tiles"]
            for way, tiles in ways.items():
                with own.Pool(1) as pool:
                    opened, tokens, seconds, more = pool.apply(_measured, (path, tiles))
                rows.append({"height": cut.height * scale, "width": cut.width * scale, "way": way, "tiles": opened,
                             "tokens": tokens, "seconds": seconds, "MB": more})  # fmt: skip
    return rows


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
