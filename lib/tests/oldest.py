"""The oldest versions that pyproject.toml admits, as constraints for pip: ``make oldest`` installs and tests them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path


def constraints() -> list[str]:
    """``name==lowest`` for every direct dependency; raises ValueError for one without a lowest version."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = sum(project["optional-dependencies"].values(), project["dependencies"])
    return [_lowest(requirement) for requirement in wanted]


def _lowest(requirement: str) -> str:
    found = re.match(r"([\w.-]+)>=([\w.]+)", requirement)
    if not found:
        raise ValueError(f"pyproject.toml: {requirement!r} names no lowest version (name>=version)")
    return f"{found[1]}=={found[2]}"


if __name__ == "__main__":
    print("\n".join(constraints()))
