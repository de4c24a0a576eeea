"""How something gets onto the page: one output with several forms, of which the reader's program takes the best."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any


class Html(str):
    """Text that is already HTML: tables show it as it is. A frame keeps it only in a column of ``dtype=object``."""


def interactive() -> bool:
    """Whether a person opened this notebook in Jupyter; papermill, nbval and the book have nobody to move a slider."""
    return bool(os.environ.get("JPY_SESSION_NAME"))  # set by Jupyter's server


def publish(bundle: Mapping[str, str], metadata: Mapping[str, Any] | None = None) -> None:
    """Show one output given as ``{MIME type: content}``; outside a notebook print its plain text."""
    from IPython import get_ipython
    from IPython.display import display

    if get_ipython() is None:
        print(bundle["text/plain"])
        return
    display(dict(bundle), raw=True, metadata=dict(metadata or {}))
