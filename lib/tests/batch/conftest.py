"""The tiny chapter of :mod:`tiny_chapter` in a checkout of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from tiny_chapter import Batches


@pytest.fixture
def batches(checkout: Any) -> Batches:
    return Batches(checkout)
