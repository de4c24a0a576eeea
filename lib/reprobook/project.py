"""Where things are: the book's parts, its chapters, its folders; and atomic writing."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from reprobook.errors import ReprobookError

SCALES = ("smoke", "laptop", "paper")

PARTS: dict[str, tuple[str, ...]] = {
    "Language models": ("block_diffusion", "cost_optimal_gqa", "quantizing_code_llms", "stasc"),
    "Evaluation and retrieval": ("wildifeval", "more_documents", "moc"),
    "Agents": ("medical_assistant", "gtr"),
    "Images and geometry": ("alias_free_ldm", "reward_sds", "mc_diffusion_ransac", "rs_token_pruning"),
    "Video and motion": ("tpdiff", "reangle_video", "vlog", "motion_anything"),
    "Biology": ("scmmgpt",),
}
SLUGS = tuple(slug for part in PARTS.values() for slug in part)


def root() -> Path:
    """Folder of the checkout: ``$REPROBOOK_ROOT``, else the one that holds this package, else a parent of the
    working directory. Raises :class:`ReprobookError` if none of them is a checkout."""
    override = folder_of_variable("REPROBOOK_ROOT")
    nearby = [Path(__file__).resolve().parents[2], Path.cwd(), *Path.cwd().parents]
    candidates = [override] if override else nearby
    for folder in candidates:
        if (folder / "data_manifests").is_dir() and (folder / "notebooks").is_dir():
            return folder.resolve()
    raise ReprobookError(
        "no reprobook checkout found: run from inside the repository or set REPROBOOK_ROOT to its folder"
        + (f" (REPROBOOK_ROOT={override})" if override else "")
    )


def check_package() -> None:
    """Raise :class:`ReprobookError` if the package that runs, here and in every kernel, is not the checkout's."""
    ours, running = root() / "lib" / "reprobook", Path(__file__).resolve().parent
    if ours.is_dir() and not ours.samefile(running):
        raise ReprobookError(
            f"the package that runs is {running}, not lib/reprobook of this checkout: pip install -e . in the checkout"
        )


def notebook_path(slug: str) -> Path:
    """Where the chapter's notebook is or would be."""
    return root() / "notebooks" / f"{slug}.ipynb"


def chapters() -> list[str]:
    """Slugs of the chapters that exist (their notebook is there), in the order of the book."""
    return [slug for slug in SLUGS if notebook_path(slug).is_file()]


def check_slug(slug: str) -> str:
    """Return ``slug`` if its chapter exists; otherwise raise an error that lists the chapters."""
    if slug not in chapters():
        raise ReprobookError(f"unknown chapter {slug!r}; chapters: {', '.join(chapters()) or 'none yet'}")
    return slug


def check_scale(scale: str) -> str:
    """Return ``scale`` if it is one of :data:`SCALES`; otherwise raise an error that lists them."""
    if scale not in SCALES:
        raise ReprobookError(f"unknown scale {scale!r}; scales: {', '.join(SCALES)}")
    return scale


def check_packages(slug: str) -> None:
    """Raise :class:`ReprobookError` if a package that this chapter alone needs (its extra) is not installed."""
    from importlib.metadata import PackageNotFoundError, distribution

    missing = []
    for line in distribution("reprobook").requires or []:
        name, extra = re.split(r"[<>=!~; ]", line)[0], re.search(r"extra == .([\w-]+)", line)
        if extra and extra[1].replace("-", "_") == slug:
            try:
                distribution(name)
            except PackageNotFoundError:
                missing.append(name)
    if missing:
        raise ReprobookError(f"{slug} needs {', '.join(missing)}: pip install -e '.[{slug}]' in the checkout")


def cache_dir() -> Path:
    """Folder for fetched and converted artefacts: ``$REPROBOOK_CACHE`` or ``~/.cache/reprobook``."""
    return folder_of_variable("REPROBOOK_CACHE") or Path.home() / ".cache" / "reprobook"


def folder_of_variable(name: str) -> Path | None:
    """The folder that an environment variable names, ``~`` expanded; None if it is not set."""
    given = os.environ.get(name)
    return Path(given).expanduser() if given else None


def read_text(path: Path, where: str, error: type[ReprobookError] = ReprobookError) -> str:
    """Text of a file that somebody may have written by hand: UTF-8, with or without a byte order mark.

    Raises ``error``, which begins with ``where``, if the file cannot be read or is in another encoding."""
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = problem.object[: problem.start].count(b"\n") + 1
        raise error(f"{where} is not UTF-8 text (line {line}): save it as UTF-8") from problem
    except OSError as problem:
        raise error(f"{where} cannot be read: {problem.strerror}") from problem


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write ``content`` to ``path`` by a temporary file in the same folder and a rename: readers see all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
