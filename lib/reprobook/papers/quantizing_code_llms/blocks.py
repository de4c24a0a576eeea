"""A decoder quantised block after block, each on what the quantised blocks before it make of the calibration text.

Of one block at a time: its linear layers' G = X X^T / tokens on those inputs (with the block's own weights), their new
weights, and, for AQLM, a fine-tuning of all that is not a code against the original block's output. Memory holds the
hidden states and one block's matrices. Every finished block is a file, so a run that was cut short goes on with the
block it was at.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from reprobook.errors import ReprobookError
from reprobook.nn.completion import attention_of
from reprobook.nn.lm import preferred_dtype
from reprobook.papers.quantizing_code_llms.aqlm import Additive
from reprobook.train.checkpoint import CheckpointError, read, write
from reprobook.train.progress import watched

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.papers.quantizing_code_llms.baselines import Quantiser

logger = logging.getLogger(__name__)


class AqlmLinear(nn.Module):
    """A linear layer in AQLM's form: codebooks, scales and bias can be trained, the codes cannot."""

    def __init__(self, layer: Additive, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("codes", layer.codes)
        self.codebooks = nn.Parameter(layer.codebooks.clone())
        self.scales = nn.Parameter(layer.scales.clone())
        self.bias = None if bias is None else nn.Parameter(bias.clone())

    def additive(self) -> Additive:
        """Codes, codebooks and scales, those of this layer."""
        return Additive(self.codes, self.codebooks, self.scales)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """x (..., d_in) -> (..., d_out)."""
        return F.linear(x, self.additive().weight().to(x.dtype), self.bias)


@dataclass(frozen=True)
class BlockTuning:
    """Adam on codebooks, scales, norms and biases of one block; the defaults are the study's."""

    lr: float = 1e-5
    batch_size: int = 8
    max_epochs: int = 10
    patience: int = 3  # epochs without a better validation error
    n_valid: int = 128  # sequences, drawn at random from the calibration set

    def __post_init__(self) -> None:
        lowest = {"batch_size": 1, "max_epochs": 0, "patience": 1, "n_valid": 1}
        for name, low in lowest.items():
            if getattr(self, name) < low:
                raise ReprobookError(f"{name} is {getattr(self, name)}; it must be at least {low}")


def quantise(
    model: Any, rows: Tensor, quantiser: Quantiser, *, tuning: BlockTuning | None = None, n_blocks: int | None = None,
    folder: Path | None = None, seed: int = 0, batch_size: int = 8, device: torch.device | str = "cpu",
) -> None:  # fmt: skip
    """Quantise the linear layers of the first ``n_blocks`` blocks (None: all) of ``model`` in place.

    ``rows`` (n, L) are the calibration text's tokens. ``folder`` keeps a file for every finished block; a damaged or
    missing one is made again. Embeddings, final norm and head stay as they are.

    Raises :class:`ReprobookError` for no text, NaN activations, layers that the quantiser's groups do not divide, and
    files in ``folder`` of another run.
    """
    blocks = decoder_blocks(model)
    n_blocks = len(blocks) if n_blocks is None else n_blocks
    if not 1 <= n_blocks <= len(blocks):
        raise ReprobookError(f"n_blocks is {n_blocks}; the model has {len(blocks)} blocks")
    if rows.ndim != 2 or not rows.numel():
        raise ReprobookError(f"the calibration set is empty: rows have shape {list(rows.shape)}, wanted (n, L) tokens")
    if tuning and tuning.n_valid >= len(rows):
        raise ReprobookError(f"n_valid {tuning.n_valid} leaves nothing of {len(rows)} calibration sequences to tune on")
    plan = _plan(rows, quantiser, tuning, seed)
    x, keywords = first_inputs(model, rows, batch_size)
    watch = tqdm(blocks[:n_blocks], desc="blocks", disable=not watched(), leave=False, file=sys.stderr)
    for k, block in enumerate(watch):
        stage = _Stage(block.to(device), x, keywords, batch_size)
        file = folder / f"block-{k:03d}.pt" if folder else None
        if file is None or (saved := _saved(file, plan)) is None:
            _quantise_block(k, stage, quantiser, tuning, seed)
            if file is not None:
                write(file, {"plan": plan, "block": block.state_dict()})
        else:
            restore(block, saved["block"])
        if k + 1 < n_blocks:
            x = stage.run()
        block.to("cpu")


def decoder_blocks(model: Any) -> nn.ModuleList:
    """The decoder's blocks. Raises :class:`ReprobookError` for a model that is not built like Llama or Qwen."""
    layers = getattr(getattr(model, "model", None), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise ReprobookError(f"{type(model).__name__} has no blocks at model.layers: it is no decoder like Llama's")
    return layers


def linears(block: Any) -> dict[str, Any]:
    """Linear layers of a block by name, quantised or not."""
    return {name: each for name, each in block.named_modules() if isinstance(each, nn.Linear | AqlmLinear)}


def _plan(rows: Tensor, quantiser: Quantiser, tuning: BlockTuning | None, seed: int) -> str:
    """What must be equal between the run that wrote a block's file and the one that reads it."""
    text = hashlib.sha256(rows.contiguous().numpy().tobytes()).hexdigest()[:16]
    return f"{quantiser!r}; {tuning!r}; seed {seed}; text {text} {list(rows.shape)}"


def _saved(file: Path, plan: str) -> dict[str, Any] | None:
    """The payload of a finished block; None if there is none or it was cut short."""
    if not file.is_file():
        return None
    try:
        payload = read(file)
    except CheckpointError as error:
        logger.warning("%s; the block is quantised again", error)
        return None
    if payload.get("plan") != plan:
        raise ReprobookError(
            f"{file.name} in {file.parent.name} is of another run ({payload.get('plan')}); this one is {plan}: give it "
            "a folder of its own"
        )
    return payload


def reopen(model: Any, folder: Path) -> Any:
    """The model with the finished blocks that :func:`quantise` kept in ``folder``."""
    for block, file in zip(decoder_blocks(model), sorted(folder.glob("block-*.pt")), strict=False):
        restore(block, read(file)["block"])
    return model


def restore(block: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put the saved state of a block into it, making AQLM's layers where the state has codes."""
    for name in linears(block):
        if f"{name}.codes" in state:
            codes, books, scales, bias = (state.get(f"{name}.{k}") for k in ("codes", "codebooks", "scales", "bias"))
            block.set_submodule(name, AqlmLinear(Additive(codes, books, scales), bias))  # type: ignore[arg-type]
    block.load_state_dict(dict(state))


# ------------------------------------------------------------------------------------------------------------ one block


def _quantise_block(k: int, stage: _Stage, quantiser: Quantiser, tuning: BlockTuning | None, seed: int) -> None:
    targets, grams = stage.collect()
    for name, gram in grams.items():
        layer = stage.block.get_submodule(name)
        with torch.no_grad():
            made = quantiser(f"block {k}, {name}", layer.weight.detach().float(), gram)  # type: ignore[operator]
        if isinstance(made, Additive):
            stage.block.set_submodule(name, AqlmLinear(made, layer.bias))  # type: ignore[arg-type]
        else:
            layer.weight.data.copy_(made)  # type: ignore[operator]
    if tuning and tuning.max_epochs:
        tune_block(stage, targets, tuning, seed + k)


class _Stage:
    """A block with the inputs (n, L, width) it gets from the blocks before it and the other arguments of its call."""

    def __init__(self, block: nn.Module, x: Tensor, keywords: Mapping[str, Any], batch_size: int) -> None:
        self.block, self.x, self.batch_size = block, x, batch_size
        self.device = next(block.parameters()).device
        self.keywords = _moved(dict(keywords), self.device)

    def call(self, x: Tensor) -> Tensor:
        """The block's output (b, L, width) on inputs of the same shape."""
        with mixed(self.block, self.device):
            out = self.block(x.to(self.device), **self.keywords)
        return out[0] if isinstance(out, tuple) else out

    @torch.no_grad()
    def run(self) -> Tensor:
        """Outputs (n, L, width) on all inputs, on the CPU."""
        return torch.cat([self.call(part).to("cpu", self.x.dtype) for part in self.x.split(self.batch_size)])

    def collect(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The block's outputs and G of each linear layer; layers with one and the same input share theirs."""
        counts = self.x.shape[0] * self.x.shape[1]
        totals: dict[str, Tensor] = {}
        first: dict[str, str] = {}  # layer -> the layer whose inputs are the same
        seen: list[tuple[Tensor, str]] = []  # of the present batch

        def add(name: str, x: Tensor) -> None:
            same = next((other for tensor, other in seen if tensor is x), None)
            first[name] = same or name
            if same is None:
                seen.append((x, name))
                new = products(x.detach().flatten(0, -2))
                totals[name] = totals[name].add_(new) if name in totals else new.double()

        hooks = [
            layer.register_forward_pre_hook(lambda _, args, name=name: add(name, args[0]))
            for name, layer in linears(self.block).items()
        ]
        try:
            outputs = []
            for part in self.x.split(self.batch_size):
                with torch.no_grad():
                    outputs.append(self.call(part).to("cpu", self.x.dtype))
                seen.clear()
        finally:
            for hook in hooks:
                hook.remove()
        shared = {name: (total / counts).float() for name, total in totals.items()}
        return torch.cat(outputs), {name: shared[leader] for name, leader in first.items()}


def products(x: Tensor) -> Tensor:
    """X^T X (d, d) of x (tokens, d) in fp32. Where the layers compute in bf16, x is rounded as they round it, and the
    processor's bf16 units then multiply it without further loss: they add in fp32. (Under autocast the result itself
    would be rounded to bf16, and G would have negative eigenvalues.)"""
    with torch.autocast(x.device.type, enabled=False):
        return _products(x)


def _products(x: Tensor) -> Tensor:
    if x.is_cuda or preferred_dtype(x.device) != torch.bfloat16:
        return x.float().T @ x.float()
    flags = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, flags.fp32_precision = flags.fp32_precision, "bf16"
    try:
        x = x.bfloat16().float()
        return x.T @ x
    finally:
        flags.fp32_precision = before


@contextlib.contextmanager
def mixed(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Products in bf16 where the device computes in it and the weights are kept in fp32."""
    kept = next(module.parameters()).dtype
    fast = kept == torch.float32 and preferred_dtype(device) == torch.bfloat16
    with torch.autocast(device.type, torch.bfloat16, enabled=fast), attention_of(device):
        yield


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(each, device) for key, each in value.items()}
    return tuple(_moved(each, device) for each in value) if isinstance(value, tuple) else value


class _Caught(Exception):
    """The first block was reached."""


@torch.no_grad()
def first_inputs(model: Any, rows: Tensor, batch_size: int) -> tuple[Tensor, dict[str, Any]]:
    """Hidden states (n, L, width) that enter the first block, and the other arguments of its call."""
    caught: list[Tensor] = []
    keywords: dict[str, Any] = {}

    def catch(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        caught.append(args[0] if args else kwargs.pop("hidden_states"))
        keywords.update(kwargs)
        raise _Caught

    hook = decoder_blocks(model)[0].register_forward_pre_hook(catch, with_kwargs=True)
    try:
        for part in rows.split(batch_size):
            with contextlib.suppress(_Caught):
                model(input_ids=part.to(model.device), use_cache=False)
    finally:
        hook.remove()
    return torch.cat(caught), keywords


# -------------------------------------------------------------------------------------------------------- fine-tuning


def tune_block(stage: _Stage, targets: Tensor, tuning: BlockTuning, seed: int) -> dict[str, Any]:
    """Make a quantised block's outputs on its inputs like ``targets``, the original block's on the same inputs.

    Adam (betas 0.9 and 0.95) on the squared error; validation sequences are drawn at random; the parameters of the best
    validation error are kept, those of the start included. Returns validation errors before and after, and epochs.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(targets), generator=generator)
    valid, train = order[: tuning.n_valid], order[tuning.n_valid :]
    parameters = [p.requires_grad_() for p in stage.block.parameters()]  # codes are no parameters
    optimiser = torch.optim.Adam(parameters, lr=tuning.lr, betas=(0.9, 0.95))

    def loss(picked: Tensor) -> Tensor:
        return F.mse_loss(stage.call(stage.x[picked]).float(), targets[picked].to(stage.device).float())

    @torch.no_grad()
    def valid_loss() -> float:
        parts = valid.split(tuning.batch_size)
        return sum(loss(part).item() * len(part) for part in parts) / len(valid)

    before = best = valid_loss()
    kept = [p.detach().clone() for p in parameters]
    bad = epoch = 0
    while epoch < tuning.max_epochs and bad < tuning.patience:
        shuffled = train[torch.randperm(len(train), generator=generator)]
        for part in shuffled.split(tuning.batch_size):
            optimiser.zero_grad()
            with torch.enable_grad():
                loss(part).backward()
            optimiser.step()
        epoch += 1
        now = valid_loss()
        bad = 0 if now < best else bad + 1
        if now < best:
            best, kept = now, [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for p, value in zip(parameters, kept, strict=True):
            p.copy_(value)
            p.grad = None
    return {"before": before, "after": best, "epochs": epoch}


# ---------------------------------------------------------------------------------------------------------- evaluation


def solid(model: Any, dtype: torch.dtype | None = None) -> Any:
    """A copy of ``model`` with plain weights in place of AQLM's form, in ``dtype`` (None: what is fast here)."""
    made = copy.deepcopy(model)
    harden(made)
    return made.to(dtype or preferred_dtype(made.device)).eval()


def harden(model: Any) -> None:
    """Put plain weights in place of AQLM's form: what they stand for need not be computed in every pass."""
    for block in decoder_blocks(model):
        for name, layer in linears(block).items():
            if isinstance(layer, AqlmLinear):
                block.set_submodule(name, _plain(layer))


def _plain(layer: AqlmLinear) -> nn.Linear:
    w = layer.additive().weight().detach()
    with torch.device("meta"):
        plain = nn.Linear(w.shape[1], w.shape[0], bias=layer.bias is not None)
    plain.weight = nn.Parameter(w)
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.detach())
    return plain


def layer_grams(
    model: Any, rows: Tensor, blocks: Sequence[int], batch_size: int = 8
) -> dict[str, tuple[Tensor, Tensor]]:
    """W and G of every linear layer of some blocks of a model as it stands: ``block 3, mlp.up_proj`` -> (W, G)."""
    x, keywords = first_inputs(model, rows, batch_size)
    found = {}
    for k, block in enumerate(decoder_blocks(model)):
        if k > max(blocks):
            break
        stage = _Stage(block, x, keywords, batch_size)
        if k in blocks:
            x, grams = stage.collect()
            for name, gram in grams.items():
                found[f"block {k}, {name}"] = (block.get_submodule(name).weight.detach().float(), gram)  # type: ignore
        else:
            x = stage.run()
    return found
