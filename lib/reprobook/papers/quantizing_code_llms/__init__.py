"""Quantizing code models (Giagnorio et al., 2025): AQLM at 8 to 2 bits, and what it does to pass@1.

- :mod:`.aqlm`: one layer; :mod:`.baselines`: its rivals; :mod:`.blocks`: a model, block after block, and the tuning of
  blocks; :mod:`.tuning`: end to end; :mod:`.storage`: bits, and the layout of files.
- :mod:`.calibration`: texts; :mod:`.study`: loss on held-out text; :mod:`.solving`: cells of pass@1.
- :mod:`.humaneval`, :mod:`.multipl_e`: problems, and what passes; :mod:`.sandbox`, :mod:`.guest`: where it runs;
  :mod:`.statistics`: the paper's tests.
- :mod:`.released`: the paper's models; :mod:`.miniatures`: their stand-ins; :mod:`.bench`; :mod:`.pictures`.
"""

from __future__ import annotations

from reprobook.papers.quantizing_code_llms import (
    aqlm,
    baselines,
    bench,
    blocks,
    calibration,
    humaneval,
    miniatures,
    multipl_e,
    pictures,
    released,
    sandbox,
    solving,
    statistics,
    storage,
    study,
    tuning,
)

__all__ = [
    "aqlm", "baselines", "bench", "blocks", "calibration", "humaneval", "miniatures", "multipl_e", "pictures",
    "released", "sandbox", "solving", "statistics", "storage", "study", "tuning",
]  # fmt: skip
