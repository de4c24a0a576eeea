"""Text as rows of token ids: Wikipedia at character level, and columns of data files through any tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from reprobook.data.cache import convert_once
from reprobook.data.text import (
    ALPHABET,
    decode_characters,
    encode_characters,
    text8,
    visible_text,
    wikipedia_articles,
    wrap,
)
from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Corpus:
    """Rows ``train``, ``valid``, ``test`` (n, L) of token ids and the ids that matter.

    ``vocab_size`` counts the mask token, if there is one (``mask_id`` None: there is not). ``decode`` turns a row of
    ids into text. ``eos_id`` is None where documents have no end mark.
    """

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    vocab_size: int
    decode: Callable[[Any], str]
    mask_id: int | None = None
    eos_id: int | None = None

    def __post_init__(self) -> None:
        if self.mask_id is not None and not 0 <= self.mask_id < self.vocab_size:
            raise ReprobookError(
                f"mask_id {self.mask_id} is outside the vocabulary of {self.vocab_size} ids: append a mask token"
            )
        for name in ("train", "valid", "test"):
            if not len(getattr(self, name)):
                raise ReprobookError(f"the {name} split of the corpus is empty")

    def batch(self, indices: Tensor, split: str = "train") -> Tensor:
        """Rows (K, L) int64 at ``indices``."""
        return torch.from_numpy(np.asarray(getattr(self, split)[indices.numpy()], dtype=np.int64))

    def rows(self, split: str, n: int) -> Tensor:
        """The first ``n`` rows of a split after a fixed shuffle, (min(n, rows), L)."""
        order = np.random.default_rng(0).permutation(len(getattr(self, split)))[:n]
        return self.batch(torch.from_numpy(order), split)


def wikipedia_characters(path: str | Path, length: int) -> Corpus:
    """Wikipedia extract cleaned to 27 symbols (text8), split by article: of ten, one validates and one tests.

    Ids 0..26 are space and the letters; there is no mask.
    """
    texts = [text8(visible_text(article.markup)) for article in wikipedia_articles(path)]
    pieces = [encode_characters(text + " ") for text in texts if text]
    train = wrap([piece for i, piece in enumerate(pieces) if i % 10 not in (4, 9)], length)
    valid, test = (wrap(pieces[first::10], length) for first in (4, 9))
    return Corpus(train, valid, test, vocab_size=len(ALPHABET), decode=decode_characters)


def read_column(files: Iterable[str | Path], column: str) -> Iterator[str]:
    """Texts of one column of parquet or JSON-lines files, read batch by batch with the datasets library."""
    from datasets import load_dataset

    for file in sorted(map(Path, files)):
        builder = "parquet" if file.suffix == ".parquet" else "json"
        stream = load_dataset(builder, data_files=str(file), split="train", streaming=True)
        if column not in (stream.column_names or [column]):
            raise ReprobookError(f"{file.name} has no column {column!r}; it has {', '.join(stream.column_names)}")
        for row in stream:
            yield row[column]


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

    def build(folder: Path) -> None:
        with (folder / "rows.bin").open("wb") as stream:
            for rows in token_rows(texts(), tokenizer, length, frame=frame):
                stream.write(np.ascontiguousarray(rows).tobytes())
                np.save(folder / "dtype.npy", np.empty(0, dtype=rows.dtype))

    folder = convert_once(f"{name}-{length}", build)
    if not (folder / "dtype.npy").exists():
        raise ReprobookError(f"{name}: the text gave less than one row of {length} tokens")
    return np.memmap(folder / "rows.bin", dtype=np.load(folder / "dtype.npy").dtype, mode="r").reshape(-1, length)
