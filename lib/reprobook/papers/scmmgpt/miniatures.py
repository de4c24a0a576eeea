"""Stand-ins for what no hub holds: a scGPT folder and a file of counts, with the real names, tiny."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from reprobook.errors import ReprobookError
from reprobook.papers.scmmgpt import h5ad
from reprobook.papers.scmmgpt.encoder import CellEncoder
from reprobook.papers.scmmgpt.texts import PBMC


def place(name: str, kind: str, folder: Path) -> Path:
    """The path ``name`` as it is given, or for "miniature" a stand-in in ``folder``. ``kind``: scgpt, cells."""
    if kind not in ("scgpt", "cells"):
        raise ReprobookError(f"kind {kind!r} must be scgpt or cells")
    if name != "miniature":
        return Path(name).expanduser()
    return write_scgpt(folder / "scgpt") if kind == "scgpt" else write_cells(folder / "cells.h5ad")


def write_scgpt(folder: Path, n_genes: int = 60) -> Path:
    """``args.json``, ``vocab.json``, ``best_model.pt`` under the names of the whole-human checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {f"MINI{k}": k for k in range(n_genes)} | {"<pad>": n_genes, "<cls>": n_genes + 1, "<eoc>": n_genes + 2}
    settings = {"embsize": 16, "nlayers": 2, "nheads": 2, "d_hid": 16, "dropout": 0.2, "pad_token": "<pad>"}
    torch.manual_seed(0)
    weights = CellEncoder(len(names), n_genes, 16, 2, 2, 16).state_dict()
    released = {
        k.replace("in_proj_weight", "Wqkv.weight").replace("in_proj_bias", "Wqkv.bias"): v for k, v in weights.items()
    }
    torch.save(released | {"cls_decoder.out_layer.weight": torch.zeros(1)}, folder / "best_model.pt")
    (folder / "args.json").write_text(json.dumps(settings), "utf-8")
    (folder / "vocab.json").write_text(json.dumps(names), "utf-8")
    return folder


def write_cells(path: Path, n_cells: int = 48, n_genes: int = 64) -> Path:
    """Counts with ``cell_type`` and CELLxGENE's ``feature_name``; four genes are not in the miniature vocabulary."""
    rng = np.random.default_rng(0)
    types = np.array([PBMC[k % 3].name for k in range(n_cells)], dtype=object)
    rates = np.random.default_rng(1).gamma(1.0, 1.0, (3, n_genes))
    counts = rng.poisson(rates[np.arange(n_cells) % 3]).astype(np.float32)
    counts[:, 0] += 1
    names = pd.DataFrame(
        {"feature_name": [f"MINI{k}" for k in range(n_genes)]}, index=[f"ENSG{k:011d}" for k in range(n_genes)]
    )
    h5ad.write(
        path, sp.csr_matrix(counts), pd.DataFrame({"cell_type": types}, index=np.arange(n_cells).astype(str)), names
    )
    return path
