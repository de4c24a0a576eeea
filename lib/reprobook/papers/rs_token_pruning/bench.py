"""Reading a large picture, from the file to the answer: a descent with pruning against all tiles, and by windows
against every level in memory."""

from __future__ import annotations

import math
import multiprocessing
import tempfile
import time
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


def _model() -> VisionLanguage:
    """The smoke scale's model before training: weights change what is answered, not how long it takes."""
    torch.manual_seed(0)
    return VisionLanguage(len(WORDS), dim=24, pairs=[1]).eval()


@torch.inference_mode()
def answer(
    model: VisionLanguage, picture: Picture, n_tiles: int | None, *, keep: float = 0.25, whole: bool = False,
    question: str = QUESTION,
) -> tuple[np.ndarray, int, int]:  # fmt: skip
    """From the picture, a file or an array, to the answer: logits (V,) of the next word, local tokens read, tiles
    encoded. A descent that the module leads, ``n_tiles`` a level, and of the last level's tokens the share ``keep`` by
    the module; without ``n_tiles`` all tiles of the finest level and all their tokens, which nobody chooses. ``whole``:
    every level is built in memory before anything is selected, as the official code does; else tiles are read by
    windows."""
    pyramid, text = Pyramid(picture, model.tile, LEAST, whole=whole), torch.tensor(encode_words(question))
    levels, sizes = pyramid.levels, {"tile": model.tile, "per_tile": model.per_tile}
    if whole:
        for k in range(len(levels)):
            pyramid.tiles(k, np.zeros((1, 2), int))
        pyramid.opened = 0
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


def windows(side: int = 2048, n_tiles: int = 8, n: int = 3) -> Comparison:
    """The same descent, every level built in memory and by windows; the answers must agree."""
    model, picture = _model(), _noise(side)
    ways: dict[str, Callable[[], np.ndarray]] = {
        "every level in memory": lambda: answer(model, picture, n_tiles, whole=True)[0],
        "tiles by windows": lambda: answer(model, picture, n_tiles)[0],
    }
    return compare(ways, equal=lambda a, b: np.allclose(a, b, atol=1e-4), n=n,
                   what=f"a descent in a picture of {side:,} pixels")  # fmt: skip


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


def _measured(path: str, n_tiles: int | None, whole: bool) -> tuple[int, int, float, float]:
    model, small = _model(), _noise(256)
    answer(model, small, n_tiles, whole=whole)
    before, begin = peak_memory_mb() or math.nan, time.perf_counter()
    _, tokens, tiles = answer(model, open_picture(path), n_tiles, whole=whole)
    return tiles, tokens, time.perf_counter() - begin, (peak_memory_mb() or math.nan) - before


def growth(source: Picture, sides: Sequence[int], *, n_tiles: int = 8, up_to: int = 5_400) -> list[dict[str, Any]]:
    """Rows by picture and way: tiles encoded, local tokens read, seconds from the file to the answer, and by how many
    MB the largest resident memory of a process of its own rose meanwhile, tensors and all. Pictures are squares of
    ``source`` of each of ``sides``, enlarged where it is smaller (their size counts, not what they show), and
    ``source`` itself where a side is 0. Ways: a descent with pruning; up to a longer side of ``up_to`` pixels and for
    ``source`` itself all tiles; up to ``up_to`` the descent with every level in memory."""
    rows, own = [], multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        for side in sides:
            scale = max(1, -(-side // min(source.height, source.width)))
            part = side // scale or max(source.height, source.width)
            cut = Picture(min(part, source.height), min(part, source.width), source.read)
            height, width = cut.height * scale, cut.width * scale
            path = str(Path(folder) / "large.tif")
            write_tiled(path, cut, scale)
            ways: dict[str, tuple[int | None, bool]] = {"descent": (n_tiles, False)}
            if max(height, width) <= up_to or not side:
                ways["all tiles"] = None, False
            if max(height, width) <= up_to:
                ways["descent, levels in memory"] = n_tiles, True
            for way, (tiles, whole) in ways.items():
                with own.Pool(1) as pool:
                    opened, tokens, seconds, more = pool.apply(_measured, (path, tiles, whole))
                rows.append({"height": height, "width": width, "way": way, "tiles": opened, "tokens": tokens,
                             "seconds": seconds, "MB": more})  # fmt: skip
    return rows
