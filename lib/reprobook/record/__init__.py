"""What a run measured: the record, its file, its comparison with expected values, and verdicts over records."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from reprobook.errors import ReprobookError
from reprobook.hardware import hardware, peak_memory_mb
from reprobook.project import atomic_write, read_text, root
from reprobook.record.circumstances import commit, of_commit, versions

__all__ = [
    "VERDICTS", "ClaimData", "EffectData", "Mismatch", "PictureData", "Record", "RecordError", "TableData", "commit",
    "compare", "expected", "hardware", "of_commit", "peak_memory_mb", "plain", "read", "read_scores", "result_path",
    "results", "summarise_claim", "verdict", "versions", "write", "write_scores",
]  # fmt: skip
Verdict = Literal["reproduced", "partly", "not reproduced", "undecided", "not testable here"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


class RecordError(ReprobookError):
    """A record or a file of expected values that cannot be trusted; the message names the file and why."""


def plain(value: Any) -> Any:
    """``value`` as JSON knows it: numpy and torch unpacked; floats that are not finite and pandas' NA become ``None``.

    Raises :class:`RecordError` for what has no such form: its text could hold an address or a path.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy scalars and arrays, torch tensors
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str | BaseModel):
        return value
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    raise RecordError(f"a record holds numbers, texts and lists, not {type(value).__name__}: convert it first")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TableData(_Strict):
    """A table as stored: column names, rows of plain values, the columns ``key`` that name a row (rows of several runs
    are matched by them), and the paper's table that it stands beside."""

    columns: list[str]
    rows: list[list[Any]]
    caption: str = ""
    paper_table: str | None = None
    key: list[str] = []

    @model_validator(mode="after")
    def _whole(self) -> TableData:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError("every row needs one cell per column")
        if unknown := [name for name in self.key if name not in self.columns]:
            raise ValueError(f"key column {unknown[0]!r} is none of {', '.join(self.columns)}")
        places = [self.columns.index(name) for name in self.key]
        names = [tuple(str(row[place]) for place in places) for row in self.rows]
        if self.key and (twice := next((name for k, name in enumerate(names) if name in names[:k]), None)):
            raise ValueError(f"two rows have the key {', '.join(twice)}")
        return self


class EffectData(_Strict):
    """One effect as one run found it. ``low`` and ``high``: 95 % interval over ``groups`` of the ``n`` units (None
    where there is none). ``unit`` is that of the number, ``over`` says what a unit is, ``shared`` that other runs have
    the same units. Exact effects (identities, counts, formulas) have neither units nor interval."""

    kind: Literal["mean", "difference", "ratio", "exact"]
    estimate: float | None
    low: float | None = None
    high: float | None = None
    n: int = Field(default=1, ge=1)
    groups: int = Field(default=1, ge=1)
    unit: str = Field(min_length=1)
    over: str = ""
    shared: bool = False


class PictureData(_Strict):
    """A picture or film that a run made: the name of its file beside the record, its caption, its text for who can't
    see."""

    file: str = Field(pattern=r"^[\w-]+\.(png|mp4)$")
    caption: str = Field(min_length=1)
    alt: str = Field(min_length=1)


class ClaimData(_Strict):
    """What one run found about one claim, in records of the old schema; ``holds`` is ``None`` where the run cannot
    tell."""

    value: dict[str, float | None]
    holds: bool | None
    verdict: Verdict
    note: str = ""


