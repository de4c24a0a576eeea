"""A deterministic world behind the twelve tools: specialists with free slots, ambulances, a user who answers.

Nothing here talks to anything outside: messages and notifications are kept in lists. Data about the patient live in
:class:`~reprobook.papers.medical_assistant.memory.LongTerm`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from reprobook.papers.medical_assistant.memory import MemoryUnitError
from reprobook.papers.medical_assistant.tools import (
    DATE_FORMAT,
    TIMESTAMP_FORMAT,
    ToolError,
    check_call,
    parse_appointment,
    parse_date,
    parse_range,
)

if TYPE_CHECKING:
    from reprobook.papers.medical_assistant.memory import LongTerm

# Symptoms and who treats them. A demonstration, no medical advice.
SPECIALISTS: dict[str, tuple[str, ...]] = {
    "Cardiologist": ("chest tightness", "racing heart", "irregular heartbeat", "chest pressure on stairs"),
    "Dermatologist": ("itchy rash", "flaky skin", "red patches on the arms", "hives"),
    "Neurologist": ("migraine", "numb fingers", "dizzy spells", "trembling hands"),
    "Orthopedist": ("knee pain", "stiff shoulder", "lower back pain", "swollen ankle"),
    "Gastroenterologist": ("stomach cramps", "heartburn", "bloating", "nausea after meals"),
    "Pulmonologist": ("dry cough", "wheezing", "shortness of breath", "night cough"),
    "ENT specialist": ("ear ache", "blocked nose", "sore throat", "ringing ears"),
    "Ophthalmologist": ("blurred vision", "burning eyes", "double vision", "watery eyes"),
    "Dietician": ("unwanted weight gain", "constant tiredness after sweets", "no appetite", "sugar cravings"),
}
LOOKS = ("retrieve_past_complaints", "follow_up_with_user", "get_appointment_history")  # change nothing
WHO = {symptom: who for who, symptoms in SPECIALISTS.items() for symptom in symptoms}


@dataclass(frozen=True)
class Specialist:
    """A specialist with free slots ``(DD/MM/YY, HH:MM-HH:MM)`` in order of time."""

    specialist_id: str
    name: str
    specialization: str
    slots: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class World:
    """What the tools can find. ``location``: latitude and longitude; ``now``: the clock of the session."""

    now: datetime
    specialists: tuple[Specialist, ...] = ()
    location: tuple[float, float] = (0.0, 0.0)


def specialization_of(symptoms: str, memory: LongTerm) -> str:
    """Who treats ``symptoms``: the specialist of the most similar known symptom (the paper's application compares
    vectors of texts, too)."""
    known = list(WHO)
    vectors = memory.embed([symptoms, *known])
    return WHO[known[int((vectors[1:] @ vectors[0]).argmax())]]


@dataclass
class Environment:
    """The tools of one session. ``answer`` is asked when the assistant asks the user; None suspends the session.

    ``effects`` holds what happened, one tuple a call: the tool, what it acted on, and last the text that a person or
    the record got. Two sessions that share them have done the same."""

    world: World
    memory: LongTerm
    user_id: str
    answer: Callable[[str], str | None] = lambda question: None  # noqa: ARG005
    which: str = "one"
    booked: list[tuple[str, str, str]] = field(default_factory=list)  # specialist, time range, date
    outbox: list[dict[str, Any]] = field(default_factory=list)  # messages and notifications
    effects: list[tuple[str, ...]] = field(default_factory=list)  # tool, what it acted on, text

    def __post_init__(self) -> None:
        """What the user has booked in earlier sessions and what is still to come stays taken."""
        for row in self.memory.rows("appointments", self.user_id):
            slot, day = parse_appointment(row["appointment_time_date"])
            if not self._is_past(day, slot.split("-")[0]):
                self.booked.append((row["specialist_id"], slot, day))

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """What the block does to the world and to the memory is kept, or nothing of it if the block fails."""
        before = [list(each) for each in (self.booked, self.outbox, self.effects)]
        try:
            with self.memory.together():
                yield
        except BaseException:
            self.booked[:], self.outbox[:], self.effects[:] = before
            raise

    def forget(self) -> int:
        """Delete everything about the user; returns the number of rows of the database."""
        n = self.memory.delete_patient(self.user_id)
        for each in (self.booked, self.outbox, self.effects):
            each.clear()
        return n

    def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Check and carry out a call; returns what the tool returns, a :class:`Question` for a question that nobody
        has answered yet. Raises :class:`ToolError` (or the memory's error) with the reason."""
        check_call(name, arguments, self.which)
        if "user_id" in arguments:
            try:
                self.memory.patient(arguments["user_id"])
            except MemoryUnitError as error:
                raise ToolError(str(error)) from error
            if arguments["user_id"] != self.user_id:  # nobody reads or writes another patient's record
                raise ToolError(f"user {arguments['user_id']!r} is not the user of this session")
        return getattr(self, f"_{name}")(**arguments)

    # ------------------------------------------------------------------------------------------------ complaints

    def _retrieve_past_complaints(
        self, user_id: str, symptoms: str, date_range: Mapping[str, str] | None = None
    ) -> list[str]:
        since = until = None
        if date_range:
            since, until = (parse_date(date_range[key], key) for key in ("start_date", "end_date"))
            if since > until:
                raise ToolError(f"date_range ends ({date_range['end_date']}) before it starts")
            until += timedelta(days=1)  # the last day belongs to the range
        self._did("retrieve_past_complaints", user_id)
        found = self.memory.past_complaints(user_id, symptoms, since, until)
        return [f"{row['symptoms']}, {datetime.fromisoformat(row['at']).strftime(DATE_FORMAT)}" for row in found]

    def _store_symptoms(self, user_id: str, symptoms: str, timestamp: str) -> bool:
        try:
            at = datetime.strptime(timestamp, TIMESTAMP_FORMAT)
        except ValueError as error:
            raise ToolError(f"timestamp {timestamp!r} is not DD/MM/YY HH:MM") from error
        if at > self.world.now:
            raise ToolError(f"timestamp {timestamp} has not come; it is {self.world.now.strftime(TIMESTAMP_FORMAT)}")
        self.memory.add("complaints", user_id, symptoms=symptoms, at=at)
        self._did("store_symptoms", user_id, timestamp, text=symptoms)
        return True

    def _follow_up_with_user(
        self,
        user_id: str,
        current_symptoms: str,  # noqa: ARG002 (the paper's signature)
        past_complaints: Any = (),
        preferred_contact_method: str = "app",
    ) -> dict[str, Any]:
        self._did("follow_up_with_user", user_id)
        return {"related": bool(past_complaints), "contact": preferred_contact_method}

    # ------------------------------------------------------------------------------------------------ appointments

    def _get_available_specialists(
        self, symptoms: str, specialization: str | None = None, user_schedule: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        wanted = specialization or specialization_of(symptoms, self.memory)
        if wanted not in SPECIALISTS:
            raise ToolError(f"specialization {wanted!r} is unknown; known: {', '.join(SPECIALISTS)}")
        date, begin, end = "", "00:00", "23:59"
        if user_schedule:
            date = user_schedule["date"]
            self._not_past(date, "23:59", "user_schedule")
            begin, end = parse_range(user_schedule["time_range"], "time_range")
        for who in self.world.specialists:
            for day, slot in who.slots if who.specialization == wanted else ():
                start, stop = slot.split("-")
                fits = (not date or day == date) and begin <= start and stop <= end
                if fits and (who.specialist_id, slot, day) not in self.booked and not self._is_past(day, start):
                    return {
                        "specialist_id": who.specialist_id, "name": who.name, "available_slot": slot, "date": day,
                    }  # fmt: skip
        raise ToolError(f"no free slot of a {wanted}{f' on {date} {begin}-{end}' if date else ''}")

    def _confirm_appointment(self, user_id: str, specialist_id: str, appointment_time_date: str) -> bool:
        slot, day = parse_appointment(appointment_time_date)
        self._not_past(day, slot.split("-")[0], "appointment_time_date")
        who = self._specialist(specialist_id)
        if (day, slot) not in who.slots:
            raise ToolError(f"{specialist_id} has no slot {slot} on {day}")
        if (specialist_id, slot, day) in self.booked:
            raise ToolError(f"the slot {slot} on {day} of {specialist_id} is taken")
        self.booked.append((specialist_id, slot, day))
        self._did("confirm_appointment", user_id, specialist_id, appointment_time_date)
        return True

    def _save_appointment_history(
        self, user_id: str, symptoms: str, specialist_id: str, appointment_time_date: str
    ) -> bool:
        slot, day = parse_appointment(appointment_time_date)
        self._specialist(specialist_id)
        if (specialist_id, slot, day) not in self.booked:
            raise ToolError(f"no appointment with {specialist_id} at {slot} on {day} was confirmed")
        values = {"symptoms": symptoms, "specialist_id": specialist_id, "appointment_time_date": appointment_time_date}
        self.memory.add("appointments", user_id, **values)
        self._did("save_appointment_history", user_id, specialist_id, appointment_time_date, text=symptoms)
        return True

    def _get_appointment_history(self, user_id: str) -> list[str]:
        self._did("get_appointment_history", user_id)
        rows = self.memory.rows("appointments", user_id)
        return [f"{row['specialist_id']} {row['appointment_time_date']}" for row in rows[-2:]]

    def _specialist(self, specialist_id: str) -> Specialist:
        found = [who for who in self.world.specialists if who.specialist_id == specialist_id]
        if not found:
            raise ToolError(f"specialist {specialist_id!r} is unknown")
        return found[0]

    def _is_past(self, day: str, time: str) -> bool:
        return datetime.strptime(f"{day} {time}", TIMESTAMP_FORMAT) < self.world.now

    def _not_past(self, day: str, time: str, what: str) -> None:
        parse_date(day, what)
        if self._is_past(day, time):
            raise ToolError(f"{what}: {day} {time} is past; it is {self.world.now.strftime(TIMESTAMP_FORMAT)}")

    # ------------------------------------------------------------------------------------------------ user and SOS

    def _get_input_from_user(self, user_id: str, questions: str) -> Any:
        self._did("get_input_from_user", user_id, text=questions)
        answer = self.answer(questions)
        return Question(user_id, questions) if answer is None else {"user": answer}

    def _notify_user(self, user_id: str, message: str) -> bool:
        self.outbox.append({"to": user_id, "text": message})
        self._did("notify_user", user_id, text=message)
        return True

    def _get_location(self) -> dict[str, float]:
        return {"latitude": self.world.location[0], "longitude": self.world.location[1]}

    def _search_ambulance(self, location: Mapping[str, float]) -> dict[str, str]:
        lat, lon = location["latitude"], location["longitude"]
        numeric = all(isinstance(x, int | float) for x in (lat, lon))
        if not numeric or not (-90 <= lat <= 90 and -180 <= lon <= 180):
            raise ToolError(f"location {dict(location)} is no place on earth: latitude -90..90, longitude -180..180")
        services = self.memory.sos_services()
        if not services:
            raise ToolError("no ambulance is registered")
        near = min(services, key=lambda row: (row["latitude"] - lat) ** 2 + (row["longitude"] - lon) ** 2)
        self._did("search_ambulance", near["ambulance_id"])
        return {"ambulance_id": near["ambulance_id"], "phone_no": near["phone_no"]}

    def _send_message(self, text: str, phone_no: str = "", to_emergency_contacts: bool = False) -> bool:
        if not phone_no and not to_emergency_contacts:
            raise ToolError("send_message: give phone_no, or to_emergency_contacts=True")
        to = [phone_no] if phone_no else []
        if to_emergency_contacts:
            contacts = [row["phone_no"] for row in self.memory.rows("contacts", self.user_id)]
            if not contacts and not phone_no:
                raise ToolError(f"user {self.user_id} has no emergency contacts: add one first")
            to += contacts
        self.outbox += [{"to": number, "text": text} for number in to]
        placed = all(str(x) in text for x in self.world.location)  # help finds nobody without a place
        self._did("send_message", *to, str(placed), text=text)
        return True

    def done(self, contents: bool = True) -> Counter[tuple[str, ...]]:
        """What the session achieved: how often it had each effect, looked-up things left out. Without ``contents``
        the texts are left out as well: who was told, asked or recorded, not what."""
        kept = (effect for effect in self.effects if effect[0] not in LOOKS)
        return Counter(kept if contents else (effect[:-1] for effect in kept))

    def _did(self, *effect: str, text: str = "") -> None:
        self.effects.append((*effect, text))


@dataclass(frozen=True)
class Question:
    """A question to the user that waits for an answer."""

    user_id: str
    text: str
