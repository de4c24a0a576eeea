"""Data manifests: ``data_manifests/<slug>.yaml`` lists every artefact a chapter touches, at every scale.

``python -m reprobook.data`` prints the JSON schema that is stored as ``data_manifests/schema.json``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from reprobook import project
from reprobook.data.bundled import BundledSource
from reprobook.data.errors import ManifestError
from reprobook.data.generated import GeneratedSource
from reprobook.data.hub import HubSource
from reprobook.data.package import PackageSource
from reprobook.data.source import Owner, Strict
from reprobook.data.url import UrlSource
from reprobook.yaml_files import load_yaml

if TYPE_CHECKING:
    from reprobook.data.source import SourceKind

SHARED = "shared"
Scale = Literal["smoke", "laptop", "paper"]


class Source(Strict):
    """Exactly one of the five kinds."""

    package: PackageSource | None = None
    bundled: BundledSource | None = None
    generated: GeneratedSource | None = None
    hub: HubSource | None = None
    url: UrlSource | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Source:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            allowed = ", ".join(type(self).model_fields)
            raise ValueError(f"give exactly one of {allowed}; got {', '.join(given) or 'none'}")
        return self

    @property
    def value(self) -> SourceKind:
        """The one source that is given."""
        return next(v for name in type(self).model_fields if (v := getattr(self, name)) is not None)


class Artefact(Strict):
    """One data set, model or tokenizer with its licence and where it comes from."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    kind: Literal["dataset", "model", "tokenizer"]
    what: str = Field(min_length=1, description="one line for the reader")
    license: str = Field(min_length=1, description="SPDX name where there is one")
    gated: bool = False
    citation: str | None = Field(default=None, description="key in book/references.bib")
    scales: list[Scale] = Field(min_length=1)
    source: Source
    miniature: dict[str, Any] | None = Field(default=None, description="recipe of the rehearsal's stand-in; hub only")

    @model_validator(mode="after")
    def _miniature_is_of_a_hub_artefact(self) -> Artefact:
        if self.miniature is not None and not self.source.value.rehearsed:
            raise ValueError("a miniature stands in for a hub artefact; this source has none")
        return self

    def owner(self, slug: str) -> Owner:
        """What this artefact's source has to know of it, in the chapter ``slug``."""
        return Owner(slug, self.id, self.gated)


class Use(Strict):
    """An artefact of ``shared.yaml`` with the scales at which this chapter uses it."""

    use: str
    scales: list[Scale] = Field(min_length=1)


Entry = Annotated[
    Annotated[Artefact, Tag("artefact")] | Annotated[Use, Tag("use")],
    Discriminator(lambda entry: "use" if isinstance(entry, dict) and "use" in entry else "artefact"),
]


class ManifestFile(Strict):
    """A manifest as it stands in its file."""

    artefacts: list[Entry]


class Manifest(Strict):
    """A chapter's artefacts with the shared ones filled in."""

    slug: str
    artefacts: list[Artefact]

    def at(self, scale: str) -> list[Artefact]:
        """The artefacts that ``scale`` uses, in file order."""
        return [artefact for artefact in self.artefacts if scale in artefact.scales]


def load_manifest(slug: str) -> Manifest:
    """Read and check the manifest of a chapter; raises :class:`ManifestError` naming file, artefact and field."""
    entries = read_manifest_file(manifest_path(slug)).artefacts
    shared: dict[str, Artefact] = {}
    if any(isinstance(entry, Use) for entry in entries):
        common = read_manifest_file(manifest_path(SHARED)).artefacts
        shared = {entry.id: entry for entry in common if isinstance(entry, Artefact)}
    artefacts: dict[str, Artefact] = {}
    for entry in entries:
        if isinstance(entry, Use) and entry.use not in shared:
            raise ManifestError(
                f"data_manifests/{slug}.yaml: use: {entry.use!r} is not in data_manifests/shared.yaml; "
                f"it has: {', '.join(shared)}"
            )
        found = shared[entry.use].model_copy(update={"scales": entry.scales}) if isinstance(entry, Use) else entry
        if found.id in artefacts:
            raise ManifestError(f"data_manifests/{slug}.yaml: the id {found.id!r} stands there twice")
        artefacts[found.id] = found
    return Manifest(slug=slug, artefacts=list(artefacts.values()))


def manifest_path(slug: str) -> Path:
    """The manifest of a chapter, whether it is there or not."""
    return project.root() / "data_manifests" / f"{slug}.yaml"


def read_manifest_file(path: Path) -> ManifestFile:
    """Read one YAML file; raises :class:`ManifestError` if it is missing, not YAML or not valid."""
    name = f"data_manifests/{path.name}"
    if not path.exists():
        raise ManifestError(f"{name} does not exist: every chapter has a manifest, if only `artefacts: []`")
    content = load_yaml(project.read_text(path, name, ManifestError), name, ManifestError)
    try:
        return ManifestFile.model_validate(content)
    except ValidationError as error:
        raise ManifestError(f"{name} is not valid:\n" + "\n".join(_readable(error, content))) from None


def _readable(error: ValidationError, content: Any) -> list[str]:
    """One line per fault, with the artefact's id in place of its number in the list."""
    lines = []
    for fault in error.errors():
        where = [str(part) for part in fault["loc"]]
        if len(where) > 1:  # artefacts, number, reading, field...
            entry = content["artefacts"][fault["loc"][1]]
            name = (entry.get("id") or entry.get("use")) if isinstance(entry, dict) else None
            where = [f"{name or f'artefact {where[1]}'}:", ".".join(where[3:])]
        lines.append(f"  {' '.join(where).strip()} {fault['msg'].removeprefix('Value error, ')}")
    return lines


def schema() -> str:
    """The JSON schema of a manifest file, as stored in ``data_manifests/schema.json``."""
    return json.dumps(ManifestFile.model_json_schema(), indent=2, sort_keys=True) + "\n"
