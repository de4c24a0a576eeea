"""The assistant's panel and the comparisons behind its claims."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from reprobook.errors import ReprobookError
from reprobook.papers.medical_assistant import agents, panel, scenarios, tools, verdicts
from reprobook.papers.medical_assistant.evaluate import Said
from reprobook.papers.medical_assistant.memory import LongTerm, MemoryUnitError
from reprobook.papers.medical_assistant.session import Session
from reprobook.papers.medical_assistant.vitals import Vitals, detect, simulate

CASE = scenarios.make_case("General", 0, np.random.default_rng(1))
TRUE, _ = scenarios.play(CASE)


class Script:
    """An agent that says the turns it is given."""

    def __init__(self, turns: list[str]) -> None:
        self.turns = list(turns)

    def respond(self, context: scenarios.Trajectory, role: str) -> str:
        return self.turns.pop(0)


def app(turns: list[str] | None = None) -> panel.App:
    env = CASE.environment()
    env.answer = lambda question: None
    spoken = [turn.text for turn in TRUE.turns if turn.role in ("Planner", "Caller")]
    return panel.App(Script(spoken if turns is None else turns), env, CASE.user_id, simulate(24, 3))


def test_a_chat_waits_for_the_user_and_books() -> None:
    made = app()
    first = made.chat(CASE.opening)
    assert first[0] == ("user", CASE.opening) and made.session is not None and made.session.status == "waiting"
    assert first[-1][0] == "assistant" and first[-1][1].startswith("Shall I book Dr")
    second = made.chat("Yes, please.")
    assert made.session.status == "finished" and made.session.session == "1"
    assert [what for who, what in second if who == "assistant"][-1].startswith("Booked: Dr")
    assert len(made.env.memory.rows("appointments", CASE.user_id)) == 2
    assert len(made.env.memory.rows("conversations", CASE.user_id)) == 1


def test_a_later_run_takes_up_the_conversation_and_the_reminders() -> None:
    before = app()
    before.chat(CASE.opening)
    before.prescribe("Prescription\nParacetamol 1-0-1 for 2 days\nSignature", datetime(2025, 3, 7, 6, 0))
    spoken = [turn.text for turn in TRUE.turns if turn.role in ("Planner", "Caller")]
    asked = len([t for t in before.session.turns if t.role in ("Planner", "Caller")]) if before.session else 0
    later = panel.App(Script(spoken[asked:]), before.env, CASE.user_id, simulate(24, 3))
    assert later.reopen()[-1][1].startswith("Shall I book Dr")
    assert later.pending == before.pending and len(later.pending) == 2
    later.chat("Yes, please.")
    assert later.session is not None and later.session.status == "finished" and later.session.session == "1"
    assert len(later.env.memory.rows("conversations", CASE.user_id)) == 1
    assert panel.App(Script([]), before.env, CASE.user_id, simulate(24, 3)).reopen() == []  # nothing is open


def test_nonsense_is_shown_as_it_is_and_admitted() -> None:
    lines = app(["blah", "blub"]).chat("hello")
    assert ("planner (unreadable)", "blah") in lines and lines[-1][1].startswith("I could not finish")


def test_the_watch_stores_readings_and_an_alarm_opens_a_soft_sos() -> None:
    made = app([tools.write_plan("All is done.", "Finish.")])
    alarm = None
    while alarm is None:
        at, vitals, alarm = made.watch()
    rows = made.env.memory.rows("vitals", CASE.user_id)
    assert len(rows) == made.seen and [row["soft_sos"] for row in rows] == [0] * (made.seen - 1) + [1]
    assert rows[-1]["at"] == at.isoformat() and rows[-1]["heart_rate"] == vitals.heart_rate
    lines = made.soft_sos(alarm)
    assert lines[0] == ("user", f"Health monitor: {alarm.message}.")
    made.seen = len(made.frame)
    with pytest.raises(ReprobookError, match="no further reading"):
        made.watch()


def test_reminders_are_kept_until_the_last_dose() -> None:
    made, start = app(), datetime(2025, 3, 7, 6, 0)
    made.prescribe("Prescription\nParacetamol 1-0-1 for 2 days\nVitamin D 1-0-0 for 1 day\nSignature", start)
    assert len(made.env.memory.rows("reminders", CASE.user_id)) == 3
    fired = [r for k in range(3 * 24 * 12) for r in made.remind(start + timedelta(minutes=5 * k))]
    assert len(fired) == 2 * 2 + 1
    assert made.pending == [] and made.env.memory.rows("reminders", CASE.user_id) == []
    with pytest.raises(ReprobookError, match="no dose"):
        made.prescribe("Prescription\nParacetamol", start)


def test_a_report_has_the_readings_that_were_watched() -> None:
    made = app()
    for _ in range(24):
        at, _, _ = made.watch()
    report = made.report(at + timedelta(minutes=5))
    assert report.readings == 24
    assert report.means["heart_rate"] == pytest.approx(made.frame["heart_rate"].iloc[:24].mean())
    assert made.env.memory.rows("reports", CASE.user_id)[0]["content"] == report.text


def test_buttons_do_their_work_and_tell_errors() -> None:
    made = app()
    box = panel.panel(made)
    notice, tabs = box.children
    assert "no medical advice" in notice.value
    chat, vitals, medicine = tabs.children
    log, (message, sos), delete = chat.children[0], chat.children[1].children, chat.children[2]
    assert sos.description == "SOS"
    message.value = CASE.opening
    assert "Shall I book Dr" in log.value and message.value == ""
    vitals.children[0].click()
    curves, health = vitals.children[2:]
    assert made.seen == 12 and "12 readings" in health.value and bytes(curves.value).startswith(b"\x89PNG")
    vitals.children[1].click()
    assert "Report for" in health.value and "<br>" in health.value
    medicine.children[0].value = "Prescription\nParacetamol"
    medicine.children[1].click()
    assert "no dose" in medicine.children[2].value
    for _ in range(2):  # read twice: no dose is doubled
        medicine.children[0].value = "Prescription\nParacetamol 1-0-1 for 2 days"
        medicine.children[1].click()
    assert medicine.children[3].value.count("Paracetamol") == 2 and "reminders.ics" in medicine.children[4].value
    again = panel.panel(panel.App(Script([]), made.env, CASE.user_id, made.frame)).children[1].children
    assert again[2].children[3].value.count("Paracetamol") == 2 and "reminders.ics" in again[2].children[4].value
    delete.click()
    assert "deleted" in log.value and made.session is None
    assert CASE.opening not in log.value and not health.value and curves.layout.display == "none" and not curves.value
    assert not any(box.value for box in (medicine.children[0], *medicine.children[2:]))
    with pytest.raises(MemoryUnitError, match="unknown"):
        made.env.memory.patient(CASE.user_id)
    vitals.children[0].click()
    assert "unknown" in health.value


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuses sockets and look-ups of names, and fails afterwards even if the refusal was caught."""
    tried: list[object] = []

    def refuse(*arguments: object, **_: object) -> None:
        tried.append(arguments)
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "__init__", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield
    assert tried == []


