"""What a number depends on: the content key of a run, its run id, and the reasons why a record is stale."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.metadata
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprobook.content.closure import close
from reprobook.content.excuses import changed_definitions, changes, excused, noted
from reprobook.content.source import ALL, digest
from reprobook.errors import ReprobookError
from reprobook.project import atomic_write, cache_dir, check_slug, notebook_path, read_text, root
from reprobook.yaml_files import load_yaml

if TYPE_CHECKING:
    from reprobook.record import Record

UNCOUNTED_TAGS = frozenset({"display", "parameters", "injected-parameters"})
_WHERE_ONLY = ("out_dir", "device")  # say where a run works, not what it computes
_PER_RUN = ("scale", "seed")


def content_key(slug: str, params: Mapping[str, Any], data: Mapping[str, str]) -> dict[str, Any]:
    """Everything that can move a number of chapter ``slug`` run with ``params`` on ``data`` (id -> checksum).

    Returns ``{digest, cells, params, data, packages: {name: version}, definitions: {"module:name": digest},
    facts: {what: digest}}``, found by reading the library that is imported, and notebook and facts of the checkout that
    :func:`reprobook.project.root` names, without running any of it. Cells tagged ``display`` or ``parameters`` don't
    count as code; of the parameters the values count.
    """
    key = {
        **_code(check_slug(slug)),
        "params": _counted(params),
        "data": dict(sorted(data.items())),
    }
    return {"digest": _sha(key), **key}


def digest_with(key: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], str]:
    """The digest of the same chapter and data with other parameters, as a function of them: for plans of thousands of
    runs, it reads nothing and hashes what all of them share once."""
    rest = {name: value for name, value in key.items() if name != "digest"}
    head, _, tail = _plain({**rest, "params": None}).rpartition('"params": null')
    shared = hashlib.sha256(f'{head}"params": '.encode())
    usual = key["params"]
    written = {name: _item(name, value) for name, value in usual.items()}

    def digest_of(params: Mapping[str, Any]) -> str:
        counted = _counted(params)
        items = (  # identity, not equality: 1, 1.0 and True are equal and written in different ways
            written[name] if name in usual and usual[name] is value else _item(name, value)
            for name, value in counted.items()
        )
        found = shared.copy()
        found.update(f"{{{', '.join(items)}}}{tail}".encode())
        return found.hexdigest()

    return digest_of


def _item(name: str, value: Any) -> str:
    return f"{_plain(name)}: {_plain(value)}"


def run_id(slug: str, scale: str, seed: int, params: Mapping[str, Any], content: Mapping[str, Any]) -> str:
    """Name of a run, such as ``laptop-seed1-1a2b3c4d5e``: another device, parameter, code or data is another run."""
    where = {name: params[name] for name in _WHERE_ONLY if name in params and name != "out_dir"}
    return f"{scale}-seed{seed}-{_sha([slug, content['digest'], where])[:10]}"


def staleness(*records: Record) -> list[str]:
    """Why the numbers of these records of one chapter and scale may differ from what runs would give now; ``[]`` if
    they are current. What the chapter is now is worked out once: only its seeds differ, which are not compared."""
    from reprobook.data import ChapterData
    from reprobook.params import resolve

    slug, scale = records[0].slug, records[0].scale
    try:
        params = resolve(slug, scale, {"seed": records[0].seed})
        now = content_key(slug, params, ChapterData(slug, scale, params).checksums())
    except ReprobookError as error:
        return [f"the chapter cannot be read now: {error}"]
    silent = ["the record does not say what it was made from"]
    found = [differences(each.content, now, slug) if each.content is not None else silent for each in records]
    return list(dict.fromkeys(reason for reasons in found for reason in reasons))


def differences(then: Mapping[str, Any], now: Mapping[str, Any], slug: str = "") -> list[str]:
    """Readable reasons why two content keys of one chapter differ (scale and seed are not compared).

    Changes that were shown to move no number of chapter ``slug`` are left out (:mod:`reprobook.content.excuses`)."""
    steps = noted()
    reasons = ["a code cell changed"] if then["cells"] != now["cells"] else []
    reasons += [
        f"{name} {_how(old, new)}"
        for name, (old, new) in changed_definitions(then["definitions"], now["definitions"]).items()
        if not (slug and excused(slug, name, old, new, steps))
    ]
    reasons += [f"{name} changed" for name, _, _ in changes(then.get("facts", {}), now.get("facts", {}))]
    for name, old, new in changes(then["packages"], now["packages"]):
        reasons.append(f"package {name} {old or 'not used'} -> {new or 'not used'}")
    reasons += [f"data {name} {_how(old, new)}" for name, old, new in changes(then["data"], now["data"])]
    stored = json.loads(json.dumps([then["params"], now["params"]], default=str))  # a file knows no tuples
    names = [name for name, _, _ in changes(*stored) if name not in _PER_RUN]
    return reasons + [f"parameter {name} {_shown(name, then)} -> {_shown(name, now)}" for name in names]


def _how(old: Any, new: Any) -> str:
    if old == "not available":  # an optional artefact that the run did without
        return "was not available"
    return "changed" if old and new else "is no longer used" if old else "is used now"


def _shown(name: str, key: Mapping[str, Any]) -> str:
    return repr(key["params"][name]) if name in key["params"] else "not declared"


def _code(slug: str) -> dict[str, Any]:
    """``cells``, ``packages`` and ``definitions`` of the chapter's code as it stands."""
    library = sorted((library_folder() / "reprobook").rglob("*.py"))
    files = [notebook_path(slug), _facts_path(slug), root() / "requirements.lock", *library]
    seen = tuple((str(path), *_stamp(path)) for path in files)
    return _code_of(slug, seen)


