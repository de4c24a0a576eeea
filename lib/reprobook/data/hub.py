"""Files of a Hugging Face repository at one commit, in that library's own cache."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from reprobook.data import cache, lock
from reprobook.data.errors import AccessError, DataError, OfflineError, checksum_error
from reprobook.data.manifest import UNSAFE_SUFFIXES

if TYPE_CHECKING:
    from reprobook.data.manifest import HubSource

_IGNORED = [f"*{suffix}" for suffix in UNSAFE_SUFFIXES]


def origin(source: HubSource) -> str:
    """What the lock entry is about: it is void when the manifest names another repository or commit."""
    return f"{source.repo_type} {source.repo_id}@{source.revision or 'first fetch'}"


def revision(slug: str, artefact: str, source: HubSource) -> str | None:
    """The commit that counts: the manifest's, else the locked one, else None (not fetched yet)."""
    entry = lock.read(slug, artefact, origin(source))
    return source.revision or (entry.revision if entry else None)


def locate(slug: str, artefact: str, source: HubSource) -> Path | None:
    """The snapshot folder if the hub cache holds it, else None. Asks no server."""
    try:
        return Path(_snapshot(source, revision(slug, artefact, source), local=True))
    except FileNotFoundError:
        return None


def obtain(slug: str, artefact: str, source: HubSource, *, gated: bool, offline: bool) -> Path:
    """Fetch (or find) the snapshot, check it against the lock, lock it at the first fetch. Returns its folder."""
    entry = lock.read(slug, artefact, origin(source))
    with _hub_errors(artefact, source, gated), cache.disk_errors(artefact, _cache_dir(), "HF_HOME"):
        folder = locate(slug, artefact, source)
        damaged = _damaged(folder, entry.files) if folder and entry else []
        if offline and (folder is None or damaged):
            raise FileNotFoundError(artefact)
        unsure = entry is None and not offline  # as long as nothing is locked, the hub says what is whole
        if folder is None or unsure:
            folder = Path(_snapshot(source, revision(slug, artefact, source), local=False))
        elif damaged:
            _fetch_again(source, folder, damaged)
    check(slug, artefact, source, folder)
    return folder


def _cache_dir() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _damaged(folder: Path, files: Mapping[str, str]) -> list[str]:
    """Names of the files of a snapshot that are missing or are not what they should be."""
    return [name for name, expected in files.items() if cache.problems(folder, {name: expected})]


def _fetch_again(source: HubSource, folder: Path, names: Iterable[str]) -> None:
    """Replace files of a snapshot that are missing or damaged: the client takes what is there for good."""
    import huggingface_hub

    for name in names:
        with _set_aside(folder / name):
            huggingface_hub.hf_hub_download(
                source.repo_id, name, repo_type=source.repo_type, revision=folder.name, force_download=True
            )


@contextmanager
def _set_aside(path: Path) -> Iterator[None]:
    """Take ``path`` away; it comes back if what should replace it fails."""
    aside = path.with_name(f".{path.name}.old")
    if path.is_symlink() or path.exists():
        path.rename(aside)
    try:
        yield
    except BaseException:
        if aside.is_symlink() or aside.exists():
            aside.rename(path)
        raise
    aside.unlink(missing_ok=True)


def check(slug: str, artefact: str, source: HubSource, folder: Path, *, again: bool = False) -> None:
    """Compare the snapshot with the lock; without a lock entry, write one. Raises :class:`DataError`."""
    entry = lock.read(slug, artefact, origin(source))
    if entry is None:
        files = {name: cache.sha256_of(folder / name) for name in _selected(source, folder)}
        if not files:
            raise DataError(
                f"{artefact}: no file of {source.repo_id} matches {source.allow_patterns}; "
                f"correct `allow_patterns` in the manifest{_left_out(source, folder)}"
            )
        _check_names(artefact, folder, files)
        sizes = {name: (folder / name).stat().st_size for name in files}
        lock.write(slug, artefact, lock.Locked(origin(source), folder.name, files, sizes))
        return
    for name, expected in sorted(entry.files.items()):
        path = folder / name
        got = cache.sha256_of(path, again=again) if path.is_file() else "no such file"
        if got != expected:
            remedy = (
                f"the hub gives something else for {entry.revision} than at the first fetch; if that is meant, delete "
                f"the entry in {lock.lock_path(slug).name}"
            )
            raise checksum_error(artefact, name, expected, got, remedy)


