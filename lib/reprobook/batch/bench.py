"""What batches cost, measured as ratios: `reprobook run` against bare papermill, two workers against one, large plans.

``python -m reprobook.batch.bench`` works in a throw-away checkout with a chapter of known length (single-threaded
arithmetic), and checks that all ways give the same metrics. About three minutes on 2 cores.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import nbformat

from reprobook import project, record
from reprobook.errors import ReprobookError

SLUG = "block_diffusion"
LONG_S, SHORT_S, N_RUNS, N_PLANNED = 30.0, 8.0, 6, 5000
PARAMETERS = """\
scale = "smoke"  # smoke, laptop or paper
seed = 0  # seed of everything random
device = "auto"  # auto, cpu or cuda
out_dir = ""  # folder of this run
work = 1  # blocks of arithmetic; as many as take the wanted time on one core
rate = 3.9  # of the logistic map
"""
WORK = """
x = (seed + 1) / 2_000
for _ in range(work * 20_000):
    x = rate * x * (1 - x)
"""
FINISH = """
import json
from pathlib import Path
from reprobook.record import Record, write
write(Record(slug="block_diffusion", scale=scale, seed=seed, run_id="", status="complete", metrics={"x": x}),
      Path(out_dir) / "record.json")
"""


def main() -> None:
    """Print the four measurements."""
    blocks = _blocks_per_second()
    with tempfile.TemporaryDirectory(prefix="reprobook-bench-") as name:
        os.environ["REPROBOOK_ROOT"] = name
        os.environ["OMP_NUM_THREADS"] = "1"
        _checkout(Path(name))
        _runner(Path(name), round(LONG_S * blocks))
        _workers(Path(name), round(SHORT_S * blocks))
        _plans(Path(name))


def _blocks_per_second() -> float:
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < 1.0:
        exec(WORK, {"seed": 0, "rate": 3.9, "work": 10})
        count += 10
    return count / (time.perf_counter() - begin)


def _checkout(root: Path) -> None:
    for folder in ("notebooks/params", "data_manifests", "book/results"):
        (root / folder).mkdir(parents=True)
    (root / f"data_manifests/{SLUG}.yaml").write_text("artefacts: []\n")
    (root / "requirements.lock").write_text("numpy==2.4.6\n")
    new = nbformat.v4
    cells = [new.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), *map(new.new_code_cell, (WORK, FINISH))]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new.new_notebook(cells=cells, metadata=kernel), root / f"notebooks/{SLUG}.ipynb")


def _timed(*command: str) -> float:
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
    if done.returncode:
        raise ReprobookError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - begin


def _runner(root: Path, work: int) -> None:
    """The same notebook by papermill alone and by `reprobook run`, in turns."""
    times: dict[str, list[float]] = {"papermill": [], "reprobook run": []}
    for turn in range(2):
        out = root / f"bare{turn}"
        out.mkdir()
        options = ["-p", "out_dir", str(out), "-p", "work", str(work), "--no-progress-bar"]
        call = ["papermill", f"{root}/notebooks/{SLUG}.ipynb", f"{out}/out.ipynb", *options]
        times["papermill"].append(_timed(*call))
        times["reprobook run"].append(_timed("reprobook.cli", "run", SLUG, "-p", f"work={work}", "--again"))
    [ours] = (root / "runs" / SLUG).glob("*/record.json")
    if record.read(ours).metrics != record.read(root / "bare0" / "record.json").metrics:
        raise ReprobookError("papermill and `reprobook run` measured different things")
    bare, run = (median(found) for found in times.values())
    print(f"one run: papermill {bare:.1f} s, reprobook run {run:.1f} s, ratio {run / bare:.3f}")
    shutil.rmtree(root / "runs")


def _workers(root: Path, work: int) -> None:
    """Six single-threaded runs with one worker and with two."""
    plan = root / "six.yaml"
    seeds = list(range(N_RUNS))
    plan.write_text(f"runs: [{{chapters: [{SLUG}], scale: smoke, seeds: {seeds}, set: {{work: {work}}}}}]\n")
    seconds, metrics = {}, {}
    for n in (1, 2):
        seconds[n] = _timed("reprobook.cli", "batch", str(plan), "--cpus", str(n))
        found = [record.read(path) for path in (root / "runs" / SLUG).glob("*/record.json")]
        metrics[n] = {each.seed: each.metrics for each in found}
        shutil.rmtree(root / "runs")
    if metrics[1] != metrics[2] or len(metrics[1]) != N_RUNS:
        raise ReprobookError("one worker and two measured different things")
    print(f"{N_RUNS} runs: one worker {seconds[1]:.1f} s, two {seconds[2]:.1f} s, ratio {seconds[1] / seconds[2]:.2f}")


def _plans(root: Path) -> None:
    """Dry run of a large plan of the book's first chapter, and status over as many records as that chapter writes."""
    here = Path(__file__).resolve().parents[3]
    shutil.copy(here / f"notebooks/{SLUG}.ipynb", root / "notebooks")
    shutil.copytree(here / "notebooks/params", root / "notebooks/params", dirs_exist_ok=True)
    shutil.copytree(here / "data_manifests", root / "data_manifests", dirs_exist_ok=True)
    plan = root / "large.yaml"
    grid = f"seeds: {list(range(N_PLANNED // 50))}, product: {{lr: {[k / 1000 for k in range(1, 51)]}}}"
    plan.write_text(f"runs: [{{chapters: [{SLUG}], scale: laptop, {grid}}}]\n")
    seconds = [_timed("reprobook.cli", "batch", str(plan), "--dry-run") for _ in range(3)]
    print(f"dry run of {N_PLANNED} runs: {median(seconds):.2f} s")
    _fill(plan, next((here / "book/results/laptop").glob(f"{SLUG}.*.json")))
    seconds = [_timed("reprobook.cli", "batch", "status", str(plan)) for _ in range(3)]
    print(f"status of {N_PLANNED} complete runs: {median(seconds):.2f} s")


def _fill(plan: Path, example: Path) -> None:
    """A record for every run of the plan, as large as a real one."""
    from reprobook.batch.plan import load
    from reprobook.batch.tasks import expand

    content = record.read(example)
    record.write(content, project.root() / "example.json")
    text = (project.root() / "example.json").read_text()
    for task in expand(load(plan)):
        task.folder.mkdir(parents=True)
        (task.folder / "record.json").write_text(text.replace(json.dumps(content.run_id), json.dumps(task.run_id)))


if __name__ == "__main__":
    main()
