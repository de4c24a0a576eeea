"""Calibration texts and held-out texts from real corpora: Wikipedia, CPython's standard library, and half of each.

The three sets have the same number of rows and tokens and the same share of rows that start where a document starts:
in the paper's sets code and StackExchange start there and the random set does not, which alone could make a difference.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import torch

from reprobook.data.text import visible_text, wikipedia_articles
from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["general", "code", "mixed"]
KINDS: tuple[Kind, ...] = get_args(Kind)
HELD_OUT = frozenset(
    "asyncio concurrent email http importlib json logging unittest urllib xml".split()
)  # of the library
# What is no ordinary code: tests, tables, generated modules, other people's packages.
LEFT_OUT = frozenset(
    "test tests idlelib lib2to3 site-packages dist-packages __pycache__ encodings pydoc_data turtledemo ensurepip "
    "distutils config __phello__ lib-dynload".split()
)
FRONT = 0.5  # share of rows that start with their document


class Document(NamedTuple):
    """A text with a name and the package or encyclopedia it belongs to."""

    name: str
    group: str
    text: str


class Corpus(NamedTuple):
    """Documents to calibrate with, and others to measure on."""

    train: list[Document]
    held_out: list[Document]


def wikipedia(path: Path) -> Corpus:
    """Articles of the extract as a reader sees them; of five, one is held out."""
    found = [Document(a.title, "Wikipedia", visible_text(a.markup).strip()) for a in wikipedia_articles(path)]
    return Corpus([d for i, d in enumerate(found) if i % 5 != 4], found[4::5])


def standard_library(folder: Path | None = None) -> Corpus:
    """Modules of the CPython library that comes with this interpreter (or that lies in ``folder``), split by package:
    those in :data:`HELD_OUT` are measured on. Raises :class:`ReprobookError` if there are no sources."""
    folder = folder or Path(sysconfig.get_path("stdlib"))
    train: list[Document] = []
    held_out: list[Document] = []
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        if LEFT_OUT.isdisjoint(parts) and not any(part.startswith(("_sysconfigdata", "config-")) for part in parts):
            document = Document("/".join(parts), parts[0], path.read_text("utf-8", errors="replace"))
            (held_out if parts[0] in HELD_OUT else train).append(document)
    if not train or not held_out:
        raise ReprobookError(
            f"{folder.name} has no sources of Python's standard library; use an interpreter that comes with them"
        )
    return Corpus(train, held_out)


def rows_of(
    documents: Sequence[Document], tokenizer: Any, n: int, length: int, seed: int, after: int = 0
) -> Tensor:  # fmt: skip
    """``n`` rows (n, length) of tokens, each from inside one document: a share of :data:`FRONT` are a document's first
    tokens, the others start anywhere, and no two overlap. Documents are drawn in proportion to their length. ``after``:
    those that are drawn after this many others, the ones that the same call draws for ``n = after``.

    Raises :class:`ReprobookError` for no rows or no documents, and where no document is long enough."""
    if n < 1 or length < 1 or not documents:
        raise ReprobookError(
            f"the calibration set is empty: {n} rows of {length} tokens from {len(documents)} documents"
        )
    draw = np.random.default_rng(seed)
    sizes = np.array([len(d.text) for d in documents], dtype=float)
    ids: dict[int, list[int]] = {}
    starts: dict[int, list[int]] = {}
    found: list[list[int]] = []
    for _ in range(50 * (after + n)):
        k = int(draw.choice(len(documents), p=sizes / sizes.sum()))
        if k not in ids:
            ids[k] = tokenizer(documents[k].text, add_special_tokens=False).input_ids
        if len(ids[k]) >= length:
            place, size = (len(found) - after, n) if len(found) >= after else (len(found), after)
            start = 0 if place < round(FRONT * size) else int(draw.integers(len(ids[k]) - length + 1))
            if any(abs(start - other) < length for other in starts.get(k, ())):
                continue
            starts.setdefault(k, []).append(start)
            found.append(ids[k][start : start + length])
        if len(found) == after + n:
            return torch.tensor(found[after:])[torch.from_numpy(draw.permutation(n))]
    raise ReprobookError(
        f"{len(documents)} documents have hardly any {after + n} stretches of {length} tokens; use shorter rows"
    )


def calibration_rows(
    kind: Kind, general: Corpus, code: Corpus, tokenizer: Any, n: int, length: int, seed: int, after: int = 0
) -> Tensor:  # fmt: skip
    """The calibration set of a kind, (n, length); ``mixed`` is half of each; ``after`` as in :func:`rows_of`. Raises
    :class:`ReprobookError` for another kind or an odd number that cannot be halved."""
    if kind not in KINDS:
        raise ReprobookError(f"calibration {kind!r} is not known; allowed: {', '.join(KINDS)}")
    if kind == "mixed":
        if n % 2 or after % 2:
            raise ReprobookError(f"a mixed set of {n} rows after {after} others cannot be halved")
        halves = [rows_of(c.train, tokenizer, n // 2, length, seed, after // 2) for c in (general, code)]
        return torch.cat(halves)[torch.randperm(n, generator=torch.Generator().manual_seed(seed))]
    return rows_of((general if kind == "general" else code).train, tokenizer, n, length, seed, after)


class HeldOut(NamedTuple):
    """Rows (files * per_file, length) of held-out text, file after file; names and packages of the files."""

    rows: Tensor
    names: list[str]
    groups: list[str]
    per_file: int


def held_out(
    documents: Sequence[Document], tokenizer: Any, n_files: int, per_file: int, length: int, shortest: int = 1024
) -> HeldOut:  # fmt: skip
    """``per_file`` windows from inside ``n_files`` documents of at least ``shortest`` tokens, each in the middle of its
    share of the file (a file's first tokens are licence and docstring), as evenly over the packages as can be: the
    same files for every seed. Raises :class:`ReprobookError` if there are not that many."""
    waiting: dict[str, list[tuple[Document, list[int]]]] = {}
    for document in documents:
        if len(waiting.get(document.group, ())) == n_files:
            continue  # no more of this package can be taken
        ids = tokenizer(document.text, add_special_tokens=False).input_ids
        if len(ids) >= max(shortest, per_file * length):
            waiting.setdefault(document.group, []).append((document, ids))
    taken = [each for turn in range(n_files) for queue in waiting.values() for each in queue[turn : turn + 1]][:n_files]
    if len(taken) < n_files:
        raise ReprobookError(f"{len(taken)} held-out documents are long enough; {n_files} are wanted")
    shares = (np.arange(per_file) + 0.5) / per_file
    starts = [(shares * (len(ids) - length)).astype(int) for _, ids in taken]
    rows = [ids[s : s + length] for (_, ids), at in zip(taken, starts, strict=True) for s in at]
    return HeldOut(torch.tensor(rows), [d.name for d, _ in taken], [d.group for d, _ in taken], per_file)
