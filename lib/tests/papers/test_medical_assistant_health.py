"""The health manager of `medical_assistant`: monitor, scheduler and reports (invariants 5 to 8 of our notes)."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from datetime import UTC, date, datetime, time, timedelta

import numpy as np
import pandas as pd
import pytest
from dateutil.rrule import rrulestr
from hypothesis import given, settings
from hypothesis import strategies as st
from icalendar import Calendar
from reprobook.errors import ReprobookError
from reprobook.papers.medical_assistant import prescriptions, reminders, reports, vitals
from reprobook.papers.medical_assistant.prescriptions import Medication
from reprobook.papers.medical_assistant.reminders import Reminder
from reprobook.papers.medical_assistant.vitals import Vitals

MORNING = datetime(2025, 3, 7, 8, 0)


# --- health monitor ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heart_rate", "oxygen", "steps", "kind"),
    [
        (49, 97, 0, "low heart rate"), (50, 97, 0, None), (110, 97, 19, None), (111, 97, 19, "high heart rate"),
        (80, 89, 0, "low oxygen"), (80, 90, 0, None), (49, 89, 0, "low heart rate"), (111, 80, 0, "high heart rate"),
        (160, 97, 20, None), (161, 97, 20, "dangerous heart rate"), (80, 84, 20, "critical oxygen"),
        (80, 85, 20, None), (161, 84, 20, "dangerous heart rate"), (40, 97, 20, None), (140, 85, 20, None),
    ],
)  # fmt: skip
def test_truth_table(heart_rate: float, oxygen: float, steps: float, kind: str | None) -> None:
    alarm = vitals.detect(Vitals(heart_rate, oxygen, steps))
    assert (alarm and alarm.kind) == kind


def paper_rules(heart_rate: float, oxygen: float, steps: float) -> str:
    """The detector written down again, branch by branch."""
    if steps < 20:
        if heart_rate < 50:
            return "low heart rate"
        if heart_rate > 110:
            return "high heart rate"
        return "low oxygen" if oxygen < 90 else ""
    if heart_rate > 160:
        return "dangerous heart rate"
    return "critical oxygen" if oxygen < 85 else ""


def test_all_readings_at_once_equal_one_after_the_other_and_the_branches() -> None:
    grid = [*itertools.product(range(30, 200, 3), range(78, 101), (0, 19, 20, 50))]
    frame = pd.DataFrame(grid, columns=["heart_rate", "oxygen", "steps_interval"])
    frame["at"] = pd.Timestamp("2025-03-07")
    found = vitals.detect_frame(frame)
    assert found["alarm"].tolist() == [paper_rules(*row) for row in grid]
    assert found["soft_sos"].tolist() == [bool(paper_rules(*row)) for row in grid]
    single = [vitals.detect(Vitals(*row)) for row in grid[::17]]
    assert [alarm.kind if alarm else "" for alarm in single] == found["alarm"].tolist()[::17]
    assert "soft_sos" not in frame  # the frame that was given is left alone


def test_an_alarm_says_what_is_wrong_in_words() -> None:
    alarm = vitals.detect(Vitals(49, 97, 3))
    assert alarm is not None and alarm.message == "heart rate 49 bpm at rest is below 50 bpm"
    alarm = vitals.detect(Vitals(80, 84, 30))
    assert alarm is not None and alarm.message == "blood oxygen 84 % in activity is below 85 %"


@pytest.mark.parametrize(
    ("reading", "words"),
    [
        (Vitals(None, 97, 0), "heart_rate is missing.*20 to 250"),
        (Vitals(80, math.nan, 0), "oxygen is missing.*50 to 100"),
        (Vitals(300, 97, 0), "heart_rate=300 is impossible.*20 to 250"),
        (Vitals(-1, 97, 0), "heart_rate=-1 is impossible"),
        (Vitals(80, 120, 0), "oxygen=120 is impossible.*50 to 100"),
        (Vitals(80, 97, -5), "steps=-5 is impossible.*0 or more"),
        (Vitals(80, 97, math.inf), "steps=inf is impossible"),
        (Vitals("80", 97, 0), "heart_rate='80' is not a number"),
        (Vitals(80, True, 0), "oxygen=True is not a number"),
    ],
)
def test_missing_or_absurd_vitals_are_named(reading: Vitals, words: str) -> None:
    with pytest.raises(ReprobookError, match=words):
        vitals.detect(reading)


def test_bad_rows_and_columns_of_a_frame_are_named() -> None:
    frame = vitals.simulate(1, seed=0)
    with pytest.raises(ReprobookError, match="heart_rate=300 at 07 Mar 2025 00:25 is impossible"):
        vitals.detect_frame(frame.assign(heart_rate=np.where(frame.index == 5, 300, frame["heart_rate"])))
    with pytest.raises(ReprobookError, match="oxygen at 07 Mar 2025 00:10 is missing"):
        vitals.detect_frame(frame.assign(oxygen=frame["oxygen"].where(frame.index != 2)))
    with pytest.raises(ReprobookError, match="no column 'oxygen'"):
        vitals.detect_frame(frame.drop(columns="oxygen"))
    with pytest.raises(ReprobookError, match="steps_from='daily'; allowed: interval, cumulative"):
        vitals.detect_frame(frame, "daily")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def year() -> pd.DataFrame:
    """About 105,000 simulated readings."""
    return vitals.simulate(24 * 365, seed=3)


def test_the_simulator_follows_the_paper(year: pd.DataFrame) -> None:
    heart, oxygen, n = year["heart_rate"], year["oxygen"], len(year)
    assert n == 365 * 288 and (year["at"].diff().dropna() == timedelta(minutes=5)).all()
    # supports, ends included, and shares within five standard errors
    assert (heart.min(), heart.max(), oxygen.min(), oxygen.max()) == (40, 140, 85, 100)
    for share, p in (
        ((heart < 60).mean(), 0.025), ((heart > 100).mean(), 0.025), ((oxygen < 95).mean(), 0.03),
        ((heart == 40).mean(), 0.025 / 20), ((heart == 140).mean(), 0.025 / 40), ((heart == 100).mean(), 0.95 / 41),
        ((oxygen == 85).mean(), 0.03 / 10), ((oxygen == 100).mean(), 0.97 / 6),
        ((year["steps_interval"] < 20).mean(), 20 / 51),
        (year["abnormal"].mean(), 1 - 0.95 * 0.97),
    ):  # fmt: skip
        assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / n)
    assert (year["steps"] == year["steps_interval"].cumsum()).all()
    assert np.allclose(year["calories"], 0.04 * year["steps"])
    assert (year["abnormal"] == ((heart < 60) | (heart > 100) | (oxygen < 95))).all()


def test_nights_of_the_simulator(year: pd.DataFrame) -> None:
    sleep = year[list(vitals.SLEEP)]
    assert sleep.drop_duplicates().shape[0] == 365  # one night a day
    assert (sleep.groupby(year["at"].dt.date).nunique() == 1).all().all()
    total = sleep.sum(axis=1)
    assert total.between(300, 600).all()
    shares = sleep.div(total, axis=0)
    for name, low, high in (
        ("sleep_awake", 0.05, 0.10), ("sleep_rem", 0.20, 0.25), ("sleep_light", 0.50, 0.60), ("sleep_deep", 0.05, 0.25)
    ):  # fmt: skip
        assert shares[name].between(low - 1e-12, high + 1e-12).all()


def test_the_simulator_repeats_itself_and_refuses_nonsense() -> None:
    pd.testing.assert_frame_equal(vitals.simulate(5, seed=1), vitals.simulate(5, seed=1))
    assert not vitals.simulate(5, seed=1)["heart_rate"].equals(vitals.simulate(5, seed=2)["heart_rate"])
    assert len(vitals.simulate(0.5, seed=0, every_minutes=10)) == 3
    for hours in (0, -1, math.nan, math.inf):
        with pytest.raises(ReprobookError, match="hours="):
            vitals.simulate(hours, seed=0)
    with pytest.raises(ReprobookError, match="every_minutes=0"):
        vitals.simulate(1, seed=0, every_minutes=0)


def test_alarm_rate_by_hand_and_by_enumeration() -> None:
    # at rest: 10 of 20 low and 30 of 40 high heart rates, 5 of 10 low oxygen values
    by_hand = 20 / 51 * (1 - (1 - 0.05 * (0.5 * 10 / 20 + 0.5 * 30 / 40)) * (1 - 0.03 * 5 / 10))
    assert vitals.alarm_rate() == pytest.approx(by_hand, rel=1e-12)
    # every combination with its probability, judged by the branches of paper_rules
    heart = Counter(dict.fromkeys(range(60, 101), 0.95 / 41))
    heart.update(dict.fromkeys(range(40, 60), 0.025 / 20) | dict.fromkeys(range(101, 141), 0.025 / 40))
    oxygen = dict.fromkeys(range(95, 101), 0.97 / 6) | dict.fromkeys(range(85, 95), 0.03 / 10)
    rate = sum(
        p * q * r
        for (bpm, p), (o, q), (steps, r) in itertools.product(heart.items(), oxygen.items(), ((19, 20), (20, 31)))
        if paper_rules(bpm, o, steps)
    )
    assert vitals.alarm_rate() == pytest.approx(rate / 51, rel=1e-12)
    assert vitals.expected_recall() == pytest.approx(by_hand / (1 - 0.95 * 0.97), rel=1e-12)


def test_alarm_rate_of_simulated_readings_is_within_three_standard_errors(year: pd.DataFrame) -> None:
    found = vitals.detect_frame(year)
    p, score = vitals.alarm_rate(), vitals.score(found)
    assert abs(score["rate"] - p) < 3 * math.sqrt(p * (1 - p) / len(year))
    r, n = vitals.expected_recall(), year["abnormal"].sum()
    assert abs(score["recall"] - r) < 3 * math.sqrt(r * (1 - r) / n)
    assert score["precision"] == 1.0 and score["alarms"] == (found["alarm"] != "").sum()
    both = (found["abnormal"] & found["soft_sos"]).sum()
    assert score["recall"] == pytest.approx(both / found["abnormal"].sum())


def test_the_cumulative_reading_falls_silent() -> None:
    # P(the sum of k draws from 0..50 is below 20) by convolution
    pmf, total, rest = np.full(51, 1 / 51), np.ones(1), []
    for _ in range(40):
        total = np.convolve(total, pmf)
        rest.append(total[:20].sum())
    at_rest_rate = vitals.alarm_rate() * 51 / 20
    for n in (1, 2, 5, 40):
        assert vitals.alarm_rate("cumulative", n) == pytest.approx(at_rest_rate * sum(rest[:n]) / n, rel=1e-9)
    # over a whole life the watch is at rest for (51/50)^20 - 1 readings on average: less than one
    assert vitals.alarm_rate("cumulative", 10**6) * 10**6 / at_rest_rate == pytest.approx((51 / 50) ** 20 - 1)
    for seed in range(20):
        found = vitals.detect_frame(vitals.simulate(24, seed), "cumulative")
        assert not found["soft_sos"].iloc[21:].any()


def test_scores_without_alarms_or_abnormal_readings_are_nan() -> None:
    quiet = pd.DataFrame({"abnormal": [True, False], "soft_sos": [False, False]})
    assert math.isnan(vitals.score(quiet)["precision"]) and vitals.score(quiet)["recall"] == 0
    well = pd.DataFrame({"abnormal": [False, False], "soft_sos": [True, False]})
    assert math.isnan(vitals.score(well)["recall"]) and vitals.score(well)["precision"] == 0


# --- scheduler: reading -----------------------------------------------------------------------------------------------

SHEET = """City Clinic, Dr. A. Rao, 12-03-2025
Prescription
Patient: Jo Doe
1. Paracetamol 500 mg 1-0-1 for 5 days, before meals
2. Tab. Amoxicillin 250mg 1-1-1 x 2 weeks  Qty: 42 tablets
Cetirizine 10 mg
   0-0-1
