"""The runs of a plan: each with its checked parameters, run id, content key and folder, without starting anything."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprobook import project
from reprobook.batch.plan import PlanError
from reprobook.content.key import content_key, digest_with, run_id
from reprobook.data import ChapterData
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


def expand(plan: Plan) -> list[Task]:
    """All runs of the plan in its order, each once. Raises :class:`ReprobookError` for a chapter, parameter or type
    that is not valid, and lists what is."""
    shared = functools.cache(_shared)
    tasks: dict[tuple[str, str], Task] = {}
    for group in plan.runs:
        resources = plan.resources_of(group)
        for slug in project.chapters() if group.chapters == "all" else map(project.check_slug, group.chapters):
            for task in _tasks(slug, group, resources, *shared(slug, group.scale)):
                tasks.setdefault((slug, task.run_id), task)
    return list(tasks.values())


def _shared(slug: str, scale: str) -> tuple[dict[str, Param], dict[str, Any], Callable[[Mapping[str, Any]], str]]:
    """What all runs of a chapter and scale share: declared parameters, the scale's own values, and the digest of the
    content key as a function of the parameters (plans have thousands of runs; the code is read once)."""
    params = {name: value for name, value in resolve(slug, scale).items() if name != "out_dir"}
    return read_parameters(slug), params, digest_with(content_key(slug, params, ChapterData(slug, scale).checksums()))


def _tasks(
    slug: str,
    group: Group,
    resources: Resources,
    declared: Mapping[str, Param],
    usual: Mapping[str, Any],
    digest_of: Callable[[Mapping[str, Any]], str],
) -> Iterator[Task]:
    source = f"plan, {slug}"
    for given in group.overrides():
        check_names(given, declared, source)
        checked = {name: check_value(declared[name], value, source) for name, value in given.items()}
        for seed in group.seeds:
            overrides = {**checked, "seed": check_value(declared["seed"], seed, source)}
            params = {**usual, **overrides}
            digest = digest_of(params)
            name = run_id(slug, group.scale, seed, params, {"digest": digest})
            folder = project.root() / "runs" / slug / name
            yield Task(slug, group.scale, seed, overrides, resources, name, digest, folder)


def check_locked(tasks: list[Task]) -> None:
    """Raise :class:`PlanError` if data of these runs was never fetched: its content is part of what a run is."""
    for slug, scale in dict.fromkeys((task.slug, task.scale) for task in tasks):
        missing = [name for name, checksum in ChapterData(slug, scale).checksums().items() if checksum == "not locked"]
        if missing:
            raise PlanError(
                f"{slug}, {scale} scale: {', '.join(missing)} was never fetched, so a run could not say what it was "
                f"made from: `reprobook data fetch {slug} --scale {scale}` first"
            )
