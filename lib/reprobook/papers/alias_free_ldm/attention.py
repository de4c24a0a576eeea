"""Equivariant attention (Section 3.4 of the paper), as cross-frame attention: queries move, keys and values stay.

EA(x_r, x_s) = softmax(x_s W_Q (x_r W_K)^T) x_r W_V, with x_r the features of the reference frame at the same layer and
time step. Diffusers' attention stays as it is (scaled, several heads, output projection, residual).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from torch import Tensor, nn


class Memory:
    """What all attention layers of one network share: the mode and the stored maps.

    ``store(k, slot)``: self-attention, and each layer keeps its input under the key ``k`` (a time step).
    ``load(k)``: each layer attends to what it kept. ``load(k, mix=a)``: (1 - a) of slot 0's output and a of slot 1's.
    Both are contexts; outside them attention is plain. ``clear`` forgets.
    """

    def __init__(self) -> None:
        self.mode, self.key, self.slot, self.mix = "plain", 0, 0, 0.0
        self.maps: dict[tuple[str, int, int], Tensor] = {}

    @contextmanager
    def _in(self, mode: str, key: int, slot: int = 0, mix: float = 0.0) -> Iterator[None]:
        if self.mode != "plain":
            raise ReprobookError(f"attention is already in mode {self.mode!r}: leave that context first")
        self.mode, self.key, self.slot, self.mix = mode, int(key), slot, mix
        try:
            yield
        finally:
            self.mode = "plain"

    def store(self, key: int = 0, slot: int = 0) -> Any:
        """A context in which the reference frame passes."""
        return self._in("store", key, slot)

    def load(self, key: int = 0, mix: float = 0.0) -> Any:
        """A context in which other frames pass."""
        if not 0 <= mix <= 1:
            raise ReprobookError(f"mix must be from 0 (first reference) to 1 (second), got {mix}")
        return self._in("load", key, mix=mix)

    def clear(self) -> None:
        """Forget all maps."""
        self.maps.clear()

    def recall(self, layer: str, slot: int, n: int) -> Tensor:
        """The map (n, tokens, channels) that ``layer`` kept; one reference serves any number of frames."""
        kept = self.maps.get((layer, self.key, slot))
        if kept is None:
            raise ReprobookError(f"{layer} has no reference of slot {slot} at time step {self.key}: store one first")
        if n % len(kept):
            raise ReprobookError(f"{n} frames cannot share {len(kept)} references")
        return kept.repeat_interleave(n // len(kept), 0)


class CrossFrameAttention:
    """An attention processor of diffusers that stores its input or attends to what was stored; ``inner`` computes."""

    def __init__(self, memory: Memory, layer: str, inner: Callable[..., Tensor]) -> None:
        self.memory, self.layer, self.inner = memory, layer, inner

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """diffusers' interface: states (n, tokens, channels) -> the same shape, attended as ``memory`` says."""
        memory, options = self.memory, {"attention_mask": attention_mask, "temb": temb, **kwargs}
        if encoder_hidden_states is not None or memory.mode == "plain":
            return self.inner(attn, hidden_states, encoder_hidden_states, **options)
        tokens = hidden_states.flatten(2).transpose(1, 2) if hidden_states.ndim == 4 else hidden_states
        if memory.mode == "store":
            memory.maps[self.layer, memory.key, memory.slot] = tokens.detach()
            return self.inner(attn, hidden_states, **options)

        def attend(slot: int) -> Tensor:
            reference = memory.recall(self.layer, slot, len(tokens)).to(tokens)
            if attn.group_norm is not None:  # what was kept has not been normalised yet
                reference = attn.group_norm(reference.transpose(1, 2)).transpose(1, 2)
            return self.inner(attn, hidden_states, reference, **options)

        if memory.mix == 0.0:
            return attend(0)
        return torch.lerp(attend(0), attend(1), memory.mix)


def cross_frame(network: nn.Module) -> Memory:
    """Give every *self*-attention layer of a diffusers U-Net a :class:`CrossFrameAttention`; returns their memory.

    Attention to text (``attn2``) stays untouched."""
    from diffusers.models.attention_processor import Attention

    memory, found = Memory(), 0
    for name, module in network.named_modules():
        if isinstance(module, Attention) and not name.endswith("attn2"):
            inner = module.processor
            if isinstance(inner, CrossFrameAttention):
                inner = inner.inner
            module.set_processor(CrossFrameAttention(memory, name, inner))
            found += 1
    if not found:
        raise ReprobookError(f"{type(network).__name__} has no self-attention layer of diffusers")
    return memory
