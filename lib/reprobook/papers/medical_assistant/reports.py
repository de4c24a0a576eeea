"""The report generator: 24-hour means, the alarms among them, as text and as a figure.

The limits drawn and named are those of the paper's demonstration; a report is no medical advice.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING

import pandas as pd

from reprobook import show
from reprobook.errors import ReprobookError
from reprobook.papers.medical_assistant.vitals import NORMAL, RULES, SLEEP, UNITS, WORDS, detect_frame, usable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DAY = timedelta(hours=24)
SENT_AT, TOLERANCE = time(21, 0), timedelta(minutes=30)
PHASES = ("awake", "REM", "light", "deep")
MEANS = {  # column: (words, unit), in the paper's order
    "oxygen": ("blood oxygen", "%"),
    "heart_rate": ("heart rate", "bpm"),
    "steps": ("steps counter", "steps"),
    "calories": ("calories counter", "kcal"),
    **{name: (f"sleep, {phase}", "min") for name, phase in zip(SLEEP, PHASES, strict=True)},
}
NOTE = "The limits are those of a demonstration. This is no medical advice."


@dataclass(frozen=True)
class Report:
    """What :func:`daily_report` found in ``start <= at < end``.

    ``means``: per column of :data:`MEANS`; None each if there is no reading. As in the paper's application ``steps``
    and ``calories`` are means of running counters; ``walked`` is what a reader wants to know, the steps of the window.
    ``alarms``: the rows with a soft SOS, oldest first. ``left_out``: readings with a missing or impossible value.
    """

    start: datetime
    end: datetime
    readings: int
    means: dict[str, float | None]
    walked: int
    alarms: pd.DataFrame
    left_out: int = 0

    @property
    def text(self) -> str:
        """The report as lines of plain text."""
        lines = [f"Report for {self.start:%d %b %Y %H:%M} to {self.end:%d %b %Y %H:%M}, {self.readings} readings"]
        if self.left_out:
            lines.append(f"  {self.left_out} more left out: a value is missing or impossible. Check the sensor")
        if not self.readings:
            return "\n".join((*lines, "No reading in these 24 hours: is the watch worn and connected?", NOTE))
        for name, (words, unit) in MEANS.items():
            lines.append(f"  {words + ' (mean)':<24}{self.means[name]:9.1f} {unit}")
        lines.append(f"  {'steps walked':<24}{self.walked:9d} steps")
        lines.append(f"Alarms: {len(self.alarms)}")
        fields = {rule.kind: rule.field for rule in RULES}
        for row in self.alarms.to_dict("records"):
            field = fields[row["alarm"]]
            lines.append(f"  {row['at']:%d %b %H:%M}  {row['alarm']}: {WORDS[field]} {row[field]:g} {UNITS[field]}")
        return "\n".join((*lines, NOTE))


def window(frame: pd.DataFrame, end: datetime) -> pd.DataFrame:
    """Rows of the 24 hours before ``end`` in order of time; ``end - 24 h`` belongs to them, ``end`` does not."""
    end = pd.Timestamp(end)
    inside = frame[(frame["at"] >= end - DAY) & (frame["at"] < end)]
    return inside.sort_values("at", kind="stable")


def daily_report(frame: pd.DataFrame, end: datetime) -> Report:
    """Means and alarms of the 24 hours before ``end``; ``frame`` as :func:`vitals.simulate` gives it.

    Alarms are the rows that :func:`vitals.detect_frame` flagged; a frame it has not seen is shown to it first. Readings
    with a missing or impossible value are left out and counted. A window without readings gives a report that says so.
    """
    rows, left_out = _window(frame, end)
    means = {name: float(rows[name].mean()) if len(rows) else None for name in MEANS}
    alarms = rows[rows["soft_sos"].astype(bool)].reset_index(drop=True)
    end = pd.Timestamp(end).to_pydatetime()
    return Report(end - DAY, end, len(rows), means, int(rows["steps_interval"].sum()), alarms, left_out)


def _window(frame: pd.DataFrame, end: datetime) -> tuple[pd.DataFrame, int]:
    """The window's usable readings with their alarms, and the number of the others."""
    needed = ("at", *MEANS, "steps_interval")
    if missing := [name for name in needed if name not in frame]:
        raise ReprobookError(f"daily_report: no column {missing[0]!r}; needed: {', '.join(needed)}")
    rows = window(frame, end)
    good = usable(rows, ("heart_rate", "oxygen", "steps", "steps_interval"))
    kept = rows[good].infer_objects()
    return kept if {"alarm", "soft_sos"} <= set(kept) else detect_frame(kept), int((~good).sum())


