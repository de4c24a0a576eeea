"""A new chapter works as it stands: written, executed, checked, tested and rehearsed in a copy of the library."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import reprobook
import yaml
from copies import copy_to_change
from reprobook.authoring.check import problems
from reprobook.authoring.notebook import check_shape
from reprobook.authoring.scaffold import files, in_contents, new
from reprobook.chapter import Chapter
from reprobook.cli import parser
from reprobook.errors import ReprobookError
from reprobook.facts import Claim
from reprobook.project import PARTS

SLUG = "gtr"
ROOT = Path(__file__).parents[3]
CONTENTS = """\
parts:
  - caption: Language models
    chapters:
      - file: notebooks/block_diffusion
  # - caption: Agents
  # - caption: Biology
"""


@pytest.fixture
def copy(checkout: Any) -> Any:
    """A checkout with the real library in it but one chapter, which its kernels import."""
    copy_to_change(Path(reprobook.__file__).parent, checkout.root / "lib" / "reprobook", SLUG)
    checkout.write("book/_toc.yml", CONTENTS)
    checkout.write("book/references.bib", "% entries\n")
    return checkout


def _call(copy: Any, *command: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(copy.root / "lib")}
    return subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, env=env, cwd=copy.root)


def test_a_new_chapter_is_complete_and_works(copy: Any) -> None:
    made = _call(copy, "reprobook.cli", "new", SLUG)
    assert made.returncode == 0, made.stdout + made.stderr
    assert f"wrote notebooks/{SLUG}.ipynb" in made.stdout and f"{SLUG}: error method: new" in made.stdout
    assert check_shape(SLUG) == []
    words, facts = f"notebooks/{SLUG}.ipynb: cell ", f"book/papers/{SLUG}.yaml: arxiv.id is still 0000.00000"
    found = problems(SLUG)
    assert [problem for problem in found if not problem.startswith(words)] == [
        f"{facts}, as the scaffold wrote it: fill in the paper's facts"
    ]
    unwritten = [problem for problem in found if problem.startswith(words)]
    assert len(unwritten) > 5 and all("still holds the scaffold's words" in problem for problem in unwritten)
    assert (
        "  - caption: Agents\n    chapters:\n      - file: notebooks/gtr\n" in (copy.root / "book/_toc.yml").read_text()
    )
    with pytest.raises(ReprobookError, match="exists already"):
        new(SLUG)

    written = [f"lib/reprobook/papers/{SLUG}", f"lib/tests/papers/test_{SLUG}.py", f"notebooks/{SLUG}.ipynb"]
    style = _call(copy, "ruff", "check", "--no-cache", "--config", str(ROOT / "pyproject.toml"), *written)
    assert style.returncode == 0, style.stdout
    tests = _call(copy, "pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax", *written[1:])
    assert tests.returncode == 0, tests.stdout
    rehearsed = _call(copy, "reprobook.cli", "rehearse", SLUG)
    assert rehearsed.returncode == 0, rehearsed.stderr


def test_a_new_chapter_names_the_example_nowhere() -> None:
    texts = files(SLUG)
    assert not [path for path, text in texts.items() if "example_paper" in path + text or "authoring" in text]
    assert {path.split("/")[0] for path in texts} == {"book", "data_manifests", "lib", "notebooks"}


def test_the_page_about_chapters_names_what_there_is() -> None:
    page = (ROOT / "book" / "writing_a_chapter.md").read_text()
    for line in re.findall(r"^reprobook .*|(?<=`)reprobook [a-z]+(?: <slug>)?(?=`)", page, re.MULTILINE):
        parser().parse_args(
            shlex.split(line.replace("<slug>", "stasc"))[1:] + (["stasc"] if line.endswith("new") else [])
        )
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"\bmake ([a-z-]+)", page)) - {"there", "sure"} <= set(targets)
    assert all(hasattr(Chapter, name) for name in re.findall(r"\bch\.([a-z_]+)", page) if name != "data")
    plan = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0])["claims"]["C1"]
    assert Claim.model_validate(plan).controls[0].effect == "over majority"
    new_files = [
        path.replace(SLUG, "<slug>") for path in files(SLUG) if path.endswith((".py", ".ipynb", f"{SLUG}.yaml"))
    ]
    assert not [path for path in new_files if f"`{path}`" not in page and "__init__" not in path]


def test_contents(checkout: Any) -> None:
    checkout.notebook("1")
    once = in_contents(CONTENTS, "stasc")
    assert once.index("block_diffusion") < once.index("stasc") < once.index("# - caption: Agents")
    assert in_contents(once, "stasc") == once
    assert in_contents(CONTENTS, "scmmgpt").endswith(
        "  - caption: Biology\n    chapters:\n      - file: notebooks/scmmgpt\n"
    )
    with pytest.raises(ReprobookError, match="Images and geometry"):
        in_contents(CONTENTS, PARTS["Images and geometry"][0])


def test_only_chapters_of_the_book(checkout: Any) -> None:
    with pytest.raises(ReprobookError, match="'my_paper' is not a chapter of this book; chapters: block_diffusion,"):
        new("my_paper")
