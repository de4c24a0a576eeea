"""Paper scale: the gated conversations, the released decompositions, predictions and scores, and judging them here.

Scores are of the third version. Frames have one row a constraint: ``responder``, ``task`` (digest of its text),
``n``, ``constraint``, ``category``, ``raw`` (probability score), ``met`` (raw at least 0.5).
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from reprobook.errors import ReprobookError
from reprobook.nn.completion import complete
from reprobook.papers.wildifeval import scores
from reprobook.papers.wildifeval.curation import EXAMPLES, read_category
from reprobook.papers.wildifeval.judge import THRESHOLD, Question
from reprobook.papers.wildifeval.kinds import CATEGORIES
from reprobook.papers.wildifeval.store import digest

if TYPE_CHECKING:
    from reprobook.data import ChapterData
    from reprobook.papers.wildifeval.study import Speaker

# Names of the released files -> names of the paper; families from small to large.
MODELS = {
    "deepseek-v3": "DeepSeek-V3", "llama3.3-70b": "Llama-3.3-70B", "mistral-large": "Mistral-Large-2407",
    "llama3.1-405b": "Llama-3.1-405B", "qwen2.5-72b": "Qwen2.5-72B", "Qwen2.5-7B": "Qwen2.5-7B",
    "gemma-2-9b": "Gemma-2-9B", "Llama-3.1-8B": "Llama-3.1-8B", "Llama-3.2-3B": "Llama-3.2-3B",
    "gemma-2-2b": "Gemma-2-2B", "Qwen2.5-3B": "Qwen2.5-3B", "Qwen2.5-1.5B": "Qwen2.5-1.5B",
    "Llama-3.2-1B": "Llama-3.2-1B", "Qwen2.5-0.5B": "Qwen2.5-0.5B",
}  # fmt: skip
LADDERS = (("Qwen2.5-0.5B", "Qwen2.5-1.5B", "Qwen2.5-3B", "Qwen2.5-7B", "Qwen2.5-72B"),
           ("Llama-3.2-1B", "Llama-3.2-3B"),
           ("Llama-3.1-8B", "Llama-3.1-405B"), ("Gemma-2-2B", "Gemma-2-9B"))  # fmt: skip
SIZES = (100, 250, 500, 1000, 2000, 3000, 5000)
FORMS = ("released", "nearest", "judge")  # where categories come from: the file, nearest examples, a local model


# ------------------------------------------------------------------------------------------------- loading


def rows_of(folder: str | Path, columns: Sequence[str]) -> Iterable[dict[str, Any]]:
    """Rows of all parquet files below ``folder``, these columns only, a batch at a time."""
    import pyarrow.parquet as pq

    files = sorted(Path(folder).rglob("*.parquet"))
    if not files:
        raise ReprobookError(f"{Path(folder).name} holds no parquet file")
    for file in files:
        table = pq.ParquetFile(file)
        if missing := [name for name in columns if name not in table.schema_arrow.names]:
            raise ReprobookError(
                f"{file.name} has no column {missing[0]!r}; it has {', '.join(table.schema_arrow.names)}"
            )
        for batch in table.iter_batches(columns=list(columns)):
            yield from batch.to_pylist()


def join_tasks(tasks: Iterable[Mapping[str, Any]], log: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Task text (the first user message of the conversation) -> constraints, joined by ``conversation_id``; tasks
    without constraints are left out. Raises :class:`ReprobookError` if the log lacks a conversation."""
    wanted = {row["conversation_id"]: list(row["decomposition"]) for row in tasks}
    texts: dict[str, str] = {}
    for row in log:
        if row["conversation_id"] in wanted:
            said = (turn["content"] for turn in row["conversation"] if turn["role"] == "user")
            texts[row["conversation_id"]] = next(said, "")
    if missing := sorted(wanted.keys() - texts.keys()):
        raise ReprobookError(
            f"{len(missing)} of {len(wanted)} tasks have no conversation in the log, first {missing[0]!r}: "
            "is it all of lmsys-chat-1m (split train)?"
        )
    return {texts[key]: held for key, held in wanted.items() if held and texts[key]}


def decompositions(folder: str | Path) -> dict[str, list[str]]:
    """Task text -> constraints of the released decompositions of the third version."""
    return {row["task"]: list(row["decomposition"]) for row in rows_of(folder, ["task", "decomposition"])}


def joined(data: ChapterData) -> dict[str, list[str]]:
    """Task text -> constraints: the released ids and the gated conversations."""
    log = rows_of(data.path("lmsys-chat-1m"), ["conversation_id", "conversation"])
    return join_tasks(rows_of(data.path("wild-if-eval"), ["conversation_id", "decomposition"]), log)


