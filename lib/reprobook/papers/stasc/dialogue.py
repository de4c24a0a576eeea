"""What is said around a question (Section 3, Appendix A), and how a dialogue reads to the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reprobook.nn.chat import IGNORED

if TYPE_CHECKING:
    from reprobook.nn.chat import Example, Messages


@dataclass(frozen=True)
class Prompts:
    """Texts around a question. As in the released code, all of them are sent with the role user."""

    instruction: str  # before the question; empty: no such turn
    correction: str  # after the initial answer

    def initial(self, question: str) -> Messages:
        """What the initial answer continues: user (instruction), user (question)."""
        turns = [{"role": "user", "content": self.instruction}] if self.instruction else []
        return [*turns, {"role": "user", "content": question}]

    def corrected(self, question: str, answer: str) -> Messages:
        """What the correction continues: ..., assistant (initial answer), user (correction instruction)."""
        told = {"role": "assistant", "content": answer}
        return [*self.initial(question), told, {"role": "user", "content": self.correction}]


def marked(tokenizer: Any, example: Example, width: int = 96) -> list[list[tuple[str, bool]]]:
    """The dialogue as the model sees it, for a picture: lines of (token, whether it is trained), broken at line breaks
    and before ``width`` characters."""
    lines: list[list[tuple[str, bool]]] = [[]]
    used = 0
    for token, label in zip(example.ids, example.labels, strict=True):
        text = tokenizer.decode([token])
        if used + len(text) > width:
            lines, used = [*lines, []], 0
        lines[-1].append((text.rstrip("\n"), label != IGNORED))
        used += len(text)
        if text.endswith("\n"):
            lines, used = [*lines, []], 0
    return [line for line in lines if line]
