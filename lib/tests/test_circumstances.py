"""Which commit a record names, and when its code is called that commit's: git is not believed more than it knows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reprobook
from copies import copy_to_change
from reprobook.authoring.portability import in_turn
from reprobook.authoring.publish import check_publishable, publish
from reprobook.authoring.refresh import refresh
from reprobook.cli import main
from reprobook.content.key import content_key
from reprobook.doctor import _git
from reprobook.errors import ReprobookError
from reprobook.record import Record, commit

SLUG = "block_diffusion"
PARAMS = {"scale": "laptop", "seed": 0, "device": "auto", "lr": 1.0e-3, "steps": 2}


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "safe.directory=*"]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def committed(checkout: Any) -> Any:
    """A checkout with a small library, all of it committed."""
    checkout.notebook("1")
    checkout.write("lib/other.py", "x = 1\n")
    checkout.write(".gitignore", "runs/\n")
    checkout.commit()
    checkout.head = git(checkout.root, "rev-parse", "HEAD")
    return checkout


def refusal() -> str:
    """Why nothing can be published now; empty if something can."""
    try:
        check_publishable(SLUG, "laptop", PARAMS)
    except ReprobookError as error:
        return str(error)
    return ""


def test_a_clean_checkout_is_its_commit(committed: Any) -> None:
    assert commit() == (committed.head, True) and refusal() == ""
    committed.write("book/results/laptop/x.json", "{}")
    committed.write("runs/x/record.json", "{}")
    assert commit() == (committed.head, True), "results and runs are no change of the code"
    committed.write("lib/other.py", "x = 2\n")
    assert commit() == (committed.head, False) and "uncommitted changes" in refusal()


def test_what_is_written_into_a_checkout_may_lie_elsewhere(committed: Any, tmp_path: Path) -> None:
    """As `runs` on another disk, or all of it in a checkout that nobody may write to."""
    committed.write(".gitignore", (Path(__file__).parents[2] / ".gitignore").read_text())
    committed.write("book/x.md", "A page.\n")
    committed.commit()
    for name in ("runs", "_build", "book/_generated", ".pytest_cache", ".ruff_cache", ".mypy_cache", ".hypothesis"):
        (committed.root / name).symlink_to(tmp_path)
    assert commit()[1] and refusal() == ""


# ------------------------------------------------------------------------------------------------ another's repository


def outer(checkout: Any) -> Path:
    """A repository around the checkout that ignores it."""
    parent = checkout.root.parent
    (parent / ".gitignore").write_text("/*/\n")
    for arguments in (["init"], ["add", ".gitignore"], ["commit", "-m", "theirs"]):
        git(parent, *arguments)
    return parent


def test_a_repository_around_the_checkout_is_not_its_own(checkout: Any) -> None:
    checkout.notebook("1")
    parent = outer(checkout)
    assert commit() == (None, False) and f"{parent} is not this checkout's own" in refusal()


def test_a_repository_that_tracks_none_of_its_files_is_not_its_own(checkout: Any) -> None:
    checkout.notebook("1")
    checkout.write(".gitignore", "*\n!.gitignore\n")
    checkout.commit()
    assert commit() == (None, False) and "tracks none of its notebooks" in refusal()


def _elsewhere(committed: Any) -> Path:
    """Another repository, clean."""
    folder = committed.root.parent / "elsewhere"
    shutil.copytree(committed.root, folder)
    git(folder, "commit", "--allow-empty", "-m", "theirs")
    return folder


@pytest.mark.parametrize(
    "name", ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_CEILING_DIRECTORIES", "GIT_LITERAL_PATHSPECS",
             "GIT_OBJECT_DIRECTORY"],
)  # fmt: skip
def test_variables_of_git_bend_nothing(committed: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A hook of git, for instance, has the first and the third."""
    folder = _elsewhere(committed)
    values = {
        "GIT_DIR": folder / ".git", "GIT_WORK_TREE": folder, "GIT_INDEX_FILE": folder / ".git" / "index",
        "GIT_CEILING_DIRECTORIES": committed.root, "GIT_LITERAL_PATHSPECS": 1, "GIT_OBJECT_DIRECTORY": folder,
    }  # fmt: skip
    monkeypatch.setenv(name, str(values[name]))
    assert commit() == (committed.head, True)
    committed.write("lib/other.py", "x = 2\n")
    assert commit() == (committed.head, False)