def read_json(path: str | Path) -> Any:
    """A JSON file; a malformed one is an error that names it and the place."""
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ReprobookError(f"{Path(path).name} cannot be read as JSON ({error}): fetch it again") from error


def predictions(folder: str | Path, model: str) -> dict[str, str]:
    """Task text -> response of a released file: text -> two chat messages, wrapped under one key for small models."""
    held = read_json(Path(folder) / "model_predictions" / f"{model}-0shot-wild-if-eval.json")
    if len(held) == 1 and isinstance(next(iter(held.values())), dict):
        held = next(iter(held.values()))
    wrong = next((task for task, turns in held.items() if not isinstance(turns, list) or not turns), None)
    if wrong is not None:
        raise ReprobookError(f"predictions of {model}: {wrong[:60]!r} has no chat messages")
    return {task: turns[-1]["content"] for task, turns in held.items()}


def published_categories(path: str | Path) -> dict[str, str]:
    """Constraint -> category of the released file (columns ``constraint``, ``categories``, ``Other``), whose names are
    those of the paper; what is marked as other, whatever its title, is Other."""
    held = pd.read_csv(path, keep_default_na=False)
    known = held["categories"].isin(CATEGORIES) & (held["Other"].astype(int) == 0)
    return dict(zip(held["constraint"], held["categories"].where(known, "Other"), strict=True))


def published_scores(folder: str | Path, judge: str, model: str) -> dict[str, dict[str, float]]:
    """Task text -> constraint -> raw score; the older runs' "ERR" counts as 0."""
    path = Path(folder) / "llm_aaj_scores" / f"llm-aaj-{judge}.{model}-0shot-wild-if-eval.json"
    held = read_json(path)
    return {task: {c: 0.0 if value == "ERR" else float(value) for c, value in each["scores"].items()}
            for task, each in held.items()}  # fmt: skip


def frame_of(responder: str, held: Mapping[str, Mapping[str, float]], categories: Mapping[str, str],
             limits: tuple[int, int] = (2, 8)) -> pd.DataFrame:  # fmt: skip
    """A row a constraint of the tasks with 2 to 8 of them (the third version's); unknown categories are Other."""
    rows = [
        {"responder": responder, "task": digest(task), "n": len(each), "constraint": c, "raw": raw,
         "category": categories.get(c, "Other"), "met": float(raw >= THRESHOLD)}
        for task, each in held.items() if limits[0] <= len(each) <= limits[1] for c, raw in each.items()
    ]  # fmt: skip
    if not rows:
        raise ReprobookError(f"{responder}: no task with {limits[0]} to {limits[1]} constraints")
    return pd.DataFrame(rows)


# ------------------------------------------------------------------------------------------------- here


def answer(by: Speaker, held: Mapping[str, Sequence[str]], **how: Any) -> dict[str, str]:
    """Responses of a local model to the tasks, as in :meth:`Speaker.answer`."""
    asked = [_Plain(digest(text), text) for text in held]
    return dict(zip(held, by.answer(asked, **how), strict=True))  # type: ignore[arg-type]


class _Plain:
    """A task whose prompt is a user's text."""

    def __init__(self, name: str, prompt: str) -> None:
        self.id, self.prompt = name, prompt


def cost(held: Mapping[str, Sequence[str]], texts: Mapping[str, str], tokenizer: Any) -> str:
    """What judging these responses will read, said before it starts."""
    calls = sum(len(held[task]) for task in texts)
    prefix = sum(len(tokenizer(task + texts[task]).input_ids) for task in texts)
    own = sum(len(tokenizer(c).input_ids) + 20 for task in texts for c in held[task])
    read = (prefix + own) / 1e6
    return f"{calls} judgements of {len(texts)} responses: {read:.3f} M tokens to read with shared prefixes"


