"""The released OpenWebText checkpoints in our own module, and the judges of sample quality (Tables 4, 5 and 7).

Safetensors in, no remote code.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reprobook.data.manifest import load_manifest
from reprobook.errors import ReprobookError
from reprobook.metrics.text import perplexity, windowed_nll, windows
from reprobook.papers.block_diffusion.corpus import ZERO_SHOT, gpt2_tokenizer, openwebtext_validation, zero_shot_rows
from reprobook.papers.block_diffusion.model import DiT
from reprobook.papers.block_diffusion.objectives import ar_nll, nelbo, sedd_bound
from reprobook.papers.block_diffusion.sampling import (
    sample_ar,
    sample_blocks,
    sample_sedd,
    sample_strided,
    stop_position,
)

if TYPE_CHECKING:
    from torch import nn

_RECOMPUTED = ("rotary_emb.inv_freq", "mask")  # tables that our module builds itself


def load_released(folder: str | Path, device: torch.device | str = "cpu") -> tuple[DiT, int, int]:
    """Model, block size and context length of a released BD3-LM, MDLM, SEDD or AR checkpoint.

    Reads ``config.json`` and ``*.safetensors`` alone. A weight that is missing or left over is an error that names it.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text())
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ReprobookError(f"{folder.name}: no *.safetensors file; pickled checkpoints are not read")
    weights = {name.removeprefix("backbone."): value for file in files for name, value in load_file(file).items()}
    ends = [weights.pop(name) for name in ("sampling_eps_min", "sampling_eps_max") if name in weights]
    weights = {name: value for name, value in weights.items() if name not in _RECOMPUTED}
    causal = bool(config.get("causal", False))
    model = DiT(
        config["vocab_size"], config["hidden_dim"], config["n_blocks"], config["n_heads"], config["cond_dim"],
        dropout=config.get("dropout", 0.1), adaln=config.get("adaln", not causal), causal=causal,
        time_conditioning=config.get("time_conditioning", False),
    )  # fmt: skip
    wanted = set(model.state_dict()) - {"interval"}
    if missing := sorted(wanted - set(weights)):
        raise ReprobookError(f"{folder.name}: weights missing in the checkpoint: {', '.join(missing[:5])}")
    if extra := sorted(set(weights) - wanted):
        raise ReprobookError(f"{folder.name}: weights this architecture has no place for: {', '.join(extra[:5])}")
    if ends:
        weights["interval"] = torch.stack([end.double().reshape(()).round(decimals=6) for end in ends])
    model.load_state_dict(weights, strict=False)
    length = config["model_length"]
    return model.to(device).eval(), config.get("block_size", length), length


def write_miniature(
    folder: Path, block_size: int = 4, length: int = 32, vocab_size: int = 513, causal: bool = False,
    time_conditioning: bool = False, seed: int = 0,
) -> None:  # fmt: skip
    """A tiny checkpoint with the released files' names, configuration keys and weight names, for the rehearsal."""
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    config = {
        "model_type": "bd3lm", "block_size": block_size, "vocab_size": vocab_size, "model_length": length,
        "hidden_dim": 32, "cond_dim": 16, "n_blocks": 2, "n_heads": 2, "dropout": 0.1, "adaln": not causal,
        "causal": causal, "time_conditioning": time_conditioning, "cross_attn": not causal, "var_min": True,
    }  # fmt: skip
    model = DiT(vocab_size, 32, 2, 2, 16, adaln=not causal, causal=causal)
    weights = {
        f"backbone.{name}": value.contiguous() for name, value in model.state_dict().items() if name != "interval"
    }
    weights["backbone.rotary_emb.inv_freq"] = 10_000.0 ** (-torch.arange(0, 16, 2) / 16)
    weights["sampling_eps_min"], weights["sampling_eps_max"] = torch.tensor(1e-3), torch.tensor(1.0)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    save_file(weights, folder / "model.safetensors")


