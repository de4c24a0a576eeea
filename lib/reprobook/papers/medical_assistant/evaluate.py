"""The paper's measures of turns, and what it does not measure: parsable output and success in the environment.

BLEU is sacrebleu's corpus BLEU (0 to 100) per scenario; ROUGE is rouge-score's F1 without stemming (0 to 1), mean over
turns. The paper does not define ToolAcc, ParamAcc and ValuesAcc; the working definitions here are strict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from reprobook.errors import ReprobookError
from reprobook.papers.medical_assistant.samples import AGENTS, interleave
from reprobook.papers.medical_assistant.scenarios import APPOINTMENTS, play
from reprobook.papers.medical_assistant.session import Session
from reprobook.papers.medical_assistant.tools import NAMES, ToolError, parse_call, parse_plan, write_plan

if TYPE_CHECKING:
    from reprobook.papers.medical_assistant.agents import Agent
    from reprobook.papers.medical_assistant.memory import Embed
    from reprobook.papers.medical_assistant.scenarios import Case, Trajectory

ROUGE = ("rouge1", "rouge2", "rougeL")
CALLER_MEASURES = ("ToolAcc", "ParamAcc", "ValuesAcc")


@dataclass(frozen=True)
class Said:
    """One turn of an agent beside the true one. ``trajectory``: its system line, which no other conversation has."""

    scenario: str
    role: str
    truth: str
    said: str
    trajectory: str = ""


def teacher_forced(agent: Agent, trajectories: Sequence[Trajectory], roles: Sequence[str] = AGENTS) -> list[Said]:
    """What ``agent`` says at every turn of ``roles`` when all turns before it are the true ones."""
    made = [
        Said(t.scenario, role, sample.target, agent.respond(sample.context, role), t.system)
        for role in roles for t in trajectories for sample in interleave(t, role)
    ]  # fmt: skip
    if not made:
        raise ReprobookError("teacher_forced: no turns to say; give at least one trajectory")
    return made


def bleu(said: Sequence[str], truth: Sequence[str]) -> float:
    """Corpus BLEU, 0 to 100 (sacrebleu, 13a tokenisation, exponential smoothing)."""
    import sacrebleu

    return float(sacrebleu.corpus_bleu(list(said), [list(truth)]).score)


def rouge(said: Sequence[str], truth: Sequence[str]) -> dict[str, np.ndarray]:
    """F1 (0 to 1) of each of :data:`ROUGE` for each pair (rouge-score, no stemming)."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(ROUGE), use_stemmer=False)
    scores = [scorer.score(t, s) for s, t in zip(said, truth, strict=True)]
    return {name: np.array([score[name].fmeasure for score in scores]) for name in ROUGE}


def call_accuracy(said: str, truth: str) -> dict[str, float]:
    """ToolAcc: the same tool. ParamAcc: also the same set of parameter names. ValuesAcc: also all values equal, as
    values (the order of keys does not matter; True is not 1). Unreadable output counts 0 everywhere."""
    tool, arguments = parse_call(truth)
    try:
        other, given = parse_call(said)
    except ToolError:
        return dict.fromkeys(CALLER_MEASURES, 0.0)
    same_tool = other == tool
    same_names = same_tool and set(given) == set(arguments)
    return {
        "ToolAcc": float(same_tool), "ParamAcc": float(same_names),
        "ValuesAcc": float(same_names and _same(given, arguments)),
    }  # fmt: skip


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and bool(a == b)


def readable(said: str, role: str) -> bool:
    """Whether a turn has its form; a call must also name one of the twelve tools."""
    try:
        return parse_call(said)[0] in NAMES if role == "Caller" else bool(parse_plan(said))
    except ToolError:
        return False


