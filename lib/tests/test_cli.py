"""The command: quick answers, clear mistakes, exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from reprobook import project
from reprobook.cli import main
from reprobook.content.key import content_key
from reprobook.record import Record, write

SLUG = "block_diffusion"


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["run", "--help"], None])
def test_quick_answers_import_nothing_heavy(arguments: list[str] | None) -> None:
    """These imports take seconds. What is left answers in a third of a second, and no timing here could be fair."""
    heavy = "{'torch', 'pandas', 'numpy', 'pydantic', 'transformers', 'papermill', 'matplotlib', 'yaml'}"
    code = f"""
import contextlib, sys, reprobook
from reprobook.cli import main
with contextlib.suppress(SystemExit):
    main({arguments}) if {arguments} else None
assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_list_names_every_chapter_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    words = capsys.readouterr().out.split()
    assert all(words.count(slug) == 1 for slug in project.SLUGS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nonsense"], "unknown chapter 'nonsense'; chapters: block_diffusion"),
        (["run", SLUG, "--scale", "huge"], "unknown scale 'huge'; scales: smoke, laptop, paper"),
        (["run", SLUG, "-p", "stepz=3"], "unknown parameter 'stepz'"),
        (["run", SLUG, "-p", "steps"], "write name=value"),
        (["run", SLUG, "-p", "scale=laptop"], "choose the scale with --scale"),
        (["run", SLUG, "-p", "steps=3", "-p", "steps=4"], "'steps' is given twice"),
        (["rehearse"], "name a chapter or say --all"),
        (["refresh"], "name a chapter or say --all"),
        (["data", "plan", "nonsense"], "no manifest of nonsense; manifests: block_diffusion"),
        (["data", "plan", "--scale", "huge"], "unknown scale 'huge'"),
        (["status", "nonsense"], "unknown chapter"),
    ],
)
def test_mistakes(checkout: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    checkout.notebook("1")
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert message in said.err and said.out == ""


def test_status_says_current_stale_and_why(checkout: Any, capsys: pytest.CaptureFixture[str]) -> None:
    checkout.notebook("x = 1")
    params = {"scale": "laptop", "seed": 1, "device": "auto", "lr": 1.0e-3, "steps": 2}
    found = Record(slug=SLUG, scale="laptop", seed=1, run_id="r", status="complete", params=params,
                   content=content_key(SLUG, params, {}))  # fmt: skip
    write(found, checkout.root / "book" / "results" / "laptop" / f"{SLUG}.seed1.json")
    assert main(["status"]) == 0
    said = capsys.readouterr().out
    assert "laptop  current (seeds 1)" in said and "paper   never run" in said
    checkout.notebook("x = 2")
    write(
        found.model_copy(update={"status": "failed", "where": "x"}),
        checkout.root / "runs" / SLUG / "smoke-seed0-a" / "record.json",
    )
    (checkout.root / "runs" / SLUG / "smoke-seed0-b").mkdir()
    assert main(["status", SLUG]) == 0
    said = capsys.readouterr().out
    assert "stale: 1 of 1 seeds" in said and "- a code cell changed" in said
    assert "run smoke-seed0-a failed: x" in said and "run smoke-seed0-b was interrupted" in said


def test_check_counts_problems(checkout: Any, capsys: pytest.CaptureFixture[str]) -> None:
    checkout.notebook("x = 1")
    assert main(["check"]) == 1
    said = capsys.readouterr()
    assert "chapters checked: 1" in said.out and f"notebooks/{SLUG}.ipynb: sections (##) must be" in said.err


def test_data_commands(checkout: Any, capsys: pytest.CaptureFixture[str]) -> None:
    checkout.write("data_manifests/bundled/points.txt", "1 2 3\n")
    checkout.write(
        f"data_manifests/{SLUG}.yaml",
        f"""
        artefacts:
          - id: points
            kind: dataset
            what: three numbers
            license: CC0-1.0
            scales: [smoke, laptop]
            source: {{bundled: {{path: points.txt, sha256: {"a" * 64}}}}}
        """,
    )
    checkout.notebook("x = 1")
    assert main(["data", "list"]) == 0 and "points" in capsys.readouterr().out
    assert main(["data", "verify"]) == 1 and "points" in capsys.readouterr().err
    assert main(["data", "fetch"]) == 1 and "checksum" in capsys.readouterr().err


def test_a_closed_pipe_is_no_error(checkout: Any) -> None:
    command = f"{sys.executable} -m reprobook.cli list | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0 and "Traceback" not in done.stderr
