"""A grammar of trajectories with known truth: scripted agents and users, real observations from the environment.

Scenarios as in the captions of the paper's tables; the paper does not state the order of calls; it is ours. A template
fixes the wording of the user and of the planner and, where it has them, optional steps; the entities come from a pool.
"""

from __future__ import annotations

import zlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from reprobook.errors import ReprobookError
from reprobook.papers.medical_assistant.entities import FOODS, POOLS, by_time
from reprobook.papers.medical_assistant.environment import SPECIALISTS, Environment, Specialist, World
from reprobook.papers.medical_assistant.memory import LongTerm
from reprobook.papers.medical_assistant.phrases import OPENINGS, PHRASES
from reprobook.papers.medical_assistant.tools import DATE_FORMAT, NAMES, TIMESTAMP_FORMAT, write_call, write_plan
from reprobook.papers.medical_assistant.vitals import REST_BELOW, RULES, Vitals, detect

if TYPE_CHECKING:
    import numpy as np

    from reprobook.papers.medical_assistant.memory import Embed

APPOINTMENTS = ("General", "Counter", "Negative", "Dietician")
SOS = ("Hard SOS start", "Hard SOS end", "Soft SOS")
SCENARIOS = (*APPOINTMENTS, *SOS)
N_TEMPLATES = 6
TRAIN_TEMPLATES, TEST_TEMPLATES = (0, 1, 2, 3), (4, 5)
CONTACTS = (("Kim", "555-0001"), ("Sam", "555-0002"))  # whom an emergency concerns, for every patient
FINISH = "Finish."  # the action that ends a session
ROLES = ("User", "Planner", "Caller", "Observation")
Step = tuple[str, str, str, dict[str, Any]]  # reason, action, tool, arguments
Script = Generator[Step, Any, None]


@dataclass(frozen=True)
class Turn:
    """One turn: ``role`` is one of :data:`ROLES`."""

    role: str
    text: str


@dataclass(frozen=True)
class Trajectory:
    """A session as text. ``system``: the user details; ``tools``: names in the order of the prompt."""

    scenario: str
    template: int
    system: str
    tools: tuple[str, ...]
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Case:
    """Everything a session starts from: the patient, the world, the opening message and how the user answers.

    ``replies``: ``(word, answer)``; a question gets the answer of the first word that it holds, the last has no word.
    """

    scenario: str
    template: int
    user_id: str
    name: str
    symptoms: str
    opening: str
    replies: tuple[tuple[str, str], ...]
    world: World
    complaints: tuple[tuple[str, str], ...]  # symptoms, ISO time
    appointments: tuple[tuple[str, str, str], ...]
    ambulances: tuple[tuple[str, str, float, float], ...]
    wish: tuple[str, str]  # date and time range in which the user is free

    @property
    def system(self) -> str:
        """The system line: user details and clock."""
        return f"user_id {self.user_id}, name {self.name}, time {self.world.now.strftime(TIMESTAMP_FORMAT)}"

    def environment(self, embed: Embed | None = None, memory: LongTerm | None = None) -> Environment:
        """A fresh environment whose memory knows the patient (in a database of its own unless one is given; there a
        patient who is known stays as they are)."""
        memory = memory or LongTerm(embed=embed)
        if memory.knows(self.user_id):
            return Environment(self.world, memory, self.user_id, self.answer)
        memory.add_patient(self.user_id, self.name)
        memory.add_many("contacts", self.user_id, [{"name": who, "phone_no": phone} for who, phone in CONTACTS])
        memory.add_many("complaints", self.user_id, [{"symptoms": s, "at": at} for s, at in self.complaints])
        memory.add_many(
            "appointments",
            self.user_id,
            [{"symptoms": s, "specialist_id": i, "appointment_time_date": when} for s, i, when in self.appointments],
        )
        for service in self.ambulances:
            memory.add_sos_service(*service)
        return Environment(self.world, memory, self.user_id, self.answer)

    def answer(self, question: str) -> str:
        """The scripted user."""
        return next(text for word, text in self.replies if word in question)

    def say(self, key: str, **values: str) -> str:
        """The wording of ``key`` that this template has."""
        forms = PHRASES[key]
        return forms[zlib.crc32(f"{self.template} {key}".encode()) % len(forms)].format(**values)

    def step(self, key: str, tool: str, arguments: dict[str, Any], **values: str) -> Step:
        """A planner's step in the wording of this template."""
        values |= {"user_id": self.user_id, "symptoms": self.symptoms}
        return self.say(f"{key}: reason", **values), self.say(f"{key}: action", **values), tool, arguments


