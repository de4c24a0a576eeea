"""The language models of stage 2: a small Llama and its tokenizer, training in both directions, and the baseline that
writes cell sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from reprobook.papers.scmmgpt import sentences
from reprobook.papers.scmmgpt.decoder import ExpressionDecoder
from reprobook.papers.scmmgpt.sentences import sentence_batch
from reprobook.papers.scmmgpt.stage2 import CellLM, Pairs, add_cell_tokens, coin_flips, sequences, with_lora
from reprobook.papers.scmmgpt.tables import sentence_cells
from reprobook.papers.scmmgpt.values import TARGET_SCALE
from reprobook.train import shuffled

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from reprobook.papers.scmmgpt.study import Fit, Study


def word_tokenizer(texts_of_types: Sequence[str]) -> Any:
    """A tokenizer of whole words for the small language model, in the form transformers knows."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    words = sorted({w for text in texts_of_types for w, _ in pieces.pre_tokenize_str(text)})
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    table = {w: k for k, w in enumerate([*special.values(), *words])}
    made = Tokenizer(models.WordLevel(table, unk_token="<unk>"))
    made.pre_tokenizer = pieces
    return PreTrainedTokenizerFast(tokenizer_object=made, **special)


def small_lm(vocabulary: int, dim: int = 128, n_layers: int = 4, seed: int = 0) -> Any:
    """A Llama small enough to be trained from nothing: the class of Llama-2 and of SmolLM2."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=dim, intermediate_size=3 * dim, num_hidden_layers=n_layers,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=512, tie_word_embeddings=True,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def make_cell_lm(lm: Any, tokenizer: Any, z: Tensor, n_genes: int, dim: int, seed: int, lora: bool = False) -> CellLM:
    """The language model with slots for ``z`` (n, slots, width), decoder and released decoder."""
    torch.manual_seed(seed)
    ids = add_cell_tokens(tokenizer, lm, z.shape[1])
    width = lm.get_input_embeddings().embedding_dim
    decoders = (ExpressionDecoder(n_genes, width, dim), ExpressionDecoder(n_genes, width, dim))
    return CellLM(with_lora(lm) if lora else lm, ids, z.shape[2], *decoders)


def train_stage2(
    fit: Fit, name: str, model: CellLM, study: Study, z: Tensor, token_ids: Sequence[Sequence[int]], batch_size: int,
    num_steps: int, lr: float, seed: int, target_scale: float = TARGET_SCALE,
) -> Any:  # fmt: skip
    """Train on the training cells in both directions; ``token_ids`` are the texts of all types. Returns the history."""
    order = shuffled(len(study.train), min(batch_size, len(study.train)), seed=seed)
    target = torch.from_numpy(study.dense(study.train, target_scale))
    own, states = study.y[study.train], z[torch.from_numpy(study.train)]
    genes = torch.arange(target.shape[1])

    def batch(i: int) -> Pairs:
        chosen = order(i)
        flips = coin_flips(len(chosen), i, seed).tolist()
        rows = sequences([token_ids[own[k]] for k in chosen.tolist()], flips, model.ids)
        return Pairs(rows, states[chosen], genes, target[chosen], torch.ones(len(chosen), len(genes), dtype=torch.bool))

    return fit(
        name, model, batch, lambda net, b: net(b), num_steps=num_steps, lr=lr, weight_decay=1e-3, schedule="cosine",
        warmup_steps=min(20, num_steps // 5), precision="fp32",
    )  # fmt: skip


def train_sentences(
    fit: Fit, name: str, lm: Any, study: Study, named: Sequence[np.ndarray], token_ids: Sequence[Sequence[int]],
    first_gene: int, bos: int, eos: int, batch_size: int, num_steps: int, lr: float, seed: int,
) -> None:  # fmt: skip
    """The baseline of generation: the same small language model learns text -> names of genes, highest first."""
    order = shuffled(len(study.train), min(batch_size, len(study.train)), seed=seed)

    def batch(i: int) -> tuple[Tensor, Tensor, Tensor]:
        chosen = study.train[order(i).numpy()]
        return sentence_batch([token_ids[study.y[k]] for k in chosen], [named[k] for k in chosen], first_gene, bos, eos)

    fit(
        name, lm, batch, lambda net, b: net(input_ids=b[0], labels=b[1], attention_mask=b[2]).loss,
        num_steps=num_steps, lr=lr, weight_decay=1e-3, schedule="cosine", warmup_steps=min(20, num_steps // 5),
        precision="fp32",
    )  # fmt: skip


@dataclass(frozen=True)
class Tuning:
    """Size of the small model, and how it is trained."""

    dim: int = 128
    n_layers: int = 4
    num_steps: int = 300
    batch_size: int = 16
    lr: float = 1e-3
    target_scale: float = TARGET_SCALE


@dataclass(frozen=True)
class Talker:
    """A trained stage 2: model, tokenizer, token ids of all texts, and what stands in the slots of every cell."""

    net: CellLM
    tokenizer: Any
    ids: list[list[int]]
    z: Tensor

    def describe(self, rows: np.ndarray, beams: int, max_new: int, batch_size: int = 64) -> list[str]:
        """Descriptions of the cells ``rows``."""
        prompt = self.z[torch.from_numpy(rows)].to(self.net.llm_proj[0].weight.device)
        return self.net.describe(prompt, self.tokenizer, beams, max_new, batch_size=batch_size)


def second_stage(
    fit: Fit, name: str, study: Study, z: Tensor, tuning: Tuning, decoder_dim: int, seed: int, released: Any = None
) -> Talker:
    """Train stage 2 on the states ``z`` of frozen queries: a small model, trained whole, or ``released``, a model and
    its tokenizer, frozen with LoRA."""
    words = [t.text() for t in study.types]
    if released is None:
        tokenizer = word_tokenizer(words)
        lm = small_lm(len(tokenizer), tuning.dim, tuning.n_layers, seed)
    else:
        lm, tokenizer = released
    net = make_cell_lm(lm, tokenizer, z, len(study.cells.genes), decoder_dim, seed, released is not None)
    ids = [tokenizer(text, add_special_tokens=False).input_ids for text in words]
    train_stage2(
        fit, name.replace(" ", "-"), net, study, z, ids, tuning.batch_size, tuning.num_steps, tuning.lr, seed,
        tuning.target_scale,
    )  # fmt: skip
    return Talker(net, tokenizer, ids, z)


def sentence_writer(fit: Fit, study: Study, tuning: Tuning, n_genes: int, seed: int) -> Any:
    """Train the small model on text -> ``n_genes`` names; returns a function of row numbers that gives their cells."""
    tokenizer = word_tokenizer([t.text() for t in study.types])
    ids = [tokenizer(t.text(), add_special_tokens=False).input_ids for t in study.types]
    first, ends = len(tokenizer), (tokenizer.bos_token_id, tokenizer.eos_token_id)
    lm = small_lm(first + len(study.cells.genes), tuning.dim, tuning.n_layers, seed)
    named = sentences.ranked(study.values(), n_genes)
    name = f"{study.name}-sentences".replace(" ", "-")
    options = (tuning.batch_size, tuning.num_steps, tuning.lr, seed)
    train_sentences(fit, name, lm, study, named, ids, first, *ends, *options)
    return partial(
        sentence_cells, lm, study, token_ids=ids, first_gene=first, k=n_genes, bos=ends[0], eos=ends[1], seed=seed
    )  # fmt: skip
