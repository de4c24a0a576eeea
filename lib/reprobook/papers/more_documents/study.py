"""The experiment: the same questions in every set, one row for each question, set and reader, and what is compared."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from reprobook.errors import ReprobookError
from reprobook.nn.lm import load_lm
from reprobook.papers.more_documents import lm_reader, readers
from reprobook.papers.more_documents.planted import TokenizerSpans, alone, articles, cell, make_questions
from reprobook.papers.more_documents.scoring import f1
from reprobook.papers.more_documents.sets import TooShortError, audit, build_set

if TYPE_CHECKING:
    from reprobook.data import ChapterData
    from reprobook.papers.more_documents.planted import Article, Question
    from reprobook.papers.more_documents.sets import BuiltSet, Spans

KEY = ["condition", "documents", "look_alikes"]
SMALL = "smollm2-135m-instruct"
BINS = ("short", "middle", "long")


class Condition(NamedTuple):
    """A set of every question: ``set`` with so many documents and look-alikes, ``alone`` (the document that holds the
    answer, not extended) or ``none`` (no documents)."""

    kind: str
    documents: int
    look_alikes: int


def lines(counts: Sequence[int]) -> dict[str, list[Condition]]:
    """The sets of each line, the fewest documents first. *Count only*: all look-alikes in every set. *Facts only*: all
    documents, as many look-alikes as the smaller sets of the paper would hold. *Both*: the paper's. *No look-alikes*:
    fewest and all documents."""
    if list(counts) != sorted(set(counts)) or len(counts) < 2 or counts[0] < 1:
        raise ReprobookError(f"counts must rise from 1 or more and be two or more, got {list(counts)}")
    n = counts[-1]
    return {
        "count only": [Condition("set", c, n - 1) for c in counts],
        "facts only": [Condition("set", n, c - 1) for c in counts],
        "both": [Condition("set", c, c - 1) for c in counts],
        "no look-alikes": [Condition("set", c, 0) for c in (counts[0], n)],
    }


def conditions(counts: Sequence[int]) -> list[Condition]:
    """Every set that is read, once: *count only* whole, of the other lines the ends; the document alone with all
    look-alikes around it, and no documents."""
    n, (whole, *others) = counts[-1], lines(counts).values()
    ends = [line[k] for line in others for k in (0, -1)]
    return [*dict.fromkeys([*whole, *ends]), Condition("alone", 1, n - 1), Condition("none", 0, 0)]


class Study(NamedTuple):
    """The questions of a reader and their sets, one list for each condition."""

    questions: list[Question]
    sets: dict[Condition, list[BuiltSet | None]]
    counts: Sequence[int]


def open_study(
    where: Sequence[Article], spans: Spans, counts: Sequence[int], *, n_questions: int, name_words: int, seed: int,
    tokenizer: Any = None,
) -> Study:  # fmt: skip
    """``n_questions`` questions that every set can be built of, so that all means are over the same ones. With a
    ``tokenizer`` prompts are made equally long, headers included."""
    wanted, kept, sets = conditions(counts), [], {}
    header = lm_reader.header_tokens(tokenizer) if tokenizer else 1
    for question in make_questions(where, spans, n_questions=n_questions + 9, n_documents=counts[-1],
                                   name_words=name_words, seed=seed):  # fmt: skip
        try:
            built = [_build(question, each, seed, header, tokenizer) for each in wanted]
        except TooShortError:
            continue
        kept.append(question)
        sets[question.id] = built
        if len(kept) == n_questions:
            break
    if len(kept) < n_questions:
        raise ReprobookError(f"{len(kept)} of {n_questions} questions allow every set: take wider paragraphs")
    return Study(kept, {c: [sets[q.id][i] for q in kept] for i, c in enumerate(wanted)}, counts)


def _build(question: Question, wanted: Condition, seed: int, header: int, tokenizer: Any) -> BuiltSet | None:
    if wanted.kind == "none":
        return None
    if wanted.kind == "alone":
        return alone(question, wanted.look_alikes, seed)
    built = cell(question, wanted.documents, wanted.look_alikes, header=header, seed=seed)
    if tokenizer is None or wanted.documents == len(question.facts):
        return built
    full = cell(question, len(question.facts), wanted.look_alikes, header=header, seed=seed)
    goal, more = lm_reader.prompt_tokens(tokenizer, question, full), 0
    for _ in range(3):  # a token at a joint may merge, so measured on the text
        missing = goal - lm_reader.prompt_tokens(tokenizer, question, built)
        if not missing:
            break
        more += missing
        built = cell(question, wanted.documents, wanted.look_alikes, header=header, more=more, seed=seed)
    return built


# ------------------------------------------------------------------------------------------------- readings

Readings = Mapping[tuple[Any, ...], tuple[Sequence[Any], Sequence["BuiltSet | None"]]]


def read_all(
    wanted: Readings, read: Callable[[Sequence[Any], Sequence[Any]], Sequence[Mapping[str, Any]]], names: Sequence[str],
    store: str | Path, *, chunk: int = 20, label: str = "",
) -> pd.DataFrame:  # fmt: skip
    """One row per condition and question with what ``read`` makes of (questions, their sets), ``chunk`` at a time.
    ``wanted``: condition -> questions, sets; ``names``: the columns of a condition. Rows are written to ``store`` line
    by line, and an interrupted run goes on where it stopped; a row whose text was another is read again."""
    store = Path(store)
    done = {row["text"]: row for row in _lines(store)}
    rows = []
    for condition, (asked, sets) in wanted.items():
        told = [(label, condition, q.id, q.question, b.texts if b else ()) for q, b in zip(asked, sets, strict=True)]
        texts = [hashlib.blake2b(repr(each).encode(), digest_size=8).hexdigest() for each in told]
        missing = [k for k, text in enumerate(texts) if text not in done]
        for at in range(0, len(missing), chunk):
            part = missing[at : at + chunk]
            answers = read([asked[k] for k in part], [sets[k] for k in part])
            for k, found in zip(part, answers, strict=True):
                row = {"text": texts[k], **dict(zip(names, condition, strict=True)), "question": asked[k].id}
                done[texts[k]] = {**row, **found}
            with store.open("a", encoding="utf-8") as stream:
                stream.writelines(json.dumps(done[texts[k]]) + "\n" for k in part)
        rows += [done[text] for text in texts]
    return pd.DataFrame(rows).drop(columns="text")


def _lines(store: Path) -> Iterator[dict[str, Any]]:
    """Whole rows of the store; what follows a broken one is cut off the file."""
    store.parent.mkdir(parents=True, exist_ok=True)
    store.touch()
    good = 0
    for line in store.read_bytes().splitlines(keepends=True):
        try:
            row = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n"):
            break
        yield row
        good += len(line)
    with store.open("r+b") as stream:
        stream.truncate(good)


class Asked(NamedTuple):
    """What a language model made of its study, and what blind readers make of it."""

    made: Study
    frame: pd.DataFrame
    blind: pd.DataFrame


def ask(
    data: ChapterData, name: str, counts: Sequence[int], n_questions: int, n_rows: int, texts: dict[str, str], *,
    name_words: int, temperature: float, seed: int, store: Path, device: Any,
) -> Asked:  # fmt: skip
    """The study of the model ``name``, documents counted in its own tokens; readings are kept in ``store``. The ends of
    *count only* are read for all ``n_questions``, other sets for the first ``n_rows``. Where an optional model is not
    to be had, SmolLM2 reads in its place, and that is said."""
    source = data.path_or_none(name) if name != SMALL else data.path(SMALL)
    if source is None:
        print(f"{name} is not to be had here: {SMALL} reads in its place")
    model, tokenizer = load_lm(source or data.path(SMALL), device=device)
    spans = TokenizerSpans(tokenizer)
    made = open_study(articles(texts, spans), spans, counts, n_questions=n_questions, name_words=name_words, seed=seed,
                      tokenizer=tokenizer)  # fmt: skip
    read = functools.partial(lm_reader.read, model, tokenizer, temperature=temperature)
    line = lines(counts)["count only"]
    limit = {condition: None if condition in (line[0], line[-1]) else n_rows for condition in made.sets}
    wanted = {tuple(c): (made.questions[: limit[c]], sets[: limit[c]]) for c, sets in made.sets.items()}
    frame = read_all(wanted, read, KEY, store, label=f"{name} {temperature}")
    told = {q.id: {"bin": q.bin, "place": q.asked, "about": q.about} for q in made.questions}
    asked = pd.DataFrame([told[each] for each in frame["question"]])
    return Asked(made, pd.concat([frame, asked], axis=1), blind_rows(made))


def blind_rows(made: Study) -> pd.DataFrame:
    """``right`` of every reader without a network in every condition with documents, one row a question."""
    best, rows = readers.majority(made.questions), []
    ways = {**readers.BLIND, readers.MAJORITY: lambda question, built: best, **readers.RETRIEVERS}  # noqa: ARG005
    for condition, sets in made.sets.items():
        if condition.kind == "none":
            continue
        for name, way in ways.items():
            rows += [
                {"reader": name, **dict(zip(KEY, condition, strict=True)), "question": q.id,
                 "right": f1(way(q, built), q.plain.golds)}
                for q, built in zip(made.questions, sets, strict=True) if built is not None
            ]  # fmt: skip
    return pd.DataFrame(rows)


# ------------------------------------------------------------------------------------------------- effects


def readings(frame: pd.DataFrame, condition: Condition, measure: str) -> pd.Series:
    """The measure of one condition by question."""
    chosen = frame[(frame[KEY] == list(condition)).all(axis=1)]
    if chosen.empty:
        raise ReprobookError(f"no reading of {condition}")
    return chosen.set_index("question")[measure]


def comparisons(frame: pd.DataFrame, counts: Sequence[int], measure: str = "p") -> dict[str, pd.DataFrame]:
    """What the chapter compares, frames (question; ``a``, ``b``) over the questions that were read in both sets. Falls
    are fewest minus all documents; *facts only* is none minus all look-alikes at all documents."""
    ends = {name: (line[0], line[-1]) for name, line in lines(counts).items()}
    ends["alone minus extended"] = Condition("alone", 1, counts[-1] - 1), ends["count only"][0]
    return {
        name: pd.concat({k: readings(frame, e, measure) for k, e in zip("ab", pair, strict=True)}, axis=1, join="inner")
        for name, pair in ends.items()
    }


def by_bin(frame: pd.DataFrame, counts: Sequence[int]) -> dict[str, pd.DataFrame]:
    """The fall of *count only* within each length of the questions."""
    fall = comparisons(frame, counts)["count only"]
    bins = frame.groupby("question")["bin"].first()[fall.index]
    return {f"count only, {BINS[k]}": fall[bins == k] for k in sorted(set(bins))}


def levels(frame: pd.DataFrame, blind: pd.DataFrame, counts: Sequence[int]) -> dict[str, pd.Series]:
    """Controls by question: what reading is worth above the best reader on the fewest and on all documents that does
    not use the person, room for a fall, how unequal the prompts of all sets are and how far the evidence moves in them,
    both as a share of the prompt, what the reader that gains most by fewer documents without using the person gains,
    and knowledge without documents."""
    few, all_of = lines(counts)["count only"][0], lines(counts)["count only"][-1]
    lazy = blind[blind["reader"].isin([*readers.BLIND, readers.MAJORITY])]
    ends = [
        lazy[(lazy[KEY] == list(each)).all(axis=1)].pivot(index="question", columns="reader", values="right")
        for each in (few, all_of)
    ]
    gains, read = ends[0] - ends[1], [readings(frame, each, "p") for each in (few, all_of)]
    best = (ends[0].mean().max() + ends[1].mean().max()) / 2
    sets = frame[frame["condition"] == "set"].groupby("question")
    tokens, at = sets["tokens"], sets["at"]
    return {
        "reading above blind": (read[0] + read[1]) / 2 - best,
        "fewest documents": read[0],
        "all documents": read[1],
        "unequal tokens": (tokens.max() - tokens.min()) / tokens.max(),
        "shift of the evidence": (at.max() - at.min()) / tokens.max(),
        "gain of lazy readers": gains[gains.mean().idxmax()],
        "no documents above chance": readings(frame, Condition("none", 0, 0), "p") - 1 / counts[-1],
    }


# ------------------------------------------------------------------------------------------------- tables


def line_table(made: Study, frame: pd.DataFrame) -> pd.DataFrame:
    """Means of every line at every step that was read, over so many ``questions``: expected accuracy ``p``, greedy
    accuracy ``right``, ``f1`` of the free answer, ``mass`` of the choices, ``tokens``."""
    told = frame.groupby(KEY).agg({"question": "size", **dict.fromkeys(["p", "right", "f1", "mass", "tokens"], "mean")})
    means = told.rename(columns={"question": "questions"}).to_dict("index")
    return pd.DataFrame([{**row, **means[tuple(each)]} for row, each in _steps(made)])


def place_table(frame: pd.DataFrame, counts: Sequence[int]) -> pd.DataFrame:
    """Expected accuracy of *count only* with the fewest and with all documents, by the ``place`` of the answer's fact
    among all facts, 1 the first."""
    fall = comparisons(frame, counts)["count only"].set_axis(["fewest documents", "all documents"], axis=1)
    place = frame.groupby("question")["place"].first()[fall.index].to_numpy() + 1
    return fall.groupby(place).mean().rename_axis("place").reset_index()


def blind_table(made: Study, blind: pd.DataFrame) -> pd.DataFrame:
    """Share of right answers of the readers without a network, a row for each line and step."""
    means = blind.groupby([*KEY, "reader"])["right"].mean().unstack("reader").to_dict("index")
    return pd.DataFrame([{**row, **means[tuple(each)]} for row, each in _steps(made) if each.kind != "none"])


def joined(parts: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The tables of all readers, one below the other."""
    frame = pd.concat(dict(parts), names=["reader", None])
    return frame.reset_index(level=0).reset_index(drop=True)


