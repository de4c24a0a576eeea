"""Stand-ins for the rehearsal: a checkpoint in AQLM's form, and an archive of outcomes like the authors'."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import torch

from reprobook.papers.quantizing_code_llms.aqlm import Additive, Format
from reprobook.papers.quantizing_code_llms.blocks import AqlmLinear, decoder_blocks, linears
from reprobook.papers.quantizing_code_llms.storage import save


def aqlm_checkpoint(folder: Path, n_codebooks: int, bits: int, blocks: int = 2) -> None:
    """A tiny Llama with random codes in the layout of the released models."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=blocks,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=512, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model, form = LlamaForCausalLM(config), Format(n_codebooks, bits)
    for block in decoder_blocks(model):
        for name, layer in linears(block).items():
            rows, columns = layer.weight.shape
            codes = torch.randint(2**bits, (rows, columns // 8, n_codebooks), dtype=torch.int32)
            words = 0.1 * torch.randn(n_codebooks, 2**bits, 8)
            block.set_submodule(name, AqlmLinear(Additive(codes, words, torch.ones(rows)), None))
    save(model, folder, form)
    tokenizer.save_pretrained(folder)


def byte_tokenizer() -> Any:
    """A token for each byte, and one that ends a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE(vocab={word: k for k, word in enumerate(words)}, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>", bos_token="<|end|>")


def authors_folder(name: str, folder: Path) -> Path:
    """The authors' unpacked archive as the parameter names it; "miniature": one of a few outcomes, in ``folder``."""
    if name != "miniature":
        return Path(name).expanduser()
    for arm, right in {"16bit": 3, "4bit-mixed": 3, "2bit-rnd": 1}.items():
        for k in range(4):
            results = [{"status": "OK" if j + k < right else "Exception", "exit_code": int(j + k >= right)}
                       for j in range(3)]  # fmt: skip
            told = {"name": f"HumanEval_{k}_x", "language": "py", "results": results}
            file = folder / "authors" / "CodeLlama-7b-hf" / arm / f"HumanEval_{k}_x.results.json.gz"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(gzip.compress(json.dumps(told).encode()))
    return folder / "authors"
