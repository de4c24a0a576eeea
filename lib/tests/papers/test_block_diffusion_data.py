"""Corpora and released checkpoints of the block diffusion chapter."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from reprobook.errors import ReprobookError
from reprobook.papers import block_diffusion as bd
from reprobook.papers.block_diffusion import corpus, released


@pytest.mark.parametrize(
    "raw, clean",
    [
        ('He said , " It works . "', 'He said, "It works."'),
        ("the company 's plan cost $ 3 million ( about half ) .", "the company's plan cost $3 million (about half)."),
        ("Really ? Yes ; see http : / / example.org / a", "Really? Yes; see http://example.org/a"),
    ],
)
def test_lm1b_is_detokenised(raw: str, clean: str) -> None:
    assert corpus.detokenise_lm1b(raw) == clean


def test_markov_corpus_is_fresh_for_every_seed() -> None:
    source = bd.source.MarkovSource(4)
    a, b = (bd.corpus.markov_corpus(source, 8, 50, 10, seed=s) for s in (0, 1))
    assert a.train.shape == (50, 8) and a.test.shape == a.valid.shape == (10, 8)
    assert a.vocab_size == 5 and a.mask_id == 4 and not np.array_equal(a.train, b.train)
    assert len(a.decode(a.train[0])) == 8


def test_unknown_corpus_is_named() -> None:
    with pytest.raises(ReprobookError, match="'wikipedia' or 'lm1b', got 'c4'"):
        bd.corpus.open_corpus("c4", None, 8)


def test_files_of_a_split_are_found_by_folder_or_name(tmp_path: Path) -> None:
    (tmp_path / "penn" / "test").mkdir(parents=True)
    for name in ("penn/test/0000.parquet", "train.jsonl"):
        (tmp_path / name).touch()
    assert [file.name for file in corpus.split_files(tmp_path, "test")] == ["0000.parquet"]
    assert [file.name for file in corpus.split_files(tmp_path, "train")] == ["train.jsonl"]
    with pytest.raises(ReprobookError, match="no validation files"):
        corpus.split_files(tmp_path, "validation")


# ------------------------------------------------------------------------------------------------ checkpoints


@pytest.mark.parametrize("causal", [False, True])
def test_released_weights_load_by_their_names(tmp_path: Path, causal: bool) -> None:
    released.write_miniature(tmp_path, block_size=4, causal=causal)
    model, block_size, length = bd.released.load_released(tmp_path)
    assert (block_size, length, model.vocab_size, model.causal) == (4, 32, 513, causal)
    assert model.interval.tolist() == pytest.approx([1e-3, 1.0])
    assert (model.sigma_map is None) == causal


def test_released_checkpoint_with_other_weights_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    released.write_miniature(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    moved = weights.pop("backbone.blocks.0.attn_qkv.weight")
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ReprobookError, match=r"missing in the checkpoint: blocks.0.attn_qkv.weight"):
        bd.released.load_released(tmp_path)
    save_file(
        {**weights, "backbone.blocks.0.attn_qkv.weight": moved, "backbone.odd": moved.clone()},
        tmp_path / "model.safetensors",
    )
    with pytest.raises(ReprobookError, match="no place for: odd"):
        bd.released.load_released(tmp_path)


def test_pickled_checkpoints_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 3}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ReprobookError, match="pickled checkpoints are not read"):
        bd.released.load_released(tmp_path)


def test_size_of_the_real_architecture() -> None:
    """170M on the hub: 12 layers of width 768, two embeddings of 50,258 tokens (counted by hand)."""
    with torch.device("meta"):
        model = bd.model.DiT(50_258)
    d, c, v = 768, 128, 50_258
    layer = 3 * d * d + d * d + 2 * d + 4 * d * d + 4 * d + 4 * d * d + d + 6 * d * c + 6 * d
    rest = v * d + (d * v + v) + d + (2 * d * c + 2 * d) + (256 * c + c + c * c + c)
    assert sum(p.numel() for p in model.parameters()) == 12 * layer + rest
    assert 12 * layer + rest == pytest.approx(170e6, rel=0.01)


def test_generative_perplexity_is_exp_of_the_mean_nll_of_all_tokens() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    judge = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_positions=16, n_embd=8, n_layer=1, n_head=2)).eval()
    texts = ["abcab", "hgfedcba"]

    def encode(text: str) -> torch.Tensor:
        return torch.tensor([ord(c) - ord("a") for c in text])

    total = count = 0.0
    with torch.no_grad():
        for ids in map(encode, texts):
            total += torch.nn.functional.cross_entropy(judge(ids[None]).logits[0, :-1], ids[1:], reduction="sum").item()
            count += len(ids) - 1
    told = bd.released.text_nll(judge, encode, texts)
    assert bd.released.generative_perplexity(told) == pytest.approx(np.exp(total / count), rel=1e-4)
    for nothing in ([], ["a"]):
        with pytest.raises(ReprobookError, match="at least one text"):
            bd.released.generative_perplexity(bd.released.text_nll(judge, encode, nothing))


@pytest.mark.parametrize("kind", [{"causal": True}, {"time_conditioning": True}, {"block_size": 8}])
def test_released_models_of_every_kind_are_scored_and_sampled(tmp_path: Path, kind: dict[str, int]) -> None:
    released.write_miniature(tmp_path, vocab_size=40, **kind)
    model, block_size, length = bd.released.load_released(tmp_path)
    rows = torch.randint(39, (4, length), generator=torch.Generator().manual_seed(0))
    nll = bd.released.likelihood(model, rows, block_size, n_samples=40, batch_size=4, seed=0)
    assert nll.mean().item() == pytest.approx(np.log(40), abs=0.35)  # the output layer is zero: uniform over the tokens
    generator = torch.Generator().manual_seed(0)
    tokens = bd.released.sample_released(model, rows[:, :1], length, block_size, 0.9, generator, length)
    assert tokens.shape == (4, length) and (tokens < 39).all()


def test_long_samples_go_on_beyond_the_context_except_those_of_sedd(tmp_path: Path) -> None:
    for k, kind in enumerate([{"causal": True}, {"time_conditioning": True}, {"block_size": 8}, {"block_size": 32}]):
        released.write_miniature(tmp_path / str(k), vocab_size=40, **kind)  # type: ignore[arg-type]
        model, size, length = bd.released.load_released(tmp_path / str(k))
        prompt, generator = torch.zeros(2, 1, dtype=torch.long), torch.Generator().manual_seed(0)
        tokens = bd.released.sample_released(model, prompt, 64, size, 0.9, generator, length)
        assert tokens.shape == (2, 32 if "time_conditioning" in kind else 64)


def test_texts_are_cut_by_the_stop_rules_and_drawn_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    released.write_miniature(tmp_path, vocab_size=40)
    model, size, length = bd.released.load_released(tmp_path)
    lively = torch.arange(600) % 300 + 1
    ended, dull = lively.clone(), torch.full((600,), 7)
    ended[[0, 400]] = 0
    asked: list[int] = []

    def fake(_model: object, prompt: torch.Tensor, *_: object) -> torch.Tensor:
        asked.append(len(prompt))
        return torch.stack([[ended, dull, lively][(len(asked) - 1) % 3]] * len(prompt))

    monkeypatch.setattr(released, "sample_released", fake)
    prompt, options = torch.zeros(3, 1, dtype=torch.long), {"rows": 1, "eos_id": 0}
    found = released.texts_of(model, prompt, 600, size, length, 0.9, **options)  # type: ignore[arg-type]
    assert [(len(tokens), why) for tokens, why in found] == [(401, "eos"), (4, "entropy"), (600, "length")]
    told = released.document_lengths(found)
    assert (told["median"], told["max"], told["ended by eos"]) == (401, 600, pytest.approx(1 / 3))
    asked.clear()
    found = released.texts_of(model, prompt, 600, size, length, 0.9, tries=2, **options)  # type: ignore[arg-type]
    assert asked == [1, 1, 1, 1] and [why for _, why in found] == ["eos", "eos", "length"]


def test_official_perplexity_reads_end_marks_and_does_not_score_them() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    judge = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_positions=16, n_embd=8, n_layer=1, n_head=2)).eval()
    ids = torch.tensor([0, 3, 4, 0, 5, 0, 0, 2, 9, 1, 7, 3])

    def encode(_: str) -> torch.Tensor:
        return ids

    with torch.no_grad():
        each = torch.nn.functional.cross_entropy(judge(ids[None]).logits[0, :-1], ids[1:], reduction="none")
    told = bd.released.text_nll(judge, encode, ["x"], eos_id=0)
    assert told[0, 1] == (ids[1:] != 0).sum()
    assert bd.released.generative_perplexity(told) == pytest.approx(each[ids[1:] != 0].mean().exp().item(), rel=1e-5)
    every = bd.released.generative_perplexity(bd.released.text_nll(judge, encode, ["x"]))
    assert every == pytest.approx(each.mean().exp().item(), rel=1e-5)


def test_windows_score_every_token_once_with_its_context() -> None:
    from reprobook.metrics.text import windowed_nll
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    judge = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_positions=16, n_embd=8, n_layer=1, n_head=2)).eval()
    ids = torch.randint(11, (45,), generator=torch.Generator().manual_seed(0))
    total, n = windowed_nll(judge, ids, window=16, stride=8)
    found = bd.released.token_nll(judge, ids, 16, 8)
    assert len(found) == n == 44 and found.sum().item() == pytest.approx(total, rel=1e-5)