Cough syrup 10 ml 1 - 1 - 0 x5 days with food. Vitamin D3 1000 IU 1-0-0 2 tablets for a month
Note: drink water
Signature
not a medicine 1-0-0"""


def test_all_medicines_of_a_prescription() -> None:
    read = prescriptions.read_prescription(SHEET)
    assert [(m.name, m.strength, m.pattern, m.days, m.dosage, m.supply) for m in read] == [
        ("Paracetamol", "500 mg", "1-0-1", 5, "1 unit", None),
        ("Amoxicillin", "250mg", "1-1-1", 14, "1 unit", 42),
        ("Cetirizine", "10 mg", "0-0-1", 7, "1 unit", None),
        ("Cough syrup", "", "1-1-0", 5, "10 ml", None),
        ("Vitamin D3", "1000 IU", "1-0-0", 30, "2 tablets", None),
    ]
    assert read[0].conditions == ("before breakfast", "before dinner")
    assert read[0].times == (time(10), time(21))  # the example of the paper's prompt
    assert read[3].conditions == ("with breakfast", "with lunch")


@pytest.mark.parametrize(
    ("pattern", "conditions"),
    [
        ("1-0-0", ("before breakfast",)), ("0-1-0", ("after lunch",)), ("0-0-1", ("after dinner",)),
        ("1-1-1", ("before breakfast", "before lunch", "before dinner")),
        ("1-0-1", ("after breakfast", "after dinner")), ("0-1-1", ("after lunch", "after dinner")),
        ("1-1-0", ("after breakfast", "after lunch")),
    ],
)  # fmt: skip
def test_the_seven_dose_patterns(pattern: str, conditions: tuple[str, ...]) -> None:
    (medicine,) = prescriptions.read_prescription(f"Aspirin {pattern}")
    assert medicine.conditions == conditions and len(medicine.times) == pattern.count("1")
    assert medicine.days == 7 and medicine.firings == 7 * pattern.count("1")
    assert list(medicine.times) == sorted(medicine.times)


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("for 5 days", 5), ("x 2 weeks", 14), ("× 3 days", 3), ("x3 days", 3), ("10 days", 10), ("14-days", 14),
        ("for a week", 7), ("for two weeks", 14), ("for 1 month", 30), ("FOR TEN DAYS", 10), ("for 365 days", 365),
        ("", 7),
    ],
)  # fmt: skip
def test_durations(text: str, days: int) -> None:
    assert prescriptions.read_prescription(f"Aspirin 75 mg 0-0-1 {text}")[0].days == days
    assert prescriptions.read_prescription(f"Aspirin 75 mg {text} 0-0-1")[0].days == days


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Aspirin 0-0-0", "dose 0-0-0 of 'Aspirin' is not known; allowed: 1-0-0"),
        ("Aspirin 2-0-1", "dose 2-0-1 of 'Aspirin' is not known"),
        ("Paracetamol 500 mg\nAspirin 1-0-1", "line 'Paracetamol 500 mg': 'Paracetamol' has no dose"),
        ("Aspirin 1-0-1\nParacetamol 500 mg for 5 days", "line 'Paracetamol 500 mg for 5 days'.*has no dose"),
        ("Aspirin 07-03-2025", "has no dose"),
        ("Aspirin 1-0-1-1", "has no dose"),
        ("Aspirin 1/2-0-1", "has no dose"),
        ("Aspirin 1-O-1", "has no dose"),  # a misread zero is no dose
        ("Aspirin 1-0-1 every 3 days", "'every 3 days' has no dose"),  # no duration either
        ("Aspirin 1-0-1 0-1-0", "second pattern '0-1-0' for 'Aspirin'"),
        ("Aspirin 1-0-1 for 3 days for 5 days", "second days 'for 5 days' for 'Aspirin'"),
        ("1-0-1 Aspirin", "'1-0-1' comes before the name"),
        ("Aspirin 1-0-0\n1-0-1 Ibuprofen", "'1-0-1' comes before the name"),
        ("Aspirin 1-0-1 for 0 days", "duration 'for 0 days'.*1 to 365"),
        ("Aspirin 1-0-1 for 1.5 weeks", "duration 'for 1.5 weeks'"),
        ("Aspirin 1-0-1 for 53 weeks", "duration 'for 53 weeks'"),
        ("Aspirin 1-0-1 after lunch", "'after lunch' contradicts the dose 1-0-1"),
        ("Do not take Aspirin 1-0-0", "'not' in 'Do not Aspirin'"),
        ("Stop Aspirin 1-0-0", "'Stop'"),
        ("No Aspirin 1-0-0", "'No'"),
        ("Omega-3 capsules 1-0-1", "'3 capsules' in 'Omega-3 capsules' cannot be read"),
        ("Aspirin half 1-0-1", "'half'"),
        ("", "no medicine"),
        ("Prescription Signature", "no medicine"),
        ("Prescription\nSignature\nAspirin 1-0-1", "no medicine"),
    ],
)
def test_unreadable_prescriptions_are_refused_with_their_line(text: str, words: str) -> None:
    with pytest.raises(ReprobookError, match=words):
        prescriptions.read_prescription(text)


@pytest.mark.parametrize(
    "amount",
    ["1/2 tablet", "0,5 tablet", "½ tablet", "1½ tablets", "half a tablet", "1-2 tablets", "10 to 12 units", "2.5 ml"],
)
def test_amounts_are_kept_as_they_are_written(amount: str) -> None:
    (read,) = prescriptions.read_prescription(f"Warfarin {amount} 0-0-1 for 10 days")
    assert (read.name, read.dosage, read.pattern, read.days) == ("Warfarin", amount, "0-0-1", 10)


@pytest.mark.parametrize("strength", ["1,000 mg", "0,5 mg", "500/125 mg", "2.5 mg", "5 mg/5 ml"])
def test_strengths_are_kept_as_they_are_written(strength: str) -> None:
    (read,) = prescriptions.read_prescription(f"Vitamin B12 {strength} 1-0-0")
    assert (read.name, read.strength) == ("Vitamin B12", strength)


def test_a_dosage_before_the_name_belongs_to_that_name() -> None:
    read = prescriptions.read_prescription("2 tablets Aspirin 1-0-0\n5 ml Cough syrup 0-0-1")
    assert [(m.name, m.dosage) for m in read] == [("Aspirin", "2 tablets"), ("Cough syrup", "5 ml")]


def test_the_body_of_a_prescription() -> None:
    assert prescriptions.prescription_body("a Prescription: b\nSIGNATURE c").strip() == "b"
    assert prescriptions.prescription_body("a Signature b") == "a "
    assert prescriptions.prescription_body("a prescription b") == "b"
    assert prescriptions.prescription_body("a b") == "a b"


NAMES = st.sampled_from(["Aspirin", "Omega-3", "Vitamin B12", "Co-trimoxazole", "Cough syrup", "Ibuprofen forte"])
COURSES = st.lists(
    st.tuples(NAMES, st.sampled_from([*prescriptions.PATTERNS]), st.integers(1, 60), st.booleans()),
    min_size=1, max_size=6,
)  # fmt: skip


@given(COURSES)
@settings(max_examples=60, deadline=None)
def test_whatever_was_written_is_read(courses: list[tuple[str, str, int, bool]]) -> None:
    """Several medicines, on lines of their own or one after the other as a text recogniser gives them."""
    written = [
        f"{name} {pattern} for {days} days" if tail else f"{name} for {days} days {pattern}"
        for name, pattern, days, tail in courses
    ]
    for text in ("\n".join(written), " ".join(written)):
        read = prescriptions.read_prescription(f"Prescription\n{text}\nSignature")
        assert [(m.name, m.pattern, m.days) for m in read] == [course[:3] for course in courses]
    pending = reminders.reminders(read, MORNING)
    assert len(pending) == sum(pattern.count("1") for _, pattern, _, _ in courses)
    assert sum(r.days_left for r in pending) == sum(p.count("1") * days for _, p, days, _ in courses)


# --- scheduler: the language model's JSON -----------------------------------------------------------------------------

ANSWER = """Sure! Here it is:
{"medication_schedule": {"medications": [
 {"medicine_name": "Aspirin", "total_days": 3, "timing": ["10:00", "21:00"], "dosage": "1 tablet",
  "instructions": "before breakfast and dinner"},
 {"medicine_name": "Zinc", "total_days": 30, "timing": ["00:05"]}]}} Anything else?"""


def test_the_answer_of_a_language_model() -> None:
    aspirin, zinc = prescriptions.parse_schedule(ANSWER)
    assert (aspirin.name, aspirin.days, aspirin.times) == ("Aspirin", 3, (time(10), time(21)))
    assert aspirin.dosage == "1 tablet" and zinc.dosage == "1 unit" and zinc.times == (time(0, 5),)
    assert prescriptions.parse_schedule(ANSWER.replace('"', "'"))[0] == aspirin  # a Python literal


def test_schedules_survive_the_round_trip() -> None:
    read = prescriptions.read_prescription(SHEET)
    again = prescriptions.parse_schedule(f"x {prescriptions.to_schedule(read)} y")
    assert [(m.name, m.times, m.days, m.dosage) for m in again] == [(m.name, m.times, m.days, m.dosage) for m in read]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (ANSWER, "I cannot read it", r"no \{...\}"),
        (ANSWER, "} {", r"no \{...\}"),
        (ANSWER, "{1: __import__('os').getpid()}", "neither JSON nor a Python literal"),
        (ANSWER, "{" * 50_000 + "}", "neither JSON nor a Python literal"),
        (ANSWER, "{}", "no 'medication_schedule'"),
        (ANSWER, '{"medication_schedule": {"medications": []}}', "at least one entry"),
        (ANSWER, '{"medication_schedule": {"medications": [3]}}', "3 is not an object"),
        ('"21:00"', '"24:00"', "entry 1, 'Aspirin': time '24:00'; allowed: HH:MM"),
        ('"21:00"', '"9:00"', "time '9:00'"),
        ('"21:00"', "21", "time 21"),
        ('"21:00"', '"10:00"', "names a time twice"),
        ('["00:05"]', "[]", "entry 2: timing="),
        (": 30", ": 0", "entry 2: total_days=0 of 'Zinc'"),
        (": 30", ": true", "total_days=True"),
        (": 30", ': "30"', "total_days='30'"),
        ('"Zinc"', '" "', "medicine_name=' '"),
        ('"1 tablet"', "1", "dosage=1"),
    ],
)
def test_bad_answers_are_named(old: str, new: str, words: str) -> None:
    assert old in ANSWER
    with pytest.raises(ReprobookError, match=words):
        prescriptions.parse_schedule(ANSWER.replace(old, new))


# --- scheduler: reminders ---------------------------------------------------------------------------------------------


def medicine(times: list[time], days: int, name: str = "Aspirin") -> Medication:
    return Medication(name, tuple(times), ("after dinner",) * len(times), days)


def test_reminders_by_hand() -> None:
    pending = reminders.reminders(prescriptions.read_prescription("Aspirin 75 mg 1-0-1 for 2 days"), MORNING)
    assert pending == [
        Reminder("After breakfast - Aspirin 75 mg - 1 unit", datetime(2025, 3, 7, 11), 2),
        Reminder("After dinner - Aspirin 75 mg - 1 unit", datetime(2025, 3, 7, 22), 2),
    ]
    late = reminders.reminders([medicine([time(7, 59), time(8)], 1)], MORNING)
    assert [r.next_at for r in late] == [datetime(2025, 3, 7, 8), datetime(2025, 3, 8, 7, 59)]


def test_a_reminder_is_titled_by_the_illness_where_the_schedule_names_one() -> None:
    """The application's own example: medication_name - medicine_name - dosage, and the instructions beside it."""
    entry = {"medicine_name": "A", "total_days": 5, "timing": ["10:00"], "dosage": "100 mg", "instructions": "x"}
    schedule = {"medication_schedule": {"medication_name": "Headache", "medications": [entry]}}
    for text in (json.dumps(schedule), str(schedule)):
        read = prescriptions.parse_schedule(text)
        (reminder,) = reminders.reminders(read, MORNING)
        assert (reminder.title, reminder.instructions) == ("Headache - A - 100 mg", "x")
        assert prescriptions.to_schedule(read) == schedule
        (event,) = Calendar.from_ical(reminders.to_icalendar([reminder])).walk("VEVENT")
        assert event["SUMMARY"] == "Headache - A - 100 mg" and event["DESCRIPTION"].startswith("x\n")
    for name in (None, "", "  "):  # no illness: when to take it opens the title, as in a prescription's text
        schedule["medication_schedule"]["medication_name"] = name
        (reminder,) = reminders.reminders(prescriptions.parse_schedule(str(schedule)), MORNING)
        assert (reminder.title, reminder.instructions) == ("X - A - 100 mg", "")
    schedule["medication_schedule"]["medication_name"] = ["Headache"]
    with pytest.raises(ReprobookError, match="medication_name=.* a text is needed"):
        prescriptions.parse_schedule(str(schedule))
    cold = prescriptions.parse_schedule(str(schedule).replace("['Headache']", "'a cold'"))
    with pytest.raises(ReprobookError, match="one illness has a place in it, not Headache, a cold"):
        prescriptions.to_schedule([*read, *cold])


