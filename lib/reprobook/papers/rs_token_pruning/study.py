"""The experiments: one row for each test question and way of reading its picture, and what is compared."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from reprobook.errors import ReprobookError
from reprobook.papers.rs_token_pruning import reducers
from reprobook.papers.rs_token_pruning.descent import (
    Tokens,
    descend,
    descend_by_tiles,
    token_cells,
    top_share,
)
from reprobook.papers.rs_token_pruning.distill import distillation, first_and_last
from reprobook.papers.rs_token_pruning.model import Naming, local_places, pooled
from reprobook.papers.rs_token_pruning.reading import Pyramid, from_array
from reprobook.papers.rs_token_pruning.scenes import COLOURS, GROUNDS, KINDS, SHAPES, encode_words, invisible
from reprobook.papers.rs_token_pruning.scoring import blind_answers

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.papers.rs_token_pruning.descent import (
        Found,
        Score,
    )
    from reprobook.papers.rs_token_pruning.model import VisionLanguage
    from reprobook.papers.rs_token_pruning.scenes import Item

CHOOSERS = ("module", "teacher", "likeness", "colour saliency", "random", "oracle")
RIVALS = ("FastV", "PyramidDrop", "VisionZip-like", "PruMerge-like", "likeness", "colour saliency")
REDUCERS = ("all tokens", "module", "teacher, read afresh", *RIVALS, "random", "objects kept")
FIXED = ("thumbnail", "first level", "oracle tile")
WHOLE = "all tiles"


# ------------------------------------------------------------------------------------------------- training


def loss(style: str) -> Callable[[VisionLanguage, Mapping[str, Tensor]], tuple[Tensor, dict[str, Tensor]]]:
    """Cross-entropy of the answers plus distillation in ``style`` of the first and the last pair of layers, both in the
    log."""

    def total(model: VisionLanguage, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        n = math.isqrt(batch["tiles"].shape[1])
        logits, teacher, student, shown, local = model(
            batch["thumbnails"], batch["tiles"], batch["text"], batch["at"], (n, n)
        )
        turns = batch["turns"]
        answers = torch.nn.functional.cross_entropy(logits[turns], batch["answers"][turns])
        places = local_places(local, n * model.per_tile)
        vision = torch.cat([torch.arange(shown.stop), places])
        teacher, student = first_and_last(teacher), first_and_last(student)
        module = distillation(teacher, student, vision, places, style=style, turns=turns)
        return answers + module, {"answers": answers, "module": module}

    return total


def naming(model: VisionLanguage) -> Naming:
    """The model's encoder and words, to be trained to name what a token holds."""
    names = {"colour": COLOURS, "shape": SHAPES, "ground": GROUNDS}
    return Naming(model, {what: encode_words(" ".join(words)) for what, words in names.items()})


