"""The assistant as a panel in JupyterLab: chat, live vitals with alarms, reminders, report. Everything stays here.

:class:`App` joins the parts and knows nothing of widgets; :func:`panel` puts buttons on it.
"""

from __future__ import annotations

import ast
import base64
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from reprobook.errors import ReprobookError
from reprobook.papers.medical_assistant.prescriptions import read_prescription
from reprobook.papers.medical_assistant.reminders import Reminder, fire, reminders, to_icalendar
from reprobook.papers.medical_assistant.reports import daily_report, draw, is_due
from reprobook.papers.medical_assistant.session import NOTICE, Session, in_random_order
from reprobook.papers.medical_assistant.tools import ToolError, parse_call, parse_plan
from reprobook.papers.medical_assistant.vitals import Vitals, detect

if TYPE_CHECKING:
    import pandas as pd

    from reprobook.papers.medical_assistant.agents import Agent
    from reprobook.papers.medical_assistant.environment import Environment
    from reprobook.papers.medical_assistant.reports import Report
    from reprobook.papers.medical_assistant.scenarios import Turn
    from reprobook.papers.medical_assistant.vitals import Alarm

# What the user says to call for help or to end the alarm; questions about emergency contacts are answered otherwise.
_SOS = re.compile(
    r"\bsos\b|\bemergency\b(?! contact)|\bambulance\b|^\W*help\b|\bcall (?:for )?help\b|\bfalse alarm\b", re.IGNORECASE
)
_MONITOR = "Health monitor: "  # how an alarm begins a session


