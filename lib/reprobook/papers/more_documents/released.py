"""Paper scale: the real questions, their Wikipedia pages, the released sets, the models that read them, and what the
claims compare."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from reprobook.errors import ReprobookError
from reprobook.nn import lm
from reprobook.papers.more_documents.lm_reader import read_with_json
from reprobook.papers.more_documents.sets import (
    BuiltSet,
    Document,
    Instance,
    TooShortError,
    build_set,
    page,
    replace_distractors,
    splice,
    supporting_only,
)
from reprobook.papers.more_documents.study import read_all

if TYPE_CHECKING:
    from reprobook.data import ChapterData
    from reprobook.papers.more_documents.sets import Spans

COLLECTIONS = ("musique", "2wiki", "released")
MUSIQUE_FIELDS = ("id", "paragraphs", "question", "answer", "answer_aliases", "answerable")


def musique(rows: Iterable[Mapping[str, Any]], spans: Spans) -> list[Instance]:
    """MuSiQue-Answerable records as instances, documents in the order of ``idx``; unanswerable ones are left out.

    A paragraph is its own page until :func:`find_pages` gives it one. The released sets have the same fields."""
    return [_musique(row, spans) for row in rows if row.get("answerable", True)]


def _musique(row: Mapping[str, Any], spans: Spans) -> Instance:
    missing = [name for name in MUSIQUE_FIELDS[:4] if name not in row]
    if missing:
        raise ReprobookError(f"a MuSiQue record has no field {missing[0]!r}; it has {', '.join(row)}")
    paragraphs = sorted(row["paragraphs"], key=lambda p: p["idx"])
    documents = tuple(_alone(p["paragraph_text"], p["title"], spans) for p in paragraphs)
    supporting = tuple(k for k, p in enumerate(paragraphs) if p["is_supporting"])
    return Instance(str(row["id"]), row["question"], row["answer"], documents, supporting,
                    tuple(row.get("answer_aliases") or ()))  # fmt: skip


def two_wiki(rows: Iterable[Mapping[str, Any]], spans: Spans) -> list[Instance]:
    """2WikiMultiHopQA records (``_id, question, context, supporting_facts, answer``); ``context`` is a list of
    [title, sentences] and ``supporting_facts`` of [title, sentence], as lists or as JSON text."""
    found = []
    for row in rows:
        context, facts = (_decoded(row[name]) for name in ("context", "supporting_facts"))
        titles = {title for title, _ in facts}
        supporting = tuple(k for k, (title, _) in enumerate(context) if title in titles)
        if supporting:
            documents = tuple(_alone(" ".join(sentences), title, spans) for title, sentences in context)
            found.append(Instance(str(row["_id"]), row["question"], row["answer"], documents, supporting))
    return found


def _decoded(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _alone(text: str, title: str, spans: Spans) -> Document:
    own = page(text, spans)
    return Document(own, 0, len(own), title, located=False)


def long_enough(instances: Sequence[Instance], least: int) -> list[Instance]:
    """Instances of at least ``least`` tokens (the paper keeps 2WikiMultiHopQA questions above 1,500)."""
    kept = [each for each in instances if each.lengths.sum() >= least]
    if not kept:
        raise ReprobookError(f"no question has {least} tokens: take a smaller bound")
    return kept


# ------------------------------------------------------------------------------------------------- pages


def wanted_pages(files: Iterable[str | Path], titles: set[str]) -> dict[str, str]:
    """Title -> text of the articles in the parquet files of a Wikipedia dump (columns ``title``, ``text``), read row
    group by row group; only the wanted ones stay in memory."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    found: dict[str, str] = {}
    wanted = np.array(sorted(titles), dtype=object)
    for file in sorted(files):
        table = pq.ParquetFile(file)
        for group in range(table.num_row_groups):
            rows = table.read_row_group(group, columns=["title", "text"])
            rows = rows.filter(pc.is_in(rows["title"], value_set=_array(wanted)))
            found.update(zip(rows["title"].to_pylist(), rows["text"].to_pylist(), strict=True))
    return found


def _array(values: np.ndarray) -> Any:
    import pyarrow as pa

    return pa.array(values.tolist(), type=pa.string())


