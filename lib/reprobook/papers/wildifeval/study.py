"""The experiments of the chapter: who answers, who judges, what follows for the claims.

Answers come in a frame with one row a constraint: ``responder``, ``task``, ``topic``, ``n``, ``block``, ``place``,
``kind``, ``category``, ``asked`` (False: drawn for the task, but nobody asked for it) and ``met`` (the rule's verdict).
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from reprobook.errors import ReprobookError
from reprobook.nn.lm import load_lm
from reprobook.papers.wildifeval import curation, judging, printed, published, released, responders, scores
from reprobook.papers.wildifeval.judge import Question, judge
from reprobook.papers.wildifeval.kinds import CATEGORIES, words
from reprobook.papers.wildifeval.store import digest, kept

if TYPE_CHECKING:
    from reprobook.data import ChapterData
    from reprobook.facts import Facts
    from reprobook.papers.wildifeval.published import RealTask, Rules
    from reprobook.papers.wildifeval.tasks import Task, Topic

SMALL, OPTIONAL = "smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct"
KNOWN = 0.7  # success rate of the responder of known rate
BLIND = "quoted words"  # the judge that reads no sentence
PLANTED = "planted errors"  # the judge of known errors: its sensitivity and specificity
MILD, HARSH = (0.9, 0.8), (0.6, 0.95)  # of most categories, and of length
LAYOUT = ("bullet points", "ends whole", "trade at the end", "last sentence")  # kinds that read layout, or the end


@dataclass(frozen=True)
class Speaker:
    """A language model that answers and judges; rows that it made are kept in ``folder``."""

    name: str
    model: Any
    tokenizer: Any
    folder: Path

    def answer(
        self, tasks: Sequence[Task], *, max_new: int, temperature: float, batch_size: int, seed: int
    ) -> list[str]:
        """Responses to ``tasks``; those of an interrupted run are found again."""
        keys = [digest(self.name, task.id, task.prompt, max_new, temperature, seed) for task in tasks]

        def make(rows: list[int]) -> list[dict[str, str]]:
            part = [tasks[k] for k in rows]
            found = responders.answers(self.model, self.tokenizer, part, max_new=max_new, temperature=temperature,
                                       batch_size=batch_size, seed=seed)  # fmt: skip
            return [{"text": text} for text in found]

        return [row["text"] for row in kept(self.folder / f"answers {self.name}.jsonl", keys, make, chunk=80)]

    def cut(self, tasks: Sequence[Task], texts: Sequence[str], max_new: int) -> set[str]:
        """Ids of the tasks whose text has, read again, the most tokens that were allowed: it did not end by itself."""
        lengths = [len(self.tokenizer(text, add_special_tokens=False).input_ids) for text in texts]
        return {task.id for task, length in zip(tasks, lengths, strict=True) if length >= max_new}

    def judge(self, questions: Sequence[Question], form: str = "satisfied") -> list[float]:
        """Scores of ``questions``; NaN where no yes and no no was found."""
        keys = [digest(self.name, form, tuple(each)) for each in questions]

        def make(rows: list[int]) -> list[dict[str, float | None]]:
            at_once = 4 if self.model.device.type == "cpu" else 16  # texts: more leave a processor's caches
            asked = [questions[k] for k in rows]
            found = judge(self.model, self.tokenizer, asked, form=form, batch_size=at_once)
            return [{"score": each.score} for each in found]

        rows = kept(self.folder / f"judged {self.name}.jsonl", keys, make, chunk=96)
        return [np.nan if row["score"] is None else row["score"] for row in rows]


def speakers(
    data: ChapterData, names: Mapping[str, str], folder: Path, device: Any, dtype: str = "auto"
) -> dict[str, Speaker]:
    """Role -> model, in ``dtype``. Where an optional model is not to be had, SmolLM2 stands in, and that is said; each
    is loaded once."""
    loaded: dict[str, Speaker] = {}
    found = {}
    for role, name in names.items():
        source = data.path_or_none(name) if name == OPTIONAL else data.path(name)
        if source is None:
            print(f"{name} is not to be had here: {SMALL} stands in")
            name, source = SMALL, data.path(SMALL)
        if name not in loaded:
            spread = "auto" if device.type == "cuda" and source.is_dir() else None  # a model may need several GPUs
            loaded[name] = Speaker(name, *load_lm(source, dtype=dtype, device=device, device_map=spread), folder)
        found[role] = loaded[name]
    return found


# ------------------------------------------------------------------------------------------------- curation


def curate(log: Sequence[Mapping[str, Any]], tasks: Sequence[Task], folder: Path) -> dict[str, list[curation.Row]]:
    """The pipeline on a log made around ``tasks``: stage -> its rows. Stand-ins: a word list for toxicity; certainty
    0.99 for a text that holds instructions, else one that grows with its length; a decomposer that lists the
    constraints the task was made of; the category by construction; one domain."""
    made = {each.text: each.category for task in tasks for each in task.asked}

    def certainty(text: str) -> float:
        return 0.99 - 1e-6 * len(text) if "Follow these instructions" in text else len(text) / 1e4

    def answer(text: str) -> str:
        return f"{curation.HEAD}\n" + "\n".join(f"{k}. {c}" for k, c in enumerate(_listed(text), start=1))

    def domain(rows: Sequence[curation.Row]) -> list[curation.Row]:
        return curation.domains(rows, _one_domain, set_of, _first)

    steps: dict[str, Callable[[Any], list[curation.Row]]] = {
        "first message": curation.first_message,
        "filtered": lambda rows: curation.heuristics(rows, curation.word_list_toxicity),
        "classified": lambda rows: curation.classify(rows, certainty),
        "most certain": curation.most_certain,
        "decomposed": lambda rows: curation.decompose(rows, answer),
        "de-biased": curation.debias,
        "within limits": curation.within_limits,
        "categorised": lambda rows: curation.categorise(rows, lambda text: made.get(text, "Other")),
        "with domains": domain,
    }
    rows: list[curation.Row] = [dict(row) for row in log]
    found = {"log": rows}
    for name, step in steps.items():
        rows = found[name] = curation.run_stage(name, rows, step, folder)
    return found


def _one_domain(texts: Sequence[str]) -> list[str]:  # noqa: ARG001 (a stand-in)
    return ["Writing"]


def _first(text: str, names: Sequence[str]) -> str:  # noqa: ARG001 (a stand-in)
    return names[0]


def set_of(names: Sequence[str]) -> list[str]:
    """The distinct names, sorted: the merging of domains for a stand-in."""
    return sorted(set(names))


def _listed(text: str) -> list[str]:
    return [re.sub(r" \(\d+\)$", "", line[2:]) for line in text.splitlines() if line.startswith("- ")]


def parser_table(tasks: Sequence[Task]) -> pd.DataFrame:
    """Constraints that both parsers find in answers that list those of ``tasks``, every third in small letters."""
    rows = []
    for rule in ("theirs", "ours"):
        right = found = 0
        for task in tasks:
            items = [c.text if k % 3 else c.text[:1].lower() + c.text[1:] for k, c in enumerate(task.asked)]
            answer = f"{curation.HEAD}\n" + "\n".join(f"{k}. {item}" for k, item in enumerate(items, start=1))
            parsed = curation.parse_decomposition(answer, rule)
            found, right = found + len(parsed), right + (parsed == items)
        listed = sum(task.n for task in tasks)
        rows.append({"rule": rule, "listed": listed, "found": found, "answers read right": right / len(tasks)})
    return pd.DataFrame(rows)


def classified(encoder: str | Path, tasks: Sequence[Task], device: Any) -> pd.DataFrame:
    """Categories of the tasks' constraints by the nearest examples, against those they were made of: a row a category
    with its number of distinct texts, the share put ``right``, and the mean ``silhouette`` (cosine) of its texts among
    all: how apart it stands."""
    from sklearn.metrics import silhouette_samples

    truth = {each.text: each.category for task in tasks for each in (*task.asked, *task.others)}
    category, vectors = _nearest(encoder, list(truth), device)
    labels = list(truth.values())
    frame = pd.DataFrame({"category": labels, "right": [category(t) == c for t, c in truth.items()],
                          "silhouette": silhouette_samples(vectors, labels, metric="cosine")})  # fmt: skip
    means = {"texts": ("right", "size"), "right": ("right", "mean"), "silhouette": ("silhouette", "mean")}
    return frame.groupby("category").agg(**means).reset_index()


def _nearest(encoder: str | Path, texts: Sequence[str], device: Any) -> tuple[Callable[[str], str], np.ndarray]:
    """The nearest category of a text, and the vectors of ``texts`` (n, d), which are encoded at once."""
    from reprobook.nn.encoder import encode, load_encoder

    net, tokenizer = load_encoder(encoder, device=device)
    vectors = encode(net, tokenizer, list(texts)).numpy()
    known = dict(zip(texts, vectors, strict=True))

    def look_up(wanted: Sequence[str]) -> np.ndarray:
        return np.stack([known[t] if t in known else encode(net, tokenizer, [t]).numpy()[0] for t in wanted])

    return curation.nearest_category(look_up), vectors


def categories_of(
    form: str, held: Mapping[str, Sequence[str]], data: ChapterData, judge: Speaker | None, batch_size: int
) -> dict[str, str]:
    """Category of each constraint of ``held`` (task -> constraints): as released, by nearest examples, or by a local
    model (``form``: one of :data:`reprobook.papers.wildifeval.released.FORMS`)."""
    constraints = sorted({c for each in held.values() for c in each})
    if form == "released":
        return released.published_categories(data.path("constraint-categories"))
    if form == "nearest":
        category, _ = _nearest(data.path("minilm-l6"), constraints, "cpu")
        return {c: category(c) for c in constraints}
    if judge is None:
        raise ReprobookError(f"categories {form!r} must be one of {', '.join(released.FORMS)}, the last with a judge")
    return released.categories_here(judge, constraints, batch_size)


# ------------------------------------------------------------------------------------------------- responders


def checked(name: str, tasks: Sequence[Task], texts: Sequence[str]) -> pd.DataFrame:
    """The rules' verdicts on one responder's texts, but for lines that repeat the task; asked constraints first."""
    rows = []
    for task, text in zip(tasks, texts, strict=True):
        block, text = task.id.rpartition("-")[0], task.own_lines(text)
        for place, each in enumerate((*task.asked, *task.others), start=1):
            rows.append({"responder": name, "task": task.id, "topic": task.topic, "n": task.n, "block": block,
                         "place": place, "kind": each.kind, "category": each.category, "asked": place <= task.n,
                         "met": float(each.holds(text))})  # fmt: skip
    return pd.DataFrame(rows)


def writers(where: Sequence[Topic], seed: int) -> dict[str, Callable[[Task], str]]:
    """Responders without a network: the ceiling, the known rate, and the blind ones."""
    return {
        "template": responders.template, f"known rate {KNOWN}": responders.known_rate(KNOWN, seed),
        "fixed text": responders.fixed, "topic thrice": responders.topic_thrice,
        "topic and sentence": responders.topic_and_sentence, "copy": responders.copy,
        "n-gram": responders.ngram(where, seed),
    }  # fmt: skip


def asked(frame: pd.DataFrame, responder: str) -> pd.DataFrame:
    """What one responder made of the constraints it was asked for."""
    return frame[(frame["responder"] == responder) & frame["asked"]]


def responder_table(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a responder: tasks, strict, soft (means over tasks), constraints met that were asked for and that were
    not."""
    rows = []
    for name, part in frame.groupby("responder", sort=False):
        tasks = scores.task_scores(part[part["asked"]])
        means = tasks[["strict", "soft"]].mean().to_dict()
        rows.append({"responder": name, "tasks": len(tasks), **means,
                     "asked": part.loc[part["asked"], "met"].mean(),
                     "not asked": part.loc[~part["asked"], "met"].mean()})  # fmt: skip
    return pd.DataFrame(rows)


