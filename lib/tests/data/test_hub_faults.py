"""The real hub client against a small hub on loopback: what is fetched is locked and checked, every fault is explained,
and the next call completes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from servers import COMMIT, Answer, Hub, Repository, serving

WEIGHTS = bytes(range(256)) * 600
FILES = {"config.json": b'{"model_type": "tiny"}', "model.safetensors": WEIGHTS, "modeling.py": b"import os"}
OTHER = "f" * 40


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serving(Hub()) as server:
        yield server


@pytest.fixture(scope="module")
def client(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    home = tmp_path_factory.mktemp("hf é")
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "REPROBOOK_"))}
    env |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
    env |= {"HF_HUB_DOWNLOAD_TIMEOUT": "1", "HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("hub_client.py"))]
    with subprocess.Popen(command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.home = home  # type: ignore[attr-defined]
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def repository(hub: Hub, request: pytest.FixtureRequest) -> str:
    """Name of a repository of this test's own."""
    name = "models/org/" + sha256(request.node.nodeid.encode()).hexdigest()[:12]
    hub.repositories[name] = Repository(dict(FILES), large=("model.safetensors",))
    hub.faults.clear()
    hub.seen.clear()
    return name


@pytest.fixture
def ask(book: Any, client: subprocess.Popen[str], repository: str) -> Callable[..., dict]:
    """Write the manifest and let the client act; ``offline``, ``token`` and fields of the source can be given."""

    def ask(do: str = "path", *, token: str = "", offline: bool = False, gated: bool = False, **fields: Any) -> dict:
        kind, _, name = repository.partition("/")
        source = {"repo_id": name, "repo_type": kind[:-1], "revision": None} | fields
        source.setdefault("allow_patterns", ["*.safetensors", "config.json"])
        book.manifest({"id": "tiny", "kind": "model", "gated": gated, "scales": ["paper"], "source": {"hub": source}})
        env = {"REPROBOOK_ROOT": str(book.root), "REPROBOOK_CACHE": str(book.cache)}
        env |= {"HF_TOKEN": token} if token else {}
        env |= {"REPROBOOK_OFFLINE": "1"} if offline else {}
        unset = [name for name in ("HF_TOKEN", "REPROBOOK_OFFLINE") if name not in env]
        assert client.stdin is not None and client.stdout is not None
        print(json.dumps({"do": do, "env": env, "unset": unset}), file=client.stdin, flush=True)
        return json.loads(client.stdout.readline())

    return ask


def _lock(book: Any) -> dict[str, Any]:
    path = book.root / "data_manifests" / "demo.lock.yaml"
    return yaml.safe_load(path.read_text())["artefacts"]["tiny"] if path.exists() else {}