@pytest.mark.parametrize(("minutes", "is_due"), [(-31, False), (-30, True), (0, True), (30, True), (31, False)])
def test_due_within_thirty_minutes(minutes: int, is_due: bool) -> None:
    pending = [Reminder("x", datetime(2025, 3, 7, 23, 50), 3)]
    for day in (0, 2):  # also on a later day, and across midnight
        now = datetime(2025, 3, 7 + day, 23, 50) + timedelta(minutes=minutes)
        assert bool(reminders.due(pending, now)) is is_due
    assert not reminders.due(pending, datetime(2025, 3, 6, 23, 50))  # not before the first day


@given(st.lists(st.tuples(st.sets(st.times().map(lambda t: t.replace(second=0, microsecond=0)), min_size=1, max_size=3),
                          st.integers(1, 4)), min_size=1, max_size=3))  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_every_five_minutes_each_dose_fires_once(courses: list[tuple[set[time], int]]) -> None:
    medicines = [medicine(sorted(times), days, f"M{i}") for i, (times, days) in enumerate(courses)]
    pending = reminders.reminders(medicines, MORNING)
    assert len(pending) == sum(len(times) for times, _ in courses)
    counted: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    for tick in range(6 * 288):
        now = MORNING + timedelta(minutes=5 * tick)
        fired, pending = reminders.fire(pending, now)
        counted.update(f"{r.title}" for r in fired)
        ended.update(r.title for r in fired if r.days_left == 1)
        assert all(r.days_left >= 1 for r in pending)
    assert not pending
    assert counted == Counter({f"After dinner - M{i} - 1 unit": len(t) * d for i, (t, d) in enumerate(courses)})
    assert ended == Counter({f"After dinner - M{i} - 1 unit": len(t) for i, (t, _) in enumerate(courses)})