def _same_stat(path: Path, text: str) -> None:
    """Change a file so that size and time of change stay."""
    stat = path.stat()
    path.write_text(text)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


BENT: dict[str, Callable[[Any], Any]] = {
    "another work tree": lambda c: git(c.root, "config", "core.worktree", str(_elsewhere(c))),
    "no work tree": lambda c: git(c.root, "config", "core.bare", "true"),
    "untracked files are not shown": lambda c: [
        git(c.root, "config", "status.showUntrackedFiles", "no"),
        c.write("lib/more.py", "x = 1\n"),
    ],
    "an untracked module is ignored": lambda c: [
        (c.root / ".git" / "info").mkdir(exist_ok=True),
        c.write(".git/info/exclude", "*.py\n"),
        c.write("lib/reprobook/more.py", "x = 1\n"),
    ],
    "a changed file is assumed unchanged": lambda c: [
        git(c.root, "update-index", "--assume-unchanged", "lib/other.py"),
        c.write("lib/other.py", "x = 2\n"),
    ],
    "a changed file is not looked at": lambda c: [
        git(c.root, "update-index", "--skip-worktree", "lib/other.py"),
        c.write("lib/other.py", "x = 2\n"),
    ],
    "only times and sizes are compared": lambda c: [
        git(c.root, "config", "core.checkStat", "minimal"),
        git(c.root, "config", "core.trustctime", "false"),
        git(c.root, "update-index", "--refresh"),
        _same_stat(c.root / "lib/other.py", "x = 2\n"),
    ],
    "a monitor says that nothing changed": lambda c: [
        c.write(".git/quiet", "#!/bin/sh\nprintf 'token\\0'\n").chmod(0o755),
        git(c.root, "config", "core.fsmonitor", str(c.root / ".git" / "quiet")),
        git(c.root, "status"),
        c.write("lib/other.py", "x = 2\n"),
        git(c.root, "status"),
    ],
    "the commit is replaced": lambda c: [
        c.write("lib/other.py", "x = 2\n"),
        git(c.root, "commit", "-qam", "other"),
        git(c.root, "replace", c.head, "HEAD"),
        git(c.root, "reset", "-q", "--soft", c.head),
    ],
}


@pytest.mark.parametrize("how", BENT)
def test_settings_of_git_do_not_make_other_code_clean(committed: Any, how: str) -> None:
    BENT[how](committed)
    assert commit()[1] is False and refusal()


