"""The assistant's tools, memory, environment, trajectories and measures."""

from __future__ import annotations

import re
import socket
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reprobook.errors import ReprobookError
from reprobook.papers.medical_assistant import agents, augment, evaluate, scenarios, tools
from reprobook.papers.medical_assistant.entities import PATTERNS, POOLS, found
from reprobook.papers.medical_assistant.environment import Environment, Question
from reprobook.papers.medical_assistant.evaluate import Said
from reprobook.papers.medical_assistant.memory import LongTerm, MemoryUnitError, remembered, words
from reprobook.papers.medical_assistant.samples import interleave
from reprobook.papers.medical_assistant.session import Session, in_random_order

RNG = np.random.default_rng(3)
CASES = [scenarios.make_case(s, t, RNG, "seed") for s in scenarios.SCENARIOS for t in range(scenarios.N_TEMPLATES)]
TRUE = [scenarios.play(case)[0] for case in CASES]


# ------------------------------------------------------------------------------------------------ tools


def test_the_table_of_tools_is_the_papers() -> None:
    assert len(tools.NAMES) == 12 and len(tools.specs("paper")) == 15
    twice = {name for name, n in Counter(t.name for t in tools.specs("paper")).items() if n == 2}
    assert twice == {"get_available_specialists", "confirm_appointment", "save_appointment_history"}
    first = next(t for t in tools.specs("paper") if t.name == "confirm_appointment")
    assert "appointment_time" in first.required
    assert "appointment_time" not in {p.name for p in first.parameters}  # the paper's wrong requirement
    with pytest.raises(ReprobookError, match="'one', 'paper'"):
        tools.specs("all")


@pytest.mark.parametrize("tool", tools.specs(), ids=lambda tool: tool.name)
def test_a_short_entry_says_what_the_schema_says(tool: tools.Tool) -> None:
    schema = tool.schema()
    assert list(schema) == ["Name", "Description", "Parameters", "Required Parameters", "Returns"]
    name, inside = re.fullmatch(r"(\w+)\((.*)\)", tool.short()).groups()
    assert name == schema["Name"]
    parts = re.findall(r"(\w+)(\??)(?:{([^}]*)})?(?:, |$)", inside)
    read = {p: (not optional, tuple(fields.split(", ")) if fields else ()) for p, optional, fields in parts if p}
    required = set(schema["Required Parameters"])
    assert read == {p.name: (p.name in required, p.fields) for p in tool.parameters}


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("book_appointment", {}, "'book_appointment' does not exist; tools: retrieve_past_complaints"),
        ("notify_user", {"user_id": "U1"}, "required parameter 'message' is missing"),
        ("notify_user", {"user_id": "U1", "message": "x", "tone": "kind"}, "unknown parameter 'tone'"),
        ("notify_user", {"user_id": 7, "message": "x"}, "'user_id' is 7; it must be of type string"),
        ("notify_user", {"user_id": "U1", "message": " "}, "'message' is empty"),
        ("send_message", {"text": "x", "to_emergency_contacts": "True"}, "must be of type boolean"),
        ("search_ambulance", {"location": {"latitude": 1.0}}, "must have latitude, longitude"),
        ("get_location", {"user_id": "U1"}, "parameters: none"),
    ],
)
def test_bad_calls_are_named(name: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(tools.ToolError, match=message):
        tools.check_call(name, arguments)


def test_each_of_the_papers_entries_can_accept_a_call() -> None:
    by_symptoms = {"symptoms": "x", "specialization": "Dietician"}
    tools.check_call("get_available_specialists", by_symptoms, "paper")
    with pytest.raises(tools.ToolError, match="missing"):
        tools.check_call("get_available_specialists", {"symptoms": "x"}, "paper")
    tools.check_call("get_available_specialists", {"symptoms": "x"})


LEAF = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9)
)
PLAIN = LEAF | st.lists(LEAF, max_size=2) | st.dictionaries(st.text(max_size=4), LEAF, max_size=2)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(max_size=8), PLAIN, max_size=3))
def test_calls_survive_writing_and_parsing(arguments: dict[str, object]) -> None:
    assert tools.parse_call(tools.write_call("notify_user", arguments)) == ("notify_user", arguments)


@pytest.mark.parametrize(
    "text",
    ["", "hello", "<tool>x</tool>", "<tool>x</tool><parameters>{'a': </parameters>",
     "<tool>x</tool><parameters>[1]</parameters>", "<tool>x</tool><parameters>{1: 2}</parameters>",
     "<tool>x</tool><parameters>" + "[" * 5000 + "</parameters>", "<tool>x</tool><parameters>" + "a" * 20_000],
)  # fmt: skip
def test_unreadable_calls_are_errors(text: str) -> None:
    with pytest.raises(tools.ToolError):
        tools.parse_call(text)