def make_case(scenario: str, template: int, rng: np.random.Generator, pool: str = "seed") -> Case:
    """A random case with entities of ``pool``; templates from 0 to 5."""
    if scenario not in SCENARIOS:
        raise ReprobookError(f"scenario {scenario!r} is unknown; scenarios: {', '.join(SCENARIOS)}")
    if pool not in POOLS or not 0 <= template < N_TEMPLATES:
        raise ReprobookError(f"pool {pool!r} must be one of {', '.join(POOLS)} and template {template} in 0..5")
    values = POOLS[pool]

    def draw(kind: str, n: int = 1) -> list[str]:
        return values.draw(kind, n, rng)

    who = "Dietician" if scenario == "Dietician" else str(rng.choice([s for s in SPECIALISTS if s != "Dietician"]))
    symptoms = str(rng.choice(SPECIALISTS[who]))
    before, today, day, later = sorted(draw("date", 4), key=lambda d: by_time("date", d))
    clock, begin, start, end = _hours(values.values["time"], rng)
    slot = f"{start[0]}-{start[1]}"
    (user_id,), (name,), doctors, ids = draw("user_id"), draw("name"), draw("doctor", 3), draw("specialist_id", 3)
    other = str(rng.choice([s for s in SPECIALISTS if s != who]))
    specialists = (
        Specialist(ids[0], doctors[0], other, ((day, slot),)),
        Specialist(ids[1], doctors[1], who, ((day, slot), (later, slot))),
        Specialist(ids[2], doctors[2], who, ((later, slot),)),
    )  # fmt: skip
    lat, lon, lat2, lon2 = draw("place", 4)
    ambulances = [*zip(draw("ambulance_id", 2), draw("phone", 2), (float(lat), float(lat2)),
                       (float(lon), float(lon2)), strict=True)]  # fmt: skip
    earlier = _iso(before, clock)
    food = str(rng.choice(FOODS))
    words = {"symptoms": symptoms, "date": day, "range": f"{begin}-{end}", "alarm": _alarm(rng), "before": before,
             "later": later}  # fmt: skip
    yes = scenario != "Negative"
    weak = ("Not well, yes please.", "I feel weak, yes.")[template % 2]
    replies = (
        ("book", "Yes, please." if yes else "No, not now."),
        ("Since when", f"Since {before}, quite strong."),
        ("eat", f"Mostly {food}."),
        ("feel", weak if rng.random() < 0.5 else "No, I am fine."),
        ("", "Yes."),
    )
    world = World(datetime.strptime(f"{today} {clock}", TIMESTAMP_FORMAT), specialists, (float(lat), float(lon)))
    return Case(
        scenario, template, user_id, name, symptoms, OPENINGS[scenario][template].format(**words), replies, world,
        ((symptoms, earlier), ("fever", earlier)), ((symptoms, ids[2], f"{slot} {before}"),), tuple(ambulances),
        (day, f"{begin}-{end}"),
    )  # fmt: skip


def _hours(times: Sequence[str], rng: np.random.Generator) -> tuple[str, str, tuple[str, str], str]:
    """Clock, begin of the user's free time, a slot of two neighbouring times in it, and its end."""
    i, j, k, end = sorted(int(x) for x in rng.choice(len(times) - 1, 4, replace=False))
    return times[i], times[j], (times[k], times[k + 1]), times[end + 1]