@pytest.mark.usefixtures("no_sockets")
def test_nothing_leaves_the_machine() -> None:
    made = app()
    made.agent = agents.RetrievalAgent([TRUE])
    made.chat(CASE.opening)
    assert made.session is not None and made.session.status == "waiting"
    made.chat("Yes, please.")
    assert made.session.status == "finished" and len(made.env.booked) == 1
    at, alarm = datetime.min, None
    while alarm is None:
        at, _, alarm = made.watch()
    made.soft_sos(alarm)
    assert made.report(at + timedelta(minutes=5)).readings == made.seen > 0
    assert made.picture().startswith(b"\x89PNG")
    made.prescribe("Prescription\nParacetamol 1-0-1 for 2 days\nSignature", datetime(2025, 3, 7, 6, 0))
    assert len(made.pending) == 2 and b"Paracetamol" in made.calendar()
    assert made.remind(made.pending[0].next_at) and made.forget() > 0


def test_shown_text_is_escaped() -> None:
    made = app(["blah", "blub"])
    box = panel.panel(made)
    chat = box.children[1].children[0]
    chat.children[1].children[0].value = "<img src=x>"
    assert "<img" not in chat.children[0].value and "&lt;img" in chat.children[0].value


# ------------------------------------------------------------------------------------------------ comparisons


