"""The one object that a notebook talks to: it knows the run's scale, keeps what the run measures, and shows it."""

from __future__ import annotations

import functools
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reprobook import facts as facts_module
from reprobook import record, show
from reprobook.chapter import setup, tables
from reprobook.errors import ReprobookError
from reprobook.evidence import claims as evidence_module
from reprobook.evidence.effects import measure, scores_of
from reprobook.project import atomic_write, check_packages, check_scale, check_slug

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch
    from matplotlib.figure import Figure

    from reprobook.bench import Comparison
    from reprobook.data import ChapterData
    from reprobook.train import History

__all__ = ["Chapter", "open_chapter"]


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
    check_packages(slug)
    given = {"scale": scale, "seed": seed, "device": device, "out_dir": str(out_dir)}
    values = setup.parameters(slug, given, params)
    facts = facts_module.load(slug)
    resolved = setup.open_device(device)
    setup.quiet_progress_bars()
    from accelerate.utils import set_seed

    set_seed(seed)
    show.style()
    folder = setup.open_folder(slug, scale, seed, values["out_dir"])
    return Chapter(slug, facts, values, resolved, folder)


class Chapter:
    """One run of one chapter. Attributes: ``slug, scale, seed, params, device`` (torch), ``out_dir, facts, data``."""

    def __init__(
        self, slug: str, facts: facts_module.Facts, params: dict[str, Any], device: torch.device, out_dir: Path
    ) -> None:
        self.slug, self.scale, self.seed = slug, params["scale"], params["seed"]
        self.params, self.facts, self.device, self.out_dir = params, facts, device, out_dir
        self._started, self._start, self._figures = _now(), time.monotonic(), 0
        self._earlier_s = 0.0  # training in attempts that were interrupted
        self._seeds_drawn: int | None = None  # records behind the table that `evidence` gave last
        self._metrics: dict[str, float] = {}
        self._tables: dict[str, record.TableData] = {}
        self._claims: dict[str, record.ClaimData] = {}
        self._effects: dict[str, record.EffectData] = {}
        self._scores: dict[str, dict[str, np.ndarray]] = {}
        self._pictures: dict[str, record.PictureData] = {}

    def __repr__(self) -> str:
        return f"Chapter({self.slug}, {self.scale} scale, seed {self.seed})"

    @functools.cached_property
    def data(self) -> ChapterData:
        """The chapter's data sets and models, from its manifest."""
        from reprobook.data import ChapterData

        return ChapterData(self.slug, self.scale, self.params)

    def fit(
        self, name: str, model: torch.nn.Module, batches: Callable[[int], Any], loss: Any, **options: Any
    ) -> History:
        """Train ``model`` with :func:`reprobook.train.fit`; checkpoints go to ``checkpoints/<name>`` of this run."""
        from reprobook.train import fit

        if not name or Path(name).name != name:
            raise ReprobookError(f"fit: {name!r} cannot name a folder of checkpoints: leave out slashes")
        options = {"seed": self.seed, "device": self.device, **options}
        begin = time.monotonic()
        history = fit(model, batches, loss, folder=self.out_dir / "checkpoints" / name, **options)
        self._earlier_s += max(0.0, history.seconds - (time.monotonic() - begin))
        return history

    # ------------------------------------------------------------------------------------- what a run measures

    def metric(self, name: str, value: float) -> None:
        """Keep one number of this run; the same name again replaces it. NaN and infinity are stored as null."""
        try:
            self._metrics[str(name)] = float(value)
        except (TypeError, ValueError, RuntimeError) as error:  # torch refuses several elements with RuntimeError
            raise ReprobookError(f"metric {name!r} must be one number, got {type(value).__name__}") from error

    def compare(
        self, name: str, a: Any, b: Any, *, unit: str, over: str, keys: Sequence[Any] | None = None,
        groups: Sequence[Any] | None = None, kind: Literal["difference", "ratio"] = "difference",
    ) -> None:  # fmt: skip
        """Keep a paired effect: mean of ``a - b``, or ``mean(a) / mean(b)``, with its interval.

        ``a`` and ``b``: (n,) scores of the same units, in ``unit`` ("accuracy"); ``over`` says what a unit is ("test
        question"). ``keys``: names of units that other seeds have too; None: every seed has its own. ``groups``:
        labels of units that are not independent (turns of one conversation); the error is taken over groups."""
        self._effect(name, kind, a, b, unit, over, keys, groups)

    def effect(
        self, name: str, values: Any, *, unit: str, over: str, keys: Sequence[Any] | None = None,
        groups: Sequence[Any] | None = None,
    ) -> None:  # fmt: skip
        """Keep the mean of ``values`` (n,), a score per unit, with its interval; see :meth:`compare`. A slope over
        conditions: one slope per unit."""
        self._effect(name, "mean", values, None, unit, over, keys, groups)

    def exact(self, name: str, value: float, *, unit: str) -> None:
        """Keep an effect without error: an identity, a count, a formula. It is decided as it is."""
        number = float(value)
        estimate = number if math.isfinite(number) else None
        self._new_effect(name, record.EffectData(kind="exact", estimate=estimate, unit=unit))

    def _effect(
        self, name: str, kind: Literal["mean", "difference", "ratio"], a: Any, b: Any, unit: str, over: str, keys: Any,
        groups: Any,
    ) -> None:  # fmt: skip
        scores = scores_of(name, a, b, keys, groups)
        self._new_effect(name, measure(kind, scores, unit=unit, over=over, shared=keys is not None))
        self._scores[name] = scores

    def _new_effect(self, name: str, effect: record.EffectData) -> None:
        if "/" in name or not name.strip():
            raise ReprobookError(f"effect {name!r}: give it a name without slashes")
        self._effects[name] = effect

    def effects_table(self, *names: str, caption: str = "Effects") -> None:
        """Show the named effects (default: those that the plan names and this run has), pooled over the committed
        records where there are any."""
        planned = [name for name in self.facts.effects_at(self.scale) if self.scale == "smoke" or name in self._effects]
        wanted = names or tuple(planned) or tuple(self._effects)
        records = self._committed["laptop"] if self.scale == "smoke" else []
        show.table(tables.effects(self._effects, wanted, records), f"{caption} ({self._where(wanted, records)})")

    def _where(self, wanted: Sequence[str], records: Sequence[record.Record]) -> str:
        k = sum(any(name in r.effects for name in wanted) for r in records)
        return f"laptop scale, {k} seed{'s' if k > 1 else ''}, 95 % intervals" if k else self._this_run()

    def bench(self, name: str, found: Comparison, caption: str = "") -> None:
        """Keep and show a comparison of speed (:mod:`reprobook.bench`). Seconds of a machine: a table, never a test."""
        self.table(name, found.frame(), key=["way"], caption=caption or name)

    def recomputed(self, name: str, frame: pd.DataFrame, *, key: Sequence[str], caption: str) -> None:
        """Keep and show what can be recomputed from the paper's own figures; it is the same in every run."""
        self._keep_table(name, frame, caption, None, key)
        show.table(frame, f"{caption} (recomputed from the paper's figures)")

    def picture(self, name: str, data: Any, caption: str, *, alt: str) -> None:
        """Keep a sample as a file beside the record and show it: a matplotlib figure, an array (H, W[, 3]) of floats in
        [0, 1] or bytes of a PNG or MP4 file. A smoke run shows the committed one of the first laptop seed, if any."""
        image = show.image_bytes(data)
        file = f"{name}.{'png' if image[:4] == show.PNG_SIGNATURE else 'mp4'}"
        self._pictures[name] = record.PictureData(file=file, caption=caption, alt=alt)
        atomic_write(self.out_dir / "pictures" / file, image)
        self._show_picture(name, image, caption, alt)

    def _show_picture(self, name: str, image: bytes, caption: str, alt: str) -> None:
        found = self._committed_picture(name) or (image, self._this_run())
        show.picture(found[0], self._numbered(f"{caption} ({found[1]})"), alt)

    def _committed_picture(self, name: str) -> tuple[bytes, str] | None:
        """In a smoke run: the picture of the first committed laptop seed, if there is one, and what to call it."""
        found = [r for r in self._committed["laptop"] if name in r.pictures] if self.scale == "smoke" else []
        if not found:
            return None
        path = record.result_path(self.slug, "laptop", found[0].seed)
        image = path.with_name(f"{path.stem}.{found[0].pictures[name].file}").read_bytes()
        return image, f"laptop scale, seed {found[0].seed}"

    def say(self, text: str) -> None:
        """Show ``text`` (Markdown) with figures from the records: ``{gain}`` becomes the effect *gain* with its
        interval, ``{gain:.2f}`` its estimate alone. At smoke scale without records it says so in their place."""
        records = self._committed["laptop"] if self.scale == "smoke" else []
        show.markdown(tables.filled(text, self._effects, records))

    def _keep_table(
        self, name: str, frame: pd.DataFrame, caption: str, paper_table: str | None, key: Sequence[str]
    ) -> None:
        rows = record.plain(frame.astype(object).values.tolist())
        try:
            self._tables[name] = record.TableData(
                columns=list(frame.columns), rows=rows, caption=caption, paper_table=paper_table, key=list(key)
            )
        except ValueError as error:
            raise ReprobookError(f"table {name!r}: {' '.join(str(error).split())}") from error

    def table(
        self, name: str, frame: pd.DataFrame, *, key: Sequence[str] = (), paper_table: str | None = None,
        caption: str = "", display: bool = True,
    ) -> None:  # fmt: skip
        """Keep a table of this run and show it, beside the paper's table if ``paper_table`` names one of the facts.

        ``key``: the columns that name a row; rows of several seeds are matched by them. A smoke run shows the committed
        laptop records in its place, over their seeds, as soon as there are any; in a JupyterLab session it shows both,
        so that a reader who moves a parameter sees what it does."""
        frame = show.flat(frame)
        if self.facts.judged and len(frame) > 1 and not key:
            raise ReprobookError(f"table {name!r}: name the columns that tell its {len(frame)} rows apart, key=[...]")
        if paper_table:
            self.facts.table(paper_table)  # an unknown name is an error
        self._keep_table(name, frame, caption, paper_table, key)
        if display:
            self._show_table(name, frame, caption, paper_table)

    def _show_table(self, name: str, frame: pd.DataFrame, caption: str, paper_table: str | None) -> None:
        committed = self._committed["laptop"] if self.scale == "smoke" else []
        ours = (frame, f"{caption or name} ({self._this_run()})")
        recorded = tables.recorded(name, caption, committed)
        show.beside(tables.pages(ours, recorded), tables.reported(self.facts, paper_table))

    def claim(self, cid: str, *, value: Mapping[str, float | None], holds: bool | None, note: str = "") -> None:
        """Keep what this run found about claim ``cid``: the numbers, and whether it holds (None: cannot tell)."""
        testable = self.scale in self.facts.claim(cid).testable_at
        if holds is not None and type(holds).__name__ not in ("bool", "bool_"):
            raise ReprobookError(f"claim {cid}: holds must be True, False or None, got {holds!r}")
        held = bool(holds) if testable and holds is not None else None
        try:
            numbers = {str(key): None if each is None else float(each) for key, each in value.items()}
        except (TypeError, ValueError, RuntimeError) as error:
            raise ReprobookError(f"claim {cid}: value must hold one number per key, got {value!r}") from error
        self._claims[cid] = record.ClaimData(
            value=record.plain(numbers), holds=held, verdict=record.verdict([held]), note=note
        )
        if self.scale == "smoke":
            print(f"{cid} recorded; a smoke run is no evidence")
        else:
            print(f"{cid} {'cannot be told' if held is None else 'holds' if held else 'does not hold'} in this run")

    def figure(self, fig: Figure, caption: str) -> None:
        """Show ``fig`` with a numbered caption (Markdown) and close it."""
        show.figure(fig, self._numbered(caption))

    def explore(self, draw: Callable[..., Figure], caption: str, start: Mapping[str, Any], **controls: Any) -> None:
        """A figure that a JupyterLab user can move; elsewhere it stands still. See :func:`reprobook.show.explore`."""
        show.explore(draw, self._numbered(caption), start, **controls)

    def _numbered(self, caption: str) -> str:
        if not caption.strip():
            raise ReprobookError("a figure needs a caption that says what to see in it")
        self._figures += 1
        return f"**Figure {self._figures}.** {caption}"

    def source(self, *objects: Any) -> None:
        """Show the library's own source of the objects."""
        show.source(*objects)

    # ------------------------------------------------------------------------------------- evidence

    def _this_run(self) -> str:
        return "smoke run, no evidence" if self.scale == "smoke" else f"{self.scale} scale, seed {self.seed}"

    @functools.cached_property
    def _committed(self) -> dict[str, list[record.Record]]:
        return {scale: record.results(self.slug, scale) for scale in ("laptop", "paper")}

    def evidence(self, name: str) -> pd.DataFrame | None:
        """Table ``name`` with a column ``seed``: at smoke scale from the committed laptop records, if there are any,
        else from this run. None if neither has it."""
        import pandas as pd

        found = []
        if self.scale == "smoke":
            found = [(r.seed, r.tables[name]) for r in self._committed["laptop"] if name in r.tables]
        if not found and name in self._tables:
            found = [(self.seed, self._tables[name])]
        self._seeds_drawn = len(found)
        frames = [pd.DataFrame(table.rows, columns=table.columns).assign(seed=seed) for seed, table in found]
        return pd.concat(frames, ignore_index=True) if frames else None

    def evidence_label(self) -> str:
        """Where the table that :meth:`evidence` gave last comes from, for captions: the records that hold it count."""
        if self.scale != "smoke":
            return f"this {self.scale} run, seed {self.seed}"
        n = len(self._committed["laptop"]) if self._seeds_drawn is None else self._seeds_drawn
        there = self._committed["laptop"] and n
        return f"laptop scale, {n} seed{'s' if n > 1 else ''}" if there else "this smoke run: no evidence"

    def evidence_figure(self, draw: Callable[..., Figure], *names: str, caption: str) -> None:
        """Show what ``draw`` makes of the tables ``names``, each as :meth:`evidence` gives it; nothing where no run has
        one of them. ``{evidence}`` in the caption becomes :meth:`evidence_label`.

        Into a figure of committed records a smoke run is drawn as crosses if its parameters were changed or a person
        works in JupyterLab; where nothing can be laid over the figure, the run's own stands below."""
        found = [self.evidence(name) for name in names]
        told = caption.replace("{evidence}", self.evidence_label())
        changed = setup.changed(self.slug, self.params)
        this = f"this run{f' with {show.joined(changed)} changed' if changed else ''} ({self._this_run()})"
        own = self._own(names) if changed or show.interactive() else None
        show.with_run(draw, found, own, told, this, self._numbered)

    def _own(self, names: Sequence[str]) -> list[pd.DataFrame] | None:
        """In a smoke run of a chapter with records: its own tables ``names``; None if it did not keep all of them."""
        import pandas as pd

        held = [self._tables[name] for name in names if name in self._tables and self._tables[name].rows]
        if self.scale != "smoke" or not self._committed["laptop"] or len(held) < len(names):
            return None
        return [pd.DataFrame(table.rows, columns=table.columns).assign(seed=self.seed) for table in held]

    def _speaking(self, changed: list[str]) -> dict[str, list[record.Record]]:
        """Scale -> the records that count: the committed ones and this run; with changed parameters this run alone."""
        if self.scale == "smoke":
            return self._committed
        content = {
            "slug": self.slug, "scale": self.scale, "seed": self.seed, "claims": self._claims, "effects": self._effects
        }  # fmt: skip
        this = record.Record.model_validate({**content, "run_id": "", "status": "running"})
        if changed:
            return {self.scale: [this]}
        others = [r for r in self._committed[self.scale] if r.seed != self.seed]
        return {**self._committed, self.scale: sorted([*others, this], key=lambda r: r.seed)}

    # ------------------------------------------------------------------------------------- tables of facts

    def plan_table(self) -> None:
        """Show the tests and controls of every claim, fixed before the runs."""
        show.table(tables.plan(self.facts), "Tests and controls, fixed before the runs")

    def facts_table(self) -> None:
        """Show which paper this is: title, authors, versions, code, licences."""
        show.table(tables.identity(self.facts))

    def claims_in_paper(self) -> None:
        """Show the paper's claims, its figures for them, and what the chapter tests."""
        show.table(tables.claims_in_paper(self.facts), "Claims of the paper")

    def provenance(self) -> None:
        """Show every knob with its value at each scale and where the paper's value comes from."""
        show.table(tables.provenance(self.slug), "Parameters at each scale")

    def coverage(self) -> None:
        """Show every part of the paper and the scales at which the chapter has it."""
        show.table(tables.coverage(self.facts), "Coverage of the paper")

    def data_table(self) -> None:
        """Show the manifest rows that this scale uses."""
        show.table(self.data.table(), f"Data and models at {self.scale} scale")

    def claims_table(self) -> None:
        """Show the verdict on each claim, from the best records there are; a smoke run adds nothing to it."""
        changed = [name for name in setup.changed(self.slug, self.params) if name != "seed"]
        records = self._speaking(changed)
        found = [
            evidence_module.evidence(cid, claim, records, self._scores) for cid, claim in self.facts.claims.items()
        ]
        note = f" with {', '.join(changed)} changed" if changed and self.scale != "smoke" else ""
        show.table(tables.claims(self.facts, found, note), "Verdicts")

    # ------------------------------------------------------------------------------------- the end

    def finish(self) -> None:
        """Write ``record.json`` and print one stable line. At smoke scale with the declared defaults the metrics must
        agree with ``notebooks/expected/<slug>.json``. Raises :class:`ReprobookError` if a claim was never recorded,
        if there is no metric, or if metrics disagree."""
        missing = [] if self.facts.judged else [cid for cid in self.facts.claims if cid not in self._claims]
        if missing or not self._metrics:
            what = ", ".join(missing) or "any metric"
            raise ReprobookError(f"nothing recorded for {what}: call ch.claim and ch.metric before ch.finish")
        evidence_module.check_effects(self.facts, self.scale, self._effects)
        complete = self._record()
        line = self._smoke_line(complete.metrics) if self.scale == "smoke" else self._count_line()
        if self._scores:
            record.write_scores(self._scores, self.out_dir / "record.json")
        record.write(complete, self.out_dir / "record.json")
        if not self.params["out_dir"]:
            shutil.rmtree(self.out_dir / "checkpoints", ignore_errors=True)
        print(line)

    def _count_line(self) -> str:
        found = f"{len(self._claims)} claims" if self._claims else f"{len(self._effects)} effects"
        return f"{self.scale} run recorded: {len(self._metrics)} metrics, {found}"

    def _smoke_line(self, metrics: Mapping[str, float | None]) -> str:
        n, expected, changed = len(metrics), record.expected(self.slug), setup.changed(self.slug, self.params)
        if changed:
            return f"smoke metrics: {n} recorded, not compared: {', '.join(changed)} changed"
        if expected is None:
            return f"smoke metrics: {n} recorded, none expected yet"
        refreshing = os.environ.get("REPROBOOK_REFRESH") == "1"  # the expected values are about to be replaced
        wrong = [] if refreshing else record.compare(metrics, expected)
        if wrong:
            listing = "\n  ".join(str(mismatch) for mismatch in wrong)
            where = f"notebooks/expected/{self.slug}.json"
            raise ReprobookError(f"{len(wrong)} smoke metrics are not as in {where}:\n  {listing}")
        return f"smoke metrics: {n} of {n} within tolerance"

    def _record(self) -> record.Record:
        from reprobook.content.key import content_key, run_id

        params = {name: value for name, value in self.params.items() if name != "out_dir"}
        checksums = self.data.available()
        content = content_key(self.slug, params, checksums)
        commit, clean = record.commit()
        return record.Record.model_validate({
            "slug": self.slug, "scale": self.scale, "seed": self.seed, "status": "complete", "params": params,
            "run_id": run_id(self.slug, self.scale, self.seed, params, content), "content": content, "data": checksums,
            "metrics": self._metrics, "tables": self._tables, "claims": self._claims,
            "effects": self._effects, "pictures": self._pictures, "schema_version": 2 if self._effects else 1,
            "seeds": {"python": self.seed, "numpy": self.seed, "torch": self.seed},
            "versions": record.versions(), "commit": commit, "clean": clean, "hardware": record.hardware(),
            "started": self._started, "ended": _now(),
            "wall_s": round(time.monotonic() - self._start + self._earlier_s, 1),
            "peak_memory_mb": record.peak_memory_mb(),
        })  # fmt: skip


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
