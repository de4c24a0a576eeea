"""The experiment: the same questions in every set, and one row for each question, set and reader."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprobook.errors import ReprobookError
from reprobook.metrics.statistics import paired_bootstrap
from reprobook.papers.more_documents.planted import distractor_pool
from reprobook.papers.more_documents.sets import (
    BuiltSet,
    Instance,
    TooShortError,
    audit,
    build_set,
    replace_distractors,
    supporting_only,
)

if TYPE_CHECKING:
    import pandas as pd

    from reprobook.metrics.statistics import Interval

KEY = ("question", "condition", "count")


@dataclass(frozen=True)
class Condition:
    """How a set is built. ``count`` 0 in a ladder means the supporting documents, extended."""

    name: str
    count: int
    switches: Mapping[str, Any] = field(default_factory=dict)
    random: bool = False  # random distractors in place of hard ones


def conditions(ladder: Sequence[int], ablations: bool = True) -> list[Condition]:
    """Every set of the study for one ladder of counts: the hard and the random ladder, supporting documents alone, no
    documents, and the constructions that are *not* the paper's (all sets but the largest change with them)."""
    if list(ladder) != sorted(set(ladder)) or len(ladder) < 2 or ladder[0] < 0:
        raise ReprobookError(f"a ladder of counts must rise and have two or more, 0 for the supporting ones: {ladder}")
    found = [Condition("hard", count) for count in ladder]
    found += [Condition("random", count, random=True) for count in ladder]
    found += [Condition("supporting alone", 0), Condition("no documents", 0)]
    if ablations:
        few, many = ladder[0], ladder[-1]
        found += [
            Condition("page start", few, {"source": "page_start"}),
            Condition("equal share", few, {"extension": "equal"}),
            Condition("shuffled", few, {"order": "random"}),
            Condition("shuffled", many, {"order": "random"}),
        ]
    return found


def build(instance: Instance, condition: Condition, seed: int) -> BuiltSet | None:
    """The set of one question under one condition; None stands for no documents."""
    if condition.name == "no documents":
        return None
    if condition.name == "supporting alone":
        return supporting_only(instance)
    count = condition.count or len(instance.supporting)
    return build_set(instance, count, seed=seed, **condition.switches)


@dataclass(frozen=True)
class Study:
    """Questions with their random-distractor twins, and the conditions; only questions that every condition can build,
    so that all means are over the same ones. ``dropped``: ids of the others, with the reason."""

    questions: tuple[Instance, ...]
    twins: tuple[Instance, ...]
    conditions: tuple[Condition, ...]
    dropped: Mapping[str, str]
    seed: int

    def sets(self, condition: Condition) -> list[BuiltSet | None]:
        """The sets of all questions under a condition."""
        chosen = self.twins if condition.random else self.questions
        return [build(each, condition, self.seed) for each in chosen]

    def instances(self, condition: Condition) -> tuple[Instance, ...]:
        """The questions of ``condition``: those with random documents are twins of the others."""
        return self.twins if condition.random else self.questions


@dataclass(frozen=True)
class Given:
    """Sets that come ready-made, as the authors released them: count (0: supporting documents only) -> questions with
    exactly the documents of that set."""

    by_count: Mapping[int, Sequence[Instance]]

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """One condition for each number of documents."""
        return tuple(Condition("hard", count) for count in sorted(self.by_count))

    def instances(self, condition: Condition) -> Sequence[Instance]:
        """The questions of ``condition``."""
        return self.by_count[condition.count]

    def sets(self, condition: Condition) -> list[BuiltSet | None]:
        """The documents as they are."""
        return [build_set(each, len(each.documents)) for each in self.instances(condition)]


def given(instances: Sequence[Instance]) -> Given:
    """Sort ready-made sets by their number of documents: those whose every document supports the answer count as 0."""
    found: dict[int, list[Instance]] = {}
    for each in instances:
        n = len(each.documents)
        found.setdefault(0 if n == len(each.supporting) else n, []).append(each)
    return Given(found)


def study(questions: Sequence[Instance], wanted: Sequence[Condition], seed: int = 0) -> Study:
    """Build every set once to see which questions allow all of them: a page may be shorter than an extension needs.

    Raises :class:`ReprobookError` if none does."""
    dropped: dict[str, str] = {}
    pools = {r: distractor_pool(questions, r or None) for r in {q.relation for q in questions}}
    twins = [replace_distractors(q, pools[q.relation], seed) for q in questions]
    kept = []
    for question, twin in zip(questions, twins, strict=True):
        try:
            for condition in wanted:
                build(twin if condition.random else question, condition, seed)
            kept.append((question, twin))
        except TooShortError as error:
            dropped[question.id] = str(error)
    if not kept:
        raise ReprobookError(f"no question allows every set; the first fault: {next(iter(dropped.values()))}")
    return Study(tuple(q for q, _ in kept), tuple(t for _, t in kept), tuple(wanted), dropped, seed)


