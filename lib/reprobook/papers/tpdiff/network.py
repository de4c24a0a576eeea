"""Video networks that know their stage: frames keep the index of their physical time, the network is told the stage.

Both networks are diffusers' own, so that one code path serves a laptop and the public checkpoints: Wan's transformer
(full attention over all tokens of a video, 3-D rotary positions) and AnimateDiff's UNet (temporal modules).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.papers.tpdiff.pyramid import Stage


class StridedRope(nn.Module):
    """Wan's rotary table at frames 0, f, 2f, ...: frame n of a stage has the index n * stride (ICLR version).

    Its first frame is unscaled; spatial indices are those of the inner table.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.stride = inner, 1

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """(cos, sin), each (1, tokens, 1, head width), for latents (B, C, T_k, H, W)."""
        b, c, n, h, w = hidden_states.shape
        if n * self.stride > self.inner.max_seq_len:
            raise ReprobookError(f"{n} frames of stride {self.stride} leave the {self.inner.max_seq_len} positions")
        longest = hidden_states.new_empty(1).expand(b, c, n * self.stride, h, w)  # only its shape is read
        return tuple(  # type: ignore[return-value]
            each.unflatten(1, (n * self.stride, -1))[:, :: self.stride].flatten(1, 2) for each in self.inner(longest)
        )


class StridedPositions(nn.Module):
    """The sinusoidal frame positions of AnimateDiff's temporal modules at frames 0, f, 2f, ..."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.stride = inner, 1

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, T_k, width) plus the positions of its frames."""
        n = x.shape[1] * self.stride
        if n > self.inner.pe.shape[1]:
            longest = self.inner.pe.shape[1]
            raise ReprobookError(f"{x.shape[1]} frames of stride {self.stride} leave the {longest} positions")
        return x + self.inner.pe[:, : n : self.stride]


def attach_strides(net: nn.Module) -> list[nn.Module]:
    """Replace every frame position of ``net`` by a strided one, in place; returns them."""
    from diffusers.models.embeddings import SinusoidalPositionalEmbedding
    from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed

    kinds = {WanRotaryPosEmbed: StridedRope, SinusoidalPositionalEmbedding: StridedPositions}
    found = []
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in kinds:
                setattr(parent, name, kinds[type(child)](child))
                found.append(getattr(parent, name))
    if not found:
        raise ReprobookError(f"{type(net).__name__} has no frame positions that can be strided")
    return found


def stage_time(t: Tensor, stage: Stage) -> Tensor:
    """Time in [0, 1] that names the stage, too: ((k - 1) + t') / K with t' in [0, 1] inside the stage.

    The stages' own times overlap (a stage starts noisier than the one before it ended); these do not.
    """
    inside = (t - stage.end) / (stage.start - stage.end)
    return (stage.k - 1 + inside) / stage.n_stages


class StageNetwork(nn.Module):
    """A video network of diffusers, told the stage.

    ``n_labels``: words of a small vocabulary with an embedding of their own. None: the prompt comes as text embeddings,
    of which ``empty_text`` (n, D) is that of the empty prompt.
    """

    def __init__(
        self, net: nn.Module, n_labels: int | None = None, text_dim: int = 32, empty_text: Tensor | None = None
    ) -> None:
        super().__init__()
        self.net = net
        self.positions = attach_strides(net)  # a plain list: they are parts of ``net`` already
        self.words = nn.Embedding(n_labels + 1, text_dim) if n_labels else None  # the last word is the empty prompt
        self.register_buffer("empty_text", empty_text, persistent=False)
        self.text_for_each_frame = type(net).__name__ == "UNetMotionModel"

    def empty(self, prompt: Tensor) -> Tensor:
        """The empty prompt in the form of ``prompt``, for guidance and its training."""
        if self.words is not None:
            return torch.full_like(prompt, self.words.num_embeddings - 1)
        if self.empty_text is None:
            raise ReprobookError("guidance and dropped prompts need empty_text, the embedding of the empty prompt")
        return self.empty_text.to(prompt).expand_as(prompt)

    def forward(self, x: Tensor, t: Tensor, stage: Stage, prompt: Tensor) -> Tensor:
        """x (B, T_k, C, H, W), t (B,) inside ``stage``, prompt: ids (B, n) or embeddings (B, n, D) -> like x."""
        for each in self.positions:
            each.stride = stage.stride
        text = self.words(prompt) if self.words is not None else prompt
        if self.text_for_each_frame:
            text = text.repeat_interleave(x.shape[1], 0)
        time = 1000 * stage_time(t, stage)
        return self.net(x.transpose(1, 2), time.to(x.dtype), text, return_dict=False)[0].transpose(1, 2)


def small_wan(
    n_labels: int, dim: int = 64, n_layers: int = 3, n_heads: int = 2, patch: int = 4, theta: float = 100.0
) -> StageNetwork:
    """Wan's video transformer in laptop size for grey clips; weights from the global torch generator.

    theta: base of the rotary frequencies. Wan's 10,000 is made for long axes; here an axis has 4 to 8 places.
    """
    from diffusers import WanTransformer3DModel
    from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed

    if dim % n_heads or dim // n_heads % 2:
        raise ReprobookError(f"dim {dim} must be n_heads {n_heads} times an even number")
    net = WanTransformer3DModel(
        patch_size=(1, patch, patch), num_attention_heads=n_heads, attention_head_dim=dim // n_heads, in_channels=1,
        out_channels=1, text_dim=32, freq_dim=64, ffn_dim=4 * dim, num_layers=n_layers, rope_max_seq_len=64,
    )  # fmt: skip
    net.rope = WanRotaryPosEmbed(dim // n_heads, (1, patch, patch), 64, theta=theta)
    start_weights(net)
    return StageNetwork(net, n_labels)


def start_weights(net: nn.Module) -> None:
    """Weights to train Wan's transformer from nothing, which diffusers' class does not aim at: blocks start open and
    without modulation, the output at zero."""
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.zeros_(net.condition_embedder.time_proj.weight)
    nn.init.zeros_(net.scale_shift_table)
    for block in net.blocks:
        nn.init.zeros_(block.scale_shift_table)
        block.scale_shift_table.data[:, [2, 5]] = 1  # the gates of attention and feed-forward
    nn.init.zeros_(net.proj_out.weight)