class Record(_Strict):
    """One run of one chapter. Times are ISO 8601 in UTC; ``wall_s`` is in seconds and counts the training steps of
    attempts that were interrupted; memory is in MB of 10^6 bytes. Schema 2 has ``effects``, from which verdicts are
    computed; schema 1 has ``claims`` in which each run decided for itself."""

    schema_version: Literal[1, 2] = 2
    slug: str
    scale: Literal["smoke", "laptop", "paper"]
    seed: int
    run_id: str
    status: Literal["complete", "failed", "running"]
    where: str | None = None
    params: dict[str, Any] = {}
    metrics: dict[str, float | None] = {}
    tables: dict[str, TableData] = {}
    claims: dict[str, ClaimData] = {}
    effects: dict[str, EffectData] = {}
    pictures: dict[str, PictureData] = {}
    seeds: dict[str, int] = {}
    versions: dict[str, str] = {}
    commit: str | None = None
    clean: bool = False
    hardware: dict[str, Any] = {}
    started: str | None = None
    ended: str | None = None
    wall_s: float | None = None
    peak_memory_mb: float | None = None
    data: dict[str, str] = {}
    content: dict[str, Any] | None = None

    @field_validator("params", "metrics", "tables", "claims", "effects", "hardware", "content", mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        return plain(value)


def write(record: Record, path: Path) -> None:
    """Write ``record`` as JSON, atomically, in the order the run gave. Floats that are not finite become null."""
    atomic_write(Path(path), _json(plain(record.model_dump())) + "\n")


def _json(value: Any, indent: str = "") -> str:
    """JSON with one line per key and per table row: a diff shows what changed."""
    inner = indent + " "
    if isinstance(value, dict) and value:
        lines = [f"{json.dumps(key, ensure_ascii=False)}: {_json(value[key], inner)}" for key in value]
    elif isinstance(value, list) and any(isinstance(item, list | dict) for item in value):
        lines = [json.dumps(item, ensure_ascii=False, allow_nan=False) for item in value]
    else:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n" + ",\n".join(inner + line for line in lines) + f"\n{indent}{closing}"


def read(path: str | Path) -> Record:
    """Read a record. Raises :class:`RecordError` if the file is missing, cut off or breaks the format."""
    try:
        return Record.model_validate(_read_json(Path(path)))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors())
        raise RecordError(f"{_name(path)} is not a valid record: {problems}") from error


def _name(path: str | Path) -> str:
    """Path for messages: relative to the checkout if it is inside."""
    path = Path(path).resolve()
    return str(path.relative_to(root())) if path.is_relative_to(root()) else str(path)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path, _name(path), RecordError))
    except ValueError as error:
        raise RecordError(f"{_name(path)} is cut off or not JSON ({error}): delete it and run again") from error


def result_path(slug: str, scale: str, seed: int) -> Path:
    """Where the record of this chapter, scale and seed is committed."""
    return root() / "book" / "results" / scale / f"{slug}.seed{seed}.json"


def results(slug: str, scale: str) -> list[Record]:
    """The committed records ``book/results/<scale>/<slug>.seed*.json``, by seed; only complete ones belong there."""
    found = []
    for path in (root() / "book" / "results" / scale).glob(f"{slug}.seed*.json"):
        record = read(path)
        if (record.slug, record.scale, f"{record.slug}.seed{record.seed}.json") != (slug, scale, path.name):
            raise RecordError(f"{_name(path)} holds the record of {record.slug}, {record.scale}, seed {record.seed}")
        if record.status != "complete":
            raise RecordError(f"{_name(path)} holds a run that is {record.status}: only complete runs are published")
        found.append(record)
    return sorted(found, key=lambda record: record.seed)


# ------------------------------------------------------------------------------------------------ files beside a record


