"""What there is: published records and whether they are current, and runs that did not end well."""

from __future__ import annotations

from pathlib import Path

from reprobook import record
from reprobook.content.key import staleness
from reprobook.errors import ReprobookError
from reprobook.project import root


def published(slug: str) -> list[str]:
    """One line per published scale: seeds and whether they are current, then a line per reason."""
    lines = []
    for scale in ("laptop", "paper"):
        records = record.results(slug, scale)
        reasons = {found.seed: staleness(found) for found in records}
        stale = [seed for seed, found in reasons.items() if found]
        state = "never run" if not records else f"stale: {len(stale)} of {len(records)} seeds" if stale else "current"
        seeds = f" (seeds {', '.join(str(found.seed) for found in records)})" if records else ""
        lines.append(f"{slug:24}{scale:8}{state}{seeds}")
        lines += [f"{'':32}- {reason}" for reason in dict.fromkeys(r for seed in stale for r in reasons[seed])]
    return lines


def unfinished(slug: str) -> list[str]:
    """One line per run folder whose run failed, was interrupted, or is being executed."""
    from filelock import FileLock, Timeout

    lines = []
    for folder in sorted(path for path in (root() / "runs" / slug).glob("*-seed*") if path.is_dir()):
        lock = folder.parent / f".{folder.name}.lock"
        try:
            with FileLock(lock, timeout=0):
                state = _state(folder)
        except Timeout:
            state = "is being executed"
        lines += [f"{slug:24}run {folder.name} {state}"] if state else []
    return lines


def _state(folder: Path) -> str | None:
    if not (folder / "record.json").is_file():
        return "was interrupted; running it again goes on from its checkpoints"
    try:
        found = record.read(folder / "record.json")
    except ReprobookError as error:
        return str(error)
    return f"failed: {found.where}" if found.status != "complete" else None