def _check_names(artefact: str, folder: Path, files: Mapping[str, str]) -> None:
    """At a first fetch nothing is locked yet, but the hub names a file by its content: by the SHA-256 of a large one,
    by git's SHA-1 of a small one. A copy that does not fit its name was damaged on the way: it is removed, and a
    :class:`DataError` raised."""
    for name, sha256 in files.items():
        blob = (folder / name).resolve()
        kind = {64: "sha256", 40: "git"}.get(len(blob.name)) if blob.parent.name == "blobs" else None
        got = sha256 if kind == "sha256" else _git_sha1(blob) if kind == "git" else blob.name
        if got != blob.name:
            (folder / name).unlink()
            blob.unlink()
            raise checksum_error(artefact, name, blob.name, got, "the download was damaged: fetch again")


def _git_sha1(path: Path) -> str:
    """What git calls a file with this content."""
    return hashlib.sha1(b"blob %d\0" % path.stat().st_size + path.read_bytes()).hexdigest()


def _left_out(source: HubSource, folder: Path) -> str:
    """Remark on the pickles and the code of a repository that has nothing else that was asked for."""
    from huggingface_hub import errors, get_cached_repo_tree

    try:
        found = get_cached_repo_tree(source.repo_id, repo_type=source.repo_type, revision=folder.name)
    except errors.CachedRepoTreeNotFoundError:
        return ""
    unsafe = sorted(entry.path for entry in found if entry.path.endswith(UNSAFE_SUFFIXES))
    return f". It has {', '.join(unsafe[:5])}: pickles and code are never fetched" if unsafe else ""


def check_access(artefact: str, source: HubSource) -> None:
    """Ask the hub whether this user may read a gated repository; raises :class:`AccessError` if not."""
    import huggingface_hub

    with _hub_errors(artefact, source, gated=True):
        huggingface_hub.HfApi().auth_check(source.repo_id, repo_type=source.repo_type)


def _snapshot(source: HubSource, commit: str | None, *, local: bool) -> str:
    import huggingface_hub

    return huggingface_hub.snapshot_download(
        source.repo_id, repo_type=source.repo_type, revision=commit, local_files_only=local,
        allow_patterns=source.allow_patterns, ignore_patterns=_IGNORED,
    )  # fmt: skip


def _selected(source: HubSource, folder: Path) -> list[str]:
    from huggingface_hub.utils import filter_repo_objects

    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return list(filter_repo_objects(names, allow_patterns=source.allow_patterns, ignore_patterns=_IGNORED))


@contextmanager
def _hub_errors(artefact: str, source: HubSource, gated: bool) -> Iterator[None]:
    from huggingface_hub import errors

    name = f"{artefact}: {source.repo_type} {source.repo_id}"
    try:
        yield
    except errors.RevisionNotFoundError as error:
        if source.revision:
            raise DataError(f"{name} has no revision {source.revision}; correct it in the manifest") from error
        raise DataError(
            f"{name} no longer has the commit of the first fetch; "
            "delete its entry in the lock file to take what it has now"
        ) from error
    except (errors.GatedRepoError, errors.RepositoryNotFoundError) as error:
        if gated or isinstance(error, errors.GatedRepoError):
            raise AccessError(
                f"{name} is gated: accept its terms on its page, then give your token (`hf auth login` or HF_TOKEN)"
            ) from error
        raise DataError(f"{name} is not there or is private; correct `repo_id` or log in (`hf auth login`)") from error
    except FileNotFoundError as error:
        if isinstance(error.__cause__, errors.HfHubHTTPError):  # what the client ran into before it looked in its cache
            raise _http_error(name, error.__cause__) from error
        raise OfflineError(
            f"{name} is not whole in the Hugging Face cache and could not be fetched (no network, or offline mode); "
            "run `reprobook data fetch` where there is a network"
        ) from error
    except errors.HfHubHTTPError as error:
        raise _http_error(name, error) from error
    except DataError:
        raise
    except Exception as error:  # the client's transport has error classes of its own, others with each version
        cause = error.__cause__ or error
        reason = f"{type(cause).__name__}: {cause}"
        raise OfflineError(f"{name} could not be fetched ({reason}); check the network, then try again") from error


def _http_error(name: str, error: Exception) -> DataError:
    return DataError(f"{name} could not be fetched: {str(error).splitlines()[0]}; try again later")
