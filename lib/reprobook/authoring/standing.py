"""Where a chapter stands: its facts, and for each claim the committed records that speak for it and their state."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reprobook import facts as facts_module
from reprobook import project, record
from reprobook.evidence.claims import evidence, state
from reprobook.yaml_files import load_yaml

if TYPE_CHECKING:
    from reprobook.evidence.claims import Evidence
    from reprobook.evidence.verdict import Outcome
    from reprobook.facts import Facts
    from reprobook.record import Record


@dataclass(frozen=True)
class Standing:
    """One chapter: ``found`` and ``states`` are by claim; ``state`` is "current", "stale: why" or "never run";
    ``runs``: the committed records of each scale."""

    slug: str
    facts: Facts
    found: Mapping[str, Evidence]
    states: Mapping[str, str]
    runs: Mapping[str, list[Record]]

    @property
    def records(self) -> list[Record]:
        """The records behind its verdicts, each once."""
        every = (r for each in self.found.values() for r in each.records)
        return list({(r.scale, r.seed): r for r in every}.values())


def standing(slug: str) -> Standing:
    """Read facts and records of a chapter. Whether a record is current is worked out once for each set of records."""
    facts = facts_module.load(slug)
    runs = {scale: record.results(slug, scale) for scale in ("paper", "laptop", "smoke")}
    records = {scale: runs[scale] for scale in ("paper", "laptop")}
    found = {cid: evidence(cid, claim, records) for cid, claim in facts.claims.items()}
    known: dict[tuple[str, ...], str] = {}
    states = {}
    for cid, each in found.items():
        key = tuple(r.run_id for r in each.records)
        if key not in known:
            known[key] = state(each.records)
        states[cid] = known[key]
    return Standing(slug, facts, found, states, runs)


def standings() -> list[Standing]:
    """All chapters that exist, in the order of the book."""
    return [standing(slug) for slug in project.chapters()]


def exported(chapters: Sequence[Standing]) -> dict[str, Any]:
    """The scoreboard as plain data, as ``scoreboard.json`` holds it; its fields are explained on the scoreboard."""
    return {"schema": 1, "version": version(chapters), "chapters": [_chapter(each) for each in chapters]}


def config() -> dict[str, Any]:
    """The settings of the book, ``_config.yml``; {} where there is none."""
    path = project.root() / "_config.yml"
    return (load_yaml(path.read_text("utf-8"), path.name) if path.is_file() else None) or {}


def version(chapters: Sequence[Standing]) -> str:
    """Of the results: the day of the latest run, and a digest of which runs they are; "" without any."""
    records = [found for each in chapters for found in each.records]
    runs = sorted((found.slug, found.scale, found.seed, found.run_id) for found in records)
    day = max((found.ended[:10] for found in records if found.ended), default="undated")
    return f"{day}-{hashlib.sha256(repr(runs).encode()).hexdigest()[:7]}" if runs else ""


def _chapter(chapter: Standing) -> dict[str, Any]:
    facts = chapter.facts
    claims = [_claim(cid, chapter) for cid in chapter.found]
    return {
        "slug": chapter.slug, "title": facts.title, "arxiv": f"{facts.arxiv.id}v{facts.arxiv.version}",
        "rules": "computed" if facts.judged else "old", "claims": claims, "runs": [_run(r) for r in chapter.records],
    }  # fmt: skip


def _claim(cid: str, chapter: Standing) -> dict[str, Any]:
    claim, found = chapter.facts.claims[cid], chapter.found[cid]
    judged = found.judgement
    return {
        "claim": cid, "says": claim.says, "verdict": found.verdict, "challenged": claim.challenged or None,
        "scale": found.scale, "seeds": [r.seed for r in found.records], "state": chapter.states[cid],
        "tests": [_test(each, found.records) for each in judged.tests] if judged else [],
        "controls": [_test(each, found.records) for each in judged.controls] if judged else [],
    }  # fmt: skip


def _test(outcome: Outcome, records: Sequence[Record]) -> dict[str, Any]:
    pooled = outcome.pooled
    low, high = pooled.interval(outcome.level) if pooled else (None, None)
    name = outcome.test.effect
    units = [r.effects[name].unit for r in records if name in r.effects]
    return record.plain({
        "effect": name, "bar": outcome.test.bar, "estimate": pooled.shown(pooled.estimate) if pooled else None,
        "low": low, "high": high, "level": outcome.level, "unit": units[0] if units else None, "state": outcome.state,
        "by_seed": {str(r.seed): r.effects[name].estimate for r in records if name in r.effects},
    })  # fmt: skip


def _run(found: Record) -> dict[str, Any]:
    path = record.result_path(found.slug, found.scale, found.seed).relative_to(project.root()).as_posix()
    return {
        "scale": found.scale, "seed": found.seed, "commit": found.commit, "ended": found.ended,
        "hardware": found.hardware, "wall_s": found.wall_s, "peak_memory_mb": found.peak_memory_mb, "record": path,
    }  # fmt: skip


def mean_time(records: Sequence[Record]) -> float | None:
    """Mean wall time of these runs in seconds; None without one."""
    times = [r.wall_s for r in records if r.wall_s is not None]
    return statistics.fmean(times) if times else None


def peak_memory_gb(records: Sequence[Record]) -> float:
    """Largest peak memory of these runs."""
    return max((r.peak_memory_mb or 0.0 for r in records), default=0.0) / 1000
