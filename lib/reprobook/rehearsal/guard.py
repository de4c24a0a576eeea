"""Import this to keep a Python process off the network: a connection to anything but this machine is refused, and
noted in the file ``$REPROBOOK_NETWORK_LOG``, so that a rehearsal can tell that a refusal was swallowed."""

from __future__ import annotations

import os
import sys
from typing import Any

_LOCAL = ("localhost", "127.", "::1", "0.0.0.0")
_EVENTS = {"socket.connect": 1, "socket.sendto": 1, "socket.getaddrinfo": 0, "socket.gethostbyname": 0}


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in _EVENTS:
        return
    address = arguments[_EVENTS[event]]
    host = address[0] if isinstance(address, tuple) else address
    host = host.decode(errors="replace") if isinstance(host, bytes) else host
    unix_socket = event.startswith(("socket.connect", "socket.sendto")) and not isinstance(address, tuple)
    if unix_socket or not host or str(host).startswith(_LOCAL):
        return
    if log := os.environ.get("REPROBOOK_NETWORK_LOG"):
        with open(log, "a", encoding="utf-8") as stream:  # noqa: PTH123  an audit hook imports nothing
            print(host, file=stream)
    raise PermissionError(f"no network in a rehearsal: refused {host!r}")


sys.addaudithook(_watch)
