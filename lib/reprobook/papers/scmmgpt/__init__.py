"""scMMGPT (Shi et al., 2025, first version): a language model reads and writes cells through a Q-Former.

- :mod:`.cells`, :mod:`.h5ad`: counts, checks, files; :mod:`.vocabulary`: the 60,697 entries; :mod:`.values`:
  normalisation and binning; :mod:`.tokens`: the 2,048 tokens of a cell.
- :mod:`.encoder`: scGPT; :mod:`.qformer`: cell to text; :mod:`.objectives`, :mod:`.stage1`: contrast, matching,
  captioning, annotation.
- :mod:`.stage2`: language model with soft prompts; :mod:`.decoder`: text to cell; :mod:`.sentences`: the baseline.
- :mod:`.texts`, :mod:`.procedural`: cell types in words, and cells whose truth is known; :mod:`.evaluation`,
  :mod:`.baselines`, :mod:`.study`: what is measured, and how.
- :mod:`.released`: the paper's own models; :mod:`.printed`: its figures.
"""
