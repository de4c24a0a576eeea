"""The paper's own artefacts: base checkpoints, the authors' quantised ones, their calibration sets, and what they all
need."""

from __future__ import annotations

import gzip
import json
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from reprobook.data import convert_once
from reprobook.errors import ReprobookError
from reprobook.nn.completion import complete
from reprobook.nn.lm import load_lm, load_tokenizer
from reprobook.nn.needs import gpu_hours, kv_cache
from reprobook.papers.quantizing_code_llms import multipl_e
from reprobook.papers.quantizing_code_llms.aqlm import Format, Search
from reprobook.papers.quantizing_code_llms.baselines import Aqlm
from reprobook.papers.quantizing_code_llms.blocks import BlockTuning, quantise, solid
from reprobook.papers.quantizing_code_llms.humaneval import pass_at_k
from reprobook.papers.quantizing_code_llms.storage import STUDIED, mean_bits, unpack
from reprobook.papers.quantizing_code_llms.tuning import Distillation, distil, last_hidden

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.papers.quantizing_code_llms.multipl_e import Task

STUDY_FORMATS = {"8 bits": Format(4, 15), "4 bits": Format(2, 15), "3 bits": Format(2, 12), "2 bits": Format(1, 15)}
SMALLEST = {"DeepSeek-Coder-1.3B": {"2 bits": Format(1, 14)}}  # where the study uses another format
SETS = ("rnd", "code", "mixed")
PACKED = ("codes", "codebooks", "scales")


# --------------------------------------------------------------------------------------------------------- checkpoints


def open_checkpoint(folder: Path, device: torch.device) -> tuple[Any, Any]:
    """Model and tokenizer of a base checkpoint or of one in AQLM's form, in 16 bit, on one device: completions keep
    their rows on the device of the model, so one spread over several is not read here. Several GPUs take a run each.

    AQLM's form is dequantised once into a plain checkpoint in the cache: the same function, without kernels that only
    some formats have (for the study's 15-bit codes there is none)."""
    if "quantization_config" in json.loads((folder / "config.json").read_text("utf-8")):
        folder = plain(folder)
    return load_lm(folder, device=device)


def plain(folder: Path) -> Path:
    """A checkpoint in AQLM's form as a plain one, block by block, in the cache."""
    return convert_once(f"aqlm-{folder.parent.parent.name}-{folder.name}", lambda target: _dequantise(folder, target))


def _dequantise(folder: Path, target: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    config = json.loads((folder / "config.json").read_text("utf-8"))
    if (method := config.pop("quantization_config")["quant_method"]) != "aqlm":
        raise ReprobookError(f"{folder.name} is quantised by {method!r}; only 'aqlm' is read")
    files = [safe_open(file, "pt") for file in sorted(folder.glob("*.safetensors"))]
    where = {name: file for file in files for name in file.keys()}  # noqa: SIM118  no mapping
    parts: dict[str, list[str]] = {}
    for name in where:
        parts.setdefault(".".join(name.split(".")[:3]), []).append(name)
    index: dict[str, str] = {}
    for k, names in enumerate(parts.values()):
        tensors = _plain_tensors({name: where[name].get_tensor(name) for name in names})
        file = f"model-{k:05d}.safetensors"
        save_file(tensors, target / file, metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, file)
    (target / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}), "utf-8")
    (target / "config.json").write_text(json.dumps(config), "utf-8")
    load_tokenizer(folder).save_pretrained(target)


def _plain_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stored tensors with a weight in place of each layer's codes, codebooks and scales."""
    found = {name: value for name, value in tensors.items() if name.rpartition(".")[2] not in PACKED}
    for layer in {name.rpartition(".")[0] for name in tensors} - {name.rpartition(".")[0] for name in found}:
        additive = unpack({kind: tensors[f"{layer}.{kind}"] for kind in PACKED})
        found[f"{layer}.weight"] = additive.weight().half()
    return found


# ------------------------------------------------------------------------------------------------ completions, outcomes


