"""What the doctor finds on machines that lack something."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from typing import Any

import pytest
from reprobook.cli import main
from reprobook.doctor import Finding, examine
from reprobook.errors import ReprobookError

SLUG = "block_diffusion"
ARTEFACT = """
artefacts:
  - id: model
    kind: model
    what: a model
    license: other
    gated: {gated}
    scales: [paper]
    source:
      hub: {{repo_id: some/model, repo_type: model, revision: null, allow_patterns: ["*.json"], bytes: 2000000}}
"""


@pytest.fixture
def machine(checkout: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A checkout whose lock is what is installed, without a login to the hub."""
    names = ("numpy", "scikit-learn")
    checkout.write("requirements.lock", "# head\n" + "".join(f"{name}=={version(name)}\n" for name in names))
    checkout.notebook("1")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    return checkout


def _found(about: str, slug: str | None = None, online: bool = False) -> list[Finding]:
    return [finding for finding in examine(slug, online) if finding.about == about]


def test_a_machine_with_all_it_needs(machine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", SLUG]) == 0
    said = capsys.readouterr().out
    assert "ok    packages  2 as in requirements.lock" in said
    assert "0 of 0 inputs of block_diffusion are there" in said and "behind a gate: nothing" in said
    assert str(Finding("warn", "git", "no commit", "commit")) == "warn  git       no commit: commit"
    assert [each.level for each in _found("git")] == ["warn"], "a folder without git"


def test_packages_that_are_missing_or_not_as_locked(machine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    machine.write("requirements.lock", f"scikit_learn=={version('scikit-learn')}\nnumpy==1.0.0\nno-such-thing==1.0\n")
    missing, other = _found("packages")
    assert (missing.level, other.level) == ("fail", "warn")
    assert "1 of the lock are missing (no-such-thing)" in missing.says and missing.remedy == "make setup"
    assert f"1 are not as locked (numpy is {version('numpy')})" in other.says
    assert main(["doctor"]) == 1 and "fail  packages" in capsys.readouterr().out


def test_a_cache_that_takes_no_files(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = machine.write("a file", "").joinpath("cache")
    monkeypatch.setenv("REPROBOOK_CACHE", str(blocked))
    (found,) = _found("cache")
    assert found.level == "fail" and "REPROBOOK_CACHE" in found.remedy


@pytest.mark.parametrize(("free", "level"), [(1e9, "fail"), (5e9, "warn"), (5e10, "ok")])
def test_free_space(machine: Any, monkeypatch: pytest.MonkeyPatch, free: float, level: str) -> None:
    usage = shutil.disk_usage(machine.root)._replace(free=int(free))
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    assert {each.level for each in _found("disk")} == {level}


def test_programs_that_tests_need(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/chromium" if name == "chromium" else None)
    assert _found("browser") == [
        Finding("warn", "browser", "no chromedriver, so tests of the pages will be skipped", "make browser")
    ]
    assert [each.level for each in _found("gpu")] == ["ok"], "none is needed"


def test_a_gate_needs_a_login_and_is_asked_only_when_told(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.write(f"data_manifests/{SLUG}.yaml", ARTEFACT.format(gated="true"))
    asked = []

    def refuse(_: object, name: str, **more: object) -> None:
        asked.append(name)
        raise OSError("closed")

    monkeypatch.setattr("huggingface_hub.HfApi.auth_check", refuse)
    (login,) = _found("hub", SLUG, online=True)
    assert (login.level, login.remedy) == ("warn", "hf auth login") and "behind a gate: model" in login.says
    assert "2.0 MB to fetch for the paper scale" in _found("data", SLUG)[-1].says
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "token")
    assert [each.level for each in _found("hub", SLUG)] == ["ok"] and asked == []
    login, gate = _found("hub", SLUG, online=True)
    assert (login.level, gate.level, asked) == ("ok", "fail", ["some/model"]) and "model" in gate.says


def test_an_unknown_chapter(machine: Any) -> None:
    with pytest.raises(ReprobookError, match="unknown chapter 'nonsense'"):
        list(examine("nonsense"))
