"""Building all sets of MuSiQue's size, measured in one run: our cuts out of the page against a builder that joins token
by token, as the released code does.

``python -m reprobook.papers.more_documents.bench`` makes 2,417 questions of 20 documents (about 2,400 tokens) from
synthetic pages of 3,000 tokens, builds the five sets of the ladder both ways, checks that the texts agree, and prints
the ratio of seconds, the peak of memory and how the time grows with the length of the text.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Sequence

import numpy as np

from reprobook.errors import ReprobookError
from reprobook.papers.more_documents.planted import word_spans
from reprobook.papers.more_documents.sets import (
    Document,
    Instance,
    build_set,
    gap_extension,
    page,
    retained,
)

LADDER = (3, 8, 10, 15, 20)


def questions(
    n: int, *, n_documents: int = 20, tokens: int = 120, page_tokens: int = 3000, seed: int = 0
) -> list[Instance]:
    """Synthetic questions of the real size; pages are shared among them, as a cache of Wikipedia pages would be."""
    rng = np.random.default_rng(seed)
    words = np.array(["".join(rng.choice(list("abcdefghij"), 5)) for _ in range(5000)])
    pages = [page(" ".join(words[rng.integers(0, 5000, page_tokens)]), word_spans) for _ in range(200)]
    made = []
    for k in range(n):
        lengths = rng.integers(tokens // 2, 3 * tokens // 2, n_documents)
        starts = rng.integers(0, page_tokens - lengths)
        chosen = rng.integers(0, len(pages), n_documents)
        documents = tuple(
            Document(pages[p], int(s), int(s + m)) for p, s, m in zip(chosen, starts, lengths, strict=True)
        )
        made.append(Instance(f"q{k}", "?", "x", documents, tuple(sorted(rng.permutation(n_documents)[:3].tolist()))))
    return made


def token_by_token(instance: Instance, count: int) -> list[str]:
    """The same texts the naive way: every token is decoded by itself and joined to the others."""
    kept = retained(instance, count)
    texts = []
    for k, before, after in zip(kept, *gap_extension(instance.lengths, kept), strict=True):
        document = instance.documents[k]
        n, out = len(document.page), ""
        for position in range(document.start - int(before), document.end + int(after)):
            at = position % n
            begin, end = document.page.spans[at]
            last = document.page.spans[at - 1, 1] if at else begin
            blank = document.page.text[last:begin] if out and at else " " if out else ""
            out = out + blank + document.page.text[begin:end]
        texts.append(out)
    return texts


def measure(made: Sequence[Instance]) -> tuple[float, float, int]:
    """Seconds and peak memory (MB, beyond the input) of building every set of the ladder, and characters built."""
    tracemalloc.start()
    _build(made[:50])
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    start = time.perf_counter()
    size = _build(made)
    return time.perf_counter() - start, peak, size


def _build(made: Sequence[Instance]) -> int:
    return sum(len(text) for q in made for count in LADDER for text in build_set(q, count).texts)


def ratio(made: Sequence[Instance]) -> tuple[float, float]:
    """Seconds a question by our builder and token by token; raises :class:`ReprobookError` if their texts differ."""
    start = time.perf_counter()
    ours = [build_set(q, count).texts for q in made for count in LADDER]
    middle = time.perf_counter()
    theirs = [tuple(token_by_token(q, count)) for q in made for count in LADDER]
    end = time.perf_counter()
    if ours != theirs:
        raise ReprobookError("the two builders disagree")
    return (middle - start) / len(made), (end - middle) / len(made)


def main() -> None:
    """Print the measurements."""
    made = questions(2417)
    seconds, peak, size = measure(made)
    print(f"{len(made):,} questions x {len(LADDER)} counts: {seconds:.2f} s, {size / 1e6:.0f} million characters, "
          f"{peak:.1f} MB at most for 50 questions at a time")  # fmt: skip
    fast, slow = ratio(made[:60])
    print(f"token by token: {slow / fast:.0f} times as long a question (same texts)")
    grown = {tokens: measure(questions(200, tokens=tokens, page_tokens=25 * tokens))[0] for tokens in (120, 240, 480)}
    print("seconds for 200 questions by mean tokens of a paragraph: "
          + ", ".join(f"{tokens}: {taken:.2f}" for tokens, taken in grown.items()))  # fmt: skip


if __name__ == "__main__":
    main()
