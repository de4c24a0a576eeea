"""What can go wrong around a run: limits, a full disk, kills, runs that start together. Nothing is left behind, nothing
is called complete that is not, and the next run completes."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from reprobook import record
from reprobook.errors import ReprobookError
from reprobook.runs import training_log
from reprobook.runs.process import Progress, Stop, Watch, _steps, memory_gb
from reprobook.runs.runner import completed, prepare, run, run_in

if TYPE_CHECKING:
    from reprobook.runs.process import Outcome

SLUG = "block_diffusion"
FINISH = """
from pathlib import Path
from reprobook.record import Record, write
write(Record(slug="block_diffusion", scale=scale, seed=seed, run_id="", status="complete",
             metrics={"loss": lr * steps}), Path(out_dir) / "record.json")
"""
SOCKETS = """
import os
from pathlib import Path
(Path(out_dir) / "sockets.tmp").write_text(os.environ["JUPYTER_RUNTIME_DIR"])
(Path(out_dir) / "sockets.tmp").rename(Path(out_dir) / "sockets")
"""


def _start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "reprobook.cli", "run", SLUG, *arguments]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _wait_for(condition: Any, seconds: float = 40.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("nothing happened in time")


def _sockets(checkout: Any) -> list[Path]:
    """Folders with the sockets of all runs so far."""
    return [Path(file.read_text()) for file in (checkout.root / "runs").glob("*/*/sockets")]


def test_memory_limit(checkout: Any) -> None:
    checkout.notebook(SOCKETS, "block = bytearray(b'x') * 1_200_000_000\nimport time\ntime.sleep(600)", FINISH)
    result = run(SLUG, "smoke", memory_limit=0.9)
    said = r"memory limit of 0\.9 GB reached \((.*) GB in use\) in cell 4 of 5 \(A chapter\)"
    where = re.fullmatch(said, str(result.where))
    assert result.status == "failed" and where and 0.9 <= float(where[1]) < 2  # seen while it grows
    assert [path for path in _sockets(checkout) if path.exists()] == []


def test_memory_of_a_process_counts_what_it_started() -> None:
    code = "import sys; block = bytearray(b'x') * 200_000_000; print('there', flush=True); sys.stdin.read()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", parent], **pipes) as process:
        assert process.stdout is not None and process.stdout.readline() == b"there\n"
        assert 0.2 < memory_gb(process.pid) < 0.4
        process.communicate()
    assert memory_gb(process.pid) == 0


FILL = """
(Path(out_dir) / "checkpoints").mkdir(exist_ok=True)
(Path(out_dir) / "checkpoints" / "step").write_text("7")
try:
    with open(Path(out_dir) / "big", "wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))
except OSError:
    pass
"""


@pytest.mark.parametrize("swallowed", [True, False])
def test_disk_full_while_saving(checkout: Any, disk: Any, swallowed: bool) -> None:
    """papermill saves the notebook after every cell; here it can't, whether or not the cell itself noticed."""
    runs = disk("size=1m", checkout.root / "runs")
    fill = FILL if swallowed else FILL.replace("    pass", "    raise")
    checkout.notebook(SOCKETS, fill, "x = 'text ' * 100\nprint(x)", FINISH)
    result = run(SLUG, "smoke")
    assert result.status == "failed" and "No space left on device" in str(result.where), result.where
    assert "in cell" in str(result.where)
    assert completed(result.folder, {"slug": SLUG, "scale": "smoke", "seed": 0}) is None
    assert (result.folder / "checkpoints" / "step").read_text() == "7", "what was there is kept"
    assert [path for path in _sockets(checkout) if path.exists()] == []
    (result.folder / "big").unlink()  # the reader makes room
    checkout.notebook(SOCKETS, "x = 1", "y = 2", FINISH)
    disk.remount(runs, "size=4m")
    assert run(SLUG, "smoke").status == "complete"


def test_runs_that_cannot_be_written(checkout: Any, disk: Any) -> None:
    runs = disk("size=1m", checkout.root / "runs")
    disk.remount(runs, "ro")
    checkout.notebook(FINISH)
    with pytest.raises(ReprobookError, match=r"cannot write to .*runs.* \(Read-only file system\): make room, or make"):
        run(SLUG, "smoke")


def test_what_an_earlier_run_left_is_kept_when_a_forced_one_fails(checkout: Any) -> None:
    checkout.notebook("print('first')", FINISH)
    first = run(SLUG, "smoke")
    path = checkout.root / "notebooks" / f"{SLUG}.ipynb"
    good = path.read_text()
    path.write_text(good.replace("print('first')", "raise ValueError('second')"))
    identity = {"slug": SLUG, "scale": "smoke", "seed": 0, "run_id": first.run_id}
    assert run_in(first.folder, identity, first.record.params or {}, again=True).status == "failed"
    assert record.read(first.folder / "record.previous.json").status == "complete"
    assert "first" in (first.folder / "notebook.previous.ipynb").read_text()


def test_runs_that_start_together_all_complete(checkout: Any) -> None:
    """Kernels that share a working directory once shared the names of their sockets."""
    checkout.notebook(SOCKETS, "print('seed', seed)", FINISH)
    commands = [_start("-p", f"seed={seed}") for seed in range(3)]
    ends = [command.communicate(timeout=120) for command in commands]
    assert [command.returncode for command in commands] == [0, 0, 0], ends
    for seed in range(3):
        [folder] = (checkout.root / "runs" / SLUG).glob(f"smoke-seed{seed}-*")
        assert record.read(folder / "record.json").seed == seed
        assert f"seed {seed}" in (folder / "log.txt").read_text()
    assert len(set(_sockets(checkout))) == 3
    assert [path for path in _sockets(checkout) if path.exists()] == []


def test_the_same_run_started_three_times_at_once_is_executed_once(checkout: Any) -> None:
    checkout.notebook("import os, time\nos.write(os.open(out_dir + '/../count', 0o2101), b'x')\ntime.sleep(1)", FINISH)
    commands = [_start() for _ in range(3)]
    ends = [command.communicate(timeout=120) for command in commands]
    codes = [command.returncode for command in commands]
    assert 0 in codes and set(codes) <= {0, 2}, ends
    refused = [errors for command, (_, errors) in zip(commands, ends, strict=True) if command.returncode]
    assert all("is being executed by another process: wait for it" in errors for errors in refused)
    assert (checkout.root / "runs" / SLUG / "count").read_text() == "x"


def test_a_killed_papermill_is_a_failed_run(checkout: Any) -> None:
    checkout.notebook(SOCKETS, "import time\ntime.sleep(600)", FINISH)
    command = _start()
    [sockets] = _wait_for(lambda: _sockets(checkout))
    family = psutil.Process(command.pid).children(recursive=True)
    next(p for p in family if "reprobook.runs.execute" in p.cmdline()).kill()
    _, errors = command.communicate(timeout=40)
    assert command.returncode == 1 and "the runner's child process was killed (signal 9) in cell" in errors
    assert psutil.wait_procs(family, timeout=10)[1] == [] and not sockets.exists()


def test_training_is_told_to_who_waits_and_in_the_log_and_not_in_the_notebook(checkout: Any) -> None:
    """Heartbeats are JSON for the runner, lines for who reads the log, and belong to their cell."""
    checkout.notebook(
        """
        import logging, time
        from reprobook.train import progress
        progress.HEARTBEAT_S = 0.05
        training = progress.Progress("base", 20, 0)
        for step in range(1, 21):
            time.sleep(0.08)
            training.update(step, 1 / step)
        print([name for name in dir() if "log" in name.lower() and name != "logging"])
        """,
        "time.sleep(1.5)",
        FINISH,
    )
    seen = []

    class Seen(Progress):
        def show(self, *, end: bool = False) -> None:
            seen.append((self.cell, self.steps))

    folder, identity, params = prepare(SLUG, "smoke", {})
    assert run_in(folder, identity, params, progress=Seen()).status == "complete"
    told = [steps for _, steps in seen if steps is not None]
    assert told and {cell for cell, steps in seen if steps} == {3} and (4, None) in seen
    for steps in told:
        assert (steps["name"], steps["total"]) == ("base", 20) and 1 <= steps["step"] <= 20 and steps["steps_per_s"] > 0
        assert steps["text"].startswith(f"base: step {steps['step']} of 20, loss ") and steps["left_s"] >= 0
    log = (folder / "log.txt").read_text()
    assert re.search(r"^\d\d:\d\d:\d\d training: base: step \d+ of 20, loss .* s left$", log, re.MULTILINE)
    notebook = (folder / "notebook.ipynb").read_text()
    assert "of 20, loss" not in notebook and "[]\\n" in notebook
    assert not list(folder.glob("*.jsonl"))


def test_progress_is_read_line_by_line(tmp_path: Path) -> None:
    told = tmp_path / "progress.jsonl"
    assert _steps(told, 0) == (None, 0)
    at = 0
    for text, expected in [
        ('{"step": 1}\n{"step": 2}\n', {"step": 2}),
        ("", None),
        ('{"step": 3}\n{"st', {"step": 3}),
        ('ep": 4}', None),
        ("\n", {"step": 4}),
        ("cut off by a full dis\n", None),
        ('{"step": 6}\n', {"step": 6}),
    ]:
        with told.open("a") as stream:
            stream.write(text)
        found, at = _steps(told, at)
        assert found == expected, text
    assert at == told.stat().st_size


def test_what_a_person_sees_of_a_long_run() -> None:
    stream = io.StringIO()
    text = "base: step 300 of 850, loss 2.1, 3.1 steps/s, 177 s left"
    progress = Progress(stream, "demo laptop-seed0", 46, cell=18, steps={"text": text})
    progress.show()
    assert stream.getvalue() == "", "not on a terminal: now and then"
    progress._last -= 31
    progress.start -= 210.2
    progress.show()
    assert stream.getvalue() == f"demo laptop-seed0: cell 19 of 46, 3:30 ({text})\n"


def test_a_kernel_that_nobody_waits_for_logs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(training_log.LOG_FILE, raising=False)
    code = "from reprobook.runs.training_log import install; install(); import logging\n"
    code += "print(logging.getLogger('reprobook.train').handlers)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ), check=True
    )
    assert done.stdout == "[]\n"


def outcome_of(exit_code: int, stop: Stop) -> Outcome:
    """What the runner sees of a child that has ended before it looks."""
    child = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({exit_code})"], stdin=subprocess.PIPE)
    child.wait()
    reading, writing = os.pipe()
    os.close(writing)
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        return Watch(child, stop, {"progress": Progress()}).wait({}, pipe, Path("nothing told"))


def test_a_child_that_a_cluster_stopped_too_was_stopped_not_broken() -> None:
    """Slurm signals all processes of a job at once: the kernel may die, and the child end, before the runner looks."""
    stop = Stop()
    stop.ask(signal.SIGTERM)
    assert outcome_of(1, stop).stopped == "stopped by SIGTERM" and outcome_of(1, stop).signal == signal.SIGTERM
    assert outcome_of(1, Stop()).stopped is None  # nobody asked: the child broke
    assert outcome_of(0, stop).stopped is None  # it had finished
