"""Real small objects: trees with hand-drawn boxes in aerial pictures. A row without a verdict that stresses the method:
the model learns on three pictures and answers on windows of the fourth and largest."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from reprobook.errors import ReprobookError
from reprobook.papers.rs_token_pruning.scenes import PLACES, Item, Question, Scene, as_text, as_tiles, reduced

if TYPE_CHECKING:
    import torch

TEST = "2019_YELL_2_528000_4978000_image_crop2"
MANY = ("none", "few", "many")  # trees whose centre lies in a ninth of the window: 0, up to 3, more
DEAD = {"Dead": 1, "Alive": 0, "Tree": -1}


class Aerial(NamedTuple):
    """Pixels (H, W, 3) uint8 and boxes (n, 5): top, left, bottom, right, dead (1), alive (0) or not said (-1)."""

    name: str
    pixels: np.ndarray
    boxes: np.ndarray


def load(folder: str | Path) -> list[Aerial]:
    """The four pictures of the artefact ``aerial-trees``."""
    from PIL import Image

    found = []
    for path in sorted(Path(folder).rglob("*.xml")):
        boxes = [
            [int(float(box.findtext(f"bndbox/{side}", "0"))) for side in ("ymin", "xmin", "ymax", "xmax")]
            + [DEAD[box.findtext("name", "Tree")]] for box in ET.parse(path).getroot().iter("object")
        ]  # fmt: skip
        picture = path.with_suffix(".png")
        if not picture.is_file():
            raise ReprobookError(f"{path.name} has no picture {picture.name} beside it")
        found.append(Aerial(path.stem, np.asarray(Image.open(picture).convert("RGB")), np.array(boxes).reshape(-1, 5)))
    return found


def ninths(boxes: np.ndarray, top: int, left: int, side: int) -> np.ndarray:
    """(9,) trees whose centre lies in each ninth of the window, rows first."""
    centre = np.stack([boxes[:, [0, 2]].mean(1) - top, boxes[:, [1, 3]].mean(1) - left], 1)
    inside = centre[((centre >= 0) & (centre < side)).all(1)]
    at = np.floor(inside * 3 / side).astype(int)
    return np.bincount(at[:, 0] * 3 + at[:, 1], minlength=9)


def questions(boxes: np.ndarray, top: int, left: int, side: int) -> list[Question]:
    """How many trees in each ninth, whether there is one, and which ninth has the most or none (if one has)."""
    counts = ninths(boxes, top, left, side)
    found = []
    for k, n in enumerate(counts.tolist()):
        found.append(Question("how many", f"how many trees in {PLACES[k]}", MANY[(n > 0) + (n > 3)], k))
        found.append(Question("is there", f"is there a tree in {PLACES[k]}", "yes" if n else "no", k))
    if (counts == counts.max()).sum() == 1:
        found.append(Question("most", "which part has most trees", PLACES[int(counts.argmax())], int(counts.argmax())))
    if (counts == 0).sum() == 1:
        found.append(Question("no tree", "which part has no tree", PLACES[int(counts.argmin())], int(counts.argmin())))
    return found


def dead_or_alive(pictures: list[Aerial]) -> dict[str, int]:
    """Boxes that say so, by picture: one picture alone has them, so the question cannot be asked of another one."""
    return {each.name: int((each.boxes[:, 4] >= 0).sum()) for each in pictures}


def training_batches(
    pictures: list[Aerial], *, batch_size: int, least: int, n_turns: int = 3, seed: int = 0
) -> Callable[[int], dict[str, torch.Tensor]]:
    """As :func:`.scenes.training_batches`, of windows of the pictures that are not the test's, turned and mirrored."""
    import torch

    own = [each for each in pictures if each.name != TEST]

    def batch(i: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([seed, 11, i])
        wholes, texts = [], []
        for _ in range(batch_size):
            picture = own[rng.choice(len(own), p=[len(p.boxes) / sum(len(q.boxes) for q in own) for p in own])]
            height, width = picture.pixels.shape[:2]
            side = int(min(least * rng.choice([1, 2, 4]), height, width)) // 3 * 3
            top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
            pixels, boxes = picture.pixels[top : top + side, left : left + side], picture.boxes
            if rng.random() < 0.5:
                pixels, boxes = pixels[:, ::-1], _mirrored(boxes, left, side)
            wholes.append(reduced(pixels, least))
            possible = questions(boxes, top, left, side)
            texts.append([possible[k] for k in rng.permutation(len(possible))[:n_turns]])
        return {**as_tiles(torch.stack(wholes)), **as_text(texts, n_turns)}

    return batch


def _mirrored(boxes: np.ndarray, left: int, side: int) -> np.ndarray:
    out = boxes.copy()
    out[:, 1], out[:, 3] = 2 * left + side - boxes[:, 3], 2 * left + side - boxes[:, 1]
    return out


def make_items(pictures: list[Aerial], side: int, n_windows: int, seed: int = 0) -> list[Item]:
    """One question of each kind about ``n_windows`` windows of the test picture. The unit of resampling is the window;
    the target is the ninth that is asked about, as a box."""
    picture = next(each for each in pictures if each.name == TEST)
    rng, items = np.random.default_rng([seed, 5]), []
    height, width = picture.pixels.shape[:2]
    for k in range(n_windows):
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        pixels = picture.pixels[top : top + side, left : left + side]
        possible = questions(picture.boxes, top, left, side)
        grid = np.stack([*np.divmod(np.arange(9), 3)], 1) * (side // 3)
        objects = np.column_stack([grid, np.full((9, 1), side // 3), np.zeros((9, 3), int)])
        for kind in ("how many", "is there", "most", "no tree"):
            asked = [q for q in possible if q.kind == kind]
            if asked:
                question = asked[int(rng.integers(len(asked)))]
                items.append(Item(f"w{k}-{kind}", f"w{k}", Scene(pixels, objects), question, 1 / 9))
    return items