def said(role: str, rows: list[tuple[str, str, str, int]]) -> list[Said]:
    return [Said(scenario, role, truth, text, str(k)) for scenario, truth, text, k in rows]


def test_planner_gain_pairs_the_same_turns() -> None:
    a = said("Planner", [("General", "a b", "a b", 0), ("Counter", "c d", "c x", 1), ("Soft SOS", "e", "x", 2)])
    b = said("Planner", [("Counter", "c d", "x x", 1), ("General", "a b", "a x", 0), ("General", "z", "z", 7)])
    gain = verdicts.planner_gain(a, b, seed=0)
    assert gain.n == 2 and gain.mean == pytest.approx(((1 - 0.5) + (0.5 - 0)) / 2)


def test_caller_gaps_and_orders() -> None:
    call = tools.write_call("get_location", {})
    other = tools.write_call("notify_user", {"user_id": "U1", "message": "hello"})
    wrong = tools.write_call("notify_user", {"user_id": "U1", "message": "bye"})
    rows = said("Planner", [(s, "a b", "a b" if s == "General" else "a x" if s != "Dietician" else "x x", k)
                            for k, s in enumerate(scenarios.APPOINTMENTS)])  # fmt: skip
    rows += said("Caller", [("General", call, call, 0), ("Counter", other, wrong, 1), ("Negative", call, "", 2),
                            ("Dietician", other, wrong, 3)])  # fmt: skip
    gaps = verdicts.caller_gaps(rows, seed=0)
    assert gaps["ToolAcc minus ValuesAcc"].mean == pytest.approx((0 + 1 + 0 + 1) / 4)
    assert verdicts.orders(rows) == {
        "planner, General is best": True, "planner, Dietician is worst": True, "caller, General is best": True,
        "caller, Negative is worst": True,
    }  # fmt: skip
    table = verdicts.table(gaps)
    assert list(table.columns) == ["difference", "mean", "low", "high", "pairs"] and isinstance(table, pd.DataFrame)
    gain = verdicts.values_gain(
        said("Caller", [("General", call, call, 0)]), said("Caller", [("General", call, "", 0)]), 0
    )
    assert gain.mean == 1 and gain.n == 1


def test_a_lock_while_the_user_answers_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ltm.sqlite"
    env = CASE.environment(memory=LongTerm(path, timeout_s=0.05))
    env.answer = lambda question: None
    made = panel.App(Script([t.text for t in TRUE.turns if t.role in ("Planner", "Caller")]), env, CASE.user_id,
                     simulate(24, 3))  # fmt: skip
    made.chat(CASE.opening)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(MemoryUnitError, match="locked"):
        made.chat("Yes, please.")
    assert made.session is not None and made.session.status == "waiting"
    other.execute("ROLLBACK")
    made.chat("Yes, please.")
    assert made.session.status == "finished" and made.session.session == "1"
    assert len(env.memory.rows("conversations", CASE.user_id)) == 1


def test_what_was_booked_stays_taken_after_a_restart() -> None:
    made = app()
    made.chat(CASE.opening)
    made.chat("Yes, please.")
    again = CASE.environment(memory=made.env.memory)
    assert again.booked == made.env.booked and len(again.booked) == 1


def test_a_session_that_is_resumed_keeps_what_another_has_booked() -> None:
    made = app()
    made.chat(CASE.opening)
    made.env.answer = CASE.answer
    spoken = [turn.text for turn in TRUE.turns if turn.role in ("Planner", "Caller")]
    Session(Script(spoken), made.env, CASE.user_id, "2").start(CASE.opening)
    again = CASE.environment(memory=made.env.memory)
    assert Session.resume(Script([]), again, CASE.user_id, "1").status == "waiting"
    assert again.booked == made.env.booked and len(again.booked) == 1


