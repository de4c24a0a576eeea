"""Text as rows of token ids: Wikipedia at character level, the Markov source, LM1B and OpenWebText (Section 4, C.1,
C.4).

Position 0 of a row is context for every model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from reprobook.data.corpus import Corpus, read_column, tokenised, wikipedia_characters
from reprobook.data.text import wrap
from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from reprobook.papers.block_diffusion.source import MarkovSource


def markov_corpus(source: MarkovSource, length: int, n_train: int, n_test: int, seed: int) -> Corpus:
    """Fresh draws of the source; the mask's id is the number of its tokens, the end mark included."""
    generator = torch.Generator().manual_seed(seed)
    rows = source.sample(n_train + 2 * n_test, length, generator).numpy()
    letters = np.array([chr(ord("a") + i) for i in range(source.n_tokens)] + ["_"])
    if source.end_id is not None:
        letters[source.end_id] = "."
    return Corpus(
        rows[: -2 * n_test], rows[-2 * n_test : -n_test], rows[-n_test:], vocab_size=source.n_tokens + 1,
        mask_id=source.n_tokens, decode=lambda ids: "".join(letters[np.asarray(ids)]), eos_id=source.end_id,
    )  # fmt: skip


def open_corpus(name: str, data: Any, length: int) -> Corpus:
    """The training text: "wikipedia" (27 characters) or "lm1b" (word pieces); ``data`` is the chapter's data."""
    if name == "wikipedia":
        text = wikipedia_characters(data.path("enwiki-extract"), length)
        return replace(text, mask_id=text.vocab_size, vocab_size=text.vocab_size + 1)  # the mask follows the letters
    if name == "lm1b":
        return lm1b(data, length)
    raise ReprobookError(f"corpus must be 'wikipedia' or 'lm1b', got {name!r}")


# ------------------------------------------------------------------------------------------------------- paper scale


_LM1B_RULES = [
    (re.compile(r"(https?) : / / "), r"\1://"),
    (re.compile(r" '(\w+)"), r"'\1"),
    (re.compile(r" ([.?!])(?= |$)"), r"\1"),
    (re.compile(r" ([,:;]) "), r"\1 "),
    (re.compile(r" / "), "/"),
    (re.compile(r'" ([^"]+) "'), r'"\1"'),
    (re.compile(r"' ([^']+) '"), r"'\1'"),
    (re.compile(r"([(\[]) (.*?) ([)\]])"), r"\1\2\3"),
    (re.compile(r"([$£]) (?=\d)"), r"\1"),
]


def detokenise_lm1b(text: str) -> str:
    """Undo the space-separated punctuation of One Billion Words."""
    for pattern, replacement in _LM1B_RULES:
        text = pattern.sub(replacement, text)
    return text


def split_files(folder: str | Path, split: str) -> list[Path]:
    """Data files of a split in a hub snapshot: parquet or JSON-lines files with its name in their path."""
    folder, kinds = Path(folder), (".parquet", ".jsonl", ".json")
    found = sorted(p for p in folder.rglob("*") if p.suffix in kinds and split in p.relative_to(folder).as_posix())
    if not found:
        raise ReprobookError(f"no {split} files (*.parquet, *.jsonl) below the fetched folder {folder.name}")
    return found


def lm1b(data: Any, length: int) -> Corpus:
    """One Billion Words with BERT's word pieces; the mask is BERT's own [MASK]."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(data.path("bert-base-uncased-tokenizer"))
    folder = data.path("lm1b")
    key = data.checksums()["lm1b"][:16]

    def rows(split: str) -> np.ndarray:
        def texts() -> Iterator[str]:
            return map(detokenise_lm1b, read_column(split_files(folder, split), "text"))

        return tokenised(f"lm1b-{split}-{key}", texts, tokenizer, length, frame=True)

    train = rows("train")
    n_valid = max(1, min(10_000, len(train) // 10))  # selection (the interval search) never looks at the test split
    return Corpus(
        train[:-n_valid], train[-n_valid:], rows("test"), vocab_size=len(tokenizer), mask_id=tokenizer.mask_token_id,
        decode=tokenizer.decode, eos_id=tokenizer.sep_token_id,
    )  # fmt: skip


def gpt2_tokenizer(data: Any) -> Any:
    """GPT-2's tokenizer, which the OpenWebText models share."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(data.path("gpt2-tokenizer"))


def openwebtext_validation(data: Any, length: int, n_documents: int) -> np.ndarray:
    """Rows of the last ``n_documents`` (paper: 100,000) documents of OpenWebText: the held-out part of its only
    split."""
    import pyarrow.parquet as pq

    tokenizer = gpt2_tokenizer(data)
    files: list[Path] = []
    missing = n_documents
    for file in reversed(split_files(data.path("openwebtext"), "train")):
        files.insert(0, file)
        missing -= pq.read_metadata(file).num_rows
        if missing <= 0:
            break
    texts = (text for i, text in enumerate(read_column(files, "text")) if i >= -missing)
    key = f"openwebtext-valid-{n_documents}-{data.checksums()['openwebtext'][:16]}"
    return tokenised(key, lambda: texts, tokenizer, length, frame=False)


ZERO_SHOT: dict[str, tuple[str, str, str]] = {  # data set of Table 5: (artefact, split, column)
    "PTB": ("ptb", "test", "sentence"),
    "Wikitext": ("wikitext", "test", "text"),
    "LM1B": ("lm1b", "test", "text"),
    "Lambada": ("lambada", "test", "text"),
    "AG News": ("ag_news", "test", "text"),
    "Pubmed": ("pubmed", "test", "article"),
    "Arxiv": ("arxiv", "test", "article"),
}


def zero_shot_rows(data: Any, name: str, length: int) -> np.ndarray:
    """Rows of a zero-shot set (Table 5) in GPT-2's tokens, wrapped to ``length`` without EOS between its texts."""
    artefact, split, column = ZERO_SHOT[name]
    texts = read_column(split_files(data.path(artefact), split), column)
    joined = "\n".join(map(detokenise_lm1b, texts) if name == "LM1B" else texts)
    return wrap([np.asarray(gpt2_tokenizer(data)(joined, add_special_tokens=False)["input_ids"])], length)
