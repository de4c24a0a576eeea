"""Language models as readers: prompts, greedy answers, and the margin of the right answer over the best look-alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Any, Literal

import torch

from reprobook.errors import ReprobookError
from reprobook.papers.more_documents.planted import candidates
from reprobook.papers.more_documents.scoring import four_scores, parse_answer

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.papers.more_documents.sets import BuiltSet, Instance

Prompt = Literal["stub", "json"]
_SHORT = "Answer the question with a name from the documents."
_CLOSED = "Answer the question with a name."
_JSON = (
    "You get a question and {n} documents. Use nothing but the documents, and read all of them. Answer briefly and "
    'exactly, with one JSON object on one line: {{"is_answerable": true, "answer_content": "..."}} if the documents '
    'hold the answer, else {{"is_answerable": false}}.'
)


def messages(instance: Instance, built: BuiltSet | None, prompt: Prompt = "json") -> list[dict[str, str]]:
    """The chat prompt. ``json`` says what the paper's prompt (Listing 1) says, in our words, with the true number of
    documents in it (the paper prints 20); ``stub`` is a shorter one for small models. ``built`` None: no documents."""
    n = 0 if built is None else len(built)
    head = _JSON.format(n=n) if prompt == "json" else _SHORT if n else _CLOSED
    documents = [f"Document {j}: {text}" for j, text in enumerate(built.texts if built else (), start=1)]
    return [{"role": "user", "content": "\n\n".join([head, *documents, f"Question: {instance.question}"])}]


def prompt_text(tokenizer: Any, instance: Instance, built: BuiltSet | None, prompt: Prompt) -> str:
    """The prompt in the model's chat template; with ``stub`` the answer has begun ("The mentor of X Y is")."""
    chat = messages(instance, built, prompt)
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return text + instance.stub if prompt == "stub" else text


@dataclass(frozen=True)
class Reading:
    """What a model made of one set: its greedy ``answer``, log-probabilities (nats) of the answer and of each
    look-alike as the continuation, the ``margin`` of the first over the best other, the ``tokens`` of the prompt."""

    answer: str
    log_p: tuple[float, ...]
    margin: float
    tokens: int


@torch.no_grad()
def read_with_margin(
    model: Any, tokenizer: Any, instance: Instance, built: BuiltSet | None, max_new: int = 8
) -> Reading:
    """Greedy answer after the stub, and the margin over the look-alikes of *all* the question's documents: the same
    choices at every count, or the maximum over fewer of them would favour small sets by itself.

    The prompt is computed once: every choice is a branch behind it, with its own positions, that sees the prompt and
    itself (the test compares with one pass a choice)."""
    prompt = tokenizer(prompt_text(tokenizer, instance, built, "stub"), add_special_tokens=False).input_ids
    choices = [tokenizer(f" {choice}.", add_special_tokens=False).input_ids for choice in candidates(instance)]
    if len(choices) < 2:
        raise ReprobookError(f"question {instance.id!r} has no look-alike: a margin needs one")
    n, lengths = len(prompt), [len(c) for c in choices]
    flat = torch.tensor([prompt + [token for choice in choices for token in choice]], device=model.device)
    mask, positions = branches(n, lengths, model.device, model.dtype)
    out = model(input_ids=flat, attention_mask=mask, position_ids=positions, use_cache=True,
                logits_to_keep=1 + sum(lengths))  # fmt: skip
    log_p = out.logits[0].float().log_softmax(-1)
    totals = _branch_totals(log_p, choices)
    out.past_key_values.crop(-sum(lengths))  # the branches off: the cache holds the prompt
    answer = _greedy(model, tokenizer, out.past_key_values, int(log_p[0].argmax()), max_new)
    return Reading(answer, tuple(totals), totals[0] - max(totals[1:]), n)


def branches(n: int, lengths: Sequence[int], device: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Additive attention mask (1, 1, L, L) and positions (1, L) of a prompt of ``n`` tokens with branches behind it."""
    owner = torch.cat([torch.full((length,), k) for k, length in enumerate([n, *lengths])]).to(device)
    causal = torch.ones(len(owner), len(owner), dtype=torch.bool, device=device).tril()
    visible = causal & ((owner[None] == 0) | (owner[None] == owner[:, None]))
    mask = torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill(~visible, torch.finfo(dtype).min)
    inside = torch.cat([torch.arange(n), *(n + torch.arange(length) for length in lengths)]).to(device)
    return mask[None, None], inside[None]


def _branch_totals(log_p: Tensor, choices: Sequence[Sequence[int]]) -> list[float]:
    """Sum over a branch's tokens; its first is predicted by the last prompt position (row 0)."""
    totals, at = [], 1
    for choice in choices:
        rows = [0, *range(at, at + len(choice) - 1)]
        totals.append(log_p[rows, list(choice)].sum().item())
        at += len(choice)
    return totals


def _greedy(model: Any, tokenizer: Any, cache: Any, first: int, max_new: int) -> str:
    """The greedy continuation of the prompt up to the end of its sentence; ``first`` is its first token."""
    found, ends = [first], {tokenizer.eos_token_id}
    while len(found) < max_new and found[-1] not in ends and "." not in tokenizer.decode(found[-1:]):
        out = model(input_ids=torch.tensor([found[-1:]], device=model.device), past_key_values=cache, use_cache=True)
        found.append(int(out.logits[0, -1].argmax()))
    return tokenizer.decode(found, skip_special_tokens=True).split(".")[0].strip()


def read_with_json(
    model: Any, tokenizer: Any, asked: Sequence[Instance], sets: Sequence[BuiltSet | None], *, n_samples: int = 1,
    temperature: float = 0.8, max_new: int = 512, batch_size: int = 8, seed: int = 0,
) -> list[dict[str, float]]:  # fmt: skip
    """The paper's way of asking: chat prompt, sampled JSON answer, ``n_samples`` times for each question.

    One row a question, means over its samples: ``f1`` (content), ``whole`` (of the printed object), ``parsed``,
    ``refused`` (shares), and ``tokens`` of the prompt."""
    from reprobook.nn.lm import generate

    prompts = [prompt_text(tokenizer, q, built, "json") for q, built in zip(asked, sets, strict=True)]
    texts = [
        generate(model, tokenizer, prompts, max_new_tokens=max_new, batch_size=batch_size, temperature=temperature,
                 seed=seed * 1009 + sample)
        for sample in range(n_samples)
    ]  # fmt: skip
    rows = []
    for k, q in enumerate(asked):
        scores = [four_scores(sample[k], q.golds) for sample in texts]
        answers = [parse_answer(sample[k]) for sample in texts]
        rows.append({
            "f1": mean(s["content"] for s in scores), "whole": mean(s["whole"] for s in scores),
            "parsed": mean(float(a.parsed) for a in answers), "refused": mean(float(not a.answerable) for a in answers),
            "tokens": len(tokenizer(prompts[k], add_special_tokens=False).input_ids),
        })  # fmt: skip
    return rows
