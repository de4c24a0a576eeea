"""The runs of a plan: each with its checked parameters, run id, content key and folder, without starting anything."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprobook import project, ranges
from reprobook.batch.plan import PlanError
from reprobook.content.key import content_key, digest_with, run_id
from reprobook.data import ChapterData, load_manifest
from reprobook.params import check_names, check_value, read_parameters, resolve

if TYPE_CHECKING:
    from reprobook.batch.plan import Group, Plan, Resources
    from reprobook.params import Param

GPUS = "n_gpus"  # the parameter of chapters that train on several at once


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
    """All runs of the plan in its order, each once, with the resources of its first group. Raises
    :class:`ReprobookError` for a chapter, parameter or type that is not valid, and lists what is; and for a run that
    gets GPUs, but fewer than its parameters want."""
    shared = functools.cache(_shared)
    tasks: dict[tuple[str, str], Task] = {}
    for group in plan.runs:
        resources = plan.resources_of(group)
        for slug in project.chapters() if group.chapters == "all" else map(project.check_slug, group.chapters):
            for task in _tasks(slug, group, resources, *shared(slug, group.scale)):
                tasks.setdefault((slug, task.run_id), task)
    for task in tasks.values():
        wanted = task.overrides.get(GPUS, shared(task.slug, task.scale)[1].get(GPUS, 1))
        if 0 < task.resources.gpus < wanted:
            raise PlanError(
                f"{task} trains on {GPUS} = {wanted} GPUs, and the plan gives it {task.resources.gpus}: say "
                f"resources: {{gpus: {wanted}}} in a group of its own before the others, or set: {{{GPUS}: 1}}"
            )
    return list(tasks.values())


def _shared(slug: str, scale: str) -> tuple[dict[str, Param], dict[str, Any], Callable[[Mapping[str, Any]], str]]:
    """What all runs of a chapter and scale share: declared parameters, the scale's own values, and the digest of the
    content key as a function of the parameters (plans have thousands of runs; the code is read once)."""
    params = {name: value for name, value in resolve(slug, scale).items() if name != "out_dir"}
    deciding, made = load_manifest(slug).deciding(scale), dict[str, Callable[[Mapping[str, Any]], str]]()

    def digest_of(given: Mapping[str, Any]) -> str:
        data = repr([given.get(name) for name in deciding])
        if data not in made:
            made[data] = digest_with(content_key(slug, given, ChapterData(slug, scale, given).available()))
        return made[data](given)

    return read_parameters(slug), params, digest_of


def _tasks(
    slug: str,
    group: Group,
    resources: Resources,
    declared: Mapping[str, Param],
    usual: Mapping[str, Any],
    digest_of: Callable[[Mapping[str, Any]], str],
) -> Iterator[Task]:
    source, allowed = f"plan, {slug}", ranges.allowed(slug)
    for given in group.overrides():
        check_names(given, declared, source)
        checked = {name: check_value(declared[name], value, source) for name, value in given.items()}
        ranges.check(checked, allowed, source)
        for seed in group.seeds:
            overrides = {**checked, "seed": check_value(declared["seed"], seed, source)}
            params = {**usual, **overrides}
            digest = digest_of(params)
            name = run_id(slug, group.scale, seed, params, {"digest": digest})
            folder = project.root() / "runs" / slug / name
            yield Task(slug, group.scale, seed, overrides, resources, name, digest, folder)


def check_locked(tasks: list[Task]) -> None:
    """Raise :class:`PlanError` if data of these runs was never fetched: its content is part of what a run is."""
    for slug, scale, overrides, fetch in inputs(tasks):
        data = ChapterData(slug, scale, resolve(slug, scale, overrides)).checksums()
        missing = [name for name, checksum in data.items() if checksum == "not locked"]
        if missing:
            raise PlanError(
                f"{slug}, {scale} scale: {', '.join(missing)} was never fetched, so a run could not say what it was "
                f"made from: `{fetch}` first"
            )


def inputs(tasks: Sequence[Task]) -> list[tuple[str, str, dict[str, Any], str]]:
    """Chapter, scale and overrides of every set of data that the tasks use, and the command that fetches it."""
    deciding = functools.cache(lambda slug, scale: load_manifest(slug).deciding(scale))
    found = {}
    for task in tasks:
        given = {name: task.overrides[name] for name in deciding(task.slug, task.scale) if name in task.overrides}
        command = " ".join([f"reprobook data fetch {task.slug} --scale {task.scale}",
                            *(f"-p {name}={json.dumps(value)}" for name, value in given.items())])  # fmt: skip
        found[command] = (task.slug, task.scale, given, command)
    return list(found.values())
