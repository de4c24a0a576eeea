"""Real runs of tiny notebooks: papermill, kernels and signals are the real ones; a run counts only when it should."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
from processes import alive
from reprobook import cli, record
from reprobook.errors import ReprobookError
from reprobook.runs import process
from reprobook.runs.execute import kernel_manager
from reprobook.runs.process import _environment
from reprobook.runs.runner import _disk_errors, completed, run

SLUG = "block_diffusion"
FINISH = """
from pathlib import Path
from reprobook.record import Record, write
write(Record(slug="block_diffusion", scale=scale, seed=seed, run_id="", status="complete",
             metrics={"loss": lr * steps}), Path(out_dir) / "record.json")
print("finished")
"""


SOCKETS = """
import os
from pathlib import Path
(Path(out_dir) / "sockets.tmp").write_text(os.environ["JUPYTER_RUNTIME_DIR"])
(Path(out_dir) / "sockets.tmp").rename(Path(out_dir) / "sockets")
"""


def _sockets(checkout: Any) -> list[Path]:
    """Folders with the sockets of all runs so far."""
    return [Path(file.read_text()) for file in (checkout.root / "runs").glob("*/*/sockets")]


def test_a_good_run_completes_then_is_skipped_and_again_forces(checkout: Any) -> None:
    checkout.notebook("print('hello')", FINISH)
    first = run(SLUG, "laptop", {"seed": 1, "steps": 3})
    assert (first.status, first.where) == ("complete", None)
    assert first.record.metrics == {"loss": pytest.approx(3.0e-3)}
    assert first.folder == checkout.root / "runs" / SLUG / first.run_id and first.run_id.startswith("laptop-seed1-")
    assert sorted(p.name for p in first.folder.iterdir()) == ["log.txt", "notebook.ipynb", "record.json"]
    nb = nbformat.read(first.folder / "notebook.ipynb", 4)
    assert [cell.execution_count for cell in nb.cells if cell.cell_type == "code"] == [1, 2, 3, 4]
    assert "hello" in (first.folder / "log.txt").read_text()

    stamp = (first.folder / "record.json").stat().st_mtime_ns
    assert run(SLUG, "laptop", {"seed": 1, "steps": 3}).status == "skipped"
    assert (first.folder / "record.json").stat().st_mtime_ns == stamp
    (first.folder / "cells").mkdir()  # what a chapter kept, perhaps of other code
    (first.folder / "cells" / "a.json").write_text("1")
    assert run(SLUG, "laptop", {"seed": 1, "steps": 3}, again=True).status == "complete"
    assert (first.folder / "record.json").stat().st_mtime_ns > stamp
    assert not (first.folder / "cells").exists() and (first.folder / "record.previous.json").is_file()


def test_a_run_that_goes_on_counts_the_time_of_the_attempt_before(checkout: Any) -> None:
    once = """
    import time
    from pathlib import Path
    kept = Path(out_dir) / "kept"
    if not kept.exists():
        time.sleep(3)
        kept.touch()
        raise ValueError("a later cell")
    """
    checkout.notebook(once, FINISH)
    failed = run(SLUG, "laptop")
    whole = run(SLUG, "laptop")
    assert (failed.status, whole.status) == ("failed", "complete")
    assert whole.record.wall_s > failed.record.wall_s > 3.0
    assert record.read(whole.folder / "record.json").wall_s == whole.record.wall_s


@pytest.mark.parametrize(
    ("cells", "cause"),
    [
        (["x = 1\nraise ValueError('too small')", FINISH], "ValueError: too small in cell 3 of 4 (A chapter)"),
        ([f"{SOCKETS}import signal\nos.kill(os.getpid(), signal.SIGKILL)", FINISH], "the kernel died in cell 3 of 4"),
        (["import sys\nsys.exit(0)", FINISH], "SystemExit: 0 in cell 3 of 4"),
        ([FINISH, "import sys\nsys.exit(0)"], "SystemExit: 0 in cell 4 of 4"),
        (["import os\nos._exit(0)", FINISH], "the kernel died in cell 3 of 4"),
        (["print('no end')"], "no record was written: the notebook must end with ch.finish()"),
        ([FINISH.replace("seed=seed", "seed=seed + 1")], "the record is of another run: seed differ"),
        ([FINISH.replace('"complete"', '"running"')], "the record says running"),
        (["open(out_dir + '/record.json', 'w').write('{')"], "is cut off or not JSON"),
    ],
)  # fmt: skip
def test_a_run_that_did_not_end_well_is_failed_and_says_where(checkout: Any, cells: list[str], cause: str) -> None:
    checkout.notebook(*cells)
    result = run(SLUG, "smoke")
    assert result.status == "failed" and result.where is not None and cause in result.where
    stored = record.read(result.folder / "record.json")
    assert (stored.status, stored.where, stored.params["steps"]) == ("failed", result.where, 2)
    assert stored.content is not None and stored.ended is not None
    assert (result.folder / "notebook.ipynb").is_file() and result.tail
    assert completed(result.folder, {"slug": SLUG, "scale": "smoke", "seed": 0}) is None  # so it is never skipped
    assert [path for path in _sockets(checkout) if path.exists()] == []


def test_a_failed_run_goes_on_with_its_checkpoints(checkout: Any) -> None:
    checkout.notebook(
        """
        from pathlib import Path
        kept = Path(out_dir) / "checkpoints" / "step"
        if not kept.exists():
            kept.parent.mkdir(parents=True)
            kept.write_text("1")
            raise RuntimeError("power cut")
        """,
        FINISH,
    )
    assert run(SLUG, "smoke").status == "failed"
    assert run(SLUG, "smoke").status == "complete"
    assert run(SLUG, "smoke", again=True).status == "failed"  # from nothing, so the fault is back


def test_time_limit(checkout: Any) -> None:
    checkout.notebook("import time\ntime.sleep(600)", FINISH)
    begin = time.monotonic()
    result = run(SLUG, "smoke", time_limit=10.0)
    assert result.status == "failed" and "time limit of 10 s reached in cell 3 of 4" in str(result.where)
    assert time.monotonic() - begin < 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nonsense", "smoke", {}), "unknown chapter 'nonsense'; chapters: block_diffusion"),
        ((SLUG, "huge", {}), "unknown scale 'huge'; scales: smoke, laptop, paper"),
        ((SLUG, "smoke", {"stepz": 3}), "steps"),
        ((SLUG, "smoke", {"steps": "three"}), "steps"),
        ((SLUG, "smoke", {"lr": "1e-4"}), "YAML reads 1e-4 as text"),
        ((SLUG, "smoke", {"out_dir": "/tmp/x"}), "leave out_dir alone"),
    ],
)
def test_mistakes_are_found_before_anything_starts(checkout: Any, arguments: Any, message: str) -> None:
    checkout.notebook(FINISH)
    with pytest.raises(ReprobookError) as caught:
        run(*arguments)
    assert message in str(caught.value)
    assert not (checkout.root / "runs").exists()


def _command(checkout: Any, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "reprobook.cli", *arguments]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def _wait_for(condition: Any, seconds: float = 30.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("nothing happened in time")


SLEEPING = f"""{SOCKETS}
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
(Path(out_dir) / "pids.tmp").write_text(f"{{os.getpid()}} {{child.pid}}")
(Path(out_dir) / "pids.tmp").rename(Path(out_dir) / "pids")
time.sleep(600)
"""


def _pids(checkout: Any) -> list[int]:
    file = _wait_for(lambda: next((checkout.root / "runs").glob("*/*/pids"), None))
    return [int(pid) for pid in file.read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_command_stops_everything(checkout: Any, number: signal.Signals) -> None:
    checkout.notebook(SLEEPING, FINISH)
    command = _command(checkout, "run", SLUG)
    pids = _pids(checkout)
    with pytest.raises(ReprobookError, match="is being executed by another process"):  # the same run twice at once
        run(SLUG, "smoke")
    [sockets] = _sockets(checkout)
    assert list(sockets.iterdir())
    command.send_signal(number)
    _, errors = command.communicate(timeout=30)
    assert command.returncode == 128 + number
    assert f"stopped by {number.name} in cell 3 of 4" in errors and "the same command goes on" in errors
    assert "Traceback" not in errors and "failed" not in errors
    assert alive(pids) == [] and not sockets.exists()
    found = next((checkout.root / "runs" / SLUG).glob("smoke-*/record.json"))
    assert record.read(found).status == "failed"


def test_a_signal_also_stops_the_runs_that_were_to_come(checkout: Any) -> None:
    checkout.notebook(SLEEPING, FINISH)
    checkout.write(f"notebooks/expected/{SLUG}.json", '{"loss": {"value": 1.0, "rtol": 0.1, "why": "any"}}')
    command = _command(checkout, "portability", SLUG)
    _wait_for(lambda: next((checkout.root / "runs").rglob("pids"), None))
    command.send_signal(signal.SIGINT)
    _, errors = command.communicate(timeout=30)
    assert command.returncode == 128 + signal.SIGINT and "stopped by SIGINT in cell 3 of 4" in errors
    assert len(list((checkout.root / "runs").rglob("log.txt"))) == 1, "another setting was begun"


def test_a_killed_command_leaves_no_process_no_sockets_and_no_complete_run(checkout: Any) -> None:
    checkout.notebook(SLEEPING.replace("child =", "child = None #").replace("child.pid", "0"), FINISH)
    command = _command(checkout, "run", SLUG)
    pids = _pids(checkout)[:1]
    [sockets] = _sockets(checkout)
    assert list(sockets.iterdir())
    command.kill()
    command.communicate()
    _wait_for(lambda: not alive(pids) and not sockets.exists())
    assert not list((checkout.root / "runs" / SLUG).glob("smoke-*/record.json"))


def test_exit_codes_and_last_lines(checkout: Any) -> None:
    checkout.notebook("print('the last words')\nraise ValueError('too small')", FINISH)
    command = _command(checkout, "run", SLUG)
    out, errors = command.communicate(timeout=60)
    assert command.returncode == 1
    assert "ValueError: too small in cell 3 of 4" in errors and "raise ValueError('too small')" in errors
    assert "Traceback (most recent call last)" not in errors.split("last lines")[0]
    checkout.notebook(FINISH)
    command = _command(checkout, "run", SLUG, "-p", "lr=1e-4")
    _, errors = command.communicate(timeout=60)
    assert command.returncode == 2 and "YAML reads 1e-4 as text" in errors and "Traceback" not in errors
    command = _command(checkout, "run", SLUG, "-p", "lr=1.0e-4")
    out, errors = command.communicate(timeout=60)
    assert command.returncode == 0 and "complete" in out


def test_other_kernels_called_python3_are_not_taken(checkout: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = {"argv": ["false"], "display_name": "wrong", "language": "python"}
    checkout.write("jupyter/kernels/python3/kernel.json", json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(checkout.root / "jupyter"))
    checkout.notebook("import sys; print(sys.executable)", FINISH)
    result = run(SLUG, "smoke")
    assert result.status == "complete" and sys.executable in (result.folder / "log.txt").read_text()


def _git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, env={**os.environ})


def test_publish_wants_clean_code_and_the_scale_s_own_parameters(
    checkout: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    honest = FINISH.replace(
        'status="complete",', 'status="complete", content=key, commit=commit()[0], clean=commit()[1],'
    )
    checkout.notebook(
        """
        from reprobook.record import commit
        from reprobook.content.key import content_key
        key = content_key("block_diffusion", dict(scale=scale, seed=seed, device=device, lr=lr, steps=steps), {})
        """,
        honest,
    )
    checkout.write(".gitignore", "runs/\n")
    _git(checkout.root, "init")
    for arguments, message in [
        (["--scale", "smoke"], "smoke run is no evidence"),
        (["--scale", "laptop", "-p", "steps=3"], "steps is overridden"),
        (["--scale", "laptop"], "uncommitted changes"),
    ]:
        assert cli.main(["run", SLUG, "--publish", *arguments]) == 2 and message in capsys.readouterr().err
    _git(checkout.root, "add", "-A")
    _git(checkout.root, "commit", "-m", "all")
    assert cli.main(["run", SLUG, "--publish", "--scale", "laptop", "-p", "seed=2"]) == 0
    assert f"published book/results/laptop/{SLUG}.seed2.json\n" in capsys.readouterr().out
    [published] = record.results(SLUG, "laptop")
    assert (published.seed, published.clean) == (2, True)


def test_a_run_does_not_depend_on_where_it_is_started(
    checkout: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not on modules that lie there or in the checkout, and relative folders of the command are those of the kernel."""
    hostile = "raise ImportError('not the one of the standard library')\n"
    for folder in (tmp_path, checkout.root):
        (folder / "random.py").write_text(hostile)
        (folder / "colorsys.py").write_text(hostile)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("REPROBOOK_ROOT", checkout.root.name)
    monkeypatch.setenv("REPROBOOK_CACHE", "~/cache")
    monkeypatch.setenv("HF_HOME", "hub")
    monkeypatch.setenv("PYTHONPATH", f"{os.pathsep}more")  # an empty part is the folder of work
    checkout.notebook(
        """
        import colorsys, os, random, sys
        from reprobook.project import cache_dir, root
        print([str(root()), str(cache_dir()), os.environ["HF_HOME"], os.environ["PYTHONPATH"]])
        """,
        FINISH,
    )
    result = run(SLUG, "smoke")
    assert result.status == "complete", result.tail
    folders = [checkout.root, *(tmp_path / name for name in ("home/cache", "hub", "more"))]
    assert str([str(folder) for folder in folders]) in (result.folder / "log.txt").read_text()
    assert not (checkout.root / "~").exists() and not (tmp_path / "~").exists()


