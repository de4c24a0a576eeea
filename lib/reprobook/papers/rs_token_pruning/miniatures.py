"""Tiny stand-ins for the rehearsal, with the real names of files, fields and weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

SIZES = ((1100, 700), (500, 400))  # width and height of the pictures
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
          "image_size": 336, "patch_size": 14}  # fmt: skip
TEXT = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 8192}  # fmt: skip


def _pictures(folder: Path) -> list[str]:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    rng, names = np.random.default_rng(0), []
    for k, (width, height) in enumerate(SIZES):
        small = rng.integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8)
        names.append(f"P{k:04d}.png")
        Image.fromarray(small).resize((width, height)).save(folder / names[-1])
    return names


def write_lrs_vqa(folder: Path) -> None:
    """Two pictures, two questions of each of two categories in each part."""
    names = _pictures(folder / "image")
    rows = [
        {"question_id": f"{part}_{2 * k + j}", "image": names[j], "category": category, "image_size": list(SIZES[j]),
         "text": "How many bridges? Answer with one word or phrase.", "ground_truth": truth}
        for part in ("FAIR", "GLH-Bridge", "STAR")
        for k, (category, truth) in enumerate((("count", "2"), ("rural or urban", "rural")))
        for j in range(len(names))
    ]  # fmt: skip
    (folder / "LRS_VQA_merged.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def write_mme(folder: Path) -> None:
    """Two pictures with one question each."""
    names = _pictures(folder / "remote_sensing")
    rows = [
        {"Question_id": f"rs/{k}", "Image": f"remote_sensing/{name}", "Text": "What color is the roof?",
         "Question Type": "Multiple Choice", "Answer choices": [f"({c}) a colour" for c in "ABCDE"],
         "Ground truth": "AB"[k], "Category": ("color", "count")[k], "Subtask": "Remote Sensing", "Task": "Perception"}
        for k, name in enumerate(names)
    ]  # fmt: skip
    (folder / "MME_RealWorld_RS.json").write_text(json.dumps(rows), "utf-8")


def write_clip(folder: Path) -> None:
    """A vision transformer of two layers for tiles of the real size."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    CLIPVisionModel(CLIPVisionConfig(**VISION)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text("{}", "utf-8")


def write_model(folder: Path, kind: str) -> None:
    """A language model of four layers with projector, newline and module under the checkpoint's names."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    lm = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **TEXT))
    weights: dict[str, Any] = {name: value.clone() for name, value in lm.state_dict().items()}
    dims = (VISION["hidden_size"], TEXT["hidden_size"])
    for place, (a, b) in (("0", dims), ("2", (dims[1], dims[1]))):
        layer = torch.nn.Linear(a, b)
        weights |= {f"model.mm_projector.{place}.{n}": v.detach() for n, v in layer.state_dict().items()}
    weights["model.image_newline"] = torch.randn(dims[1])
    for k in range(5):
        own = {n: v.clone() for n, v in lm.model.layers[min(k, 3)].state_dict().items()}
        weights |= {f"model.rfm.layers.{k}.{n}": v for n, v in own.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    name = {"qwen2": "LlavaQwenForCausalLM", "llama": "LlavaLlamaForCausalLM"}[kind]
    said = {**TEXT, "architectures": [name], "model_type": f"llava_{kind}", "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(said), "utf-8")
    _tokenizer(folder)


def _tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = {c: k for k, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE({**letters, "<|im_end|>": len(letters)}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|im_end|>").save_pretrained(folder)
