"""Published seeds run again: equal bits, tolerance, and what is another processor or package."""

from __future__ import annotations

from typing import Any

import pytest
from reprobook import ReprobookError, record
from reprobook.authoring.verify import compare, verify
from reprobook.cli import main
from reprobook.record import EffectData, Record

SLUG = "block_diffusion"
FINISH = """
import os
from pathlib import Path
from reprobook.hardware import hardware
from reprobook.record import Record, write
loss = 0.5 if os.environ.get("ATEN_CPU_CAPABILITY") == "avx2" else 0.75
write(Record(slug="block_diffusion", scale=scale, seed=seed, run_id="", status="complete", metrics={"loss": loss * lr},
             hardware={**hardware(), "threads": int(os.environ["OMP_NUM_THREADS"])}), Path(out_dir) / "record.json")
"""


def made(loss: float = 1.0, effect: float | None = None, **fields: Any) -> Record:
    effects = {} if effect is None else {"gain": EffectData(kind="mean", estimate=effect, unit="points")}
    return Record(
        slug=SLUG, scale="laptop", seed=0, run_id="r", status="complete", metrics={"loss": loss},
        effects=effects, **fields,
    )  # fmt: skip


def test_equal_numbers_are_bit_equal_whatever_the_machine(checkout: Any) -> None:
    checkout.notebook()
    assert compare(made(hardware={"cpu": "A"}), made(hardware={"cpu": "B"})).outcome == "bit-equal"


def test_what_moved_is_judged_by_the_metrics_own_tolerance(checkout: Any) -> None:
    checkout.notebook()
    assert compare(made(1.0), made(1.04)).outcome == "within tolerance"
    assert compare(made(1.0), made(1.2)).outcome == "differs"
    checkout.write(f"notebooks/expected/{SLUG}.json", '{"loss": {"value": 7.0, "rtol": 0.3, "why": "chaotic"}}')
    found = compare(made(1.0, 0.1), made(1.2, 0.1))
    assert found.outcome == "within tolerance" and found.moved == {"loss": (1.0, 1.2)}
    assert compare(made(1.0, 0.1), made(1.0, 0.2)).outcome == "differs", "effects count too"


def test_another_processor_and_other_packages_are_named(checkout: Any) -> None:
    checkout.notebook()
    versions = record.versions()
    then = made(hardware={"cpu": "A", "instructions": "AVX2"}, versions={**versions, "torch": "2.0.0"})
    now = made(1.2, hardware={"cpu": "B", "instructions": "AVX512"}, versions=versions)
    reasons = compare(then, now).reasons
    assert "cpu: A then, B now" in reasons and "instructions: AVX2 then, AVX512 now" in reasons
    assert f"package torch: 2.0.0 then, {versions['torch']} now" in reasons


def test_a_seed_is_run_again_with_the_instructions_and_threads_of_its_record(
    checkout: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The numbers of a record made with AVX2 come back only with AVX2, as a published seed of the book did."""
    checkout.notebook(FINISH)
    params = {"scale": "laptop", "seed": 0, "device": "auto", "lr": 2.0, "steps": 2}
    then = made(1.0, hardware={"instructions": "AVX2", "threads": 1}, params=params)
    path = checkout.root / f"book/results/laptop/{SLUG}.seed0.json"
    record.write(then, path)
    assert main(["verify", str(path)]) == 0
    assert capsys.readouterr().out.startswith(f"{path}: bit-equal")


def test_a_file_that_is_no_record_is_named(checkout: Any) -> None:
    with pytest.raises(ReprobookError, match="no.json cannot be read"):
        verify(checkout.root / "no.json")
