"""The released checkpoints (cogqa-3m, cogqa-19m) in `transformers`' Llama, to which they are equal but for names.

The released code's model is a Llama: RMSNorm, SwiGLU, RoPE by halves, no bias. Safetensors in, no remote code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprobook.errors import ReprobookError
from reprobook.papers.cost_optimal_gqa.costs import Shape
from reprobook.papers.cost_optimal_gqa.models import build

if TYPE_CHECKING:
    import torch
    from torch import nn

# name in the released code -> name in transformers
_NAMES = {
    "model.input_emb.": "model.embed_tokens.",
    ".attn_norm.": ".input_layernorm.",
    ".mlp_norm.": ".post_attention_layernorm.",
    ".attn.": ".self_attn.",
}
# keys of the released code's config.json that this architecture must have at their plain values
_PLAIN = {"att_q_norm": 0, "att_k_norm": 0, "att_tie_kv": 0, "att_window_size": -1, "attn_bias": 0, "ffn_bias": 0}


def load_released(folder: str | Path, context: int, device: torch.device | str = "cpu") -> tuple[nn.Module, Shape]:
    """Model and shape from ``config.json`` and ``*.safetensors`` alone.

    A weight that is missing or left over, and an option that a Llama has no place for, are errors that name it.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text())
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ReprobookError(f"{folder.name}: no *.safetensors file; pickled checkpoints are not read")
    for name, plain in _PLAIN.items():
        if int(config.get(name, plain)) != plain:
            raise ReprobookError(f"{folder.name}: {name} is {config[name]}; only {plain} is a plain Llama")
    weights = {_renamed(name): value for file in files for name, value in load_file(file).items()}
    d_ff = config.get("ffn_d_mid") or int(8 * config["d_model"] / 3)  # the released code does not round to 32
    shape = Shape(
        config["n_layer"],
        config["d_model"],
        config["n_head"],
        config["n_kv_head"],
        d_h=config["dim_k"],
        d_ff=d_ff,
        vocab=config["vocab_size"],
        tied=bool(config.get("tie_emb", False)),
    )
    model = build(shape, context)
    wanted = set(model.state_dict()) - ({"lm_head.weight"} if shape.tied else set())
    if missing := sorted(wanted - set(weights)):
        raise ReprobookError(f"{folder.name}: weights missing in the checkpoint: {', '.join(missing[:5])}")
    if extra := sorted(set(weights) - wanted - {"lm_head.weight"}):
        raise ReprobookError(f"{folder.name}: weights this architecture has no place for: {', '.join(extra[:5])}")
    model.load_state_dict(weights, strict=False)
    return model.to(device).eval(), shape


def _renamed(name: str) -> str:
    for theirs, ours in _NAMES.items():
        name = name.replace(theirs, ours)
    return name


def write_miniature(folder: Path, n_layers: int = 2, d: int = 32, n_h: int = 4, n_kv: int = 2, vocab: int = 512,
                    tied: bool = False) -> None:  # fmt: skip
    """A tiny checkpoint with the released code's configuration keys and weight names, for the rehearsal."""
    from safetensors.torch import save_file

    model = build(Shape(n_layers, d, n_h, n_kv, d_h=8, d_ff=int(8 * d / 3), vocab=vocab, tied=tied), 64, seed=0)
    weights: dict[str, Any] = {}
    for name, value in model.state_dict().items():
        for theirs, ours in _NAMES.items():
            name = name.replace(ours, theirs)
        weights[name] = value.clone().contiguous()
    if tied:
        del weights["lm_head.weight"]
    config = {
        "model_type": "gpt", "n_layer": n_layers, "d_model": d, "n_head": n_h, "n_kv_head": n_kv, "dim_k": 8,
        "dim_v": 8, "vocab_size": vocab, "tie_emb": tied, "att_q_norm": 0, "att_k_norm": 0, "ffn_is_gated": 1,
        "rope_theta": 500_000, "norm_eps": 1e-6,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    save_file(weights, folder / "model.safetensors")
