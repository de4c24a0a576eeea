"""The scheduler's second half: reminders of medications, when they fire, and a calendar file of them.

As in the paper's application a reminder is due within half an hour of its time and counts down its days. The
application stores only the first reminder of a prescription; here all count. Calendars are written by the package
``icalendar``, which knows the escapes and line folding of RFC 5545.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from reprobook.papers.medical_assistant.session import NOTICE

if TYPE_CHECKING:
    from reprobook.papers.medical_assistant.prescriptions import Medication

DUE_WITHIN, ONE_DAY = timedelta(minutes=30), timedelta(days=1)


@dataclass(frozen=True)
class Reminder:
    """One medicine at one time of day: fires at ``next_at`` and on the days after it, ``days_left`` times in all.

    Times are the patient's local time, without a zone. ``instructions``: how to take it, if the title is the
    illness's."""

    title: str
    next_at: datetime
    days_left: int
    instructions: str = ""


def reminders(medications: Iterable[Medication], start: datetime) -> list[Reminder]:
    """One reminder per medicine and time, titled "illness - medicine - dosage" as in the application, in order of their
    first firing; where no illness is known, the title begins with when to take it ("After dinner").

    A time of day that has passed at ``start`` begins on the next day, so that no dose of the course is lost.
    """
    found = []
    for each in medications:
        for at, condition in zip(each.times, each.conditions, strict=True):
            first = datetime.combine(start.date(), at)
            first += ONE_DAY * (first < start)
            medicine = f"{each.name} {each.strength}".strip()
            opening = each.illness or condition
            title = f"{opening[:1].upper()}{opening[1:]} - {medicine} - {each.dosage}"
            found.append(Reminder(title, first, each.days, condition if each.illness else ""))
    return sorted(found, key=lambda reminder: reminder.next_at)


def _occurrence(reminder: Reminder, now: datetime) -> datetime | None:
    """The firing time within 30 minutes of ``now``, on the first day or a later one."""
    days = max(0, round((now - reminder.next_at) / ONE_DAY))
    at = reminder.next_at + days * ONE_DAY
    return at if abs(now - at) <= DUE_WITHIN else None


def due(pending: Iterable[Reminder], now: datetime) -> list[Reminder]:
    """Reminders whose time is within 30 minutes of ``now`` (both ends included) and that have not fired for it."""
    return [reminder for reminder in pending if _occurrence(reminder, now)]


def fire(pending: Iterable[Reminder], now: datetime) -> tuple[list[Reminder], list[Reminder]]:
    """``(fired, pending)``: each due reminder fires, loses a day, and is gone after its last.

    A reminder that fired waits for the next day: the monitor runs every five minutes, and the paper's rule of +-30
    minutes alone would fire it thirteen times. A dose missed while nothing ran doesn't count; as in the paper's
    application the course then ends a day later.
    """
    fired, left = [], []
    for reminder in pending:
        if at := _occurrence(reminder, now):
            fired.append(reminder)
            reminder = replace(reminder, next_at=at + ONE_DAY, days_left=reminder.days_left - 1)
        if reminder.days_left > 0:
            left.append(reminder)
    return fired, left


def to_icalendar(pending: Sequence[Reminder]) -> bytes:
    """The reminders as an iCalendar file (RFC 5545): one daily event each, ``days_left`` times, with an alarm.

    Recurrence rules and not single events: a calendar shows one series per reminder, to be moved or deleted as one.
    Times float (local time wherever the phone is). A UID comes from title and time of day, so that a later import, of
    a course that has begun too, replaces the earlier one.
    """
    from icalendar import Alarm, Calendar, Event, vDuration

    calendar = Calendar()
    calendar.add("prodid", "-//reprobook//medical_assistant//EN")
    calendar.add("version", "2.0")
    calendar.add("x-wr-caldesc", NOTICE)
    seen: Counter[str] = Counter()
    for reminder in pending:
        key = f"{reminder.title} {reminder.next_at:%H:%M}"
        seen[key] += 1  # equal reminders still are two events
        event, alarm = Event(), Alarm()
        event.add("uid", str(uuid.uuid5(uuid.NAMESPACE_URL, f"reprobook:{key}:{seen[key]}")))
        event.add("dtstamp", datetime.fromisoformat("2025-03-07T00:00:00+00:00"))  # fixed: files can be compared
        event.add("summary", reminder.title)
        event.add("description", f"{reminder.instructions}\n{NOTICE}".strip())
        event.add("dtstart", reminder.next_at)
        event.add("duration", vDuration(timedelta(minutes=5)))
        event.add("rrule", {"freq": "daily", "count": reminder.days_left})
        alarm.add("action", "DISPLAY")
        alarm.add("description", reminder.title)
        alarm.add("trigger", timedelta(0))
        event.add_component(alarm)
        calendar.add_component(event)
    return bytes(calendar.to_ical())
