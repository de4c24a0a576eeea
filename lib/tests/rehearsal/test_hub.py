"""Miniatures are judged by their users: transformers, diffusers, tokenizers, datasets and huggingface_hub."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import yaml
from reprobook.errors import ReprobookError
from reprobook.rehearsal.hub import build, write_miniature

SLUG = "block_diffusion"
REVISION = "0123456789abcdef0123456789abcdef01234567"
GPT2 = {"vocab_size": 400, "n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2}


def _artefact(name: str, hub: dict[str, Any], miniature: dict[str, Any] | None, kind: str = "model") -> dict[str, Any]:
    artefact = {"id": name, "kind": kind, "what": name, "license": "MIT", "scales": ["paper"], "source": {"hub": hub}}
    return {**artefact, "miniature": miniature} if miniature else artefact


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A checkout whose manifest is the argument; ``data.path`` reads the hub built for it."""
    (tmp_path / "root" / "data_manifests").mkdir(parents=True)
    (tmp_path / "root" / "notebooks").mkdir()
    monkeypatch.setenv("REPROBOOK_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("REPROBOOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("REPROBOOK_LOCKS", str(tmp_path / "locks"))
    monkeypatch.setenv("REPROBOOK_OFFLINE", "1")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def make(*artefacts: dict[str, Any]) -> Any:
        from reprobook.data import ChapterData

        text = yaml.safe_dump({"artefacts": list(artefacts)}, sort_keys=False)
        (tmp_path / "root" / "data_manifests" / f"{SLUG}.yaml").write_text(text)
        build(SLUG, tmp_path / "hub")
        return ChapterData(SLUG, "paper")

    return make


def test_a_model_with_its_tokenizer_is_found_where_the_manifest_says(hub: Any) -> None:
    source = {"repo_id": "org/tiny", "revision": REVISION, "allow_patterns": ["*.json", "*.safetensors", "merges.txt"]}
    recipe = {"architecture": "GPT2LMHeadModel", "config": GPT2, "tokenizer": {"kind": "bpe", "vocab_size": 400}}
    data = hub(_artefact("tiny", source, recipe))
    folder = data.path("tiny")
    assert folder.name == REVISION and data.checksums() == {"tiny": REVISION}
    assert {p.name for p in folder.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "vocab.json",
        "merges.txt",
    }

    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    assert len(tokenizer) == 400 and model.config.eos_token_id == tokenizer.eos_token_id
    text = "A cat, 3 naïve dogs\nand ☃."
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert tokenizer.decode(ids[0]) == text
    assert model(ids).logits.shape == (1, ids.shape[1], 400)


def test_repositories_without_a_revision_and_shared_ones(hub: Any) -> None:
    def rows(name: str) -> dict[str, Any]:
        source = {
            "repo_id": "org/sets",
            "repo_type": "dataset",
            "revision": None,
            "allow_patterns": [f"{name}/*.parquet"],
        }
        recipe = {
            "format": "parquet",
            "rows": 5,
            "files": {f"{name}/test.parquet": {"text": "text", "label": {"int": [0, 3]}}},
        }
        return _artefact(name, source, recipe, "dataset")

    data = hub(rows("pubmed"), rows("arxiv"))
    import pandas as pd

    for name in ("pubmed", "arxiv"):
        frame = pd.read_parquet(data.path(name) / name / "test.parquet")
        assert list(frame.columns) == ["text", "label"] and len(frame) == 5
        assert set(frame["label"]) <= {0, 1, 2, 3} and frame["text"].str.len().min() > 20


@pytest.mark.parametrize(
    ("recipe", "patterns", "message"),
    [
        (None, ["*.json"], "tiny has no miniature"),
        ({"architecture": "NoSuchModel"}, ["*.json"], "transformers has no class 'NoSuchModel'"),
        ({"tokenizer": {"kind": "bpe", "vocab_size": 100}}, ["*.json"], "vocab_size 100 is too small for bpe"),
        ({"extra": {"config.json": {}}}, ["*.json", "*.parquet"], "no file for *.parquet of allow_patterns"),
        ({"format": "xls", "files": {"a": {}}}, ["*.json"], "needs format"),
        ({"format": "jsonl", "files": {"a.jsonl": {"x": "no such kind"}}}, ["a.jsonl"], "unknown kind of column"),
        ({"function": "reprobook.nowhere:f"}, ["*.json"], "No module named 'reprobook.nowhere'"),
        ({"architekture": "GPT2Model"}, ["*.json"], "unknown architekture"),
        (
            {"architecture": "GPT2Model", "config": GPT2, "tokenizer": {"kind": "bpe", "vocab_size": 401}},
            ["*.json"],
            "the tokenizer has 401 tokens, but config.vocab_size is 400",
        ),
    ],
)  # fmt: skip
def test_faults_name_the_artefact(hub: Any, recipe: Any, patterns: list[str], message: str) -> None:
    source = {"repo_id": "org/tiny", "revision": REVISION, "allow_patterns": patterns}
    with pytest.raises(ReprobookError) as caught:
        hub(_artefact("tiny", source, recipe))
    assert message in str(caught.value) and "tiny" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "size", "text"),
    [
        ("bpe", 700, "The old house, 12!"),
        ("wordpiece", 500, "the old house"),
        ("unigram", 300, "the old house"),
        ("bytes", 384, "é 1"),
    ],
)
def test_tokenizers_have_their_size_and_come_back(tmp_path: Path, kind: str, size: int, text: str) -> None:
    from transformers import AutoTokenizer

    write_miniature({"tokenizer": {"kind": kind, "vocab_size": size}}, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == size
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True).strip() == text
    assert max(tokenizer(text)["input_ids"]) < size


