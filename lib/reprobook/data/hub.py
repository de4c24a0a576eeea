"""Files of a Hugging Face repository, in that library's own cache."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from reprobook.data import cache, lock, source, web
from reprobook.data.errors import AccessError, DataError, OfflineError, checksum_error

# Weights as pickles and code run what their author wrote, not what the reader sees: they are never fetched from a hub.
UNSAFE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".py", ".so", ".ipynb")
_IGNORED = [f"*{suffix}" for suffix in UNSAFE_SUFFIXES]
# A git repository has no SHA-256 of its own; the hub's own Croissant documents put this address in its place.
_NO_SHA256 = "https://github.com/mlcommons/croissant/issues/80"


def _full_revision(revision: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise ValueError(
            f"revision {revision!r} can move: give the full 40-hex commit, "
            "or null to resolve it at the first fetch and lock it"
        )
    return revision


def _safe_pattern(pattern: str) -> str:
    if pattern.endswith(UNSAFE_SUFFIXES) or pattern in ("*", "**", "*.*"):
        raise ValueError(
            f"pattern {pattern!r} would fetch pickles or code ({', '.join(_IGNORED)}); "
            "name safe files, for example '*.safetensors', '*.json', '*.parquet'"
        )
    return pattern


RepoId = Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")]
RepoType = Literal["model", "dataset"]
Revision = Annotated[str, AfterValidator(_full_revision)]
Pattern = Annotated[str, AfterValidator(_safe_pattern)]


class HubFile(source.CachedSource):
    """One file of a Hugging Face repository whose checksum is known, kept in our cache: it may have mirrors."""

    repo_id: RepoId
    repo_type: RepoType = "model"
    revision: Revision
    file: Annotated[source.RelativePath, AfterValidator(_safe_pattern)]
    sha256: source.Sha256
    bytes: int = Field(gt=0)

    def about(self) -> source.About:
        remedy = f"{self.repo_id} has another file than the manifest describes; correct `revision` or `sha256`"
        page = _page(self.repo_id, self.repo_type)
        return source.About(_words(self.repo_id, self.revision), self.bytes, self.bytes, page, remedy=remedy)

    def promised(self, of: source.Owner) -> dict[str, source.File]:
        address = f"{_page(self.repo_id, self.repo_type)}/resolve/{self.revision}/{self.file}"
        return {Path(self.file).name: source.File(self.sha256, self.bytes, address)}

    def barred(self) -> str | None:
        from huggingface_hub import constants

        return "HF_HUB_OFFLINE forbids it" if constants.HF_HUB_OFFLINE else None

    def fill(self, of: source.Owner, folder: Path) -> None:
        """The hub's own client would try to reach it for half a minute before a mirror gets its turn."""
        from huggingface_hub import hf_hub_url

        if reason := self.barred():
            raise OfflineError(f"{of.id}: {self.about().words}: {reason}; unset it, then try again")
        address = hf_hub_url(self.repo_id, self.file, repo_type=self.repo_type, revision=self.revision)
        gone = "correct `repo_id`, `revision` or `file` in the manifest"
        web.download(of.id, address, folder / Path(self.file).name, gone)