@dataclass
class App:
    """Action Manager and Health Manager of one user, on one database. ``frame``: the readings of the watch. The tools
    are listed in another order in every session.

    An emergency never waits: a call for help, or an alarm of the watch, opens a session of its own and puts ``aside``
    the one whose question waits; that one is taken up again afterwards."""

    agent: Agent
    env: Environment
    user_id: str
    frame: pd.DataFrame
    session: Session | None = None
    aside: list[Session] = field(default_factory=list)  # waiting, the last to be taken up first
    alarms: list[Alarm] = field(default_factory=list)  # not yet in a session, oldest first
    seen: int = 0  # readings that were watched
    reported: datetime | None = None  # when the last report was made

    @property
    def pending(self) -> list[Reminder]:
        """The reminders of the database."""
        rows = self.env.memory.rows("reminders", self.user_id)
        return [Reminder(row["title"], datetime.fromisoformat(row["at"]), row["days_left"]) for row in rows]

    def reopen(self) -> list[tuple[str, str]]:
        """Take up what an earlier run left in the database: the watch, and the conversations that were not finished.
        Returns the lines of the last of them."""
        vitals = self.env.memory.rows("vitals", self.user_id)
        if vitals:
            self.seen = int((self.frame["at"] <= datetime.fromisoformat(vitals[-1]["at"])).sum())
        reports = self.env.memory.rows("reports", self.user_id)
        self.reported = datetime.fromisoformat(reports[-1]["at"]) if reports else None
        stored = self.env.memory.rows("conversations", self.user_id)  # in the order of their last turns
        last = [row["session"] for row in stored if json.loads(row["state"])["status"] in ("running", "waiting")]
        sessions = [Session.resume(self.agent, self.env, self.user_id, name) for name in last]
        if not sessions:
            return []
        *self.aside, self.session = sessions
        self.session.advance()
        return [*transcript(self.session.turns), *self._go_on()]

    def chat(self, text: str) -> list[tuple[str, str]]:
        """A message of the user: a call for help, else the answer to a question that waits, else the beginning of a
        session. Returns the new lines ``(who, what)``. A session that an error broke off is finished first."""
        lines = self._finish_interrupted()
        if not self._waits or _SOS.search(text):
            lines += self._open(text)
        elif lines:  # a question that the user had not seen
            again = "I have taken up what was interrupted. Please say that again if it still matters."
            lines.append(("assistant", again))
        else:
            assert self.session is not None
            begin = len(self.session.turns)
            self.session.answer(text)
            lines += self._since(begin)
        return lines + self._go_on()

    def soft_sos(self, alarm: Alarm) -> list[tuple[str, str]]:
        """Open a session with an alarm; while the question of another emergency waits, the alarm stands in line."""
        self.alarms.append(alarm)
        lines = [*self._finish_interrupted(), *self._go_on()]
        return [*lines, ("health monitor", alarm.message)] if alarm in self.alarms else lines

    @property
    def _waits(self) -> bool:
        return self.session is not None and self.session.status == "waiting"

    def _finish_interrupted(self) -> list[tuple[str, str]]:
        if self.session is None or self.session.status != "running":
            return []
        begin = len(self.session.turns)
        self.session.advance()
        return self._since(begin)

    def _open(self, text: str) -> list[tuple[str, str]]:
        number = 1 + len(self.env.memory.rows("conversations", self.user_id))
        tools = in_random_order(np.random.default_rng(number))
        new = Session(self.agent, self.env, self.user_id, f"{number}", tools)
        try:
            new.start(text)
        finally:
            if new.turns:  # it has begun, even if it was interrupted
                self.aside += [self.session] if self.session is not None and self._waits else []
                self.session = new
        return self._since(0)

    def _go_on(self) -> list[tuple[str, str]]:
        """Alarms that stand in line, then the question that an emergency put aside. An error is told, since what was
        done before it must be shown; the alarm stays in line."""
        lines: list[tuple[str, str]] = []
        while True:
            if self.alarms and not (self._waits and _is_urgent(self.session)):
                before = self.session
                try:
                    lines += self._open(f"{_MONITOR}{self.alarms[0].message}.")
                except ReprobookError as error:
                    return [*lines, ("cannot do that", str(error))]
                finally:
                    del self.alarms[: self.session is not before]
            elif self.aside and not self._waits:
                self.session = self.aside.pop()
                lines.append(("assistant", f"Back to my question. {self.session.question}"))
            else:
                return lines

    def _since(self, begin: int) -> list[tuple[str, str]]:
        assert self.session is not None
        lines = transcript(self.session.turns[begin:])
        if self.session.status == "stopped":
            lines.append(("assistant", "I could not finish this. Please ask in other words, or call for help."))
        return lines

    def watch(self) -> tuple[datetime, Vitals, Alarm | None]:
        """The next reading: shown to the detector, stored, and kept in short-term memory while a session is open. A
        reading that is missing or impossible is an error and passed over."""
        if self.seen >= len(self.frame):
            raise ReprobookError("the watch has no further reading")
        row = self.frame.iloc[self.seen]
        at, vitals = row["at"].to_pydatetime(), Vitals(row["heart_rate"], row["oxygen"], row["steps_interval"])
        try:
            alarm = detect(vitals)
        except ReprobookError as error:
            self.seen += 1
            raise ReprobookError(f"{at:%H:%M} {error}") from error
        self.env.memory.add(
            "vitals", self.user_id, at=at, heart_rate=vitals.heart_rate, oxygen=vitals.oxygen, steps=vitals.steps,
            soft_sos=int(alarm is not None),
        )  # fmt: skip
        self.seen += 1
        if self.session is not None:
            self.session.memory.vitals.append(vitals)
        return at, vitals, alarm

    @property
    def now(self) -> datetime:
        """The time of the last reading."""
        return self.frame["at"].iloc[max(0, self.seen - 1)].to_pydatetime()

    def prescribe(self, text: str, start: datetime) -> list[Reminder]:
        """Reminders of a prescription, kept in the database. One of the same title and time of day is replaced: a
        prescription that is read twice doubles no dose."""
        new = reminders(read_prescription(text), start)
        again = {(r.title, r.next_at.time()) for r in new}
        with self.env.memory.together():
            self._keep([r for r in self.pending if (r.title, r.next_at.time()) not in again] + new)
        return new

    def remind(self, now: datetime) -> list[Reminder]:
        """Fire what is due; the database keeps what is left."""
        with self.env.memory.together():
            fired, left = fire(self.pending, now)
            if fired:
                self._keep(left)
        return fired

    def _keep(self, left: Sequence[Reminder]) -> None:
        rows = [{"title": r.title, "at": r.next_at, "days_left": r.days_left} for r in left]
        self.env.memory.replace_all("reminders", self.user_id, rows)

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

        fig, file = draw(self.frame.iloc[: self.seen], self.now + timedelta(minutes=1)), io.BytesIO()
        fig.savefig(file, format="png", dpi=80)
        plt.close(fig)
        return file.getvalue()

    def forget(self) -> int:
        """Delete everything about the user, here and in the database; returns the number of rows."""
        n = self.env.forget()
        self.session, self.aside, self.alarms, self.seen, self.reported = None, [], [], 0, None
        return n

    def calendar(self) -> bytes:
        """The pending reminders as an iCalendar file."""
        return to_icalendar(self.pending)


