"""The commands that the README and the page "How to run a chapter" show: the cheap ones run, the others are checked."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from reprobook import cli, params, project
from reprobook.batch.plan import load
from reprobook.batch.tasks import expand

ROOT = project.root()
BIN = Path(sys.executable).parent
CHEAP = ("reprobook list", "reprobook status", "reprobook data plan")
PLANS = re.compile(r"^reprobook batch (?!collect|cancel).*(--dry-run|--print-script)$|^reprobook batch status ")


def commands(page: str) -> list[str]:
    """Lines of the page's bash blocks, without comments."""
    blocks = re.findall(r"^ *```bash\n(.*?)^ *```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


SHOWN = list(dict.fromkeys([*commands("README.md"), *commands("book/how_to_run.md")]))


def starting_with(*words: str) -> list[str]:
    return [line for line in SHOWN if re.sub(r"^\w+=\S+ ", "", line).startswith(tuple(f"{w} " for w in words))]


def run(line: str, folder: Path) -> str:
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    env = {"OMP_NUM_THREADS": "1", **os.environ, "PATH": path, "REPROBOOK_ROOT": str(ROOT)}
    done = subprocess.run(line, shell=True, cwd=folder, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which the shown paths of notebooks and parameters exist, and output stays out of the checkout."""
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    return tmp_path


def test_every_command_is_of_a_kind_that_is_checked_here() -> None:
    known = ("make", "reprobook", "papermill", "jupyter nbconvert", "accelerate launch")
    rest = [line for line in SHOWN if line not in starting_with(*known)]
    assert rest == ["source .venv/bin/activate", "mkdir -p runs"]
    assert len(starting_with("papermill")) >= 4 and len(starting_with("reprobook")) >= 8


@pytest.mark.parametrize("line", starting_with("make"))
def test_make_targets_exist(line: str) -> None:
    run(line.replace("make", "make --dry-run", 1), ROOT)


@pytest.mark.parametrize("line", starting_with("reprobook"))
def test_reprobook_calls_are_valid(line: str) -> None:
    words = [word for word in shlex.split(line) if not re.fullmatch(r"CUDA_VISIBLE_DEVICES=\d+", word)]
    options = cli.parser().parse_args(words[1:])
    for slug in [getattr(options, "slug", None), *getattr(options, "slugs", [])]:
        assert slug is None or project.check_slug(slug)
    if words[1] == "run":
        params.resolve(options.slug, options.scale, dict(map(params.parse_override, options.overrides)))
    if words[1] == "batch":
        assert expand(load(ROOT / options.words[-1]))
    if line.startswith(CHEAP) or PLANS.match(line):
        assert run(line, ROOT)


def test_the_plans_on_the_page_are_valid(tmp_path: Path) -> None:
    """The whole one, and the section for Slurm with the runs of the first."""
    page = (ROOT / "book/how_to_run.md").read_text()
    whole, slurm = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "plan.yaml").write_text(whole)
    assert len(expand(load(tmp_path / "plan.yaml"))) == 12
    (tmp_path / "plan.yaml").write_text(whole + slurm)
    assert load(tmp_path / "plan.yaml").slurm.partition == "gpu"


@pytest.mark.parametrize("line", starting_with("papermill"))
def test_papermill_calls_are_valid(line: str) -> None:
    from papermill.cli import papermill

    call = papermill.make_context("papermill", shlex.split(line)[1:]).params
    notebook = ROOT / call["notebook_path"]
    declared = params.read_parameters(notebook.stem)
    assert notebook.is_file() and {name for name, _ in call["parameters"]} <= set(declared)
    for file in call["parameters_file"]:
        slug, scale, _ = Path(file).name.split(".")
        assert (ROOT / file).is_file() and params.resolve(slug, scale)["scale"] == scale


def test_the_plain_papermill_line_runs(folder: Path) -> None:
    """With the step counts of the rehearsal: nbval runs the chapter with its own."""
    line = min(starting_with("papermill"), key=len)
    run(f"{line} -f notebooks/params/{Path(shlex.split(line)[1]).stem}.rehearsal.yaml", folder)
    assert "smoke metrics:" in (folder / shlex.split(line)[2]).read_text()


def test_a_chapter_becomes_a_script_for_accelerate(folder: Path) -> None:
    """The lines before the launch run; the launch is parsed, and its script compiles and has the parameters."""
    from accelerate.commands.launch import launch_command_parser

    block = SHOWN[SHOWN.index("mkdir -p runs") :]
    launch = next(line for line in block if line.startswith("accelerate launch"))
    for line in block[: block.index(launch)]:
        run(line, folder)
    call = launch_command_parser().parse_args(shlex.split(launch)[2:])
    script = (folder / call.training_script).read_text()
    compile(script, call.training_script, "exec")
    assert call.num_processes > 1 and 'scale = "paper"' in script and 'out_dir = "runs/paper"' in script