def _alarm(rng: np.random.Generator) -> str:
    """What the health monitor says about a reading that breaks one of its rules."""
    rule = RULES[rng.integers(len(RULES))]
    step = int(rng.integers(1, 15))
    values = {"heart_rate": 80, "oxygen": 97, rule.field: rule.limit + (step if rule.sign == ">" else -step)}
    alarm = detect(Vitals(**values, steps=0 if rule.resting else 2 * REST_BELOW))
    assert alarm is not None and alarm.rule is rule
    return alarm.message


def _iso(day: str, time: str) -> str:
    return datetime.strptime(f"{day} {time}", TIMESTAMP_FORMAT).isoformat()


def play(case: Case, embed: Embed | None = None) -> tuple[Trajectory, Environment]:
    """The true trajectory of ``case``: its script against the environment, and the environment afterwards."""
    env = case.environment(embed)
    turns = [Turn("User", case.opening)]
    script = _SCRIPTS[case.scenario](case)
    seen: Any = None
    while True:
        try:
            reason, action, tool, arguments = script.send(seen)
        except StopIteration:
            break
        seen = env.call(tool, arguments)
        turns += [
            Turn("Planner", write_plan(reason, action)), Turn("Caller", write_call(tool, arguments)),
            Turn("Observation", repr({"result": seen})),
        ]  # fmt: skip
    turns.append(Turn("Planner", write_plan(case.say("finish: reason"), FINISH)))
    env.memory.close()
    return Trajectory(case.scenario, case.template, case.system, NAMES, tuple(turns)), env


# ---------------------------------------------------------------------------------------------- scripts


def _booking(case: Case, find: Mapping[str, Any], key: str) -> Script:
    """Find a slot, ask, and book it, or not, as the user says."""
    day, free = case.wish
    slot = yield case.step(key, "get_available_specialists", {"symptoms": case.symptoms, **find}, date=day, range=free)
    words = {"name": slot["name"], "date": slot["date"], "slot": slot["available_slot"], "id": slot["specialist_id"]}
    question = "Shall I book {name} on {date} at {slot}?".format(**words)
    said = yield case.step("ask", "get_input_from_user", {"user_id": case.user_id, "questions": question}, **words)
    if said["user"].startswith("No"):
        declined = {"user_id": case.user_id, "message": "No appointment was made."}
        yield case.step("declined", "notify_user", declined)
        return
    when = f"{slot['available_slot']} {slot['date']}"
    booking = {"user_id": case.user_id, "specialist_id": slot["specialist_id"], "appointment_time_date": when}
    yield case.step("book", "confirm_appointment", booking, **words)
    saved = {"user_id": case.user_id, "symptoms": case.symptoms, **{k: booking[k] for k in booking if k != "user_id"}}
    yield case.step("save", "save_appointment_history", saved, **words)
    message = "Booked: {name}, {date}, {slot}.".format(**words)
    yield case.step("booked", "notify_user", {"user_id": case.user_id, "message": message}, **words)


def _schedule(case: Case) -> dict[str, Any]:
    return {"user_schedule": {"date": case.wish[0], "time_range": case.wish[1]}}


def _past(case: Case) -> Script:
    found = yield case.step("past", "retrieve_past_complaints", {"user_id": case.user_id, "symptoms": case.symptoms})
    if case.template % 2:
        arguments = {"user_id": case.user_id, "past_complaints": found, "current_symptoms": case.symptoms}
        yield case.step("follow", "follow_up_with_user", arguments)


def _general(case: Case) -> Script:
    yield from _past(case)
    yield from _booking(case, _schedule(case), "find")


def _counter(case: Case) -> Script:
    question = f"Since when do you have {case.symptoms}, and how strong is it?"
    yield case.step("since", "get_input_from_user", {"user_id": case.user_id, "questions": question})
    now = case.world.now.strftime(TIMESTAMP_FORMAT)
    stored = {"user_id": case.user_id, "symptoms": case.symptoms, "timestamp": now}
    yield case.step("store", "store_symptoms", stored)
    if case.template % 2:
        yield case.step("history", "get_appointment_history", {"user_id": case.user_id})
    yield from _booking(case, _schedule(case), "find")