def judge_here(by: Speaker, held: Mapping[str, Sequence[str]], texts: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Task text -> constraint -> raw score by a local judge, NaN without yes and no. Rows are kept as they come, so a
    judge that dies goes on where it stopped."""
    asked = [(task, c) for task in texts for c in held[task]]
    found = by.judge([Question(task, texts[task], c) for task, c in asked])
    table: dict[str, dict[str, float]] = {task: {} for task in texts}
    for (task, c), score in zip(asked, found, strict=True):
        table[task][c] = score
    return table


def category_prompt(constraint: str) -> str:
    """The classifier's question, in our words: eight numbered categories with examples; the answer is a number."""
    listed = "\n".join(f"{k}. {c}: {'; '.join(EXAMPLES[c])}" for k, c in enumerate(CATEGORIES))
    return (f"Which category is this constraint of a writing task?\n{listed}\n\nConstraint: {constraint}\n"
            'Answer with the number only, or with "Other:" and a title if none fits.')  # fmt: skip


def categories_here(by: Speaker, constraints: Iterable[str], batch_size: int) -> dict[str, str]:
    """Constraint -> category by a local model, greedy, 10 new tokens as in the released code. Raises
    :class:`ReprobookError` if the model names none: it cannot read the question, and all would be Other."""
    wanted = sorted(set(constraints))
    prompts = [[{"role": "user", "content": category_prompt(each)}] for each in wanted]
    said = complete(by.model, by.tokenizer, prompts, max_new_tokens=10, batch_size=batch_size)
    found = {each: read_category(text) for each, text in zip(wanted, said, strict=True)}
    if set(found.values()) == {"Other"}:
        raise ReprobookError(f"{by.name} names a category for none of {len(found)} constraints, it says {said[0]!r}")
    return found


# ------------------------------------------------------------------------------------------------- the word rule

_COUNT = re.compile(r"(\d[\d,]*)(?:\s*(?:-|–|to|and)\s*(\d[\d,]*))?\s+words?\b", re.IGNORECASE)
_LOWER = re.compile(r"\b(?:at least|(?:no|not) (?:less|fewer) than)\s+(\d[\d,]*)(?:\s+words?)?", re.IGNORECASE)
_UPPER = re.compile(r"\b(?:within|up to|at most|no more than|less|maximum|max|under)\b", re.IGNORECASE)


def word_limits(constraint: str) -> tuple[int, int] | None:
    """Least and most words of a length constraint with an upper bound; None for others. The released code swaps the two
    numbers of "between", so those never pass there; here the smaller is the least."""
    least, rest = _LOWER.search(constraint), _LOWER.sub(" ", constraint)
    found = _COUNT.search(rest)
    if not found:
        return None
    first, second = (int(number.replace(",", "")) if number else None for number in found.groups())
    if "between" in rest.lower() and first is not None and second is not None:
        return min(first, second), max(first, second)
    low = int(least[1].replace(",", "")) if least else 0
    return (low, second or first or 0) if _UPPER.search(rest) else None


def word_rule(frame: pd.DataFrame, texts: Mapping[str, str]) -> pd.DataFrame:
    """Rows of length-in-words constraints with ``truth`` by counting words at single blanks, as the released code does.
    ``texts``: task digest -> response."""
    limits = frame["constraint"].map(word_limits)
    part = frame[limits.notna() & frame["task"].isin(texts)]
    n_words = part["task"].map(lambda task: len(texts[task].split(" ")))
    bounds = limits[part.index]
    truth = [low <= n <= high for n, (low, high) in zip(n_words, bounds, strict=True)]
    return part.assign(truth=np.array(truth, dtype=float))


# ------------------------------------------------------------------------------------------------- effects


def effects(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Any]]:
    """Paired effects for the claims, over tasks that all runs share (``keys``)."""
    tasks = {name: scores.task_scores(frame) for name, frame in frames.items()}
    found: dict[str, dict[str, Any]] = {}
    for ladder in LADDERS:
        for small, large in itertools.pairwise(ladder):
            if small in tasks and large in tasks:
                both = tasks[large].merge(tasks[small], left_index=True, right_index=True, suffixes=(" a", " b"))
                found[f"{large} minus {small}: strict"] = {
                    "a": both["strict a"], "b": both["strict b"], "unit": "strict score", "over": "task",
                    "keys": list(both.index)}  # fmt: skip
    for name, each in tasks.items():
        slope = scores.slope_scores(each.assign(soft=each["soft"] - each["soft"].mean()), "soft")
        found[f"{name}: slope of soft"] = {
            "values": slope,
            "unit": "soft score",
            "over": "task",
            "keys": list(slope.index),
        }
        fall = -scores.slope_scores(each.assign(strict=each["strict"] - each["strict"].mean()), "strict")
        found[f"{name}: fall of strict"] = {
            "values": fall,
            "unit": "strict score",
            "over": "task",
            "keys": list(fall.index),
        }
    everyone = pd.concat(frames.values())
    by = everyone[everyone["category"] != "Other"].groupby(["task", "category"])["met"].mean().unstack()
    over = {"unit": "share met", "over": "task"}
    for category, short in (("Length", "length"), ("Format and Structure", "format"), ("Focus / Emphasis", "focus")):
        if category in by:
            gap = (by[category] - by.drop(columns=category).mean(axis=1)).dropna()
            found[f"all models: {short} minus others"] = {"values": gap, **over, "keys": list(gap.index)}
    if {"Length", "Format and Structure"} <= set(by):
        gap = (by["Length"] - by["Format and Structure"]).dropna()
        found["all models: length minus format"] = {"values": gap, **over, "keys": list(gap.index)}
    return found


