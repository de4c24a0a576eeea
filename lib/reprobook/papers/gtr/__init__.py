"""GTR (Wei et al., 2025): a corrector repairs an agent's thoughts step by step, so that RL does not empty them.

- :mod:`.games`, :mod:`.formulas`, :mod:`.cards`: the card games with the rules of the released environment, an exact
  solver, pictures of handwritten numbers.
- :mod:`.alfworld`, :mod:`.errands`, :mod:`.floorplans`: ALFWorld as text, its tasks, its rooms.
- :mod:`.language`, :mod:`.policy`, :mod:`.start`: what the policy writes and how it is read, the network, its start.
- :mod:`.corrector`, :mod:`.ppo`, :mod:`.learning`: the corrector, the losses, the loop.
- :mod:`.collapse`: what thoughts are worth. :mod:`.study`: the experiments that the notebook calls.
- :mod:`.released`, :mod:`.words`, :mod:`.homes`, :mod:`.asked`, :mod:`.needs`: the paper's own model, on ALFWorld,
  too; a model as corrector; what they need.
- :mod:`.printed`: what follows from the paper's tables; :mod:`.bench`, :mod:`.pictures`: times and figures.
"""

from __future__ import annotations

from reprobook.papers.gtr import (
    alfworld,
    asked,
    bench,
    cards,
    collapse,
    corrector,
    errands,
    floorplans,
    formulas,
    games,
    homes,
    language,
    learning,
    needs,
    pictures,
    policy,
    ppo,
    printed,
    released,
    start,
    study,
    words,
)  # fmt: skip

__all__ = [
    "alfworld", "asked", "bench", "cards", "collapse", "corrector", "errands", "floorplans", "formulas", "games",
    "homes", "language", "learning", "needs", "pictures", "policy", "ppo", "printed", "released", "start", "study",
    "words",
]  # fmt: skip
