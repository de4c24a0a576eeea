"""The chapter's experiments, as its cells call them: the objective of layers, and loss on held-out text by cell.

A *cell* is a model quantised in one way with one calibration set: ``AQLM 2, code`` has two codebooks of 256 words and
was calibrated on code; ``AQLM 2, code, tuned`` was tuned end to end on the same text after that.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from reprobook.errors import ReprobookError
from reprobook.papers.quantizing_code_llms.aqlm import Additive, Format, fit, objective
from reprobook.papers.quantizing_code_llms.baselines import Aqlm, ColumnUpdate, Grid, KMeans, RoundToNearest
from reprobook.papers.quantizing_code_llms.bench import decoding
from reprobook.papers.quantizing_code_llms.blocks import (
    decoder_blocks,
    harden,
    layer_grams,
    linears,
    mixed,
    quantise,
    reopen,
)
from reprobook.papers.quantizing_code_llms.calibration import (
    Document,
    calibration_rows,
    held_out,
    standard_library,
    wikipedia,
)
from reprobook.papers.quantizing_code_llms.humaneval import solved
from reprobook.papers.quantizing_code_llms.storage import bits_per_weight, grid_bits
from reprobook.papers.quantizing_code_llms.tuning import Epoch, distil, last_hidden
from reprobook.project import atomic_write

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.bench import Comparison
    from reprobook.papers.quantizing_code_llms.aqlm import Search
    from reprobook.papers.quantizing_code_llms.baselines import Quantiser
    from reprobook.papers.quantizing_code_llms.blocks import BlockTuning
    from reprobook.papers.quantizing_code_llms.calibration import HeldOut
    from reprobook.papers.quantizing_code_llms.humaneval import Problem
    from reprobook.papers.quantizing_code_llms.tuning import Distillation

CHUNK = 64  # tokens whose logits are in memory at a time
METHODS = ("AQLM", "column update", "round to nearest", "k-means")


class Reading(NamedTuple):
    """What a model makes of rows (n, L): the loss (nats) of each next token and its first choice, both (n, L - 1)."""

    loss: np.ndarray
    choice: np.ndarray


@torch.no_grad()
def read(model: Any, rows: Tensor, batch_size: int = 4) -> Reading:
    """Loss and first choice at every place of ``rows``. Logits are made for ``CHUNK`` tokens at a time: those of whole
    rows would leave the processor's caches, and torch's own logsumexp takes five times as long as its parts."""
    head, losses, choices = model.get_output_embeddings(), [], []
    for part in rows.split(batch_size):
        x = part.to(model.device)
        with mixed(model, model.device):
            hidden = model.get_decoder()(input_ids=x, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
            for h, wanted in zip(hidden.split(CHUNK), x[:, 1:].reshape(-1, 1).split(CHUNK), strict=True):
                logits = head(h).float()
                top, right = logits.amax(1, keepdim=True), logits.gather(1, wanted)
                choices.append(logits.cpu().numpy().argmax(1))
                losses.append((logits.sub_(top).exp_().sum(1, keepdim=True).log() + top - right).cpu().numpy())
    shape = len(rows), rows.shape[1] - 1
    return Reading(np.concatenate(losses).reshape(shape), np.concatenate(choices).reshape(shape))


def by_file(values: np.ndarray, of: HeldOut) -> np.ndarray:
    """Means (files,) of values (rows, L - 1) over the windows of each file."""
    return values.reshape(len(of.names), -1).mean(1)


# ------------------------------------------------------------------------------------------------------- single layers


def ladder(w: Tensor, gram: Tensor, other: Tensor, form: Format, search: Search, group: int, seed: int) -> pd.DataFrame:
    """The objective of one layer for AQLM, stage after stage, and for its rivals at about equal bits, as a share of the
    output's power: on the G of the calibration text, and at the end on ``other``, the G of other text."""
    bits = form.n_codebooks * form.bits // form.group
    made: dict[str, Additive | Tensor] = {
        method: quantiser(method, bits, group, search, seed)("the layer", w, gram) for method in METHODS[1:]
    }
    fitted = fit(w, gram, form, search, seed)
    power, other_power = (objective(w, torch.zeros_like(w), g) for g in (gram, other))
    first: dict[str, float] = {}
    for stage, value in fitted.history:
        first.setdefault(stage, value / power)
    rows = [{"method": f"AQLM: {stage}", "objective": value} for stage, value in first.items()]
    for name, each in {**made, "AQLM": fitted.layer}.items():
        new = each.weight() if isinstance(each, Additive) else each
        rows.append({
            "method": name, "objective": objective(w, new, gram) / power,
            "other text": objective(w, new, other) / other_power,
        })  # fmt: skip
    return pd.DataFrame(rows)