def _content(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _blobs(client: Any, repository: str) -> list[Path]:
    return list(_folder(client, repository).glob("blobs/*"))


def _folder(client: Any, repository: str) -> Path:
    """Where the client keeps the repository."""
    return client.home / "hub" / repository.replace("/", "--")


def test_the_first_fetch_resolves_and_locks_and_later_calls_ask_no_server(book: Any, hub: Hub, ask: Any) -> None:
    found = ask()
    assert found["checksum"] == COMMIT
    assert _content(found["path"]) == {name: FILES[name] for name in ("config.json", "model.safetensors")}
    assert _lock(book)["revision"] == COMMIT
    assert _lock(book)["files"]["model.safetensors"] == {"bytes": len(WEIGHTS), "sha256": sha256(WEIGHTS).hexdigest()}
    hub.seen.clear()
    assert ask() == found and ask("verify") == {"problems": []} and ask(offline=True) == found
    assert hub.seen == []


def test_main_may_move_on_but_what_is_locked_stays(book: Any, hub: Hub, ask: Any, client: Any, repository: str) -> None:
    found = ask()
    hub.repositories[repository].commit = OTHER
    hub.repositories[repository].files["config.json"] = b"{}"
    assert ask() == found
    for path in _blobs(client, repository):
        path.unlink()
    assert "no longer has the commit of the first fetch; delete its entry in the lock file" in ask()["error"]
    assert _lock(book)["revision"] == COMMIT


def test_a_damaged_copy_is_found_and_fetched_again(book: Any, hub: Hub, ask: Any) -> None:
    found = ask()
    for damage in (WEIGHTS[:-1], b"X" + WEIGHTS[1:], b""):
        (Path(found["path"]) / "model.safetensors").resolve().write_bytes(damage)
        assert "wrong checksum" in ask("verify")["problems"][0]
        refused = ask(offline=True)
        assert refused["kind"] == "OfflineError" and "tiny: model org/" in refused["error"]
        assert ask() == found and _content(found["path"])["model.safetensors"] == WEIGHTS


def test_a_file_that_changes_under_a_fixed_revision_is_an_error(book: Any, hub: Hub, ask: Any, repository: str) -> None:
    found = ask(revision=COMMIT)
    (Path(found["path"]) / "model.safetensors").resolve().unlink()
    hub.repositories[repository].files["model.safetensors"] = WEIGHTS[::-1]
    refused = ask(revision=COMMIT)
    assert refused["kind"] == "ChecksumError"
    for part in ("tiny: model.safetensors", f"something else for {COMMIT}", "demo.lock.yaml"):
        assert part in refused["error"]
    hub.repositories[repository].files["model.safetensors"] = WEIGHTS
    assert ask(revision=COMMIT) == found


@pytest.mark.parametrize("path", ["model.safetensors", "config.json"])
def test_a_first_fetch_that_was_damaged_on_the_way_is_not_locked(
    book: Any, hub: Hub, ask: Any, client: Any, repository: str, path: str
) -> None:
    hub.faults[path] = [Answer(fault="corrupt")]
    refused = ask()
    assert refused["kind"] == "ChecksumError" and f"tiny: {path} has the wrong checksum" in refused["error"]
    assert "the download was damaged: fetch again" in refused["error"] and _lock(book) == {}
    found = ask()
    assert _content(found["path"])[path] == FILES[path] and _lock(book)["revision"] == COMMIT


@pytest.mark.parametrize("fault", ["cut", "reset", "stall"])
def test_a_broken_connection_is_resumed(hub: Hub, ask: Any, fault: str) -> None:
    hub.faults["model.safetensors"] = [Answer(fault=fault)]
    assert _content(ask()["path"])["model.safetensors"] == WEIGHTS
    assert sum(line.startswith("GET /store") for line in hub.seen) == 2


def test_a_large_file_goes_on_where_it_broke_off(hub: Hub, ask: Any, repository: str) -> None:
    """The client keeps whole pieces of 10 MB."""
    large = WEIGHTS * 160
    hub.repositories[repository].files["model.safetensors"] = large
    hub.faults["model.safetensors"] = [Answer(fault="cut")]
    assert _content(ask()["path"])["model.safetensors"] == large
    first, second = [line for line in hub.seen if line.startswith("GET /store")]
    assert "bytes=" not in first and second.endswith(f" bytes={10 * 1024**2}-")


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_refused_file_is_explained_and_the_next_call_completes(
    book: Any, hub: Hub, ask: Any, client: Any, repository: str, status: int
) -> None:
    hub.faults["model.safetensors"] = [Answer(status)] * 20
    refused = ask()
    assert refused["kind"] in ("DataError", "OfflineError", "AccessError")
    assert refused["error"].startswith("tiny: model org/") and str(status) in refused["error"]
    assert _lock(book) == {}
    assert len(_blobs(client, repository)) <= 1, "nothing half-written"
    hub.faults.clear()
    assert _content(ask()["path"])["model.safetensors"] == WEIGHTS


def test_too_many_requests_is_waited_for(hub: Hub, ask: Any) -> None:
    hub.faults["model.safetensors"] = [Answer(429, {"Retry-After": "1"})]
    assert _content(ask()["path"])["model.safetensors"] == WEIGHTS


def test_gated_without_and_with_a_token(book: Any, hub: Hub, ask: Any, repository: str) -> None:
    hub.repositories[repository].token = "hf_the_right_one"
    for call in ({}, {"token": "hf_a_wrong_one"}, {"do": "fetch"}):
        refused = ask(gated=True, **call)
        assert refused["kind"] == "AccessError"
        assert "is gated: accept its terms on its page, then give your token" in refused["error"]
        assert "hf_a_wrong_one" not in refused["error"]
    assert not [line for line in hub.seen if line.startswith("GET /store")] and _lock(book) == {}
    found = ask("fetch", token="hf_the_right_one", gated=True)
    assert _content(found["path"])["model.safetensors"] == WEIGHTS
    assert "hf_" not in (book.root / "data_manifests" / "demo.lock.yaml").read_text()


def test_private_or_missing(hub: Hub, ask: Any, repository: str) -> None:
    del hub.repositories[repository]
    refused = ask()
    assert refused["kind"] == "DataError"
    assert "is not there or is private; correct `repo_id` or log in" in refused["error"]


def test_a_revision_that_is_not_there(ask: Any) -> None:
    refused = ask(revision=OTHER)
    assert refused["kind"] == "DataError" and f"has no revision {OTHER}; correct it" in refused["error"]


def test_a_repository_of_pickles_and_code_is_refused(book: Any, hub: Hub, ask: Any, repository: str) -> None:
    hub.repositories[repository].files = {"pytorch_model.bin": b"pickle", "modeling.py": b"import os"}
    refused = ask(allow_patterns=["*.safetensors"])
    assert "It has modeling.py, pytorch_model.bin: pickles and code are never fetched" in refused["error"]
    assert ask(allow_patterns=["pytorch_model*"])["kind"] == "DataError"
    assert not [line for line in hub.seen if "resolve" in line] and _lock(book) == {}


def test_half_of_a_snapshot_is_not_locked_as_the_whole(
    book: Any, hub: Hub, ask: Any, client: Any, repository: str
) -> None:
    """Another program fetched one file of the repository before us."""
    folder = _folder(client, repository)
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    (folder / "snapshots" / COMMIT / "config.json").write_bytes(FILES["config.json"])
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    assert sorted(_content(ask()["path"])) == ["config.json", "model.safetensors"]
    assert sorted(_lock(book)["files"]) == ["config.json", "model.safetensors"]


def test_no_hub_at_all(book: Any, hub: Hub, ask: Any) -> None:
    hub.faults["api"] = [Answer(fault="reset")] * 50
    refused = ask()
    assert refused["kind"] == "OfflineError" and "check the network" in refused["error"]
    hub.faults.clear()
    assert ask()["checksum"] == COMMIT


def test_two_processes_lock_the_same(book: Any, hub: Hub, ask: Any, client: Any, tmp_path: Path) -> None:
    found = ask()
    (book.root / "data_manifests" / "demo.lock.yaml").unlink()
    env = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "fresh home")}
    code = "from reprobook.data import ChapterData; print(ChapterData('demo', 'paper').path('tiny'))"
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    both = [subprocess.Popen([sys.executable, "-c", code], env=env, **pipes) for _ in range(2)]
    paths = {process.communicate(timeout=60)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0] and len(paths) == 1
    assert _content(paths.pop()) == _content(found["path"]) and _lock(book)["revision"] == COMMIT
