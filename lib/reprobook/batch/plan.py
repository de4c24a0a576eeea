"""Plan files: which chapters, scales, seeds and parameter grids a batch runs, and what each run may use.

A plan is YAML::

    what: two step sizes, three seeds          # said in listings
    runs:
      - chapters: [block_diffusion]            # or: all
        scale: laptop
        seeds: [0, 1, 2]
        product: {lr: [1.0e-3, 3.0e-3]}        # every combination
        zip: {dim: [64, 128], n_heads: [2, 4]} # together, element by element
        set: {n_test: 128}                     # the same for all
        resources: {minutes: 30}               # changes the plan's own
    resources: {cpus: 1, gpus: 0, memory_gb: 4, minutes: 60}
    local: {cpus: 2}
    slurm: {partition: main}
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from reprobook.errors import ReprobookError
from reprobook.project import read_text
from reprobook.yaml_files import load_yaml

NOT_IN_GRIDS = {"scale": "scale:", "seed": "seeds:", "out_dir": "nothing: a run has its own folder"}
AtLeastOne = Annotated[int, Field(ge=1)]
Gpu = Annotated[int, Field(ge=0)] | Annotated[str, Field(pattern=r"^(GPU|MIG)-[\w/-]+$")]  # number, or UUID


class PlanError(ReprobookError):
    """A plan that cannot be run as it is written; the message names the file, the line's place and what is valid."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Resources(_Strict):
    """What one run may use. ``minutes`` is its time limit (None: no limit here, the partition's own on Slurm)."""

    cpus: AtLeastOne = 1
    gpus: Annotated[int, Field(ge=0)] = 0
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    minutes: AtLeastOne | None = None


class Group(_Strict):
    """Runs that share chapters, scale and grids."""

    chapters: Annotated[list[str], Field(min_length=1)] | Literal["all"]
    scale: Literal["smoke", "laptop", "paper"]
    seeds: Annotated[list[int], Field(min_length=1)] = [0]
    product: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    zip: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    set: dict[str, Any] = {}
    resources: Resources = Resources()  # what is set here changes the plan's own

    @model_validator(mode="after")
    def _grids(self) -> Group:
        for other, why in NOT_IN_GRIDS.items():
            if other in {**self.product, **self.zip, **self.set}:
                raise ValueError(f"{other!r} is not a parameter of a grid; say it with {why}")
        names = [*self.product, *self.zip, *self.set]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)} stands in more than one of product, zip and set")
        if len({len(values) for values in self.zip.values()}) > 1:
            lengths = ", ".join(f"{name} has {len(values)}" for name, values in self.zip.items())
            raise ValueError(f"lists under zip go together and must be equally long: {lengths}")
        if len({*self.seeds}) < len(self.seeds):
            raise ValueError(f"seeds {self.seeds} has a seed twice")
        return self

    def overrides(self) -> Iterator[dict[str, Any]]:
        """One mapping per point of the grid, without the seed."""
        zipped = [dict(zip(self.zip, values, strict=True)) for values in zip(*self.zip.values(), strict=True)] or [{}]
        for values in itertools.product(*self.product.values()):
            for together in zipped:
                yield {**self.set, **dict(zip(self.product, values, strict=True)), **together}


class LocalOptions(_Strict):
    """What batches on this machine may use (None: all there is)."""

    cpus: AtLeastOne | None = None
    gpus: list[Gpu] | None = None
    memory_gb: Annotated[float, Field(gt=0)] | None = None

    @field_validator("gpus")
    @classmethod
    def _each_once(cls, gpus: list[Gpu] | None) -> list[Gpu] | None:
        if gpus and len({*gpus}) < len(gpus):
            raise ValueError("it names one twice")
        return gpus


class SlurmOptions(_Strict):
    """Options of ``sbatch``. ``signal_s``: seconds before the time limit at which a run saves and is requeued, at most
    ``max_requeues`` times. ``at_once`` limits how many jobs of an array run together. ``setup`` are shell lines (such
    as ``module load``) before the run. ``options`` goes to sbatch as it stands: ``{mail-type: END}``."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    signal_s: Annotated[int, Field(ge=10)] = 120
    max_requeues: Annotated[int, Field(ge=0)] = 10
    at_once: AtLeastOne | None = None
    array_size: AtLeastOne = 1000  # Slurm's own default allows 1001
    setup: list[str] = []
    options: dict[str, Any] = {}


class Plan(_Strict):
    """A whole plan; ``name`` (the file's name) names the folder ``runs/batches/<name>``; ``file`` is its path."""

    what: str = ""
    runs: Annotated[list[Group], Field(min_length=1)]
    resources: Resources = Resources()
    local: LocalOptions = LocalOptions()
    slurm: SlurmOptions = SlurmOptions()
    name: str = Field(default="", exclude=True)
    file: str = Field(default="", exclude=True)

    def resources_of(self, group: Group) -> Resources:
        """The plan's resources with the group's changes."""
        return self.resources.model_copy(update=group.resources.model_dump(exclude_unset=True))


def load(path: Path) -> Plan:
    """Read and check a plan. Raises :class:`PlanError` with all mistakes, and what would be valid in their place."""
    content = load_yaml(read_text(path, f"plan {path}", PlanError), f"plan {path}", PlanError)
    if not isinstance(content, dict):
        raise PlanError(f"plan {path} must be a mapping with the key 'runs'; keys: {', '.join(_keys(()))}")
    if own := {"name", "file"} & set(content):
        raise PlanError(f"plan {path}: the file's name is the plan's name; leave out {min(own)!r}")
    try:
        return Plan.model_validate({**content, "name": path.stem, "file": str(path.resolve())})
    except ValidationError as error:
        lines = "\n  ".join(_explain(item) for item in error.errors())
        raise PlanError(f"plan {path}:\n  {lines}") from error


def _explain(item: Mapping[str, Any]) -> str:
    """One mistake in words: where, what, and the valid keys if one is unknown."""
    where = ".".join(str(part) for part in item["loc"] if not str(part).startswith(("list[", "literal["))) or "plan"
    if item["type"] != "extra_forbidden":
        shown = f", got {item['input']!r}" if not isinstance(item["input"], Mapping) else ""
        return f"{where}: {item['msg'].removeprefix('Value error, ')}{shown}"
    *place, name = item["loc"]
    keys = _keys(place)
    close = difflib.get_close_matches(str(name), keys, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{where}: unknown key {str(name)!r}{hint} Keys: {', '.join(keys)}"


def _keys(place: list[Any] | tuple[Any, ...]) -> list[str]:
    """The keys that a mapping at this place of a plan may have."""
    sections: dict[Any, type[_Strict]] = {
        "resources": Resources, "local": LocalOptions, "slurm": SlurmOptions, "runs": Group
    }  # fmt: skip
    named = [sections[part] for part in place if part in sections]
    return [name for name in (named[-1] if named else Plan).model_fields if name not in ("name", "file")]
