"""Paper scale: the real questions, their Wikipedia pages, the released sets, and the models that read them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reprobook.errors import ReprobookError
from reprobook.nn import lm
from reprobook.nn.lm import load_tokenizer as load_tokenizer
from reprobook.papers.more_documents.sets import Document, Instance, page, splice

if TYPE_CHECKING:
    from reprobook.papers.more_documents.sets import Spans

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


def released_sets(folder: str | Path) -> Iterator[dict[str, Any]]:
    """Records of the released sets (JSON lines, JSON or parquet files; fields as in MuSiQue)."""
    from datasets import load_dataset

    folder = Path(folder)
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".parquet", ".jsonl", ".json"))
    if not files:
        raise ReprobookError(f"no data file (*.parquet, *.jsonl, *.json) below the fetched folder {folder.name}")
    for file in files:
        builder = "parquet" if file.suffix == ".parquet" else "json"
        yield from load_dataset(builder, data_files=str(file), split="train", streaming=True)


def read_files(folder: str | Path, pattern: str) -> list[dict[str, Any]]:
    """All records of the parquet or JSON-lines files below ``folder`` that match ``pattern``."""
    from datasets import load_dataset

    folder = Path(folder)
    files = sorted(folder.rglob(pattern))
    if not files:
        raise ReprobookError(f"no file {pattern!r} below the fetched folder {folder.name}")
    builder = "parquet" if files[0].suffix == ".parquet" else "json"
    return list(load_dataset(builder, data_files=[str(f) for f in files], split="train", streaming=True))


def load_model(source: str | Path, device: Any) -> tuple[Any, Any]:
    """A fetched model and its tokenizer. One that no single GPU holds is spread over all of them by accelerate."""
    import torch

    source, cuda = Path(source), torch.device(device).type == "cuda"
    return lm.load_lm(source, device=device, device_map="auto" if cuda and source.is_dir() else None)
