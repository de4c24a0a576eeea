"""The miniature hub: a Hugging Face cache folder with a tiny stand-in for every hub artefact of a chapter.

``python -m reprobook.rehearsal.hub <slug> <folder>`` builds it. Files lie where `huggingface_hub` looks for them,
``models--org--name/{refs,snapshots/<commit>}``; only what the manifest's ``allow_patterns`` would fetch is there.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from reprobook.data.manifest import Artefact


def build(slug: str, hub: Path) -> list[str]:
    """Write the miniatures of all hub artefacts that the paper scale of ``slug`` can use; returns their ids.

    Raises :class:`ReprobookError` naming the artefact if it has no recipe, the recipe does not work, or it does not
    make the files that ``allow_patterns`` asks for.
    """
    from reprobook.data import load_manifest

    listed = [artefact for artefact in load_manifest(slug).artefacts if "paper" in artefact.scales]
    artefacts = [artefact for artefact in listed if artefact.source.value.rehearsed]
    for artefact in artefacts:
        _build_one(slug, artefact, hub)
    return [artefact.id for artefact in artefacts]


def _build_one(slug: str, artefact: Artefact, hub: Path) -> None:
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
        artefact.source.value.stand_in(artefact.id, folder, hub)


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


if __name__ == "__main__":
    try:
        build(sys.argv[1], Path(sys.argv[2]))
    except ReprobookError as error:
        sys.exit(str(error))
