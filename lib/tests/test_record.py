"""Records: nothing is lost on the way through a file, nothing broken is read, nothing wrong is called expected."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reprobook import record
from reprobook.record import ClaimData, Record, RecordError, TableData, compare, verdict

SLUG = "block_diffusion"

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


def made(seed: int = 0, scale: str = "laptop", status: str = "complete", **fields: Any) -> Record:
    return Record(slug=SLUG, scale=scale, seed=seed, run_id=f"{scale}-seed{seed}-abc", status=status, **fields)


def claim(holds: bool | None, note: str = "", **value: float | None) -> ClaimData:
    return ClaimData(value=value, holds=holds, verdict=verdict([holds]), note=note)


# ------------------------------------------------------------------------------------------------ the file


@given(
    metrics=st.dictionaries(st.text(max_size=10), NUMBERS | st.none(), max_size=4),
    rows=st.lists(st.tuples(st.text(max_size=5), NUMBERS | st.integers() | st.booleans() | st.none()), max_size=4),
    params=st.dictionaries(
        st.text(min_size=1, max_size=5), st.lists(st.integers() | st.text(max_size=3)) | NUMBERS, max_size=3
    ),
)
def test_a_record_survives_its_file(
    tmp_path_factory: pytest.TempPathFactory, metrics: Any, rows: Any, params: Any
) -> None:
    path = tmp_path_factory.mktemp("r") / "record.json"
    table = TableData(columns=["a", "b"], rows=[list(row) for row in rows], caption="c")
    before = made(metrics=metrics, tables={"t": table}, params=params, claims={"C1": claim(True, x=1.0)})
    record.write(before, path)
    assert record.read(path) == before
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_the_file_keeps_the_order_of_the_run_and_has_a_line_per_row(tmp_path: Path) -> None:
    before = made(metrics={"b": 1.0, "a": 2.0}, tables={"t": TableData(columns=["x", "y"], rows=[[1, "é"], [2, "["]])})
    record.write(before, tmp_path / "a.json")
    text = (tmp_path / "a.json").read_text("utf-8")
    assert text.index('"b": 1.0') < text.index('"a": 2.0')
    assert '    [1, "é"],\n    [2, "["]\n' in text
    assert json.loads(text) == json.loads(before.model_dump_json())
    record.write(record.read(tmp_path / "a.json"), tmp_path / "b.json")
    assert (tmp_path / "b.json").read_bytes() == (tmp_path / "a.json").read_bytes()


def test_numpy_torch_and_pandas_values_become_plain_and_non_finite_ones_null(tmp_path: Path) -> None:
    metrics = {"a": np.float32(0.5), "b": torch.tensor(2.0), "c": float("nan"), "d": np.inf}
    rows = [[np.int64(3), np.nan, pd.NA], [np.bool_(True), -math.inf, pd.NaT]]
    before = made(metrics=metrics, params={"ks": (1, 2)}, tables={"t": {"columns": ["x", "y", "z"], "rows": rows}})
    record.write(before, tmp_path / "r.json")
    after = record.read(tmp_path / "r.json")
    assert after.metrics == {"a": 0.5, "b": 2.0, "c": None, "d": None}
    assert after.tables["t"].rows == [[3, None, None], [True, None, None]]
    assert after.params == {"ks": [1, 2]}


def test_an_object_without_a_plain_form_is_refused() -> None:
    with pytest.raises(RecordError, match="not object: convert it"):
        made(params={"x": object()})


def test_a_file_cut_off_anywhere_is_never_read_as_whole(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    record.write(made(metrics={"a": 1.0}), path)
    whole = path.read_text()
    for length in range(0, len(whole) - 2, 7):
        path.write_text(whole[:length])
        with pytest.raises(RecordError, match="record.json is cut off or not JSON"):
            record.read(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": "done"}, "status"),
        ({"schema_version": 3}, "schema_version"),
        ({"scale": "huge"}, "scale"),
        ({"metrics": {"a": "x"}}, "metrics.a"),
        ({"surprise": 1}, "surprise"),
        ({"tables": {"t": {"columns": ["a"], "rows": [[1, 2]]}}}, "one cell per column"),
        ({"claims": {"C1": {"value": {}, "holds": True, "verdict": "yes"}}}, "claims.C1.verdict"),
    ],
)
def test_a_file_of_another_format_names_the_field(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps({**json.loads(made().model_dump_json()), **change}))
    with pytest.raises(RecordError, match=f"record.json is not a valid record: .*{message}"):
        record.read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="absent.json cannot be read: No such file"):
        record.read(tmp_path / "absent.json")


def test_results_are_sorted_by_number_of_seed_and_only_of_this_chapter(checkout: Any) -> None:
    for seed in (10, 2, 0):
        record.write(made(seed), checkout.root / f"book/results/laptop/{SLUG}.seed{seed}.json")
    record.write(made(0).model_copy(update={"slug": "other"}), checkout.root / "book/results/laptop/other.seed0.json")
    assert [found.seed for found in record.results(SLUG, "laptop")] == [0, 2, 10]
    assert record.results(SLUG, "paper") == []


def test_a_failed_or_misnamed_record_is_never_evidence(checkout: Any) -> None:
    path = checkout.root / f"book/results/laptop/{SLUG}.seed1.json"
    record.write(made(1, status="failed"), path)
    with pytest.raises(RecordError, match=f"^book/results/laptop/{SLUG}.seed1.json holds a run that is failed"):
        record.results(SLUG, "laptop")
    record.write(made(2), path)
    with pytest.raises(RecordError, match="holds the record of .* seed 2"):
        record.results(SLUG, "laptop")


# ------------------------------------------------------------------------------------------------ expected values


@given(
    value=NUMBERS,
    wanted=NUMBERS,
    tolerance=st.floats(0, 1e6, allow_nan=False),
    kind=st.sampled_from(["atol", "rtol"]),
)
def test_a_metric_is_compared_under_its_own_tolerance(value: float, wanted: float, tolerance: float, kind: str) -> None:
    inside = np.isclose(value, wanted, **{"rtol": 0.0, "atol": 0.0, kind: tolerance})
    found = compare({"m": value}, {"m": {"value": wanted, kind: tolerance}})
    assert (not found) == inside


def test_missing_and_extra_metrics_are_mismatches_sorted_by_name() -> None:
    found = compare(
        {"c": 1.0, "b": 2.0}, {"a": {"value": 1.0, "atol": 1}, "b": {"value": 2.5, "rtol": 0.1, "why": "noise"}}
    )
    assert [str(mismatch) for mismatch in found] == [
        "a: expected, but not measured",
        "b: 2.0 is outside the tolerance: expected 2.5 within 0.25",
        "c: measured, but not expected",
    ]


def test_null_equals_only_null() -> None:
    assert compare({"a": None}, {"a": {"value": None, "rtol": 0.05}}) == []
    assert len(compare({"a": None}, {"a": {"value": 1.0, "rtol": 0.05}})) == 1
    assert len(compare({"a": 1.0}, {"a": {"value": None, "atol": 9.0}})) == 1


def test_expected_values_need_a_value_and_one_tolerance(checkout: Any) -> None:
    assert record.expected(SLUG) is None
    path = f"notebooks/expected/{SLUG}.json"
    checkout.write(path, '{"a": {"value": 1.0, "atol": 0.1}}')
    assert record.expected(SLUG) == {"a": {"value": 1.0, "atol": 0.1}}
    for wrong in (
        '{"a": 1.0}',
        '{"a": {"value": 1}}',
        '{"a": {"atol": 1}}',
        '{"a": {"value": 1, "atol": 1, "rtol": 1}}',
    ):
        checkout.write(path, wrong)
        with pytest.raises(RecordError, match=f"{path}: 'a' needs a value and either atol or rtol"):
            record.expected(SLUG)
    for broken in ("[1]", '{"a": '):
        checkout.write(path, broken)
        with pytest.raises(RecordError, match=path):
            record.expected(SLUG)


# ------------------------------------------------------------------------------------------------ verdicts


@pytest.mark.parametrize(
    ("holds", "expected"),
    [
        ([], "not testable here"),
        ([None, None], "not testable here"),
        ([True], "reproduced"),
        ([True, None, True], "partly"),
        ([True, False, True], "partly"),
        ([False, False], "not reproduced"),
        ([False, None], "not reproduced"),
    ],
)
def test_verdicts(holds: list[bool | None], expected: str) -> None:
    assert verdict(holds) == expected
    assert expected in record.VERDICTS


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8))
def test_a_claim_is_summarised_by_mean_and_sample_deviation(values: list[float]) -> None:
    records = [made(k, claims={"C1": claim(k % 2 == 0, x=v)}) for k, v in enumerate(values)] + [made(99)]
    found = record.summarise_claim(records, "C1")
    assert found["value"]["x"]["mean"] == pytest.approx(np.mean(values), abs=1e-6)
    if len(values) > 1:
        assert found["value"]["x"]["sd"] == pytest.approx(np.std(values, ddof=1), abs=1e-6)
    else:
        assert found["value"]["x"]["sd"] is None
    assert (found["holds"], found["n"]) == ((len(values) + 1) // 2, len(values))
    assert found["seeds"] == list(range(len(values)))


def test_values_that_some_runs_lack_are_counted_apart() -> None:
    records = [
        made(0, claims={"C1": claim(True, "a", x=1.0, y=None)}),
        made(1, claims={"C1": claim(None, "a", x=3.0, z=5.0)}),
    ]
    found = record.summarise_claim(records, "C1")
    assert found["value"] == {
        "x": {"mean": 2.0, "sd": statistics.stdev([1.0, 3.0]), "n": 2},
        "y": {"mean": None, "sd": None, "n": 0},
        "z": {"mean": 5.0, "sd": None, "n": 1},
    }
    assert (found["verdict"], found["holds"], found["n"], found["notes"]) == ("partly", 1, 1, ["a"])


# ------------------------------------------------------------------------------------------------ circumstances


def test_circumstances_name_what_can_move_a_number(checkout: Any) -> None:
    assert record.versions()["torch"] == torch.__version__
    assert record.versions()["python"].startswith("3.")
    found = record.hardware()
    assert set(found) == {
        "cpu", "cores", "threads", "memory_gb", "gpus", "precision", "instructions", "blas", "onednn"
    }  # fmt: skip
    assert found["instructions"] == torch.backends.cpu.get_cpu_capability()
    assert found["cores"] >= 1 and found["memory_gb"] > 0.5 and found["cpu"]
    assert record.commit() == (None, False), "a folder that git doesn't know has no commit"


def test_published_results_are_no_change_of_the_code(checkout: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    for name in ("GIT_AUTHOR", "GIT_COMMITTER"):
        monkeypatch.setenv(f"{name}_NAME", "t")
        monkeypatch.setenv(f"{name}_EMAIL", "t@example.org")

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=checkout.root, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "start")
    assert record.commit() == (git("rev-parse", "HEAD"), True)
    checkout.write("book/results/laptop/new.json", "{}")
    assert record.commit()[1] is True
    checkout.write("lib/new.py", "x = 1")
    assert record.commit()[1] is False


def test_peak_memory_is_that_of_this_process() -> None:
    import psutil

    peak = record.peak_memory_mb()
    assert peak is not None and peak >= 0.9 * psutil.Process().memory_info().rss / 1e6


def test_peak_memory_of_a_child_is_not_that_of_its_parent() -> None:
    child = "from reprobook.record import peak_memory_mb; print(peak_memory_mb())"
    parent = f"import subprocess, sys; x = b'x' * 10**9; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 700