def test_a_tokenizer_learns_the_words_of_its_own_text(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    prompt = "Admissible commands: go to countertop 4"
    for folder, own in (("plain", {}), ("taught", {"text": prompt})):
        write_miniature({"tokenizer": {"kind": "bpe", "vocab_size": 512, **own}}, tmp_path / folder)
    plain, taught = (AutoTokenizer.from_pretrained(tmp_path / folder) for folder in ("plain", "taught"))
    assert len(taught) == 512 and taught.decode(taught(prompt)["input_ids"]) == prompt
    assert 2 * len(taught(prompt)["input_ids"]) < len(plain(prompt)["input_ids"])


def test_wordpiece_frames_a_text(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    write_miniature({"tokenizer": {"kind": "wordpiece", "vocab_size": 512}}, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("The house", "a tree")["input_ids"])
    assert (tokens[0], tokens[-1], tokens.count("[SEP]")) == ("[CLS]", "[SEP]", 2)
    assert tokenizer.mask_token == "[MASK]" and (tmp_path / "vocab.txt").read_text().splitlines()[0] == "[PAD]"


def test_chat_template_and_special_tokens(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    template = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    special = {"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]}
    recipe = {"kind": "bpe", "vocab_size": 400, "special": special, "chat_template": template}
    write_miniature({"tokenizer": recipe}, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], return_dict=False)
    assert tokenizer.convert_ids_to_tokens(ids)[0] == "<|im_start|>" and ids[-1] == tokenizer.eos_token_id
    assert len(tokenizer) == 400


def test_a_diffusers_part_in_its_subfolder(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL, DDIMScheduler

    blocks = {"down_block_types": ["DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D"]}
    vae = {"block_out_channels": [8], "norm_num_groups": 4, "latent_channels": 4, **blocks}
    parts = {
        "vae": {"library": "diffusers", "architecture": "AutoencoderKL", "config": vae},
        "scheduler": {"library": "diffusers", "architecture": "DDIMScheduler"},
    }
    write_miniature({"parts": parts, "extra": {"model_index.json": {"_class_name": "X"}}}, tmp_path)
    assert AutoencoderKL.from_pretrained(tmp_path / "vae").config.latent_channels == 4
    assert DDIMScheduler.from_pretrained(tmp_path / "scheduler").config.num_train_timesteps == 1000
    assert (tmp_path / "model_index.json").is_file()


def test_weights_are_the_same_each_time_and_have_their_precision(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    recipe = {"architecture": "AutoModelForCausalLM", "config": {"model_type": "gpt2", **GPT2}, "dtype": "bfloat16"}
    for name in ("a", "b"):
        write_miniature(recipe, tmp_path / name)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b"))
    assert (
        all((first[key] == second[key]).all() for key in first)
        and str(next(iter(first.values())).dtype) == "torch.bfloat16"
    )


def test_every_kind_of_column(tmp_path: Path) -> None:
    from datasets import Image, load_dataset
    from PIL.Image import Image as Picture

    columns = {
        "text": "text", "word": "word", "n": "int", "x": "float", "ok": "bool", "id": "id", "image": "image",
        "level": {"int": [3, 4]}, "split": {"choice": ["a", "b"]}, "lang": {"value": "en"},
        "tags": {"list": "word", "length": 3}, "meta": {"struct": {"k": "int", "names": {"list": "word"}}},
    }  # fmt: skip
    write_miniature({"format": "parquet", "rows": 4, "files": {"a/b.parquet": columns}}, tmp_path)
    rows = load_dataset(
        "parquet", data_files=str(tmp_path / "a" / "b.parquet"), split="train", cache_dir=str(tmp_path / "c")
    )
    assert list(rows["split"]) == ["a", "b", "a", "b"] and list(rows["id"]) == ["0", "1", "2", "3"]
    assert len(rows[0]["tags"]) == 3 and set(rows[0]["meta"]) == {"k", "names"} and rows[0]["level"] in (3, 4)
    picture = rows.cast_column("image", Image())[0]["image"]
    assert isinstance(picture, Picture) and picture.size == (32, 32)


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "text"])
def test_other_formats(tmp_path: Path, kind: str) -> None:
    import pandas as pd

    write_miniature({"format": kind, "rows": 3, "files": {"f": {"sentence": "text"}}}, tmp_path)
    content = (tmp_path / "f").read_text()
    readers: dict[str, Any] = {
        "jsonl": lambda s: pd.read_json(io.StringIO(s), lines=True)["sentence"].tolist(),
        "json": lambda s: pd.read_json(io.StringIO(s))["sentence"].tolist(),
        "csv": lambda s: pd.read_csv(io.StringIO(s))["sentence"].tolist(),
        "text": str.splitlines,
    }
    found = readers[kind](content)
    assert len(found) == 3 and all(line.endswith(".") for line in found)
