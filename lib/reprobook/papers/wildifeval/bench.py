"""Judging all constraints of a response: task and response read once, against one whole prompt for each constraint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from reprobook.bench import compare
from reprobook.nn.lm import load_lm
from reprobook.papers.wildifeval.judge import Question, decided, judge, prompt_parts

if TYPE_CHECKING:
    from reprobook.bench import Comparison

# Eight constraints on one response of about 110 words: as long as those of the chapter's small models.
_TASK = "Write a short text about Algeria.\n\nFollow these instructions:\n" + "\n".join(
    f"- Rule {k}." for k in range(8)
)
_RESPONSE = " ".join(f"Sentence {k} says a little about the country and its towns." for k in range(11))


def questions(n_responses: int = 2, n_constraints: int = 8) -> list[Question]:
    """``n_constraints`` questions about each of ``n_responses`` responses."""
    return [Question(_TASK, f"Draft {r}. {_RESPONSE}", f"Use the word number{c}.")
            for r in range(n_responses) for c in range(n_constraints)]  # fmt: skip


def tokens(tokenizer: Any, asked: Sequence[Question]) -> dict[str, float]:
    """Tokens read for each judged constraint, whole prompts and shared."""
    heads: dict[str, int] = {}
    tails = 0
    whole = 0
    for each in asked:
        head, tail = prompt_parts(tokenizer, each)
        n, m = (len(tokenizer(text, add_special_tokens=False).input_ids) for text in (head, tail))
        heads[head], tails, whole = n, tails + m, whole + n + m
    return {"whole": whole / len(asked), "shared": (sum(heads.values()) + tails) / len(asked)}


def judging(model: Any, tokenizer: Any, asked: Sequence[Question], n: int = 3) -> Comparison:
    """Both ways of judging ``asked``; the decisions must be the same."""

    def run(shared: bool) -> list[bool]:
        found = judge(model, tokenizer, asked, shared=shared, batch_size=2 if shared else 16)
        return [decided(each.score) for each in found]

    ways = {"one prompt a constraint": lambda: run(False), "shared prefix": lambda: run(True)}
    return compare(ways, equal=lambda a, b: a == b, n=n, what=f"judging {len(asked)} constraints", device=model.device)


def headline() -> Comparison:
    """SmolLM2 judges eight constraints of two responses: whole prompts over a shared prefix."""
    from reprobook.data import ChapterData

    model, tokenizer = load_lm(ChapterData("wildifeval", "smoke", {}).path("smollm2-135m-instruct"))
    return judging(model, tokenizer, questions())
