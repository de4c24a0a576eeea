"""Text for the loss curves: Wikipedia characters on a laptop, SlimPajama in GPT-2's tokens at paper scale (App. E)."""

from __future__ import annotations

from typing import Any

from reprobook.data.corpus import Corpus, read_column, tokenised, wikipedia_characters
from reprobook.errors import ReprobookError

PADDED_VOCAB = 50_304  # GPT-2's 50,257 tokens, padded to a multiple of 64
HELD_OUT = 2000  # rows at the end of SlimPajama that are never trained on: half validate, half test


def open_corpus(name: str, data: Any, length: int) -> Corpus:
    """Rows of ``length`` tokens: "wikipedia" (27 characters) or "slimpajama"; ``data`` is the chapter's data."""
    if name == "wikipedia":
        return wikipedia_characters(data.path("enwiki-extract"), length)
    if name == "slimpajama":
        return slimpajama(data, length)
    raise ReprobookError(f"corpus must be 'wikipedia' or 'slimpajama', got {name!r}")


def slimpajama(data: Any, length: int) -> Corpus:
    """SlimPajama, EOS after each document, joined and cut to ``length``; written once to the cache as uint16.

    The paper does not say what it validates on: the last rows are held out, at most a fifth of all.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(data.path("gpt2-tokenizer"))
    folder = data.path("slimpajama-chunked")
    files = sorted(folder.rglob("*.jsonl"))
    if not files:
        raise ReprobookError(f"no *.jsonl files below the fetched folder {folder.name}")
    key = f"slimpajama-{data.checksums()['slimpajama-chunked'][:16]}"
    rows = tokenised(key, lambda: read_column(files, "text"), tokenizer, length, frame=False)
    n = min(HELD_OUT // 2, len(rows) // 10)
    if not n:
        raise ReprobookError(f"SlimPajama gave {len(rows)} rows of {length} tokens; at least 10 are needed")
    vocab = max(PADDED_VOCAB, len(tokenizer))
    return Corpus(rows[: -2 * n], rows[-2 * n : -n], rows[-n:], vocab_size=vocab, decode=tokenizer.decode,
                  eos_id=tokenizer.eos_token_id)  # fmt: skip
