"""``reprobook rehearse``: miniature hub, offline mode, then the notebook with its paper-scale parameters."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from reprobook.errors import ReprobookError
from reprobook.project import cache_dir, check_slug, root
from reprobook.runs.runner import run_in

if TYPE_CHECKING:
    from reprobook.runs.runner import RunResult

_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "REPROBOOK_OFFLINE")


def rehearse(slug: str, *, time_limit: float | None = None) -> RunResult:
    """Run the paper scale of ``slug``, with the step counts of ``<slug>.rehearsal.yaml``, on miniatures and offline.

    The run folder is ``runs/<slug>/rehearsal``. A run that tried to reach another machine counts as failed.
    """
    from reprobook.params import resolve

    params = resolve(check_slug(slug), "paper", rehearsal=True)
    params.pop("out_dir", None)
    identity = {"slug": slug, "scale": "paper", "seed": params["seed"], "run_id": "rehearsal"}
    folder = root() / "runs" / slug / "rehearsal"
    with tempfile.TemporaryDirectory(prefix="reprobook-rehearsal-") as name:
        env = environment(Path(name))
        build_hub(slug, Path(name) / "hub", env)
        result = run_in(folder, identity, params, again=True, time_limit=time_limit, env=env)
        return _without_network(result, Path(env["REPROBOOK_NETWORK_LOG"]))


def environment(private: Path) -> dict[str, str]:
    """Variables that keep a run inside the folder ``private``: its own hub cache, locks and derived files, no network.

    What was fetched from elsewhere than a hub is shared with the reader's own cache: its content is verified.
    """
    for name in ("hub", "locks", "cache", "guard"):
        (private / name).mkdir(parents=True)
    objects = cache_dir().resolve() / "objects"
    if objects.is_dir():
        (private / "cache" / "objects").symlink_to(objects, target_is_directory=True)
    (private / "guard" / "sitecustomize.py").write_text("import reprobook.rehearsal.guard\n")
    search = [str(private / "guard"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **dict.fromkeys(_OFFLINE, "1"),
        "HF_HOME": str(private / "hf"),
        "HF_HUB_CACHE": str(private / "hub"),
        "HF_DATASETS_CACHE": str(private / "datasets"),
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "REPROBOOK_CACHE": str(private / "cache"),
        "REPROBOOK_LOCKS": str(private / "locks"),
        "REPROBOOK_NETWORK_LOG": str(private / "network.log"),
        "PYTHONPATH": os.pathsep.join(search),
        "PYTHONSAFEPATH": "1",  # no module of the working directory
    }


def build_hub(slug: str, hub: Path, env: Mapping[str, str]) -> None:
    """Build the miniature hub in a process of its own, under the same rules as the run."""
    command = [sys.executable, "-m", "reprobook.rehearsal.hub", slug, str(hub)]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True)
    if done.returncode:
        raise ReprobookError("\n".join(done.stderr.strip().splitlines()[-5:]))


def _without_network(result: RunResult, log: Path) -> RunResult:
    """``result``, failed if a process of the run tried to reach another machine, even if it went on without."""
    from reprobook import record

    hosts = sorted(set(log.read_text("utf-8").split())) if log.is_file() else []
    if not hosts:
        return result
    where = "; ".join([*filter(None, [result.where]), f"tried the network: {', '.join(hosts)}"])
    failed = result.record.model_copy(update={"status": "failed", "where": where})
    record.write(failed, result.folder / "record.json")
    return dataclasses.replace(result, status="failed", record=failed, where=where)