def _steps(made: Study) -> list[tuple[dict[str, Any], Condition]]:
    """Line, documents and look-alikes of every condition; one that two lines share comes twice."""
    found = [(name, each) for name, line in lines(made.counts).items() for each in line]
    found += [({"alone": "alone", "none": "no documents"}[c.kind], c) for c in made.sets if c.kind != "set"]
    return [
        ({"line": name, "documents": each.documents, "look-alikes": each.look_alikes}, each)
        for name, each in found if each in made.sets
    ]  # fmt: skip


def audit_table(asked: Sequence[Question], counts: Sequence[int], spans: Spans, seed: int) -> pd.DataFrame:
    """What each construction does to the questions: means of documents and tokens, the most tokens lost, the largest
    shift of the evidence in tokens, the share of questions whose paragraph stands twice, and how often the position
    reader is right. Headers are left out."""
    ways: dict[str, dict[str, Any]] = {
        "the paper's": {}, "page start": {"source": "page_start"}, "equal share": {"extension": "equal"},
        "fixed shuffle": {"order": "slots"},
    }  # fmt: skip
    rows = []
    for name, switches in ways.items():
        for count in counts:
            found, hits = [], []
            for question in asked:
                instance = question.instance(0, seed)
                built = build_set(instance, count, seed=seed, **switches)
                found.append(audit(instance, built))
                hits.append(f1(readers.position_only(question, built, spans), question.plain.golds))
            each = pd.DataFrame(found)
            rows.append({
                "construction": name, "documents": count, "tokens": each["tokens"].mean(),
                "most tokens lost": each["tokens lost"].max(), "largest shift": each["largest shift"].max(),
                "evidence twice": (each["copies of evidence"] > 1).mean(), "position reader": np.mean(hits),
            })  # fmt: skip
    return pd.DataFrame(rows)
