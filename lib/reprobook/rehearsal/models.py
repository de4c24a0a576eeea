"""Miniature models and tokenizers: the real classes and file names with tiny, random content.

A recipe is ``{architecture: class name, config: {...}, library: transformers | diffusers, dtype: float32, tokenizer:
{...}, extra: {file: content}, parts: {subfolder: recipe}}``; each key but one may be missing. ``extra`` writes files as
they are (mappings as JSON); ``parts`` puts recipes into subfolders, as pipelines of diffusers have them.
A tokenizer is ``{kind: bpe | wordpiece | unigram | bytes, vocab_size: n, special: {bos_token: ...}, chat_template: ...,
text: ...}``; its special tokens' ids go into the configuration. It learns the words of ``text``: prompts of them are
short.
"""

from __future__ import annotations

import importlib
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprobook.errors import ReprobookError
from reprobook.rehearsal.tables import text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LIBRARIES = ("transformers", "diffusers")
KEYS = ("architecture", "config", "library", "dtype", "tokenizer", "extra", "parts")
KINDS = ("bpe", "wordpiece", "unigram", "bytes")
_SPECIAL = {
    "bpe": dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
    "wordpiece": {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")},
    "unigram": {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
}


def write_model(recipe: Mapping[str, Any], folder: Path) -> None:
    """Write what ``recipe`` describes into ``folder``: weights as safetensors, configurations, tokenizer files."""
    unknown = sorted(set(recipe) - set(KEYS))
    if unknown or not recipe:
        raise ReprobookError(f"unknown {', '.join(unknown) or 'empty recipe'}; a model recipe has {', '.join(KEYS)}")
    folder.mkdir(parents=True, exist_ok=True)
    ids = write_tokenizer(recipe["tokenizer"], folder) if "tokenizer" in recipe else {}
    if "architecture" in recipe:
        _write_weights(recipe, folder, ids)
    for subfolder, part in recipe.get("parts", {}).items():
        write_model(part, folder / subfolder)
    for name, content in recipe.get("extra", {}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content, indent=1), "utf-8")


def _write_weights(recipe: Mapping[str, Any], folder: Path, ids: dict[str, int]) -> None:
    import torch

    n_tokens = ids.pop("n", 0)
    values = {**ids, **{key: value for key, value in recipe.get("config", {}).items() if key != "model_type"}}
    if n_tokens > values.get("vocab_size", n_tokens):
        raise ReprobookError(f"the tokenizer has {n_tokens} tokens, but config.vocab_size is {values['vocab_size']}")
    torch.manual_seed(0)
    model = _build(recipe, values)
    if hasattr(model, "to"):  # not a scheduler
        model = model.to(getattr(torch, recipe.get("dtype", "float32")))
    model.save_pretrained(folder)


def _build(recipe: Mapping[str, Any], values: dict[str, Any]) -> Any:
    """An instance of the architecture with random weights, from its own configuration class."""
    library = recipe.get("library", "transformers")
    if library not in LIBRARIES:
        raise ReprobookError(f"unknown library {library!r}; libraries: {', '.join(LIBRARIES)}")
    cls = getattr(importlib.import_module(library), recipe["architecture"], None)
    if cls is None:
        raise ReprobookError(f"{library} has no class {recipe['architecture']!r}")
    if library == "diffusers":
        return cls(**values)
    if recipe["architecture"].startswith("Auto"):
        from transformers import AutoConfig

        return cls.from_config(AutoConfig.for_model(recipe["config"]["model_type"], **values))
    return cls(cls.config_class(**values))


def write_tokenizer(recipe: Mapping[str, Any], folder: Path) -> dict[str, int]:
    """Write a tokenizer with exactly ``vocab_size`` tokens (``bytes``: 384), ``bpe`` with GPT-2's files, too.

    Returns the number of tokens as ``n`` and the ids of the special ones as a model's configuration names them.
    """
    kind, size = recipe.get("kind"), int(recipe.get("vocab_size", 512))
    if kind not in KINDS:
        raise ReprobookError(f"unknown kind of tokenizer {kind!r}; kinds: {', '.join(KINDS)}")
    if kind == "bytes":
        from transformers import ByT5Tokenizer

        tokenizer = ByT5Tokenizer()
        tokenizer.save_pretrained(folder)
        return _ids(tokenizer)
    from transformers import PreTrainedTokenizerFast

    special = {**_SPECIAL[kind], **recipe.get("special", {})}
    listed = [token for value in special.values() for token in ([value] if isinstance(value, str) else value)]
    made = _train(kind, size, list(dict.fromkeys(listed)), recipe.get("text", ""))
    if made.get_vocab_size() > size:
        raise ReprobookError(f"vocab_size {size} is too small for {kind}: at least {made.get_vocab_size()}")
    made.add_tokens([f"extra{k}" for k in range(size - made.get_vocab_size())])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=made, **special)
    if "chat_template" in recipe:
        wrapped.chat_template = recipe["chat_template"]
    wrapped.save_pretrained(folder)
    _write_vocabulary(made, kind, folder)
    return _ids(wrapped)


def _ids(tokenizer: Any) -> dict[str, int]:
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {"n": len(tokenizer), **{name: k for name in names if (k := getattr(tokenizer, name)) is not None}}


def _train(kind: str, size: int, special: list[str], own: str) -> Tokenizer:
    """Train on words without meaning and on a recipe's own text, so that pieces of words, and whole ones, are in the
    vocabulary."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    lines = [text(random.Random(k), 4) for k in range(400)] + ([own] * 400 if own else [])
    common: dict[str, Any] = {"vocab_size": size, "special_tokens": special, "show_progress": False}
    if kind == "bpe":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        trainer: Any = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **common)
    elif kind == "wordpiece":
        made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer, made.pre_tokenizer = (
            normalizers.BertNormalizer(lowercase=True),
            pre_tokenizers.BertPreTokenizer(),
        )
        made.decoder, trainer = decoders.WordPiece(), trainers.WordPieceTrainer(**common)
    else:
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(unk_token="<unk>", **common)
    made.train_from_iterator(lines, trainer)
    if kind == "wordpiece":
        ends = [(name, made.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
        pair = "[CLS] $A [SEP] $B:1 [SEP]:1"
        made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair=pair, special_tokens=ends)
    elif kind == "unigram":
        end = [("</s>", made.token_to_id("</s>"))]
        made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=end)
    return made


def _write_vocabulary(made: Tokenizer, kind: str, folder: Path) -> None:
    """The vocabulary files beside ``tokenizer.json`` that repositories of this kind have."""
    if kind == "bpe":
        made.model.save(str(folder))
    elif kind == "wordpiece":
        vocabulary = sorted(made.get_vocab().items(), key=lambda item: item[1])
        (folder / "vocab.txt").write_text("".join(f"{token}\n" for token, _ in vocabulary), "utf-8")
