"""The miniature hub: a Hugging Face cache folder with a tiny stand-in for every hub artefact of a chapter.

``python -m reprobook.rehearsal.hub <slug> <folder>`` builds it. Files lie where `huggingface_hub` looks for them,
``models--org--name/{refs,snapshots/<commit>}``; only what the manifest's ``allow_patterns`` would fetch is there.
"""

from __future__ import annotations

import hashlib
import importlib
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from reprobook.data.manifest import Artefact, HubSource


def build(slug: str, hub: Path) -> list[str]:
    """Write the miniatures of all hub artefacts that the paper scale of ``slug`` uses; returns their ids.

    Raises :class:`ReprobookError` naming the artefact if it has no recipe, the recipe does not work, or it does not
    make the files that ``allow_patterns`` asks for.
    """
    from reprobook.data import load_manifest

    artefacts = [artefact for artefact in load_manifest(slug).at("paper") if artefact.source.hub]
    for artefact in artefacts:
        _build_one(slug, artefact, hub)
    return [artefact.id for artefact in artefacts]


def _build_one(slug: str, artefact: Artefact, hub: Path) -> None:
    source = artefact.source.hub
    assert source is not None
    if artefact.miniature is None:
        raise ReprobookError(f"{artefact.id} has no miniature in data_manifests/{slug}.yaml: add a recipe")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            write_miniature(artefact.miniature, folder)
        except Exception as error:  # whatever a recipe runs into, the artefact has to be named
            raise ReprobookError(
                f"{artefact.id}: its miniature cannot be made: {type(error).__name__}: {error}"
            ) from error
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        _install(folder, _wanted(artefact.id, source, files), source, hub)


def write_miniature(recipe: Mapping[str, Any], folder: Path) -> None:
    """Follow a recipe: ``{function, arguments}`` writes the folder itself, ``{format, ...}`` is a data set
    (:mod:`reprobook.rehearsal.tables`), anything else a model or tokenizer (:mod:`reprobook.rehearsal.models`)."""
    if "function" in recipe:
        module, _, function = recipe["function"].partition(":")
        getattr(importlib.import_module(module), function)(folder, **recipe.get("arguments", {}))
    elif "format" in recipe:
        from reprobook.rehearsal.tables import write_tables

        write_tables(recipe, folder)
    else:
        from reprobook.rehearsal.models import write_model

        write_model(recipe, folder)


def _wanted(name: str, source: HubSource, files: list[str]) -> list[str]:
    """The files that ``allow_patterns`` selects; a pattern that selects none is a mistake in recipe or manifest."""
    from huggingface_hub.utils import filter_repo_objects

    found = {pattern: list(filter_repo_objects(files, allow_patterns=[pattern])) for pattern in source.allow_patterns}
    idle = [pattern for pattern, matched in found.items() if not matched]
    if idle:
        made = ", ".join(files) or "nothing"
        raise ReprobookError(
            f"{name}: its miniature has no file for {', '.join(idle)} of allow_patterns; it makes {made}"
        )
    return sorted({path for matched in found.values() for path in matched})


def _install(folder: Path, files: list[str], source: HubSource, hub: Path) -> None:
    """Copy ``files`` into the cache; artefacts of one repository share its snapshot."""
    from huggingface_hub.file_download import repo_folder_name

    repo = hub / repo_folder_name(repo_id=source.repo_id, repo_type=source.repo_type)
    commit = source.revision or hashlib.sha1(source.repo_id.encode()).hexdigest()
    if source.revision is None:
        (repo / "refs").mkdir(parents=True, exist_ok=True)
        (repo / "refs" / "main").write_text(commit)
    for name in files:
        target = repo / "snapshots" / commit / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, target)


if __name__ == "__main__":
    try:
        build(sys.argv[1], Path(sys.argv[2]))
    except ReprobookError as error:
        sys.exit(str(error))