@functools.lru_cache(maxsize=64)
def _code_of(slug: str, seen: tuple[tuple[Any, ...], ...]) -> dict[str, Any]:  # noqa: ARG001 - the cache's key
    """:func:`_code`, remembered as long as none of the files in ``seen`` changes."""
    reached = _reached(slug)
    pinned = _pinned()
    found = sorted(_version(name, pinned) for name in reached["imports"])
    packages = {name: version for name, version in found if version}
    facts = _facts(slug, reached["tables"])
    return {"cells": reached["cells"], "packages": packages, "definitions": reached["definitions"], "facts": facts}


def _facts_path(slug: str) -> Path:
    return root() / "book" / "papers" / f"{slug}.yaml"


def _facts(slug: str, tables: Iterable[str]) -> dict[str, str]:
    """Digests of what a chapter computes with of its paper's facts: the tables that its code reads, and the rule that
    decides each claim."""
    path, name = _facts_path(slug), f"book/papers/{slug}.yaml"
    facts = (load_yaml(read_text(path, name), name) if path.is_file() else None) or {}
    reported, claims = facts.get("tables") or {}, facts.get("claims") or {}
    wanted = reported if ALL in tables else [name for name in tables if name in reported]
    found = {
        f"table {name} of the facts": _sha([reported[name].get("columns"), reported[name].get("rows")])[:16]
        for name in wanted
    }
    for cid, claim in claims.items():
        if "claims" in tables:
            found[f"the figures of {cid}"] = _sha(claim.get("paper"))[:16]
        for part in ("tests", "controls", "seeds", "extension"):
            if claim.get(part):
                found[f"the {part} of {cid}"] = _sha(claim[part])[:16]
    return dict(sorted(found.items()))


