"""Plans: what they expand to, counted by hand, and what they refuse before anything starts."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from filelock import FileLock
from reprobook.batch.plan import PlanError, load
from reprobook.batch.state import estimates, state
from reprobook.batch.tasks import expand
from reprobook.errors import ReprobookError
from reprobook.runs.runner import prepare, run

SLUG = "block_diffusion"


def test_products_zips_and_seeds_multiply(batches: Any) -> None:
    path = batches.plan("""
        what: two rates, two lengths with their pauses, two seeds
        runs:
          - chapters: [block_diffusion]
            scale: laptop
            seeds: [3, 5]
            product: {rate: [3.5, 3.7]}
            zip: {steps: [1, 2], pause_s: [0.1, 0.2]}
            set: {device: cpu}
            resources: {cpus: 2}
        resources: {cpus: 1, minutes: 7}
    """)
    tasks = expand(load(path))
    given = [(t.overrides["rate"], t.overrides["steps"], t.overrides["pause_s"], t.seed) for t in tasks]
    assert given == [(r, n, p, s) for r in (3.5, 3.7) for n, p in ((1, 0.1), (2, 0.2)) for s in (3, 5)]
    assert {(t.resources.cpus, t.resources.minutes) for t in tasks} == {(2, 7)}
    assert len({t.run_id for t in tasks}) == 8 and all(t.overrides["device"] == "cpu" for t in tasks)
    assert str(tasks[0]) == f"{SLUG} laptop seed 3 (device=cpu, rate=3.5, steps=1, pause_s=0.1)"


def test_a_planned_run_is_the_run_that_the_runner_makes(batches: Any) -> None:
    """Same folder, run id and content key as `reprobook run` finds by itself; 4 and 4.0 are the same run."""
    path = batches.plan("runs: [{chapters: all, scale: smoke, seeds: [2], product: {rate: [4, 4.0, 3.8]}}]")
    tasks = expand(load(path))
    assert [t.overrides["rate"] for t in tasks] == [4.0, 3.8]
    for task in tasks:
        folder, identity, _ = prepare(SLUG, "smoke", task.overrides)
        assert (folder, identity["run_id"], identity["content"]["digest"]) == (task.folder, task.run_id, task.digest)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("runs: []", "runs: List should have at least 1 item"),
        ("[1, 2]", "must be a mapping with the key 'runs'"),
        ("runs: [{chapters: [x]", "not valid YAML"),
        ("run: []", "unknown key 'run'; did you mean 'runs'? Keys: what, runs, resources, local, slurm"),
        ("runs: [{chapters: [block_diffusion], scale: smoke, seed: 1}]", "unknown key 'seed'; did you mean 'seeds'?"),
        ("runs: [{chapters: [nonsense], scale: smoke}]", "unknown chapter 'nonsense'; chapters: block_diffusion"),
        ("runs: [{chapters: all, scale: huge}]", "Input should be 'smoke', 'laptop' or 'paper', got 'huge'"),
        ("runs: [{chapters: all, scale: smoke, seeds: [one]}]", "runs.0.seeds.0: Input should be a valid integer"),
        ("runs: [{chapters: all, scale: smoke, seeds: [1, 1]}]", "has a seed twice"),
        ("runs: [{chapters: all, scale: smoke, product: {rat: [1.0]}}]", "parameter 'rat'; did you mean 'rate'?"),
        ("runs: [{chapters: all, scale: smoke, product: {rate: [1e-4]}}]", "YAML reads 1e-4 as text: write 0.0001"),
        ("runs: [{chapters: all, scale: smoke, product: {rate: []}}]", "product.rate: List should have at least 1"),
        ("runs: [{chapters: all, scale: smoke, set: {seed: 1}}]", "say it with seeds:"),
        ("runs: [{chapters: all, scale: smoke, set: {out_dir: x}}]", "a run has its own folder"),
        ("runs: [{chapters: all, scale: smoke, product: {steps: [1]}, set: {steps: 2}}]", "steps stands in more than"),
        ("runs: [{chapters: all, scale: smoke, zip: {steps: [1], rate: [1.0, 2.0]}}]", "steps has 1, rate has 2"),
        ("runs: [{chapters: all, scale: smoke, resources: {gpu: 1}}]", "Keys: cpus, gpus, memory_gb, minutes"),
        ("runs: [{chapters: all, scale: smoke}]\nresources: {cpus: 0}", "greater than or equal to 1, got 0"),
        ("runs: [{chapters: all, scale: smoke}]\nslurm: {partitions: x}", "did you mean 'partition'?"),
    ],
)  # fmt: skip
def test_mistakes_name_what_is_valid(batches: Any, text: str, words: str) -> None:
    path = batches.plan(text)
    with pytest.raises(ReprobookError) as caught:
        expand(load(path))
    assert words in str(caught.value) and not (batches.root / "runs").exists()


def test_a_plan_that_is_not_there(batches: Any) -> None:
    with pytest.raises(PlanError, match="cannot be read: No such file"):
        load(batches.root / "none.yaml")


def names(tasks: list[Any]) -> list[str]:
    return [state(task).name for task in tasks]


def test_states_and_estimates_come_from_records(batches: Any) -> None:
    tasks = expand(load(batches.seeds(3)))
    assert names(tasks) == ["not run"] * 3 and estimates(tasks) == {(SLUG, "smoke"): None}
    run(SLUG, "smoke", {"seed": 0})
    tasks[1].folder.mkdir()
    with FileLock(tasks[2].folder.parent / f".{tasks[2].run_id}.lock"):  # begun, its folder not made yet
        assert names(tasks) == ["complete", "interrupted", "running"]
    assert names(tasks) == ["complete", "interrupted", "not run"]
    assert estimates(tasks) == {(SLUG, "smoke"): 2.0}  # what the notebook says it took


def test_a_record_counts_only_if_it_is_whole(batches: Any) -> None:
    [task] = expand(load(batches.seeds(1)))
    run(SLUG, "smoke", {"seed": 0})
    path = task.folder / "record.json"
    text = path.read_text()
    content = json.loads(text)
    for damaged, name, where in [
        (text[:-40], "failed", "cut off"),
        ("", "failed", "cut off"),
        (json.dumps(dict(sorted(content.items()))), "complete", ""),  # written by hand
        (json.dumps({**content, "status": "failed", "where": "cell 3"}), "failed", "cell 3"),
    ]:
        path.write_text(damaged)
        found = state(task)
        assert (found.name, where in found.where) == (name, True), found
        assert where or not found.where


def test_the_dry_run_says_what_there_is_to_do_and_starts_nothing(batches: Any) -> None:
    plan = batches.seeds(3, more="resources: {minutes: 4}")
    out = batches.run(plan, "--dry-run")
    assert "3 runs: 0 complete, 3 to do" in out and "data: all there" in out
    assert "time of 3 runs not known: no earlier record of chapter and scale, at most 12 min" in out
    head, *rows = out.splitlines()
    assert re.split("  +", head) == ["run", "content", "state", "time", "GPU-hours", "to fetch", "what"]
    assert re.split("  +", rows[0])[2:] == ["not run", "limit 4:00", "none", "there", f"{SLUG} smoke seed 0"]
    assert not (batches.root / "runs").exists()
    run(SLUG, "smoke", {"seed": 1})
    out = batches.run(plan, "--dry-run", "--cpus", 1)
    assert "3 runs: 1 complete, 2 to do" in out and "about 0:04 of runs; here side by side at least 0:04" in out
    line = next(line for line in out.splitlines() if line.startswith("smoke-seed1-"))
    assert "complete" in line and "about" not in line
    assert line.split()[1] in state_digest(batches)


def state_digest(batches: Any) -> str:
    return batches.records()[0].content["digest"]


def test_the_dry_run_names_data_gates_and_licences(batches: Any) -> None:
    batches.checkout.write(f"data_manifests/{SLUG}.yaml", """
        artefacts:
          - id: secret-model
            kind: model
            what: a gated model
            license: other
            gated: true
            scales: [paper]
            source: {hub: {repo_id: a/b, repo_type: model, revision: null, allow_patterns: ["*.json"], bytes: 2000000}}
            miniature: {}
    """)  # fmt: skip
    plan = batches.seeds(1, scale="paper", more="resources: {gpus: 3, minutes: 90}")
    out = batches.run(plan, "--dry-run")
    assert re.split("  +", out.splitlines()[1])[3:6] == ["limit 1:30:00", "limit 4.5", "2.0 MB"]
    assert "secret-model, 2.0 MB, licence: other, gated: accept its terms on the hub" in out
    assert f"reprobook data fetch {SLUG} --scale paper" in out
    assert "secret-model was never fetched" in batches.run(plan, code=2)
