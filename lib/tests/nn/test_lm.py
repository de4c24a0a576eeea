"""The real small models: converted weights against the file, batched results against loops of one."""

from __future__ import annotations

import json
import math
import re
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reprobook.data import ChapterData, DataError
from reprobook.data.errors import ChecksumError
from reprobook.errors import ReprobookError
from reprobook.nn import encoder, lm
from reprobook.nn.completion import complete

TEXTS = [
    "The river was high after three days of rain, and the bridge had been closed since the morning.",
    "Water boils at 100 degrees.",
    "x",
    "",
    "def add(a, b):\n    return a + b\n",
]


def _artefact(name: str) -> Path:
    try:
        return ChapterData("shared", "laptop").path(name)
    except ChecksumError:
        raise
    except DataError as error:
        pytest.skip(f"cannot be fetched here: {error}")


@pytest.fixture(scope="module")
def gguf() -> Path:
    return _artefact("smollm2-135m-instruct")


@pytest.fixture(scope="module")
def loaded(gguf: Path) -> tuple[Any, Any]:
    return lm.load_lm(gguf, dtype="fp32")


def test_converted_weights_are_those_of_the_file(gguf: Path, loaded: tuple[Any, Any]) -> None:
    from gguf import GGUFReader
    from gguf.quants import dequantize

    weights = dict(loaded[0].named_parameters())
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.7.ffn_down.weight": "model.layers.7.mlp.down_proj.weight",
        "blk.29.attn_norm.weight": "model.layers.29.input_layernorm.weight",
    }
    tensors = {tensor.name: tensor for tensor in GGUFReader(gguf).tensors if tensor.name in names}
    assert len(tensors) == len(names)
    for theirs, ours in names.items():
        expected = torch.from_numpy(dequantize(tensors[theirs].data, tensors[theirs].tensor_type).copy())
        assert torch.equal(weights[ours], expected.reshape(weights[ours].shape)), theirs
    config = json.loads((lm.converted(gguf) / "config.json").read_text())
    assert "quantization_config" not in config and config["tie_word_embeddings"]


def test_tokenizer_keeps_text_and_splits_digits_as_trained(loaded: tuple[Any, Any]) -> None:
    tokenizer = loaded[1]
    for text in [*TEXTS, "naïve café 北京  12 a\n\n\t3"]:
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.convert_ids_to_tokens(tokenizer("a  12").input_ids) == ["a", "ĠĠ", "1", "2"]
    messages = [{"role": "user", "content": "hi"}]
    chat = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert chat.endswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer("<|im_end|>").input_ids == [tokenizer.eos_token_id] == [2]