def locate(paragraph: str, article: str, least: float = 80.0) -> tuple[int, int] | None:
    """Characters [begin, end) of the stretch of ``article`` most like ``paragraph``, or None if their likeness is below
    ``least`` percent: pages have changed since the questions were written.

    Exact occurrences are found by `str.find`, the others by `rapidfuzz` (partial ratio alignment), a well-kept library
    whose C++ is hundreds of times faster than difflib."""
    if (at := article.find(paragraph)) >= 0:
        return at, at + len(paragraph)
    from rapidfuzz import fuzz

    if len(paragraph) > len(article):
        return None
    found = fuzz.partial_ratio_alignment(paragraph, article, score_cutoff=least)
    return None if found is None or found.score < least else (found.dest_start, found.dest_end)


def on_its_page(document: Document, article: str, spans: Spans, least: float = 80.0) -> Document:
    """The document on its article's page, where its own text replaces the stretch most like it; unchanged
    (``located`` False) if there is none."""
    text = document.text
    found = locate(text, article, least)
    if found is None:
        return document
    whole = page(article, spans)
    start, end = np.searchsorted(whole.spans[:, 0], found).tolist()
    new = splice(whole, start, max(start + 1, end), document.page)
    return replace(document, page=new, start=start, end=start + len(document), located=True)


def find_pages(
    instances: Sequence[Instance], articles: Mapping[str, str], spans: Spans, least: float = 80.0,
    report: Callable[[str], object] = print,
) -> list[Instance]:  # fmt: skip
    """Every document on its page. Questions with a paragraph that isn't found (no page of its title, or none like it)
    are left out, and their share is reported: a comparison over counts needs the same questions everywhere."""
    kept, missed = [], 0
    for instance in instances:
        documents = tuple(
            on_its_page(d, articles[d.title], spans, least) if d.title in articles else d for d in instance.documents
        )
        missed += sum(not d.located for d in documents)
        if all(d.located for d in documents):
            kept.append(replace(instance, documents=documents))
    report(f"{missed} paragraphs not found on a page; {len(kept)} of {len(instances)} questions are complete")
    if not kept:
        raise ReprobookError(
            "no question has all its paragraphs on a page: take a Wikipedia dump nearer in time, or a lower likeness"
        )
    return kept


def read_files(folder: str | Path, pattern: str = "*") -> Iterator[dict[str, Any]]:
    """The records of the parquet, JSON-lines and JSON files below ``folder`` that match ``pattern``."""
    from datasets import load_dataset

    folder = Path(folder)
    files = sorted(p for p in folder.rglob(pattern) if p.suffix in (".parquet", ".jsonl", ".json"))
    if not files:
        raise ReprobookError(f"no data file {pattern!r} (parquet, jsonl, json) below the fetched folder {folder.name}")
    for file in files:
        builder = "parquet" if file.suffix == ".parquet" else "json"
        yield from load_dataset(builder, data_files=str(file), split="train", streaming=True)


def load_model(source: str | Path, device: Any) -> tuple[Any, Any]:
    """A fetched model and its tokenizer. One that no single GPU holds is spread over all of them by accelerate."""
    import torch

    source, cuda = Path(source), torch.device(device).type == "cuda"
    return lm.load_lm(source, device=device, device_map="auto" if cuda and source.is_dir() else None)


# ------------------------------------------------------------------------------------------------- sets and readings


def check(
    models: Sequence[str], known: Sequence[str], real: Sequence[str], ladders: Sequence[Sequence[int]],
    edges: Sequence[int],
) -> None:  # fmt: skip
    """Raise :class:`ReprobookError` for what would otherwise come up after hours of fetching: a model that is not
    ``known``, an unknown collection, ladders that are not one for each collection or don't rise, bins that don't."""
    for what, given, allowed in (("model", models, known), ("collection", real, COLLECTIONS)):
        if unknown := [name for name in given if name not in allowed]:
            raise ReprobookError(f"{what} {unknown[0]!r} is not known; allowed: {', '.join(allowed)}")
        if len(set(given)) < len(given):
            raise ReprobookError(f"a {what} is named twice in {list(given)}")
    wrong = [
        ladder for name, ladder in zip(real, ladders, strict=False)
        if list(ladder) != sorted(set(ladder)) or (len(ladder) < 2) != (name == "released")
    ]  # fmt: skip
    if len(real) != len(ladders) or wrong:
        raise ReprobookError(
            f"real_ladders needs a ladder that rises from few documents (0: the supporting ones) to all for each of "
            f"{list(real)}, [] for released; got {[list(each) for each in ladders]}"
        )
    if list(edges) != sorted(set(edges)):
        raise ReprobookError(f"bin_edges must rise, got {list(edges)}")