def naming_loss(model: Naming, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum of the cross-entropies of colour, shape and ground."""
    parts = {
        name: torch.nn.functional.cross_entropy(logits.flatten(0, 2), batch[name].flatten())
        for name, logits in model(batch["tiles"]).items()
    }
    return torch.stack(list(parts.values())).sum(), parts


def while_naming(batch: Mapping[str, Tensor]) -> Callable[[Naming, int], dict[str, float]]:
    """Accuracy of colour, shape and ground where there is an object."""
    there = batch["colour"] < len(COLOURS)

    def evaluate(model: Naming, _: int) -> dict[str, float]:
        logits = model(batch["tiles"].to(model.encoder.place.device))
        return {k: float((each.argmax(-1).cpu() == batch[k])[there].float().mean()) for k, each in logits.items()}

    return evaluate


def while_learning(batch: Mapping[str, Tensor]) -> Callable[[VisionLanguage, int], dict[str, float]]:
    """Accuracy by kind of answer on a held-out batch of first levels."""

    def evaluate(model: VisionLanguage, _: int) -> dict[str, float]:
        device = model.newline.device
        moved = {name: each.to(device) for name, each in batch.items()}
        n = math.isqrt(batch["tiles"].shape[1])
        logits = model(moved["thumbnails"], moved["tiles"], moved["text"], moved["at"], (n, n))[0]
        right = (logits.argmax(-1) == moved["answers"])[moved["turns"]].cpu()
        kind = batch["kinds"][batch["turns"]]
        return {name: float(right[kind == k].float().mean()) for k, name in enumerate(KINDS) if (kind == k).any()}

    return evaluate


# ------------------------------------------------------------------------------------------------- one question


class Asked:
    """A trained model before one test picture with its question. Tiles are encoded when they are opened, once.
    ``pretrained``: encoder and words as they were after naming, for the chooser *likeness*."""

    def __init__(
        self, model: VisionLanguage, item: Item, least: int, seed: int = 0, pretrained: Naming | None = None
    ) -> None:
        self.model, self.item, self.pretrained = model, item, pretrained
        self.pyramid = Pyramid(from_array(item.scene.pixels), model.tile, least, whole=True)
        self.levels = self.pyramid.levels
        self.device = model.newline.device
        self.text = torch.tensor(encode_words(item.question.text), device=self.device)
        self.answer = encode_words(item.question.answer)[0]
        self._thumbnail = torch.from_numpy(self.pyramid.thumbnail()[None]).to(self.device)
        self._features: dict[tuple[int, int, int], Tensor] = {}
        self._rng = np.random.default_rng([seed, *map(ord, item.id)])

    def pixels(self, level: int, tiles: np.ndarray) -> Tensor:
        """(n, B, B, 3) of the tiles."""
        return torch.from_numpy(self.pyramid.tiles(level, tiles)).to(self.device)

    def encode(self, level: int, tiles: np.ndarray) -> Tokens:
        """Local tokens of ``tiles``, padding left out."""
        new = np.array([t for t in tiles.tolist() if (level, *t) not in self._features]).reshape(-1, 2)
        if len(new):
            made = self.model.encode(self.pixels(level, new)).flatten(1, 2)
            self._features.update({(level, r, c): f for (r, c), f in zip(new.tolist(), made, strict=True)})
        cells, real = token_cells(self.levels[level], tiles, self.model.tile, self.model.per_tile)
        features = torch.cat([self._features[level, r, c] for r, c in tiles.tolist()])[torch.from_numpy(real)]
        return Tokens(features + self._whereabouts(level, cells), cells)

    def sequence(self, tokens: Tokens | None) -> Any:
        """The sequence that the language model reads; None: thumbnail and question alone."""
        if tokens is None or not len(tokens.cells):
            empty = torch.zeros(0, 2, dtype=torch.long, device=self.device)
            return self.model.sequence(self._thumbnail, self.model.newline.new_zeros(0, len(self.model.newline)), empty,
                                       self.text)  # fmt: skip
        cells = torch.from_numpy(tokens.cells).to(self.device)
        return self.model.sequence(self._thumbnail, tokens.features, cells, self.text)  # type: ignore[arg-type]

    def right(self, tokens: Tokens | None, prune: Callable[[Any], reducers.Prune] | None = None) -> bool:
        """Whether the most probable word of the whole vocabulary is the answer."""
        built = self.sequence(tokens)
        logits = self.model.read(built.x, prune(built) if prune else None)
        return int(logits[0].argmax()) == self.answer

    # --------------------------------------------------------------------------------------- choosers

    def scores(self, chooser: str | int) -> Score:
        """``chooser`` of :data:`CHOOSERS`, or a layer of the language model, as a function of a level and its
        tokens."""
        if isinstance(chooser, int):
            return lambda _, tokens: self._attended(tokens, lambda x, at: self.model.teacher_logits(x, at, [chooser]))
        ways: dict[str, Score] = {
            "module": lambda _, tokens: self._attended(tokens, self.model.focus_logits),
            "teacher": lambda _, tokens: self._attended(tokens, self.model.teacher_logits),
            "colour saliency": self._saliency,
            "random": lambda _, tokens: self._rng.random(len(tokens.cells)),
            "oracle": lambda level, tokens: (
                self.holds(level, tokens.cells, self.model.tile // self.model.per_tile) * 1.0
            ),
        }
        if self.pretrained:
            ways["likeness"] = self._likeness
        if chooser not in ways:
            raise ReprobookError(f"chooser must be one of {', '.join(ways)}, got {chooser!r}")
        return ways[chooser]

    def _attended(self, tokens: Tokens, logits: Callable[[Tensor, Tensor], list[Tensor]]) -> np.ndarray:
        """Attention of the last word of the question to local tokens: softmax over these alone, mean over heads."""
        built = self.sequence(tokens)
        at = torch.tensor([[built.x.shape[1] - 1]], device=self.device)
        weights = logits(built.x, at)[-1][0, :, 0, built.local].softmax(-1).mean(0)
        return weights.detach().float().cpu().numpy()

    def _likeness(self, level: int, tokens: Tokens) -> np.ndarray:
        """Of each token, as the encoder gives it, with the question's words, as pre-training aligned the two."""
        own = tokens.features - self._whereabouts(level, tokens.cells)  # type: ignore[operator]
        assert self.pretrained
        return self.pretrained.likeness(own, self.text.tolist()).detach().float().cpu().numpy()

    def _whereabouts(self, level: int, cells: np.ndarray) -> Tensor:
        grid = self.levels[level].cells(self.model.tile, self.model.per_tile)
        return self.model.whereabouts(torch.from_numpy(cells).to(self.device), grid)

    def _saliency(self, level: int, tokens: Tokens) -> np.ndarray:
        """Most saturated pixel of each token's square (largest minus smallest channel, above the median of what was
        opened); sees no question."""
        side, whole = self.model.tile // self.model.per_tile, self.pyramid.levels[level]
        tiles = np.unique(tokens.cells // self.model.per_tile, axis=0)
        pixels = self.pyramid.tiles(level, tiles).astype(int)
        chroma = pixels.max(-1) - pixels.min(-1)
        chroma = np.abs(chroma - np.median(chroma)).reshape(
            len(tiles), self.model.per_tile, side, self.model.per_tile, side
        )
        best = chroma.max((2, 4)).reshape(len(tiles), -1)
        _, real = token_cells(whole, tiles, self.model.tile, self.model.per_tile)
        order = {tuple(c): v for c, v in zip(
            token_cells(whole, tiles, self.model.tile, self.model.per_tile)[0].tolist(), best.ravel()[real], strict=True
        )}  # fmt: skip
        return np.array([order[tuple(c)] for c in tokens.cells.tolist()], float)

    def holds(self, level: int, cells: np.ndarray, side: float, any_object: bool = False) -> np.ndarray:
        """(n,) whether squares of ``side`` pixels at ``cells`` of a level hold the centre of the target, or of any
        object."""
        objects = self.item.scene.objects if any_object else self.item.scene.objects[[self.item.question.target]]
        scale = np.array(self.levels[level][:2]) / len(self.item.scene.pixels)
        centres = np.floor((objects[:, :2] + objects[:, 2:3] / 2) * scale / side)
        return (cells[:, None] == centres).all(2).any(1)

    def found(self, descent: Found) -> bool:
        """Whether an opened tile of the finest level holds the target's centre."""
        last = len(self.levels) - 1
        return descent.level == last and bool(self.holds(last, descent.opened[-1], self.model.tile).any())

    def oracle_tile(self) -> Tokens:
        """The tokens of the finest tile that holds the target."""
        last = len(self.levels) - 1
        tiles = self.levels[last].tiles()
        return self.encode(last, tiles[self.holds(last, tiles, self.model.tile)])


# ------------------------------------------------------------------------------------------------- experiments


@torch.inference_mode()
def choose_tiles(
    model: VisionLanguage, items: Iterable[Item], *, least: int, n_tiles: int, curve: Sequence[int] = (), seed: int = 0,
    pretrained: Naming | None = None, whole_up_to: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Every chooser with ``n_tiles`` tiles a level and (not the teacher) those of ``curve``, and the rows that choose
    nothing; likeness where there is a ``pretrained``. *All tiles*, as many as ``tiles`` says: of each finer level of at
    most ``whole_up_to`` pixels a side; a larger picture is read reduced, as a model with a limit of tiles reads it.
    Columns: question, picture, kind, side, share, invisible, ninth by teacher and ninth by saliency (whether the best
    ninth of the first level's tokens, by either, holds the target), way, tiles (a level), right, found, encoded (tiles
    in all)."""
    choosers = [chooser for chooser in CHOOSERS if pretrained or chooser != "likeness"]
    rows = []
    for item in items:
        asked = Asked(model, item, least, seed, pretrained)
        told = {"question": item.id, "picture": item.picture, "kind": item.question.kind,
                "side": len(item.scene.pixels), "share": item.share, "invisible": invisible(item, least)}  # fmt: skip
        first = asked.encode(0, asked.levels[0].tiles())
        for by, chooser in (("teacher", "teacher"), ("saliency", "colour saliency")):
            ninth = top_share(asked.scores(chooser)(0, first), 1 / 9)
            told[f"ninth by {by}"] = bool(asked.holds(0, first.cells[ninth], model.tile / model.per_tile).any())
        for way, tokens in zip(FIXED, (None, first, asked.oracle_tile()), strict=True):
            n = 0 if tokens is None else len(asked.levels[0].tiles()) if way == "first level" else 1
            rows.append({**told, "way": way, "tiles": 0, "right": asked.right(tokens), "found": way == "oracle tile",
                         "encoded": n + 1})  # fmt: skip
        for at, level in enumerate(asked.levels[1:], 1):
            if max(level.height, level.width) <= whole_up_to:
                grid = level.tiles()
                rows.append({**told, "way": WHOLE, "tiles": len(grid), "right": asked.right(asked.encode(at, grid)),
                             "found": at == len(asked.levels) - 1, "encoded": 1 + len(grid)})  # fmt: skip
        for chooser in choosers:
            for n in dict.fromkeys([n_tiles, *(curve if chooser != "teacher" else ())]):
                end = descend_by_tiles(asked.levels, asked.encode, asked.scores(chooser), n, tile=model.tile,
                                       per_tile=model.per_tile)  # fmt: skip
                rows.append({**told, "way": chooser, "tiles": n, "right": asked.right(end.tokens),
                             "found": asked.found(end), "encoded": 1 + end.n_tiles})  # fmt: skip
    return pd.DataFrame(rows)


@torch.inference_mode()
def reduce_tokens(
    model: VisionLanguage, items: Iterable[Item], *, least: int, shares: Sequence[float] = (0.25,), keep: float = 0.25,
    seed: int = 0, pretrained: Naming,
) -> pd.DataFrame:  # fmt: skip
    """All tiles of the finest level encoded, then every reducer keeps ``keep`` of the tokens, and the module also each
    of ``shares``, as does *objects kept*: the tiles of all objects and others by chance, so that length alone
    differs. Columns: question, picture, way, keep, right."""
    rows = []
    for item in items:
        asked = Asked(model, item, least, seed, pretrained)
        for (way, share), (tokens, prune) in _reduced(asked, keep, shares).items():
            told = {"question": item.id, "picture": item.picture, "way": way, "keep": share}
            rows.append({**told, "right": asked.right(tokens, prune)})
    return pd.DataFrame(rows)


def _reduced(
    asked: Asked, keep: float, shares: Sequence[float]
) -> dict[tuple[str, float], tuple[Tokens, Callable[[Any], reducers.Prune] | None]]:
    """What each reducer hands to the language model, and what it drops inside of it."""
    model, last = asked.model, len(asked.levels) - 1
    tiles = asked.levels[last].tiles()
    tokens = asked.encode(last, tiles)
    best, layers = int(keep * len(tokens.cells)), tuple(range(1, len(model.layers)))
    by = {name: asked.scores(name)(last, tokens) for name in ("module", "random", "teacher", *RIVALS[4:])}
    objects = by["random"] + asked.holds(last, tokens.cells // model.per_tile, model.tile, any_object=True)
    received = pooled(model.encoder.received(asked.pixels(last, tiles))[..., None])[..., 0]
    _, real = token_cells(asked.levels[last], tiles, model.tile, model.per_tile)
    zipped = reducers.per_tile_top(received, keep).flatten()[torch.from_numpy(real)]
    at = zipped.nonzero()[:, 0].cpu().numpy()
    merged = Tokens(reducers.merged_into(tokens.features, zipped), tokens.cells[at])  # type: ignore[arg-type]

    def fastv(built: Any) -> reducers.Prune:
        return reducers.fastv(built.x.shape[1], built.local, best, layer=layers[:2][-1])

    def pyramid_drop(built: Any) -> reducers.Prune:
        return reducers.pyramid_drop(built.x.shape[1], built.local, best, layers)

    def top(scores: np.ndarray, share: float) -> tuple[Tokens, None]:
        return tokens.kept(top_share(scores, share)), None

    return {
        ("all tokens", 1.0): (tokens, None), ("FastV", keep): (tokens, fastv),
        ("PyramidDrop", keep): (tokens, pyramid_drop),
        ("VisionZip-like", keep): (tokens.kept(at), None), ("PruMerge-like", keep): (merged, None),
        ("teacher, read afresh", keep): top(by["teacher"], keep),
        **{(name, keep): top(by[name], keep) for name in ("random", *RIVALS[4:])},
        **{("module", s): top(by["module"], s) for s in dict.fromkeys([keep, *shares])},
        **{("objects kept", s): top(objects, s) for s in dict.fromkeys([keep, *shares])},
    }  # fmt: skip


@torch.inference_mode()
def depths(
    model: VisionLanguage,
    items: Iterable[Item],
    *,
    least: int,
    threshold: float,
    n_max: int,
    n_fixed: int,
    seed: int = 0,
) -> pd.DataFrame:
    """Algorithm 1 with the module (*adaptive*), the same forced to the last level with its tiles cut to ``n_fixed``
    (*deepest*) and ended on each level before. A tile of this model has 2 x 2 tokens and a token of one level is a tile
    of the next, so that a share of tokens would name as many tiles for every question: key tokens are those above a
    threshold. Columns: question, picture, target (its side), way, right, level (reached, from 1), levels, tiles."""
    rows = []
    for item in items:
        asked = Asked(model, item, least, seed)
        score = asked.scores("module")
        ways = {"adaptive": (len(asked.levels), False), "deepest": (len(asked.levels), True)}
        ways |= {f"ended on level {k}": (k, True) for k in range(1, len(asked.levels))}
        for way, (depth, forced) in ways.items():
            end = descend(asked.levels[:depth], asked.encode, score, tile=model.tile, per_tile=model.per_tile,
                          threshold=threshold, n_max=n_fixed if forced else n_max, forced=forced)  # fmt: skip
            rows.append({"question": item.id, "picture": item.picture, "way": way, "right": asked.right(end.tokens),
                         "target": int(item.scene.objects[item.question.target, 2]),
                         "level": end.level + 1, "levels": len(asked.levels), "tiles": 1 + end.n_tiles})  # fmt: skip
    return pd.DataFrame(rows)


@torch.inference_mode()
def looks(model: VisionLanguage, items: Iterable[Item], *, least: int) -> pd.DataFrame:
    """Which layers of the language model look at the target: of each layer but the first, the share of questions whose
    target lies in the ninth of the first level's tokens that it attends to most. Columns: side, layer, share."""
    rows = []
    for item in items:
        asked = Asked(model, item, least)
        first = asked.encode(0, asked.levels[0].tiles())
        for layer in range(1, len(model.layers)):
            ninth = top_share(asked.scores(layer)(0, first), 1 / 9)
            held = asked.holds(0, first.cells[ninth], model.tile / model.per_tile).any()
            rows.append({"side": len(item.scene.pixels), "layer": layer, "share": float(held)})
    return pd.DataFrame(rows).groupby(["side", "layer"], sort=False)["share"].mean().reset_index()


# ------------------------------------------------------------------------------------------------- effects


def scores_of(frame: pd.DataFrame, way: str, measure: str = "right", **where: Any) -> pd.Series:
    """The measure of one way by question."""
    chosen = frame[(frame["way"] == way)]
    for name, value in where.items():
        chosen = chosen[chosen[name] == value]
    if chosen.empty:
        raise ReprobookError(f"no row of {way} with {where or 'anything'}")
    return chosen.set_index("question")[measure].astype(float)


def tile_effects(frame: pd.DataFrame, n_tiles: int) -> dict[str, pd.DataFrame]:
    """What C2 and C7 compare: frames (question; ``a``, ``b``) at ``n_tiles`` tiles a level; ``b`` 0 where an effect is
    a mean."""
    right = {way: scores_of(frame, way, tiles=n_tiles) for way in CHOOSERS}
    found = {way: scores_of(frame, way, "found", tiles=n_tiles) for way in CHOOSERS}
    fixed = {way: scores_of(frame, way) for way in FIXED}
    zero = right["module"] * 0
    pairs = {
        "descent minus first level": (right["module"], fixed["first level"]),
        **_whole_effects(frame, right["module"], fixed["first level"]),
        **{
            f"tiles: module minus {way}": (right["module"], right[way])
            for way in ("random", "likeness", "colour saliency")
        },
        "oracle tile: accuracy": (fixed["oracle tile"], zero),
        "oracle tile minus first level": (fixed["oracle tile"], fixed["first level"]),
        "teacher's top ninth minus saliency's": tuple(
            scores_of(frame, "first level", f"ninth by {by}") for by in ("teacher", "saliency")
        ),
        "teacher's top ninth holds the target": (scores_of(frame, "first level", "ninth by teacher"), zero),
        **{
            f"recall: module minus {way}": (found["module"], found[way])
            for way in ("likeness", "random", "colour saliency")
        },
        "recall: teacher minus likeness": (found["teacher"], found["likeness"]),
        "tiles: module minus teacher": (right["module"], right["teacher"]),
        "tiles: oracle minus module": (right["oracle"], right["module"]),
    }
    return {name: pd.DataFrame({"a": a, "b": b}) for name, (a, b) in pairs.items()}


def _whole_effects(frame: pd.DataFrame, module: pd.Series, first: pd.Series) -> dict[str, tuple[pd.Series, pd.Series]]:
    """The descent against *all tiles* of the finest level that was read whole, apart for pictures of which that is the
    last level (*within the limit*) and for larger ones; and what more tiles bring, over the pictures that have both
    levels, which is C6 with this model. By doubles of the first level's side each level has four times the tiles of the
    one before; where others are among the sides, what pictures do not share is left out."""
    whole = frame[frame["way"] == WHOLE].sort_values("tiles", kind="stable")
    if whole.empty:
        return {}
    by_tiles: dict[int, pd.Series] = {0: first}
    for n in sorted(set(whole["tiles"])):
        by_tiles[n] = whole[whole["tiles"] == n].set_index("question")["right"].astype(float)
    finest = whole.groupby("question")["right"].last().astype(float)
    reached = whole.groupby("question")["found"].any()
    pairs = {}
    for k, n in itertools.pairwise(by_tiles):
        both = by_tiles[n].index.intersection(by_tiles[k].index, sort=False)
        if len(both):  # sides that are no doubles of each other have other levels
            pairs[f"all tiles: {n} minus {k or 'first level'}"] = by_tiles[n][both], by_tiles[k][both]
    for which, questions in (("within", reached.index[reached]), ("beyond", reached.index[~reached])):
        at = module.index[module.index.isin(questions)]
        if len(at):
            pairs[f"{which} the limit: descent minus all tiles"] = module[at], finest[at]
    *_, fewer, most = by_tiles
    beyond = module.index[module.index.isin(reached.index[~reached])]
    at = beyond[beyond.isin(by_tiles[most].index) & beyond.isin(by_tiles[fewer].index)]
    if len(at) and most == 4 * (fewer or most / 4):
        pairs["beyond the limit: all tiles minus a quarter of them"] = by_tiles[most][at], by_tiles[fewer][at]
    return pairs


def token_effects(frame: pd.DataFrame, keep: float) -> dict[str, pd.DataFrame]:
    """What C2 and C4 compare at equal tokens. The best reducer is the best of the six on these questions and in this
    seed, which is in its favour."""
    module = {
        share: scores_of(frame, "module", keep=share) for share in frame.loc[frame["way"] == "module", "keep"].unique()
    }
    rivals = {way: scores_of(frame, way, keep=keep) for way in RIVALS}
    kept = {share: scores_of(frame, "objects kept", keep=share) for share in module}
    best = max(rivals, key=lambda way: rivals[way].mean())
    pairs = {
        "tokens: module minus best reducer": (module[keep], rivals[best]),
        **{f"tokens: module minus {way}": (module[keep], each) for way, each in rivals.items()},
        "tokens: module minus teacher, read afresh": (module[keep], scores_of(frame, "teacher, read afresh")),
        "tokens: module minus all tokens": (module[keep], scores_of(frame, "all tokens")),
    }
    for share in (s for s in module if s != keep):
        pairs[f"keep {keep:g} minus keep {share:g}"] = module[keep], module[share]
        pairs[f"objects kept: keep {keep:g} minus keep {share:g}"] = kept[keep], kept[share]
    return {name: pd.DataFrame({"a": a, "b": b}) for name, (a, b) in pairs.items()}


def depth_effects(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What C5 compares. *Larger targets*: the upper half of the sides that targets have."""
    adaptive = scores_of(frame, "adaptive")
    large = frame[frame["target"] > frame["target"].median()]
    before = f"ended on level {int(frame['levels'].max()) - 1}"
    early = frame[frame["way"] == "adaptive"].set_index("question")
    pairs = {
        "adaptive minus deepest": (adaptive, scores_of(frame, "deepest")),
        "adaptive minus ended on level 1": (adaptive, scores_of(frame, "ended on level 1")),
        "adaptive minus level before the last": (adaptive, scores_of(frame, before)),
        "larger targets: level before the last minus deepest": (scores_of(large, before), scores_of(large, "deepest")),
        "share of questions that stop early": ((early["level"] < early["levels"]).astype(float), adaptive * 0),
    }
    return {name: pd.DataFrame({"a": a, "b": b}) for name, (a, b) in pairs.items()}


def by_size(frame: pd.DataFrame) -> pd.DataFrame:
    """Accuracy and recall of every way by the side of the picture, with the share of targets that are invisible on the
    first level and the mean part of the area that they cover."""
    means = frame.groupby(["side", "way", "tiles"], sort=False)[
        ["right", "found", "encoded", "invisible", "share"]
    ].mean()
    return means.reset_index()


def lazy_readers(items: Sequence[Item]) -> pd.DataFrame:
    """Readers that know every object of the picture and are careless about the question. *Wrong ground* answers with an
    object that has the named attribute on the other ground (one of several by chance; with none, it guesses), *ground
    ignored* with one that has it anywhere, *most frequent* with the commonest value of all objects. Columns: reader,
    kind, right (the chance of it)."""
    rows = []
    for item in items:
        objects, at = item.scene.objects, item.question.target
        named, asked, n = (4, 3, len(COLOURS)) if item.question.kind == "color" else (3, 4, len(SHAPES))
        same = objects[:, asked] == objects[at, asked]
        fits = objects[:, named] == objects[at, named]
        wrong = fits & (objects[:, 5] != objects[at, 5])
        counts = np.bincount(objects[:, asked], minlength=n)
        best = counts == counts.max()
        for reader, right in {
            "wrong ground": same[wrong].mean() if wrong.any() else 1 / n,
            "ground ignored": same[fits].mean(),
            "most frequent": best[objects[at, asked]] / best.sum(),
        }.items():
            rows.append({"reader": reader, "kind": item.question.kind, "right": float(right)})
    return pd.DataFrame(rows)


def blind_items(items: Sequence[Item]) -> pd.DataFrame:
    """The test questions as :func:`.scoring.blind_answers` takes them."""
    return pd.DataFrame([
        {"question": i.id, "image": i.picture, "category": i.question.kind, "text": i.question.text,
         "ground_truth": i.question.answer} for i in items
    ])  # fmt: skip


def blind_rows(items: Sequence[Item]) -> pd.DataFrame:
    """How often the readers of :func:`.scoring.blind_answers` are right: reader, kind, right."""
    asked = blind_items(items)
    right = blind_answers(asked).eq(asked["ground_truth"], axis=0).assign(kind=asked["category"])
    told = right.melt("kind", var_name="reader", value_name="right")
    return told.groupby(["reader", "kind"], sort=False)["right"].mean().reset_index()
