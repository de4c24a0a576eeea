"""Text as rows of token ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from reprobook.data import corpus
from reprobook.errors import ReprobookError


@pytest.fixture(scope="module")
def words():
    """A word-level tokenizer with the special tokens that the loaders ask for."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {w: i for i, w in enumerate(["[CLS]", "[SEP]", "[MASK]", "[UNK]", *"abcdefgh"])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        eos_token="[SEP]",
        unk_token="[UNK]",
    )


def test_rows_with_frame_wrap_sentences_between_marks(words) -> None:
    rows = np.concatenate(list(corpus.token_rows(["a b", "c d e", "f"], words, 5, frame=True)))
    assert rows.tolist() == [[0, 4, 5, 1, 1], [0, 6, 7, 8, 1], [0, 1, 9, 1, 1]]
    assert rows.dtype == np.uint16


def test_rows_without_frame_join_documents_by_eos(words) -> None:
    rows = np.concatenate(list(corpus.token_rows(["a b c", "d"], words, 3, frame=False)))
    assert rows.tolist() == [[4, 5, 6], [1, 7, 1]]


def test_rows_do_not_depend_on_the_batches_of_texts(words) -> None:
    texts = ["a b c d"] * 7 + ["e f"] * 5
    whole = np.concatenate(list(corpus.token_rows(texts, words, 6, frame=True)))
    split = np.concatenate(list(corpus.token_rows(texts, words, 6, frame=True, batch_size=2)))
    assert np.array_equal(whole, split)


def test_a_column_of_data_files(tmp_path: Path) -> None:
    import pandas as pd

    files = [tmp_path / "0000.parquet"]
    pd.DataFrame({"sentence": ["a", "b"]}).to_parquet(files[0])
    assert list(corpus.read_column(files, "sentence")) == ["a", "b"]
    with pytest.raises(ReprobookError, match="has no column 'text'; it has sentence"):
        list(corpus.read_column(files, "text"))