def test_git_that_distrusts_the_owner_is_quoted(committed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own way to be tested
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    assert commit() == (None, False)
    assert "dubious ownership" in refusal() and "git config --global --add safe.directory" in refusal()
    assert "uncommitted" not in refusal()
    [found] = _git()
    assert found.level == "warn" and "dubious ownership" in found.says
    for name, value in {"COUNT": "1", "KEY_0": "safe.directory", "VALUE_0": "*"}.items():
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    assert commit() == (committed.head, True), "what the user trusts is git's business"


def test_a_record_without_a_commit_is_not_said_to_have_changes(checkout: Any) -> None:
    made = Record(slug=SLUG, scale="laptop", seed=0, run_id="r", status="complete")
    with pytest.raises(ReprobookError, match="git could not name the commit"):
        publish(made, checkout.root)


# ------------------------------------------------------------------------------------------------ turns


def test_a_shallow_clone_gives_every_chapter_its_turn(committed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, shallow, k = [], set(), 0
    while len(whole) < 4 or len(shallow) < 2:
        k += 1
        assert k < 50
        git(committed.root, "commit", "--allow-empty", "-m", f"{k}")
        whole.append(in_turn(["a", "b"]))
        clone = committed.root.parent / f"clone {k}"
        git(committed.root, "clone", "-q", "--depth", "1", f"file://{committed.root}", str(clone))
        with monkeypatch.context() as patch:
            patch.setenv("REPROBOOK_ROOT", str(clone))
            shallow.add(in_turn(["a", "b"]))
            assert in_turn(["a", "b"]) == in_turn(["a", "b"])
    assert whole == ([*"ab"] * k)[:k], "where the history is whole, one after the other"
    assert shallow == {"a", "b"}


def test_the_workflow_fetches_the_history_that_turns_are_counted_in() -> None:
    import yaml

    text = (Path(__file__).parents[2] / ".github" / "workflows" / "test.yml").read_text()
    steps = yaml.safe_load(text)["jobs"]["test"]["steps"]
    [fetched] = [step for step in steps if step.get("uses", "").startswith("actions/checkout@")]
    assert fetched["with"]["fetch-depth"] == 0


# ------------------------------------------------------------------------------------------------ the package that runs


def test_a_package_that_is_not_the_checkout_s_publishes_nothing(checkout: Any, capsys: Any) -> None:
    checkout.notebook("from reprobook.metrics.statistics import mean_sd\nmean_sd([1.0, 2.0])")
    before = content_key(SLUG, PARAMS, {})
    for name in ("__init__.py", "metrics/__init__.py"):
        checkout.write(f"lib/reprobook/{name}", "")
    checkout.write("lib/reprobook/metrics/statistics.py", "def mean_sd(x):\n    return 7\n")
    checkout.write(".gitignore", "runs/\n")
    checkout.commit()
    assert content_key(SLUG, PARAMS, {}) == before, "the kernel will import the package that runs here"
    running = Path(reprobook.__file__).parent
    said = f"the package that runs is {running}, not lib/reprobook of this checkout: pip install -e ."
    made = Record(slug=SLUG, scale="laptop", seed=0, run_id="r", status="complete", clean=True, content=before)
    made.params, made.commit = PARAMS, commit()[0]
    assert said in refusal() and commit()[1] is False
    for act in (lambda: publish(made, checkout.root), lambda: refresh(SLUG)):
        with pytest.raises(ReprobookError) as caught:
            act()
        assert said in str(caught.value)
    assert main(["neutral", SLUG, "--why", "x"]) == 2 and said in capsys.readouterr().err
    assert not list((checkout.root / "book" / "results").rglob("*.json"))
    shutil.rmtree(checkout.root / "lib")


def test_the_key_follows_the_package_that_is_installed(checkout: Any) -> None:
    """As after `pip install .`: a copy among the site packages, and the checkout's own, which nobody imports."""
    checkout.notebook("from reprobook.metrics.statistics import mean_sd\nmean_sd([1.0, 2.0])")
    installed, own = checkout.root.parent / "site" / "reprobook", checkout.root / "lib" / "reprobook"
    for folder in (installed, own):
        copy_to_change(Path(reprobook.__file__).parent, folder, "papers", "example")
    code = """
import sys
from pathlib import Path
from reprobook.content.key import content_key
def digest():
    return content_key("block_diffusion", {}, {})["digest"]
digests = [digest()]
for folder in sys.argv[1:]:
    path = Path(folder) / "metrics" / "statistics.py"
    path.write_text(path.read_text().replace("def mean_sd(", "def mean_sd(twice=1, *"))
    digests.append(digest())
print(digests[0] == digests[1], digests[1] == digests[2])
"""
    env = {**os.environ, "PYTHONPATH": str(installed.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(own), str(installed)],
        capture_output=True, text=True, env=env, cwd=checkout.root,
    )  # fmt: skip
    assert done.stdout == "True False\n", done.stdout + done.stderr
    # A command that finds it in its working directory has other kernels.
    call = [sys.executable, "-m", "reprobook.cli", "run", SLUG]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}  # the Makefile sets it
    done = subprocess.run(call, capture_output=True, text=True, cwd=installed.parent, env=env)
    said = f"the command is of the package {installed}, its kernels of {Path(reprobook.__file__).parent}"
    assert done.returncode == 1 and said in done.stderr, done.stderr