def test_forgetting_leaves_nothing_in_the_process_either() -> None:
    made = app()
    made.chat(CASE.opening)
    made.chat("Yes, please.")
    assert made.env.outbox and made.env.booked and made.env.effects
    made.forget()
    assert not (made.env.outbox or made.env.booked or made.env.effects or made.pending) and made.session is None


def test_a_later_run_goes_on_where_the_watch_was() -> None:
    made = app()
    for _ in range(7):
        made.watch()
    later = panel.App(Script([]), made.env, CASE.user_id, simulate(24, 3))
    later.reopen()
    assert later.seen == 7


# ------------------------------------------------------------------------------------------------ emergencies

EMERGENCY = {name: scenarios.make_case(name, 0, np.random.default_rng(5)) for name in ("Hard SOS start", "Soft SOS")}
LOW, HIGH = (detect(Vitals(beats, 97, 0)) for beats in (44, 130))


def helper() -> panel.App:
    """An app that has seen one conversation of each kind, in a world with ambulances."""
    made = app()
    made.agent = agents.RetrievalAgent([TRUE, *(scenarios.play(case)[0] for case in EMERGENCY.values())])
    made.env.memory.add_sos_service("A1", "555-1000", 10.0, 20.0)
    return made


def test_a_call_for_help_is_no_answer_to_the_question_that_waits() -> None:
    made = helper()
    made.chat(CASE.opening)
    asked = made.session.question if made.session else None
    lines = made.chat("SOS! Help, I fell!")
    assert {m["to"] for m in made.env.outbox} >= {phone for _, phone in scenarios.CONTACTS} and made.env.booked == []
    assert lines[-1] == ("assistant", f"Back to my question. {asked}")
    made.chat("Yes, please.")
    assert len(made.env.booked) == 1 and made.session is not None
    assert made.session.status == "finished" and made.session.session == "1"


@pytest.mark.parametrize("text", ["Yes, tell my emergency contacts.", "No, that does not help.", "I helped myself."])
def test_an_answer_is_no_call_for_help(text: str) -> None:
    made = helper()
    made.chat(CASE.opening)
    made.chat(text)
    assert len(made.env.memory.rows("conversations", CASE.user_id)) == 1


def test_an_alarm_does_not_wait_for_a_booking_but_for_another_emergency() -> None:
    assert LOW is not None and HIGH is not None
    made = helper()
    made.chat(CASE.opening)
    assert made.soft_sos(LOW)[0] == ("user", f"Health monitor: {LOW.message}.")
    assert made.session is not None and made.session.status == "waiting" and made.session.session == "2"
    assert made.soft_sos(HIGH) == [("health monitor", HIGH.message)] and made.alarms == [HIGH]
    lines = made.chat("No, I am fine.")
    assert ("user", f"Health monitor: {HIGH.message}.") in lines and made.alarms == []
    assert made.session.session == "3"
    lines = made.chat("No, I am fine.")
    assert lines[-1][1].startswith("Back to my question. Shall I book") and made.aside == []
    later = panel.App(made.agent, made.env, CASE.user_id, made.frame)
    assert later.reopen()[-1][1].startswith("Shall I book") and later.session is not None


def test_a_restart_in_the_middle_of_an_emergency_takes_up_both_questions() -> None:
    assert LOW is not None
    made = helper()
    made.chat(CASE.opening)
    made.soft_sos(LOW)
    later = panel.App(made.agent, made.env, CASE.user_id, made.frame)
    later.reopen()
    assert later.session is not None and later.session.session == "2" and len(later.aside) == 1
    assert later.chat("No, I am fine.")[-1][1].startswith("Back to my question. Shall I book")


def test_an_alarm_that_meets_a_lock_stays_in_line(tmp_path: Path) -> None:
    assert LOW is not None and HIGH is not None
    made, path = helper(), tmp_path / "ltm.sqlite"
    made.env = CASE.environment(memory=LongTerm(path, timeout_s=0.05))
    made.env.answer = lambda question: None
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    (told, kept) = made.soft_sos(LOW)
    assert "locked" in told[1] and kept == ("health monitor", LOW.message) and made.alarms == [LOW]
    other.execute("ROLLBACK")
    assert ("user", f"Health monitor: {LOW.message}.") in made.soft_sos(HIGH) and made.alarms == [HIGH]