def by_turn(said: Sequence[Said]) -> pd.DataFrame:
    """One row per turn: scenario, role, trajectory, ROUGE, parsable, exact; for callers the accuracies."""
    scores = rouge([s.said for s in said], [s.truth for s in said])
    rows = [
        {"scenario": s.scenario, "role": s.role, "trajectory": s.trajectory,
         "parsable": float(readable(s.said, s.role)),
         "exact": float(s.said == s.truth), **(call_accuracy(s.said, s.truth) if s.role == "Caller" else {})}
        for s in said
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(**scores)


def scenario_table(said: Sequence[Said], role: str) -> pd.DataFrame:
    """The paper's layout: one row per scenario and the mean over the four appointment scenarios (each counts the same,
    however many turns it has)."""
    chosen = [s for s in said if s.role == role]
    if not chosen:
        raise ReprobookError(f"scenario_table: nothing was said by {role!r}")
    turns = by_turn(chosen)
    measures = {"ROUGE-1": "rouge1", "ROUGE-2": "rouge2", "ROUGE-L": "rougeL"}
    measures |= {name: name for name in CALLER_MEASURES} if role == "Caller" else {}
    rows = []
    for scenario, part in turns.groupby("scenario", sort=False):
        own = [s for s in chosen if s.scenario == scenario]
        rows.append({
            "Scenario": scenario, "BLEU": bleu([s.said for s in own], [s.truth for s in own]),
            **{name: float(part[column].mean()) for name, column in measures.items()},
            "parsable": float(part["parsable"].mean()), "turns": len(part),
        })  # fmt: skip
    table = pd.DataFrame(rows)
    four = table[table["Scenario"].isin(APPOINTMENTS)]
    if len(four):
        mean = {**four.drop(columns=["Scenario", "turns"]).mean().to_dict(), "turns": int(four["turns"].sum())}
        table = pd.concat([table, pd.DataFrame([{"Scenario": "mean of appointments", **mean}])], ignore_index=True)
    return table


def summary(said: Sequence[Said]) -> dict[str, float]:
    """One row for an agent: means over turns of the appointment scenarios."""
    turns = by_turn([s for s in said if s.scenario in APPOINTMENTS] or list(said))
    row: dict[str, float] = {}
    for role, part in turns.groupby("role", sort=False):
        row |= {f"{role} ROUGE-L": float(part["rougeL"].mean()), f"{role} parsable": float(part["parsable"].mean())}
        if role == "Caller":
            row |= {name: float(part[name].mean()) for name in CALLER_MEASURES}
    return row


def end_to_end(
    agent: Agent, cases: Sequence[Case], tools: Sequence[Sequence[str]] | None = None, embed: Embed | None = None,
    max_turns: int = 12,
) -> pd.DataFrame:  # fmt: skip
    """Sessions of ``agent`` with the scripted users of ``cases``; a session succeeds if it ends by itself and has done
    what the true session does (:meth:`.Environment.done`), as often and with the same contents, no more and no less.

    ``tools``: their order in each session. One row per case: scenario, success, effects (whether it did the same, with
    whatever contents), status, planner turns."""
    rows = []
    for k, case in enumerate(cases):
        _, wanted = play(case, embed)
        env = case.environment(embed)
        session = Session(agent, env, case.user_id, tools=NAMES if tools is None else tools[k], max_turns=max_turns)
        session.start(case.opening)
        rows.append({
            "scenario": case.scenario, "success": session.status == "finished" and env.done() == wanted.done(),
            "effects": session.status == "finished" and env.done(contents=False) == wanted.done(contents=False),
            "status": session.status, "planner turns": sum(turn.role == "Planner" for turn in session.turns),
        })  # fmt: skip
        env.memory.close()
    return pd.DataFrame(rows)


def other_words(trajectories: Sequence[Trajectory]) -> list[Said]:
    """A planner that always takes the right step and words it as the other template does: what the measures of text
    give to content without wording."""
    from reprobook.papers.medical_assistant.phrases import PHRASES

    swap: dict[str, str] = {}
    for forms in PHRASES.values():
        if len(forms) == 2:
            swap |= {forms[0]: forms[1], forms[1]: forms[0]}
    made = []
    for t in trajectories:
        for sample in interleave(t, "Planner"):
            reason, action = parse_plan(sample.target)
            words = (_reworded(reason, swap), _reworded(action, swap))
            made.append(Said(t.scenario, "Planner", sample.target, write_plan(*words), t.system))
    return made


def _reworded(text: str, swap: Mapping[str, str]) -> str:
    import re

    for form, other in swap.items():
        names = list(dict.fromkeys(re.findall(r"{(\w+)}", form)))
        pattern = re.escape(form)
        for name in names:
            pattern = pattern.replace(re.escape("{" + name + "}"), f"(?P<{name}>.+?)", 1)
        found = re.fullmatch(pattern, text) if set(re.findall(r"{(\w+)}", other)) <= set(names) else None
        if found:
            return other.format(**found.groupdict())
    return text
