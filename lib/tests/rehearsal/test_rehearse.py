"""A rehearsal in a small checkout: real kernels, real hub client, and no way out of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from reprobook import record
from reprobook.errors import ReprobookError
from reprobook.rehearsal import rehearse

SLUG = "block_diffusion"
MANIFEST = """
artefacts:
  - id: news
    kind: dataset
    what: a few sentences
    license: MIT
    scales: [paper]
    source:
      hub: {repo_id: org/news, repo_type: dataset, revision: null, allow_patterns: ["*.jsonl"]}
    miniature: {format: jsonl, rows: 3, files: {test.jsonl: {text: text}}}
"""
READ = """
import os
from pathlib import Path
from reprobook.data import ChapterData
lines = (ChapterData("block_diffusion", scale).path("news") / "test.jsonl").read_text().splitlines()
print(len(lines), "rows,", steps, "steps")
"""
FINISH = """
from reprobook.record import Record, write
write(Record(slug="block_diffusion", scale=scale, seed=seed, run_id="", status="complete",
             metrics={"rows": len(lines), "steps": steps}), Path(out_dir) / "record.json")
"""
CALL = """
import socket, urllib.request
try:
    {}
except Exception as error:
    print(type(error).__name__)
"""


def test_the_paper_s_parameters_on_miniatures(checkout: Any, tmp_path: Path) -> None:
    checkout.write(f"data_manifests/{SLUG}.yaml", MANIFEST)
    checkout.write(f"notebooks/params/{SLUG}.paper.yaml", "scale: paper  # this scale\nsteps: 1000  # Table 9\n")
    checkout.notebook(READ, "assert os.environ['HF_HUB_OFFLINE'] == '1'", FINISH)
    result = rehearse(SLUG)
    assert result.status == "complete", (result.where, result.tail)
    assert result.folder == checkout.root / "runs" / SLUG / "rehearsal"
    found = record.read(result.folder / "record.json")
    assert (found.scale, found.metrics) == ("paper", {"rows": 3, "steps": 1})
    assert not list((checkout.root / "data_manifests").glob("*.lock.yaml"))  # miniatures are not what the hub holds
    assert not (tmp_path / "cache" / "derived").exists()


@pytest.mark.parametrize(
    ("call", "host"),
    [
        ("urllib.request.urlopen('http://192.0.2.1/x', timeout=2)", "192.0.2.1"),
        ("socket.getaddrinfo('huggingface.co', 443)", "huggingface.co"),
        ("socket.create_connection(('2001:db8::1', 80), timeout=2)", "2001:db8::1"),
    ],
)
def test_a_swallowed_attempt_to_reach_the_network_fails_the_rehearsal(checkout: Any, call: str, host: str) -> None:
    checkout.write(f"data_manifests/{SLUG}.yaml", MANIFEST)
    checkout.notebook(READ, CALL.format(call), FINISH)
    result = rehearse(SLUG)
    assert result.status == "failed" and f"tried the network: {host}" in str(result.where)
    assert record.read(result.folder / "record.json").status == "failed"


def test_faults_of_a_recipe_are_found_before_the_kernel(checkout: Any) -> None:
    checkout.write(f"data_manifests/{SLUG}.yaml", MANIFEST.replace("text: text", "text: prose"))
    checkout.notebook(READ, FINISH)
    with pytest.raises(ReprobookError, match="news: its miniature cannot be made.*unknown kind of column 'prose'"):
        rehearse(SLUG)
    assert not (checkout.root / "runs").exists()