@pytest.fixture(scope="module")
def code_model() -> tuple[Path, Any, Any]:
    """Only where it is in the cache: half a gigabyte is not fetched, and not converted in a minute, for a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPROBOOK_OFFLINE", "1")
        gguf = _artefact("qwen2.5-coder-0.5b-instruct")
    return gguf, *lm.load_lm(gguf, dtype="bf16")


def _tensor(gguf: Path, name: str) -> torch.Tensor:
    """A tensor straight from the file: the reader of the package takes ten seconds for so large a vocabulary."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    head = np.memmap(gguf, dtype=np.uint8, mode="r")[: 8 << 20].tobytes()

    def entry(found: re.Match[bytes]) -> tuple[int, ...]:
        (n,) = struct.unpack_from("<I", head, found.end())
        return (*struct.unpack_from(f"<{n}QIQ", head, found.end() + 4), found.end() + 16 + 8 * n)

    table = {m[0].decode(): entry(m) for m in re.finditer(rb"(blk\.\d+|output)[a-z_.]*\.(weight|bias)", head)}
    start = -(-max(end for *_, end in table.values()) // 32) * 32  # what follows the table is aligned to 32 bytes
    *shape, kind, offset, _ = table[name]
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    data = np.memmap(gguf, np.uint8, "r", start + offset, (math.prod(shape[1:]), shape[0] // block * size))
    return torch.from_numpy(dequantize(data, GGMLQuantizationType(kind)).copy()).reshape(shape[::-1])


def test_the_code_model_is_the_file_in_bf16(code_model: tuple[Path, Any, Any]) -> None:
    gguf, model, _ = code_model
    weights = dict(model.named_parameters())
    names = {  # kinds Q6_K, Q5_0, Q8_0 and F32
        "blk.0.ffn_down.weight": "model.layers.0.mlp.down_proj.weight",
        "blk.7.attn_q.weight": "model.layers.7.self_attn.q_proj.weight",
        "blk.0.attn_v.weight": "model.layers.0.self_attn.v_proj.weight",
        "blk.23.attn_k.bias": "model.layers.23.self_attn.k_proj.bias",
    }
    for theirs, ours in names.items():
        assert torch.equal(weights[ours], _tensor(gguf, theirs).bfloat16()), theirs
    # The file has two tables, in 5 and in 8 bits, of what its publisher's weights have once.
    assert weights["lm_head.weight"].data_ptr() != weights["model.embed_tokens.weight"].data_ptr()
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16} and model.num_parameters() == 630_167_424
    assert set(model.generation_config.eos_token_id) == {151645, 151643}


def test_the_code_model_has_the_published_tokens(code_model: tuple[Path, Any, Any]) -> None:
    """Ids of Qwen2.5's published vocabulary: digits one by one, Chinese, what is special, composed accents."""
    tokenizer = code_model[2]
    known = {
        "Hello world": [9707, 1879], "你好，世界": [108386, 3837, 99489], "0123456789": list(range(15, 25)),
        "<|im_start|>user\nhi<|im_end|>\n": [151644, 872, 198, 6023, 151645, 198], "def": [750],
        "<|endoftext|>": [151643], "a  12": [64, 220, 220, 16, 17], "<|fim_prefix|><|fim_suffix|>": [151659, 151661],
    }  # fmt: skip
    for text, ids in known.items():
        assert tokenizer(text).input_ids == ids, text
    assert tokenizer("cafe\u0301").input_ids == tokenizer("caf\u00e9").input_ids
    for text in [*TEXTS, "naïve café 北京  12 a\n\n\t3", "if x:\r\n\treturn 'é' # 👍🏽\n" + " " * 9 + "y"]:
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    turns = [("system", system), ("user", "hi")]
    told = "".join(f"<|im_start|>{who}\n{text}<|im_end|>\n" for who, text in turns)
    assert chat == told + "<|im_start|>assistant\n"


def test_the_code_model_scores_batches_like_single_texts_and_writes_code(code_model: tuple[Path, Any, Any]) -> None:
    _, model, tokenizer = code_model
    texts = [TEXTS[0], TEXTS[4], "你好，世界", TEXTS[1]]
    together = lm.token_logprobs(model, tokenizer, texts)
    for text, found in zip(texts, together, strict=True):
        (alone,) = lm.token_logprobs(model, tokenizer, [text])
        torch.testing.assert_close(found, alone, atol=0.15, rtol=0.05)  # bf16: logits have eight bits
        assert found.sum().item() == pytest.approx(alone.sum().item(), rel=0.02)
    prompt = "def add(a, b):\n    "
    slow = _naive_greedy(model, tokenizer, prompt, 6)
    assert slow.lstrip().startswith("return a + b")
    assert complete(model, tokenizer, [prompt, "x"], max_new_tokens=6)[0] == slow
    assert complete(model, tokenizer, [prompt], max_new_tokens=6, stop_strings=["\n"]) == [slow.split("\n")[0]]


def _naive_logprobs(model: Any, ids: list[int]) -> torch.Tensor:
    """One text at a time, one position at a time, straight from the definition."""
    if len(ids) < 2:
        return torch.empty(0)
    with torch.no_grad():
        table = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return torch.stack([table[t - 1, ids[t]] for t in range(1, len(ids))]).float()


def test_token_logprobs_equal_a_loop_over_texts(loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = loaded
    ids = [tokenizer(text).input_ids for text in TEXTS]
    expected = [_naive_logprobs(model, row) for row in ids]
    for options in ({"batch_size": 8}, {"batch_size": 2}, {"batch_size": 8, "max_tokens": 1}):
        for found, want in zip(lm.token_logprobs(model, tokenizer, TEXTS, **options), expected, strict=True):
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, want, atol=1e-4, rtol=0)
    monkeypatch.setattr(lm, "LOGITS", 5 * model.config.vocab_size)  # the logits of five tokens at a time
    from_ids = lm.token_logprobs(model, tokenizer, ids)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(from_ids, expected, strict=True))
    with_bos = lm.token_logprobs(model, tokenizer, TEXTS, bos=True)
    for found, row in zip(with_bos, ids, strict=True):
        torch.testing.assert_close(found, _naive_logprobs(model, [tokenizer.bos_token_id, *row]), atol=1e-4, rtol=0)


def test_a_folder_of_safetensors_and_a_tokenizer_without_padding(
    gguf: Path, loaded: tuple[Any, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(lm.converted(gguf), folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "pad_token"}))
    model, tokenizer = lm.load_lm(folder, dtype="fp32")
    ours, theirs = model.state_dict(), loaded[0].state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert tokenizer.pad_token == tokenizer.eos_token and not model.training
    assert tokenizer.encode(TEXTS[0]) == loaded[1].encode(TEXTS[0])


def test_it_knows_english_in_both_precisions(gguf: Path, loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    words = TEXTS[0].split()
    nll = [-x.mean().item() for x in lm.token_logprobs(model, tokenizer, [TEXTS[0], " ".join(sorted(words))])]
    assert nll[0] < 4 and nll[1] > nll[0] + 1 and nll[1] < math.log(model.config.vocab_size)
    assert lm.generate(model, tokenizer, ["The capital of France is"], max_new_tokens=1) == [" Paris"]
    half, _ = lm.load_lm(gguf, dtype="bf16")
    assert half.dtype == torch.bfloat16
    assert -lm.token_logprobs(half, tokenizer, [TEXTS[0]])[0].mean().item() == pytest.approx(nll[0], abs=0.05)


PROMPTS = [
    "The capital of France is", "One, two, three,",
    [{"role": "user", "content": "Say yes or no: is ice cold?"}], "Once upon a time there was",
]  # fmt: skip


def _naive_greedy(model: Any, tokenizer: Any, prompt: Any, steps: int) -> str:
    """Argmax of the whole context again and again, no cache, no batch."""
    if not isinstance(prompt, str):
        prompt = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    ids, made = tokenizer(prompt).input_ids, []
    with torch.no_grad():
        while len(made) < steps and (not made or made[-1] != tokenizer.eos_token_id):
            made.append(int(model(torch.tensor([ids + made])).logits[0, -1].argmax()))
    return tokenizer.decode(made, skip_special_tokens=True)


def test_greedy_batches_equal_a_loop_over_prompts(loaded: tuple[Any, Any]) -> None:
    expected = [_naive_greedy(*loaded, prompt, 8) for prompt in PROMPTS]
    assert lm.generate(*loaded, PROMPTS, max_new_tokens=8, batch_size=3) == expected
    assert lm.generate(*loaded, PROMPTS, max_new_tokens=8, batch_size=3, temperature=2.0, top_p=1e-6) == expected
    assert lm.generate(*loaded, [], max_new_tokens=8) == []


def test_draws_depend_on_seed_and_prompt_not_on_the_batch(loaded: tuple[Any, Any]) -> None:
    state = torch.get_rng_state()
    options = {"max_new_tokens": 8, "temperature": 1.0, "top_p": 0.95}
    together = lm.generate(*loaded, PROMPTS * 2, seed=1, batch_size=8, **options)
    assert together == lm.generate(*loaded, PROMPTS * 2, seed=1, batch_size=3, **options)
    assert together[:4] != together[4:] and together != lm.generate(*loaded, PROMPTS * 2, seed=2, **options)
    assert torch.equal(torch.get_rng_state(), state)


def test_sampler_draws_from_the_tempered_nucleus() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -2.0])
    rows, temperature = 6000, 0.7
    ids = torch.zeros(rows, 1, dtype=torch.long)
    for top_p, kept in ((1.0, 5), (0.9, 2)):
        sampler = lm._Sampler(range(rows), temperature, top_p, 0, torch.device("cpu"))
        draws = sampler(ids, logits.repeat(rows, 1)).argmax(-1)
        expected = (logits / temperature).softmax(-1)[:kept]
        shares = torch.bincount(draws, minlength=5) / rows
        assert torch.equal(shares[kept:], torch.zeros(5 - kept))
        torch.testing.assert_close(shares[:kept], expected / expected.sum(), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"temperature": -1.0}, "temperature .* got -1.0"), ({"temperature": math.nan}, "temperature .* got nan"),
        ({"top_p": 0.0}, "top_p .* got 0.0"), ({"top_p": 1.1}, "top_p .* got 1.1"),
        ({"batch_size": 0}, "batch_size .* got 0"), ({"max_new_tokens": 0}, "max_new_tokens .* got 0"),
        ({"prompts": [""]}, "a prompt is empty"),
    ],
)  # fmt: skip
def test_bad_arguments(loaded: tuple[Any, Any], options: dict[str, Any], says: str) -> None:
    with pytest.raises(ReprobookError, match=says):
        lm.generate(*loaded, **{"prompts": ["a"], "max_new_tokens": 1, **options})