def likelihood(model: DiT, rows: Tensor, block_size: int, n_samples: int, batch_size: int, seed: int) -> Tensor:
    """NLL (AR) or its bound (BD3-LM, MDLM, SEDD) of each row per scored token, (N,), whichever the model is for."""
    mask_id = model.vocab_size - 1
    if model.causal:
        return ar_nll(model, rows, batch_size)
    if model.time_conditioning:
        return sedd_bound(model, rows, mask_id, n_samples, batch_size, seed)
    return nelbo(model, rows, block_size, mask_id, n_samples, batch_size, seed)


Encode = Callable[[str], Tensor]


def open_judge(name: str, data: Any, device: torch.device | str = "cpu") -> tuple[nn.Module, Encode]:
    """The causal language model that scores samples, the paper's is "gpt2-large", and its tokenizer."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(data.path(name)).to(device).eval()
    tokenizer = gpt2_tokenizer(data)
    return model, lambda text: torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])


def text_nll(
    judge: nn.Module, encode: Encode, texts: list[str], window: int = 1024, stride: int = 512, eos_id: int | None = None
) -> Tensor:
    """Summed NLL under the judge and number of scored tokens of each text, (n, 2): longer texts in windows, each later
    window scoring only its last ``stride`` tokens (Appendix C.5). The official rule leaves out end-of-text tokens (they
    are read, not scored): ``eos_id``; None scores every token."""
    found = torch.zeros(len(texts), 2, dtype=torch.float64)
    for row, ids in zip(found, map(encode, texts), strict=True):
        if len(ids) > 1 and eos_id is None:
            row[0], row[1] = windowed_nll(judge, ids, window=window, stride=stride)
        elif len(ids) > 1:
            nll, keep = token_nll(judge, ids, window, stride), ids[1:].ne(eos_id or 0)
            row[0], row[1] = nll[keep].sum(), keep.sum()
    return found


def generative_perplexity(told: Tensor) -> float:
    """exp of the mean NLL per token over all texts of :func:`text_nll`."""
    total, n = told.sum(0).tolist() if len(told) else (0.0, 0)
    if n < 1:
        raise ReprobookError("generative perplexity needs at least one text with a token to score")
    return perplexity(total, int(n))


@torch.no_grad()
def token_nll(judge: nn.Module, ids: Tensor, window: int, stride: int) -> Tensor:
    """NLL (L - 1,) of each token of ``ids`` (L,) but the first, in float64, read in :func:`windows`."""
    found = []
    device = next(judge.parameters()).device
    for begin, end, first in windows(len(ids), window, stride):
        read = ids[begin:end].to(device)
        out = judge(read[None])
        logits = (out if isinstance(out, Tensor) else out.logits)[0, first - begin - 1 : -1]
        found.append(F.cross_entropy(logits.float(), read[first - begin :], reduction="none").double().cpu())
    return torch.cat(found)


def sample_released(
    model: DiT, prompt: Tensor, length: int, block_size: int, top_p: float, generator: torch.Generator, context: int
) -> Tensor:
    """Samples (K, length) of a released checkpoint, whichever sampler it is for; SEDD fills its context and no more."""
    mask_id = model.vocab_size - 1
    common: dict[str, Any] = {"top_p": top_p, "generator": generator}
    if model.causal:
        return sample_ar(model, prompt, length, forbidden=mask_id, context=context, **common).tokens
    if model.time_conditioning:
        return sample_sedd(model, prompt, min(length, context), mask_id, context, **common).tokens
    if block_size == context and length > context:
        return sample_strided(model, prompt, length, context, context // 2, mask_id, **common).tokens
    return sample_blocks(model, prompt, length, block_size, mask_id, context=context, **common).tokens


def texts_of(
    model: DiT, prompt: Tensor, length: int, block_size: int, context: int, top_p: float, *, rows: int,
    eos_id: int | None, tries: int = 1, seed: int = 0,
) -> list[tuple[Tensor, str]]:  # fmt: skip
    """A document for each row of ``prompt`` (K, 1), cut by the stop rules, and why it ended; ``rows`` are drawn at a
    time. With more ``tries`` a sample that the entropy rule stopped is drawn again (Section 6.2: 10)."""
    generator = torch.Generator(device=prompt.device).manual_seed(seed)
    found: list[tuple[Tensor, str]] = [(prompt[0, :0], "entropy")] * len(prompt)
    for _ in range(tries):
        again = [i for i, (_, why) in enumerate(found) if why == "entropy"]
        for at in range(0, len(again), rows):
            some = again[at : at + rows]
            drawn = sample_released(model, prompt[some], length, block_size, top_p, generator, context).cpu()
            for i, row in zip(some, drawn, strict=True):
                end, why = stop_position(row, eos_id, 1 if model.causal else block_size)
                found[i] = (row[:end], why)
    return found


def document_lengths(found: list[tuple[Tensor, str]]) -> dict[str, float]:
    """A row of Table 6: median and longest document in tokens, and the share that each rule ended."""
    sizes = torch.tensor([float(len(tokens)) for tokens, _ in found])
    why = [reason for _, reason in found]
    shares = {f"ended by {reason}": why.count(reason) / len(why) for reason in ("eos", "entropy", "length")}
    return {"median": sizes.median().item(), "max": sizes.max().item(), **shares}


def perplexities(
    model: DiT, block_size: int, context: int, data: Any, *, n_test: int, n_draws: int, rows: int, seed: int,
    n_documents: int,
) -> dict[str, float]:  # fmt: skip
    """A row of Tables 4 and 5: perplexity on held-out OpenWebText and on every zero-shot set."""
    device = model.vocab_embed.embedding.device
    sets = {"OWT": openwebtext_validation(data, context, n_documents)}
    sets |= {name: zero_shot_rows(data, name, context) for name in ZERO_SHOT}
    found = {}
    for name, tokens in sets.items():
        x = torch.from_numpy(tokens[:n_test].astype(np.int64)).to(device)
        found[name] = likelihood(model, x, block_size, n_draws, rows, seed).mean().exp().item()
    return found


class Written(NamedTuple):
    """What a released model wrote: a row of the table, NLL per token of each sample under the judge (none without one),
    and the length of each document."""

    row: dict[str, float]
    nll: Tensor
    lengths: Tensor


def documents(
    model: DiT, block_size: int, context: int, data: Any, judge: str, *, rows: int, seed: int, top_p: float,
    score_eos: bool, n: int, n_lengths: int, most: int,
) -> Written:  # fmt: skip
    """Generative perplexity of ``n`` samples of one context (Table 7) and lengths of ``n_lengths`` documents of at most
    ``most`` tokens (Table 6). Every text begins with the end-of-text token."""
    tokenizer, device = gpt2_tokenizer(data), model.vocab_embed.embedding.device
    eos = int(tokenizer.eos_token_id)
    common: dict[str, Any] = {"top_p": top_p, "rows": rows, "seed": seed}
    begun = torch.full((max(n, n_lengths), 1), eos, device=device)
    cut = texts_of(model, begun[:n_lengths], most, block_size, context, eos_id=eos, **common)
    row, told = document_lengths(cut), torch.zeros(0, 2)
    if judge:
        drawn = texts_of(model, begun[:n], context, block_size, context, eos_id=None, tries=10, **common)
        scorer, encode = open_judge(judge, data, device)
        texts = tokenizer.batch_decode([tokens for tokens, _ in drawn])
        told = text_nll(scorer, encode, texts, eos_id=None if score_eos else eos)
        row["generative perplexity"] = generative_perplexity(told)
    scored = told[told[:, 1] > 0]
    return Written(row, scored[:, 0] / scored[:, 1], torch.tensor([len(tokens) for tokens, _ in cut]))


WRITTEN_ORDER = (  # (worse, better) samples, as Table 7 has them
    ("bd3lm-owt-4", "ar-owt"), ("bd3lm-owt-8", "bd3lm-owt-4"), ("bd3lm-owt-16", "bd3lm-owt-8"),
    ("mdlm-owt", "bd3lm-owt-16"), ("sedd-owt", "bd3lm-owt-16"),
)  # fmt: skip


# ------------------------------------------------------------------------------------------------------- memory

GPU_GB = 24.0  # of the smallest card that the paper names (RTX 3090, A5000)
OWT = {"vocab_size": 50_258, "length": 1024, "dim": 768, "n_layers": 12, "n_heads": 12}
LM1B = {**OWT, "vocab_size": 30_522, "length": 128}


def peaks(micro_batch: int, eval_batch: int, document_tokens: int, n_models: int) -> dict[str, float]:
    """Peak GB of every call of the paper scale, from its shapes: state, logits and what is made of them, and what a
    layer keeps. ``micro_batch``: rows of a training step; ``eval_batch``: rows of an evaluation or of a batch of
    samples; ``document_tokens``: longest document. ``n_models`` of LM1B stay on the card from their training on.

    Logits are fp32, activations bf16 in training and fp32 elsewhere; the counts of copies are those of the code: logits
    with and without the mask token, log-softmax and its gradient (training), or the log scores of SEDD. A fused kernel
    keeps no scores; the dense mask is counted as if it did not, twice (scores and softmax)."""

    def logits(config: dict[str, int], rows: int, tokens: int, copies: int, number: int = 4) -> float:
        return number * rows * tokens * config["vocab_size"] * copies / 1e9

    def model_gb(config: dict[str, int], copies: int) -> float:
        with torch.device("meta"):
            count = sum(p.numel() for p in DiT(config["vocab_size"], config["dim"], config["n_layers"]).parameters())
        return 4 * count * copies / 1e9

    def scores(config: dict[str, int], rows: int, queries: int, keys: int) -> float:
        return 2 * 4 * rows * config["n_heads"] * queries * keys / 1e9

    kept = 2 * (12 + 4 * 4) * LM1B["dim"]  # bytes a token and layer: norms, q, k, v, attention, MLP of four widths
    train = micro_batch * 2 * LM1B["length"] * LM1B["n_layers"] * kept / 1e9
    length, wide = OWT["length"], 16 * 4 * OWT["dim"]
    cache = 2 * 4 * eval_batch * OWT["n_layers"] * length * OWT["dim"] / 1e9
    judge = 4 * 774e6 / 1e9
    found = {
        "train a block model, search its interval": model_gb(LM1B, 4) + train
        + logits(LM1B, micro_batch, LM1B["length"], 4),
        "train SEDD": model_gb(LM1B, 4) + train / 2 + logits(LM1B, micro_batch, LM1B["length"], 6),
        "bound of a block model, OWT": model_gb(OWT, 1) + logits(OWT, eval_batch, length, 4)
        + scores(OWT, eval_batch, 2 * length, 2 * length) + eval_batch * 2 * length * wide / 1e9,
        "score entropy of SEDD, OWT": model_gb(OWT, 1) + logits(OWT, eval_batch, length, 6)
        + scores(OWT, eval_batch, length, length),
        "sample MDLM, one page": model_gb(OWT, 1) + logits(OWT, eval_batch, length, 2)
        + scores(OWT, eval_batch, length, length),
        "sample AR": model_gb(OWT, 1) + cache + logits(OWT, eval_batch, 1, 8) + eval_batch * document_tokens * 8 / 1e9,
        "sample SEDD, one page": model_gb(OWT, 1) + logits(OWT, eval_batch, length, 8, 8),
        "sample blocks of 16": model_gb(OWT, 1) + cache + logits(OWT, eval_batch, 16, 8)
        + eval_batch * document_tokens * 8 / 1e9,
        "judge, GPT-2 Large": model_gb(OWT, 1) + judge + logits(OWT, 1, length, 3),
    }  # fmt: skip
    return {call: gb + model_gb(LM1B, n_models) for call, gb in found.items()}


def disk_gb() -> float:
    """Gigabytes of all that the paper scale fetches, as the manifest states or estimates them."""
    sources = [each.source.hub for each in load_manifest("block_diffusion").at("paper")]
    return sum(getattr(hub, "bytes_estimate", None) or 0 for hub in sources) / 1e9