def _reached(slug: str) -> dict[str, Any]:
    """``cells`` (digest), ``imports`` (of other packages) and ``definitions`` that a chapter's code cells reach.

    To follow the code takes half a second, so the answer is kept in the cache with the digest of all that it was read
    from: notebook, library, these rules and version of Python."""
    library = library_folder() / "reprobook"
    texts = {"python": sys.version.encode(), "notebook": notebook_path(slug).read_bytes()}
    texts |= {f"rules {path.name}": path.read_bytes() for path in Path(__file__).parent.glob("*.py")}
    texts |= {str(path.relative_to(library)): path.read_bytes() for path in library.rglob("*.py")}
    digests = sorted((name, hashlib.sha256(text).hexdigest()) for name, text in texts.items())
    source = _sha(digests)
    kept = cache_dir() / "code" / f"{slug}.json"
    try:
        found = json.loads(kept.read_bytes())
        if found["source"] == source:
            return found["reached"]
    except (OSError, ValueError, TypeError, KeyError):  # never kept, or damaged
        pass
    reached = _follow(json.loads(texts["notebook"]))
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
        atomic_write(kept, json.dumps({"source": source, "reached": reached}))
    return reached


def _follow(notebook: Mapping[str, Any]) -> dict[str, Any]:
    cells = counted_cells(notebook)
    closure = close(cells, library_folder())
    return {
        "cells": digest((node for cell in cells for node in ast.parse(cell).body), closure.unheard),
        "tables": sorted(closure.tables),
        "imports": sorted(closure.packages),
        "definitions": dict(sorted(closure.definitions.items())),
    }


def counted_cells(notebook: Mapping[str, Any]) -> list[str]:
    """Sources of the code cells that make numbers, as plain Python."""
    return [
        plain_python("".join(cell["source"]))
        for cell in notebook["cells"]
        if cell["cell_type"] == "code" and not UNCOUNTED_TAGS & set(cell.get("metadata", {}).get("tags", []))
    ]


def plain_python(source: str) -> str:
    """A cell without its IPython lines (those that start with % or !); what is still not Python becomes one string."""
    for text in (source, re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.MULTILINE)):
        try:
            ast.parse(text)
            return text
        except SyntaxError:
            continue
    return repr(source)


def library_folder() -> Path:
    """Folder that holds the package that runs, here and in every kernel, even if the checkout has another one."""
    return Path(__file__).resolve().parents[2]


def _version(package: str, pinned: Mapping[str, str]) -> tuple[str, str]:
    """``(distribution, version)`` of an import name: as pinned in requirements.lock, else as installed, else ''."""
    others = [found.name for found in _distributions().get(package, [])] if _normal(package) not in pinned else []
    names = [package, *others]
    for name in names:
        if version := pinned.get(_normal(name)):
            return _normal(name), version
    for name in names:
        try:
            return _normal(name), importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return _normal(package), ""


@functools.cache
def _distributions() -> Mapping[str, list[importlib.metadata.Distribution]]:
    """Import name -> the installed distributions that bring it. As `importlib.metadata.packages_distributions`, which
    parses the metadata of all of them and makes an object of every file: most of the time of a command."""
    found: dict[str, list[importlib.metadata.Distribution]] = {}
    for each in importlib.metadata.distributions():
        names = (each.read_text("top_level.txt") or "").split()
        if not names:
            files = (line.partition(",")[0] for line in (each.read_text("RECORD") or "").splitlines())
            names = [path.partition("/")[0].partition(".")[0] for path in files]
        for name in set(names):
            found.setdefault(name, []).append(each)
    return found


def _pinned() -> dict[str, str]:
    """Distribution -> version of requirements.lock."""
    path = root() / "requirements.lock"
    lines = read_text(path, path.name).splitlines() if path.is_file() else []
    found = (re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;+]+)", line) for line in lines)
    return {_normal(match[1]): match[2] for match in found if match}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of change; zeros if there is no such file."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def _counted(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in sorted(params.items()) if name not in _WHERE_ONLY}


_plain = json.JSONEncoder(sort_keys=True, default=str).encode  # json.dumps would make an encoder for each of thousands


def _sha(value: Any) -> str:
    return hashlib.sha256(_plain(value).encode()).hexdigest()