class HubSource(source.SourceKind):
    """Files of a Hugging Face repository at one commit; without a revision the first fetch decides and locks it."""

    rehearsed: ClassVar[bool] = True

    repo_id: RepoId
    repo_type: RepoType = "model"
    revision: Revision | None
    allow_patterns: list[Pattern] = Field(min_length=1)
    bytes: int | None = Field(default=None, gt=0, description="size of what the patterns select, where it was seen")
    bytes_estimate: int | None = Field(default=None, gt=0, description="in its place: derived, as a comment says")
    size_unknown: str | None = Field(default=None, min_length=1, description="in place of both: why")

    @model_validator(mode="after")
    def _one_size(self) -> HubSource:
        if sum(given is not None for given in (self.bytes, self.bytes_estimate, self.size_unknown)) > 1:
            raise ValueError("give one of bytes, bytes_estimate and size_unknown")
        return self

    @model_validator(mode="before")
    @classmethod
    def _no_remote_code(cls, data: Any) -> Any:
        if isinstance(data, dict) and "trust_remote_code" in data:
            raise ValueError(
                "trust_remote_code is not possible: it runs whatever code a repository holds. Fetch its weights as "
                "safetensors and load them into a class of transformers, diffusers or this library"
            )
        return data

    def about(self) -> source.About:
        words, page = _words(self.repo_id, self.revision), _page(self.repo_id, self.repo_type)
        size = self.bytes or self.bytes_estimate
        return source.About(words, size, size, page, estimated=self.bytes is None)

    def promised(self, of: source.Owner) -> dict[str, source.File] | None:
        if (entry := self.locked(of)) is None:
            return None
        address = f"{self.about().page}/resolve/{entry.revision}"
        return {name: source.File(got.sha256, got.bytes, f"{address}/{name}") for name, got in entry.files.items()}

    def checksum(self, of: source.Owner) -> str:
        """The hub's commit, or ``not locked``."""
        return self._commit(of) or "not locked"

    def why(self, of: source.Owner) -> str:
        return f"size not known: {self.size_unknown}" if self.size_unknown else ""

    def space(self) -> int:
        return 0  # it goes into the client's cache

    def locate(self, of: source.Owner) -> Path | None:
        try:
            return self._snapshot(of, local=True)
        except FileNotFoundError:
            return None

    def obtain(self, of: source.Owner) -> Path:
        """The snapshot's folder, checked against the lock; the first fetch writes the lock."""
        files = self.digests(of)
        with self._explained(of), cache.disk_errors(of.id, _cache_dir(), "HF_HOME"):
            folder = self.locate(of)
            damaged = [n for n, sha in (files or {}).items() if folder and cache.problems(folder, {n: sha})]
            if source.offline() and (folder is None or damaged):
                raise FileNotFoundError(of.id)
            unsure = files is None and not source.offline()  # as long as nothing is locked, the hub says what is whole
            if folder is None or unsure:
                folder = self._snapshot(of, local=False)
            for name in damaged:
                self._fetch_again(folder, name)
        if files := self.digests(of):  # perhaps locked by another process
            remedy = (
                f"the hub gives something else for {self._commit(of)} than at the first fetch; if that is meant, "
                f"delete the entry in {lock.lock_path(of.slug).name}"
            )
            cache.check(of.id, folder, files, remedy)
        else:
            self._lock(of, folder)
        return folder

    def origin(self) -> str:
        return f"{self.repo_type} {self.repo_id}@{self.revision or 'first fetch'}"

    def _commit(self, of: source.Owner) -> str | None:
        """The commit that counts: the manifest's, else the locked one, else None (not fetched yet)."""
        entry = self.locked(of)
        return self.revision or (entry.revision if entry else None)

    def _snapshot(self, of: source.Owner, *, local: bool) -> Path:
        import huggingface_hub

        return Path(huggingface_hub.snapshot_download(
            self.repo_id, repo_type=self.repo_type, revision=self._commit(of), local_files_only=local,
            allow_patterns=self.allow_patterns, ignore_patterns=_IGNORED,
        ))  # fmt: skip

    def _fetch_again(self, folder: Path, name: str) -> None:
        """Replace a file of a snapshot that is missing or damaged: the client takes what is there for good. The old one
        is set aside, and comes back if what should replace it fails."""
        import huggingface_hub

        path = folder / name
        aside = path.with_name(f".{path.name}.old")
        with suppress(FileNotFoundError):
            path.rename(aside)
        try:
            huggingface_hub.hf_hub_download(
                self.repo_id, name, repo_type=self.repo_type, revision=folder.name, force_download=True
            )
        except BaseException:
            with suppress(FileNotFoundError):
                aside.rename(path)
            raise
        aside.unlink(missing_ok=True)

    def _lock(self, of: source.Owner, folder: Path) -> None:
        selected = self._selected(folder)
        if not selected:
            raise DataError(
                f"{of.id}: no file of {self.repo_id} matches {self.allow_patterns}; "
                f"correct `allow_patterns` in the manifest{self._left_out(folder)}"
            )
        entry = lock.measure(self.origin(), folder.name, folder, selected)
        _check_names(of.id, folder, entry)
        lock.write(of.slug, of.id, entry)

    def _selected(self, folder: Path, patterns: list[str] | None = None) -> list[str]:
        """The files below ``folder`` that ``allow_patterns`` (or some of them) select."""
        from huggingface_hub.utils import filter_repo_objects

        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        patterns = patterns or self.allow_patterns
        return list(filter_repo_objects(names, allow_patterns=patterns, ignore_patterns=_IGNORED))

    def _left_out(self, folder: Path) -> str:
        """Remark on the pickles and the code of a repository that has nothing else that was asked for."""
        from huggingface_hub import errors, get_cached_repo_tree

        try:
            found = get_cached_repo_tree(self.repo_id, repo_type=self.repo_type, revision=folder.name)
        except errors.CachedRepoTreeNotFoundError:
            return ""
        unsafe = sorted(entry.path for entry in found if entry.path.endswith(UNSAFE_SUFFIXES))
        return f". It has {', '.join(unsafe[:5])}: pickles and code are never fetched" if unsafe else ""

    def check_access(self, of: source.Owner) -> None:
        import huggingface_hub

        with self._explained(of):
            huggingface_hub.HfApi().auth_check(self.repo_id, repo_type=self.repo_type)

    def stand_in(self, artefact: str, made: Path, hub: Path) -> None:
        """Artefacts of one repository share its snapshot. Raises :class:`DataError` for a pattern that selects nothing
        of ``made``: a mistake in recipe or manifest."""
        from huggingface_hub.file_download import repo_folder_name

        if idle := [pattern for pattern in self.allow_patterns if not self._selected(made, [pattern])]:
            files = sorted(path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file())
            raise DataError(
                f"{artefact}: its miniature has no file for {', '.join(idle)} of allow_patterns; "
                f"it makes {', '.join(files) or 'nothing'}"
            )
        repository = hub / repo_folder_name(repo_id=self.repo_id, repo_type=self.repo_type)
        commit = self.revision or hashlib.sha1(self.repo_id.encode()).hexdigest()
        if self.revision is None:
            (repository / "refs").mkdir(parents=True, exist_ok=True)
            (repository / "refs" / "main").write_text(commit)
        for name in self._selected(made):
            target = repository / "snapshots" / commit / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(made / name, target)

    def export(self, of: source.Owner) -> list[dict[str, Any]]:
        """Every file, once the first fetch has locked them; before, the repository and the patterns."""
        if self.locked(of):
            return super().export(of)
        address = f"{self.about().page}/tree/{self.revision or 'main'}"
        repository = {
            "@type": "cr:FileObject", "@id": "repository", "name": "repository", "contentUrl": address,
            "encodingFormat": "git+https", "sha256": _NO_SHA256,
        }  # fmt: skip
        files = {
            "@type": "cr:FileSet", "@id": "files", "name": "files", "containedIn": {"@id": "repository"},
            "encodingFormat": source.media_type(self.allow_patterns[0]), "includes": self.allow_patterns,
        }  # fmt: skip
        return [repository, files]

    @contextmanager
    def _explained(self, of: source.Owner) -> Iterator[None]:
        """Turn what the client raises into errors that name artefact, cause and remedy."""
        try:
            yield
        except DataError:
            raise
        except Exception as error:
            raise self._explanation(of, error) from error

    def _explanation(self, of: source.Owner, error: Exception) -> DataError:
        from huggingface_hub import errors

        name = f"{of.id}: {self.repo_type} {self.repo_id}"
        if isinstance(error, errors.RevisionNotFoundError):
            if self.revision:
                return DataError(f"{name} has no revision {self.revision}; correct it in the manifest")
            remedy = "delete its entry in the lock file to take what it has now"
            return DataError(f"{name} no longer has the commit of the first fetch; {remedy}")
        missing = isinstance(error, errors.RepositoryNotFoundError)
        if isinstance(error, errors.GatedRepoError) or (missing and of.gated):
            remedy = "accept its terms on its page, then give your token (`hf auth login` or HF_TOKEN)"
            return AccessError(f"{name} is gated: {remedy}")
        if missing:
            return DataError(f"{name} is not there or is private; correct `repo_id` or log in (`hf auth login`)")
        # A file that is missing says why: what the client ran into before it looked in its cache.
        refused = error.__cause__ if isinstance(error, FileNotFoundError) else error
        if isinstance(refused, errors.HfHubHTTPError):
            return DataError(f"{name} could not be fetched: {str(refused).splitlines()[0]}; try again later")
        if isinstance(error, FileNotFoundError):
            return OfflineError(
                f"{name} is not whole in the Hugging Face cache and could not be fetched (no network, or offline mode);"
                " run `reprobook data fetch` where there is a network"
            )
        cause = error.__cause__ or error  # the client's transport has error classes of its own
        reason = f"{type(cause).__name__}: {cause}"
        return OfflineError(f"{name} could not be fetched ({reason}); check the network, then try again")


