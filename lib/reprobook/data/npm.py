"""Files shipped inside an npm package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import ClassVar

from pydantic import field_validator

from reprobook.data import cache, source, web
from reprobook.data.package import Packaged

_PUBLIC = "https://registry.npmjs.org"


class NpmSource(Packaged):
    """Files of an npm tarball, fetched from the registry that this machine's npm configuration names."""

    registry: ClassVar[str] = "npm"
    noun: ClassVar[str] = "tarball"
    asked: ClassVar[str] = "npm's registry (`npm config get registry`)"

    tarball: source.Sha256

    @field_validator("name")
    @classmethod
    def _without_scope(cls, name: str) -> str:
        if name.startswith("@"):
            raise ValueError(
                f"npm name {name!r} has a scope, which may live in a registry of its own that is not asked here: name "
                "a package without one, or give the tarball's address as `url`"
            )
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
            raise ValueError(f"npm name {name!r} must be lower-case letters, digits, '.', '_' and '-'")
        return name

    @staticmethod
    def exact(version: str) -> bool:
        return re.fullmatch(r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?", version) is not None

    @property
    def page(self) -> str:
        return f"https://www.npmjs.com/package/{self.name}/v/{self.version}"

    def download(self, artefact: str, folder: Path) -> Path:
        target = folder / f"{self.name}-{self.version}.tgz"
        gone = f"the registry has no {self.name} {self.version}, or no longer: pin a version that it has"
        web.download(artefact, f"{_registry()}/{self.name}/-/{target.name}", target, gone)
        cache.check(artefact, folder, {target.name: self.tarball}, self.about().remedy)
        return target


def _registry() -> str:
    """Address of the registry: the environment, npm's own answer, ``~/.npmrc``, or the public one."""
    given = [value for name, value in os.environ.items() if name.lower() == "npm_config_registry"]
    if not given and (npm := shutil.which("npm")):
        said = subprocess.run([npm, "config", "get", "registry"], capture_output=True, text=True, check=False)
        given = re.findall(r"^https?://\S+", said.stdout, re.MULTILINE)
    settings = Path.home() / ".npmrc"
    if not given and settings.is_file():
        given = re.findall(r"^registry *= *(\S+)", settings.read_text("utf-8"), re.MULTILINE)
    return (given or [_PUBLIC])[0].rstrip("/")
