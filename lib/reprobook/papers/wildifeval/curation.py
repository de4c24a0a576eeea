"""The curation pipeline: from a log of conversations to decomposed tasks. Every stage is a pure step on rows.

A row is a mapping; stages keep its fields and add theirs: ``conversation_id`` and ``text`` from the first message,
``certainty`` from the classifier, ``constraints`` from the decomposition, ``categories``, ``domain``.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reprobook.errors import ReprobookError
from reprobook.papers.wildifeval.kinds import CATEGORIES
from reprobook.project import atomic_write

Row = dict[str, Any]
TOXIC = 0.6  # released code: dropped above
PERCENTILE = 90  # Section 2.1 of the third version: the top 10 %; the README's later example has 50
FREQUENT = 40  # tasks with the same constraint text
LIMITS = (1, 8)  # constraints of a task; the third version's analyses start at 2


def run_stage(name: str, rows: Sequence[Row], step: Callable[[Sequence[Row]], list[Row]], folder: Path) -> list[Row]:
    """``step`` on ``rows``, kept in ``folder`` as JSON lines; the kept artefact is what the next stage reads."""
    out = folder / f"{name}.jsonl"
    atomic_write(out, "".join(json.dumps(row, sort_keys=True) + "\n" for row in step(rows)).encode())
    return [json.loads(line) for line in out.read_text("utf-8").splitlines()]


def first_message(log: Iterable[Mapping[str, Any]]) -> list[Row]:
    """``conversation_id``, ``language`` and the first user message as ``text``; conversations without one are left
    out. Raises :class:`ReprobookError` for a row without an id."""
    found = []
    for number, row in enumerate(log):
        if not row.get("conversation_id"):
            raise ReprobookError(f"conversation {number} has no conversation_id; fields: {', '.join(row)}")
        said = next((turn["content"] for turn in row["conversation"] if turn["role"] == "user"), "")
        if said.strip():
            found.append({"conversation_id": row["conversation_id"], "language": row["language"], "text": said})
    return found


def heuristics(rows: Sequence[Row], toxicity: Callable[[str], float]) -> list[Row]:
    """English, without the letters "code" (so no decoder and no zip code either), ``toxicity`` at most 0.6, and the
    first of equal texts, in the order of the released code. ``toxicity``: text -> [0, 1] (Detoxify "original")."""
    kept = [row for row in rows if row["language"] == "English" and "code" not in row["text"].lower()]
    kept = [row for row in kept if toxicity(row["text"]) <= TOXIC]
    return list({row["text"]: row for row in reversed(kept)}.values())[::-1]


def classify(rows: Sequence[Row], certainty: Callable[[str], float | None]) -> list[Row]:
    """``certainty`` that the text is a constrained task: the yes/no score of a classifier's answer, 0 without one."""
    return [{**row, "certainty": score if (score := certainty(row["text"])) is not None else 0.0} for row in rows]


def most_certain(rows: Sequence[Row], percentile: float = PERCENTILE) -> list[Row]:
    """Rows strictly above the percentile of certainty: at most 100 - ``percentile`` % of them, ties at it dropped. A
    second pass over its own output changes nothing (``cut`` is kept in the rows)."""
    if not 0 <= percentile <= 100:
        raise ReprobookError(f"percentile {percentile} must be from 0 to 100")
    if not rows:
        return []
    cut = rows[0].get("cut", float(np.percentile([row["certainty"] for row in rows], percentile)))
    return [{**row, "cut": cut} for row in rows if row["certainty"] > cut]


HEAD = "Translated Constraints:"
_THEIRS = re.compile(r"\n(?=\d+\.\s*[A-Z])")
_OURS = re.compile(r"\n(?=[ \t]*(?:\d+[.)]|[-*•])\s*\S)")
_NUMBER = re.compile(r"^\s*(?:\d+[.)]|[-*•])\s*")


def parse_decomposition(answer: str, rule: str = "ours") -> list[str]:
    """The constraints of a decomposer's answer: the items after the first "Translated Constraints:", none without it.

    ``rule`` "theirs" splits before lines of number, dot and capital letter, as the released code does, so that an item
    that begins with a small letter or a quotation mark stays glued to the one before; "ours" splits before any item."""
    if rule not in ("ours", "theirs"):
        raise ReprobookError(f"rule {rule!r} must be ours or theirs")
    _, head, rest = answer.partition(HEAD)
    if not head:
        return []
    parts = (_OURS if rule == "ours" else _THEIRS).split("\n" + rest.strip())
    items = [_NUMBER.sub("", part.strip(), count=1).strip() for part in parts]
    return [" ".join(item.split()) if rule == "ours" else item for item in items if item]


def decompose(rows: Sequence[Row], answer: Callable[[str], str], rule: str = "ours") -> list[Row]:
    """``constraints`` of each row from a decomposer's ``answer``; equal constraints of a task count once, as they do in
    the released code, whose scores are keyed by their text. A task without any is left out."""
    found = [
        {**row, "constraints": list(dict.fromkeys(parse_decomposition(answer(row["text"]), rule)))} for row in rows
    ]
    return [row for row in found if row["constraints"]]


