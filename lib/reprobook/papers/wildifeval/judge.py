"""The judge: one yes/no question for each constraint, decided by the probabilities of the first five tokens.

The task and the response are read once and shared, through the key/value cache, by the questions about all of their
constraints; the released code sends the whole prompt once for each constraint.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from reprobook.errors import ReprobookError
from reprobook.nn.completion import attention_of
from reprobook.nn.sampling import Prefix

if TYPE_CHECKING:
    from torch import Tensor

POSITIONS, TOP, LEAST = 5, 5, 1e-4  # Section 3.3 of the released code: positions, tokens of each, mass of yes and no
ERROR_SCORE = 0.0
THRESHOLD = 0.5
_SIDE = r"(?:\W|Ġ|_)*"
_YES, _NO = (re.compile(_SIDE + word + _SIDE, re.IGNORECASE) for word in ("yes", "no"))
_ASK = {
    "satisfied": "Does the response satisfy this constraint? Answer Yes or No.",
    "violated": "Does the response violate this constraint? Answer No or Yes.",
}


def yes_no_score(positions: Iterable[Mapping[str, float]]) -> float | None:
    r""":math:`P/(P+Q)` of the first of five positions where :math:`P+Q>10^{-4}`, None if there is none.

    ``positions``: token -> probability of the (at most five) most probable tokens, one mapping a position. A token
    counts if all of it is yes (or no), whatever its case and the marks around it: " Yes", "YES,", "Ġyes", not
    "yesterday"."""
    for _, top in zip(range(POSITIONS), positions, strict=False):
        best = sorted(top.items(), key=lambda item: -item[1])[:TOP]
        p, q = (math.fsum(each for token, each in best if rule.fullmatch(token)) for rule in (_YES, _NO))
        if p + q > LEAST:
            return p / (p + q)
    return None


def decided(score: float | None, threshold: float = THRESHOLD) -> bool:
    """The judge's decision; no yes and no no counts as not satisfied (released code: score 0)."""
    return (ERROR_SCORE if score is None else score) >= threshold


class Question(NamedTuple):
    """What is judged: the task as the user wrote it, the response, and the text of one constraint."""

    task: str
    response: str
    constraint: str


class Judged(NamedTuple):
    """Score (None: no yes and no no among the most probable tokens) and the position at which it was found, from 1."""

    score: float | None
    position: int


def prompt_parts(tokenizer: Any, question: Question, form: str = "satisfied") -> tuple[str, str]:
    """The judge's prompt in two parts: up to the constraint, and the rest. The parts join at a line break.

    ``form``: "satisfied", the paper's question, or "violated", the opposite one with the answers named in the other
    order. Raises :class:`ReprobookError` for another form, an empty constraint or a template without the message."""
    if form not in _ASK or not question.constraint.strip():
        allowed = ", ".join(_ASK)
        raise ReprobookError(
            f"form {form!r} must be one of {allowed}, and constraint {question.constraint!r} not empty"
        )
    head = f"Task:\n{question.task}\n\nResponse:\n{question.response}\n\n"
    body = f"{head}Constraint:\n{question.constraint}\n\n{_ASK[form]}"
    chat = [{"role": "user", "content": body}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    at = text.rfind("Constraint:\n")
    if at < 0:
        raise ReprobookError("the chat template changes the message, so it cannot be cut at the constraint")
    return text[:at], text[at:]


@torch.no_grad()
def judge(
    model: Any, tokenizer: Any, questions: Sequence[Question], *, form: str = "satisfied", batch_size: int = 16,
    shared: bool = True,
) -> list[Judged]:  # fmt: skip
    """Scores in the order of ``questions``. ``shared``: each task and response is read once for all questions about it,
    ``batch_size`` of them at a time; else every prompt is read whole, as by an endpoint without a cache."""
    encode = tokenizer
    parts = [prompt_parts(tokenizer, question, form) for question in questions]
    heads, tails = ([encode(list(side), add_special_tokens=False).input_ids for side in zip(*parts, strict=True)]
                    if parts else [[], []])  # fmt: skip
    found: list[Judged | None] = [None] * len(parts)
    if not shared:
        heads, tails = [[*h, *t[:-1]] for h, t in zip(heads, tails, strict=True)], [t[-1:] for t in tails]
    owners: dict[tuple[int, ...], list[int]] = {}
    for k, head in enumerate(heads):
        owners.setdefault(tuple(head), []).append(k) if shared else owners.setdefault((k, *head), []).append(k)
    stems = sorted(owners, key=len)
    for at in range(0, len(stems), batch_size):
        part = stems[at : at + batch_size]
        with attention_of(model.device):
            state = Prefix(model).read([heads[owners[stem][0]] for stem in part])
            rows = [(j, k) for j, stem in enumerate(part) for k in owners[stem]]
            state = state.fork(torch.tensor([j for j, _ in rows], device=model.device)).read(
                [tails[k] for _, k in rows]
            )
            for (_, k), each in zip(rows, _decide(tokenizer, state), strict=True):
                found[k] = each
    return [each for each in found if each is not None]


def _decide(tokenizer: Any, state: Prefix) -> list[Judged]:
    """Read the answers of all rows of ``state``, token after token, until each is decided or five were read."""
    assert state.logits is not None
    rows = list(range(len(state.logits)))
    seen: list[list[dict[str, float]]] = [[] for _ in rows]
    found = [Judged(None, 0)] * len(rows)
    for position in range(1, POSITIONS + 1):
        tokens = _note(tokenizer, state.logits, [seen[row] for row in rows])
        scores = [yes_no_score(seen[row][-1:]) for row in rows]
        for row, score in zip(rows, scores, strict=True):
            if score is not None:
                found[row] = Judged(score, position)
        left = [j for j, score in enumerate(scores) if score is None]
        if not left or position == POSITIONS:
            break
        keep = torch.tensor(left, device=tokens.device)
        rows = [rows[j] for j in left]
        state.select(keep)
        state.step(tokens[keep][:, None], torch.ones_like(tokens[keep][:, None]))
    return found


def _note(tokenizer: Any, logits: Tensor, seen: Sequence[list[dict[str, float]]]) -> Tensor:
    """Append the most probable tokens of each row (B, V) to ``seen``; returns the most probable one of each (B,)."""
    top, ids = logits.float().softmax(-1).topk(TOP, dim=-1)
    for row, probabilities, tokens in zip(seen, top.tolist(), ids.tolist(), strict=True):
        found: dict[str, float] = {}
        for p, token in zip(probabilities, tokens, strict=True):
            text = tokenizer.decode([token])
            found[text] = found.get(text, 0.0) + p
        row.append(found)
    return ids[:, 0]