def exact(frames: Mapping[str, pd.DataFrame], sizes: Sequence[int] = SIZES) -> dict[str, float]:
    """Exact figures of the published scores: agreement of categories (C4), and stability as the released study draws it
    (C5); where there are fewer tasks than a size, all are drawn."""
    by = pd.concat(frames.values()).pivot_table(index="category", columns="responder", values="met")
    by = by.loc[[c for c in CATEGORIES if c in by.index]]
    tau = scores.kendall(by).to_numpy()
    off = ~np.eye(len(tau), dtype=bool)
    found = {"categories: mean tau": float(np.nanmean(tau[off]))}
    if "Length" in by.index:
        k = list(by.index).index("Length")
        rest = np.delete(np.delete(tau, k, 0), k, 1)
        others = rest[~np.eye(len(rest), dtype=bool)]
        found["categories: tau of length minus others"] = float(np.nanmean(np.delete(tau[k], k)) - np.nanmean(others))
    for measure in ("strict", "soft"):
        table = pd.DataFrame({name: scores.task_scores(f)[measure] for name, f in frames.items()}).dropna()
        drawn = scores.stability(table.to_numpy(), [min(n, len(table)) for n in sizes])
        for n, row in zip(sizes, drawn.to_dict("records"), strict=True):
            found |= {f"{what} of {measure} at {n}": float(row[what]) for what in ("std", "tau", "width")}
    return found


def score_table(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Strict and soft of each model, means over tasks."""
    rows = []
    for name, frame in frames.items():
        tasks = scores.task_scores(frame)
        rows.append({"Model": name, "tasks": len(tasks), **tasks[["strict", "soft"]].mean().to_dict()})
    return pd.DataFrame(rows)


def means(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Columns model (released names), strict, soft: what :func:`replicates` compares with."""
    names = {title: name for name, title in MODELS.items()}
    table = score_table(frames)
    return table.assign(model=table["Model"].map(names))[["model", "strict", "soft"]]


def word_agreement(frame: pd.DataFrame, said: Mapping[str, str]) -> float:
    """Share of length-in-words constraints on which decision and word count agree; NaN without any."""
    part = word_rule(frame, {digest(task): text for task, text in said.items()})
    return float((part["met"] == part["truth"]).mean())


def replicates(path: str | Path, full: pd.DataFrame) -> pd.DataFrame:
    """The stability table from the released means of each replicate (``N, replicate, model, strict_mean, soft_mean``);
    ``full``: the means over all tasks, columns model, strict, soft."""
    from scipy.stats import kendalltau

    held, rows = pd.read_csv(path), []
    for size, part in held.groupby("N"):
        row: dict[str, Any] = {"N": size}
        for measure in ("strict", "soft"):
            wide = part.pivot(index="replicate", columns="model", values=f"{measure}_mean")
            target = full.set_index("model")[measure].reindex(wide.columns)
            ranked = np.sort(wide.to_numpy(), axis=1)
            low, high = np.percentile(ranked[:, -1] - ranked[:, -2], [2.5, 97.5])
            taus = [kendalltau(each, target).statistic for each in wide.to_numpy()]
            row |= {f"std {measure}": wide.std(ddof=1).mean(), f"width {measure}": high - low,
                    f"tau {measure}": np.mean(taus)}  # fmt: skip
        rows.append(row)
    return pd.DataFrame(rows)


def check(categories: str, judge: str, judged: Sequence[str], known: Sequence[str]) -> None:
    """Raise :class:`ReprobookError` for a name that would come up after hours of fetching."""
    if categories not in ("", *FORMS):
        raise ReprobookError(f"categories {categories!r} must be one of {', '.join(FORMS)}")
    if unknown := [name for name in [*judged, *filter(None, [judge])] if name not in known]:
        raise ReprobookError(f"model {unknown[0]!r} is not known; allowed: {', '.join(known)}")
    if not judge and (judged or categories == "judge"):
        what = f"answering {list(judged)}" if judged else "categories 'judge'"
        raise ReprobookError(f"{what} needs a judge: name one in judge_model")