def count_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Scores of every responder by number of constraints, with what independence would give for strict."""
    parts = []
    for name in frame["responder"].unique():
        part = asked(frame, name)
        product = scores.product_of_rates(part).groupby(part.groupby("task", sort=False)["n"].first()).mean()
        table = scores.by_count(part).assign(responder=name)
        parts.append(table.assign(independent=table["n"].map(product)))
    return pd.concat(parts, ignore_index=True)[["responder", "n", "tasks", "strict", "independent", "soft", "half",
                                                "normalised"]]  # fmt: skip


def cut_table(
    tasks: Sequence[Task], texts: Mapping[str, Sequence[str]], cut: Mapping[str, Collection[str]]
) -> pd.DataFrame:
    """Mean words of each model's texts by number of constraints, the share of them ``cut`` at the limit, and the share
    that ``loops``."""
    rows = [{"responder": name, "n": task.n, "words": len(words(text)), "cut": float(task.id in ids),
             "loops": float(loops(text))}
            for name, ids in cut.items() for task, text in zip(tasks, texts[name], strict=True)]  # fmt: skip
    return pd.DataFrame(rows).groupby(["responder", "n"], sort=False).mean().reset_index()


def loops(text: str) -> bool:
    """Whether some eight words stand in the text three times or more."""
    said = words(text)
    return max(Counter(zip(*(said[k:] for k in range(8)), strict=False)).values(), default=0) >= 3


def category_table(frame: pd.DataFrame, by: str = "category") -> pd.DataFrame:
    """Share of met constraints by category (or kind): asked and not asked, a row for each responder and category."""
    told = frame.pivot_table(index=["responder", by], columns="asked", values="met", sort=False)
    return told.rename(columns={True: "asked", False: "not asked"}).reset_index()[
        ["responder", by, "asked", "not asked"]
    ]


def minus_others(
    part: pd.DataFrame, category: str, value: str = "met", others: Sequence[str] = CATEGORIES
) -> pd.Series:
    """One number a block of tasks whose mean is the success in ``category`` minus the mean success of the ``others``,
    every constraint counting alike, as in the paper. In a block all categories are asked equally often and at the same
    positions."""
    by = part.groupby(["block", "category"])[value].mean().unstack()
    gap = by[category] - by[[c for c in others if c != category]].mean(axis=1)
    n = part.groupby("block")["n"].first()
    return gap * n / n.mean()


def slope_by_kind(part: pd.DataFrame) -> dict[str, Any]:
    """Change of soft over the range of n from 2 on: that of every kind, least squares over the numbers of constraints
    at which it was asked. Kinds are balanced, so their mean is the slope over tasks; but every seed has the same kinds,
    so the error is taken over these."""
    met = part[part["n"] >= 2].groupby(["kind", "n"])["met"].mean().reset_index()
    x = met["n"] - met.groupby("kind")["n"].transform("mean")
    both = (x * met["met"]).groupby(met["kind"]).sum(), (x**2).groupby(met["kind"]).sum()
    values = (both[0] / both[1].where(both[1] > 0)).dropna() * (met["n"].max() - met["n"].min())
    return {"values": values, "unit": "soft score", "over": "kind of constraint", "keys": list(values.index)}


def slope_of(part: pd.DataFrame) -> dict[str, Any]:
    """The same over the tasks of ``part`` (constraints that were asked for), where a part of the texts is left out."""
    tasks = scores.task_scores(part)
    values = scores.slope_scores(tasks.assign(soft=tasks["soft"] - tasks["soft"].mean()), "soft")
    topic = part.groupby("task", sort=False)["topic"].first()
    return {"values": values, "unit": "soft score", "over": "task", "groups": topic[values.index]}


def effects_of(
    frame: pd.DataFrame, name: str, without: Mapping[str, Collection[str]] = MappingProxyType({})
) -> dict[str, dict[str, Any]]:
    """What the claims need of one model: effect -> arguments of ``Chapter.compare`` or ``Chapter.effect``.
    ``without``: name of a part of the texts -> its tasks, which the slope is taken without."""
    part, tasks = asked(frame, name), scores.task_scores(asked(frame, name))
    topic = part.groupby("task", sort=False)["topic"].first()[tasks.index]
    found: dict[str, dict[str, Any]] = {"slope of soft": slope_by_kind(part)}
    found["slope of soft without layout and end"] = slope_by_kind(part[~part["kind"].isin(LAYOUT)])
    for what, ids in without.items():
        rest = part[~part["task"].isin(ids)]
        if rest.loc[rest["n"] >= 2, "n"].nunique() > 1:
            found[f"slope of soft without {what}"] = slope_of(rest)
    strict = {n: each["strict"].to_numpy() for n, each in tasks.groupby("n")}
    if {2, 4} <= strict.keys():
        found["strict, 2 minus 4"] = {"a": strict[2], "b": strict[4], "unit": "strict score", "over": "task"}
    few = tasks[tasks["n"].between(2, 4)]
    if len(few):
        product = scores.product_of_rates(part)[few.index]
        found["strict minus product"] = {"a": few["strict"], "b": product, "unit": "strict score", "over": "task",
                                         "groups": topic[few.index]}  # fmt: skip
    mine = frame[(frame["responder"] == name) & (frame["n"] < len(CATEGORIES))]
    by = mine.groupby(["block", "asked"])["met"].mean().unstack()
    over: dict[str, Any] = {"unit": "share met", "over": "block of tasks"}
    for category, short in (("Length", "length"), ("Format and Structure", "format"), ("Focus / Emphasis", "focus")):
        found[f"{short} minus others"] = {"values": minus_others(part, category), **over}
        told = mine[mine["category"] == category].groupby(["block", "asked"])["met"].mean().unstack()
        found[f"{short}, asked minus not asked"] = {"a": told[True], "b": told[False], **over}
    found["length minus format"] = {"values": minus_others(part, "Length", others=["Format and Structure"]), **over}
    found["asked minus not asked"] = {"a": by[True], "b": by[False], **over}
    for other in ("template", "n-gram", "fixed text", "topic thrice", "topic and sentence"):
        theirs = scores.task_scores(asked(frame, other)).loc[tasks.index, "soft"]
        a, b = (theirs, tasks["soft"]) if other == "template" else (tasks["soft"], theirs)
        label = "template minus it" if other == "template" else f"it minus {other}"
        found[label] = {"a": a, "b": b, "unit": "soft score", "over": "task", "groups": topic}
    return found


def known_rate_effects(frame: pd.DataFrame, rate: float = KNOWN) -> dict[str, dict[str, Any]]:
    """The closed forms at the responder of known rate, end to end through texts and rules: soft = p, strict = p^n."""
    tasks = scores.task_scores(asked(frame, f"known rate {rate}"))
    unit = {"unit": "score", "over": "task"}
    return {
        "known rate: soft minus p": {"a": tasks["soft"], "b": np.full(len(tasks), rate), **unit},
        "known rate: strict minus p^n": {"a": tasks["strict"], "b": rate ** tasks["n"], **unit},
    }  # fmt: skip


def compatibility(tasks: Sequence[Task]) -> pd.DataFrame:
    """How often the rule of the column's kind says what the writer meant, in tasks that ask for the row's kind too,
    when that alone is broken (row "none": nothing is): 1 everywhere if no constraint disturbs another, NaN where two
    kinds never met."""
    rows = []
    for task in tasks:
        for k, broken in enumerate([None, *range(task.n)]):
            text = responders.write(task, [] if broken is None else [broken])
            rows += [{"broken": "none" if k == 0 else task.asked[k - 1].kind, "kind": each.kind,
                      "right": float(each.holds(text) == (j != broken))}
                     for j, each in enumerate(task.asked)]  # fmt: skip
    return pd.DataFrame(rows).pivot_table(index="broken", columns="kind", values="right").reset_index()


# ------------------------------------------------------------------------------------------------- judges


@dataclass(frozen=True)
class Judgeable:
    """Questions whose truth a rule knows, and a frame with a row for each: ``source``, ``task``, ``topic``, ``n``,
    ``kind``, ``category``, ``pair`` (twins that differ in it), ``truth``, ``half`` (0: to choose on, 1: to measure)."""

    questions: list[Question]
    frame: pd.DataFrame


def judgeable(tasks: Sequence[Task], texts: Mapping[str, Mapping[str, str]], seed: int) -> Judgeable:
    """Questions about twin texts of the writer, and about ``texts`` (responder -> task -> text, for the tasks that it
    has). Every other task of a block is one half: with several constraints both halves have the same kinds."""
    questions, rows = [], []
    pairs = responders.halves(tasks, seed)
    sources = {f"twin {k}": {task.id: each[k] for task, *each in pairs} for k in range(2)}
    for source, given in {**sources, **texts}.items():
        name = "twin" if source in sources else source
        for task in tasks:
            text = given.get(task.id, "")
            own = task.own_lines(text)
            block, _, row = task.id.rpartition("-")
            for each in task.asked if task.id in given else ():
                questions.append(Question(task.prompt, text, each.text))
                rows.append({"source": name, "task": f"{source} {task.id}",
                             "topic": task.topic, "n": task.n, "kind": each.kind, "category": each.category,
                             "block": block, "pair": f"{task.id} {each.kind}",
                             "truth": float(each.holds(own)), "half": int(row) % 2})  # fmt: skip
    return Judgeable(questions, pd.DataFrame(rows))


def judged(by: Speaker, made: Judgeable, form: str = "satisfied") -> pd.DataFrame:
    """The frame with the ``score`` of a judge (of the opposite question: turned round) and its ``said``."""
    score = np.array(by.judge(made.questions, form))
    frame = made.frame.assign(judge=by.name, form=form, score=1 - score if form == "violated" else score)
    return frame.assign(said=judging.decisions(frame), met=frame["truth"])


def blind_judged(made: Judgeable) -> pd.DataFrame:
    """As :func:`judged` by a judge that reads no sentence: the share of the words quoted in the constraint that stand
    in the response, 1/2 without any. It cannot tell "use" from "do not use"."""
    score = []
    for each in made.questions:
        quoted = {word for text in re.findall(r'"([^"]+)"', each.constraint) for word in words(text)}
        score.append(len(quoted & set(words(each.response))) / len(quoted) if quoted else 0.5)
    frame = made.frame.assign(judge=BLIND, form="satisfied", score=score)
    return frame.assign(said=judging.decisions(frame), met=frame["truth"])


def planted_judged(made: Judgeable, seed: int) -> pd.DataFrame:
    """As :func:`judged` by a judge of known, independent errors (columns ``s``, ``q``), which is harsh on length."""
    known = made.frame["category"].map(lambda c: HARSH if c == "Length" else MILD)
    s, q = (known.str[k].to_numpy(dtype=float) for k in range(2))
    yes = np.random.default_rng([seed, 13]).random(len(known)) < np.where(made.frame["truth"] == 1, s, 1 - q)
    frame = made.frame.assign(judge=PLANTED, form="satisfied", score=np.where(yes, 0.9, 0.1), s=s, q=q)
    return frame.assign(said=judging.decisions(frame), met=frame["truth"])


def twins_of(frame: pd.DataFrame, n: int | None = None) -> pd.DataFrame:
    """Rows of twins whose tasks have ``n`` constraints (None: the fewest there are)."""
    twins = frame[frame["source"] == "twin"]
    return twins[twins["n"] == (twins["n"].min() if n is None else n)]


def only_twins(made: Judgeable) -> Judgeable:
    """The questions about twins of the fewest constraints alone."""
    keep = twins_of(made.frame).index
    return Judgeable([made.questions[k] for k in keep], made.frame.loc[keep].reset_index(drop=True))


def chosen_threshold(frame: pd.DataFrame) -> float:
    """The threshold of the best balanced accuracy on the twins of half 0, of the most constraints."""
    twins = twins_of(frame, int(frame["n"].max()))
    return judging.best_threshold(twins[twins["half"] == 0])


def quality_table(judges: Mapping[str, pd.DataFrame], by: str = "category") -> pd.DataFrame:
    """What :func:`reprobook.papers.wildifeval.judging.quality` says of every judge on the twins, at 0.5, for each
    number of ``constraints`` apart."""
    parts = [judging.quality(twins_of(frame, n), by=by).assign(judge=name, constraints=n)
             for name, frame in judges.items() for n in sorted(frame["n"].unique())]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def wording_rows(name: str, plain: pd.DataFrame, turned: pd.DataFrame) -> list[dict[str, Any]]:
    """A row for each question: how often the judge says yes to it, accuracy, AUC, agreement of both decisions."""
    same = (plain["said"].to_numpy() == turned["said"].to_numpy()).mean()
    rows = []
    for form, frame in (("satisfied?", plain), ("violated?", turned)):
        found = judging.quality(frame).iloc[-1]
        score = frame["score"] if form == "satisfied?" else 1 - frame["score"]
        yes = judging.decisions(frame.assign(score=score)).mean()  # a missing answer is no yes to either question
        rows.append({"judge": name, "question": form, "says yes": yes, "accuracy": found["accuracy"],
                     "AUC": found["AUC"],
                     "decisions agree": same})  # fmt: skip
    return rows


def judge_effects(frame: pd.DataFrame, least: float, blind: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """What is recorded of a judge, from its frame: accuracy and AUC of twins of the fewest constraints; of the most,
    AUC over all kinds and by category, and accuracy at ``least``, its threshold chosen on half 0; what it makes of
    length, and how far the closed forms carry. The writer's texts of one kind are much alike, so errors are taken over
    kinds, which every seed shares. ``blind``: the frame of the judge that reads no sentence."""
    twins, real = twins_of(frame), frame[frame["source"] != "twin"]
    found: dict[str, dict[str, Any]] = {}

    def over_kinds(value: pd.Series, rows: pd.DataFrame) -> pd.Series:
        return value.groupby(rows.loc[value.index, "kind"]).mean()

    def add(name: str, unit: str, a: pd.Series, b: pd.Series | None = None) -> None:
        values = {"values": a} if b is None else {"a": a, "b": b[a.index]}
        found[name] = {**values, "unit": unit, "over": "kind of constraint", "keys": list(a.index)}

    right = (twins["said"] == twins["truth"]).astype(float)
    add("accuracy", "accuracy", over_kinds(right, twins))
    many = twins_of(frame, int(frame["n"].max()))
    test = many[many["half"] == 1]
    tuned = (judging.decisions(test, least) == test["truth"]).astype(float)
    add("accuracy, own threshold", "accuracy", over_kinds(tuned, test))
    about = frame.groupby("pair")[["kind", "category", "topic"]].first()
    won = judging.twins_won(twins)
    add("AUC of twins", "AUC", over_kinds(won, about))
    theirs = over_kinds(judging.twins_won(twins_of(blind))[won.index], about)
    add(f"AUC of twins minus {BLIND}", "AUC", over_kinds(won, about), theirs)
    most = judging.twins_won(many)
    if frame["n"].nunique() > 1:
        add("AUC of twins among others", "AUC", over_kinds(most, about))
    for category in CATEGORIES:
        mine = most[about.loc[most.index, "category"] == category]
        topic, name = about.loc[mine.index, "topic"], category.replace(" / ", " or ")
        found[f"AUC of twins, {name}"] = {"values": mine, "unit": "AUC", "over": "pair of texts", "groups": topic}
    for name, value in (("by rules", "truth"), ("as judged", "said")):
        gap = minus_others(real, "Length", value)
        found[f"length minus others, {name}"] = {"values": gap, "unit": "share met", "over": "block of tasks"}
    bent = bent_tasks(frame, judging.THRESHOLD)
    for measure, form in itertools.product(("soft", "strict"), ("predicted", "known errors")):
        if f"{measure}, {form}" in bent:
            found[f"{measure}, judged minus {form}"] = {
                "a": bent[f"{measure}, judged"], "b": bent[f"{measure}, {form}"], "unit": f"{measure} score",
                "over": "response"}  # fmt: skip
    return found


def correction_table(frame: pd.DataFrame, least: float) -> pd.DataFrame:
    """The table that a benchmark would publish and what is left of it: by category, true and judged share of met
    constraints of the models' texts, what sensitivity and specificity of the twins predict for it, the judged share
    corrected by them, and, of planted errors, by the known ones (else NaN). ``least``: threshold."""
    real = frame[frame["source"] != "twin"]
    found = judging.rates(twins_of(frame, int(real["n"].iloc[0])), least)
    by = (
        real.assign(said=judging.decisions(real, least))
        .groupby("category")[["truth", "said", *({"s", "q"} & {*real})]]
        .mean()
        .reindex(index=CATEGORIES, columns=["truth", "said", "s", "q"])
    )
    s, q, n = (found[name].reindex(CATEGORIES) for name in ("s", "q", "n"))
    return pd.DataFrame({
        "category": CATEGORIES, "true": by["truth"].to_numpy(), "judged": by["said"].to_numpy(),
        "predicted": judging.judged_as(by["truth"].to_numpy(), s.to_numpy(), q.to_numpy()),
        "corrected": judging.corrected(by["said"].to_numpy(), s.to_numpy(), q.to_numpy(), n.to_numpy() / 2),
        "by known errors": judging.corrected(by["said"].to_numpy(), by["s"].to_numpy(), by["q"].to_numpy()),
        "sensitivity": s.to_numpy(), "specificity": q.to_numpy(),
    })  # fmt: skip


def bent_tasks(frame: pd.DataFrame, least: float) -> pd.DataFrame:
    """A row for each of the models' texts: ``n``; soft and strict as rules see them (``true``), as ``judged``, as
    ``predicted`` from the twins' error rates by category with independent errors, and, of planted errors, from the
    ``known errors``. ``least``: threshold."""
    real = frame[frame["source"] != "twin"]
    found = judging.rates(twins_of(frame, int(real["n"].iloc[0])), least)
    s, q = (found[name].reindex(real["category"]).to_numpy() for name in ("s", "q"))
    real = real.assign(said=judging.decisions(real, least), expected=judging.judged_as(real["truth"].to_numpy(), s, q))
    if "s" in real:
        real["known"] = judging.judged_as(*(real[name].to_numpy() for name in ("truth", "s", "q")))
    by = real.groupby("task", sort=False)
    tasks = by[["n"]].first()
    for name, column in (("true", "truth"), ("judged", "said")):
        tasks[f"soft, {name}"], tasks[f"strict, {name}"] = by[column].mean(), by[column].min()
    tasks["soft, predicted"] = by["expected"].mean()
    tasks["strict, predicted"] = judging.judged_strict(real, found)
    if "known" in real:  # of a truth of 0 or 1 it is the probability of a yes
        tasks["soft, known errors"], tasks["strict, known errors"] = by["known"].mean(), by["known"].prod()
    return tasks


def bend_table(frame: pd.DataFrame, least: float) -> pd.DataFrame:
    """Means of :func:`bent_tasks`, a row for each number of constraints."""
    return bent_tasks(frame, least).groupby("n").mean().reset_index()


# ------------------------------------------------------------------------------------------------- real users' tasks


def cross_check(tasks: Sequence[Task], texts: Sequence[str], rules: Rules) -> pd.DataFrame:
    """Our rules against those that IFEval published for the same constraint, on the same texts: a row a kind."""
    rows = []
    for task, text in zip(tasks, texts, strict=True):
        for each in (c for c in task.asked if c.kind in published.SAME):
            rule, needs = published.SAME[each.kind]
            theirs = rules.holds(rule, needs(each.needs), task.prompt, text)
            rows.append({"kind": each.kind, "rule of IFEval": rule, "same": float(theirs == each.holds(text))})
    told = pd.DataFrame(rows).groupby(["kind", "rule of IFEval"])["same"]
    return told.agg(texts="size", agree="mean").reset_index()


def real_table(tasks: Sequence[RealTask], rules: Rules, texts: Mapping[str, str]) -> pd.DataFrame:
    """A row a rule of IFBench and prompt in ``texts`` (prompt -> response): ``task``, ``n``, ``rule``, ``constraint``,
    ``met`` (NaN: the rule cannot be run without its downloads)."""
    rows = []
    for task in (each for each in tasks if each.prompt in texts):
        for rule, needs in zip(task.rules, task.needs, strict=True):
            held = rules.holds(rule, needs, task.prompt, texts[task.prompt])
            rows.append({"task": task.id, "n": len(task.rules), "rule": rule, "constraint": rules.describe(rule, needs),
                         "category": rule, "met": np.nan if held is None else float(held)})  # fmt: skip
    return pd.DataFrame(rows)


def real_questions(
    tasks: Sequence[RealTask], table: pd.DataFrame, texts: Mapping[str, str], n: int, seed: int, most: int = 1500
) -> tuple[list[Question], np.ndarray]:
    """``n`` questions about responses of at most ``most`` characters, half of them about constraints that hold, and the
    truth."""
    prompts = {task.id: task.prompt for task in tasks}
    short = {name for name, prompt in prompts.items() if len(prompt) + len(texts.get(prompt, "")) <= most}
    table = table[table["met"].notna() & table["task"].isin(short)]
    rng = np.random.default_rng([seed, 41])
    halves = [table[table["met"] == value] for value in (1.0, 0.0)]
    part = pd.concat([half.iloc[rng.permutation(len(half))[: n // 2]] for half in halves])
    asked = [Question(prompts[t], texts[prompts[t]], c) for t, c in zip(part["task"], part["constraint"], strict=True)]
    return asked, part["met"].to_numpy()


def real_quality(by: Speaker, picked: tuple[list[Question], np.ndarray]) -> dict[str, Any]:
    """Quality of a judge on them, over all."""
    questions, truth = picked
    frame = pd.DataFrame({"category": "all", "truth": truth, "score": by.judge(questions)})
    last = judging.quality(frame).drop(columns="category").iloc[-1]
    return {str(name): value for name, value in last.items()}


# ------------------------------------------------------------------------------------------------- stability


def simulated_table(facts: Facts, shared: float, n_populations: int, seed: int) -> pd.DataFrame:
    """The stability study on populations of tasks with the published strict means and a common difficulty, a row for
    each population and size."""
    p = facts.frame("scores_v3")["strict"].to_numpy()
    parts = []
    for k in range(n_populations):
        made = scores.simulated(p, printed.TASKS, shared, 1000 * seed + k + 1)
        table = scores.stability(made, (100, 500, 1000, 5000), printed.REPLICATES, 1000 * seed + k)
        parts.append(table.assign(population=k))
    return pd.concat(parts, ignore_index=True)


def stability_effects(table: pd.DataFrame, facts: Facts) -> dict[str, dict[str, Any]]:
    """What C5 asks of the simulated populations."""
    published = float(facts.frame("subsampling").set_index("N")["tau strict"][500])
    tau, width = (table.pivot(index="population", columns="N", values=name) for name in ("tau", "width"))
    over = {"over": "simulated population of tasks"}
    return {
        "simulated minus published tau at 500": {
            "values": tau[500] - published, "unit": "Kendall's tau", **over},
        "simulated width at 5000": {"values": width[5000], "unit": "strict score", **over},
        "simulated tau at 100 minus at 500": {"values": tau[100] - tau[500], "unit": "Kendall's tau", **over},
    }  # fmt: skip
