"""Records that the book shows: a complete run of clean, committed code becomes ``book/results/<scale>/...``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprobook import record
from reprobook.authoring import curves
from reprobook.content.key import staleness
from reprobook.errors import ReprobookError
from reprobook.params import resolve
from reprobook.project import atomic_write, check_package

if TYPE_CHECKING:
    from reprobook.record import Record


def check_publishable(slug: str, scale: str, params: Mapping[str, Any]) -> None:
    """Refuse before the run what could not be published after it: smoke runs, changed parameters, uncommitted code."""
    if scale == "smoke":
        raise ReprobookError("a smoke run is no evidence: publish a run at scale laptop or paper")
    usual = resolve(slug, scale, {"seed": params["seed"]})
    changed = [name for name, value in params.items() if name != "device" and value != usual[name]]
    if changed:
        raise ReprobookError(f"only the parameters of the scale are published, but {', '.join(changed)} is overridden")
    if why_not := record.of_commit()[1]:
        raise ReprobookError(why_not)


def publish(found: Record, folder: Path) -> Path:
    """Copy a record, its scores, its pictures and its learning curves from the run's ``folder`` into the book.

    Raises :class:`ReprobookError` unless the run is complete, of clean code, and current."""
    name = f"{found.slug}, {found.scale}, seed {found.seed}"
    if found.status != "complete":
        raise ReprobookError(f"the run of {name} is {found.status}: only complete runs are published")
    check_package()
    if found.commit is None:
        raise ReprobookError(f"the run of {name} was made where git could not name the commit: see `reprobook doctor`")
    if not found.clean:
        raise ReprobookError(f"the run of {name} was made with uncommitted changes: commit them and run --again")
    if reasons := staleness(found):
        raise ReprobookError(f"the run of {name} is stale: {'; '.join(reasons)}")
    path = record.result_path(found.slug, found.scale, found.seed)
    for old in path.parent.glob(f"{path.stem}.*.*"):  # scores and pictures of the record before
        old.unlink()
    beside = {"scores.npz": folder / "record.scores.npz"}
    beside |= {each.file: folder / "pictures" / each.file for each in found.pictures.values()}
    for name, source in beside.items():
        if source.is_file():
            atomic_write(path.with_name(f"{path.stem}.{name}"), source.read_bytes())
    if trained := curves.kept(folder):
        atomic_write(path.with_name(f"{path.stem}.curves.csv"), trained)
    record.write(found, path)
    return path