def write_scores(scores: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Keep the scores per unit (effect -> array name -> array of length n) beside the record at ``path``,
    atomically."""
    import io

    import numpy as np

    arrays = {f"{effect}/{name}": array for effect, found in scores.items() for name, array in found.items()}
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    atomic_write(path.with_suffix(".scores.npz"), stream.getvalue())


def read_scores(path: str | Path, names: Collection[str] | None = None) -> dict[str, dict[str, Any]]:
    """The scores beside the record at ``path``, of the effects ``names`` alone if given; {} if it has none. Raises
    :class:`RecordError` if the file is damaged."""
    import zipfile

    import numpy as np

    file = Path(path).with_suffix(".scores.npz")
    if not file.is_file():
        return {}
    found: dict[str, dict[str, Any]] = {}
    try:
        with np.load(file, allow_pickle=False) as arrays:
            for name in arrays.files:
                effect, _, part = name.rpartition("/")
                if names is None or effect in names:
                    found.setdefault(effect, {})[part] = arrays[name]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise RecordError(f"{_name(file)} is cut off or no file of scores ({error}): publish the run again") from error
    return found


# ------------------------------------------------------------------------------------------------ expected values


@dataclass(frozen=True)
class Mismatch:
    """A metric that is not as expected; ``tolerance`` is the largest allowed difference (None: nothing to compare)."""

    name: str
    value: float | None
    expected: float | None
    tolerance: float | None
    problem: str = "outside the tolerance"

    def __str__(self) -> str:
        if self.tolerance is None:
            return f"{self.name}: {self.problem}"
        return f"{self.name}: {self.value} is {self.problem}: expected {self.expected} within {self.tolerance:.3g}"


def expected(slug: str) -> dict[str, dict[str, Any]] | None:
    """``notebooks/expected/<slug>.json``: ``{metric: {"value": v, "atol" or "rtol": t, "why": text}}``, or None."""
    path = root() / "notebooks" / "expected" / f"{slug}.json"
    if not path.exists():
        return None
    content = _read_json(path)
    if not isinstance(content, dict):
        raise RecordError(f"{_name(path)} must map each metric to its expected value")
    for name, entry in content.items():
        if not isinstance(entry, dict) or "value" not in entry or ("atol" in entry) == ("rtol" in entry):
            raise RecordError(f"{_name(path)}: {name!r} needs a value and either atol or rtol, got {entry!r}")
    return content


def compare(metrics: Mapping[str, float | None], expected: Mapping[str, Mapping[str, Any]]) -> list[Mismatch]:
    """Metrics that are not as expected, sorted by name; a missing or an extra metric is a mismatch too."""
    found = []
    for name in sorted({*metrics, *expected}):
        if name not in metrics:
            found.append(Mismatch(name, None, expected[name]["value"], None, "expected, but not measured"))
        elif name not in expected:
            found.append(Mismatch(name, metrics[name], None, None, "measured, but not expected"))
        else:
            found += _outside(name, metrics[name], expected[name])
    return found


def _outside(name: str, value: float | None, entry: Mapping[str, Any]) -> list[Mismatch]:
    wanted = entry["value"]
    tolerance = entry["atol"] if "atol" in entry else entry["rtol"] * abs(wanted or 0.0)
    if value is None or wanted is None:
        return [] if value is wanted else [Mismatch(name, value, wanted, tolerance)]
    return [] if abs(value - wanted) <= tolerance else [Mismatch(name, value, wanted, tolerance)]


# ------------------------------------------------------------------------------------------------ verdicts


def verdict(holds: Sequence[bool | None]) -> Verdict:
    """Verdict over runs: all hold, some do, none does; "not testable here" if no run could tell (``None``)."""
    if all(held is None for held in holds):
        return "not testable here"
    if all(holds):
        return "reproduced"
    return "partly" if any(holds) else "not reproduced"


def summarise_claim(records: Sequence[Record], claim_id: str) -> dict[str, Any]:
    """One claim over the records that hold it: ``value`` {key: {mean, sd, n}}, ``verdict``, ``holds`` (k) of ``n``.

    ``sd`` is the sample standard deviation over runs, None below two runs. ``n`` counts the runs that could tell.
    """
    claims = [record.claims[claim_id] for record in records if claim_id in record.claims]
    keys = list(dict.fromkeys(key for claim in claims for key in claim.value))
    values = {key: [v for claim in claims if (v := claim.value.get(key)) is not None] for key in keys}
    told = [claim.holds for claim in claims if claim.holds is not None]
    return {
        "value": {key: _spread(found) for key, found in values.items()},
        "verdict": verdict([claim.holds for claim in claims]),
        "holds": sum(told),
        "n": len(told),
        "seeds": [record.seed for record in records if claim_id in record.claims],
        "notes": list(dict.fromkeys(claim.note for claim in claims if claim.note)),
    }


def _spread(values: Sequence[float]) -> dict[str, float | int | None]:
    return {
        "mean": statistics.fmean(values) if values else None,
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "n": len(values),
    }
