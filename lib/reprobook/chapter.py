"""The one object that a notebook talks to: it knows the run's scale, keeps what the run measures, and shows it."""

from __future__ import annotations

import functools
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprobook import facts as facts_module
from reprobook import params as params_module
from reprobook import record, show
from reprobook.errors import ReprobookError
from reprobook.project import check_scale, check_slug, root

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from matplotlib.figure import Figure

    from reprobook.data import ChapterData
    from reprobook.train import History

_PLACE = ("device", "out_dir")  # where a run happens; they don't say what it computes


def open_chapter(
    slug: str,
    *,
    scale: str,
    seed: int,
    out_dir: str | Path = "",
    device: str = "auto",
    params: Mapping[str, Any] | None = None,
) -> Chapter:
    """Open a chapter for one run: check parameters, make the output folder, seed Python, numpy and torch.

    ``params`` is the notebook's ``globals()``: the names that the parameters cell declares are kept and validated.
    ``out_dir`` empty: a fresh folder below ``runs/<slug>/adhoc``, whose checkpoints ``finish`` deletes. A given folder
    is kept, and training resumes from its checkpoints.
    """
    check_slug(slug)
    check_scale(scale)
    declared = params_module.read_parameters(slug)
    given = {"scale": scale, "seed": seed, "device": device, "out_dir": str(out_dir)}
    values = {**_declared_values(declared, params), **given}
    values = {name: params_module.check_value(declared[name], value) for name, value in values.items()}
    _quiet_progress_bars()
    from accelerate.utils import set_seed

    resolved = _device(device)
    set_seed(seed)
    show.style()
    return Chapter(slug, values, resolved, _folder(slug, scale, seed, out_dir), keep=bool(str(out_dir)))


def _declared_values(declared: Mapping[str, params_module.Param], params: Mapping[str, Any] | None) -> dict[str, Any]:
    if params is None:
        return {}
    missing = [name for name in declared if name not in params]
    if missing:
        raise params_module.ParameterError(f"{', '.join(missing)} not set: run the parameters cell first")
    return {name: params[name] for name in declared}


def _quiet_progress_bars() -> None:
    """Keep the bars of the Hugging Face libraries out of stored outputs, whether they are imported already or later."""
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    for name, switch in (
        ("huggingface_hub.utils", "disable_progress_bars"),
        ("datasets", "disable_progress_bars"),
        ("transformers.utils.logging", "disable_progress_bar"),
    ):
        if name in sys.modules:
            getattr(sys.modules[name], switch)()


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ReprobookError(
            f"device {name!r} is not available here; use 'auto', 'cpu' or, with a GPU, 'cuda:0'"
        ) from error
    return device


def _folder(slug: str, scale: str, seed: int, out_dir: str | Path) -> Path:
    if str(out_dir):
        folder = Path(out_dir).expanduser().resolve()
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    parent = root() / "runs" / slug / "adhoc"
    parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{scale}-seed{seed}-", dir=parent))


