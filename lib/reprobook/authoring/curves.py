"""Learning curves of published runs: kept from their checkpoints at publication, drawn on the chapter's page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprobook import record, show
from reprobook.authoring.scoreboard import html_rows

if TYPE_CHECKING:
    import pandas as pd

    from reprobook.record import Record

POINTS, MOST = 40, 2400  # of a curve, of all curves of a run together
_WIDTH, _HEIGHT = 180, 36  # of a drawing, in pixels
_SAID = (
    "A line is a seed: its training or evaluation from the first update to the last, between the least and the largest "
    "value; figures are means over seeds. <em>In the last fifth</em> of the updates came this part of the whole change."
)


def kept(folder: Path) -> str:
    """CSV with columns fit, measure, step, value: the loss and the evaluations of every fit whose checkpoint is in
    ``folder``/checkpoints, long curves as means over equal parts. Empty for a run without one."""
    import numpy as np
    import pandas as pd

    frame = pd.DataFrame(_logged(folder / "checkpoints"), columns=["fit", "measure", "step", "value"]).dropna()
    curves = [curve for _, curve in frame.groupby(["fit", "measure"], sort=False)]
    points = max(8, min(POINTS, MOST // max(1, len(curves))))
    for k, curve in enumerate(curves):
        part = np.arange(len(curve)) * min(points, len(curve)) // len(curve)
        curves[k] = curve.groupby(part).agg({"fit": "last", "measure": "last", "step": "last", "value": "mean"})
    return pd.concat(curves).to_csv(index=False, float_format="%.4g") if curves else ""


def _logged(checkpoints: Path) -> Iterator[tuple[str, str, int, float]]:
    import torch

    for file in sorted(checkpoints.rglob("finished.pt")):  # of `reprobook.train.fit`
        history = torch.load(file, map_location="cpu", weights_only=True, mmap=True)["history"]  # weights stay on disk
        fit = file.parent.relative_to(checkpoints).as_posix()
        yield from ((fit, "loss", int(row["step"]), row["loss"]) for row in history["rows"])
        for row in history["eval_rows"]:
            yield from ((fit, f"evaluated: {key}", int(row["step"]), row[key]) for key in row if key != "step")


def drawn(records: Sequence[Record]) -> str:
    """HTML, folded: a row for each curve of these runs, a line for each seed; empty if none of them kept any."""
    import pandas as pd

    paths = [record.result_path(each.slug, each.scale, each.seed) for each in records]
    files = [file for path in paths if (file := path.with_name(f"{path.stem}.curves.csv")).is_file()]
    if not files:
        return ""
    frame = pd.concat([pd.read_csv(file).assign(run=file.name) for file in files])
    rows = [
        [*name, *_row(", ".join(map(str, name)), curve)]
        for name, curve in frame.groupby(["fit", "measure"], sort=False)
    ]
    table = html_rows(["Fit", "Measure", "Updates", "Curve", "First", "Last", "In the last fifth"], rows)
    n = f"{len(files)} run{'s' if len(files) > 1 else ''}"
    return f"<details class='rb-curves'><summary>Learning curves ({n})</summary>\n{table}\n<p>{_SAID}</p></details>"


def _row(name: str, curves: pd.DataFrame) -> list[Any]:
    """Updates, drawing, first and last value, and the part of the change that came late."""
    low, last = curves["value"].min(), curves["step"].max()
    x, y = _WIDTH / last, (_HEIGHT - 4) / ((curves["value"].max() - low) or 1.0)
    seeds = [seed for _, seed in curves.groupby("run")]
    lines = "".join(
        '<polyline points="'
        + " ".join(f"{x * row.step:.0f},{_HEIGHT - 2 - y * (row.value - low):.1f}" for row in seed.itertuples())
        + '"/>'
        for seed in seeds
    )
    look = f'role="img" aria-label="{escape(name, quote=True)}" width="{_WIDTH}" height="{_HEIGHT}"'
    begin, before, end = (
        sum(seed.loc[seed["step"] >= share * seed["step"].max(), "value"].iloc[0] for seed in seeds) / len(seeds)
        for share in (0.0, 0.8, 1.0)
    )
    part = f"{100 * (before - end) / (begin - end):.0f} %" if begin != end else "–"
    return [int(last), show.Html(f"<svg {look}>{lines}</svg>"), begin, end, part]
