"""Language models from GGUF files or safetensors: load, add adapters, generate in batches, log-likelihood of tokens.

A GGUF file is converted once into safetensors in the cache (weights as the file defines them; a model of more than
:data:`FP32_UP_TO` weights rounded to bf16); later loads take seconds. On processors with bf16 arithmetic the model runs
in bf16, elsewhere in fp32.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from reprobook.data.cache import convert_once, sha256_of
from reprobook.data.errors import DataError
from reprobook.errors import ReprobookError
from reprobook.hardware import bf16_is_fast

if TYPE_CHECKING:
    from torch import Tensor

_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
FP32_UP_TO = 300_000_000  # weights; more are kept in bf16: half the disk, and the file itself rounds far more coarsely
_CONVERSION = "v2"  # part of the cache key: raise it when _convert writes something else
Prompt = str | Sequence[Mapping[str, str]]


def preferred_dtype(device: str | torch.device = "cpu") -> torch.dtype:
    """bf16 where the device computes in it (CPU: AMX or AVX512-bf16), else fp32."""
    return torch.bfloat16 if bf16_is_fast(torch.device(device)) else torch.float32


def load_lm(
    source: Path, *, dtype: str | torch.dtype = "auto", device: str | torch.device = "cpu",
    device_map: str | None = None,
) -> tuple[Any, Any]:  # fmt: skip
    """Model (eval mode) and tokenizer of a GGUF file, converted once through the cache, or of a safetensors folder.

    ``dtype``: ``"auto"`` (:func:`preferred_dtype`), ``"bf16"``, ``"fp32"`` or a torch dtype. ``device_map="auto"``
    spreads a model that no single GPU holds over all of them. Raises :class:`DataError` if a file is not GGUF.
    """
    from transformers import AutoModelForCausalLM

    folder, dtype = _folder(source), _resolve_dtype(dtype, device)
    options = {"local_files_only": True, "use_safetensors": True, "device_map": device_map}
    with without_progress_bars():
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **options)
    return (model if device_map else model.to(torch.device(device))).eval(), load_tokenizer(source)


def add_lora(model: Any, names: Sequence[str] = ("default",), **config: Any) -> Any:
    """The model frozen, with a trainable LoRA adapter for each of ``names`` (the first is active); ``config`` are the
    arguments of peft's ``LoraConfig``: ``r``, ``lora_alpha``, ``lora_dropout``, ``target_modules``, ..."""
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(**config)
    with warnings.catch_warnings():  # peft uses a name that transformers is giving up
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        wrapped = get_peft_model(model, settings, adapter_name=names[0])
        for name in names[1:]:
            wrapped.add_adapter(name, settings)
    return wrapped


def without_progress_bars() -> contextlib.redirect_stderr[io.StringIO]:
    """Keep loading bars out of notebooks: some of transformers' obey no switch. Warnings are logged, so they stay."""
    return contextlib.redirect_stderr(io.StringIO())


