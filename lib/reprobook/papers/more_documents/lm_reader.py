"""Language models as readers: the prompt, the choice among values that all sets hold, the paper's JSON answer."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import TYPE_CHECKING, Any

import torch

from reprobook.errors import ReprobookError
from reprobook.nn.completion import attention_of
from reprobook.nn.lm import generate
from reprobook.papers.more_documents.scoring import f1, four_scores, parse_answer

if TYPE_CHECKING:
    from reprobook.papers.more_documents.planted import Question
    from reprobook.papers.more_documents.sets import BuiltSet, Instance

_SHORT = "Answer the question with a name from the documents."
_CLOSED = "Answer the question with a name."


def prompt_text(tokenizer: Any, question: Question, built: BuiltSet | None) -> str:
    """The chat prompt of a planted question; the answer has begun ("The mentor of X Y is"). None: no documents."""
    documents = [f"Document {j}: {text}" for j, text in enumerate(built.texts if built else (), start=1)]
    body = "\n\n".join([_SHORT if documents else _CLOSED, *documents, f"Question: {question.question}"])
    chat = [{"role": "user", "content": body}]
    return tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) + question.stub


def header_tokens(tokenizer: Any) -> int:
    """Tokens that one more document costs beside its text."""
    one, two = (f"{k}.\n\nDocument 3: The end" for k in ("Yes", "Yes.\n\nDocument 2: No"))
    count = [len(tokenizer(text, add_special_tokens=False).input_ids) for text in (one, two)]
    return count[1] - count[0] - len(tokenizer(" No.", add_special_tokens=False).input_ids)


def prompt_tokens(tokenizer: Any, question: Question, built: BuiltSet | None) -> int:
    """Tokens of the prompt."""
    return len(tokenizer(prompt_text(tokenizer, question, built), add_special_tokens=False).input_ids)


def evidence_at(tokenizer: Any, question: Question, text: str) -> int:
    """Token of the prompt ``text`` at which the fact that answers the question begins; -1 if it is not there."""
    fact = question.facts[question.asked]
    at = text.find(f"The {question.relation} of {fact.entity} is {fact.value}.")
    return len(tokenizer(text[:at], add_special_tokens=False).input_ids) if at >= 0 else -1


@torch.no_grad()
def read(
    model: Any, tokenizer: Any, asked: Sequence[Question], sets: Sequence[BuiltSet | None], *,
    temperature: float = 0.8, batch_size: int = 4,
) -> list[dict[str, Any]]:  # fmt: skip
    """One row a question. ``p``: how often an answer sampled at ``temperature`` among the question's choices is right,
    computed and not drawn; ``right``: the most probable choice is right, 0 or 1; ``f1`` of the free answer (the most
    probable word of the whole vocabulary); ``mass``: probability of all choices together within the vocabulary; that
    ``answer``, that ``choice``, the ``tokens`` of the prompt and the one at which the evidence begins (``at``). Choices
    are one token each, and all of them stand in every set.

    Raises :class:`ReprobookError` if a choice is more than one token of this tokenizer."""
    texts = [prompt_text(tokenizer, q, b) for q, b in zip(asked, sets, strict=True)]
    ids = tokenizer(texts, add_special_tokens=False).input_ids
    rows: list[dict[str, Any]] = [{} for _ in ids]
    order = sorted(range(len(ids)), key=lambda k: len(ids[k]))
    for at in range(0, len(order), batch_size):
        part = order[at : at + batch_size]
        ends = torch.tensor([len(ids[k]) - 1 for k in part])
        x = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids[k]) for k in part], batch_first=True)
        with attention_of(model.device):
            hidden = model.get_decoder()(input_ids=x.to(model.device), use_cache=False).last_hidden_state
        last = hidden[torch.arange(len(part)), ends.to(hidden.device)]  # causal: the padding behind it is not seen
        for k, logits in zip(part, model.get_output_embeddings()(last).float().cpu(), strict=True):
            rows[k] = {**_scores(tokenizer, asked[k], logits, temperature), "tokens": len(ids[k]),
                       "at": evidence_at(tokenizer, asked[k], texts[k])}  # fmt: skip
    return rows


def _scores(tokenizer: Any, question: Question, logits: torch.Tensor, temperature: float) -> dict[str, Any]:
    tokens = [tokenizer(f" {choice}", add_special_tokens=False).input_ids for choice in question.choices]
    if any(len(each) != 1 for each in tokens):
        raise ReprobookError(f"question {question.id!r}: a choice among {question.choices} is more than one token")
    chosen = [each[0] for each in tokens]
    p, mass = (logits[chosen] / temperature).softmax(-1), logits.softmax(-1)[chosen].sum()
    free = tokenizer.decode([int(logits.argmax())]).strip()
    best = int(p.argmax())
    return {
        "right": float(best == question.asked), "p": p[question.asked].item(), "mass": mass.item(),
        "f1": f1(free, question.plain.golds), "answer": free, "choice": question.choices[best],
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------- the paper's way

_JSON = (
    "You get a question and {n} documents. Use nothing but the documents, and read all of them. Answer briefly and "
    'exactly, with one JSON object on one line: {{"is_answerable": true, "answer_content": "..."}} if the documents '
    'hold the answer, else {{"is_answerable": false}}.'
)


def messages(
    instance: Instance, built: BuiltSet | None, demonstrations: Sequence[tuple[Instance, BuiltSet]] = ()
) -> list[dict[str, str]]:
    """The chat prompt. It says what the paper's prompt (Listing 1) says, in our words, with the true number of
    documents in it (the paper prints 20); ``built`` None: no documents. ``demonstrations``: questions with their sets
    and answers in front, as the released code has three of."""
    turns = []
    for shown, its_set in demonstrations:
        answer = f'{{"is_answerable": true, "answer_content": "{shown.answer}"}}'
        turns += [_user(shown, its_set), {"role": "assistant", "content": answer}]
    return [*turns, _user(instance, built)]


def _user(instance: Instance, built: BuiltSet | None) -> dict[str, str]:
    texts = built.texts if built else ()
    documents = [f"Document {j}: {text}" for j, text in enumerate(texts, start=1)]
    head = _JSON.format(n=len(texts))
    return {"role": "user", "content": "\n\n".join([head, *documents, f"Question: {instance.question}"])}


def read_with_json(
    model: Any, tokenizer: Any, asked: Sequence[Instance], sets: Sequence[BuiltSet | None], *, n_samples: int = 1,
    temperature: float = 0.8, max_new: int = 512, batch_size: int = 8, seed: int = 0,
    demonstrations: Sequence[tuple[Instance, BuiltSet]] = (),
) -> list[dict[str, float]]:  # fmt: skip
    """The paper's way of asking: chat prompt, sampled JSON answer, ``n_samples`` times for each question.

    One row a question, means over its samples: ``f1`` (content), ``whole`` (of the printed object), ``parsed``,
    ``refused`` (shares), and ``tokens`` of the prompt."""
    prompts = [
        tokenizer.apply_chat_template(messages(q, built, demonstrations), tokenize=False, add_generation_prompt=True)
        for q, built in zip(asked, sets, strict=True)
    ]
    texts = [
        generate(model, tokenizer, prompts, max_new_tokens=max_new, batch_size=batch_size, temperature=temperature,
                 seed=seed * 1009 + sample)
        for sample in range(n_samples)
    ]  # fmt: skip
    rows = []
    for k, q in enumerate(asked):
        given = [four_scores(sample[k], q.golds) for sample in texts]
        answers = [parse_answer(sample[k]) for sample in texts]
        rows.append({
            "f1": mean(s["content"] for s in given), "whole": mean(s["whole"] for s in given),
            "parsed": mean(float(a.parsed) for a in answers), "refused": mean(float(not a.answerable) for a in answers),
            "tokens": len(tokenizer(prompts[k], add_special_tokens=False).input_ids),
        })  # fmt: skip
    return rows
