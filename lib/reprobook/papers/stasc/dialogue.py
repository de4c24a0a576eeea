"""Dialogues with the model's own chat template, and the loss on the correction's tokens only (Sections 3 and A)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from torch import Tensor, nn

Messages = list[dict[str, str]]
IGNORED = -100  # label of a token that is not trained


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


@dataclass(frozen=True)
class Example:
    """Token ids of a dialogue and its labels, :data:`IGNORED` but for the last assistant turn and its end token."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def n_trained(self) -> int:
        return sum(label != IGNORED for label in self.labels)


def stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end an assistant turn: the tokenizer's and the generation configuration's."""
    found = {tokenizer.eos_token_id}
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found |= set(configured if isinstance(configured, list) else [configured])
    return sorted(each for each in found if each is not None)


def prompt_ids(tokenizer: Any, conversations: Sequence[Messages]) -> list[list[int]]:
    """Token ids that end with the header of the assistant's turn, ready to be continued."""
    texts = [tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in conversations]
    return tokenizer(texts, add_special_tokens=False).input_ids if texts else []


def training_examples(
    tokenizer: Any, prompts: Sequence[Messages], answers: Sequence[str], stops: Sequence[int]
) -> list[Example]:
    """Dialogues whose last turn is the answer. Trained are the tokens after the assistant's header, through the first
    end token: the paper's rule (labels -100 up to the header), without what a template puts after the end.

    Raises :class:`ReprobookError` if the template writes something else before an answer than before a generation.
    """
    headed = prompt_ids(tokenizer, prompts)
    told = [[*turns, {"role": "assistant", "content": a}] for turns, a in zip(prompts, answers, strict=True)]
    texts = [tokenizer.apply_chat_template(turns, tokenize=False) for turns in told]
    whole = tokenizer(texts, add_special_tokens=False).input_ids if texts else []
    return [_example(head, full, stops) for head, full in zip(headed, whole, strict=True)]


def _example(head: Sequence[int], full: Sequence[int], stops: Sequence[int]) -> Example:
    n = len(head)
    if list(full[:n]) != list(head):
        raise ReprobookError(
            "the chat template does not continue its own generation prompt, so the trained tokens cannot be told apart"
        )
    end = next((k + 1 for k in range(n, len(full)) if full[k] in stops), len(full))
    if end == n:
        raise ReprobookError("a dialogue has nothing to train on: the chat template drops its last assistant turn")
    return Example(tuple(full[:end]), (IGNORED,) * n + tuple(full[n:end]))


def collate(examples: Sequence[Example], pad: int) -> dict[str, Tensor]:
    """Batch padded on the right: ``ids``, ``mask`` and ``labels``, each (B, longest)."""
    rows = {
        "ids": [torch.tensor(e.ids) for e in examples],
        "mask": [torch.ones(len(e.ids), dtype=torch.long) for e in examples],
        "labels": [torch.tensor(e.labels) for e in examples],
    }
    fill = {"ids": pad, "mask": 0, "labels": IGNORED}
    padded = torch.nn.utils.rnn.pad_sequence
    return {name: padded(part, batch_first=True, padding_value=fill[name]) for name, part in rows.items()}


def correction_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean negative log-likelihood (nats) of the labelled tokens of a batch.

    Logits are only computed where some row has a label: with a large vocabulary that saves a good part of a step.
    """
    targets = batch["labels"][:, 1:]
    columns = (targets != IGNORED).any(0).nonzero().flatten()
    out = model(input_ids=batch["ids"], attention_mask=batch["mask"], logits_to_keep=columns, use_cache=False)
    chosen = targets[:, columns]
    return F.cross_entropy(out.logits.flatten(0, 1).float(), chosen.flatten(), ignore_index=IGNORED)