def _words(repo_id: str, revision: str | None) -> str:
    return f"hub {repo_id} @ {revision[:7] if revision else 'first fetch'}"


def _page(repo_id: str, repo_type: str) -> str:
    return f"https://huggingface.co/{'datasets/' if repo_type == 'dataset' else ''}{repo_id}"


def _cache_dir() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _check_names(artefact: str, folder: Path, entry: lock.Locked) -> None:
    """At a first fetch nothing is locked yet, but the hub names a file by its content: by the SHA-256 of a large one,
    by git's SHA-1 of a small one. A copy that does not fit its name was damaged on the way: it is removed, and a
    :class:`DataError` raised."""
    for name, file in entry.files.items():
        blob = (folder / name).resolve()
        kind = {64: "sha256", 40: "git"}.get(len(blob.name)) if blob.parent.name == "blobs" else None
        got = file.sha256 if kind == "sha256" else _git_sha1(blob) if kind == "git" else blob.name
        if got != blob.name:
            (folder / name).unlink()
            blob.unlink()
            raise checksum_error(artefact, name, blob.name, got, "the download was damaged: fetch again")


def _git_sha1(path: Path) -> str:
    """What git calls a file with this content."""
    return hashlib.sha1(b"blob %d\0" % path.stat().st_size + path.read_bytes()).hexdigest()