# ------------------------------------------------------------------------------------------------- readings


Read = Callable[[Sequence[Instance], Sequence[BuiltSet | None]], Sequence[Mapping[str, Any]]]


def read_all(made: Study | Given, read: Read, store: Path, *, chunk: int = 1, label: str = "reading") -> pd.DataFrame:
    """One row per question and condition with what ``read`` makes of (questions, their sets), ``chunk`` at a time,
    written line by line to ``store``: an interrupted run goes on where it stopped. A line cut short is read again, and
    so is one whose question or documents were others (``text`` is their checksum).

    Progress (of F1, where a training shows its loss): a bar for who watches, a log line now and then for the others."""
    import pandas as pd

    from reprobook.train.progress import Progress

    done = {(*(row[k] for k in KEY), row["text"]): row for row in _lines(store)}
    total = sum(len(made.instances(condition)) for condition in made.conditions)
    progress = Progress(label, total, min(len(done), total))
    rows = []
    with store.open("a", encoding="utf-8") as stream:
        for condition in made.conditions:
            pairs = list(zip(made.instances(condition), made.sets(condition), strict=True))
            keys = [(q.id, condition.name, condition.count, _checksum(label, q, built)) for q, built in pairs]
            missing = [k for k, key in enumerate(keys) if key not in done]
            for at in range(0, len(missing), chunk):
                part = missing[at : at + chunk]
                for k, found in zip(part, read([pairs[k][0] for k in part], [pairs[k][1] for k in part]), strict=True):
                    done[keys[k]] = {**dict(zip((*KEY, "text"), keys[k], strict=True)), **found}
                    stream.write(json.dumps(done[keys[k]]) + "\n")
                stream.flush()
                progress.update(len(done), float(done[keys[part[-1]]].get("f1", 0.0)))
            rows += [done[key] for key in keys]
    progress.close()
    return pd.DataFrame(rows)


def _checksum(label: str, instance: Instance, built: BuiltSet | None) -> int:
    texts = built.texts if built is not None else ()
    return zlib.crc32("\0".join([label, instance.question, instance.stub, instance.answer, *texts]).encode())


def _lines(store: Path) -> Iterator[dict[str, Any]]:
    """Whole rows of the store; what follows a broken one is cut off the file."""
    if not store.is_file():
        store.parent.mkdir(parents=True, exist_ok=True)
        return
    good = 0
    with store.open("rb") as stream:
        lines = stream.readlines()
    for line in lines:
        try:
            row = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            row = None
        if not isinstance(row, dict) or any(k not in row for k in (*KEY, "text")):
            break
        good += len(line)
        yield row
    with store.open("r+b") as stream:
        stream.truncate(good)


# ------------------------------------------------------------------------------------------------- differences


def values(frame: pd.DataFrame, name: str, count: int, measure: str) -> pd.Series:
    """The measure of one condition by question."""
    chosen = frame[(frame["condition"] == name) & (frame["count"] == count)].set_index("question")[measure]
    if chosen.empty:
        raise ReprobookError(f"no reading of condition {name!r} with count {count}")
    return chosen


def difference(
    frame: pd.DataFrame, a: tuple[str, int], b: tuple[str, int], measure: str = "f1", within: Any = None
) -> Interval:
    """Mean of condition ``a`` minus condition ``b`` over the same questions, with its paired bootstrap interval;
    ``within``: only these questions."""
    left, right = values(frame, *a, measure), values(frame, *b, measure)
    ids = left.index.intersection(right.index)
    if within is not None:
        ids = ids.intersection(within)
    if len(ids) < 2:
        raise ReprobookError(f"{len(ids)} questions have both {a} and {b}: at least 2 are needed")
    return paired_bootstrap(left[ids].to_numpy(float), right[ids].to_numpy(float))


def contrast(frame: pd.DataFrame, few: int, many: int, measure: str = "f1") -> Interval:
    """How much more hard distractors cost than random ones: (few - many) with hard ones minus the same with random
    ones, over the same questions (C7)."""
    hard = values(frame, "hard", few, measure) - values(frame, "hard", many, measure)
    random = values(frame, "random", few, measure) - values(frame, "random", many, measure)
    both = hard.index.intersection(random.index)
    return paired_bootstrap(hard[both].to_numpy(float), random[both].to_numpy(float))