def ladders(
    model: Any, rows: Tensor, other: Tensor, blocks: Sequence[int], form: Format, search: Search, group: int, seed: int
) -> pd.DataFrame:
    """:func:`ladder` of every linear layer of some blocks of a model: a row for each layer and method."""
    grams, others = (layer_grams(model, each, blocks) for each in (rows, other))
    parts = [
        ladder(w, gram, others[name][1], form, search, group, seed).assign(layer=name, weights=w.numel())
        for name, (w, gram) in grams.items()
    ]
    return pd.concat(parts, ignore_index=True)


# --------------------------------------------------------------------------------------------------------------- cells


@dataclass(frozen=True)
class Sizes:
    """Calibration rows and their length, blocks that are quantised (None: all); held-out files of code and articles
    with one window of ``length`` tokens each, HumanEval's programs with one of half that; rows of the end-to-end
    tuning, a draw of their own."""

    n_rows: int
    length: int
    n_blocks: int | None
    n_files: int
    n_articles: int
    n_programs: int
    n_tuning: int


class Lab(NamedTuple):
    """A model with its calibration sets, those of the tuning, what it is measured on (``code``, ``text``,
    ``HumanEval``), what it makes of that as it is, and its number of weights (a head that is the embedding counts
    once)."""

    model: Any
    rows: dict[str, Tensor]
    tuning: dict[str, Tensor]
    held: dict[str, HeldOut]
    reference: dict[str, Reading]
    n_weights: int
    sizes: Sizes
    seed: int


class Cell(NamedTuple):
    """Bits a weight of the quantised layers; for what was read, by name, the loss (nats a token) of each file and the
    share of places where the first choice is the reference's; of a tuned cell, the epochs of its tuning."""

    bits: float
    loss: dict[str, list[float]]
    agreement: dict[str, list[float]]
    tuning: Sequence[Epoch] = ()


def open_lab(
    source: Path, articles: Path, problems: Sequence[Problem], sizes: Sizes, names: Sequence[str], seed: int, *,
    device: torch.device,
) -> Lab:  # fmt: skip
    """The model in ``source`` with a draw of each set that cells of these ``names`` need, for calibration and, none of
    the same text, for tuning; the held-out files are the same for every seed. Of a problem of HumanEval, prompt and
    solution are read."""
    from reprobook.nn.lm import load_lm

    model, tokenizer = load_lm(source, dtype="fp32", device=device)
    general, code = wikipedia(articles), standard_library()

    def drawn(kinds: Iterable[str], n: int, after: int = 0) -> dict[str, Tensor]:
        return {
            kind: calibration_rows(kind, general, code, tokenizer, n, sizes.length, seed, after)  # type: ignore[arg-type]
            for kind in dict.fromkeys(kinds)
        }

    parsed = [_parsed(name) for name in names]
    rows = drawn((kind for *_, kind, _ in parsed), sizes.n_rows)
    more = drawn((kind for *_, kind, tuned in parsed if tuned), sizes.n_tuning, sizes.n_rows)
    programs, half = [Document(str(p), str(p), solved(p)) for p in problems], sizes.length // 2
    held = {
        "code": held_out(code.held_out, tokenizer, sizes.n_files, 1, sizes.length),
        "text": held_out(general.held_out, tokenizer, sizes.n_articles, 1, sizes.length),
        "HumanEval": held_out(programs, tokenizer, sizes.n_programs, 1, half, shortest=half),
    }
    reference = {what: read(model, each.rows) for what, each in held.items()}
    n_weights = sum(p.numel() for p in model.parameters())
    return Lab(model, rows, more, held, reference, n_weights, sizes, seed)


