"""The paper's own parts: census slices, scGPT's checkpoint, BiomedBERT, a Llama; both stages over several GPUs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from reprobook.data import convert_once
from reprobook.errors import ReprobookError
from reprobook.nn.lm import load_lm
from reprobook.papers.scmmgpt import h5ad, stage1, texts
from reprobook.papers.scmmgpt.cells import labels_of, read_counts
from reprobook.papers.scmmgpt.decoder import ExpressionDecoder
from reprobook.papers.scmmgpt.encoder import load_scgpt
from reprobook.papers.scmmgpt.qformer import QFormer, load_bert
from reprobook.papers.scmmgpt.stage1 import RELEASED, Objective, Stage1, TextInput
from reprobook.papers.scmmgpt.stage2 import CellLM, Pairs, add_cell_tokens, coin_flips, sequences, with_lora
from reprobook.papers.scmmgpt.tokens import collate
from reprobook.papers.scmmgpt.values import TARGET_SCALE, transform
from reprobook.papers.scmmgpt.vocabulary import Vocabulary, symbols
from reprobook.train import fit, shuffled


def census_slice(path: Path, tissue: str, n_cells: int, version: str, seed: int = 0) -> Path:
    """Raw counts of ``n_cells`` random human cells of a ``tissue`` (tissue_general) of the CELLxGENE census, each from
    its primary data set, in random order: an ``.h5ad`` file in the cache, fetched once for all runs, to which ``path``
    becomes a link; what is at ``path`` already is kept. Needs the package cellxgene-census and a network."""
    if path.is_file():
        return path
    key = "-".join(["census", re.sub(r"[^A-Za-z0-9]+", "_", tissue), str(n_cells), version, f"seed{seed}"])
    kept = convert_once(key, lambda folder: _fetch_slice(folder / "cells.h5ad", tissue, n_cells, version, seed))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # a link whose end was cleared away
    path.symlink_to(kept / "cells.h5ad")
    return path


def _fetch_slice(path: Path, tissue: str, n_cells: int, version: str, seed: int) -> None:
    try:
        import cellxgene_census  # type: ignore[import-not-found]
    except ImportError as error:
        raise ReprobookError(
            "a census slice needs the package cellxgene-census (pip install cellxgene-census); or give cells_file, the "
            "path of an .h5ad file of raw counts with a column cell_type"
        ) from error
    with cellxgene_census.open_soma(census_version=version) as census:
        human = census["census_data"]["homo_sapiens"]
        columns = ["soma_joinid", "cell_type"]
        value_filter = f"tissue_general == {tissue!r} and is_primary_data == True"
        obs = human.obs.read(value_filter=value_filter, column_names=columns).concat().to_pandas()
        chosen = obs.sample(min(n_cells, len(obs)), random_state=seed)
        found = cellxgene_census.get_anndata(
            census, "homo_sapiens", obs_coords=np.sort(chosen["soma_joinid"].to_numpy()), column_names={"obs": columns}
        )
    order = np.random.default_rng(seed).permutation(found.n_obs)
    frame = pd.DataFrame({"cell_type": found.obs["cell_type"].astype(str).to_numpy()[order]}, index=order.astype(str))
    h5ad.write(path, found.X[order], frame, pd.DataFrame(index=found.var["feature_name"].astype(str)))


class CellFile:
    """An ``.h5ad`` file of counts that is read in blocks of neighbouring rows: memory does not grow with it.

    Blocks come in random order; rows should lie in random order in the file (:func:`census_slice` sees to it). ``raw``
    as in :func:`reprobook.papers.scmmgpt.cells.read_h5ad`."""

    def __init__(self, path: str | Path, vocabulary: Vocabulary, label: str = "cell_type", n_valid: int = 0) -> None:
        self.path, self.vocabulary = Path(path), vocabulary
        with h5ad.opened(path) as file:
            self.raw = any(name in file for name in ("raw/X", "raw.X"))
            found = h5ad.matrix(file, self.raw)
            obs, var = h5ad.tables(file, found)
            self.shape = found.shape
        genes = list(var["feature_name"]) if "feature_name" in var else list(var.index)
        self.ids = vocabulary.lookup(symbols(genes, None))
        self.known = np.flatnonzero(self.ids >= 0)
        if not len(self.known):
            raise ReprobookError(f"{self.path.name}: none of its {len(genes)} genes is in the vocabulary")
        self.labels = np.array(labels_of(obs, label), dtype=object)
        self.types = sorted(set(self.labels))
        self.y = np.searchsorted(self.types, self.labels)
        self.n_train = self.shape[0] - n_valid
        if self.n_train < 1:
            raise ReprobookError(f"{self.path.name} has {self.shape[0]} cells; {n_valid} of them are held out")

    def rows(self, start: int, stop: int) -> tuple[Any, np.ndarray, np.ndarray]:
        """Counts of known genes, totals over all genes, and types of rows [start, stop)."""
        with h5ad.opened(self.path) as file:
            counts = read_counts(h5ad.matrix(file, self.raw), start, stop)
        return counts[:, self.known], np.asarray(counts.sum(axis=1)).ravel(), self.y[start:stop]

    def block(self, batch_size: int, seed: int) -> Callable[[int], tuple[int, int]]:
        """Micro-step -> (start, stop) of a block of training rows: each block once per pass, in random order."""
        n_blocks = self.n_train // batch_size
        if not n_blocks:
            raise ReprobookError(
                f"{self.path.name} has {self.n_train} training cells: fewer than a batch of {batch_size}"
            )
        order = shuffled(n_blocks, 1, seed=seed)
        return lambda i: (int(order(i)) * batch_size, (int(order(i)) + 1) * batch_size)


def texts_of(types: Sequence[str], texts_file: str) -> list[str]:
    """One text per label: from a JSON file label -> definition (such as Cell Ontology's), else in our own words where
    we have them, else the name alone."""
    given: Mapping[str, str] = json.loads(Path(texts_file).read_text("utf-8")) if texts_file else {}
    own = {name: t for t in texts.PBMC for name in (t.name, t.label)}
    found = []
    for label in types:
        if label in given:
            found.append(f"cell type: {label}. {given[label]}")
        else:
            found.append(own[label].text() if label in own else f"cell type: {label}.")
    return found


def open_stage1(scgpt: str | Path, bert: str | Path, n_queries: int, caption: bool) -> tuple[Stage1, Any, Vocabulary]:
    """Stage 1 from scGPT's checkpoint and BiomedBERT's weights; its tokenizer with [DEC]; scGPT's vocabulary."""
    from transformers import AutoModel, AutoTokenizer

    encoder, names = load_scgpt(scgpt)
    body = AutoModel.from_pretrained(bert, local_files_only=True, use_safetensors=True)
    tokenizer = AutoTokenizer.from_pretrained(bert, local_files_only=True)
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    c = body.config
    qformer = QFormer(
        c.hidden_size, c.num_hidden_layers, c.num_attention_heads, c.intermediate_size, n_queries, encoder.dim,
        dropout=c.hidden_dropout_prob,
    )  # fmt: skip
    weights = body.state_dict()
    load_bert(qformer, weights)
    text = TextInput(c.hidden_size, len(tokenizer), None, c.max_position_embeddings)
    with torch.no_grad():
        text.words.weight[: c.vocab_size] = weights["embeddings.word_embeddings.weight"]
        text.positions.weight[:] = weights["embeddings.position_embeddings.weight"]
    objective = Objective(group=RELEASED.group, mask_same=RELEASED.mask_same, caption=caption)
    model = Stage1(encoder, qformer, text, objective, min(256, c.hidden_size), len(tokenizer) - 1)
    return model, tokenizer, Vocabulary(names)


def train(folder: Path, **s: Any) -> dict[str, Any]:
    """One of the launched processes: stage 1, then stage 2 on its frozen queries. Settings ``s`` as the notebook gives
    them (plain values). Returns losses, descriptions and pseudo-cells' summaries of held-out cells."""
    model, tokenizer, vocabulary = open_stage1(Path(s["scgpt"]), Path(s["bert"]), s["n_queries"], s["caption"])
    cells = CellFile(Path(s["cells"]), vocabulary, n_valid=s["n_valid"])
    words = texts_of(cells.types, s["texts_file"])
    bank = stage1.read_texts(words, tokenizer, max_length=s["max_text"])

    def tokens(start: int, stop: int) -> tuple[Any, Any, np.ndarray, np.ndarray]:
        counts, totals, y = cells.rows(start, stop)
        inputs = transform(counts, totals, s["values"], seed=start)
        return collate(inputs, cells.ids[cells.known], vocabulary, s["max_length"]), counts, totals, y

    block = cells.block(s["batch_1"], s["seed"])

    def batch_1(i: int) -> Any:
        made, _, _, y = tokens(*block(i))
        kinds, own = np.unique(y, return_inverse=True)
        return made, torch.from_numpy(own), bank.take(torch.from_numpy(kinds))

    common = {"seed": s["seed"], "weight_decay": 1e-3, "warmup_steps": s["warmup"], "precision": s["precision"]}
    first = fit(
        model, batch_1, lambda net, b: net(*b), folder=folder / "stage1", num_steps=s["steps_1"], lr=s["lr_1"], **common
    )  # fmt: skip
    model.requires_grad_(False).eval()
    device = next(model.parameters()).device
    llm, llm_tokenizer = load_lm(Path(s["llm"]), dtype="bf16" if device.type == "cuda" else "fp32")
    ids = add_cell_tokens(llm_tokenizer, llm, s["n_queries"])
    width = llm.get_input_embeddings().embedding_dim
    torch.manual_seed(s["seed"])
    decoders = [ExpressionDecoder(len(vocabulary), width, s["decoder_dim"]) for _ in range(2)]
    whole = CellLM(with_lora(llm), ids, model.qformer.dim, *decoders)
    token_ids = [llm_tokenizer(text, add_special_tokens=False).input_ids for text in words]
    block_2 = cells.block(s["batch_2"], s["seed"] + 1)

    @torch.no_grad()
    def pairs(i: int) -> Pairs:
        made, counts, totals, y = tokens(*block_2(i))
        z = model.queries(type(made)(*(e.to(device) for e in made))).float()
        target = transform(counts, totals, "log1p", TARGET_SCALE)
        own = [token_ids[k] for k in y]
        rows = sequences(own, coin_flips(len(own), i, s["seed"]).tolist(), ids, s["max_text"])
        genes = made.genes[:, 1:]
        real = ~made.padding[:, 1:]
        place = np.full(len(vocabulary), 0)
        place[cells.ids[cells.known]] = np.arange(len(cells.known))
        wanted = torch.from_numpy(target.toarray()).gather(1, torch.from_numpy(place)[genes])
        return Pairs(rows, z.cpu(), genes, wanted, real)

    second = fit(
        whole, pairs, lambda net, b: net(b), folder=folder / "stage2", num_steps=s["steps_2"], lr=s["lr_2"],
        schedule="cosine", **common,
    )  # fmt: skip
    return _tried(model, whole, llm_tokenizer, tokens, cells, bank, words, token_ids, s) | {
        "stage 1": first.rows[-1], "stage 2": second.rows[-1],
    }  # fmt: skip


@torch.no_grad()
def _tried(
    model: Stage1, whole: CellLM, tokenizer: Any, tokens: Any, cells: CellFile, bank: Any, words: list[str],
    token_ids: list[list[int]], s: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Held-out cells annotated and described, and pseudo-cells of their types over the file's known genes."""
    whole.eval()
    device = next(model.parameters()).device
    made, counts, totals, y = tokens(cells.n_train, cells.shape[0])
    half = len(y) // 2
    scores = stage1.annotate(model, made, bank, batch_size=8)
    valid = stage1.Scores(scores.s[:half], scores.p[:half])
    alpha = stage1.choose_alpha(valid, torch.from_numpy(y[:half]))
    predicted = scores.fused(alpha).argmax(1).numpy()[half:]
    few = torch.arange(half, min(half + s["n_described"], len(y)))
    z = model.queries(type(made)(*(e.to(device) for e in made.take(few)))).float()
    said = whole.describe(z, tokenizer, beams=s["beams"], max_new=s["max_new"], batch_size=2)
    genes = torch.from_numpy(cells.ids[cells.known])
    generated = whole.imagine([token_ids[y[k]] for k in few.tolist()], genes, batch_size=2).numpy()
    real = transform(counts[few.numpy()], totals[few.numpy()], "log1p", TARGET_SCALE).toarray()
    return {
        "alpha": alpha, "truth": y[half:].tolist(), "predicted": predicted.tolist(), "described": said,
        "reference": [words[y[k]] for k in few.tolist()], "error": float(np.mean((generated - real) ** 2)),
        "zeros": float((generated <= 1e-6).mean()), "zeros of real cells": float((real == 0).mean()),
    }  # fmt: skip


def launched(
    folder: Path, *, steps: Sequence[int], cpu: bool, cells: Path, scgpt: Path, bert: Path, llm: Path, **settings: Any
) -> pd.DataFrame:
    """:func:`train` on all GPUs (or one processor), as a table of what it found. Settings of the scripts that the
    notebook does not vary: 12 and 4 samples a GPU, peak rates of 1e-5, texts of 128 tokens, bf16 on GPUs."""
    from reprobook.papers.scmmgpt import evaluation as ev
    from reprobook.train.launch import launch

    fixed = {
        "batch_1": 12, "batch_2": 4, "lr_1": 1e-5, "lr_2": 1e-5, "max_text": 128, "values": "binned", "caption": False,
        "decoder_dim": 512, "n_described": 8, "precision": "fp32" if cpu else "bf16",
    }  # fmt: skip
    paths = {name: str(path) for name, path in {"cells": cells, "scgpt": scgpt, "bert": bert, "llm": llm}.items()}
    arguments = {**fixed, **settings, **paths, "steps_1": steps[0], "steps_2": steps[1]}
    found = launch(
        "reprobook.papers.scmmgpt.released:train", arguments, folder=folder, num_processes=1 if cpu else None, cpu=cpu
    )  # fmt: skip
    scores = {
        "alpha": found["alpha"], "balanced accuracy": ev.balanced_accuracy(found["truth"], found["predicted"]),
        "BLEU-2 of descriptions": ev.bleu2(found["described"], found["reference"]),
        "ROUGE-L of descriptions": ev.rouge_l(found["described"], found["reference"]),
        "squared error of pseudo-cells": found["error"], "zeros of pseudo-cells": found["zeros"],
        "zeros of real cells": found["zeros of real cells"],
        **{f"loss, {stage}": found[stage]["loss"] for stage in ("stage 1", "stage 2")},
    }  # fmt: skip
    return pd.DataFrame(scores.items(), columns=["quantity", "value"])