def test_the_last_firing_deletes_and_a_missed_dose_moves_the_end() -> None:
    pending = [Reminder("x", datetime(2025, 3, 7, 10), 2)]
    fired, pending = reminders.fire(pending, datetime(2025, 3, 7, 9, 30))
    assert fired and pending == [Reminder("x", datetime(2025, 3, 8, 10), 1)]
    again, same = reminders.fire(pending, datetime(2025, 3, 7, 10, 30))
    assert not again and same == pending
    fired, pending = reminders.fire(pending, datetime(2025, 3, 11, 10, 10))  # off for days
    assert fired and pending == []


# --- scheduler: calendar ----------------------------------------------------------------------------------------------


def test_the_calendar_is_read_back_with_every_firing() -> None:
    medicines = [*prescriptions.read_prescription(SHEET), medicine([time(6)], 1, "Odd, name; with\\signs")]
    pending = reminders.reminders(medicines, MORNING)
    raw = reminders.to_icalendar(pending)
    events = Calendar.from_ical(raw).walk("VEVENT")
    assert [str(event["summary"]) for event in events] == [r.title for r in pending]
    firings: list[datetime] = []
    for event in events:  # expanded by dateutil
        rule = event["rrule"].to_ical().decode()
        firings += list(rrulestr(rule, dtstart=event["dtstart"].dt))
        (alarm,) = event.walk("VALARM")
        assert alarm["trigger"].dt == timedelta(0)
    assert len(firings) == sum(each.firings for each in medicines) == 10 + 42 + 7 + 10 + 30 + 1
    assert firings == [r.next_at + timedelta(days=d) for r in pending for d in range(r.days_left)]
    assert reminders.to_icalendar(pending) == raw and raw.startswith(b"BEGIN:VCALENDAR\r\n")


