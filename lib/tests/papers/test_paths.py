"""Readers take a path as text or as a Path: their signatures say so, and what is small is read in both ways."""

from __future__ import annotations

import ast
import bz2
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import reprobook
from reprobook import record
from reprobook.data.corpus import read_column, wikipedia_characters
from reprobook.errors import ReprobookError
from reprobook.nn import lm
from reprobook.papers.alias_free_ldm import data as pictures
from reprobook.papers.alias_free_ldm import released as alias_free
from reprobook.papers.block_diffusion import corpus
from reprobook.papers.block_diffusion.released import load_released
from reprobook.papers.cost_optimal_gqa import released as gqa
from reprobook.papers.mc_diffusion_ransac import matching, two_view_sets
from reprobook.papers.mc_diffusion_ransac import released as matchers
from reprobook.papers.more_documents import planted
from reprobook.papers.more_documents import released as documents
from reprobook.papers.tpdiff import openvid, video

ROOMS = ("papers", "nn", "data", "record")
INNER = {"read_manifest_file", "read_all"}  # called with places that the library itself chose
FETCHED = ("stasc", "quantizing_code_llms")  # their readers are given what the data room fetched
OTHERS = {
    "clips", "converted", "entries", "frame_pairs", "king_james", "photographs", "real_clips", "real_matches",
    "released_sets", "split_files", "stereo_gap", "stored", "stream", "wanted_pages", "wikipedia",
    "wikipedia_articles", "wikipedia_characters", "Photos", "CellFile", "Vocabulary",
}  # fmt: skip


def readers() -> Iterator[tuple[str, ast.FunctionDef]]:
    """(file:name, definition) of public functions, methods and constructors that read what a path leads to."""
    for room in ROOMS:
        for file in sorted((Path(reprobook.__file__).parent / room).rglob("*.py")):
            text = file.read_text("utf-8")
            for node in ast.parse(text).body if "Path" in text else ():
                inner = node.body if isinstance(node, ast.ClassDef) else [node]
                for each in inner:
                    if isinstance(each, ast.FunctionDef):
                        name = node.name if each.name == "__init__" else each.name
                        if (
                            name not in INNER
                            and file.parent.name not in FETCHED
                            and (name in OTHERS or name.split("_")[0] in ("read", "load", "open"))
                        ):
                            yield f"{file.parent.name}/{file.name}:{name}", each


def test_the_signature_of_every_reader_allows_text() -> None:
    found, wrong = 0, []
    for name, definition in readers():
        for argument in (*definition.args.args, *definition.args.kwonlyargs):
            kind = ast.unparse(argument.annotation) if argument.annotation else ""
            words = set(kind.replace("[", " ").replace("]", " ").replace(",", " ").split())
            if argument.arg not in ("self", "cls") and words & {"Path", "FilePath"}:
                found += 1
                if "str | Path" not in kind and "str | FilePath" not in kind and "Path | str" not in kind:
                    wrong.append(f"{name}({argument.arg}: {kind})")
    assert found > 40 and not wrong, wrong


def _prepare(folder: Path) -> None:
    """A file of each kind."""
    cv2.imwrite(str(folder / "a.png"), np.full((8, 8), 7, np.uint8))
    cv2.imwrite(str(folder / "depth.png"), np.full((8, 8), 1500, np.uint16))
    np.save(folder / "0.npy", np.ones((9, 4)))
    np.savez(folder / "index.npz", name=np.arange(3))
    pd.DataFrame({"title": ["A", "B"], "text": ["x", "y"]}).to_parquet(folder / "train.parquet")
    (folder / "rows.csv").write_text("\n".join([",".join(["0"] * 64 + ["3"])] * 2))
    page = "<page><ns>0</ns><title>A</title><revision><text>some words of it</text></revision></page>"
    dump = f"<m xmlns='w'>{page * 10}</m>"
    (folder / "dump.xml.bz2").write_bytes(bz2.compress(dump.encode()))
    (folder / "config.json").write_text("{}")


READ: dict[str, Callable[[Any], Any]] = {  # what each gives of the file or folder at a path
    "a.png": lambda p: (matching.read_picture(p).sum(), pictures.read_image(p, 4).shape),
    "depth.png": lambda p: two_view_sets.read_depth(p).sum(),
    "index.npz": lambda p: two_view_sets.read_index(p)["name"].tolist(),
    "rows.csv": lambda p: video.read_digits(p)[1].tolist(),
    "train.parquet": lambda p: (list(read_column([p], "text")), documents.wanted_pages([p], {"A"})),
    "dump.xml.bz2": lambda p: (len(wikipedia_characters(p, 4).train), next(iter(planted.wikipedia(p)))),
    ".": lambda p: (
        corpus.split_files(p, "train"), matchers.stored(p)(0, None).shape, next(documents.read_files(p)),
        next(documents.read_files(p, "*.parquet")), len(alias_free.Photos(p, 8)),
    ),
}  # fmt: skip
REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {  # readers of large things: the folder is found to lack them
    "BD3-LM": (load_released, "no .*safetensors"),
    "Puzzle": (lambda p: gqa.load_released(p, 8), "no .*safetensors"),
    "grey picture": (lambda p: matching.read_picture(f"{p}/none.png"), "none.png is not a picture"),
    "scores": (lambda p: record.read(f"{p}/none.json"), "none.json"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("files")
    _prepare(made)
    return made


@pytest.mark.parametrize("name", READ)
def test_text_reads_what_a_path_reads(folder: Path, name: str) -> None:
    assert READ[name](str(folder / name)) == READ[name](folder / name)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_there_is_missed_in_the_same_words(folder: Path, name: str) -> None:
    read, message = REFUSED[name]
    for path in (folder, str(folder)):
        with pytest.raises(ReprobookError, match=message):
            read(path)


def test_larger_things_are_read_from_text(tmp_path: Path) -> None:
    openvid.write_miniature(tmp_path, parts=1, n=10, n_frames=30)
    assert openvid.clips(str(tmp_path), 3, 1.0) == openvid.clips(tmp_path, 3, 1.0)
    clip = tmp_path / "a.mp4"
    clip.write_bytes(openvid._square(3, 4))
    assert np.array_equal(video.decode(str(clip), 16), video.decode(clip, 16))
    assert len(pictures.read_frames(str(clip), 16)) == 3
    assert record.read_scores(str(tmp_path / "none.json")) == {}
    (tmp_path / "model.gguf").write_text("none")
    with pytest.raises(ReprobookError, match="model.gguf is not a GGUF file"):
        lm.converted(str(tmp_path / "model.gguf"))