def test_model_output_is_never_evaluated(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    evil = f"<tool>notify_user</tool><parameters>{{'message': open({str(mark)!r}, 'w')}}</parameters>"
    with pytest.raises(tools.ToolError, match="no Python literal"):
        tools.parse_call(evil)
    assert not mark.exists()


@pytest.mark.parametrize("text", ["25:00-26:00", "10:00-09:00", "10:00", "10:00-10:60", "a-b", "9:00-10:00"])
def test_impossible_times(text: str) -> None:
    with pytest.raises(tools.ToolError):
        tools.parse_range(text)


# ------------------------------------------------------------------------------------------------ memory


def patient(path: Path | str = ":memory:", **options: object) -> LongTerm:
    memory = LongTerm(path, **options)
    memory.add_patient("U1", "Maya", born=1970)
    return memory


def test_long_term_memory_persists_and_short_term_does_not(tmp_path: Path) -> None:
    memory = patient(tmp_path / "ltm.sqlite")
    memory.add("contacts", "U1", name="Tom", phone_no="555-1000")
    memory.close()
    again = LongTerm(tmp_path / "ltm.sqlite")
    assert again.patient("U1") == {"user_id": "U1", "name": "Maya", "born": 1970}
    assert again.rows("contacts", "U1") == [{"id": 1, "name": "Tom", "phone_no": "555-1000"}]
    case = CASES[0]
    env = case.environment(memory=again)
    one, two = (Session(Script([]), env, case.user_id, name) for name in "ab")
    one.memory.turns.append(scenarios.Turn("User", "hello"))
    assert two.turns == []


def test_a_known_patient_is_not_added_again(tmp_path: Path) -> None:
    memory = LongTerm(tmp_path / "ltm.sqlite")
    for _ in range(2):
        CASES[0].environment(memory=memory)
    assert len(memory.rows("complaints", CASES[0].user_id)) == 2


def test_a_patient_is_deleted_with_one_call(tmp_path: Path) -> None:
    path = tmp_path / "ltm.sqlite"
    memory = patient(path)
    memory.add_patient("U2", "Tom")
    for user in ("U1", "U2"):
        memory.add("complaints", user, symptoms=f"secret of {user}", at=datetime(2025, 3, 1))
        memory.save_conversation(user, "1", {"turns": []})
    assert memory.delete_patient("U1") == 3
    with pytest.raises(MemoryUnitError, match="'U1' is unknown"):
        memory.rows("complaints", memory.patient("U1")["user_id"])
    assert len(memory.rows("complaints", "U2")) == 1
    memory.close()
    content = path.read_bytes()
    assert b"secret of U1" not in content and b"secret of U2" in content


def test_no_fragment_of_a_deleted_patient_stays_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect

    def plain(*arguments: object, **options: object) -> sqlite3.Connection:
        made = connect(*arguments, **options)  # type: ignore[call-overload]
        made.execute("PRAGMA secure_delete = OFF")  # SQLite's own default; some builds, perhaps this one, switch it on
        return made

    monkeypatch.setattr(sqlite3, "connect", plain)
    path = tmp_path / "ltm.sqlite"
    memory = LongTerm(path)
    memory.add_patient("user-7391", "Philomena", street="Larkspur-Lane")
    memory.add_patient("user-2", "Tom")
    report = " ".join(f"kidney{k:04d}" for k in range(2000))  # 22 kB, so it has whole pages of its own
    memory.add("reports", "user-7391", at=datetime(2025, 3, 1), content=report)
    memory.add_many("complaints", "user-7391", [{"symptoms": f"sciatica{k}"} for k in range(300)])
    memory.add("contacts", "user-7391", name="Wilhelmina", phone_no="555-8264")
    memory.save_conversation("user-7391", "1", {"turns": ["thyroiditis"]})
    memory.add("complaints", "user-2", symptoms="hiccups")
    theirs = [b"user-7391", b"Philomena", b"Larkspur", b"kidney", b"sciatica", b"Wilhelmina", b"8264", b"thyroiditis"]
    assert all(text in path.read_bytes() for text in theirs)
    assert memory.delete_patient("user-7391") == 1 + 1 + 300 + 1 + 1
    after = path.read_bytes()
    assert [text for text in theirs if text in after] == [] and b"hiccups" in after
    assert memory._db.execute("PRAGMA secure_delete").fetchone()[0] == 1


def test_a_locked_database_is_told_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ltm.sqlite"
    memory = patient(path, timeout_s=0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(MemoryUnitError, match="locked by another program; nothing was written"):
        memory.add("contacts", "U1", name="Tom", phone_no="1")
    other.execute("ROLLBACK")
    memory.add("contacts", "U1", name="Tom", phone_no="1")
    assert len(memory.rows("contacts", "U1")) == 1


def test_a_reader_at_the_end_of_a_write_loses_nothing_later(tmp_path: Path) -> None:
    path = tmp_path / "ltm.sqlite"
    store = LongTerm(path, timeout_s=0.05)
    store.add_patient("U1", "Ana")
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM patients").fetchall()  # a shared lock: only the end of a write meets it
    with pytest.raises(MemoryUnitError, match="locked"):
        store.add("contacts", "U1", name="Kim", phone_no="1")
    assert store.rows("contacts", "U1") == []
    reader.execute("ROLLBACK")
    store.add("contacts", "U1", name="Sam", phone_no="2")
    seen = reader.execute("SELECT name FROM contacts").fetchall()
    assert seen == [("Sam",)]  # kept in the file, not only in an open transaction


def test_a_result_that_could_not_be_kept_is_no_observation(tmp_path: Path) -> None:
    case, path = CASES[0], tmp_path / "ltm.sqlite"
    reader = sqlite3.connect(path, isolation_level=None)

    class Leaves(LongTerm):
        """The reader leaves as soon as it has been in the way once."""

        def _clear(self, error: sqlite3.Error) -> MemoryUnitError:
            reader.execute("ROLLBACK")
            return super()._clear(error)

    class Reads(Script):
        def respond(self, context: scenarios.Trajectory, role: str) -> str:
            if role == "Caller":
                reader.execute("BEGIN")
                reader.execute("SELECT * FROM patients").fetchall()
            return super().respond(context, role)

    env = case.environment(memory=Leaves(path, timeout_s=0.05))
    told = tools.write_call("notify_user", {"user_id": case.user_id, "message": "hello"})
    said = [tools.write_plan("why", "Tell."), told, tools.write_plan("why", "Finish.")]
    session = Session(Reads(said), env, case.user_id)
    assert session.start("hello") == "finished"
    (observed,) = (turn.text for turn in session.turns if turn.role == "Observation")
    assert "locked" in observed and env.outbox == [] and env.effects == []


def test_a_damaged_database_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "ltm.sqlite"
    path.write_bytes(b"not a database, but somebody's data" * 50)
    before = path.read_bytes()
    with pytest.raises(MemoryUnitError, match="damaged"):
        LongTerm(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["noise", "the page before it"])  # SQLite raises the one, and reports the other
def test_damage_in_the_middle_is_found_on_opening_and_not_touched(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "ltm.sqlite"
    memory = patient(path)
    memory.add_many("complaints", "U1", [{"symptoms": f"complaint {k:04d} {'x' * 200}"} for k in range(500)])
    size = memory._db.execute("PRAGMA page_size").fetchone()[0]
    memory.close()
    content = path.read_bytes()
    start = content.index(b"complaint 0250") // size * size  # a page of rows, which opening has no other reason to read
    page = b"\xff" * size if damage == "noise" else content[start - size : start]
    damaged = content[:start] + page + content[start + size :]
    path.write_bytes(damaged)
    with pytest.raises(MemoryUnitError, match="(?s)is damaged .*left as it is"):
        LongTerm(path)
    assert path.read_bytes() == damaged and list(tmp_path.iterdir()) == [path]


def test_an_error_while_rows_are_replaced_leaves_the_old_ones(tmp_path: Path) -> None:
    memory = patient(tmp_path / "ltm.sqlite")
    memory.add_many("reminders", "U1", [{"title": "Aspirin", "days_left": 2}, {"title": "Iron", "days_left": 1}])
    before = memory.rows("reminders", "U1")
    # SQLite's integers have 64 bits: the second row fails after the deletion and the first row
    with pytest.raises(OverflowError):
        memory.replace_all("reminders", "U1", [{"title": "New", "days_left": 1}, {"title": "Bad", "days_left": 2**70}])
    assert [row["title"] for row in before] == ["Aspirin", "Iron"]
    assert memory.rows("reminders", "U1") == before
    assert LongTerm(tmp_path / "ltm.sqlite").rows("reminders", "U1") == before
    memory.replace_all("reminders", "U1", [{"title": "New", "days_left": 1}])
    assert [row["title"] for row in memory.rows("reminders", "U1")] == ["New"]


def test_many_rows_are_written_all_or_none() -> None:
    memory = patient()
    rows = [{"at": datetime(2025, 3, 1), "heart_rate": 60}, {"at": object(), "heart_rate": 61}]
    with pytest.raises(TypeError):
        memory.add_many("vitals", "U1", rows)
    assert memory.rows("vitals", "U1") == []
    with pytest.raises(MemoryUnitError, match="no column 'pulse'"):
        memory.add("vitals", "U1", pulse=3)
    with pytest.raises(MemoryUnitError, match="no table 'patients'"):
        memory.rows("patients", "U1")


def test_retrieval_finds_the_similar_complaint_in_time() -> None:
    memory = patient()
    for text, day in (("dry cough at night", 1), ("knee pain", 2), ("dry cough", 9)):
        memory.add("complaints", "U1", symptoms=text, at=datetime(2025, 3, day))
    assert [r["symptoms"] for r in memory.past_complaints("U1", "dry cough")] == ["dry cough", "dry cough at night"]
    early = memory.past_complaints("U1", "dry cough", until=datetime(2025, 3, 9))
    assert [r["symptoms"] for r in early] == ["dry cough at night"]
    assert early[0]["similarity"] == pytest.approx(2 / np.sqrt(2 * 4))  # two words of two and four in common
    assert memory.past_complaints("U1", "hives") == []


def test_remembered_vectors_are_computed_once() -> None:
    asked: list[str] = []

    def embed(texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        return words(texts)

    fast = remembered(embed)
    assert np.array_equal(fast(["a b", "c"]), words(["a b", "c"]))
    fast(["c", "a b", "d"])
    assert asked == ["a b", "c", "d"]


# ------------------------------------------------------------------------------------------------ environment


def environment(scenario: str = "General", **changes: object) -> tuple[scenarios.Case, Environment]:
    case = replace(scenarios.make_case(scenario, 0, np.random.default_rng(0)), **changes)
    return case, case.environment()


def test_the_best_slot_is_the_first_that_fits() -> None:
    case, env = environment()
    who = case.world.specialists[1]
    day, slot = who.slots[0]
    wish = {"date": case.wish[0], "time_range": case.wish[1]}
    expected = {"specialist_id": who.specialist_id, "name": who.name, "available_slot": slot, "date": day}
    assert env.call("get_available_specialists", {"symptoms": case.symptoms, "user_schedule": wish}) == expected
    env.call("confirm_appointment", {"user_id": case.user_id, "specialist_id": who.specialist_id,
                                     "appointment_time_date": f"{slot} {day}"})  # fmt: skip
    with pytest.raises(tools.ToolError, match="no free slot"):
        env.call("get_available_specialists", {"symptoms": case.symptoms, "user_schedule": wish})


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("notify_user", {"user_id": "U0000", "message": "x"}, "user 'U0000' is unknown"),
        ("confirm_appointment", {"specialist_id": "S100", "appointment_time_date": "10:00-10:30 01/01/20"}, "is past"),
        ("confirm_appointment", {"specialist_id": "S100", "appointment_time_date": "10:00-10:30 31/02/25"}, "no date"),
        ("confirm_appointment", {"specialist_id": "S1", "appointment_time_date": "24:00-25:00 01/03/30"}, "times run"),
        ("confirm_appointment", {"specialist_id": "S999", "appointment_time_date": "10:00-10:30 01/03/30"}, "unknown"),
        ("save_appointment_history", {"symptoms": "x", "specialist_id": "{s}", "appointment_time_date":
                                      "10:00-10:30 01/03/30"}, "was confirmed"),
        ("get_available_specialists", {"symptoms": "x", "specialization": "Wizard"}, "'Wizard' is unknown"),
        ("get_available_specialists", {"symptoms": "x", "user_schedule": {"date": "01/01/20", "time_range":
                                       "10:00-11:00"}}, "is past"),
        ("store_symptoms", {"symptoms": "x", "timestamp": "yesterday"}, "not DD/MM/YY HH:MM"),
        ("search_ambulance", {"location": {"latitude": 100.0, "longitude": 0.0}}, "no place on earth"),
        ("send_message", {"text": "x"}, "give phone_no, or to_emergency_contacts"),
        ("retrieve_past_complaints", {"symptoms": "x",
          "date_range": {"start_date": "02/01/25", "end_date": "01/01/25"}},
         "before it starts"),
    ],
)  # fmt: skip
def test_calls_without_meaning_are_errors(name: str, arguments: dict[str, object], message: str) -> None:
    case, env = environment()
    known = {p.name for tool in tools.find_specs(name) for p in tool.parameters}
    full = {"user_id": case.user_id, **arguments} if "user_id" in known else dict(arguments)
    if full.get("specialist_id") == "{s}":
        full["specialist_id"] = case.world.specialists[0].specialist_id
    with pytest.raises(tools.ToolError, match=message):
        env.call(name, full)
    assert env.outbox == [] and env.booked == []


def test_the_nearest_ambulance_comes() -> None:
    # in order of ids: the same latitude but 40 degrees away, the nearest, the same longitude but 40 degrees away
    services = (("A11", "555-1", 50.0, 60.0), ("A12", "555-2", 53.0, 22.0), ("A13", "555-3", 10.0, 20.0))
    _, env = environment(ambulances=services)
    found = env.call("search_ambulance", {"location": {"latitude": 50.0, "longitude": 20.0}})
    assert found == {"ambulance_id": "A12", "phone_no": "555-2"}
    assert env.effects == [("search_ambulance", "A12", "")]


# ------------------------------------------------------------------------------------------------ trajectories


def test_every_scenario_uses_its_calls_and_all_tools_occur() -> None:
    called = {
        s: [tools.parse_call(turn.text)[0] for turn in t.turns if turn.role == "Caller"]
        for s in scenarios.SCENARIOS for t in TRUE if t.scenario == s and t.template == 0
    }  # fmt: skip
    assert called["General"] == [
        "retrieve_past_complaints", "get_available_specialists", "get_input_from_user", "confirm_appointment",
        "save_appointment_history", "notify_user",
    ]  # fmt: skip
    assert called["Hard SOS start"] == ["notify_user", "get_location", "search_ambulance", "send_message"]
    assert "confirm_appointment" not in called["Negative"]
    everything = {tools.parse_call(turn.text)[0] for t in TRUE for turn in t.turns if turn.role == "Caller"}
    assert everything == set(tools.NAMES)


@pytest.mark.parametrize("trajectory", TRUE, ids=lambda t: f"{t.scenario} {t.template}")
def test_interleaving_rebuilds_the_trajectory(trajectory: scenarios.Trajectory) -> None:
    for role in ("Planner", "Caller"):
        samples = interleave(trajectory, role)
        assert len(samples) == sum(turn.role == role for turn in trajectory.turns)
        for sample in samples:
            i = len(sample.context.turns)
            assert sample.context.turns == trajectory.turns[:i] and trajectory.turns[i].text == sample.target
    assert trajectory.turns[-1].text.endswith("<action>Finish.</action>")


@pytest.mark.parametrize("trajectory", TRUE, ids=lambda t: f"{t.scenario} {t.template}")
def test_augmentation_is_complete_and_consistent(trajectory: scenarios.Trajectory) -> None:
    new = augment.augment(trajectory, np.random.default_rng(7))
    old_text, new_text = ("\n".join(augment.texts(t)) for t in (trajectory, new))
    assert sorted(new.tools) == sorted(trajectory.tools)
    old_values, new_values = found(old_text), found(new_text)
    assert [kind for kind, _ in old_values] == [kind for kind, _ in new_values]
    pairs = dict(zip(old_values, new_values, strict=True))
    assert all(pairs[old] == new_ for old, new_ in zip(old_values, new_values, strict=True))  # one value, one value
    assert len(set(pairs.values())) == len(pairs)
    assert not {value for _, value in old_values} & {value for _, value in new_values}
    for value in {v for _, v in old_values}:
        assert value not in new_text.replace("Finish", "")
    for turn in new.turns:
        if turn.role == "Caller":
            assert tools.parse_call(turn.text)[0] in new.tools


def test_dates_and_times_keep_their_order() -> None:
    for trajectory in TRUE:
        names = augment.mapping(trajectory, np.random.default_rng(1))
        for kind in ("date", "time"):
            form = "%d/%m/%y" if kind == "date" else "%H:%M"
            old = sorted((v for v in names if PATTERNS[kind].fullmatch(v)), key=lambda v: datetime.strptime(v, form))
            new = [datetime.strptime(names[v], form) for v in old]
            assert new == sorted(new)


def test_pools_and_templates_are_disjoint() -> None:
    for kind in PATTERNS:
        values = [set(pool.values[kind]) for pool in POOLS.values()]
        assert all(values) and len(set.union(*values)) == sum(map(len, values)), kind
        for pool in POOLS.values():
            assert all(found(value) == [(kind, value)] for value in pool.values[kind])
    assert not set(scenarios.TRAIN_TEMPLATES) & set(scenarios.TEST_TEMPLATES)
    for scenario, forms in scenarios.OPENINGS.items():
        assert len(set(forms)) == scenarios.N_TEMPLATES, scenario


def test_held_out_values_are_new_combinations_of_known_pieces() -> None:
    for kind in PATTERNS:
        wide = POOLS["wide"].values[kind]
        for pool in ("validation", "test"):
            for at in (slice(0, 2), slice(-1, None)):  # how a value begins, how it ends
                assert {value[at] for value in POOLS[pool].values[kind]} <= {value[at] for value in wide}, kind


@pytest.mark.parametrize("pool", list(POOLS))
def test_a_conversation_has_entities_of_its_pool_only(pool: str) -> None:
    rng = np.random.default_rng(3)
    for case in scenarios.make_cases(scenarios.SCENARIOS, range(scenarios.N_TEMPLATES), 6, rng, pool):
        for text in augment.texts(scenarios.play(case)[0]):
            assert all(value in POOLS[pool].values[kind] for kind, value in found(text)), text


def test_unknown_scenarios_are_named() -> None:
    with pytest.raises(ReprobookError, match="'Surgery' is unknown; scenarios: General"):
        scenarios.make_case("Surgery", 0, RNG)
    with pytest.raises(ReprobookError, match="pool 'all'"):
        scenarios.make_case("General", 0, RNG, "all")


# ------------------------------------------------------------------------------------------------ control loop


class Script:
    """An agent that says what it is given."""

    def __init__(self, turns: list[str]) -> None:
        self.turns = turns

    def respond(self, context: scenarios.Trajectory, role: str) -> str:
        return self.turns.pop(0)


def spoken(trajectory: scenarios.Trajectory) -> list[str]:
    return [turn.text for turn in trajectory.turns if turn.role in ("Planner", "Caller")]


@pytest.mark.parametrize("k", range(0, len(CASES), 3))
def test_the_true_turns_succeed_in_the_control_loop(k: int) -> None:
    rows = evaluate.end_to_end(Script(spoken(TRUE[k])), [CASES[k]])
    assert rows["success"].all() and rows["status"].tolist() == ["finished"]
    env = CASES[k].environment()
    session = Session(Script(spoken(TRUE[k])), env, CASES[k].user_id)
    session.start(CASES[k].opening)
    assert tuple(session.turns) == TRUE[k].turns


def test_a_wrong_slot_is_no_success() -> None:
    k = scenarios.SCENARIOS.index("General") * scenarios.N_TEMPLATES
    said = spoken(TRUE[k])
    assert evaluate.end_to_end(Script([t for t in said if "save_appointment" not in t and "Save" not in t
                                       and "history" not in t]), [CASES[k]])["success"].tolist() == [False]  # fmt: skip


@pytest.mark.parametrize("change", ["other day", "other specialist", "both slots"])
def test_another_booking_than_the_true_one_is_no_success(change: str) -> None:
    case, _ = environment()
    truth, wanted = scenarios.play(case)
    who = case.world.specialists[1]
    (day, slot), (later, _) = who.slots
    said = spoken(truth)
    if change == "other day":  # free and of the same specialist; everything else is done as in truth
        said = [text.replace(f"{slot} {day}", f"{slot} {later}") for text in said]
        booked = [(who.specialist_id, slot, later)]
    elif change == "other specialist":  # the same slot of the one who treats something else
        other = case.world.specialists[0].specialist_id
        said = [text.replace(who.specialist_id, other) for text in said]
        booked = [(other, slot, day)]
    else:
        k = next(k for k, text in enumerate(said) if "<tool>confirm_appointment" in text)
        more = [said[k - 1], said[k].replace(f"{slot} {day}", f"{slot} {later}")]
        said, booked = said[: k + 1] + more + said[k + 1 :], [(who.specialist_id, slot, d) for d in (day, later)]
    _, env = environment()
    session = Session(Script(list(said)), env, case.user_id)
    assert session.start(case.opening) == "finished" and env.booked == booked
    assert not any("error" in turn.text for turn in session.turns if turn.role == "Observation")
    assert env.done() != wanted.done()
    rows = evaluate.end_to_end(Script(list(said)), [case])
    assert rows["status"].tolist() == ["finished"] and rows["success"].tolist() == [False]


@pytest.mark.parametrize("n_given", [0, 1])
def test_a_call_for_help_without_the_whole_place_is_no_success(n_given: int) -> None:
    case, env = environment("Hard SOS start")
    truth, wanted = scenarios.play(case)
    lat, lon = map(str, case.world.location)
    said = [text.replace(f"{lat}, {lon}", lat if n_given else "home") for text in spoken(truth)]
    assert sum(a != b for a, b in zip(said, spoken(truth), strict=True)) == 1  # the message
    assert Session(Script(list(said)), env, case.user_id).start(case.opening) == "finished"
    assert len(env.outbox) == len(wanted.outbox) and lon not in env.outbox[-1]["text"]
    assert env.done() != wanted.done()
    assert evaluate.end_to_end(Script(list(said)), [case])["success"].tolist() == [False]


def test_errors_become_observations_and_end_the_session() -> None:
    case, env = environment()
    plan = tools.write_plan("why", "Do it.")
    session = Session(Script([plan, tools.write_call("book_appointment", {}), "nonsense", plan]), env, case.user_id)
    assert session.start("hello") == "stopped"
    observed = [turn.text for turn in session.turns if turn.role == "Observation"]
    assert "does not exist" in observed[0] and "planner's turn is not" in observed[1]
    long = Session(Script([plan, tools.write_call("get_location", {})] * 9), env, case.user_id, "2", max_turns=3)
    assert long.start("hello") == "stopped" and sum(t.role == "Planner" for t in long.turns) == 3
    with pytest.raises(MemoryUnitError, match="unknown"):
        Session(Script([]), Environment(case.world, env.memory, "U0"), "U0").start("hello")


def test_nobody_reads_or_writes_another_patients_record() -> None:
    _, env = environment()
    env.memory.add_patient("U5555", "Bob")
    for name, arguments in (
        ("get_appointment_history", {}), ("notify_user", {"message": "hello"}),
        ("retrieve_past_complaints", {"symptoms": "cough"}),
    ):  # fmt: skip
        with pytest.raises(tools.ToolError, match="'U5555' is not the user of this session"):
            env.call(name, {"user_id": "U5555", **arguments})
    assert env.outbox == [] and env.effects == []
    with pytest.raises(ReprobookError, match="'U5555': the environment belongs to"):
        Session(Script([]), env, "U5555")


def test_a_question_suspends_and_a_stored_session_is_resumed(tmp_path: Path) -> None:
    case = CASES[0]
    memory = LongTerm(tmp_path / "ltm.sqlite")
    env = case.environment(memory=memory)
    env.answer = lambda question: None
    said = spoken(TRUE[0])
    session = Session(Script(said), env, case.user_id)
    assert session.start(case.opening) == "waiting"
    assert session.question and session.question.startswith("Shall I book Dr")
    assert isinstance(env.call("get_input_from_user", {"user_id": case.user_id, "questions": "?"}), Question)
    memory.close()
    later = Environment(case.world, LongTerm(tmp_path / "ltm.sqlite"), case.user_id)
    resumed = Session.resume(Script(said), later, case.user_id, "1")
    assert resumed.question == session.question and resumed.turns == session.turns
    assert resumed.answer(case.answer(session.question)) == "finished"
    assert tuple(resumed.turns) == TRUE[0].turns
    assert len(later.memory.rows("appointments", case.user_id)) == 2
    with pytest.raises(ReprobookError, match="no question waits"):
        resumed.answer("Yes.")


def test_an_interrupted_turn_is_taken_again(tmp_path: Path) -> None:
    class Stops(Script):
        def respond(self, context: scenarios.Trajectory, role: str) -> str:
            if role == "Caller" and len(context.turns) == 5:
                raise KeyboardInterrupt
            return super().respond(context, role)

    case, said = CASES[0], spoken(TRUE[0])
    env = case.environment(memory=LongTerm(tmp_path / "ltm.sqlite"))
    with pytest.raises(KeyboardInterrupt):
        Session(Stops(said), env, case.user_id).start(case.opening)
    resumed = Session.resume(Script(said), env, case.user_id, "1")
    assert resumed.advance() == "finished" and tuple(resumed.turns) == TRUE[0].turns


def test_the_prompt_holds_what_was_retrieved_only() -> None:
    case, env = environment()
    env.memory.add("complaints", case.user_id, symptoms="a secret matter", at=datetime(2025, 1, 1))
    session = Session(Script(spoken(scenarios.play(case)[0])), env, case.user_id)
    session.start(case.opening)
    assert "secret" not in " ".join(augment.texts(session.context()))


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
    agent = agents.RetrievalAgent(TRUE)
    assert len(evaluate.end_to_end(agent, CASES[::7])) == len(CASES[::7])


def test_tools_are_shuffled() -> None:
    order = in_random_order(np.random.default_rng(0))
    assert order != tools.NAMES and sorted(order) == sorted(tools.NAMES)


# ------------------------------------------------------------------------------------------------ retrieval, measures


def test_retrieval_and_copy_reproduces_a_training_turn_and_copies_by_recency() -> None:
    agent = agents.RetrievalAgent(TRUE)
    sample = interleave(TRUE[0], "Caller")[3]
    assert agent.respond(sample.context, "Caller") == sample.target
    old = scenarios.Trajectory(
        "", 0, "user_id U1000, name Maya", tools.NAMES, (scenarios.Turn("User", "S100 then S101"),)
    )
    new = replace(old, system="user_id U2000, name Tom", turns=(scenarios.Turn("User", "S200 then S201"),))
    assert agents.copy_entities("S101 of U1000, S100, S555", old, new) == "S201 of U2000, S200, S555"


def test_measures_of_identical_and_different_turns() -> None:
    call = tools.write_call("notify_user", {"user_id": "U1", "message": "hello there"})
    said = [Said("General", "Caller", call, call)]
    row = evaluate.scenario_table(said, "Caller").iloc[0]
    assert row["BLEU"] == pytest.approx(100) and row["ROUGE-L"] == row["ValuesAcc"] == row["parsable"] == 1
    swapped = tools.write_call("notify_user", {"message": "hello there", "user_id": "U1"})
    assert evaluate.call_accuracy(swapped, call) == {"ToolAcc": 1, "ParamAcc": 1, "ValuesAcc": 1}
    assert evaluate.rouge([swapped], [call])["rougeL"][0] < 1
    other = tools.write_call("send_message", {"user_id": "U1", "message": "hello there"})
    assert evaluate.call_accuracy(other, call) == {"ToolAcc": 0, "ParamAcc": 0, "ValuesAcc": 0}
    wrong = tools.write_call("notify_user", {"user_id": "U1", "message": "hello"})
    assert evaluate.call_accuracy(wrong, call) == {"ToolAcc": 1, "ParamAcc": 1, "ValuesAcc": 0}
    assert evaluate.call_accuracy("{", call) == {"ToolAcc": 0, "ParamAcc": 0, "ValuesAcc": 0}
    one = tools.write_call("send_message", {"text": "x", "to_emergency_contacts": 1})
    true = tools.write_call("send_message", {"text": "x", "to_emergency_contacts": True})
    assert evaluate.call_accuracy(one, true)["ValuesAcc"] == 0


def test_rouge_and_bleu_by_hand() -> None:
    scores = evaluate.rouge(["the cat sat"], ["the cat ran away"])
    assert scores["rouge1"][0] == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    assert scores["rouge2"][0] == pytest.approx(2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3))
    assert evaluate.bleu(["a b c d e"], ["a b c d f"]) == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    assert evaluate.bleu(["", ""], ["a b", "c"]) == 0


def test_the_mean_row_counts_each_scenario_once() -> None:
    call = tools.write_call("get_location", {})
    said = [Said("General", "Caller", call, call)] * 3 + [Said("Counter", "Caller", call, "x")]
    table = evaluate.scenario_table([*said, Said("Soft SOS", "Caller", call, call)], "Caller").set_index("Scenario")
    assert table.loc["mean of appointments", "ToolAcc"] == 0.5
    with pytest.raises(ReprobookError, match="nothing was said by 'Planner'"):
        evaluate.scenario_table(said, "Planner")


def test_other_words_say_the_same_step() -> None:
    said = evaluate.other_words(TRUE)
    assert all(evaluate.readable(s.said, "Planner") for s in said)
    ends = [s for s in said if "Finish" in s.truth]
    assert all(s.said == s.truth for s in ends)
    changed = np.mean([s.said != s.truth for s in said if "Finish" not in s.truth])
    assert changed == 1
    kept = [{value for _, value in found(s.said)} == {value for _, value in found(s.truth)} for s in said]
    assert np.mean(kept) > 0.6  # some wordings name fewer entities


# ------------------------------------------------------------------------------- contents, contacts, whole calls


@pytest.mark.parametrize(
    ("scenario", "old", "new"),
    [
        ("Hard SOS end", "is safe", "needs help"),
        ("Hard SOS start", "555-", "556-"),
        ("General", "'message': 'Booked", "'message': 'Not booked"),
        ("Counter", "'timestamp': '", "'timestamp': '0"),
    ],
)
def test_the_same_effects_with_other_contents_are_no_success(scenario: str, old: str, new: str) -> None:
    case, _ = environment(scenario)
    truth, _ = scenarios.play(case)
    said = spoken(truth)
    done = evaluate.end_to_end(Script(list(said)), [case])
    assert done["success"].tolist() == done["effects"].tolist() == [True]
    changed = [turn.replace(old, new) if turn.startswith("<tool>") else turn for turn in said]
    assert changed != said
    if scenario == "Counter":  # a timestamp that cannot be read: the symptoms are not stored at all
        assert evaluate.end_to_end(Script(changed), [case])["effects"].tolist() == [False]
        return
    done = evaluate.end_to_end(Script(changed), [case])
    assert done["success"].tolist() == [False] and done["effects"].tolist() == [True]


def test_telling_the_user_twice_or_not_searching_an_ambulance_is_no_success() -> None:
    case, _ = environment("General")
    said = spoken(scenarios.play(case)[0])
    assert evaluate.end_to_end(Script([*said[:-1], *said[-3:]]), [case])["effects"].tolist() == [False]
    case, _ = environment("Hard SOS start")
    said = spoken(scenarios.play(case)[0])
    k = next(i for i, turn in enumerate(said) if "search_ambulance" in turn)
    assert evaluate.end_to_end(Script(said[: k - 1] + said[k + 1 :]), [case])["effects"].tolist() == [False]


def test_a_number_that_is_given_gets_the_message_without_contacts_too() -> None:
    case = CASES[0]
    memory = LongTerm()
    memory.add_patient(case.user_id, case.name)
    env = Environment(case.world, memory, case.user_id)
    assert env.call("send_message", {"text": "help", "phone_no": "112", "to_emergency_contacts": True})
    assert env.outbox == [{"to": "112", "text": "help"}]


def test_every_contact_gets_the_message_and_nobody_is_an_error() -> None:
    case, env = environment()
    assert env.call("send_message", {"text": "help", "to_emergency_contacts": True}) is True
    assert env.outbox == [{"to": phone, "text": "help"} for _, phone in scenarios.CONTACTS]
    env.memory.replace_all("contacts", case.user_id, [])
    with pytest.raises(tools.ToolError, match="no emergency contacts"):
        env.call("send_message", {"text": "help", "to_emergency_contacts": True})
    assert len(env.outbox) == 2


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("get_available_specialists", {"symptoms": "x", "user_schedule": {"date": 5, "time_range": "09:00-10:00"}},
         "field 'date' of 'user_schedule' is 5; it must be of type string"),
        ("search_ambulance", {"location": {"latitude": "50", "longitude": 20}}, "must be of type number"),
        ("retrieve_past_complaints", {"user_id": "U1000", "symptoms": "x",
                                      "date_range": {"start_date": None, "end_date": "01/01/25"}}, "is None"),
    ],
)  # fmt: skip
def test_types_inside_an_object_are_checked(name: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(tools.ToolError, match=message):
        tools.check_call(name, arguments)


@pytest.mark.parametrize("value", [r"'\ud800'", "b'x'", "{1, 2}"])
def test_what_cannot_be_stored_as_text_is_refused(value: str) -> None:
    text = "<tool>notify_user</tool><parameters>{'user_id': 'U1', 'message': " + value + "}</parameters>"
    with pytest.raises(tools.ToolError, match="cannot be stored as text"):
        tools.parse_call(text)


def test_symptoms_cannot_be_stored_for_a_time_to_come() -> None:
    case, env = environment()
    later = (case.world.now + timedelta(minutes=1)).strftime(tools.TIMESTAMP_FORMAT)
    with pytest.raises(tools.ToolError, match="has not come"):
        env.call("store_symptoms", {"user_id": case.user_id, "symptoms": "hives", "timestamp": later})


def test_a_date_range_holds_its_last_day() -> None:
    case, env = environment()
    day = datetime.fromisoformat(case.complaints[0][1]).strftime(tools.DATE_FORMAT)
    asked = {"user_id": case.user_id, "symptoms": case.symptoms, "date_range": {"start_date": day, "end_date": day}}
    assert env.call("retrieve_past_complaints", asked) == [f"{case.symptoms}, {day}"]


def test_a_call_that_is_interrupted_before_it_is_stored_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    case, env = environment("Counter")
    said = spoken(scenarios.play(case)[0])
    session = Session(Script(list(said)), env, case.user_id)
    save, stored = env.memory.save_conversation, len(env.memory.rows("complaints", case.user_id))

    def interrupted(user_id: str, name: str, state: dict[str, object]) -> None:
        if any("store_symptoms" in effect[0] for effect in env.effects):
            raise KeyboardInterrupt
        save(user_id, name, state)

    monkeypatch.setattr(env.memory, "save_conversation", interrupted)
    with pytest.raises(KeyboardInterrupt):
        session.start(case.opening)
    assert len(env.memory.rows("complaints", case.user_id)) == stored
    assert not any(effect[0] == "store_symptoms" for effect in env.effects) and session.turns[-1].role == "Planner"
    monkeypatch.undo()
    k = sum(turn.role in ("Planner", "Caller") for turn in session.turns)
    session.agent = Script(said[k:])
    assert session.advance() == "finished"
    assert (
        len(env.memory.rows("complaints", case.user_id)) == stored + 1 and env.done() == scenarios.play(case)[1].done()
    )


def test_an_alarm_says_what_the_monitor_says_and_a_refusal_is_respected() -> None:
    rng = np.random.default_rng(0)
    cases = scenarios.make_cases(["Soft SOS"], range(scenarios.N_TEMPLATES), 60, rng)
    told = 0
    for case in cases:
        _, env = scenarios.play(case)
        refused = dict(case.replies)["feel"].startswith("No,")
        sent = [effect for effect in env.effects if effect[0] == "send_message"]
        assert len(sent) == (not refused)
        told += len(sent)
        assert re.search(
            r"(heart rate|blood oxygen) \d+ (bpm|%) (at rest|in activity) is (below|above) \d+", case.opening
        )
    assert 15 < told < 45 and len({"oxygen" in case.opening for case in cases}) == 2
