"""The verifiable task of the small decoder: two digits in a secret code, of which a corpus tells only a part.

A question "c37" asks for digits 3 and 7 in the code of topic c: a permutation of the ten digits, one for each of at
most 20 topics, so there are at most 200 facts to know. The corpus that M_0 learns from treats topics with different
care: in topic k a share p_k of the answers is right; the others make the same mistake, they repeat the plain digits.
Some facts it never tells at all. So M_0 is right in some topics and prone to one error in others, and there is
knowledge that no self-training can find. Corrections in the corpus follow rates of their own. Facts are shared between
questions, so what is learned from training questions can help with test questions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from reprobook.errors import ReprobookError
from reprobook.nn.chat import IGNORED
from reprobook.papers.stasc.dialogue import Prompts
from reprobook.papers.stasc.questions import Question, Splits

if TYPE_CHECKING:
    from torch import Tensor

TOPICS = "abcdefghijklmnopqrst"
PROMPTS = Prompts(instruction="", correction="?")
TEMPLATE = (
    "{% for m in messages %}{{ '<user>' if m['role'] == 'user' else '<assistant>' }}{{ m['content'] }}<end>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


@dataclass(frozen=True)
class Corpus:
    """Rates of the corpus. ``low`` and ``high``: share of right initial answers in the least and the most careful
    topic, the others evenly between; ``keep``: how often the correction of a right answer is right; ``repair``: how
    often that of a wrong one is; ``known``: share of the facts that the corpus tells."""

    low: float = 0.1
    high: float = 0.9
    keep: float = 0.65
    repair: float = 0.25
    known: float = 0.85

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise ReprobookError(f"{name} is {value}; it is a share, from 0 to 1")


class World:
    """Codes, told facts and questions of one ``seed``. A question is a number: 100 times the topic plus two digits."""

    def __init__(self, corpus: Corpus, seed: int, n_topics: int = len(TOPICS)) -> None:
        if not 1 <= n_topics <= len(TOPICS):
            raise ReprobookError(f"n_topics is {n_topics}; it must be from 1 to {len(TOPICS)}")
        self.corpus, self.seed, self.n_questions = corpus, seed, 100 * n_topics
        rng = np.random.default_rng([seed, 10])
        self.codes = np.stack([rng.permutation(10) for _ in range(n_topics)])  # (n_topics, 10)
        told = rng.permutation(self.codes.size) < round(self.codes.size * corpus.known)
        self.told = told.reshape(self.codes.shape)
        self.share = rng.permutation(np.linspace(corpus.low, corpus.high, n_topics))  # right answers by topic

    def truth(self, questions: np.ndarray) -> np.ndarray:
        """Right answers (0 to 99) of question numbers."""
        topic, digits = np.divmod(questions, 100)
        return 10 * self.codes[topic, digits // 10] + self.codes[topic, digits % 10]

    def knowable(self, questions: np.ndarray) -> np.ndarray:
        """Whether the corpus tells both facts that a question needs."""
        topic, digits = np.divmod(questions, 100)
        return self.told[topic, digits // 10] & self.told[topic, digits % 10]

    def split(self, n_train: int, n_valid: int, n_test: int) -> tuple[Splits, np.ndarray]:
        """Questions of the splits, and the numbers of those that are left for the corpus: no question is in two."""
        sizes = (n_train, n_valid, n_test)
        if min(sizes) < 1 or sum(sizes) > self.n_questions // 2:
            raise ReprobookError(
                f"{n_train} + {n_valid} + {n_test} questions: each at least 1, together at most "
                f"{self.n_questions // 2:,}, so that as many are left for the corpus"
            )
        order = np.random.default_rng([self.seed, 11]).permutation(self.n_questions)
        parts = np.split(order, np.cumsum(sizes))
        return Splits(*([self.question(k) for k in part] for part in parts[:3])), parts[3]

    def question(self, number: int) -> Question:
        """The question of a number, with its only right answer."""
        text = _text(int(number))
        return Question(text, text, (f"{int(self.truth(np.array(number))):02d}",))

    def write(self, questions: np.ndarray, n: int) -> np.ndarray:
        """``n`` dialogues about ``questions``, as numbers (n, 3): question, initial answer, correction."""
        rng, rates = np.random.default_rng([self.seed, 12]), self.corpus
        chosen = rng.choice(questions, n)
        known = self.knowable(chosen)
        first = known & (rng.random(n) < self.share[chosen // 100])
        second = known & (rng.random(n) < np.where(first, rates.keep, rates.repair))
        answers = [np.where(right, self.truth(chosen), chosen % 100) for right in (first, second)]
        return np.stack([chosen, *answers], 1)


def _text(number: int) -> str:
    return f"{TOPICS[number // 100]}{number % 100:02d}"


def number(text: str) -> int:
    """The number of a question from its text."""
    return 100 * TOPICS.index(text[0]) + int(text[1:])


def as_text(dialogue: np.ndarray) -> tuple[str, str, str]:
    """Question, initial answer and correction of a row of :meth:`World.write`."""
    number, first, second = dialogue.tolist()
    return _text(number), f"{first:02d}", f"{second:02d}"


def tokenizer() -> Any:
    """A token per character, with a chat template of the usual form."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<user>", "<assistant>", "<end>"]
    vocabulary = {token: k for k, token in enumerate([*special, *"0123456789?", *TOPICS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    made.decoder = decoders.Fuse()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<end>", additional_special_tokens=special[1:3]
    )
    wrapped.chat_template = TEMPLATE
    return wrapped


def decoder(tokenizer: Any, width: int, n_layers: int, n_heads: int, seed: int) -> Any:
    """A decoder of transformers' Llama class with random weights.

    Initial weights of standard deviation 0.1, about 1 / sqrt(width): with the usual 0.02, made for widths of thousands,
    a model this narrow does not leave its plateau for hundreds of updates."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=3 * width, num_hidden_layers=n_layers,
        num_attention_heads=n_heads, max_position_embeddings=64, initializer_range=0.1,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def corpus_batch(tokenizer: Any, dialogues: np.ndarray) -> dict[str, Tensor]:
    """Dialogues (n, 3) as a batch for the training of M_0; both answers are learned, each from what stands before it.

    All have one length, so the ids are put together from arrays; the tests compare them with the template.
    """
    code = tokenizer.convert_tokens_to_ids
    user, assistant, end, ask = (code(t) for t in ("<user>", "<assistant>", "<end>", "?"))
    digit, letter = (np.array([code(t) for t in each]) for each in ("0123456789", TOPICS))
    number, first, second = dialogues.T

    def two(x: np.ndarray) -> list[np.ndarray]:
        return [digit[x // 10], digit[x % 10]]

    def same(*tokens: int) -> list[np.ndarray]:
        return [np.full(len(dialogues), token) for token in tokens]

    asked = [*same(user), letter[number // 100], *two(number % 100), *same(end, assistant)]
    told, again = [*two(first), *same(end)], same(user, ask, end, assistant)
    ids = torch.from_numpy(np.stack([*asked, *told, *again, *two(second), *same(end)], 1))
    trained = [False] * len(asked) + [True] * 3 + [False] * 4 + [True] * 3
    labels = torch.where(torch.tensor(trained), ids, IGNORED)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