class Chapter:
    """One run of one chapter. Attributes: ``slug, scale, seed, params, device`` (torch), ``out_dir, facts, data``."""

    def __init__(self, slug: str, params: dict[str, Any], device: torch.device, out_dir: Path, keep: bool) -> None:
        self.slug, self.scale, self.seed, self.params = slug, params["scale"], params["seed"], params
        self.device, self.out_dir, self.facts = device, out_dir, facts_module.load(slug)
        self._keep, self._figures, self._start = keep, 0, time.monotonic()
        self._started = _now()
        self._metrics: dict[str, float] = {}
        self._tables: dict[str, record.TableData] = {}
        self._claims: dict[str, record.ClaimData] = {}

    def __repr__(self) -> str:
        return f"Chapter({self.slug}, {self.scale} scale, seed {self.seed})"

    @functools.cached_property
    def data(self) -> ChapterData:
        """The chapter's data sets and models, from its manifest."""
        from reprobook.data import ChapterData

        return ChapterData(self.slug, self.scale)

    def fit(self, name: str, model: torch.nn.Module, batches: Any, loss: Any, **options: Any) -> History:
        """Train ``model`` with :func:`reprobook.train.fit`; checkpoints go to ``checkpoints/<name>`` of this run."""
        from reprobook.train import fit

        if not name or Path(name).name != name:
            raise ReprobookError(f"fit: {name!r} cannot name a folder of checkpoints: use letters, digits, - and _")
        options = {"seed": self.seed, "device": self.device, **options}
        return fit(model, batches, loss, folder=self.out_dir / "checkpoints" / name, **options)

    # -------------------------------------------------------------------------------------------- what a run measures

    def metric(self, name: str, value: float) -> None:
        """Keep one number of this run; the same name again replaces it. NaN and infinity are stored as null."""
        try:
            self._metrics[str(name)] = float(value)
        except (TypeError, ValueError) as error:
            raise ReprobookError(f"metric {name!r} must be one number, got {type(value).__name__}") from error

    def table(
        self, name: str, frame: pd.DataFrame, *, paper_table: str | None = None, caption: str = "", display: bool = True
    ) -> None:
        """Keep a table of this run and show it, beside the paper's table if ``paper_table`` names one of the facts."""
        reported = self.facts.table(paper_table) if paper_table else None
        frame = show.flat(frame)
        rows = frame.astype(object).values.tolist()
        self._tables[name] = record.TableData(
            columns=list(frame.columns), rows=record.plain(rows), caption=caption, paper_table=paper_table
        )
        if not display:
            return
        ours = f"{caption or name} ({self._this_run()})"
        if reported is None:
            show.table(frame, ours)
        else:
            show.side_by_side(
                frame, self.facts.frame(str(paper_table)), (ours, f"Paper, {reported.where}: {reported.caption}")
            )

    def claim(self, cid: str, *, value: Mapping[str, float | None], holds: bool | None, note: str = "") -> None:
        """Keep what this run found about claim ``cid``: the numbers, and whether it holds (None: cannot tell)."""
        testable = self.scale in self.facts.claim(cid).testable_at
        held = None if holds is None or not testable else bool(holds)
        numbers = {str(key): None if number is None else float(number) for key, number in value.items()}
        self._claims[cid] = record.ClaimData(
            value=record.plain(numbers), holds=held, verdict=record.verdict([held]), note=note
        )
        if self.scale == "smoke":
            print(f"{cid} recorded; a smoke run is no evidence")
        else:
            print(f"{cid}: {'cannot be told' if held is None else 'holds' if held else 'does not hold'} in this run")

    def figure(self, fig: Figure, caption: str) -> None:
        """Show ``fig`` with a numbered caption (Markdown) and close it."""
        self._figures += 1
        show.figure(fig, f"**Figure {self._figures}.** {caption}" if caption.strip() else "")

    def source(self, *objects: Any) -> None:
        """Show the library's own source of the objects."""
        show.source(*objects)

    # -------------------------------------------------------------------------------------------- evidence

    def _this_run(self) -> str:
        return "smoke run, no evidence" if self.scale == "smoke" else f"{self.scale} scale, seed {self.seed}"

    @functools.cached_property
    def _committed(self) -> dict[str, list[record.Record]]:
        return {scale: record.results(self.slug, scale) for scale in ("laptop", "paper")}

    def evidence(self, name: str) -> pd.DataFrame | None:
        """Table ``name`` with a column ``seed``: at smoke scale from the committed laptop records, if there are any,
        else from this run. None if neither has it."""
        import pandas as pd

        found = (
            [(r.seed, r.tables[name]) for r in self._committed["laptop"] if name in r.tables]
            if self.scale == "smoke"
            else []
        )
        if not found and name in self._tables:
            found = [(self.seed, self._tables[name])]
        frames = [pd.DataFrame(table.rows, columns=table.columns).assign(seed=seed) for seed, table in found]
        return pd.concat(frames, ignore_index=True) if frames else None

    def evidence_label(self) -> str:
        """Where :meth:`evidence` comes from, for captions."""
        if self.scale != "smoke":
            return f"this {self.scale} run, seed {self.seed}"
        n = len(self._committed["laptop"])
        return f"laptop scale, {n} seed{'s' if n > 1 else ''}" if n else "this smoke run: no evidence"

    def _claim_records(self, cid: str) -> tuple[str, list[record.Record]]:
        """The largest scale with records that can tell about the claim, and those records, this run among them."""
        for scale in ("paper", "laptop"):
            records = list(self._committed[scale])
            if scale == self.scale:
                others = [r for r in records if r.seed != self.seed]
                records = sorted([*others, self._running()], key=lambda r: r.seed)
            if scale in self.facts.claims[cid].testable_at and any(cid in r.claims for r in records):
                return scale, [r for r in records if cid in r.claims]
        return "", []

    def _running(self) -> record.Record:
        """This run as far as it has come: its claims, without the circumstances that only :meth:`finish` asks for."""
        return record.Record.model_validate(
            {
                "slug": self.slug,
                "scale": self.scale,
                "seed": self.seed,
                "run_id": "",
                "status": "running",
                "claims": self._claims,
            }
        )

    # -------------------------------------------------------------------------------------------- tables of facts

    def facts_table(self) -> None:
        """Show which paper this is: title, authors, versions, code, licences."""
        rows = [
            (show.Html(f"<strong>{label}</strong>"), show.link(text) if label == "arXiv" else text)
            for label, text in self.facts.identity()
        ]
        show.table(_frame(rows, ["", "The paper"]))

    def claims_in_paper(self) -> None:
        """Show the paper's claims, its figures for them, and what the chapter tests."""
        rows = [(cid, c.says, _figures(c.paper), c.where, c.how, c.testable_at) for cid, c in self.facts.claims.items()]
        show.table(_frame(rows, ["Claim", "The paper says", "Its figures", "Where", "What we test", "Testable at"]))

    def provenance(self) -> None:
        """Show every knob with its value at each scale and where the paper's value comes from."""
        rows = params_module.provenance(self.slug)
        names = {
            "name": "Parameter",
            "smoke": "smoke",
            "laptop": "laptop",
            "paper": "paper",
            "source": "Meaning and source",
        }
        show.table(_frame([[_value(row[key]) for key in names] for row in rows], list(names.values())))

    def coverage(self) -> None:
        """Show every part of the paper and the scales at which the chapter has it."""
        rows = [(part.part, part.scales or "not covered", part.note) for part in self.facts.coverage]
        show.table(_frame(rows, ["Part of the paper", "Scales", "Note"]))

    def data_table(self) -> None:
        """Show the manifest rows that this scale uses."""
        show.table(self.data.table())

    def claims_table(self) -> None:
        """Show the verdict on each claim, from the best records there are; a smoke run adds nothing to it."""
        columns = ["Claim", "The paper says", "Its figures", "Ours (mean ± sd)", "Verdict", "Evidence", "State"]
        show.table(_frame([self._claim_row(cid) for cid in self.facts.claims], columns))

    def _claim_row(self, cid: str) -> tuple[Any, ...]:
        claim = self.facts.claims[cid]
        scale, records = self._claim_records(cid)
        summary = record.summarise_claim(records, cid)
        evidence = f"{scale} scale, holds in {summary['holds']} of {summary['n']} runs" if records else "no run yet"
        return (
            cid,
            claim.says,
            _figures(claim.paper),
            _means(summary["value"]),
            show.chip(summary["verdict"]),
            evidence,
            self._state(records),
        )

    def _state(self, records: list[record.Record]) -> str:
        from reprobook.runs.content import staleness

        reasons = sorted({reason for r in records if r.status == "complete" for reason in staleness(r)})
        if not records:
            return "never run"
        return f"stale: {'; '.join(reasons)}" if reasons else "current"

    # -------------------------------------------------------------------------------------------- the end

    def finish(self) -> None:
        """Write ``record.json`` and print one stable line. At smoke scale with the declared defaults the metrics must
        agree with ``notebooks/expected/<slug>.json``. Raises :class:`ReprobookError` if a claim was never recorded,
        if there is no metric, or if metrics disagree."""
        missing = [cid for cid in self.facts.claims if cid not in self._claims]
        if missing or not self._metrics:
            raise ReprobookError(
                f"nothing recorded for {', '.join(missing) or 'any metric'}: call ch.claim and ch.metric first"
            )
        complete = self._record()
        line = self._smoke_line(complete.metrics) if self.scale == "smoke" else self._count_line()
        record.write(complete, self.out_dir / "record.json")
        if not self._keep:
            shutil.rmtree(self.out_dir / "checkpoints", ignore_errors=True)
        print(line)

    def _count_line(self) -> str:
        return f"{self.scale} run recorded: {len(self._metrics)} metrics, {len(self._claims)} claims"

    def _smoke_line(self, metrics: Mapping[str, float | None]) -> str:
        n, expected = len(metrics), record.expected(self.slug)
        declared = params_module.read_parameters(self.slug)
        changed = [
            name for name, value in self.params.items() if name not in _PLACE and value != declared[name].default
        ]
        if changed:
            return f"smoke metrics: {n} recorded, not compared: {', '.join(changed)} changed"
        if expected is None:
            return f"smoke metrics: {n} recorded, none expected yet"
        wrong = [] if os.environ.get("REPROBOOK_REFRESH") == "1" else record.compare(metrics, expected)
        if wrong:
            listing = "\n  ".join(str(mismatch) for mismatch in wrong)
            raise ReprobookError(
                f"{len(wrong)} smoke metrics are not as in notebooks/expected/{self.slug}.json:\n  {listing}"
            )
        return f"smoke metrics: {n} of {n} within tolerance"

    def _record(self) -> record.Record:
        from reprobook.runs.content import content_key, run_id

        params = {name: value for name, value in self.params.items() if name != "out_dir"}
        checksums = self.data.checksums()
        content = content_key(self.slug, params, checksums)
        commit, clean = record.commit()
        return record.Record.model_validate({
            "slug": self.slug, "scale": self.scale, "seed": self.seed, "status": "complete", "params": params,
            "run_id": run_id(self.slug, self.scale, self.seed, params, content), "content": content, "data": checksums,
            "metrics": self._metrics, "tables": self._tables, "claims": self._claims,
            "seeds": {"python": self.seed, "numpy": self.seed, "torch": self.seed},
            "versions": record.versions(), "commit": commit, "clean": clean, "hardware": record.hardware(),
            "started": self._started, "ended": _now(),
            "wall_s": round(time.monotonic() - self._start, 1), "peak_memory_mb": record.peak_memory_mb(),
        })  # fmt: skip


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _frame(rows: list[Any], columns: list[str]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame([list(row) for row in rows], columns=columns, dtype=object)


def _value(value: Any) -> str:
    return (
        "none"
        if value is None
        else "(empty)"
        if value == ""
        else f"{value:g}"
        if isinstance(value, float)
        else show._sequence(value)
    )


def _number(value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _figures(values: Mapping[str, Any]) -> str:
    return "; ".join(f"{label}: {_number(value)}" for label, value in values.items())


def _means(values: Mapping[str, Mapping[str, Any]]) -> str:
    """``L4: 1.92 ± 0.01`` per key, with the decimals that the spread supports; n where it is below the others' n."""
    parts = []
    for label, spread in values.items():
        if spread["mean"] is None or spread["sd"] is None:
            parts.append(f"{label}: {_number(spread['mean'])}")
            continue
        decimals = max(0, 1 - math.floor(math.log10(spread["sd"]))) if spread["sd"] > 0 else 3
        decimals = min(decimals, 5)
        parts.append(f"{label}: {spread['mean']:.{decimals}f} ± {spread['sd']:.{decimals}f} (n = {spread['n']})")
    return "; ".join(parts)