def _is_urgent(session: Session | None) -> bool:
    opening = session.turns[0].text if session is not None else ""
    return opening.startswith(_MONITOR) or bool(_SOS.search(opening))


def transcript(turns: Sequence[Turn]) -> list[tuple[str, str]]:
    """Turns as lines ``(who, what)`` for people: reasons, actions and calls without their tags. A line of the assistant
    is what the user was told or asked; a call that was refused has told nothing."""
    lines = []
    for turn, after in zip(turns, [*turns[1:], None], strict=True):
        try:
            if turn.role == "Planner":
                reason, action = parse_plan(turn.text)
                lines.append(("planner", f"{reason} → {action}"))
            elif turn.role == "Caller":
                tool, arguments = parse_call(turn.text)
                inside = ", ".join(f"{k}={v!r}" for k, v in arguments.items())
                lines.append(("caller", f"{tool}({inside})"))
                refused = after is not None and "error" in _result(after.text)
                if tool in ("notify_user", "get_input_from_user") and not refused:
                    lines.append(("assistant", str(arguments.get("message", arguments.get("questions")))))
            elif turn.role == "Observation":
                result = _result(turn.text).get("result")
                answer = result.get("user") if isinstance(result, dict) else None
                lines.append(("result", turn.text) if answer is None else ("user", str(answer)))
            else:
                lines.append((turn.role.lower(), turn.text))
        except ToolError:
            lines.append((f"{turn.role.lower()} (unreadable)", turn.text))
    return lines


def _result(text: str) -> dict[str, Any]:
    """What an observation says (:meth:`.Session.advance` writes it as a literal)."""
    return dict(ast.literal_eval(text))


