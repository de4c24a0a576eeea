"""Training of agents: LoRA adapters on one base, small decoders from scratch, batches that a killed run finds again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from reprobook.errors import ReprobookError
from reprobook.nn.lm import add_lora
from reprobook.papers.medical_assistant.augment import augment
from reprobook.papers.medical_assistant.samples import AGENTS, IGNORED
from reprobook.papers.medical_assistant.scenarios import make_case, play

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reprobook.papers.medical_assistant.samples import Encoder
    from reprobook.papers.medical_assistant.scenarios import Trajectory

TARGETS = ["q_proj", "v_proj"]  # defaults of the training code that the authors forked; they fit the size in the paper


def target_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    r"""Cross-entropy of the target tokens given everything before them, mean over targets (nats):
    :math:`-\frac{1}{|T|}\sum_{t\in T}\log p(x_t \mid x_{<t})`. Logits are computed at the targets' positions only.

    ``batch``: input_ids and labels, both (batch, length), padded on the right."""
    labels = batch["labels"][:, 1:]
    columns = (labels != IGNORED).any(0).nonzero().flatten()
    if not len(columns):
        raise ReprobookError("target_loss: no label in the batch: no token would be trained")
    # padding is on the right and the model is causal, so no target sees it: without a mask attention is faster
    logits = model(input_ids=batch["input_ids"], use_cache=False, logits_to_keep=columns).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), labels[:, columns].flatten(), ignore_index=IGNORED)


def collate(rows: Sequence[tuple[Sequence[int], Sequence[int]]], pad: int) -> dict[str, Tensor]:
    """Rows of ids and labels as one batch, padded on the right."""
    width = max(len(ids) for ids, _ in rows)
    x = torch.full((len(rows), width), pad)
    labels = torch.full_like(x, IGNORED)
    for k, (ids, marks) in enumerate(rows):
        x[k, : len(ids)], labels[k, : len(ids)] = torch.tensor(ids), torch.tensor(marks)
    return {"input_ids": x, "labels": labels}


def batches(
    trajectories: Sequence[Trajectory], encoder: Encoder, roles: Sequence[str], batch_size: int, seed: int,
    augmented: bool = True,
) -> Callable[[int], dict[str, Tensor]]:  # fmt: skip
    """Batch ``i`` as a pure function of ``i``: epochs in random order, similar lengths together, and with
    ``augmented`` other entities and another order of tools for every trajectory in every epoch."""
    n = len(trajectories)
    if not 1 <= batch_size <= n:
        raise ReprobookError(f"batch_size is {batch_size}; it must be from 1 to the number of trajectories ({n})")
    lengths = np.array([len(encoder.packed(t, roles)[0]) for t in trajectories])
    per_epoch = n // batch_size
    pad = encoder.tokenizer.pad_token_id
    pad = encoder.end if pad is None else pad

    def order(epoch: int) -> np.ndarray:
        rng = np.random.default_rng([seed, epoch])
        shuffled = rng.permutation(n)[: per_epoch * batch_size]
        alike = shuffled[np.argsort(lengths[shuffled], kind="stable")].reshape(per_epoch, batch_size)
        return alike[rng.permutation(per_epoch)]

    def batch(i: int) -> dict[str, Tensor]:
        epoch, k = divmod(i, per_epoch)
        chosen = [(int(j), trajectories[int(j)]) for j in order(epoch)[k]]
        if augmented:
            chosen = [(j, augment(t, np.random.default_rng([seed, epoch, j]))) for j, t in chosen]
        return collate([encoder.packed(t, roles) for _, t in chosen], pad)

    return batch


# ---------------------------------------------------------------------------------------------- adapters


def add_adapters(model: Any, names: Sequence[str], rank: int = 8, alpha: int = 16, dropout: float = 0.05) -> Any:
    """The model with one LoRA adapter for each name; the base is frozen and shared."""
    return add_lora(model, names, r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=TARGETS)


def adapter_parameters(config: Any, rank: int = 8) -> int:
    """Parameters of one adapter on q_proj and v_proj: :math:`r\\,(d_{in}+d_{out})` for each layer and matrix."""
    heads, width = config.num_attention_heads, config.hidden_size
    head = getattr(config, "head_dim", None) or width // heads
    out = (heads * head, config.num_key_value_heads * head)
    return config.num_hidden_layers * rank * sum(width + each for each in out)


# ---------------------------------------------------------------------------------------------- small decoders


def _pieces(corpus: Sequence[str]) -> str:
    """Pattern of pre-tokens: a symptom or food as a whole; runs of words of ``corpus``, tags and marks, inside which
    pieces are merged (never across two tools of a list); digits in pairs; other letters, so names, in pairs too."""
    import re

    from reprobook.papers.medical_assistant.entities import FOODS, PATTERNS
    from reprobook.papers.medical_assistant.environment import WHO

    whole = "|".join(sorted(map(re.escape, (*WHO, *FOODS, "fever")), key=len, reverse=True))
    bare = [re.sub(whole, " ", PATTERNS["name"].sub(" ", PATTERNS["doctor"].sub(" Dr ", text))) for text in corpus]
    words = sorted({w for text in bare for w in re.findall(r"(?<![A-Za-z])[A-Za-z]+(?![A-Za-z\d])", text)})
    word = rf"(?<![A-Za-z])(?:{'|'.join(sorted(words, key=len, reverse=True))})(?![A-Za-z\d])"
    return rf"(?:{whole})|\d\d?|[;\n]?(?:(?!{whole})(?:{word}|[^A-Za-z\d;\n]))+|[A-Za-z]{{1,2}}|[\s\S]"


@functools.cache
def small_tokenizer(vocab_size: int = 2300) -> Any:
    """BPE learned from the wording of the training templates. Letters of names and digits come in pairs: an unseen
    name or id is copied like any other, and a pair seldom occurs twice by chance, so what follows it is found by
    looking for the same pair. Fixed wording comes in long pieces, so sessions are short. A byte-level alphabet covers
    the rest."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    from tokenizers.decoders import ByteLevel
    from transformers import PreTrainedTokenizerFast

    from reprobook.papers.medical_assistant.augment import texts
    from reprobook.papers.medical_assistant.entities import FOODS, POOLS
    from reprobook.papers.medical_assistant.environment import WHO
    from reprobook.papers.medical_assistant.samples import prompt_text
    from reprobook.papers.medical_assistant.scenarios import ROLES, SCENARIOS, TRAIN_TEMPLATES

    rng = np.random.default_rng(0)
    corpus = [f"\n{role}:" for role in ROLES] * 100
    for scenario in SCENARIOS:
        for template in TRAIN_TEMPLATES:
            trajectory, _ = play(make_case(scenario, template, rng, "wide"))
            corpus += [prompt_text(trajectory), *texts(trajectory)]
    pattern = _pieces(corpus)
    names = [name.removeprefix("Dr ") for kind in ("name", "doctor") for name in POOLS["wide"].values[kind]]
    corpus += [*WHO, *FOODS, *(f"{k:02d}" for k in range(100)), *names] * 200  # each, or each pair of it, is a token
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<end>", "<pad>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    made.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<end>", pad_token="<pad>", clean_up_tokenization_spaces=False
    )


def small_decoder(tokenizer: Any, width: int, n_layers: int, n_heads: int, seed: int) -> Any:
    """A decoder of transformers' Llama class with random weights (standard deviation 1 / sqrt(width)).

    Rotary angles start from base 100, not 10,000: with some hundred tokens every pair of a head then tells neighbours
    apart, which copying needs."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=3 * width, num_hidden_layers=n_layers,
        num_attention_heads=n_heads, max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0}, initializer_range=width**-0.5,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def roles_of(name: str) -> tuple[str, ...]:
    """Which turns an adapter or model with this name is trained on: its own, or both for ``single``."""
    return AGENTS if name.startswith("single") else (name.split()[0].capitalize(),)