@pytest.mark.parametrize("first", ["alarm", "message"])
def test_an_alarm_after_an_interruption_is_not_lost(first: str) -> None:
    assert LOW is not None
    made = helper()
    retrieval = made.agent

    class Stops(Script):
        def respond(self, context: scenarios.Trajectory, role: str) -> str:
            raise KeyboardInterrupt

    made.agent = Stops([])
    with pytest.raises(KeyboardInterrupt):
        made.chat(CASE.opening)
    assert made.session is not None and made.session.status == "running"
    made.agent = made.session.agent = retrieval
    if first == "message":
        made.alarms.append(LOW)  # stands in line
    lines = made.soft_sos(LOW) if first == "alarm" else made.chat("Hello?")
    assert any(what.startswith("Shall I book") for _, what in lines)
    assert any("say that again" in what for _, what in lines) == (first == "message")
    assert ("user", f"Health monitor: {LOW.message}.") in lines and made.alarms == [] and len(made.aside) == 1


def test_what_was_refused_is_not_shown_as_said() -> None:
    stranger = tools.write_call("notify_user", {"user_id": "U0", "message": "Booked: Dr Who."})
    lines = app([tools.write_plan("why", "Tell."), stranger, tools.write_plan("why", "Finish.")]).chat("hello")
    assert not any(who == "assistant" for who, _ in lines) and any("unknown" in what for _, what in lines)


def test_the_users_answer_is_shown_as_the_users() -> None:
    made = app()
    made.chat(CASE.opening)
    assert made.chat("Yes, please.")[0] == ("user", "Yes, please.")


# ------------------------------------------------------------------------------------------------ locks and sensors


def test_a_lock_loses_no_reading_and_no_dose(tmp_path: Path) -> None:
    path, start = tmp_path / "ltm.sqlite", datetime(2025, 3, 7, 6, 0)
    env = CASE.environment(memory=LongTerm(path, timeout_s=0.05))
    made = panel.App(Script([]), env, CASE.user_id, simulate(24, 3))
    made.prescribe("Prescription\nParacetamol 1-0-1 for 2 days\nSignature", start)
    before = made.pending
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(MemoryUnitError, match="locked"):
        made.watch()
    with pytest.raises(MemoryUnitError, match="locked"):
        made.remind(before[0].next_at)
    other.execute("ROLLBACK")
    assert made.seen == 0 and made.watch()[0] == made.frame["at"].iloc[0] and made.pending == before
    assert made.remind(before[0].next_at) == before[:1]
    fresh = panel.App(Script([]), env, CASE.user_id, simulate(24, 3))  # without reopen
    fresh.prescribe("Prescription\nAspirin 1-0-0 for 3 days\nSignature", start)
    fresh.remind(datetime(2025, 3, 7, 10, 0))
    assert len([r for r in fresh.pending if "Paracetamol" in r.title]) == 2


def test_a_failed_sensor_stops_neither_watch_nor_reminders_nor_report() -> None:
    frame = simulate(24, 3).astype({"heart_rate": float})
    frame.loc[118, "heart_rate"], frame.loc[5, "heart_rate"] = 300, np.nan  # 09:50 and 00:25
    made = panel.App(agents.RetrievalAgent([TRUE]), app().env, CASE.user_id, frame)
    made.prescribe("Prescription\nAspirin 1-0-0 before food for 3 days\nSignature", datetime(2025, 3, 7, 6, 0))
    vitals = panel.panel(made).children[1].children[1]
    health = vitals.children[3]
    for _ in range(24):
        vitals.children[0].click()
    assert made.seen == 288 and len(made.env.memory.rows("vitals", CASE.user_id)) == 286
    assert "00:25 vitals: heart_rate is missing" in health.value
    assert "09:50 vitals: heart_rate=300 is impossible" in health.value
    assert health.value.count("<b>reminder</b>") == 1 and "cannot do that" not in health.value
    (row,) = made.env.memory.rows("reports", CASE.user_id)
    assert "2 more left out" in row["content"]
    vitals.children[0].click()
    assert "no further reading" in health.value
