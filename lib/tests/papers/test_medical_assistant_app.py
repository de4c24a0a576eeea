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
from reprobook.papers.medical_assistant.vitals import simulate

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
    waiting = app()
    waiting.chat(CASE.opening)
    assert waiting.soft_sos(alarm) == [("health monitor", alarm.message)]  # the question that waits is not lost
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
    log, message, delete = chat.children
    message.value = CASE.opening
    assert "Shall I book Dr" in log.value and message.value == ""
    vitals.children[0].click()
    curves, health = vitals.children[2:]
    assert made.seen == 12 and "bpm" in health.value and bytes(curves.value).startswith(b"\x89PNG")
    vitals.children[1].click()
    assert "Report for" in health.value and "<br>" in health.value
    medicine.children[0].value = "Prescription\nParacetamol"
    medicine.children[1].click()
    assert "no dose" in medicine.children[2].value
    delete.click()
    assert "deleted" in log.value and made.session is None
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
    chat.children[1].value = "<img src=x>"
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
