"""What a parameter may be: as its comment says, else as its values at the scales do."""

from __future__ import annotations

from typing import Any

import pytest
from reprobook import project, ranges
from reprobook.cli import main
from reprobook.params import COMMON, read_parameters

SLUG = "block_diffusion"
PARAMETERS = """\
scale = "smoke"  # smoke, laptop or paper
seed = 0  # seed of everything random
device = "auto"  # auto, cpu or cuda
out_dir = ""  # folder of this run; empty: a fresh one
n_test = 4  # test rows
n_more = 0  # further rows, 0: none
lr = 1.0e-3  # step size; paper: 1e-4
dropout = 0.1  # dropout rate (>= 0, < 1); paper: 0.1
shift = -2.0  # of the scale
sizes = [[2, 16], [3, 0.5]]  # layers and width of each
flags = [True, False]  # which of them
lists = []  # of numbers, empty at every scale
style = "paper"  # of the loss: paper | code; paper: paper
inputs = ["raw"]  # raw | log1p | batch sum: how values are read
judge = ""  # of answers: exact | none given; empty: no judge
place = "here"  # here, or the address of a service (a | b)
"""


@pytest.fixture
def chapter(checkout: Any) -> Any:
    checkout.notebook("raise ValueError('nothing may start')", parameters=PARAMETERS)
    checkout.write(f"notebooks/params/{SLUG}.rehearsal.yaml", "n_test: 2  # two\n")
    return checkout


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([*arguments]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("n_test=0", "parameter 'n_test' must be > 0, got 0"),
        ("n_more=-1", "parameter 'n_more' must be >= 0, got -1"),
        ("lr=-1.0", "parameter 'lr' must be > 0, got -1.0"),
        ("dropout=1.0", "parameter 'dropout' must be >= 0 and < 1, got 1.0"),
        ("sizes=[[2, 16], [3, -8]]", "parameter 'sizes' must be > 0, got -8 in [[2, 16], [3, -8]]"),
        ("style=papier", "parameter 'style' must be one of paper | code; got 'papier'"),
        ('style=""', "parameter 'style' must be one of paper | code; got ''"),
        ("inputs=[raw, log]", "parameter 'inputs' must be one of raw | log1p | batch sum; got 'log' in ['raw', 'log']"),
        ("judge=all", "parameter 'judge' must be one of exact | none given | \"\"; got 'all'"),
        ("seed=-1", "seed must be from 0 to 4294967295, got -1"),
    ],
)
def test_a_number_out_of_range_is_refused_before_anything_starts(
    chapter: Any, capsys: pytest.CaptureFixture[str], given: str, message: str
) -> None:
    assert message in refused(capsys, "run", SLUG, "-p", given)
    name, _, value = given.partition("=")
    grid = f"seeds: [{value}]" if name == "seed" else f"product: {{{name}: [{value}]}}"
    chapter.write("plan.yaml", f"runs: [{{chapters: [{SLUG}], scale: smoke, {grid}}}]\n")
    assert message in refused(capsys, "batch", str(chapter.root / "plan.yaml"), "--dry-run")
    assert not (chapter.root / "runs").exists()


def test_data_of_parameters_out_of_range_are_not_fetched(chapter: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "fetch", "-p", "n_test=0"]) == 1
    assert "parameter 'n_test' must be > 0, got 0" in capsys.readouterr().err


def test_what_is_in_range_or_has_none_is_taken(chapter: Any) -> None:
    given = {"n_more": 0, "dropout": 0.0, "shift": -5.0, "sizes": [], "flags": [False], "lists": [-1]}
    given |= {"style": "code", "inputs": ["log1p", "batch sum"], "judge": "none given", "place": "there"}
    assert ranges.resolve(SLUG, "smoke", given) == {**ranges.resolve(SLUG, "smoke"), **given}


def test_a_value_of_another_scale_widens_what_is_usual(chapter: Any) -> None:
    chapter.write(f"notebooks/params/{SLUG}.paper.yaml", "scale: paper\nn_test: 0  # not stated; ours because ...\n")
    assert ranges.allowed(SLUG).numbers["n_test"] == ((">=", 0.0),)


@pytest.mark.parametrize("slug", project.chapters())
def test_no_chapter_takes_negative_sizes_or_rates_or_a_text_that_is_not_listed(slug: str) -> None:
    allowed = ranges.allowed(slug)
    assert {"seed"} < allowed.numbers.keys()
    for name in allowed.numbers:
        with pytest.raises(ranges.ParameterError, match=f"parameter '{name}' must be >"):
            ranges.check({name: -1}, allowed, slug)
    for name in allowed.texts:
        with pytest.raises(ranges.ParameterError, match=f"parameter '{name}' must be one of .*; got 'none of these'"):
            ranges.check({name: ["none of these"]}, allowed, slug)


def test_every_list_of_texts_is_read() -> None:
    """A comment with a bar lists what may be, or it would look as if it did."""
    barred = {
        (slug, name) for slug in project.chapters() for name, param in read_parameters(slug).items()
        if " | " in param.comment and name not in COMMON
    }  # fmt: skip
    assert barred == {(slug, name) for slug in project.chapters() for name in ranges.allowed(slug).texts}