def test_events_of_a_calendar_have_their_own_identity() -> None:
    same = Reminder("x", MORNING, 2)
    events = Calendar.from_ical(reminders.to_icalendar([same, same])).walk("VEVENT")
    assert len({str(event["uid"]) for event in events}) == 2
    assert Calendar.from_ical(reminders.to_icalendar([])).walk("VEVENT") == []
    raw = reminders.to_icalendar([same])
    _, later = reminders.fire([same], MORNING)
    (event,) = Calendar.from_ical(reminders.to_icalendar(later)).walk("VEVENT")
    assert str(event["uid"]) == str(Calendar.from_ical(raw).walk("VEVENT")[0]["uid"])  # an import again replaces it
    assert "no medical advice" in str(event["description"])


# --- reports ----------------------------------------------------------------------------------------------------------


def test_means_over_an_exact_half_open_day() -> None:
    frame = vitals.detect_frame(vitals.simulate(72, seed=5))
    end = datetime(2025, 3, 8, 21)
    report = reports.daily_report(frame, end)
    first = 21 * 12  # readings before 7 March 21:00
    rows = frame.iloc[first : first + 288]
    assert rows["at"].iloc[0] == datetime(2025, 3, 7, 21) and rows["at"].iloc[-1] == datetime(2025, 3, 8, 20, 55)
    assert report.readings == 288 and report.start == datetime(2025, 3, 7, 21)
    for name, value in report.means.items():
        assert value == pytest.approx(math.fsum(rows[name]) / 288)
    assert report.walked == rows["steps"].iloc[-1] - frame["steps"].iloc[first - 1]
    assert len(report.alarms) == rows["soft_sos"].sum() > 0
    assert set(report.means) == {"oxygen", "heart_rate", "steps", "calories", *vitals.SLEEP}