def debias(rows: Sequence[Row], most: int = FREQUENT, seed: int = 0) -> list[Row]:
    """Constraints whose text stands in more than ``most`` tasks are kept in ``most`` of them, drawn at random, and
    removed from the others; a task that loses all is left out. The paper doesn't say whether whole tasks or single
    constraints go; we take the constraint, which keeps more."""
    where: dict[str, list[int]] = {}
    for k, row in enumerate(rows):
        for each in set(row["constraints"]):
            where.setdefault(each, []).append(k)
    rng, gone = np.random.default_rng(seed), set()
    for each in sorted(text for text, held in where.items() if len(held) > most):
        stay = set(rng.permutation(where[each])[:most].tolist())
        gone |= {(k, each) for k in where[each] if k not in stay}
    found = [
        {**row, "constraints": [c for c in row["constraints"] if (k, c) not in gone]} for k, row in enumerate(rows)
    ]
    return [row for row in found if row["constraints"]]


def within_limits(rows: Sequence[Row], limits: tuple[int, int] = LIMITS) -> list[Row]:
    """Tasks whose number of constraints is within ``limits``."""
    return [row for row in rows if limits[0] <= len(row["constraints"]) <= limits[1]]


def read_category(answer: str) -> str:
    """Category of a classifier's answer: a number from 0 to 7 alone; anything else ("Other: ...") is Other."""
    found = re.fullmatch(r"\s*([0-7])\s*\.?\s*", answer)
    return CATEGORIES[int(found[1])] if found else "Other"


def categorise(rows: Sequence[Row], category: Callable[[str], str]) -> list[Row]:
    """``categories``: one for each constraint."""
    return [{**row, "categories": [category(each) for each in row["constraints"]]} for row in rows]


def domains(
    rows: Sequence[Row], name: Callable[[Sequence[str]], list[str]], merge: Callable[[Sequence[str]], list[str]],
    choose: Callable[[str, Sequence[str]], str], batch: int = 100,
) -> list[Row]:  # fmt: skip
    """``domain`` of each task in the paper's three steps: ``name`` domains for each batch of texts, ``merge`` them into
    one list, ``choose`` one of these for each text."""
    texts = [row["text"] for row in rows]
    named = [each for at in range(0, len(texts), batch) for each in name(texts[at : at + batch])]
    merged = merge(named)
    return [{**row, "domain": choose(row["text"], merged)} for row in rows]


# Five examples of ours for each category: what the paper's prompt has, in other words.
EXAMPLES: dict[str, tuple[str, ...]] = {
    "Style and Tone": ("Use a formal tone", "Write in a humorous style", "Keep it friendly and casual",
                       "Make it sound poetic", "Use small letters throughout"),
    "Include / Avoid": ("Mention the price of the ticket", "Do not use the word cheap", "Include the word river",
                        "Leave out any names", "Avoid technical terms"),
    "Format and Structure": ("Write it as a numbered list", "Use bullet points", "Give the result as a table",
                             "Split it into three paragraphs", "Return JSON with two keys"),
    "Length": ("Use at most 100 words", "Write between 50 and 70 words", "Keep it under 280 characters",
               "Write exactly four sentences", "Make it one page long"),
    "Persona and Role": ("Act as a doctor", "Speak as a pirate", "You are an expert lawyer",
                         "Pretend to be my grandmother", "Answer in the role of a teacher"),
    "Focus / Emphasis": ("Focus on the economic effects", "Emphasise the main character", "Name the topic first",
                         "Stress the importance of safety", "Concentrate on the last decade"),
    "Ensure Quality": ("Make sure it is accurate", "Keep the text coherent", "Avoid repeating yourself",
                       "Check the grammar", "Every sentence must be complete"),
    "Editing": ("Rewrite the given paragraph", "Replace one word of the sentence", "Remove a word from the text above",
                "Correct the mistakes in my essay", "Shorten the passage below"),
}  # fmt: skip


def nearest_category(vectors: Callable[[Sequence[str]], np.ndarray], least: float = 0.0) -> Callable[[str], str]:
    """A classifier without a language model: the category whose examples' mean vector is nearest by cosine, Other below
    ``least``. ``vectors``: texts -> unit vectors (n, d)."""
    centres = np.stack([vectors(EXAMPLES[each]).mean(0) for each in CATEGORIES])
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)

    def category(text: str) -> str:
        likeness = centres @ vectors([text])[0]
        return CATEGORIES[int(likeness.argmax())] if likeness.max() >= least else "Other"

    return category


# ------------------------------------------------------------------------------------------------- a synthetic log


def synthetic_log(prompts: Sequence[str], seed: int = 0) -> tuple[list[Row], Counter[str]]:
    """A log of conversations with planted cases around ``prompts``, and how many rows each case has. Planted: another
    language, the letters "code", a toxic word, a duplicate, no user turn, a constrained task ("task")."""
    rng, rows, planted = np.random.default_rng(seed), [], Counter[str]()
    cases = ("task", "chat", "foreign", "code", "toxic", "duplicate", "silent")
    for k, prompt in enumerate(prompts):
        case = "task" if k == 0 else cases[int(rng.choice(len(cases), p=[0.3, 0.4, 0.08, 0.08, 0.05, 0.06, 0.03]))]
        text = {"task": prompt, "code": f"Decode this, number {k}: {prompt}", "toxic": f"You idiot {k}, {prompt}",
                "duplicate": prompts[0]}.get(case, f"Hello, this is question {k}")  # fmt: skip
        turns = [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes."},
                 {"role": "user", "content": f"Go on with {k}"}]  # fmt: skip
        rows.append({"conversation_id": f"c{k}", "conversation": turns[1:2] if case == "silent" else turns,
                     "language": "German" if case == "foreign" else "English"})  # fmt: skip
        planted[case] += 1
    return rows, planted


def word_list_toxicity(text: str) -> float:
    """A stand-in for Detoxify, which is not to be had offline: 1 with one of three words in it, else 0."""
    return float(bool(re.search(r"\b(?:idiot|stupid|hate)\b", text.lower())))