def load_tokenizer(source: Path) -> Any:
    """The tokenizer alone, with its chat template; where it has no token to pad with, the end token serves."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(_folder(source), local_files_only=True)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _folder(source: Path) -> Path:
    return source if source.is_dir() else converted(source)


def converted(gguf: Path) -> Path:
    """Folder with ``model.safetensors`` (fp32, large models bf16), config, tokenizer and chat template of a GGUF
    file."""
    with gguf.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise DataError(f"{gguf.name} is not a GGUF file: it does not begin with the letters GGUF")
    return convert_once(f"gguf-{sha256_of(gguf)[:32]}-{_CONVERSION}", lambda folder: _convert(gguf, folder))


def _convert(gguf: Path, folder: Path) -> None:
    """Dequantise into plain safetensors; transformers refuses to save or cast a model it thinks is quantised."""
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"gguf_file": gguf.name, "local_files_only": True}
    reader = GGUFReader(gguf)
    dtype = torch.float32 if sum(int(t.n_elements) for t in reader.tensors) <= FP32_UP_TO else torch.bfloat16
    with without_progress_bars():
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
        quantised = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=dtype, **source)
        config = quantised.config
        del config.quantization_config
        with torch.device("meta"):  # no time for random weights that are replaced at once
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        model.load_state_dict(quantised.state_dict(), assign=True)
        model.generation_config = quantised.generation_config
        _finish_as_trained(reader, tokenizer, model)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _finish_as_trained(reader: Any, tokenizer: Any, model: Any) -> None:
    """What transformers does not read from GGUF. SmolLM splits digits first, which shows after two blanks. Qwen2 also
    ends plain text, with <|endoftext|>: its publisher's generation configuration and llama.cpp stop at both ends."""
    from tokenizers.pre_tokenizers import ByteLevel, Digits
    from tokenizers.pre_tokenizers import Sequence as Steps

    field = reader.get_field("tokenizer.ggml.pre")
    kind = None if field is None else field.contents()
    if kind == "smollm":
        steps = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
        tokenizer.backend_tokenizer.pre_tokenizer = Steps(steps)
    elif kind == "qwen2":
        model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])


def _resolve_dtype(dtype: str | torch.dtype, device: str | torch.device) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return preferred_dtype(device)
    if dtype not in _DTYPES:
        raise ReprobookError(f"dtype {dtype!r} is not known; allowed: 'auto', {', '.join(map(repr, _DTYPES))}")
    return _DTYPES[dtype]


