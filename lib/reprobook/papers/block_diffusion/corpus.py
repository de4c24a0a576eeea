"""Text as rows of token ids: Wikipedia at character level, the Markov source, LM1B and OpenWebText (Section 4, C.1,
C.4).

A :class:`Corpus` holds rows of L tokens; position 0 of a row is context for every model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reprobook.data.text import decode_characters, encode_characters, text8, visible_text, wikipedia_articles, wrap
from reprobook.errors import ReprobookError
from reprobook.papers.block_diffusion.source import MarkovSource


@dataclass(frozen=True)
class Corpus:
    """Rows ``train``, ``valid``, ``test`` (n, L) of token ids and the ids that matter.

    vocab_size counts the mask token. decode turns a row of ids into text. eos_id is None where documents have no end
    mark.
    """

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    vocab_size: int
    mask_id: int
    decode: Callable[[Any], str]
    eos_id: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.mask_id < self.vocab_size:
            raise ReprobookError(
                f"mask_id {self.mask_id} is outside the vocabulary of {self.vocab_size} ids: append a mask token"
            )
        for name in ("train", "valid", "test"):
            if not len(getattr(self, name)):
                raise ReprobookError(f"the {name} split of the corpus is empty")

    @property
    def length(self) -> int:
        return self.train.shape[1]

    def batch(self, indices: Tensor, split: str = "train") -> Tensor:
        """Rows (K, L) int64 at ``indices``."""
        return torch.from_numpy(np.asarray(getattr(self, split)[indices.numpy()], dtype=np.int64))

    def rows(self, split: str, n: int) -> Tensor:
        """The first ``n`` rows of a split after a fixed shuffle, (min(n, rows), L)."""
        order = np.random.default_rng(0).permutation(len(getattr(self, split)))[:n]
        return self.batch(torch.from_numpy(order), split)


def wikipedia_characters(path: Path, length: int) -> Corpus:
    """Wikipedia extract cleaned to 27 symbols (text8), split by article: of ten, one validates and one tests.

    Ids 0..26 are the characters, 27 is the mask.
    """
    texts = [text8(visible_text(article.markup)) for article in wikipedia_articles(path)]
    pieces = [encode_characters(text + " ") for text in texts if text]
    parts = {"valid": pieces[4::10], "test": pieces[9::10]}
    parts["train"] = [piece for i, piece in enumerate(pieces) if i % 10 not in (4, 9)]
    rows = {name: wrap(part, length) for name, part in parts.items()}
    return Corpus(rows["train"], rows["valid"], rows["test"], vocab_size=28, mask_id=27, decode=decode_characters)


def markov_corpus(source: MarkovSource, length: int, n_train: int, n_test: int, seed: int) -> Corpus:
    """Fresh draws of the source; the mask's id is the number of symbols."""
    generator = torch.Generator().manual_seed(seed)
    rows = source.sample(n_train + 2 * n_test, length, generator).numpy()
    letters = np.array([chr(ord("a") + i) for i in range(source.n_symbols)] + ["_"])
    return Corpus(
        rows[: -2 * n_test],
        rows[-2 * n_test : -n_test],
        rows[-n_test:],
        vocab_size=source.n_symbols + 1,
        mask_id=source.n_symbols,
        decode=lambda ids: "".join(letters[np.asarray(ids)]),
    )


def open_corpus(name: str, data: Any, length: int) -> Corpus:
    """The training text: "wikipedia" (27 characters) or "lm1b" (word pieces); ``data`` is the chapter's data."""
    if name == "wikipedia":
        return wikipedia_characters(data.path("enwiki-extract"), length)
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


def read_column(files: Iterable[Path], column: str) -> Iterator[str]:
    """Texts of one column of parquet or JSON-lines files, read batch by batch with the datasets library."""
    from datasets import load_dataset

    for file in sorted(files):
        builder = "parquet" if file.suffix == ".parquet" else "json"
        stream = load_dataset(builder, data_files=str(file), split="train", streaming=True)
        if column not in (stream.column_names or [column]):
            raise ReprobookError(f"{file.name} has no column {column!r}; it has {', '.join(stream.column_names)}")
        for row in stream:
            yield row[column]


def split_files(folder: Path, split: str) -> list[Path]:
    """Data files of a split in a hub snapshot: parquet or JSON-lines files with its name in their path."""
    kinds = (".parquet", ".jsonl", ".json")
    found = sorted(p for p in folder.rglob("*") if p.suffix in kinds and split in p.relative_to(folder).as_posix())
    if not found:
        raise ReprobookError(f"no {split} files (*.parquet, *.jsonl) below the fetched folder {folder.name}")
    return found


def token_rows(
    texts: Iterable[str], tokenizer: Any, length: int, *, frame: bool, batch_size: int = 1000
) -> Iterator[np.ndarray]:
    """Tokenise, join and wrap texts into rows (n, length), a batch of texts at a time; uint16 where the ids fit.

    frame=True (LM1B): every row is [CLS] payload [SEP], texts are joined by [SEP]. frame=False (OpenWebText): texts are
    joined by EOS and nothing is added at the ends of a row.
    """
    end = tokenizer.sep_token_id if frame else tokenizer.eos_token_id
    payload = length - 2 if frame else length
    rest = np.empty(0, dtype=np.int64)
    texts = iter(texts)
    while batch := list(islice(texts, batch_size)):
        ids = tokenizer(batch, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        joined = np.concatenate([rest, np.fromiter(chain.from_iterable([*row, end] for row in ids), dtype=np.int64)])
        n_rows = joined.size // payload
        rows, rest = joined[: n_rows * payload].reshape(-1, payload), joined[n_rows * payload :]
        if frame:
            left, right = (np.full((n_rows, 1), i) for i in (tokenizer.cls_token_id, end))
            rows = np.concatenate([left, rows, right], 1)
        if n_rows:
            yield rows.astype(np.uint16 if len(tokenizer) < 2**16 else np.int64)


def tokenised(name: str, texts: Callable[[], Iterable[str]], tokenizer: Any, length: int, *, frame: bool) -> np.ndarray:
    """Rows of a corpus, written once to the cache and memory-mapped: a training set need not fit in memory."""
    from reprobook.data.cache import convert_once

    def build(folder: Path) -> None:
        with open(folder / "rows.bin", "wb") as stream:
            for rows in token_rows(texts(), tokenizer, length, frame=frame):
                stream.write(np.ascontiguousarray(rows).tobytes())
                np.save(folder / "dtype.npy", np.empty(0, dtype=rows.dtype))

    folder = convert_once(f"{name}-{length}", build)
    if not (folder / "dtype.npy").exists():
        raise ReprobookError(f"{name}: the text gave less than one row of {length} tokens")
    return np.memmap(folder / "rows.bin", dtype=np.load(folder / "dtype.npy").dtype, mode="r").reshape(-1, length)


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
        train[:-n_valid],
        train[-n_valid:],
        rows("test"),
        vocab_size=len(tokenizer),
        mask_id=tokenizer.mask_token_id,
        decode=tokenizer.decode,
        eos_id=tokenizer.sep_token_id,
    )


def gpt2_tokenizer(data: Any) -> Any:
    """GPT-2's tokenizer, which the OpenWebText models share."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(data.path("gpt2-tokenizer"))


def openwebtext_validation(data: Any, length: int, n_documents: int) -> np.ndarray:
    """Rows of the last ``n_documents`` (paper: 100,000) documents of OpenWebText: the held-out part of its only
    split."""
    import pyarrow.parquet as pq

    tokenizer = gpt2_tokenizer(data)
    files, missing = [], n_documents
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
