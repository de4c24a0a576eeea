"""How many bits a weight takes, nominally, with its codebooks and as stored, and files in the layout of ``aqlm`` 1.1.7.

A format of B bits is stored in the next integer type: int8 up to 8 bits, int16 above. So the study's 3-bit files (2x12)
hold codes as large as its 4-bit files (2x15).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from reprobook.errors import ReprobookError
from reprobook.papers.quantizing_code_llms.aqlm import Additive
from reprobook.papers.quantizing_code_llms.blocks import AqlmLinear, decoder_blocks, linears

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.papers.quantizing_code_llms.aqlm import Format

FLOAT = 16  # bits of a codebook's entry and of a scale


class Bits(NamedTuple):
    """Bits per weight: of the codes alone, with codebooks and scales, and with codes in their integer type."""

    nominal: float
    effective: float
    stored: float


def bits_per_weight(form: Format, d_out: int, d_in: int) -> Bits:
    """MB/g; MB/g + 16 M 2^B g / (d_out d_in) + 16 / d_in; and the same with B rounded up to 8 or 16."""
    form.check(d_in)
    nominal = form.n_codebooks * form.bits / form.group
    words = form.n_codebooks * 2**form.bits * form.group
    overhead = FLOAT * words / (d_out * d_in) + FLOAT / d_in
    return Bits(nominal, nominal + overhead, form.n_codebooks * code_bits(form.bits) / form.group + overhead)


def code_bits(bits: int) -> int:
    """Bits of the integer type that holds a code."""
    return 8 if bits <= 8 else 16


def grid_bits(bits: int, group: int) -> float:
    """Bits per weight of a grid: a 16-bit step and a zero point of ``bits`` bits for each group."""
    return bits + (FLOAT + bits) / group


def mean_bits(forms: dict[tuple[int, int], int], form: Format) -> Bits:
    """Means over the weights of layers of several shapes: (d_out, d_in) -> number of layers."""
    sizes = {shape: count * shape[0] * shape[1] for shape, count in forms.items()}
    each = {shape: bits_per_weight(form, *shape) for shape in forms}
    total = sum(sizes.values())
    return Bits(*(sum(sizes[s] * each[s][k] for s in forms) / total for k in range(3)))


class Shape(NamedTuple):
    """A Llama-like decoder: blocks, width, inner width, key-value width, vocabulary (embedding and head apart)."""

    n_blocks: int
    width: int
    inner: int
    kv: int
    vocabulary: int

    def layers(self) -> dict[tuple[int, int], int]:
        """Linear layers of all blocks: (d_out, d_in) -> how many."""
        counts: dict[tuple[int, int], int] = {}
        for shape, n in (((self.width, self.width), 2), ((self.kv, self.width), 2), ((self.inner, self.width), 2),
                         ((self.width, self.inner), 1)):  # fmt: skip
            counts[shape] = counts.get(shape, 0) + n * self.n_blocks
        return counts

    def bytes(self, form: Format | None) -> float:
        """Size of the checkpoint: 16-bit (None) or with its blocks' linear layers quantised."""
        rest = 2 * self.vocabulary * self.width + (2 * self.n_blocks + 1) * self.width
        weights = sum(n * a * b for (a, b), n in self.layers().items())
        stored = FLOAT if form is None else mean_bits(self.layers(), form).stored
        return (rest * FLOAT + weights * stored) / 8


STUDIED = {  # the study's base models, from their published configurations
    "CodeLlama-7B": Shape(32, 4096, 11008, 4096, 32016),
    "CodeLlama-13B": Shape(40, 5120, 13824, 5120, 32016),
    "CodeLlama-34B": Shape(48, 8192, 22016, 1024, 32000),
    "DeepSeek-Coder-1.3B": Shape(24, 2048, 5504, 2048, 32256),
    "DeepSeek-Coder-6.7B": Shape(32, 4096, 11008, 4096, 32256),
    "DeepSeek-Coder-33B": Shape(62, 7168, 19200, 1024, 32256),
}


# ---------------------------------------------------------------------------------------------------------------- files


def pack(layer: Additive) -> dict[str, Tensor]:
    """``codes`` (d_out, d_in / g, M) int8 or int16, 2^(B-1) and more negative; ``codebooks`` (M, 2^B, 1, g) and
    ``scales`` (d_out, 1, 1, 1) in fp16."""
    words = layer.codebooks.shape[1]
    kind = torch.int8 if words <= 2**8 else torch.int16
    codes = torch.where(layer.codes >= words // 2, layer.codes - words, layer.codes)
    books, scales = layer.codebooks.detach()[:, :, None], layer.scales.detach()[:, None, None, None]
    return {"codes": codes.to(kind), "codebooks": books.half().contiguous(), "scales": scales.half().contiguous()}


def unpack(packed: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> Additive:
    """What :func:`pack` was given, with codebooks and scales as fp16 has them. Raises :class:`ReprobookError` for
    tensors of other shapes."""
    codes, books, scales = (packed[name] for name in ("codes", "codebooks", "scales"))
    if codes.ndim != 3 or books.ndim != 4 or books.shape[2] != 1 or len(scales) != len(codes):
        raise ReprobookError(
            f"packed tensors have shapes {list(codes.shape)}, {list(books.shape)}, {list(scales.shape)}"
        )
    return Additive(codes.int() % books.shape[1], books[:, :, 0].to(dtype), scales.flatten().to(dtype))


def save(model: Any, folder: Path, form: Format) -> int:
    """Write a quantised model as ``transformers`` with ``aqlm`` reads it, all else in fp16; returns the bytes of its
    weights. Raises :class:`ReprobookError` if no layer is in AQLM's form."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    left: list[str] = []
    quantised = {id(layer) for block in decoder_blocks(model) for layer in linears(block).values()
                 if isinstance(layer, AqlmLinear)}  # fmt: skip
    if not quantised:
        raise ReprobookError("no layer is in AQLM's form")
    for name, module in model.named_modules():
        if id(module) in quantised:
            packed = pack(module.additive())
            if module.bias is not None:
                packed["bias"] = module.bias.detach().half()
            tensors |= {f"{name}.{key}": value for key, value in packed.items()}
        elif isinstance(module, torch.nn.Linear):
            left += [
                name,
                f"{name}.weight",
            ]  # the form of the paper's releases has the second, transformers 5 the first
    own = {name.rpartition(".")[0] for name in tensors}
    tied = model.config.tie_word_embeddings
    for name, value in model.state_dict().items():
        if name.rpartition(".")[0] not in own and not (tied and name == "lm_head.weight"):
            tensors[name] = value.half().contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_dict() | {"dtype": "float16", "quantization_config": {
        "quant_method": "aqlm", "in_group_size": form.group, "out_group_size": 1, "num_codebooks": form.n_codebooks,
        "nbits_per_codebook": form.bits, "linear_weights_not_to_quantize": left,
    }}  # fmt: skip
    config["architectures"] = [type(model).__name__]
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return (folder / "model.safetensors").stat().st_size
