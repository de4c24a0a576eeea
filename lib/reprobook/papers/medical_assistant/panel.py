"""The assistant as a panel in JupyterLab: chat, live vitals with alarms, reminders, report. Everything stays here.

:class:`App` joins the parts and knows nothing of widgets; :func:`panel` puts buttons on it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from reprobook.errors import ReprobookError
from reprobook.papers.medical_assistant.agents import Agent
from reprobook.papers.medical_assistant.environment import Environment
from reprobook.papers.medical_assistant.prescriptions import read_prescription
from reprobook.papers.medical_assistant.reminders import Reminder, fire, reminders, to_icalendar
from reprobook.papers.medical_assistant.reports import Report, daily_report, draw, is_due
from reprobook.papers.medical_assistant.session import NOTICE, Session, in_random_order
from reprobook.papers.medical_assistant.tools import ToolError, parse_call, parse_plan
from reprobook.papers.medical_assistant.vitals import Alarm, Vitals, detect, detect_frame


@dataclass
class App:
    """Action Manager and Health Manager of one user, on one database. ``frame``: the readings of the watch. The tools
    are listed in another order in every session."""

    agent: Agent
    env: Environment
    user_id: str
    frame: pd.DataFrame
    pending: list[Reminder] = field(default_factory=list)
    session: Session | None = None
    seen: int = 0  # readings that were watched
    reported: datetime | None = None  # when the last report was made

    def reopen(self) -> list[tuple[str, str]]:
        """Take up what an earlier run left in the database: pending reminders, the watch, and the last conversation if
        it was not finished. Returns the lines of that conversation."""
        vitals = self.env.memory.rows("vitals", self.user_id)
        if vitals:
            self.seen = int((self.frame["at"] <= datetime.fromisoformat(vitals[-1]["at"])).sum())
        reports = self.env.memory.rows("reports", self.user_id)
        self.reported = datetime.fromisoformat(reports[-1]["at"]) if reports else None
        self.pending = [
            Reminder(row["title"], datetime.fromisoformat(row["at"]), row["days_left"])
            for row in self.env.memory.rows("reminders", self.user_id)
        ]
        stored = self.env.memory.rows("conversations", self.user_id)
        if not stored or json.loads(stored[-1]["state"])["status"] not in ("running", "waiting"):
            return []
        self.session = Session.resume(self.agent, self.env, self.user_id, stored[-1]["session"])
        self.session.advance()
        return transcript(self.session.turns)

    def chat(self, text: str) -> list[tuple[str, str]]:
        """A message of the user: the answer to a question that waits, else the beginning of a session. Returns the
        new lines ``(who, what)``. A session that an error broke off is finished first."""
        if self.session is not None and self.session.status == "running" and self.session.turns:
            begin = len(self.session.turns)
            self.session.advance()
            again = ("assistant", "I have taken up what was interrupted. Please say that again if it still matters.")
            return [*transcript(self.session.turns[begin:]), again]
        if self.session is None or self.session.status != "waiting":
            number = 1 + len(self.env.memory.rows("conversations", self.user_id))
            tools = in_random_order(np.random.default_rng(number))
            self.session = Session(self.agent, self.env, self.user_id, f"{number}", tools)
            begin = 0
            self.session.start(text)
        else:
            begin = len(self.session.turns)
            self.session.answer(text)
        lines = transcript(self.session.turns[begin:])
        if self.session.status == "stopped":
            lines.append(("assistant", "I could not finish this. Please ask in other words, or call for help."))
        return lines

    def watch(self) -> tuple[datetime, Vitals, Alarm | None]:
        """The next reading: stored, shown to the detector; an alarm is remembered in short-term memory."""
        if self.seen >= len(self.frame):
            raise ReprobookError("the watch has no further reading")
        row = self.frame.iloc[self.seen]
        self.seen += 1
        vitals = Vitals(int(row["heart_rate"]), int(row["oxygen"]), int(row["steps_interval"]))
        at, alarm = row["at"].to_pydatetime(), detect(vitals)
        self.env.memory.add(
            "vitals", self.user_id, at=at, heart_rate=vitals.heart_rate, oxygen=vitals.oxygen, steps=vitals.steps,
            soft_sos=int(alarm is not None),
        )  # fmt: skip
        if self.session is not None:
            self.session.memory.vitals.append(vitals)
        return at, vitals, alarm

    def soft_sos(self, alarm: Alarm) -> list[tuple[str, str]]:
        """Open a session with an alarm, unless a question of another one waits."""
        if self.session is not None and self.session.status == "waiting":
            return [("health monitor", alarm.message)]
        return self.chat(f"Health monitor: {alarm.message}.")

    def prescribe(self, text: str, start: datetime) -> list[Reminder]:
        """Reminders of a prescription, kept in the database."""
        new = reminders(read_prescription(text), start)
        self.env.memory.add_many(
            "reminders", self.user_id, [{"title": r.title, "at": r.next_at, "days_left": r.days_left} for r in new]
        )
        self.pending += new
        return new

    def remind(self, now: datetime) -> list[Reminder]:
        """Fire what is due; the database keeps what is left."""
        fired, self.pending = fire(self.pending, now)
        if fired:
            left = [{"title": r.title, "at": r.next_at, "days_left": r.days_left} for r in self.pending]
            self.env.memory.replace_all("reminders", self.user_id, left)
        return fired

    def report(self, end: datetime) -> Report:
        """The report of the 24 hours before ``end``, from the readings that were watched; kept in the database."""
        made = daily_report(self.frame.iloc[: self.seen], end)
        self.env.memory.add("reports", self.user_id, at=end, content=made.text)
        self.reported = end
        return made

    def picture(self) -> bytes:
        """The last 24 hours of the watch as a PNG: readings, limits, alarms."""
        import io

        import matplotlib.pyplot as plt

        end = self.frame["at"].iloc[max(0, self.seen - 1)].to_pydatetime() + timedelta(minutes=1)
        fig, file = draw(detect_frame(self.frame.iloc[: self.seen]), end), io.BytesIO()
        fig.savefig(file, format="png", dpi=80)
        plt.close(fig)
        return file.getvalue()

    def forget(self) -> int:
        """Delete everything about the user, here and in the database; returns the number of rows."""
        n = self.env.forget()
        self.session, self.pending, self.reported = None, [], None
        return n

    def calendar(self) -> bytes:
        """The pending reminders as an iCalendar file."""
        return to_icalendar(self.pending)


def transcript(turns: Sequence[Any]) -> list[tuple[str, str]]:
    """Turns as lines ``(who, what)`` for people: reasons, actions and calls without their tags."""
    lines = []
    for turn in turns:
        try:
            if turn.role == "Planner":
                reason, action = parse_plan(turn.text)
                lines.append(("planner", f"{reason} → {action}"))
            elif turn.role == "Caller":
                tool, arguments = parse_call(turn.text)
                inside = ", ".join(f"{k}={v!r}" for k, v in arguments.items())
                lines.append(("caller", f"{tool}({inside})"))
                if tool in ("notify_user", "get_input_from_user"):
                    lines.append(("assistant", str(arguments.get("message", arguments.get("questions")))))
            else:
                lines.append(({"User": "user"}.get(turn.role, "result"), turn.text))
        except ToolError:
            lines.append((f"{turn.role.lower()} (unreadable)", turn.text))
    return lines


def panel(app: App, show_calls: bool = True) -> Any:
    """The widgets: chat, one more reading of the watch, a prescription, the report, and the deletion of all data."""
    import ipywidgets as widgets

    log, health, medicine = (widgets.HTML(layout={"max_height": "320px", "overflow": "auto"}) for _ in range(3))
    calendar = widgets.HTML()
    curves = widgets.Image(format="png", layout={"display": "none", "max_width": "760px"})
    message = widgets.Text(placeholder="Type a message, then Enter", layout={"width": "80%"})
    typed = widgets.Textarea(placeholder="Paracetamol 1-0-1 for 5 days", layout={"width": "80%", "height": "80px"})
    next_reading, read, report, delete = (
        widgets.Button(description=text, layout={"width": "auto"})
        for text in ("Next hour of the watch", "Read the prescription", "Report", "Delete all my data")
    )

    def put(box: Any, lines: Sequence[tuple[str, str]]) -> None:
        hidden = () if show_calls else ("planner", "caller", "result")
        shown = [(escape(w), escape(t).replace("\n", "<br>")) for w, t in lines if w not in hidden]
        box.value += "".join(f"<p style='margin:0.3em 0'><b>{who}</b>: {what}</p>" for who, what in shown)

    def guarded(box: Any, work: Callable[[], Sequence[tuple[str, str]]]) -> Callable[[Any], None]:
        def run(_: Any) -> None:
            try:
                put(box, work())
            except ReprobookError as error:
                put(box, [("cannot do that", str(error))])

        return run

    def say() -> Sequence[tuple[str, str]]:
        text, message.value = message.value, ""
        return app.chat(text)

    def hour() -> Sequence[tuple[str, str]]:
        lines: list[tuple[str, str]] = []
        for _ in range(12):
            at, vitals, alarm = app.watch()
            if alarm:
                lines.append((f"{at:%H:%M}", alarm.message))
                put(log, app.soft_sos(alarm))
            if is_due(at, app.reported):
                lines.append(("report", app.report(at).text))
        curves.value, curves.layout.display = app.picture(), ""
        lines.append((f"{at:%H:%M}", f"{vitals.heart_rate:g} bpm, {vitals.oxygen:g} %, {len(lines)} alarms"))
        return [*lines, *(("reminder", r.title) for r in app.remind(at))]

    def prescription() -> Sequence[tuple[str, str]]:
        start = app.frame["at"].iloc[max(0, app.seen - 1)].to_pydatetime()
        new = app.prescribe(typed.value, start)
        data = base64.b64encode(app.calendar()).decode()
        calendar.value = (
            f"<a download='reminders.ics' href='data:text/calendar;base64,{data}'>All reminders as a calendar</a>"
        )
        return [(f"{r.next_at:%H:%M}", f"{r.title}, {r.days_left} days") for r in new]

    def summary() -> Sequence[tuple[str, str]]:
        end = app.frame["at"].iloc[max(0, app.seen - 1)].to_pydatetime() + timedelta(minutes=1)
        return [("report", app.report(end).text)]

    def forget() -> Sequence[tuple[str, str]]:
        rows = app.forget()
        return [("deleted", f"{rows} rows; the assistant knows nothing about {app.user_id} now")]

    guarded(log, app.reopen)(None)
    message.continuous_update = False
    message.observe(lambda change: guarded(log, say)(None) if change["new"] else None, names="value")
    next_reading.on_click(guarded(health, hour))
    read.on_click(guarded(medicine, prescription))
    report.on_click(guarded(health, summary))
    delete.on_click(guarded(log, forget))
    tabs = widgets.Tab([
        widgets.VBox([log, message, delete]), widgets.VBox([next_reading, report, curves, health]),
        widgets.VBox([typed, read, medicine, calendar]),
    ])  # fmt: skip
    for k, title in enumerate(("Chat", "Vitals", "Reminders")):
        tabs.set_title(k, title)
    return widgets.VBox([widgets.HTML(f"<i>{escape(NOTICE)}</i>"), tabs])
