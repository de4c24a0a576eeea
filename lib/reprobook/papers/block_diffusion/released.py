"""The released OpenWebText checkpoints in our own module, and the judges of sample quality (Tables 4, 5 and 7).

Safetensors in, no remote code.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from reprobook.errors import ReprobookError
from reprobook.metrics.text import perplexity, windowed_nll
from reprobook.papers.block_diffusion.model import DiT
from reprobook.papers.block_diffusion.noise import NoiseProcess
from reprobook.papers.block_diffusion.objectives import ar_nll, nelbo, sedd_bound
from reprobook.papers.block_diffusion.sampling import sample_ar, sample_blocks, sample_sedd

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
    interval = [weights.pop(f"sampling_eps_{end}", None) for end in ("min", "max")]
    weights = {name: value for name, value in weights.items() if name not in _RECOMPUTED}
    causal = bool(config.get("causal", False))
    model = DiT(
        vocab_size=config["vocab_size"],
        dim=config["hidden_dim"],
        n_layers=config["n_blocks"],
        n_heads=config["n_heads"],
        cond_dim=config["cond_dim"],
        dropout=config.get("dropout", 0.1),
        adaln=config.get("adaln", not causal),
        causal=causal,
        time_conditioning=config.get("time_conditioning", False),
    )
    wanted = set(model.state_dict()) - {"interval"}
    if missing := sorted(wanted - set(weights)):
        raise ReprobookError(f"{folder.name}: weights missing in the checkpoint: {', '.join(missing[:5])}")
    if extra := sorted(set(weights) - wanted):
        raise ReprobookError(f"{folder.name}: weights this architecture has no place for: {', '.join(extra[:5])}")
    if all(end is not None for end in interval):
        weights["interval"] = torch.stack([end.double().reshape(()).round(decimals=6) for end in interval])
    model.load_state_dict(weights, strict=False)
    length = config["model_length"]
    return model.to(device).eval(), config.get("block_size", length), length


def write_miniature(
    folder: Path,
    block_size: int = 4,
    length: int = 32,
    vocab_size: int = 513,
    causal: bool = False,
    time_conditioning: bool = False,
    seed: int = 0,
) -> None:
    """A tiny checkpoint with the released files' names, configuration keys and weight names, for the rehearsal."""
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    config = {
        "model_type": "bd3lm",
        "block_size": block_size,
        "vocab_size": vocab_size,
        "model_length": length,
        "hidden_dim": 32,
        "cond_dim": 16,
        "n_blocks": 2,
        "n_heads": 2,
        "dropout": 0.1,
        "adaln": not causal,
        "causal": causal,
        "time_conditioning": time_conditioning,
        "cross_attn": not causal,
        "var_min": True,
    }
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
    return nelbo(model, rows, NoiseProcess(mask_id, block_size), n_samples, batch_size, seed)


Encode = Callable[[str], Tensor]


def open_judge(name: str, data: Any, device: torch.device | str = "cpu") -> tuple[nn.Module, Encode]:
    """A causal language model that scores samples, and its tokenizer: "gpt2-large" (the paper's) or
    "smollm2-135m-instruct" (fits a laptop)."""
    if name == "smollm2-135m-instruct":
        from reprobook.nn.lm import load_lm

        model, tokenizer = load_lm(data.path(name), device=device)
    else:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(data.path(name)).to(device).eval()
        tokenizer = AutoTokenizer.from_pretrained(data.path("gpt2-tokenizer"))
    return model, lambda text: torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])


def generative_perplexity(
    judge: nn.Module, encode: Encode, texts: list[str], window: int = 1024, stride: int = 512
) -> float:
    """exp of the judge's mean NLL per token over all ``texts`` (Appendix C.5): longer texts in windows, each later
    window scoring only its last ``stride`` tokens."""
    if not texts:
        raise ReprobookError("generative perplexity needs at least one text")
    scored = [windowed_nll(judge, encode(text), window=window, stride=stride) for text in texts]
    return perplexity(sum(nll for nll, _ in scored), sum(n for _, n in scored))


def sample_released(
    model: DiT, prompt: Tensor, length: int, block_size: int, top_p: float, generator: torch.Generator
) -> Tensor:
    """Samples (K, length) of a released checkpoint, whichever sampler it is for."""
    mask_id = model.vocab_size - 1
    if model.causal:
        return sample_ar(model, prompt, length, top_p=top_p, forbidden=mask_id, generator=generator).tokens
    if model.time_conditioning:
        return sample_sedd(model, prompt, length, mask_id, length, top_p=top_p, generator=generator).tokens
    return sample_blocks(model, prompt, length, block_size, mask_id, top_p=top_p, generator=generator).tokens