def is_due(now: datetime, last_sent: datetime | None = None) -> bool:
    """Whether a report should go out: 21:00 give or take 30 minutes (both ends included), and none sent this evening.

    The monitor runs every five minutes; without ``last_sent`` the rule is true at each of its thirteen runs.
    """
    evening = datetime.combine(now.date(), SENT_AT, tzinfo=now.tzinfo)
    sent = last_sent is not None and abs(last_sent - evening) <= TOLERANCE
    return abs(now - evening) <= TOLERANCE and not sent


def draw(frame: pd.DataFrame, end: datetime) -> Figure:
    """The 24 hours before ``end``: heart rate and oxygen with the limits at rest and the alarms, steps, and sleep.

    A window without readings gives empty axes and says so."""
    import matplotlib.pyplot as plt
    from matplotlib.dates import ConciseDateFormatter

    rows, _ = _window(frame, end)
    fig, axes = plt.subplots(2, 2, figsize=(9.0, 5.2))
    _line(axes[0, 0], rows, "heart_rate", show.COLOURS[0])
    _line(axes[0, 1], rows, "oxygen", show.COLOURS[2])
    hourly = rows.set_index("at")["steps_interval"].resample("h").sum()
    axes[1, 0].bar(hourly.index, hourly, width=52 / 1440, align="edge", color=show.COLOURS[5])
    axes[1, 0].set(ylabel="steps per hour", title="Steps")
    for ax in (axes[0, 0], axes[0, 1], axes[1, 0]):
        ax.set_xlim(pd.Timestamp(end) - DAY, pd.Timestamp(end))
        ax.xaxis.set_major_formatter(ConciseDateFormatter(ax.xaxis.get_major_locator(), show_offset=False))
        ax.set_xlabel("time")
    axes[1, 1].barh(PHASES, rows[list(SLEEP)].mean().fillna(0), color=show.COLOURS[3])
    axes[1, 1].invert_yaxis()
    axes[1, 1].set(xlabel="mean minutes", title="Sleep")
    axes[1, 1].grid(axis="y", visible=False)
    if rows.empty:
        fig.suptitle("No reading in these 24 hours")
    return fig


def _line(ax: Axes, rows: pd.DataFrame, field: str, colour: str) -> None:
    """Readings of ``field``, the simulator's normal range shaded, the limits at rest dashed, alarms as points."""
    low, high = NORMAL[field]
    ax.axhspan(low, high, color=colour, alpha=0.08, lw=0, label="normal range")
    ax.plot(rows["at"], rows[field], color=colour, lw=0.8, alpha=0.7)
    for index, limit in enumerate(rule.limit for rule in RULES if rule.resting and rule.field == field):
        ax.axhline(limit, color="#57606a", ls="--", lw=1, label="" if index else "limit at rest")
    kinds = [rule.kind for rule in RULES if rule.field == field]
    hits = rows[rows["alarm"].isin(kinds)]
    ax.plot(hits["at"], hits[field], "o", ms=5, color=show.COLOURS[1], label=f"alarm ({len(hits)})")
    ax.set(ylabel=f"{WORDS[field]} ({UNITS[field]})", title=WORDS[field].capitalize())
    bottom, top = ax.get_ylim()
    room = 0.2 * (top - bottom)  # for the legend: oxygen cannot exceed 100 %, so below its curve
    below = field == "oxygen"
    ax.set_ylim(bottom - room * below, top + room * (not below))
    ax.legend(fontsize=8, ncols=3, loc="lower center" if below else "upper center")