Name = tuple[str, int]  # kind of set (hard, random, alone, none) and count of documents, 0: the supporting ones
Sets = dict[Name, list[tuple[Instance, BuiltSet | None]]]


def questions(
    name: str, data: ChapterData, spans: Spans, least: int = 1500, limit: int | None = None
) -> list[Instance]:
    """The questions of ``musique`` or ``2wiki``, each paragraph on its Wikipedia page; the first ``limit`` are read.
    2WikiMultiHopQA is cut to questions of at least ``least`` tokens, in the paper 1,500."""
    if name == "musique":
        found = musique(read_files(data.path("musique"), "*dev.jsonl"), spans)
    elif name == "2wiki":
        found = long_enough(two_wiki(read_files(data.path("2wiki"), "dev.parquet"), spans), least)
    else:
        raise ReprobookError(f"collection {name!r} must be one of {', '.join(COLLECTIONS)}")
    found = found[:limit]
    titles = {document.title for question in found for document in question.documents}
    pages = wanted_pages(data.path("wikipedia-pages").rglob("*.parquet"), titles)
    return find_pages(found, pages, spans)


def open_sets(name: str, data: ChapterData, spans: Spans, ladder: Sequence[int], least: int, limit: int | None,
              seed: int) -> Sets:  # fmt: skip
    """The sets of a collection: built from its questions, or, for ``released``, as the authors published them."""
    if name != "released":
        return build_sets(questions(name, data, spans, least, limit), ladder, seed)
    found: Sets = {}
    for each in musique(read_files(data.path("released-sets")), spans):
        n = len(each.documents)
        found.setdefault(("hard", 0 if n == len(each.supporting) else n), []).append((each, build_set(each, n)))
    return found


def build_sets(asked: Sequence[Instance], ladder: Sequence[int], seed: int) -> Sets:
    """Every set of the paper, over the questions whose pages are long enough for all of them: retrieved (``hard``) and
    random distractors at each count, the supporting documents alone, none. Raises :class:`ReprobookError` if no
    question is left."""
    pool = [(q.id, d) for q in asked for k, d in enumerate(q.documents) if k not in q.supporting]
    found: Sets = {}
    for question in asked:
        twin = replace_distractors(question, pool, seed)
        try:
            row: dict[Name, tuple[Instance, BuiltSet | None]] = {
                (kind, count): (each, build_set(each, count or len(each.supporting), seed=seed))
                for kind, each in (("hard", question), ("random", twin)) for count in ladder
            }  # fmt: skip
        except TooShortError:
            continue
        row |= {("alone", 0): (question, supporting_only(question)), ("none", 0): (question, None)}
        for name, pair in row.items():
            found.setdefault(name, []).append(pair)
    if not found:
        raise ReprobookError(f"no question of {len(asked)} has pages long enough for every set")
    return found


def read_sets(
    model: Any, tokenizer: Any, sets: Sets, store: str | Path, *, demonstrations: int = 0, seed: int = 0, **how: Any
) -> pd.DataFrame:
    """One row for each question and set: what :func:`read_with_json` says of it, and the ``total`` of its documents.

    ``demonstrations``: so many questions, drawn once, are answered in front of every question and asked of nobody, as
    in the released code (3); the paper's prompt has none."""
    totals = {q.id: int(q.lengths.sum()) for pairs in sets.values() for q, _ in pairs}
    shown = set(np.random.default_rng([seed, 4]).permutation(sorted(totals))[:demonstrations].tolist())
    frames = []
    for name, pairs in sets.items():
        front = [(q, b) for q, b in pairs if q.id in shown and b is not None]
        read = functools.partial(read_with_json, model, tokenizer, seed=seed, demonstrations=front, **how)
        asked = [(q, b) for q, b in pairs if q.id not in shown]
        wanted = {name: ([q for q, _ in asked], [b for _, b in asked])}
        frames.append(read_all(wanted, read, ("kind", "count"), store, label=str(sorted(shown))))
    frame = pd.concat(frames, ignore_index=True)
    return frame.assign(total=frame["question"].map(totals))


