"""Dialogues in a model's own chat template: prompts, training examples with marked turns, and the loss on those."""

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
class Example:
    """Token ids of a dialogue and its labels: the ids where they are trained, :data:`IGNORED` elsewhere."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def n_trained(self) -> int:
        """Number of trained tokens."""
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
    end token, without what a template puts after the end.

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
    """Batch padded on the right: ``input_ids``, ``attention_mask`` and ``labels``, each (B, longest)."""
    rows = {
        "input_ids": [torch.tensor(e.ids) for e in examples],
        "attention_mask": [torch.ones(len(e.ids), dtype=torch.long) for e in examples],
        "labels": [torch.tensor(e.labels) for e in examples],
    }
    fill = {"input_ids": pad, "attention_mask": 0, "labels": IGNORED}
    padded = torch.nn.utils.rnn.pad_sequence
    return {name: padded(part, batch_first=True, padding_value=fill[name]) for name, part in rows.items()}


def masked_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    r"""Mean negative log-likelihood (nats) of the labelled tokens T of a batch, each given everything before it:
    :math:`-\frac{1}{|T|}\sum_{t\in T}\log p(x_t \mid x_{<t})`.

    ``batch``: ``input_ids`` and ``labels`` (B, L), padded on the right; ``attention_mask`` may be left out: in a causal
    model no target sees the padding, and attention is faster without a mask. Logits are only computed where some row
    has a label: with a large vocabulary that saves a good part of a step.
    """
    targets = batch["labels"][:, 1:]
    columns = (targets != IGNORED).any(0).nonzero().flatten()
    if not len(columns):
        raise ReprobookError("masked_loss: no label in the batch: no token would be trained")
    out = model(
        input_ids=batch["input_ids"], attention_mask=batch.get("attention_mask"), logits_to_keep=columns,
        use_cache=False,
    )  # fmt: skip
    return F.cross_entropy(out.logits.flatten(0, 1).float(), targets[:, columns].flatten(), ignore_index=IGNORED)
