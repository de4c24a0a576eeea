"""Data manifests: ``data_manifests/<slug>.yaml`` lists every artefact a chapter touches, at every scale.

``python -m reprobook.data`` prints the JSON schema that is stored as ``data_manifests/schema.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from reprobook import project
from reprobook.data.bundled import BundledSource
from reprobook.data.errors import ManifestError
from reprobook.data.generated import GeneratedSource
from reprobook.data.hub import HubFile, HubSource
from reprobook.data.joined import JoinedSource
from reprobook.data.mirrors import Mirrored
from reprobook.data.npm import NpmSource
from reprobook.data.package import PackageSource
from reprobook.data.source import CachedSource, Owner, Strict
from reprobook.data.url import UrlSource
from reprobook.params import resolve

if TYPE_CHECKING:
    from reprobook.data.source import SourceKind

SHARED = "shared"
# The same YAML, read by the C library where PyYAML has it: ten times as fast.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
Scale = Literal["smoke", "laptop", "paper"]


Hub = Annotated[
    Annotated[HubFile, Tag("file")] | Annotated[HubSource, Tag("files")],
    Discriminator(
        lambda hub: "file" if isinstance(hub, HubFile) or (isinstance(hub, dict) and "file" in hub) else "files"
    ),
]


class Source(Strict):
    """Exactly one of the kinds."""

    package: PackageSource | None = None
    bundled: BundledSource | None = None
    generated: GeneratedSource | None = None
    hub: Hub | None = None
    url: UrlSource | None = None
    npm: NpmSource | None = None
    joined: JoinedSource | None = None

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


# Parameters of the chapter and the values, or the one value, of any of them with which an artefact is used.
When = dict[str, Any]


class Artefact(Strict):
    """One data set, model or tokenizer with its licence and where it comes from."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    kind: Literal["dataset", "model", "tokenizer"]
    what: str = Field(min_length=1, description="one line for the reader")
    license: str = Field(min_length=1, description="SPDX name where there is one")
    gated: bool = False
    optional: bool = Field(default=False, description="chapters work without it, where it can be had from nowhere")
    citation: str | None = Field(default=None, description="key in book/references.bib")
    scales: list[Scale] = Field(min_length=1)
    when: When = Field(default_factory=dict, description="parameter: value, or values, with which it is used")
    source: Source
    mirrors: list[Source] = Field(default_factory=list, description="other places of the same bytes, by trust")
    miniature: dict[str, Any] | None = Field(default=None, description="recipe of the rehearsal's stand-in; hub only")

    @model_validator(mode="after")
    def _miniature_is_of_a_hub_artefact(self) -> Artefact:
        if self.miniature is not None and not self.source.value.rehearsed:
            raise ValueError("a miniature stands in for a hub artefact; this source has none")
        return self

    @model_validator(mode="after")
    def _mirrors_have_one_checksum(self) -> Artefact:
        values = [source.value for source in (self.source, *self.mirrors)]
        for value in values if self.mirrors else []:
            words = value.about().words
            if not isinstance(value, CachedSource) or (digests := value.digests(self.owner(""))) is None:
                raise ValueError(f"{words}: where there are mirrors, every place names its files and their sha256")
            if digests != (first := values[0].digests(self.owner(""))):
                raise ValueError(
                    f"mirrors hold the same bytes; {words} has {digests}, {values[0].about().words} {first}"
                )
        return self

    def used_with(self, params: Mapping[str, Any]) -> bool:
        """Whether a parameter that ``when`` names has, or has among its values, one that is meant there."""
        meant = ((params[name], values) for name, values in self.when.items())
        return not self.when or any(each in _listed(values) for given, values in meant for each in _listed(given))

    @cached_property
    def supply(self) -> SourceKind:
        """The source, with its mirrors if it has any."""
        places = [source.value for source in (self.source, *self.mirrors)]
        cached = [place for place in places if isinstance(place, CachedSource)]
        return Mirrored(places=cached) if self.mirrors else places[0]

    def owner(self, slug: str, report: Callable[[str], object] | None = None) -> Owner:
        """What this artefact's source has to know of it, in the chapter ``slug``."""
        owner = Owner(slug, self.id, self.gated)
        return owner._replace(report=report) if report else owner


class Use(Strict):
    """An artefact of ``shared.yaml`` with the scales at which this chapter uses it."""

    use: str
    scales: list[Scale] = Field(min_length=1)
    when: When = Field(default_factory=dict)


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

    def at(self, scale: str, params: Mapping[str, Any] | None = None) -> list[Artefact]:
        """The artefacts that a run at ``scale`` with ``params`` (None: the scale's own) uses, in file order."""
        found = [artefact for artefact in self.artefacts if scale in artefact.scales]
        if params is None and any(artefact.when for artefact in found):
            params = resolve(self.slug, scale)
        for artefact in found:
            if unknown := [name for name in artefact.when if name not in (params or ())]:
                raise ManifestError(
                    f"data_manifests/{self.slug}.yaml: {artefact.id}: when: the chapter has no parameter "
                    f"{', '.join(unknown)}; it has: {', '.join(params or ())}"
                )
        return [artefact for artefact in found if artefact.used_with(params or {})]

    def deciding(self, scale: str) -> list[str]:
        """The parameters that decide which artefacts ``scale`` uses."""
        return sorted({name for artefact in self.artefacts if scale in artefact.scales for name in artefact.when})


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


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
        found = (
            shared[entry.use].model_copy(update={"scales": entry.scales, "when": entry.when})
            if isinstance(entry, Use)
            else entry
        )
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
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
    except FileNotFoundError:
        raise ManifestError(f"{name} does not exist: every chapter has a manifest, if only `artefacts: []`") from None
    except yaml.YAMLError as error:
        raise ManifestError(f"{name} is not valid YAML: {error}") from None
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