@torch.no_grad()
def generate(
    model: Any, tokenizer: Any, prompts: Sequence[Prompt], *, max_new_tokens: int, batch_size: int = 16,
    temperature: float = 0.0, top_p: float = 1.0, seed: int = 0,
) -> list[str]:  # fmt: skip
    """Continue every prompt; returns the new text only, in the order of ``prompts``.

    A prompt is a text taken as it is, or chat messages (``[{"role": ..., "content": ...}]``) put into the model's
    template. ``temperature=0`` is greedy. The draws of prompt ``i`` depend on ``(seed, i)`` only, not on the batch it
    falls into; the global random state is left alone.
    """
    _check_sampling(max_new_tokens, batch_size, temperature, top_p)
    ids = [_prompt_ids(tokenizer, prompt) for prompt in prompts]
    texts = [""] * len(ids)
    for rows in _batches([len(row) for row in ids], batch_size, max_tokens=None):
        x, mask = _pad([ids[row] for row in rows], tokenizer.pad_token_id, left=True)
        noise = [_Sampler(rows, temperature, top_p, seed, model.device)] if temperature > 0 else []
        out = model.generate(
            input_ids=x.to(model.device), attention_mask=mask.to(model.device), max_new_tokens=max_new_tokens,
            do_sample=False, logits_processor=noise, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        for row, text in zip(rows, tokenizer.batch_decode(out[:, x.shape[1] :], skip_special_tokens=True), strict=True):
            texts[row] = text
    return texts


class _Sampler:
    """Turns greedy search into sampling (Gumbel-max) with one random stream per prompt."""

    def __init__(self, rows: Sequence[int], temperature: float, top_p: float, seed: int, device: torch.device) -> None:
        from transformers import TopPLogitsWarper

        self.temperature = temperature
        self.nucleus = TopPLogitsWarper(top_p) if top_p < 1 else None
        # A multiplier keeps (seed, row) pairs apart for any realistic number of prompts.
        self.streams = [torch.Generator(device).manual_seed(seed * 1_000_003 + row) for row in rows]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (batch, vocabulary) whose argmax is a draw from the tempered nucleus."""
        scores = scores.float() / self.temperature
        if self.nucleus is not None:
            scores = self.nucleus(input_ids, scores)
        noise = torch.empty_like(scores)
        for row, stream in enumerate(self.streams):
            noise[row].exponential_(generator=stream)
        return scores - noise.log()


def _check_sampling(max_new_tokens: int, batch_size: int, temperature: float, top_p: float) -> None:
    faults = {
        f"max_new_tokens must be at least 1, got {max_new_tokens}": max_new_tokens < 1,
        f"batch_size must be at least 1, got {batch_size}": batch_size < 1,
        f"temperature must be 0 (greedy) or more, got {temperature}": not temperature >= 0,
        f"top_p must be in (0, 1], got {top_p}": not 0 < top_p <= 1,
    }
    for message, wrong in faults.items():
        if wrong:
            raise ReprobookError(message)


def _prompt_ids(tokenizer: Any, prompt: Prompt) -> list[int]:
    if not isinstance(prompt, str):
        prompt = tokenizer.apply_chat_template(list(prompt), tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, add_special_tokens=False).input_ids
    if not ids:
        raise ReprobookError("a prompt is empty: give at least one token, for example the tokenizer's bos_token")
    return ids


@torch.no_grad()
def token_logprobs(
    model: Any, tokenizer: Any, texts: Sequence[str] | Sequence[Sequence[int]], *, batch_size: int = 8,
    bos: bool = False, max_tokens: int = 2048,
) -> list[Tensor]:  # fmt: skip
    """Log-likelihood (nats) of every token given those before it, one fp32 CPU tensor per text.

    ``texts`` are strings or token ids. The first token has nothing before it and is left out: length n-1 for n tokens;
    with ``bos=True`` a BOS token is put in front and all n are scored. Of ids that end with a continuation of m tokens
    the last m numbers are its log-likelihood given the rest. ``max_tokens`` bounds the tokens of a forward pass (the
    logits of 2048 tokens and 49,152 entries take 0.4 GB); a longer text goes alone.
    """
    if batch_size < 1:
        raise ReprobookError(f"batch_size must be at least 1, got {batch_size}")
    ids = [_text_ids(tokenizer, text, bos) for text in texts]
    found: list[Tensor] = [torch.empty(0)] * len(ids)
    scored = [row for row, tokens in enumerate(ids) if len(tokens) > 1]
    for batch in _batches([len(ids[row]) for row in scored], batch_size, max_tokens):
        rows = [scored[k] for k in batch]
        x, mask = _pad([ids[row] for row in rows], tokenizer.pad_token_id or 0, left=False)
        logits = model(input_ids=x.to(model.device), attention_mask=mask.to(model.device), use_cache=False).logits
        for k, row in enumerate(rows):
            n = len(ids[row])
            target = x[k, 1:n].to(logits.device)
            found[row] = -F.cross_entropy(logits[k, : n - 1].float(), target, reduction="none").cpu()
    return found


def _text_ids(tokenizer: Any, text: str | Sequence[int], bos: bool) -> list[int]:
    ids = tokenizer(text, add_special_tokens=False).input_ids if isinstance(text, str) else list(text)
    return [tokenizer.bos_token_id, *ids] if bos else ids


def _batches(lengths: Sequence[int], batch_size: int, max_tokens: int | None) -> Iterator[list[int]]:
    """Rows of similar length together: at most ``batch_size`` rows and ``max_tokens`` padded tokens a batch."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda k: (lengths[k], k)):
        too_many = max_tokens is not None and (len(batch) + 1) * lengths[row] > max_tokens
        if batch and (len(batch) == batch_size or too_many):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _pad(rows: Sequence[Sequence[int]], pad: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """Token ids (batch, longest) and attention mask of the same shape."""
    side = "left" if left else "right"
    tensors = [torch.as_tensor(row, dtype=torch.long) for row in rows]
    x = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=pad, padding_side=side)
    ones = [torch.ones_like(row) for row in tensors]
    return x, torch.nn.utils.rnn.pad_sequence(ones, batch_first=True, padding_value=0, padding_side=side)
