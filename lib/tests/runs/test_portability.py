"""The same notebook under other threads and instruction sets: real runs, whose environment the kernel reports."""

from __future__ import annotations

from typing import Any

from reprobook import record
from reprobook.runs.portability import check, environment, in_turn, variants

SLUG = "block_diffusion"
FINISH = """
import os
from pathlib import Path
import torch
from reprobook.record import Record, write
value = {"DEFAULT": 1.0, "AVX2": 2.0}.get(torch.backends.cpu.get_cpu_capability(), 3.0)
assert torch.get_num_threads() == int(os.environ["OMP_NUM_THREADS"])
if WANTED and value != WANTED:
    raise ValueError(f"metric is {value}")
write(Record(slug="block_diffusion", scale=scale, seed=seed, run_id="", status="complete",
             metrics={"capability": value}), Path(out_dir) / "record.json")
print("done")
"""


def test_every_variant_runs_with_its_threads_and_instructions(checkout: Any) -> None:
    checkout.notebook(FINISH.replace("WANTED", "0"))
    said: list[str] = []
    assert check(SLUG, said.append, only=[(1, "default"), (2, "avx2")]) == []
    assert said == [
        f"{SLUG}: 1 thread, default: 1 metrics within tolerance",
        f"{SLUG}: 2 threads, avx2: 1 metrics within tolerance",
    ]
    folder = checkout.root / "runs" / SLUG / "portability"
    assert record.read(folder / "1-default" / "record.json").metrics == {"capability": 1.0}


def test_a_run_that_leaves_its_tolerance_is_named(checkout: Any) -> None:
    checkout.notebook(FINISH.replace("WANTED", "1.0"))
    said: list[str] = []
    (failed,) = check(SLUG, said.append, only=[(1, "default"), (1, "avx2")])
    assert failed.where is not None and "metric is 2.0" in failed.where
    assert said[1].startswith(f"{SLUG}: 1 thread, avx2: ValueError: metric is 2.0 in cell 3 of 3")


def test_variants_and_turns() -> None:
    assert len(variants()) == 6 and len(set(variants())) == 6
    assert environment(2, "native") == {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    assert {in_turn(["a", "b", "c"], day) for day in range(700, 703)} == {"a", "b", "c"}
