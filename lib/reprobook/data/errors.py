"""What can go wrong with an artefact, each with its own remedy in the message."""

from __future__ import annotations

from reprobook.errors import ReprobookError


class DataError(ReprobookError):
    """A fault with a manifest or an artefact; the message names the artefact, what was wrong and the remedy."""


class ManifestError(DataError):
    """A manifest that cannot be read: bad YAML, an unknown field, a branch name where a revision belongs."""


class ChecksumError(DataError):
    """Bytes that are not the ones that the manifest or its lock promises."""


class OfflineError(DataError):
    """An artefact is not in the cache and fetching is not allowed or not possible."""


class AccessError(DataError):
    """A gated artefact whose terms were not accepted, or a missing token."""


def checksum_error(artefact: str, file: str, expected: str, got: str, remedy: str) -> ChecksumError:
    """A wrong SHA-256: the message carries artefact, file, both digests and what to do."""
    return ChecksumError(
        f"{artefact}: {file} has the wrong checksum\n  expected {expected}\n  got      {got}\n{remedy}"
    )