def _negative(case: Case) -> Script:
    first = (case.world.now - timedelta(days=365)).strftime(DATE_FORMAT)
    last = case.world.now.strftime(DATE_FORMAT)
    arguments: dict[str, Any] = {"user_id": case.user_id, "symptoms": case.symptoms}
    if case.template % 2:
        first = case.complaints[0][1][:10]
        first = datetime.fromisoformat(first).strftime(DATE_FORMAT)
        arguments["date_range"] = {"start_date": first, "end_date": last}
    yield case.step("range" if case.template % 2 else "past", "retrieve_past_complaints", arguments,
                    first=first, last=last)  # fmt: skip
    yield from _booking(case, _schedule(case), "find")


def _dietician(case: Case) -> Script:
    question = "What do you eat on a usual day?"
    yield case.step("meals", "get_input_from_user", {"user_id": case.user_id, "questions": question})
    yield from _booking(case, {"specialization": "Dietician"}, "refer")


def _hard_start(case: Case) -> Script:
    help_ = {"user_id": case.user_id, "message": "Emergency mode is on, help is called."}
    yield case.step("alert", "notify_user", help_)
    place = yield case.step("locate", "get_location", {})
    found = yield case.step("ambulance", "search_ambulance", {"location": place})
    where = f"{place['latitude']}, {place['longitude']}"
    text = f"Emergency: {case.name} needs help at {where}. Ambulance {found['ambulance_id']}, {found['phone_no']}."
    yield case.step("contacts", "send_message", {"text": text, "to_emergency_contacts": True},
                    name=case.name, ambulance=found["ambulance_id"])  # fmt: skip


def _hard_end(case: Case) -> Script:
    text = f"{case.name} is safe. The emergency is over."
    yield case.step("cancel", "send_message", {"text": text, "to_emergency_contacts": True}, name=case.name)
    over = {"user_id": case.user_id, "message": "Emergency mode is off."}
    yield case.step("off", "notify_user", over)


def _soft(case: Case) -> Script:
    alarm = case.opening.split(": ", 1)[-1].rstrip(".")
    message = f"Your watch reports {alarm}."
    yield case.step("warn", "notify_user", {"user_id": case.user_id, "message": message}, alarm=alarm)
    asked = {"user_id": case.user_id, "questions": "How do you feel? Shall I tell your emergency contacts?"}
    said = yield case.step("feel", "get_input_from_user", asked)
    if said["user"].startswith("No,"):
        alone = {"user_id": case.user_id, "message": "Nobody was told. Please rest and measure again."}
        yield case.step("alone", "notify_user", alone)
        return
    place = yield case.step("locate", "get_location", {})
    text = f"{case.name}: {alarm}, at {place['latitude']}, {place['longitude']}."
    yield case.step("tell", "send_message", {"text": text, "to_emergency_contacts": True}, name=case.name)


_SCRIPTS = {
    "General": _general, "Counter": _counter, "Negative": _negative, "Dietician": _dietician,
    "Hard SOS start": _hard_start, "Hard SOS end": _hard_end, "Soft SOS": _soft,
}  # fmt: skip


def make_cases(
    scenarios: Sequence[str], templates: Sequence[int], n: int, rng: np.random.Generator, pool: str = "seed"
) -> list[Case]:
    """``n`` cases of each scenario, going round ``templates``."""
    return [make_case(s, templates[i % len(templates)], rng, pool) for s in scenarios for i in range(n)]


def with_tools(trajectory: Trajectory, order: Sequence[str]) -> Trajectory:
    """The trajectory with its tools listed in another order; they must be the same tools."""
    if sorted(order) != sorted(trajectory.tools):
        raise ReprobookError("with_tools: the order must hold the same tools")
    return replace(trajectory, tools=tuple(order))
