"""What a model needs, found on its real architecture without storage (torch's meta device).

One set of units everywhere: counts, bytes and floating point operations inside; millions (M), gigabytes (1 GB = 10^9
bytes) and teraflop in the tables. Mixed-precision training keeps weights, gradients and AdamW's moments in fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from torch import Tensor, nn

FP32, BF16 = 4, 2  # bytes a number
# Dense peak operations per second, as the makers' data sheets give them.
PEAKS = {"H100 SXM, bf16": 989.4e12, "A100, bf16": 312e12, "RTX 2080 Ti, fp32": 13.45e12}


def causal_lm(config: Mapping[str, Any]) -> Any:
    """A language model without storage; ``config``: ``model_type`` and whatever differs from its defaults."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))


def parameters(model: nn.Module, trained: bool = False) -> int:
    """Number of parameters; ``trained``: only of those that have a gradient."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trained)


def kv_cache(config: Any, tokens: int, *, batch: int = 1, number: int = BF16) -> int:
    """Bytes of the keys and values of ``tokens`` tokens in each of ``batch`` rows; ``number``: bytes of a number."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return 2 * config.num_hidden_layers * kv_heads * head * tokens * batch * number


class Traced(NamedTuple):
    """Operations of a call, those of batched products (attention) among them, and bytes kept for its backward pass."""

    flops: int
    attention: int
    kept: int


def traced(call: Callable[[], Any], weights: Iterable[Tensor] = ()) -> Traced:
    """Run ``call`` once and count. On the meta device nothing is computed, and attention is seen as its two batched
    products, which a fused kernel hides. What is kept does not count storage of ``weights``, which are there anyway."""
    from torch.utils.flop_counter import FlopCounterMode

    kept: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        call()
    known = {p.untyped_storage()._cdata for p in weights}
    stores = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in kept}
    by_kind = counter.get_flop_counts().get("Global", {})
    return Traced(
        counter.get_total_flops(),
        sum(n for kind, n in by_kind.items() if "bmm" in str(kind)),
        sum(size for store, size in stores.items() if store not in known),
    )


@dataclass(frozen=True)
class Needs:
    """Counts of parameters; bytes; operations of one training step. None: not asked for."""

    parameters: int
    trained: int
    weights: int
    gradients: int
    moments: int
    activations: int | None = None
    cache: int | None = None
    flops: int | None = None

    @property
    def training_state(self) -> int:
        """Bytes of weights, gradients and moments."""
        return self.weights + self.gradients + self.moments

    def row(self) -> dict[str, float | None]:
        """The needs in the units of all tables."""

        def scaled(value: int | None, unit: float) -> float | None:
            return None if value is None else value / unit

        return {
            "parameters (M)": self.parameters / 1e6, "trained (M)": self.trained / 1e6,
            "weights (GB)": self.weights / 1e9, "gradients (GB)": self.gradients / 1e9,
            "AdamW's moments (GB)": self.moments / 1e9, "activations of a step (GB)": scaled(self.activations, 1e9),
            "KV cache (GB)": scaled(self.cache, 1e9), "TFLOP a step": scaled(self.flops, 1e12),
        }  # fmt: skip


def needs(
    model: nn.Module, step: Callable[[], Any] | None = None, *, frozen: int = BF16, cache_tokens: int = 0,
    batch: int = 1,
) -> Needs:  # fmt: skip
    """Needs of training ``model``: what has a gradient in fp32 with AdamW's two moments, the rest in ``frozen`` bytes a
    number. ``step`` runs forward and backward once on the meta device (see :func:`lm_step`); activations are in the
    model's own type and hold what a fused attention would not keep. ``cache_tokens``: with the KV cache in bf16 of
    ``batch`` rows of so many tokens."""
    n, trained = parameters(model), parameters(model, trained=True)
    found = None if step is None else traced(step, model.parameters())
    cache = kv_cache(model.config, cache_tokens, batch=batch) if cache_tokens else None
    return Needs(
        n, trained, FP32 * trained + frozen * (n - trained), FP32 * trained, 2 * FP32 * trained,
        None if found is None else found.kept, cache, None if found is None else found.flops,
    )  # fmt: skip


def lm_step(model: Any, batch: int, tokens: int) -> Callable[[], None]:
    """A training step of a language model without storage: ``batch`` rows of ``tokens`` tokens, all trained."""

    def step() -> None:
        x = torch.zeros(batch, tokens, dtype=torch.long, device="meta")
        mask = torch.ones(batch, 1, tokens, tokens, dtype=torch.bool, device="meta")  # or transformers reads positions
        model(input_ids=x, attention_mask=mask, labels=x, use_cache=False).loss.backward()
        model.zero_grad()

    return step


def gpu_hours(flops: float, gpu: str = "H100 SXM, bf16", utilisation: float = 0.4) -> float:
    """Hours of ``flops`` operations on one of :data:`PEAKS` at ``utilisation`` (0 to 1] of its peak."""
    if gpu not in PEAKS or not 0 < utilisation <= 1:
        allowed = f"gpu must be one of {', '.join(PEAKS)} and utilisation in (0, 1]"
        raise ReprobookError(f"{allowed}; got {gpu!r} and {utilisation}")
    return flops / (PEAKS[gpu] * utilisation) / 3600
