"""The oldest versions that pyproject.toml admits, as constraints for pip: ``make oldest`` installs and tests them."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def constraints() -> list[str]:
    """``name==lowest`` for every direct dependency; raises ValueError for one without a lowest version."""
    wanted = [PROJECT["dependencies"], *EXTRAS.values()]
    return [_lowest(requirement) for requirements in wanted for requirement in requirements]


def _lowest(requirement: str) -> str:
    found = re.match(r"([\w.-]+)>=([\w.]+)", requirement)
    if not found:
        raise ValueError(f"pyproject.toml: {requirement!r} names no lowest version (name>=version)")
    return f"{found[1]}=={found[2]}"


if __name__ == "__main__":
    print(",".join(EXTRAS) if "--extras" in sys.argv else "\n".join(constraints()))
