"""A notebook that trains, for tests and campaigns that kill it: what it computes shows every bit of its state."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

KILL = "REPROBOOK_TEST_KILL"  # micro-step at which the kernel kills itself, "write:N": before the Nth rename
CELLS = (
    """
    import os, signal
    from pathlib import Path
    import torch
    from reprobook.train import fit, shuffled
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    X = torch.linspace(-2, 2, 64 * 4).sin().reshape(64, 4)
    """,
    """
    fault = os.environ.get("REPROBOOK_TEST_KILL", "")
    def die():
        os.kill(os.getpid(), signal.SIGKILL)
    if fault.startswith("write:"):
        rename, calls = os.replace, []
        def faulty(*where):
            calls.append(where)
            if len(calls) == int(fault[6:]):
                die()
            rename(*where)
        os.replace = faulty
    def counted(batches, start):
        def batch(i):
            if fault == str(start + i):
                die()
            return batches(i)
        return batch
    """,
    """
    order = shuffled(64, 16, seed=seed)
    net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.BatchNorm1d(16), torch.nn.Dropout(0.2),
                              torch.nn.ReLU(), torch.nn.Linear(16, 4))
    def loss(model, x):
        return ((model(x + 0.1 * torch.randn_like(x)) - x) ** 2).mean()
    def score(model, step):
        return {"error": loss(model, X).item()}
    histories = []
    for part, start in (("first", 0), ("second", 20)):  # the second goes on from the model of the first
        histories.append(fit(net, counted(lambda i: X[order(i)], start), loss, num_steps=20, lr=0.01, seed=seed + start,
                             folder=Path(out_dir) / "checkpoints" / part, checkpoint_every=3, log_every=4,
                             evaluate=score, evaluate_every=7, ema_decay=0.9, precision="fp32"))
    """,
    """
    from reprobook.record import Record, TableData, write
    rows = [[r["step"], r["loss"], r["grad_norm"]] for h in histories for r in h.rows]
    evals = [[r["step"], r["error"]] for h in histories for r in h.eval_rows]
    weights = [[name, value.double().flatten().tolist()] for name, value in net.state_dict().items()]
    write(Record(slug="block_diffusion", scale=scale, seed=seed, run_id="", status="complete",
                 metrics={"loss": rows[-1][1], "error": evals[-1][1], "steps": len(rows)},
                 tables={"rows": TableData(columns=["step", "loss", "norm"], rows=rows),
                         "evals": TableData(columns=["step", "error"], rows=evals),
                         "weights": TableData(columns=["name", "values"], rows=weights)}),
          Path(out_dir) / "record.json")
    """,
)
N_STEPS = 40


def outcome(folder: Path) -> dict[str, Any]:
    """What must not depend on kills: metrics and tables (curves, evaluations, weights) of the record in ``folder``."""
    found = json.loads((folder / "record.json").read_text("utf-8"))
    return {"metrics": found["metrics"], "tables": found["tables"]}


def digest(found: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
