"""Coarse-to-fine text-guided token pruning for large remote-sensing imagery (arXiv 2503.07588).

- :mod:`.pyramid`: the Dynamic Image Pyramid; :mod:`.reading`: its tiles by windows; :mod:`.descent`: Algorithm 1.
- :mod:`.model`: a small vision-language model with the Region Focus Module; :mod:`.distill`: the module's loss;
  :mod:`.reducers`: other ways to read fewer tokens; :mod:`.compute`, :mod:`.printed`: the paper's figures worked with.
- :mod:`.scenes`: painted targets on real imagery; :mod:`.aerial`: trees; :mod:`.scoring`: the evaluator, blind readers.
- :mod:`.study`: the experiments; :mod:`.released`: the published checkpoints; :mod:`.bench`; :mod:`.pictures`.
"""

from reprobook.papers.rs_token_pruning import (  # noqa: F401
    aerial,
    bench,
    compute,
    descent,
    distill,
    model,
    needs,
    pictures,
    printed,
    pyramid,
    reading,
    reducers,
    released,
    scenes,
    scoring,
    study,
)
