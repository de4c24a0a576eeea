"""``reprobook doctor``: is this machine ready for the book and for a chapter? It asks no server unless told to."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import distribution, distributions
from typing import NamedTuple

from reprobook import project
from reprobook.data import download_bytes, load_manifest, plan, readable_bytes
from reprobook.errors import ReprobookError
from reprobook.record import of_commit

TIGHT, TOO_LITTLE = 10e9, 2e9  # free bytes of a disk: warn, fail
TOOLS = {
    "browser": (("chromium", "chromedriver"), "tests of the pages", "make browser"),
    "slurm": (("slurmctld", "slurmd", "munged"), "tests of batches on Slurm", "make slurm, as root"),
}


class Finding(NamedTuple):
    """One line of the answer. ``level`` is ok, warn or fail; ``remedy`` says what to do about the latter two."""

    level: str
    about: str
    says: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.level:6}{self.about:10}{self.says}" + (f": {self.remedy}" if self.level != "ok" else "")


def examine(slug: str | None = None, online: bool = False) -> Iterator[Finding]:
    """What is found on this machine, one finding after the other; with ``slug`` also what its scales need.

    ``online``: the hub is asked whether the artefacts behind a gate may be fetched."""
    for look in (_python, _packages, _disk, _git, _gpu, _tools):
        yield from look()
    if slug is not None:
        yield from _chapter(project.check_slug(slug))
        yield from _paper_scale(slug, online)


def _python() -> Iterator[Finding]:
    wanted = distribution("reprobook").metadata["Requires-Python"]
    good = sys.version_info >= tuple(map(int, re.findall(r"\d+", wanted)))
    says = f"{sys.version.split()[0]} in {sys.prefix}; the book needs {wanted}"
    yield Finding("ok" if good else "fail", "python", says, "make setup PYTHON=<a newer one>")


def _packages() -> Iterator[Finding]:
    there = {_plain(str(each.metadata["Name"])): each.version.partition("+")[0] for each in distributions()}
    lines = project.read_text(project.root() / "requirements.lock", "requirements.lock").splitlines()
    locked = dict(line.split("==") for line in lines if "==" in line and line[0] != "#")
    missing = [name for name in locked if _plain(name) not in there]
    other = [f"{name} is {there[_plain(name)]}" for name, v in locked.items() if there.get(_plain(name), v) != v]
    if missing:
        yield Finding("fail", "packages", f"{len(missing)} of the lock are missing ({_few(missing)})", "make setup")
    if other:
        yield Finding("warn", "packages", f"{len(other)} are not as locked ({_few(other)})", "make setup")
    if not missing and not other:
        yield Finding("ok", "packages", f"{len(locked)} as in requirements.lock")


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def _disk() -> Iterator[Finding]:
    cache = project.cache_dir()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
        size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
        yield Finding("ok", "cache", f"{readable_bytes(size)} in {cache}")
    except OSError as error:
        yield Finding("fail", "cache", f"{cache}: {error.strerror}", "set REPROBOOK_CACHE to a folder that takes files")
    free = {folder: shutil.disk_usage(folder).free for folder in (project.root(), cache) if folder.is_dir()}
    for folder, left in free.items():
        level = "fail" if left < TOO_LITTLE else "warn" if left < TIGHT else "ok"
        yield Finding(level, "disk", f"{readable_bytes(left)} free at {folder}", "packages and data take about 10 GB")


def _git() -> Iterator[Finding]:
    sha, why_not = of_commit()
    state = f"{sha[:10] if sha else 'no commit'}, {why_not or 'clean'}"
    yield Finding("warn" if why_not else "ok", "git", state, "only runs of a clean commit can be published")


def _gpu() -> Iterator[Finding]:
    import torch

    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    told = subprocess.run(query, capture_output=True, text=True).stdout.split("\n")[0] if shutil.which(query[0]) else ""
    usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    says = f"{usable} usable, {told or 'no driver'}; smoke, laptop and rehearsal need none"
    yield Finding("warn" if told and not usable else "ok", "gpu", says, "install a torch built for this driver")


def _tools() -> Iterator[Finding]:
    for about, (programs, tests, remedy) in TOOLS.items():
        absent = [name for name in programs if shutil.which(name) is None]
        says = f"no {', '.join(absent)}, so {tests} will be skipped" if absent else f"there for {tests}"
        yield Finding("warn" if absent else "ok", about, says, remedy)


def _chapter(slug: str) -> Iterator[Finding]:
    try:
        project.check_packages(slug)
    except ReprobookError as error:
        yield Finding("fail", "packages", *str(error).split(": ", 1))
    rows = {row.id: row for scale in ("smoke", "laptop") for row in plan([slug], scale)}
    missing = [name for name, row in rows.items() if not row.cached]
    says = f"{len(rows) - len(missing)} of {len(rows)} inputs of {slug} are there, for smoke and laptop scale"
    yield Finding("warn" if missing else "ok", "data", says, f"reprobook data fetch {slug}")


def _paper_scale(slug: str, online: bool) -> Iterator[Finding]:
    """Download and gates of the paper scale."""
    from huggingface_hub import constants, get_token

    artefacts = {each.id: each for each in load_manifest(slug).at("paper")}
    sizes = [download_bytes(artefacts[row.id]) for row in plan([slug], "paper") if not row.cached]
    total, unknown = sum(size or 0 for size in sizes), sizes.count(None)
    says = f"{readable_bytes(total)} to fetch for the paper scale" + (f" and {unknown} of unknown size" * bool(unknown))
    short = total > shutil.disk_usage(project.cache_dir().anchor).free
    yield Finding(
        "warn" if short else "ok", "data", f"{says}, into {constants.HF_HUB_CACHE}", "set HF_HOME to more room"
    )
    gated = [each for each in artefacts.values() if each.gated]
    token, names = get_token(), _few([each.id for each in gated]) or "nothing"
    says = f"{'logged' if token else 'not logged'} in; behind a gate: {names}"
    yield Finding("warn" if gated and not token else "ok", "hub", says, "hf auth login")
    for each in gated if online and token else ():
        try:
            each.source.value.check_access(each.owner(slug))
            yield Finding("ok", "hub", f"{each.id} may be fetched")
        except ReprobookError as error:
            yield Finding("fail", "hub", *str(error).split(": ", 1))
