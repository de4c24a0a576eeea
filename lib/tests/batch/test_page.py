"""The batch commands of "How to run a chapter", one after the other as a new user would type them.

They run with the tiny chapter in place of the book's, in a checkout that has the book's own plans."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import slurm_cluster
from tiny_chapter import wait_for

BOOK = Path(__file__).parents[3] / "book"


def commands(title: str) -> list[list[str]]:
    """Arguments of the batch commands in the page's section ``title``, in order."""
    page = (BOOK / "how_to_run.md").read_text()
    section = page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^reprobook batch (.*)$", section, re.MULTILINE)
    assert lines, title
    return [shlex.split(line) for line in lines]


@pytest.fixture
def checkout_with_plans(batches: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Clean and committed, as after a clone; plans are called by the paths that the page shows."""
    shutil.copytree(BOOK / "plans", batches.root / "book/plans")
    batches.checkout.write(".gitignore", "runs/\n")
    for arguments in (["init"], ["add", "-A"], ["commit", "-m", "all"]):
        who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *who, *arguments], cwd=batches.root, check=True, capture_output=True, env={**os.environ})
    monkeypatch.chdir(batches.root)
    return batches


def test_a_laptop_user(checkout_with_plans: Any) -> None:
    said = [checkout_with_plans.run(*words) for words in commands("Many runs")]
    assert "2 runs: 0 complete, 2 to do" in said[0]
    assert "2 complete" in said[1] and "2 runs: 2 complete" in said[2]
    assert "3 runs: 0 complete, 3 to do" in said[3] and "3 complete" in said[4]
    assert "3 written, 0 already there" in said[5]
    assert len(list((checkout_with_plans.root / "book/results/laptop").iterdir())) == 3


@pytest.mark.skipif(slurm_cluster.missing() is not None, reason=str(slurm_cluster.missing()))
def test_an_sbatch_user(
    checkout_with_plans: Any, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = slurm_cluster.Cluster(tmp_path_factory.mktemp("slurm"))
    for name, value in cluster.env.items():
        monkeypatch.setenv(name, value)
    try:
        cluster.start()
        script, submit, status, cancel = commands("On a Slurm cluster")
        assert checkout_with_plans.run(*script).startswith("#!/bin/bash")
        assert "2 runs submitted" in checkout_with_plans.run(*submit)
        assert "2 runs: " in checkout_with_plans.run(*status)
        wait_for(lambda: not cluster.ask("squeue", "-h").strip(), 120)
        assert "2 runs: 2 complete" in checkout_with_plans.run(*status)
        assert "0 jobs cancelled" in checkout_with_plans.run(*cancel)
    finally:
        cluster.stop()
