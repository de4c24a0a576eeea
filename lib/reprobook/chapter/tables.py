"""The tables that a chapter shows about its paper, as frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from reprobook import params as params_module
from reprobook import show
from reprobook.record.evidence import Evidence, state

if TYPE_CHECKING:
    import pandas as pd

    from reprobook.facts import Claim, Facts


def identity(facts: Facts) -> pd.DataFrame:
    """Which paper this is: title, authors, versions, code, licences."""
    rows = []
    for label, text in facts.identity():
        rows.append((show.Html(f"<strong>{label}</strong>"), show.link(text) if label == "arXiv" else text))
    return _frame(rows, ["", "The paper"])


def claims_in_paper(facts: Facts) -> pd.DataFrame:
    """The paper's claims, its figures, and what the chapter tests."""
    rows = [(cid, c.says, _figures(c), c.where, c.how, c.testable_at) for cid, c in facts.claims.items()]
    return _frame(rows, ["Claim", "The paper says", "Its figures", "Where", "What we test", "Testable at"])


def coverage(facts: Facts) -> pd.DataFrame:
    """Every part of the paper and the scales at which the chapter has it."""
    rows = [(part.part, part.scales or "not covered", part.note) for part in facts.coverage]
    return _frame(rows, ["Part of the paper", "Scales", "Note"])


def provenance(slug: str) -> pd.DataFrame:
    """Every knob, its value at each scale, and where the paper's value comes from."""
    keys = ("name", "smoke", "laptop", "paper")
    rows = [[*(_value(row[key]) for key in keys), row["source"]] for row in params_module.provenance(slug)]
    return _frame(rows, ["Parameter", "smoke", "laptop", "paper", "Meaning and source"])


def claims(facts: Facts, found: Iterable[Evidence], note: str = "") -> pd.DataFrame:
    """The verdict on each claim and what it rests on; ``note`` qualifies the evidence."""
    rows = [_claim_row(cid, facts.claims[cid], each, note) for cid, each in zip(facts.claims, found, strict=True)]
    return _frame(rows, ["Claim", "The paper says", "Its figures", "Ours (mean ± sd)", "Verdict", "Evidence", "State"])


def _claim_row(cid: str, claim: Claim, found: Evidence, note: str) -> tuple[Any, ...]:
    ours = show.lines({key: show.mean_sd(spread) for key, spread in found.summary["value"].items()})
    told = f"{found.scale} scale{note}: holds in {found.summary['holds']} of {found.summary['n']} runs"
    current = state(r for r in found.records if r.status == "complete")
    if found.records and all(r.status != "complete" for r in found.records):
        current = "this run"
    evidence = told if found.records else found.verdict
    return cid, claim.says, _figures(claim), ours, show.chip(found.verdict), evidence, current


def _figures(claim: Claim) -> show.Html:
    return show.lines({label: show.number(value) for label, value in claim.paper.items()})


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else "(empty)" if value == "" else show.joined(value)


def _frame(rows: Sequence[Sequence[Any]], columns: list[str]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame([list(row) for row in rows], columns=columns, dtype=object)
