"""The verifiable task of the small decoder: two-digit sums without carry, of which a corpus knows only a part.

A question "c37+48" has the answer "75": each digit is the sum modulo 10. Its letter is a *topic*. The corpus that M_0
learns from speaks of topics with different care: in topic k a share p_k of the answers is right, the others make one
mistake, the same always (they repeat the first number). And of the 100 sums of two digits the corpus knows only a
part; a question that needs another one is never answered rightly. So M_0 is right in some topics and prone to one
error in others, and there are facts that no self-training can find. Corrections are drawn with rates of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reprobook.errors import ReprobookError
from reprobook.papers.stasc.dialogue import IGNORED, Prompts
from reprobook.papers.stasc.questions import Question, Splits

TOPICS = "abcdefghij"
PROMPTS = Prompts(instruction="", correction="?")
TEMPLATE = (
    "{% for m in messages %}{{ '<user>' if m['role'] == 'user' else '<assistant>' }}{{ m['content'] }}<end>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


@dataclass(frozen=True)
class Corpus:
    """Rates of the corpus. ``right``: share of right initial answers in the first and in the last topic, topics
    between them evenly; ``keep``: how often the correction of a right answer stays right; ``repair``: how often that
    of a wrong one becomes right; ``known``: share of the sums of two digits that the corpus knows."""

    right: tuple[float, float] = (0.1, 0.8)
    keep: float = 0.65
    repair: float = 0.2
    known: float = 0.85

    def __post_init__(self) -> None:
        for name, value in (*zip(("right", "right"), self.right, strict=True), ("keep", self.keep),
                            ("repair", self.repair), ("known", self.known)):  # fmt: skip
            if not 0 <= value <= 1:
                raise ReprobookError(f"{name} is {value}; it is a share, from 0 to 1")


def truth(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sum without carry of two-digit numbers."""
    return (a // 10 + b // 10) % 10 * 10 + (a + b) % 10


def known_sums(corpus: Corpus, seed: int) -> np.ndarray:
    """(10, 10) mask of the digit sums that the corpus knows."""
    chosen = np.random.default_rng([seed, 10]).permutation(100) < round(100 * corpus.known)
    return chosen.reshape(10, 10)


def problems(n_train: int, n_valid: int, n_test: int, seed: int) -> tuple[Splits, np.ndarray]:
    """Questions of the splits, and the pairs (a, b) that are left for the corpus: no pair is in two parts."""
    pairs = np.random.default_rng([seed, 11]).permutation(10_000)
    sizes = (n_train, n_valid, n_test)
    if min(sizes) < 1 or sum(sizes) > 5_000:
        raise ReprobookError(f"{n_train} + {n_valid} + {n_test} questions: each at least 1, together at most 5,000")
    topics = np.random.default_rng([seed, 12]).integers(0, len(TOPICS), len(pairs))
    parts, at = [], 0
    for size in sizes:
        chosen = pairs[at : at + size]
        parts.append([_question(int(p), int(topics[p])) for p in chosen])
        at += size
    return Splits(*parts), pairs[at:]


def _text(topic: int, a: int, b: int) -> str:
    return f"{TOPICS[topic]}{a:02d}+{b:02d}"


def _question(pair: int, topic: int) -> Question:
    a, b = divmod(pair, 100)
    text = _text(topic, a, b)
    return Question(text, text, (f"{int(truth(np.array(a), np.array(b))):02d}",))


def write_corpus(corpus: Corpus, pairs: np.ndarray, n: int, seed: int) -> np.ndarray:
    """``n`` dialogues about random topics and ``pairs``, as numbers (n, 5): topic, a, b, initial answer, correction."""
    rng = np.random.default_rng([seed, 13])
    a, b = np.divmod(rng.choice(pairs, n), 100)
    topic = rng.integers(0, len(TOPICS), n)
    known = known_sums(corpus, seed)
    sure = known[a // 10, b // 10] & known[a % 10, b % 10]
    share = np.linspace(*corpus.right, len(TOPICS))[topic]
    first = sure & (rng.random(n) < share)
    second = sure & (rng.random(n) < np.where(first, corpus.keep, corpus.repair))
    answers = [np.where(mask, truth(a, b), a) for mask in (first, second)]
    return np.stack([topic, a, b, *answers], 1)


def as_text(row: np.ndarray) -> tuple[str, str, str]:
    """Question, initial answer and correction of a row of :func:`write_corpus`."""
    topic, a, b, first, second = row.tolist()
    return _text(topic, a, b), f"{first:02d}", f"{second:02d}"


def small_tokenizer() -> Any:
    """A token per character, with a chat template of the usual form."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<user>", "<assistant>", "<end>"]
    vocabulary = {token: k for k, token in enumerate([*special, *"0123456789+?", *TOPICS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    made.decoder = decoders.Fuse()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<end>", additional_special_tokens=special[1:3]
    )
    wrapped.chat_template = TEMPLATE
    return wrapped


def small_decoder(tokenizer: Any, width: int, n_layers: int, n_heads: int, seed: int) -> Any:
    """A decoder of transformers' Llama class with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=3 * width, num_hidden_layers=n_layers,
        num_attention_heads=n_heads, max_position_embeddings=64, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def corpus_batch(tokenizer: Any, rows: np.ndarray) -> dict[str, Tensor]:
    """Dialogues (n, 5) as a batch for the training of M_0; both answers are learned, each from what stands before it.

    All dialogues have one length, so the ids are put together from arrays; the tests compare them with the template.
    """
    code = tokenizer.convert_tokens_to_ids
    user, assistant, end, plus, ask = (code(t) for t in ("<user>", "<assistant>", "<end>", "+", "?"))
    digit, letter = (np.array([code(t) for t in each]) for each in ("0123456789", TOPICS))
    topic, a, b, first, second = rows.T

    def two(x: np.ndarray) -> list[np.ndarray]:
        return [digit[x // 10], digit[x % 10]]

    def same(*tokens: int) -> list[np.ndarray]:
        return [np.full(len(rows), token) for token in tokens]

    asked = [*same(user), letter[topic], *two(a), *same(plus), *two(b), *same(end, assistant)]
    told = [*two(first), *same(end)]
    corrected = [*same(user, ask, end, assistant), *two(second), *same(end)]
    ids = torch.from_numpy(np.stack([*asked, *told, *corrected], 1))
    trained = [False] * len(asked) + [True] * 3 + [False] * 4 + [True] * 3
    labels = torch.where(torch.tensor(trained), ids, IGNORED)
    return {"ids": ids, "mask": torch.ones_like(ids), "labels": labels}
