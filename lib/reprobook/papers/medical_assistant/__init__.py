"""Multi-agent medical assistant (Gawade et al., 2025): a planner, a caller, tools, memory, a health monitor.

A demonstration of a method, no medical advice.

- :mod:`.tools`: the twelve tools, checks, the literal parser; :mod:`.environment`: the world behind them.
- :mod:`.memory`: SQLite and short-term memory; :mod:`.session`: the control loop.
- :mod:`.scenarios`, :mod:`.phrases`, :mod:`.entities`: trajectories with known truth; :mod:`.augment`: other names,
  dates and orders; :mod:`.samples`: interleaving and token ids.
- :mod:`.training`: adapters, small decoders, the loss on target turns; :mod:`.decoding`, :mod:`.agents`: who speaks.
- :mod:`.evaluate`: the paper's measures and ours; :mod:`.device`: speed and memory; :mod:`.released`: the paper's size.
- :mod:`.vitals`, :mod:`.prescriptions`, :mod:`.reminders`, :mod:`.reports`: the Health Manager; :mod:`.panel`: the
  app in JupyterLab.
"""

from __future__ import annotations