def panel(app: App, show_calls: bool = True) -> Any:
    """The widgets: chat with a call for help, the next hour of the watch, a prescription, the report, and the deletion
    of all data."""
    import ipywidgets as widgets

    latest = {"max_height": "420px", "overflow": "auto", "display": "flex", "flex_flow": "column-reverse"}  # at the end
    log, health, medicine, doses = (widgets.HTML(layout=latest) for _ in range(4))
    calendar = widgets.HTML()
    curves = widgets.Image(format="png", layout={"display": "none", "max_width": "760px"})
    message = widgets.Text(placeholder="Type a message, then Enter", layout={"width": "80%"})
    typed = widgets.Textarea(placeholder="Paracetamol 1-0-1 for 5 days", layout={"width": "80%", "height": "80px"})
    sos, next_reading, read, report, delete = (
        widgets.Button(description=text, layout={"width": "auto"})
        for text in ("SOS", "Next hour of the watch", "Read the prescription", "Report", "Delete all my data")
    )
    sos.button_style = "danger"

    def put(box: Any, *lines: tuple[str, str]) -> None:
        hidden = () if show_calls else ("planner", "caller", "result")
        shown = [(escape(w), escape(t).replace("\n", "<br>")) for w, t in lines if w not in hidden]
        box.value += "".join(f"<p style='margin:0.3em 0'><b>{who}</b>: {what}</p>" for who, what in shown)

    def guarded(box: Any, work: Callable[[], None]) -> Callable[[Any], None]:
        def run(_: Any) -> None:
            try:
                work()
            except ReprobookError as error:
                put(box, ("cannot do that", str(error)))

        return run

    def say() -> None:
        text, message.value = message.value, ""
        put(log, *app.chat(text))

    def hour() -> None:
        n = 0
        for _ in range(12):
            if not one_reading():
                break
            n += 1
        curves.value, curves.layout.display = app.picture(), ""
        put(health, (f"{app.now:%H:%M}", f"{n} readings of the watch"))

    def one_reading() -> bool:
        """What belongs to one reading; errors of the sensor are told, an alarm is never lost to them."""
        if app.seen >= len(app.frame):
            put(health, ("health monitor", "the watch has no further reading"))
            return False
        before = app.seen
        try:
            at, vitals, alarm = app.watch()
        except ReprobookError as error:
            if app.seen == before:  # not the sensor's fault
                raise
            put(health, ("sensor", str(error)))
            at, alarm = app.now, None
        if alarm:
            put(health, (f"{at:%H:%M}", f"{alarm.message} ({vitals.heart_rate:g} bpm, {vitals.oxygen:g} %)"))
            guarded(log, lambda: put(log, *app.soft_sos(alarm)))(None)
        if is_due(at, app.reported):
            put(health, ("report", app.report(at).text))
        if fired := app.remind(at):
            put(health, *(("reminder", r.title) for r in fired))
            show_doses()
        return True

    def prescription() -> None:
        new = app.prescribe(typed.value, app.now)
        put(medicine, ("read", f"{len(new)} reminders"))
        show_doses()

    def show_doses() -> None:
        pending = app.pending
        doses.value = calendar.value = ""
        if pending:
            put(doses, *((f"{r.next_at:%d %b %H:%M}", f"{r.title}, {r.days_left} days") for r in pending))
            data = base64.b64encode(app.calendar()).decode()
            calendar.value = (
                "<a style='text-decoration: underline' download='reminders.ics' "
                f"href='data:text/calendar;base64,{data}'>All reminders as a calendar</a>"
            )

    def summary() -> None:
        put(health, ("report", app.report(app.now + timedelta(minutes=1)).text))

    def forget() -> None:
        rows = app.forget()
        for box in (log, health, medicine, doses, calendar, typed):
            box.value = ""
        curves.value, curves.layout.display = b"", "none"
        put(log, ("deleted", f"{rows} rows; the assistant knows nothing about {app.user_id} now"))

    def reopen() -> None:
        put(log, *app.reopen())
        show_doses()

    guarded(log, reopen)(None)
    message.continuous_update = False
    message.observe(lambda change: guarded(log, say)(None) if change["new"] else None, names="value")
    sos.on_click(guarded(log, lambda: put(log, *app.chat("SOS!"))))
    next_reading.on_click(guarded(health, hour))
    read.on_click(guarded(medicine, prescription))
    report.on_click(guarded(health, summary))
    delete.on_click(guarded(log, forget))
    tabs = widgets.Tab([
        widgets.VBox([log, widgets.HBox([message, sos]), delete]),
        widgets.VBox([next_reading, report, curves, health]),
        widgets.VBox([typed, read, medicine, doses, calendar]),
    ])  # fmt: skip
    for k, title in enumerate(("Chat", "Vitals", "Reminders")):
        tabs.set_title(k, title)
    return widgets.VBox([widgets.HTML(f"<i>{escape(NOTICE)}</i>"), tabs])
