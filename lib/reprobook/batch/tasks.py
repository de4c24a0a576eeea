"""The runs of a plan: each with its checked parameters, run id, content key and folder, without starting anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprobook import project
from reprobook.batch.plan import PlanError
from reprobook.params import check_names, check_value, read_parameters, resolve

if TYPE_CHECKING:
    from reprobook.batch.plan import Group, Plan, Resources
    from reprobook.params import Param


@dataclass(frozen=True)
class Task:
    """One run of a batch. ``overrides`` are what differs from the scale's own parameters (with the seed)."""

    slug: str
    scale: str
    seed: int
    overrides: Mapping[str, Any]
    resources: Resources
    run_id: str
    digest: str  # of the content key
    folder: Path

    def __str__(self) -> str:
        given = ", ".join(f"{name}={value}" for name, value in self.overrides.items() if name != "seed")
        return f"{self.slug} {self.scale} seed {self.seed}" + (f" ({given})" if given else "")


@dataclass(frozen=True)
class Usual:
    """What the runs of one chapter at one scale share."""

    declared: Mapping[str, Param]
    params: Mapping[str, Any]  # the scale's own, without out_dir
    content: Mapping[str, Any]


def usual(slug: str, scale: str) -> Usual:
    """Read chapter, parameter file, manifest and code, once for all runs of this chapter and scale."""
    from reprobook.content.key import content_key
    from reprobook.data import ChapterData

    params = {name: value for name, value in resolve(slug, scale).items() if name != "out_dir"}
    return Usual(read_parameters(slug), params, content_key(slug, params, ChapterData(slug, scale).checksums()))


def expand(plan: Plan) -> list[Task]:
    """All runs of the plan in its order, each once. Raises :class:`ReprobookError` for a chapter, parameter or type
    that is not valid, and lists what is."""
    shared: dict[tuple[str, str], Usual] = {}
    tasks: dict[tuple[str, str], Task] = {}
    for group in plan.runs:
        resources = plan.resources_of(group)
        for slug in _chapters(group):
            key = (slug, group.scale)
            shared[key] = shared.get(key) or usual(*key)
            for task in _tasks(slug, group, resources, shared[key]):
                tasks.setdefault((slug, task.run_id), task)
    return list(tasks.values())


def _chapters(group: Group) -> list[str]:
    if group.chapters == "all":
        return project.chapters()
    return [project.check_slug(slug) for slug in group.chapters]


def _tasks(slug: str, group: Group, resources: Resources, base: Usual) -> Iterator[Task]:
    from reprobook.content.key import digest_with, run_id

    digest_of = digest_with(base.content)
    folder, source = project.root() / "runs" / slug, f"plan, {slug}"
    for given in group.overrides():
        check_names(given, base.declared, source)
        checked = {name: check_value(base.declared[name], value, source) for name, value in given.items()}
        for seed in group.seeds:
            params = {**base.params, **checked, "seed": seed}
            digest = digest_of(params)
            name = run_id(slug, group.scale, seed, params, {"digest": digest})
            overrides = {**checked, "seed": seed}
            yield Task(slug, group.scale, seed, overrides, resources, name, digest, folder / name)


def check_locked(tasks: list[Task]) -> None:
    """Raise :class:`PlanError` if data of these runs was never fetched: its content is part of what a run is."""
    from reprobook.data import ChapterData

    for slug, scale in dict.fromkeys((task.slug, task.scale) for task in tasks):
        missing = [name for name, checksum in ChapterData(slug, scale).checksums().items() if checksum == "not locked"]
        if missing:
            raise PlanError(
                f"{slug}, {scale} scale: {', '.join(missing)} was never fetched, so a run could not say what it was "
                f"made from: `reprobook data fetch {slug} --scale {scale}` first"
            )