def test_not_a_gguf_file_and_unknown_dtype(tmp_path: Path, gguf: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match="model.gguf is not a GGUF file"):
        lm.load_lm(tmp_path / "model.gguf")
    with pytest.raises(ReprobookError, match="dtype 'int3' is not known; allowed: 'auto', 'bf16', 'fp32'"):
        lm.load_lm(gguf, dtype="int3")


def test_encoder_equals_a_loop_over_texts_and_knows_meaning() -> None:
    model, tokenizer = encoder.load_encoder(_artefact("minilm-l6"))
    texts = ["A cat sits on the mat.", "Stocks fell on Monday.", "A kitten is lying on a rug.", "word " * 400]
    vectors = encoder.encode(model, tokenizer, texts, batch_size=3)
    assert vectors.shape == (4, 384) and vectors.dtype == torch.float32
    with torch.no_grad():
        for text, vector in zip(texts, vectors, strict=True):
            ids = tokenizer(text).input_ids
            ids = ids if len(ids) <= 256 else [*ids[:255], tokenizer.sep_token_id]
            mean = model(torch.tensor([ids])).last_hidden_state[0].mean(0)
            torch.testing.assert_close(vector, mean / mean.norm(), atol=1e-5, rtol=0)
    cosine = vectors @ vectors.T
    assert cosine[0, 2] > 0.5 > 0.2 > cosine[0, 1]
    assert encoder.encode(model, tokenizer, []).shape == (0, 384)
    with pytest.raises(ReprobookError, match="texts must be a list"):
        encoder.encode(model, tokenizer, "one text")