def test_temporary_files_go_where_there_is_room(disk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full, closed, good = disk("size=8k"), disk("size=1m"), tmp_path / "good"
    (full / "file").write_bytes(b"x" * 8192)
    disk.remount(closed, "ro")
    good.mkdir()
    monkeypatch.setattr(process, "PLACES", (str(full), str(closed)))
    monkeypatch.setenv("TMPDIR", str(good))
    assert process.private_folder().parent == good
    monkeypatch.setenv("TMPDIR", str(closed))
    monkeypatch.setattr(process, "PLACES", (str(full), str(good)))
    assert process.private_folder().parent == good
    monkeypatch.setattr(process, "PLACES", (str(full), str(closed)))
    with pytest.raises(ReprobookError, match=r"(?s)no folder takes temporary files.*No space left.*set TMPDIR"):
        process.private_folder()
    assert list(full.iterdir()) == [full / "file"]


def test_a_temporary_folder_with_a_long_name_is_the_last_choice(
    checkout: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("long " * 20)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr(process, "PLACES", ("/tmp",))
    folder = process.private_folder()
    assert folder.parent == Path("/tmp")
    folder.rmdir()
    monkeypatch.setattr(process, "PLACES", (str(tmp_path / "none"),))
    folder = process.private_folder()
    assert folder.parent == long
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(folder))
    assert kernel_manager(print)().transport == "tcp", "a socket's path would be too long"


def test_an_error_of_another_disk_is_not_blamed_on_the_runs(checkout: Any, disk: Any) -> None:
    closed = disk("size=1m")
    disk.remount(closed, "ro")
    with pytest.raises(ReprobookError, match=f"cannot write to {closed}/x") as caught, _disk_errors(checkout.root):
        (closed / "x").write_text("")
    assert "runs" not in str(caught.value)


@pytest.mark.parametrize(("given", "numba"), [({"OMP_NUM_THREADS": "2,1"}, "2"), ({}, None)])
def test_numba_has_the_threads_of_openmp(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], numba: str | None
) -> None:
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert _environment(given).get("NUMBA_NUM_THREADS") == numba
    assert _environment({**given, "NUMBA_NUM_THREADS": "4"})["NUMBA_NUM_THREADS"] == "4"