def ladder_table(frame: pd.DataFrame, ladder: Sequence[int], measures: Mapping[str, tuple[str, int]]) -> pd.DataFrame:
    """Means by condition: one row for each kind of set and measure, one column for each count.

    ``measures``: column -> (its name, decimals)."""
    import pandas as pd

    rows = []
    for column, (label, decimals) in measures.items():
        for name in frame["condition"].unique():
            means = frame[frame["condition"] == name].groupby("count")[column].mean().round(decimals)
            rows.append({"set": name, "measure": label, **{_count(c): means.get(c) for c in ladder}})
    return pd.DataFrame(rows, columns=["set", "measure", *map(_count, ladder)])


def _count(count: int) -> str:
    return str(count) if count else "fewest"


def thirds(frame: pd.DataFrame) -> dict[str, list[str]]:
    """Questions in three bins of equal number by the tokens of their full set; label -> ids."""
    import numpy as np

    full = frame.groupby("question")["total"].max().sort_values(kind="stable")
    parts = np.array_split(np.arange(len(full)), 3)
    return {f"{full.iloc[p[0]]}-{full.iloc[p[-1]]} tokens": full.index[p].tolist() for p in parts if len(p)}


def faked(frame: pd.DataFrame, few: int, many: int, measure: str) -> pd.DataFrame:
    """How much of the effect few - many each wrong construction would add or take away, over the same questions: its
    own effect minus that of the paper's construction (``added``, with its paired interval)."""
    import pandas as pd

    strict = values(frame, "hard", few, measure) - values(frame, "hard", many, measure)
    rows = [{"construction": "the paper's", "few - many": strict.mean(), "added": None, "low": None, "high": None}]
    for name in ("page start", "equal share", "shuffled"):
        last = ("shuffled", many) if name == "shuffled" else ("hard", many)
        own = values(frame, name, few, measure) - values(frame, *last, measure)
        found = paired_bootstrap(own[strict.index].to_numpy(float), strict.to_numpy(float))
        rows.append({"construction": name, "few - many": own.mean(), "added": found.mean, "low": found.low,
                     "high": found.high})  # fmt: skip
    return pd.DataFrame(rows)


def audit_table(made: Study) -> pd.DataFrame:
    """What each construction does to the questions: means of documents and tokens, the most tokens lost, the largest
    shift of the evidence in tokens, the share of questions whose evidence stands there twice (see :func:`audit`)."""
    import pandas as pd

    rows = []
    for condition in made.conditions:
        if condition.random or condition.name == "no documents":
            continue
        pairs = zip(made.questions, made.sets(condition), strict=True)
        found = pd.DataFrame([audit(question, built) for question, built in pairs if built is not None])
        rows.append({
            "set": condition.name, "count": _count(condition.count), "documents": found["documents"].mean(),
            "tokens": found["tokens"].mean(), "tokens lost": found["tokens lost"].max(),
            "shift": found["largest shift"].max(),
            "evidence twice": (found["copies of evidence"] > 1).mean(),
        })  # fmt: skip
    return pd.DataFrame(rows)


def answers_table(answers: Mapping[tuple[str, str], pd.DataFrame]) -> pd.DataFrame:
    """Sampled answers by (model, questions) and condition: F1, shares of parsed and of declined responses."""
    import pandas as pd

    rows = []
    for (model, name), frame in answers.items():
        for (condition, count), part in frame.groupby(["condition", "count"], sort=False):
            rows.append({
                "model": model, "questions": name, "set": condition, "count": _count(count), "n": len(part),
                "F1": part["f1"].mean(), "F1 of the printed object": part["whole"].mean(),
                "parsed": part["parsed"].mean(), "declined": part["refused"].mean(),
            })  # fmt: skip
    return pd.DataFrame(rows)


def with_documents(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of the hard and the random ladder with their number of ``documents`` and a label ``line`` for curves."""
    chosen = frame[frame["condition"].isin(["hard", "random"])].copy()
    chosen["documents"] = chosen["count"].where(chosen["count"] > 0, chosen["hops"])
    chosen["line"] = chosen["condition"] + ", " + chosen["hops"].map({1: "one hop", 2: "two hops"})
    return chosen


def ends(made: Study, ladder: Sequence[int]) -> Study:
    """The same questions with two sets each: the fewest and all documents, hard distractors."""
    return replace(made, conditions=(Condition("hard", ladder[0]), Condition("hard", ladder[-1])))
