"""Files at an address: downloaded with pooch; what may pass is tried again, what stays is explained."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from reprobook.data.errors import AccessError, DataError

if TYPE_CHECKING:
    import requests

TRIES = 3
FIRST_PAUSE_S = 0.5
LONGEST_WAIT_S = 30.0
CONNECT_S = 10.0  # to reach a server at all; a mirror may be waiting
TEMPORARY = (408, 425, 429, 500, 502, 503, 504)


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


def download(artefact: str, url: str, target: Path, gone: str = "correct `url` in the manifest") -> None:
    """Download to the file ``target``. A fault of the server or a broken connection is tried again, after the pause
    that the server asks for if that is short. ``gone``: the remedy if the server has no such file. Raises
    :class:`DataError`."""
    import pooch
    import requests

    pooch.get_logger().setLevel("WARNING")  # its advice to write the hash into code is not for our readers
    downloader = pooch.HTTPDownloader(timeout=(min(CONNECT_S, timeout_s()), timeout_s()))
    for attempt in range(TRIES):
        try:
            pooch.retrieve(url, known_hash=None, fname=target.name, path=target.parent, downloader=downloader)
            return
        except requests.RequestException as error:
            pause = _pause(error, attempt)
            if pause is None or attempt == TRIES - 1:
                raise _explained(artefact, url, error, gone) from error
            time.sleep(pause)


def _pause(error: requests.RequestException, attempt: int) -> float | None:
    """Seconds to wait before the next try; None if trying again now would not help."""
    import requests

    usual = FIRST_PAUSE_S * 2**attempt
    if error.response is None:
        broken = isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError)
        return usual if broken and not _silent(error) else None
    if error.response.status_code not in TEMPORARY:
        return None
    asked = error.response.headers.get("Retry-After") or str(usual)
    # A date, which few servers send, counts as a long time.
    pause = float(asked) if asked.replace(".", "", 1).isdigit() else LONGEST_WAIT_S + 1
    return pause if pause <= LONGEST_WAIT_S else None


def _silent(error: Exception) -> bool:
    """Whether the time limit ended it: requests raises a ConnectionError for that once the body has begun."""
    import requests

    return isinstance(error, requests.Timeout) or "timed out" in str(error)


def _explained(artefact: str, url: str, error: requests.RequestException, gone: str) -> DataError:
    """The error that names artefact, cause and remedy."""
    import requests

    name = f"{artefact}: {url}"
    if isinstance(error, requests.TooManyRedirects):
        return DataError(f"{name} redirects in circles; {gone}")
    if error.response is not None:
        return _refusal(name, error.response, gone)
    if isinstance(error, requests.ConnectTimeout):
        return DataError(f"{name} could not be reached within {min(CONNECT_S, timeout_s()):g} s; check the network")
    if _silent(error):
        return DataError(
            f"{name} was silent for {timeout_s():g} s; try again later, or allow more with REPROBOOK_TIMEOUT=<seconds>"
        )
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return DataError(f"{name} broke off before the whole file had come, {TRIES} times; try again later")
    if isinstance(error, requests.ConnectionError):
        return DataError(f"{name} could not be reached ({type(error).__name__}); check the network")
    return DataError(f"{name} could not be fetched ({type(error).__name__}: {error}); {gone}")


def _refusal(name: str, response: requests.Response, gone: str) -> DataError:
    status = response.status_code
    if status in (401, 403):
        return AccessError(f"{name} answered {status}: it wants a permission that you don't have; ask its owner for it")
    if status == 429:
        asked = response.headers.get("Retry-After")
        when = f"in {asked} s" if asked and asked.isdigit() else "later"
        return DataError(f"{name} answered 429: too many requests; try again {when}")
    if status in TEMPORARY:
        return DataError(f"{name} answered {status}: the server has a fault; try again later")
    return DataError(f"{name} answered {status}; {gone}")
