"""Records of several hosts become the book's: written once, duplicates and conflicts told, nothing replaced unasked."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from reprobook import record
from reprobook.runs.runner import run
from tiny_chapter import SLUG, Batches, logistic


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, new_checkout: Any) -> Path:
    """A checkout with two complete laptop runs of clean, committed code, and a plan of three."""
    with pytest.MonkeyPatch.context() as patch:
        batches = Batches(new_checkout(tmp_path_factory.mktemp("made"), patch))
        batches.checkout.write(".gitignore", "runs/\nother/\n")
        batches.seeds(3, scale="laptop")
        batches.checkout.commit()
        for seed in (0, 1):
            assert run(SLUG, "laptop", {"seed": seed}).status == "complete"
        return batches.root


@pytest.fixture
def done(made: Path, batches: Any) -> Any:
    """A copy of it."""
    shutil.copytree(made, batches.root, dirs_exist_ok=True)
    batches.plan_path = batches.root / "plan.yaml"
    return batches


def published(done: Any) -> dict[int, float]:
    return {found.seed: found.metrics["x"] for found in record.results(SLUG, "laptop")}


def other_host(done: Any, **changes: Any) -> Path:
    """A copy of ``runs/`` as another host would have it, with changes to its records."""
    other = done.root / "other"
    shutil.copytree(done.root / "runs", other)
    for path in other.glob("*/*/record.json"):
        found = record.read(path)
        for name, value in changes.items():
            setattr(found, name, {**getattr(found, name), **value})
        record.write(found, path)
    return other


def test_complete_runs_are_published_once(done: Any) -> None:
    out = done.run("collect", done.plan_path)
    assert "2 written, 0 already there, 0 conflicts, 0 not taken, 1 not complete" in out
    assert f"not complete: {SLUG}, laptop, seed 2" in out
    assert published(done) == {0: logistic(0), 1: logistic(1)}
    stamp = (done.root / f"book/results/laptop/{SLUG}.seed0.json").stat().st_mtime_ns
    assert "0 written, 2 already there" in done.run("collect", done.plan_path)
    assert (done.root / f"book/results/laptop/{SLUG}.seed0.json").stat().st_mtime_ns == stamp


def test_two_hosts_that_agree_are_duplicates(done: Any) -> None:
    other = other_host(done, hardware={"cpu": "another"})
    out = done.run("collect", done.plan_path, "--from", done.root / "runs", "--from", other)
    assert "2 written, 0 already there, 0 conflicts" in out


def test_two_hosts_that_differ_are_a_conflict_and_nothing_is_written(done: Any) -> None:
    other = other_host(done, hardware={"cpu": "another"}, metrics={"x": 0.5})
    out = done.run("collect", done.plan_path, "--from", done.root / "runs", "--from", other, code=1)
    assert "0 written, 0 already there, 2 conflicts" in out and published(done) == {}
    assert f"x {logistic(0)} and 0.5" in out and "another" in out and "collect from one of them" in out
    assert "2 written" in done.run("collect", done.plan_path, "--from", other)
    assert published(done) == {0: 0.5, 1: 0.5}


def test_a_committed_record_is_replaced_only_when_asked(done: Any) -> None:
    done.run("collect", done.plan_path, "--from", other_host(done, metrics={"x": 0.5}))
    out = done.run("collect", done.plan_path, code=1)
    assert "the committed record differs: x 0.5 and " in out and "--replace" in out
    assert published(done) == {0: 0.5, 1: 0.5}
    out = done.run("collect", done.plan_path, "--replace")
    assert "2 written" in out and "(replaced: x 0.5 and " in out
    assert published(done) == {0: logistic(0), 1: logistic(1)}


def test_what_has_no_place_in_the_book_is_said(done: Any) -> None:
    grid = done.plan(f"runs: [{{chapters: [{SLUG}], scale: laptop, product: {{rate: [3.8]}}}}]", "grid")
    assert "only the scale's own parameters" in done.run("collect", grid)
    assert "0 written" in done.run("collect", done.seeds(1, name="smoke"))
    assert "nowhere is not a folder" in done.run("collect", done.plan_path, "--from", "nowhere", code=2)


def test_a_run_of_uncommitted_code_is_not_taken(done: Any) -> None:
    """The record says so itself."""
    for path in (done.root / "runs").glob("*/*/record.json"):
        found = record.read(path)
        found.clean = False
        record.write(found, path)
    out = done.run("collect", done.plan_path)
    assert "2 not taken" in out and "was made with uncommitted changes" in out and published(done) == {}
