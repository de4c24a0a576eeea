"""Files at an address: downloaded with pooch; what may pass is tried again, what stays is explained."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from reprobook.data.errors import AccessError, ChecksumError, DataError

if TYPE_CHECKING:
    import requests

    from reprobook.data.manifest import UrlSource

TRIES = 3
LONGEST_WAIT_S = 30.0
TEMPORARY = (408, 425, 429, 500, 502, 503, 504)


def file_name(source: UrlSource) -> str:
    """The last part of the address, without query and fragment."""
    return source.url.split("?")[0].split("#")[0].rstrip("/").rpartition("/")[2] or "file"


def timeout_s() -> float:
    """How long a server may be silent, in seconds: ``$REPROBOOK_TIMEOUT``, or 30."""
    given = os.environ.get("REPROBOOK_TIMEOUT") or "30"
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise DataError(f"REPROBOOK_TIMEOUT={given}: it must be a number of seconds above 0, for example 30")
    return seconds


def fetch(artefact: str, source: UrlSource, folder: Path) -> None:
    """Download the file into ``folder``. A fault of the server or a broken connection is tried again, after the pause
    that the server asks for if that is short. Raises :class:`DataError`."""
    import requests

    for attempt in range(TRIES):
        try:
            _retrieve(source, folder)
            break
        except requests.RequestException as error:
            pause = _pause(error, attempt)
            if pause is None or attempt == TRIES - 1:
                raise _explained(artefact, source.url, error) from error
            time.sleep(pause)
    got = (folder / file_name(source)).stat().st_size
    if source.bytes is not None and got != source.bytes:
        raise ChecksumError(f"{artefact}: {source.url} gave {got} bytes, the manifest says {source.bytes}: fetch again")


def _retrieve(source: UrlSource, folder: Path) -> None:
    import pooch

    pooch.get_logger().setLevel("WARNING")  # its advice to write the hash into code is not for our readers
    downloader = pooch.HTTPDownloader(timeout=timeout_s())
    pooch.retrieve(source.url, known_hash=None, fname=file_name(source), path=folder, downloader=downloader)


def _pause(error: requests.RequestException, attempt: int) -> float | None:
    """Seconds to wait before the next try; None if trying again now would not help."""
    import requests

    if error.response is None:
        broken = isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError)
        return 0.5 * 2**attempt if broken and not _silent(error) else None
    if error.response.status_code not in TEMPORARY:
        return None
    asked = _retry_after(error.response)
    pause = 0.5 * 2**attempt if asked is None else asked
    return pause if pause <= LONGEST_WAIT_S else None


def _retry_after(response: requests.Response) -> float | None:
    """Seconds that the header Retry-After asks for; a date, which few servers send, counts as a long time."""
    value = response.headers.get("Retry-After")
    if value is None:
        return None
    return float(value) if value.isdigit() else float("inf")


def _silent(error: Exception) -> bool:
    """Whether the time limit ended it: requests raises a ConnectionError for that once the body has begun."""
    import requests

    return isinstance(error, requests.Timeout) or "timed out" in str(error)


def _explained(artefact: str, url: str, error: requests.RequestException) -> DataError:
    """The error that names artefact, cause and remedy."""
    import requests

    name = f"{artefact}: {url}"
    if error.response is not None and not isinstance(error, requests.TooManyRedirects):
        return _refusal(name, error.response)
    if isinstance(error, requests.TooManyRedirects):
        return DataError(f"{name} redirects in circles; correct `url` in the manifest")
    if _silent(error):
        return DataError(
            f"{name} was silent for {timeout_s():g} s; try again later, or allow more with REPROBOOK_TIMEOUT=<seconds>"
        )
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return DataError(f"{name} broke off before the whole file had come, {TRIES} times; try again later")
    if isinstance(error, requests.ConnectionError):
        return DataError(f"{name} could not be reached ({type(error).__name__}); check the network")
    return DataError(f"{name} could not be fetched ({type(error).__name__}: {error}); correct `url` in the manifest")


def _refusal(name: str, response: requests.Response) -> DataError:
    status = response.status_code
    if status in (401, 403):
        return AccessError(f"{name} answered {status}: it wants a permission that you don't have; ask its owner for it")
    if status == 429:
        asked = response.headers.get("Retry-After")
        when = f"in {asked} s" if asked and asked.isdigit() else "later"
        return DataError(f"{name} answered 429: too many requests; try again {when}")
    if status in TEMPORARY:
        return DataError(f"{name} answered {status}: the server has a fault; try again later")
    return DataError(f"{name} answered {status}; correct `url` in the manifest")