@given(st.integers(-30, 30), st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_the_window_moves_with_its_end(hours: int, seed: int) -> None:
    frame = vitals.simulate(30, seed).sample(frac=1, random_state=seed)  # in any order
    end = datetime(2025, 3, 8) + timedelta(hours=hours)
    kept = reports.window(frame, end)["at"].tolist()
    assert kept == sorted(at for at in frame["at"] if timedelta(0) < end - at <= timedelta(hours=24))
    assert reports.daily_report(frame, end).readings == len(kept)


def test_a_day_without_readings_says_so() -> None:
    report = reports.daily_report(vitals.simulate(2, seed=0), datetime(2026, 1, 1))
    assert report.readings == 0 and set(report.means.values()) == {None} and report.alarms.empty
    assert "No reading" in report.text and "nan" not in report.text


def test_the_text_of_a_report() -> None:
    frame = vitals.simulate(24, seed=0).assign(heart_rate=80, oxygen=97, steps_interval=10)
    frame.loc[3, "heart_rate"] = 44
    text = reports.daily_report(frame, datetime(2025, 3, 8)).text
    assert text.splitlines()[0] == "Report for 07 Mar 2025 00:00 to 08 Mar 2025 00:00, 288 readings"
    assert "Alarms: 1\n  07 Mar 00:15  low heart rate: heart rate 44 bpm" in text
    assert f"{(287 * 80 + 44) / 288:.1f} bpm" in text and "2880 steps" in text and "no medical advice" in text


def test_bad_frames_of_a_report() -> None:
    frame = vitals.simulate(2, seed=0)
    with pytest.raises(ReprobookError, match="no column 'calories'"):
        reports.daily_report(frame.drop(columns="calories"), MORNING)


def test_a_report_leaves_out_readings_of_a_failed_sensor_and_says_so() -> None:
    frame = vitals.simulate(24, seed=0).assign(heart_rate=80.0, oxygen=97)
    frame.loc[3, "heart_rate"], frame.loc[5, "heart_rate"] = 300, np.nan
    end = datetime(2025, 3, 8)
    report = reports.daily_report(frame, end)
    assert report.readings == 286 and report.left_out == 2 and report.means["heart_rate"] == 80
    assert "  2 more left out" in report.text
    assert reports.daily_report(frame, end + timedelta(days=1)).left_out == 0  # outside of the window
    fig = reports.draw(frame, end)
    curve = fig.axes[0].lines[0].get_ydata()
    assert len(curve) == 286 and max(curve) == 80


@pytest.mark.parametrize(
    ("hour", "minute", "is_due"),
    [(20, 29, False), (20, 30, True), (21, 0, True), (21, 30, True), (21, 31, False), (9, 0, False)],
)
def test_reports_are_due_in_the_evening(hour: int, minute: int, is_due: bool) -> None:
    now = datetime(2025, 3, 7, hour, minute)
    assert reports.is_due(now) is is_due
    assert reports.is_due(now.replace(tzinfo=UTC)) is is_due
    assert reports.is_due(now, last_sent=now - timedelta(days=1)) is is_due
    assert not reports.is_due(now, last_sent=datetime(2025, 3, 7, 20, 35))


def test_the_monitor_sends_one_report_a_day() -> None:
    sent: list[datetime] = []
    for tick in range(3 * 288):
        now = datetime(2025, 3, 7) + timedelta(minutes=5 * tick)
        if reports.is_due(now, sent[-1] if sent else None):
            sent.append(now)
    assert [at.date() for at in sent] == [date(2025, 3, day) for day in (7, 8, 9)]


def test_the_figure_of_a_report_shows_the_alarms() -> None:
    import matplotlib.pyplot as plt

    frame = vitals.detect_frame(vitals.simulate(48, seed=5))
    end = datetime(2025, 3, 8, 21)
    fig = reports.draw(frame, end)
    alarms = reports.daily_report(frame, end).alarms
    drawn = sum(len(line.get_xdata()) for ax in fig.axes for line in ax.get_lines() if line.get_marker() == "o")
    assert drawn == len(alarms)
    steps = [patch.get_height() for patch in fig.axes[2].patches]
    assert sum(steps) == reports.daily_report(frame, end).walked and len(steps) == 24
    plt.close(fig)
    plt.close(reports.draw(frame, datetime(2026, 1, 1)))  # an empty day can be drawn