class Benchmark(NamedTuple):
    """Problems, the most tokens of prompt and completion, and what its languages are called: ``py`` + ``suffix``."""

    tasks: list[Task]
    max_length: int
    suffix: str


def benchmarks(folder: Path, max_length: int, mceval: str, mceval_length: int) -> list[Benchmark]:
    """MultiPL-E and, if a local folder of its files is named, McEval, whose results are kept apart."""
    found = [Benchmark(multipl_e.read_tasks(folder.rglob("*.parquet")), max_length, "")]
    if mceval:
        files = [file for kind in ("parquet", "jsonl", "json") for file in Path(mceval).rglob(f"*.{kind}")]
        found.append(Benchmark(multipl_e.read_tasks(files), mceval_length, " of McEval"))
    return found


def rows_at_once(config: Any, tokens: int, device: torch.device) -> int:
    """How many completions of ``tokens`` tokens are written at a time (at most 160): their keys and values take up to
    two thirds of what is free on a GPU, 8 GB elsewhere. A row of CodeLlama-7B takes half a megabyte a token, one of
    the 33- and 34-billion models, whose heads share keys, half of that or less."""
    free = torch.cuda.mem_get_info(device)[0] * 2 // 3 if device.type == "cuda" else 8 * 10**9
    return max(1, min(160, free // kv_cache(config, tokens)))


def outcomes(
    model: Any, tokenizer: Any, asked: Sequence[Benchmark], *, n: int, temperature: float, top_p: float, seed: int,
    run_code: bool,
) -> pd.DataFrame:  # fmt: skip
    """``n`` completions of each task of each benchmark, judged: columns ``language``, ``problem``, ``sample``, ``pass``
    (NaN where the language cannot be run here). ``max_length`` counts prompt and completion, as the study's does."""
    found = []
    groups = [(each, language) for each in asked for language in dict.fromkeys(task.language for task in each.tasks)]
    for (tasks, max_length, suffix), language in groups:
        part = [task for task in tasks if task.language == language]
        prompts = [task.prompt.strip() for task in part for _ in range(n)]
        lengths = [len(ids) for ids in tokenizer(prompts).input_ids]
        new = max(1, max_length - min(lengths))
        texts = complete(
            model, tokenizer, prompts, max_new_tokens=new, stop_strings=part[0].stops,
            batch_size=rows_at_once(model.config, max(lengths) + new, model.device), temperature=temperature,
            top_p=top_p, seed=seed,
        )  # fmt: skip
        cut = [_first_tokens(tokenizer, text, max_length - k) for text, k in zip(texts, lengths, strict=True)]
        repeated = [task._replace(prompt=task.prompt.strip()) for task in part for _ in range(n)]
        judged = multipl_e.judge_all(repeated, cut, run_code=run_code)
        found += [
            {"language": language + suffix, "problem": task.name, "sample": k % n, "pass": told and float(told.passed)}
            for k, (task, told) in enumerate(zip(repeated, judged, strict=True))
        ]
    return pd.DataFrame(found).astype({"pass": float})


def _first_tokens(tokenizer: Any, text: str, n: int) -> str:
    ids = tokenizer(text, add_special_tokens=False).input_ids
    return text if len(ids) <= n else tokenizer.decode(ids[: max(0, n)])


def shares(found: pd.DataFrame, language: str) -> pd.Series:
    """Share of passing completions of each problem of a language: pass@1, by problem."""
    return found[found["language"] == language].groupby("problem", sort=True)["pass"].mean()


Scores = tuple["pd.Series[float]", "pd.Series[float]"]


def pairs(found: Mapping[str, pd.DataFrame]) -> dict[str, Scores]:
    """pass@1 of each problem in pairs (a, b) of which a - b is reported, in each language: a quantised checkpoint and
    its base model; code and random calibration; tuned end to end and not; what 2 bits retain of two sizes; what they
    cost Java and Python. ``found``: checkpoint -> :func:`outcomes`; pairs that lack a member are left out."""
    told: dict[str, Scores] = {}
    languages = dict.fromkeys(language for each in found.values() for language in each["language"])
    quantised = {name: re.sub(r"-\d+bit-.*", "", name) for name in found}
    bases = {name: base for name, base in quantised.items() if base != name and base in found}
    chosen = [*bases.items(), ("codellama-7b-2bit-code", "codellama-7b-2bit-rnd"),
              ("from scratch at 3 bits, code", "from scratch at 3 bits, rnd")]  # fmt: skip
    for language in languages:
        for first, second in chosen:
            if first in found and second in found:
                told[f"{first} minus {second}, {language}"] = (
                    shares(found[first], language),
                    shares(found[second], language),
                )
        for plain in found:
            if (tuned := f"{plain}, tuned") in found:
                told[f"{tuned} minus plain, {language}"] = (
                    shares(found[tuned], language),
                    shares(found[plain], language),
                )
        big, small = (f"deepseek-coder-{size}b" for size in ("33", "6.7"))
        if all(name in found for size in (big, small) for name in (size, f"{size}-2bit-mixed")):
            kept = [retained(shares(found[f"{size}-2bit-mixed"], language), shares(found[size], language))
                    for size in (big, small)]  # fmt: skip
            told[f"retained at 2 bits: {big} minus {small}, {language}"] = kept[0], kept[1]
    lost = "codellama-7b-2bit-mixed"
    if lost in bases and {"py", "java"} <= set(languages):
        java, py = (shares(found[lost], lang) - shares(found[bases[lost]], lang) for lang in ("java", "py"))
        told[f"java minus py: lost by {lost}"] = java.align(py, join="inner")
    return told


def retained(quantised: pd.Series, base: pd.Series) -> pd.Series:
    """A score for each problem whose mean is mean(quantised) / mean(base), and whose spread is that of this ratio to
    first order: the base model's pass@1 is an estimate, too."""
    ratio = quantised.mean() / base.mean()
    return ratio + (quantised - ratio * base) / base.mean()


def summary(found: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """pass@k of each checkpoint and language without bias, for one completion and for as many as a problem has, with
    the numbers of problems and completions. NaN where the language cannot be run here."""
    rows = []
    for name, each in found.items():
        for language, part in each.groupby("language", sort=False):
            n, right = part["sample"].nunique(), shares(part, str(language))
            able = bool(right.notna().all())
            passed = (right * n).round().astype(int).to_numpy() if able else np.zeros(0, int)
            rows.append({
                "checkpoint": name, "language": language, "problems": len(right), "completions": len(part),
                "pass@1": pass_at_k(n, passed, 1).mean() if able else math.nan,
                f"pass@{n}" if n > 1 else "pass@1": pass_at_k(n, passed, n).mean() if able else math.nan,
            })  # fmt: skip
    return pd.DataFrame(rows)


def authors_outcomes(folder: Path) -> pd.DataFrame:
    """What the authors' archive says of each completion, in their table's columns: ``model`` and ``quantization`` are
    the folders that the results lie in, ``language``, ``problem``, ``pass``: status OK and exit code 0. No GPU is
    needed for it."""
    rows = []
    for file in sorted(folder.rglob("*.results.json.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as stream:
            told = json.load(stream)
        where = file.parent.relative_to(folder)
        rows += [
            {
                "model": where.parent.as_posix(), "quantization": where.name, "language": told["language"],
                "problem": told["name"], "pass": each["status"] == "OK" and each["exit_code"] == 0,
            }
            for each in told["results"]
        ]  # fmt: skip
    if not rows:
        raise ReprobookError(f"authors_folder {str(folder)!r} holds no *.results.json.gz: unpack the authors' archive")
    return pd.DataFrame(rows)


# ---------------------------------------------------------------------------------------------- quantising from scratch


class Source(NamedTuple):
    """A document of RedPajama: its text and what its ``meta`` says."""

    text: str
    meta: dict[str, Any]


def red_pajama(folder: Path, part: str) -> Iterator[Source]:
    """Documents of the files of a part (``github``, ``stackexchange``, or ``""`` for all), in order."""
    files = sorted(folder.rglob(f"{part}*.jsonl"))
    if not files:
        raise ReprobookError(f"{folder.name} has no files {part}*.jsonl")
    for file in files:
        with file.open(encoding="utf-8") as stream:
            for line in stream:
                row = json.loads(line)
                meta = row["meta"]
                yield Source(row["text"], json.loads(meta) if isinstance(meta, str) else meta)


def study_rows(kind: str, folder: Path, tokenizer: Any, n: int, length: int, seed: int) -> Tensor:
    """The study's calibration sets, (n, length): ``rnd``, ``code`` or ``mixed``; mixed is half StackExchange.

    Random text: a window anywhere in a random document. Code: the first tokens of .py and .java files, half each, one
    file a repository, in order. StackExchange: the first tokens of questions about Python or Java with a score of 10 or
    more. All from documents longer than ``length`` tokens. Raises :class:`ReprobookError` where there are too few."""
    draw = random.Random(seed)
    if kind == "rnd":
        documents = list(red_pajama(folder, ""))
        draw.shuffle(documents)
        return _rows(documents, tokenizer, n, length, lambda extra: draw.randrange(extra + 1))
    if kind not in SETS:
        raise ReprobookError(f"calibration {kind!r} is not known; allowed: {', '.join(SETS)}")
    n_code = n if kind == "code" else n // 2
    halves = [n_code // 2, n_code - n_code // 2]
    parts = [
        _rows(_files(folder, ending), tokenizer, half, length, lambda _: 0)
        for ending, half in zip((".java", ".py"), halves, strict=True)
    ]
    if kind == "mixed":
        parts.insert(0, _rows(_questions(folder), tokenizer, n - n_code, length, lambda _: 0))
    return torch.cat(parts)


def _files(folder: Path, ending: str) -> Iterator[Source]:
    seen = set()
    for each in red_pajama(folder, "github"):
        repository = each.meta.get("repo_name")
        if str(each.meta.get("path", "")).endswith(ending) and repository not in seen:
            seen.add(repository)
            yield each


def _questions(folder: Path) -> Iterator[Source]:
    for each in red_pajama(folder, "stackexchange"):
        good = "stackoverflow" in json.dumps(each.meta) and int(each.meta.get("question_score") or 0) >= 10
        if good and each.meta.get("language", "en") == "en" and ("python" in each.text.lower() or "Java" in each.text):
            yield each


def _rows(
    documents: Iterator[Source] | Sequence[Source], tokenizer: Any, n: int, length: int, start: Callable[[int], int]
) -> Tensor:
    found: list[list[int]] = []
    for each in documents:
        if len(found) == n:
            break
        ids = tokenizer(each.text).input_ids
        if len(ids) > length:
            at = start(len(ids) - length)
            found.append(ids[at : at + length])
    if len(found) < n:
        raise ReprobookError(f"only {len(found)} of {n} calibration rows of {length} tokens were found")
    return torch.tensor(found)


@dataclass(frozen=True)
class Recipe:
    """A model quantised from scratch: its format, search, fine-tuning of blocks, and end-to-end tuning (None: none)."""

    form: Format
    search: Search
    block: BlockTuning
    whole: Distillation | None = None


def recipe(n_codebooks: int, bits: int, whole: bool, rows: Sequence[int], steps: Sequence[int]) -> Recipe:
    """The study's recipe, with its sizes as the parameters have them: (sequences, tokens, validation) of ``rows`` and
    (k-means, epochs, Adam steps, epochs of a block, epochs of the whole) of ``steps``."""
    lloyd, epochs, adam, of_block, of_whole = steps
    search = Search(kmeans_iterations=lloyd, max_epochs=epochs, steps=adam)
    tuning = Distillation(max_epochs=of_whole, n_valid=rows[2]) if whole else None
    return Recipe(Format(n_codebooks, bits), search, BlockTuning(max_epochs=of_block, n_valid=rows[2]), tuning)


def check(
    checkpoints: Sequence[str], known: Sequence[str], scratch: Sequence[Sequence[Any]], rows: Sequence[int],
    steps: Sequence[int], folders: Sequence[str],
) -> None:  # fmt: skip
    """Raise :class:`ReprobookError` for what would otherwise come up after hours: a checkpoint that is not ``known``, a
    model from scratch that no recipe fits, a folder that is not there."""
    if unknown := [name for name in checkpoints if name not in known]:
        raise ReprobookError(f"checkpoint {unknown[0]!r} is not known; allowed: {', '.join(known)}")
    if missing := [folder for folder in folders if folder and not Path(folder).is_dir()]:
        raise ReprobookError(f"{missing[0]} is no folder")
    if scratch and not (len(rows) == 3 and 0 < rows[2] < rows[0] and len(steps) == 5):
        raise ReprobookError(
            f"scratch_rows must be sequences, tokens, and fewer sequences that validate, and scratch_steps five "
            f"numbers; got {list(rows)} and {list(steps)}"
        )
    for each in scratch:
        if len(each) != 5 or each[3] not in SETS:
            raise ReprobookError(
                f"scratch has label, codebooks, bits, calibration ({', '.join(SETS)}), whether tuned; got {list(each)}"
            )
        recipe(each[1], each[2], each[4], rows, steps)


def from_scratch(
    folder: Path, rows: Tensor, recipe: Recipe, *, seed: int, work: Path, device: torch.device
) -> tuple[Any, Any]:
    """A base checkpoint quantised by this chapter's code: AQLM layer by layer, each block fine-tuned, and, where the
    recipe says so, the model tuned end to end. Finished blocks are kept in ``work``. Returns a plain 16-bit model and
    its tokenizer."""
    model, tokenizer = load_lm(folder, dtype="fp32")
    teacher = last_hidden(model.to(device), rows) if recipe.whole else None
    quantiser = Aqlm(recipe.form, recipe.search, seed)
    quantise(model.to("cpu"), rows, quantiser, tuning=recipe.block, folder=work, seed=seed, device=device)
    if recipe.whole and teacher is not None:
        distil(model.to(device), rows, teacher, recipe.whole, seed)
    return solid(model).to(device), tokenizer


# --------------------------------------------------------------------------------------------------------------- needs


def formats(name: str) -> dict[str, Format]:
    """The study's formats of a base model: label -> format."""
    return STUDY_FORMATS | SMALLEST.get(name, {})


def memory() -> pd.DataFrame:
    """Size of every checkpoint of the study, from public shapes: gigabytes in 16 bit and quantised, and what is saved;
    bits per weight nominally, with codebooks and scales, and as stored."""
    rows = []
    for name, shape in STUDIED.items():
        whole = shape.bytes(None)
        for label, form in formats(name).items():
            size, bits = shape.bytes(form), mean_bits(shape.layers(), form)
            rows.append({
                "model": name, "label": label, "format": f"{form.n_codebooks}x{form.bits}", "16 bit (GB)": whole / 1e9,
                "GB": size / 1e9, "saved": 1 - size / whole, **bits._asdict(),
            })  # fmt: skip
    return pd.DataFrame(rows)


def needs(n_completions: int, tokens: int) -> pd.DataFrame:
    """What evaluating each base model needs: gigabytes of 16-bit weights, megabytes of keys and values of a token, and
    A100 hours of ``n_completions``
    completions of ``tokens`` tokens (operations over 20 % of the peak, since decoding is bound by memory: our
    estimate)."""
    rows = []
    for name, shape in STUDIED.items():
        parameters = shape.bytes(None) / 2
        hours = gpu_hours(2 * parameters * n_completions * tokens, "A100, bf16", 0.2)
        rows.append({
            "model": name, "weights (GB)": 2 * parameters / 1e9,
            "keys and values of a token (MB)": 4 * shape.n_blocks * shape.kv / 1e6, "A100 hours a cell": hours,
        })  # fmt: skip
    return pd.DataFrame(rows)
