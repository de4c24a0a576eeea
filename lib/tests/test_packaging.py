"""pyproject.toml, requirements.lock, environment.yml and what is installed say the same."""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from reprobook.errors import ReprobookError
from reprobook.project import SLUGS, check_packages

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = [{"python_version": v, "python_full_version": f"{v}.0"} for v in ("3.11", "3.12", "3.13")]
REQUIREMENTS = [*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())]


def locked() -> dict[str, str]:
    """Name -> exact version, for every line of the lock."""
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and line[0] != "#"]
    found = [re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!+]+)", line) for line in lines]
    assert all(found), f"not an exact pin: {[line for line, hit in zip(lines, found, strict=True) if not hit]}"
    names = [canonicalize_name(hit[1]) for hit in found if hit]
    assert len(set(names)) == len(names), "a package is pinned twice"
    return {name: hit[2] for name, hit in zip(names, found, strict=True) if hit}


def closure(requirements: list[str]) -> dict[str, str]:
    """Everything that these requirements install here or under any Python that the lock is made for, with the installed
    versions (without local labels)."""
    todo, seen, versions = [Requirement(r) for r in requirements], set(), {}
    while todo:
        wanted = todo.pop()
        name = canonicalize_name(wanted.name)
        if (name, frozenset(wanted.extras)) in seen:
            continue
        seen.add((name, frozenset(wanted.extras)))
        installed = distribution(name)
        versions[name] = installed.version.partition("+")[0]
        for line in installed.requires or []:
            needed = Requirement(line)
            there = [{"extra": e, **python} for e in {"", *wanted.extras} for python in ({}, *PYTHONS)]
            if not needed.marker or any(needed.marker.evaluate(each) for each in there):
                todo.append(needed)
    return versions


def cuda(name: str) -> bool:
    """Libraries that a GPU build of torch brings: left to torch's own pins, see the lock's head."""
    return name.startswith(("nvidia-", "cuda-")) or name == "triton"


def test_the_lock_holds_what_gets_installed_and_nothing_else() -> None:
    try:
        needed = {name: version for name, version in closure(REQUIREMENTS).items() if not cuda(name)}
    except PackageNotFoundError as error:
        pytest.fail(f"{error} is not installed: run `make setup`")
    assert locked() == needed


@pytest.mark.parametrize("line", REQUIREMENTS)
def test_the_lock_is_inside_the_ranges(line: str) -> None:
    wanted = Requirement(line)
    assert wanted.specifier.contains(locked()[canonicalize_name(wanted.name)], prereleases=True)
    assert not any(spec.operator in ("==", "===") for spec in wanted.specifier), "pyproject.toml gives ranges"
    assert any(spec.operator == ">=" for spec in wanted.specifier)


def users() -> dict[str, set[str]]:
    """Package -> the rooms of the library (``papers.<slug>`` for a paper) that import it."""
    packages, found = packages_distributions(), defaultdict(set)
    for path in (ROOT / "lib" / "reprobook").rglob("*.py"):
        parts = path.relative_to(ROOT / "lib" / "reprobook").with_suffix("").parts
        for name in re.findall(r"^ *(?:from|import) (\w+)", path.read_text(), re.MULTILINE):
            for package in packages.get(name, []):
                found[canonicalize_name(package)].add(".".join(parts[: 2 if parts[0] == "papers" else 1]))
    return found


def test_what_one_chapter_alone_needs_is_its_extra() -> None:
    extras = PROJECT["optional-dependencies"]
    owner = {Requirement(line).name: slug for slug, lines in extras.items() for line in lines if slug in SLUGS}
    found = users()
    direct = {canonicalize_name(Requirement(line).name) for line in REQUIREMENTS}
    alone = {name: "".join(found[name]).removeprefix("papers.") for name in direct if len(found[name]) == 1}
    assert {name: slug for name, slug in alone.items() if slug in SLUGS} == owner


def test_a_chapter_without_its_packages_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(name: str) -> Distribution:
        if name in ("poselib", "bm25s"):
            raise PackageNotFoundError(name)
        return distribution(name)

    check_packages("mc_diffusion_ransac")
    monkeypatch.setattr("importlib.metadata.distribution", without)
    check_packages("stasc")
    with pytest.raises(ReprobookError, match=r"needs poselib: pip install -e '\.\[mc_diffusion_ransac\]'"):
        check_packages("mc_diffusion_ransac")


def test_python_is_the_same_everywhere() -> None:
    conda = next(d for d in environment() if isinstance(d, str) and d.startswith("python"))
    low = Version(PROJECT["requires-python"].removeprefix(">="))
    assert Requirement(conda).specifier.contains(low) and not Requirement(conda).specifier.contains("3.10.99")


def environment() -> list[str | dict[str, list[str]]]:
    return yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]


def test_conda_installs_the_lock_through_pip() -> None:
    (pip,) = [entry["pip"] for entry in environment() if isinstance(entry, dict)]
    assert pip == ["-r requirements.lock", "-e ."]
    names = {re.split(r"[<>=]", entry)[0] for entry in environment() if isinstance(entry, str)}
    assert names == {"python", "pip"}, "packages stand in one list only, the lock"


def test_the_builds_that_must_not_come_do_not() -> None:
    lock = locked()
    assert lock["torch"] == "2.13.0" and lock["jupyter-book"].startswith("1.")
    assert not [name for name in lock if name in ("torchvision", "torchaudio") or cuda(name)]


def test_no_file_names_a_package_index() -> None:
    for name in ("requirements.lock", "environment.yml", "pyproject.toml", "Makefile", ".ci/run"):
        text = (ROOT / name).read_text()
        assert not re.search(r"index-url|find-links|https?://", text), name


def test_citation_and_container_are_of_this_version_and_python() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= cited.keys(), "what the format requires"
    assert (cited["version"], cited["license"]) == (PROJECT["version"], PROJECT["license"])
    assert cited["title"] == yaml.safe_load((ROOT / "_config.yml").read_text())["title"]
    assert f"## {PROJECT['version']}\n" in (ROOT / "CHANGELOG.md").read_text()
    container = (ROOT / "Dockerfile").read_text()
    assert SpecifierSet(PROJECT["requires-python"]).contains(re.findall(r"^FROM python:([\d.]+)", container, re.M)[0])
    used = set(re.findall(r'^(?:RUN|#.*reprobook) make (\w+)$|"make", "(\w+)"', container, re.MULTILINE))
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {name for pair in used for name in pair if name} == {"setup", "lab", "help"} <= {*targets}