def measure(lab: Lab, model: Any, bits: float, wanted: Sequence[str]) -> Cell:
    """What a quantised model makes of the held-out files that are ``wanted``; its layers become plain ones. It is read
    in the reference's own arithmetic."""
    harden(model)
    found = {what: read(model, lab.held[what].rows) for what in wanted}
    loss = {what: by_file(each.loss, lab.held[what]).tolist() for what, each in found.items()}
    same = {what: each.choice == lab.reference[what].choice for what, each in found.items()}
    return Cell(bits, loss, {what: by_file(each, lab.held[what]).tolist() for what, each in same.items()})


def quantiser(
    method: str, bits: int, group: int, search: Search, seed: int, starts: dict[str, Additive] | None = None
) -> Quantiser:  # fmt: skip
    """A method at a nominal number of bits: AQLM with as many codebooks of 256 words over 8 columns; a grid on groups
    of ``group`` columns; one codebook of about 512 words. Raises :class:`ReprobookError` for another method."""
    if method == "AQLM":
        return Aqlm(Format(bits), search, seed, {} if starts is None else starts)
    if method == "column update":
        return ColumnUpdate(Grid(bits, group))
    if method == "round to nearest":
        return RoundToNearest(Grid(bits, group))
    if method == "k-means":
        return KMeans(Format(1, max(1, 9 // bits) * bits, max(1, 9 // bits)), search, seed)
    raise ReprobookError(f"method {method!r} is not known; allowed: {', '.join(METHODS)}")


def bits_of(model: Any, n_blocks: int | None, made: Quantiser) -> float:
    """Bits a weight with codebooks, scales and grids, over the layers that are quantised."""
    blocks = list(decoder_blocks(model))[:n_blocks]
    shapes = [layer.weight.shape for block in blocks for layer in linears(block).values()]
    sizes = [a * b for a, b in shapes]
    if isinstance(made, ColumnUpdate | RoundToNearest):
        return grid_bits(made.grid.bits, made.grid.group)
    assert isinstance(made, Aqlm | KMeans)
    return float(np.average([bits_per_weight(made.form, a, b).effective for a, b in shapes], weights=sizes))


def cells(
    lab: Lab, wanted: Sequence[str], *, search: Search, tuning: BlockTuning, distillation: Distillation, group: int,
    folder: Path,
) -> dict[str, Cell]:  # fmt: skip
    """The cells of these names: ``<method> <bits>, <calibration set>`` and, for AQLM, the same with ``, tuned``, which
    was tuned end to end on more text of that kind and reads code alone. A cell and every finished block are kept in
    ``folder``. AQLM's starts are made once, with the most codebooks.

    Raises :class:`ReprobookError` for a name of another form."""
    starts: dict[str, Additive] = {}
    teachers: dict[str, Tensor] = {}
    found = {"reference": Cell(16.0, *_reference(lab))}
    for name in sorted(wanted, key=lambda name: -_parsed(name)[1]):
        method, bits, kind, tuned = _parsed(name)
        file = folder / f"{name}.json"
        if not file.is_file():
            plain = name.removesuffix(", tuned")
            make = quantiser(method, bits, group, search, lab.seed, starts)
            model = _copy(lab.model, lab.sizes.n_blocks)
            quantise(
                model, lab.rows[kind], make, tuning=tuning if method == "AQLM" else None, n_blocks=lab.sizes.n_blocks,
                folder=folder / plain, seed=lab.seed,
            )  # fmt: skip
            epochs: list[Epoch] = []
            if tuned:
                if kind not in teachers:
                    teachers[kind] = last_hidden(lab.model, lab.tuning[kind])
                epochs = distil(model, lab.tuning[kind], teachers[kind], distillation, lab.seed)
            size = bits_of(lab.model, lab.sizes.n_blocks, make)
            made = measure(lab, model, size, ["code"] if tuned else list(lab.held))
            atomic_write(file, json.dumps(made._replace(tuning=epochs)))
        found[name] = Cell(*json.loads(file.read_text("utf-8")))
        found[name] = found[name]._replace(tuning=tuple(Epoch(*each) for each in found[name].tuning))
    return {name: found[name] for name in ("reference", *wanted)}


def stored(lab: Lab, name: str, folder: Path) -> Comparison:
    """Decoding with the AQLM cell ``name`` of :func:`cells`, kept in ``folder``: from its stored form and from plain
    weights, on held-out code."""
    model = reopen(_copy(lab.model, lab.sizes.n_blocks), folder / name)
    return decoding(model, folder / "stored", Format(_parsed(name)[1]), lab.held["code"].rows[:1, :24])


def _copy(model: Any, n_blocks: int | None) -> Any:
    """A copy of a model that shares the matrices that nothing changes: all but those of the first ``n_blocks``."""
    own = {id(p) for block in decoder_blocks(model)[:n_blocks] for p in block.parameters()}
    return copy.deepcopy(model, {id(p): p for p in model.parameters() if p.ndim == 2 and id(p) not in own})


def _reference(lab: Lab) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    loss = {what: by_file(each.loss, lab.held[what]).tolist() for what, each in lab.reference.items()}
    return loss, {what: [1.0] * len(values) for what, values in loss.items()}


def _parsed(name: str) -> tuple[str, int, str, bool]:
    """Method, bits, calibration set, whether tuned."""
    head, *rest = name.split(", ")
    method, _, bits = head.rpartition(" ")
    tuned = rest[1:] == ["tuned"]
    if method not in METHODS or not bits.isdigit() or len(rest) != 1 + tuned or (tuned and method != "AQLM"):
        raise ReprobookError(
            f"cell {name!r} is not known; names are like 'AQLM 2, code', 'AQLM 2, code, tuned', 'k-means 3, general'"
        )
    return method, int(bits), rest[0], tuned


def summary(found: Mapping[str, Cell]) -> pd.DataFrame:
    """A row for each cell: bits, mean loss on what it read and perplexity on code, agreement with the reference."""
    whats = list(found["reference"].loss)
    return pd.DataFrame([
        {"cell": name, "bits": each.bits}
        | {f"loss on {what}": np.mean(each.loss.get(what, np.nan)) for what in whats}
        | {"perplexity on code": np.exp(np.mean(each.loss["code"]))}
        | {f"agreement on {what}": np.mean(each.agreement.get(what, np.nan)) for what in whats}
        for name, each in found.items()
    ])  # fmt: skip


def tunings(found: Mapping[str, Cell]) -> pd.DataFrame:
    """A row for each epoch of each tuned cell, the start being epoch 0: divergence from the reference in nats a token,
    on the sequences that train (NaN at the start) and on those that validate."""
    return pd.DataFrame(
        [
            {"cell": name, "epoch": k, "train": each.train, "validation": each.mean}
            for name, cell in found.items() for k, each in enumerate(cell.tuning)
        ],
        columns=["cell", "epoch", "train", "validation"],
    )  # fmt: skip


def divergences(cell: Cell) -> tuple[list[float], list[float]]:
    """Of a tuned cell, the divergence of each validation sequence at the start and after the last epoch, whichever
    epoch was kept: the better one of several is never above the start, so it would show nothing."""
    return cell.tuning[0].valid, cell.tuning[-1].valid


def pairs(found: Mapping[str, Cell], what: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Losses of each file of ``what``, in pairs (a, b) of which a - b is reported: a cell and the reference; at equal
    bits general and code calibration; a cell before and after end-to-end tuning, and what that gains with three
    codebooks beside what it would if it regained there the share of the loss that it regains with two; two and three
    codebooks of one calibration."""
    loss = {name: np.array(each.loss[what]) for name, each in found.items() if what in each.loss}
    told = {f"{name}: loss above reference": (loss[name], loss["reference"]) for name in loss if name != "reference"}
    for name in loss:
        if (other := name.replace(", code", ", general")) != name and other in loss:
            told[f"{other} minus code"] = loss[other], loss[name]
        if (finer := name.replace("AQLM 2,", "AQLM 3,")) != name and finer in loss:
            told[f"{name} minus {finer}"] = loss[name], loss[finer]
        if f"{name}, tuned" in loss:
            told[f"{name}: before minus after tuning"] = loss[name], loss[f"{name}, tuned"]
            coarse = name.replace("AQLM 3,", "AQLM 2,")
            if coarse != name and f"{coarse}, tuned" in loss:
                share = np.mean(loss[name] - loss["reference"]) / np.mean(loss[coarse] - loss["reference"])
                gains = [loss[each] - loss[f"{each}, tuned"] for each in (name, coarse)]
                told[f"{name}: gain beyond the share that {coarse} regains"] = gains[0], share * gains[1]
    return told
