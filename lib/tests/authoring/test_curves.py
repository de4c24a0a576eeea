"""Learning curves: what a published run keeps of its fits, and what the page of its chapter shows of them."""

from __future__ import annotations

import io
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch
from bs4 import BeautifulSoup
from reprobook import record
from reprobook.authoring import curves
from reprobook.authoring.page import as_page
from reprobook.authoring.standing import standing
from reprobook.record import Record
from reprobook.train import fit

SLUG = "stasc"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run that fitted one weight to 2 with 100 updates, each logged, and looked at it twice."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    fit(
        model, lambda _: torch.ones(1, 1), lambda m, x: ((m(x) - 2) ** 2).mean(), num_steps=100, lr=0.05, log_every=1,
        folder=tmp_path / "checkpoints" / "one weight", evaluate=lambda m, _: {"weight": m.weight.item()},
        evaluate_every=50, device="cpu",
    )  # fmt: skip
    return tmp_path


def test_losses_and_evaluations_are_kept_long_curves_as_means(folder: Path) -> None:
    frame = pd.read_csv(io.StringIO(curves.kept(folder)))
    assert list(frame.columns) == ["fit", "measure", "step", "value"] and set(frame["fit"]) == {"one weight"}
    loss, weight = (frame[frame["measure"] == name] for name in ("loss", "evaluated: weight"))
    assert len(loss) == curves.POINTS and loss["step"].iloc[-1] == 100 and loss["step"].is_monotonic_increasing
    history = torch.load(folder / "checkpoints" / "one weight" / "finished.pt", weights_only=True)["history"]["rows"]
    first = [row["loss"] for row in history if row["step"] <= loss["step"].iloc[0]]
    assert loss["value"].iloc[0] == pytest.approx(sum(first) / len(first), rel=1e-3)
    assert weight["step"].tolist() == [50, 100] and weight["value"].iloc[1] == pytest.approx(2, abs=0.1)


def test_a_run_that_trained_nothing_keeps_nothing(tmp_path: Path) -> None:
    assert curves.kept(tmp_path) == ""


def test_the_page_has_a_line_for_each_seed_at_the_end_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chapter = standing(SLUG)
    notebook = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_markdown_cell(text) for text in ("# Title", "## Training", "## Evaluation\n\nProse.")
    ])  # fmt: skip
    assert [cell.source[:8] for cell in as_page(notebook, chapter)[0].cells][2:] == ["## Train", "## Evalu"]
    monkeypatch.setattr(record, "result_path", lambda slug, scale, seed: tmp_path / f"{slug}.seed{seed}.json")
    for seed, losses in enumerate([(8.0, 4.0, 2.0, 2.0), (6.0, 4.0, 3.0, 2.0)]):
        rows = "".join(f'"a, <b>",loss,{25 * (k + 1)},{loss}\n' for k, loss in enumerate(losses))
        (tmp_path / f"{SLUG}.seed{seed}.curves.csv").write_text(f"fit,measure,step,value\n{rows}")
    shown = as_page(notebook, chapter)[0].cells[3].source
    assert "\n\n" not in shown, "a blank line would end the HTML"
    soup = BeautifulSoup(shown, "html.parser")
    assert soup.summary and soup.summary.text == "Learning curves (2 runs)" and len(soup.find_all("polyline")) == 2
    assert [cell.text for cell in soup.find_all("td")] == ["a, <b>", "loss", "100", "", "7", "2", "0 %"]


def test_a_curve_that_still_falls_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "result_path", lambda slug, scale, seed: tmp_path / f"{slug}.seed{seed}.json")
    rows = "".join(f"a,loss,{step},{10 - step}\n" for step in range(1, 11))
    (tmp_path / "x.seed3.curves.csv").write_text(f"fit,measure,step,value\n{rows}")
    run = Record(slug="x", scale="laptop", seed=3, run_id="", status="complete")
    assert BeautifulSoup(curves.drawn([run]), "html.parser").find_all("td")[-1].text == "22 %"