def _f1(frame: pd.DataFrame, kind: str, count: int) -> pd.Series:
    return frame[(frame["kind"] == kind) & (frame["count"] == count)].set_index("question")["f1"]


def effects(label: str, frame: pd.DataFrame, edges: Sequence[int] = ()) -> dict[str, pd.DataFrame]:
    """The effects of a model on a collection, each a frame (question; ``a``, ``b``), paired over questions that both
    have: the ``fall`` from the fewest to all documents, the ``random rise`` from fewest to all random ones, supporting
    documents ``alone minus fewest``, the levels ``no documents`` and ``fewest documents`` (minus 0), and the fall in
    the bins of total length between ``edges``."""
    counts = sorted(frame[frame["kind"] == "hard"]["count"].unique())
    few = ("hard", counts[0])
    pairs = {"fall": (few, ("hard", counts[-1])), "fewest documents": (few, few)}
    if "random" in set(frame["kind"]):
        pairs["random rise"] = ("random", counts[-1]), ("random", counts[0])
        pairs["alone minus fewest"] = ("alone", 0), few
        pairs["no documents"] = ("none", 0), ("none", 0)
    found = {}
    for name, (a, b) in pairs.items():
        both = pd.concat({"a": _f1(frame, *a), "b": _f1(frame, *b)}, axis=1).dropna()
        found[f"{label}: {name}"] = both.assign(b=0.0) if a == b else both
    total = frame.groupby("question")["total"].max()
    for k, (low, high) in enumerate(itertools.pairwise([0, *edges, np.inf]) if edges else (), start=1):
        fall = found[f"{label}: fall"]
        found[f"{label}: fall, bin {k}"] = fall[fall.index.isin(total.index[(total >= low) & (total < high)])]
    return found


def bins_table(frame: pd.DataFrame, edges: Sequence[int]) -> pd.DataFrame:
    """Mean F1 by bin of total length and number of documents, as the paper's Table 3 has it."""
    hard = frame[frame["kind"] == "hard"].copy()
    borders = [0, *edges, np.inf]
    names = [f"{a}-{b}" if np.isfinite(b) else f"{a}+" for a, b in itertools.pairwise(borders)]
    hard["Tokens"] = pd.cut(hard["total"], borders, right=False, labels=names)
    means = hard.pivot_table(index="Tokens", columns="count", values="f1", observed=False)
    return means.rename(columns=lambda c: str(c) if c else "2-4").reset_index().rename_axis(None, axis=1)


def answers_table(frames: Mapping[tuple[str, str], pd.DataFrame]) -> pd.DataFrame:
    """Sampled answers by model, collection and set: F1, F1 of the printed object, shares of parsed and of declined
    responses, tokens of the prompt."""
    rows = []
    for (model, name), frame in frames.items():
        for (kind, count), part in frame.groupby(["kind", "count"], sort=False):
            means = part[["f1", "whole", "parsed", "refused", "tokens"]].mean().to_dict()
            rows.append(
                {"model": model, "questions": name, "set": kind, "documents": int(str(count)), "n": len(part), **means}
            )
    return pd.DataFrame(rows)


def large_minus_small(frames: Mapping[tuple[str, str], pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """For C3: the fall of the large model of a family (``a``) and of its small one of 7 to 9B (``b``) on the same
    questions. Gemma is the only family of the paper's six that has both and is no exception (C2)."""
    large, small, found = "gemma-2-27b-it", "gemma-2-9b-it", {}
    for name in ("musique", "2wiki"):
        if (large, name) in frames and (small, name) in frames:
            pairs = [effects("", frames[model, name])[": fall"] for model in (large, small)]
            a, b = (pair["a"] - pair["b"] for pair in pairs)
            found[f"{large} minus {small}, {name}: fall"] = pd.DataFrame({"a": a, "b": b}).dropna()
    return found
