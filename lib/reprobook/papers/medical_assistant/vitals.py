"""The health monitor: a simulated smartwatch, and the rules that raise a soft SOS.

The limits are those of the paper's demonstration. They are no clinical limits, and nothing here is medical advice.

Two definitions of "abnormal" stand side by side, as in the paper's application. The simulator calls a reading abnormal
outside :data:`NORMAL`; the detector raises an alarm by :data:`RULES`, which are wider and depend on rest.

**Steps.** The rules say "rest" for fewer than 20 steps; the watch counts steps since it was switched on. Read literally
(``steps_from="cumulative"``), nobody is at rest again after the first few readings and the detector falls silent. The
default, ``"interval"``, compares the steps since the last reading, which is what a rule about rest can mean.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_fscore_support

from reprobook.errors import ReprobookError

StepsFrom = Literal["interval", "cumulative"]
UNITS = {"heart_rate": "bpm", "oxygen": "%", "steps": "steps"}
WORDS = {"heart_rate": "heart rate", "oxygen": "blood oxygen", "steps": "steps"}
POSSIBLE = {"heart_rate": (20, 250), "oxygen": (50, 100), "steps": (0, math.inf)}  # ours: outside, the sensor failed
NORMAL = {"heart_rate": (60, 100), "oxygen": (95, 100)}  # the simulator's label, both ends normal
SLEEP = ("sleep_awake", "sleep_rem", "sleep_light", "sleep_deep")  # minutes
REST_BELOW = 20  # steps

# The simulator's distributions; whole numbers, both ends included.
LOW_HEART, HIGH_HEART, LOW_OXYGEN = (40, 59), (101, 140), (85, 94)
P_HEART, P_OXYGEN, MOST_STEPS = 0.05, 0.03, 50
CALORIES_PER_STEP = 0.04


@dataclass(frozen=True)
class Vitals:
    """One reading: beats per minute, SpO2 in percent, and the steps that decide between rest and activity."""

    heart_rate: float
    oxygen: float
    steps: float


@dataclass(frozen=True)
class Rule:
    """``field`` below (``"<"``) or above (``">"``) ``limit``, tested only at rest or only in activity."""

    kind: str
    resting: bool
    field: str
    sign: Literal["<", ">"]
    limit: float

    def holds(self, values: Any) -> Any:
        """Whether the rule's comparison is true; elementwise for arrays."""
        return (operator.lt if self.sign == "<" else operator.gt)(values, self.limit)


RULES = (  # in the paper's order: the first that holds is the alarm
    Rule("low heart rate", True, "heart_rate", "<", 50),
    Rule("high heart rate", True, "heart_rate", ">", 110),
    Rule("low oxygen", True, "oxygen", "<", 90),
    Rule("dangerous heart rate", False, "heart_rate", ">", 160),
    Rule("critical oxygen", False, "oxygen", "<", 85),
)


@dataclass(frozen=True)
class Alarm:
    """The rule that held and the value that broke it."""

    rule: Rule
    value: float

    @property
    def kind(self) -> str:
        """The rule's name, such as ``"low oxygen"``."""
        return self.rule.kind

    @property
    def message(self) -> str:
        """One sentence for the user; the opening message of a soft SOS."""
        rule, unit = self.rule, UNITS[self.rule.field]
        when, side = "at rest" if rule.resting else "in activity", "below" if rule.sign == "<" else "above"
        return f"{WORDS[rule.field]} {self.value:g} {unit} {when} is {side} {rule.limit:g} {unit}"


def check_vitals(vitals: Vitals) -> Vitals:
    """``vitals`` unchanged; an error that names the field, its value and what is allowed if missing or impossible."""
    for field in POSSIBLE:
        _possible(field, getattr(vitals, field))
    return vitals


def _possible(field: str, value: Any, where: str = "") -> None:
    low, high = POSSIBLE[field]
    allowed = f"{low:g} {'or more' if high == math.inf else f'to {high:g}'} ({UNITS[field]})"
    if value is None or value is pd.NA or (isinstance(value, float | np.floating) and math.isnan(value)):
        raise ReprobookError(f"vitals: {field}{where} is missing; give a number, {allowed}")
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
        raise ReprobookError(f"vitals: {field}={value!r}{where} is not a number; allowed: {allowed}")
    if not low <= value <= high or math.isinf(value):
        raise ReprobookError(f"vitals: {field}={value:g}{where} is impossible; allowed: {allowed}. Check the sensor")


def check_frame(frame: pd.DataFrame, columns: Iterable[str] = ("heart_rate", "oxygen", "steps")) -> pd.DataFrame:
    """``frame`` unchanged; an error for a missing column, or for the first missing or impossible reading."""
    columns = tuple(columns)
    if missing := [name for name in ("at", *columns) if name not in frame]:
        raise ReprobookError(f"vitals: no column {missing[0]!r}; needed: {', '.join(('at', *columns))}")
    for name in columns:
        good = _usable(frame, name)
        if not good.all():
            row = int(good.argmin())
            where = f" at {frame['at'].iloc[row]:%d %b %Y %H:%M}"
            _possible("steps" if name.startswith("steps") else name, frame[name].iloc[row], where)
    return frame


def usable(frame: pd.DataFrame, columns: Iterable[str] = ("heart_rate", "oxygen", "steps")) -> np.ndarray:
    """Whether all readings of a row are there and possible, (rows,)."""
    return np.logical_and.reduce([_usable(frame, name) for name in columns])


def _usable(frame: pd.DataFrame, name: str) -> np.ndarray:
    low, high = POSSIBLE["steps" if name.startswith("steps") else name]
    values = pd.to_numeric(frame[name], errors="coerce").to_numpy(float, na_value=np.nan)
    return (values >= low) & (values <= high) & np.isfinite(values)


def simulate(hours: float, seed: int, every_minutes: int = 5, start: str = "2025-03-07") -> pd.DataFrame:
    """Readings of the paper's simulated smartwatch, one row every ``every_minutes`` minutes.

    Columns: ``at`` (time), ``heart_rate`` (bpm), ``oxygen`` (%), ``steps`` (count since the first reading),
    ``steps_interval`` (count since the last reading), ``calories`` (0.04 a step), the four of :data:`SLEEP` (minutes of
    the last night), ``abnormal`` (the simulator's own label: outside :data:`NORMAL`). The paper does not say how often
    the night is drawn: here once a calendar day.
    """
    if not (isinstance(every_minutes, int) and every_minutes >= 1):
        raise ReprobookError(f"simulate: every_minutes={every_minutes!r}; a whole number of minutes from 1")
    n = int(hours * 60 // every_minutes) if math.isfinite(hours) else 0
    if n < 1:
        raise ReprobookError(f"simulate: hours={hours:g} gives no reading; at least {every_minutes} minutes are needed")
    rng = np.random.default_rng(seed)
    at = pd.date_range(start, periods=n, freq=f"{every_minutes}min")
    heart, oxygen = _integers(rng, NORMAL["heart_rate"], n), _integers(rng, NORMAL["oxygen"], n)
    odd = np.where(rng.random(n) < 0.5, _integers(rng, LOW_HEART, n), _integers(rng, HIGH_HEART, n))
    heart = np.where(rng.random(n) < P_HEART, odd, heart)
    oxygen = np.where(rng.random(n) < P_OXYGEN, _integers(rng, LOW_OXYGEN, n), oxygen)
    walked = _integers(rng, (0, MOST_STEPS), n)
    frame = pd.DataFrame({"at": at, "heart_rate": heart, "oxygen": oxygen, "steps": walked.cumsum()})
    frame["steps_interval"] = walked
    frame["calories"] = CALORIES_PER_STEP * frame["steps"]
    frame[list(SLEEP)] = _nights(rng, (at.normalize() - at[0].normalize()).days.to_numpy())
    frame["abnormal"] = ~(frame["heart_rate"].between(*NORMAL["heart_rate"]) & (frame["oxygen"] >= NORMAL["oxygen"][0]))
    return frame


def _integers(rng: np.random.Generator, ends: tuple[int, int], n: int) -> np.ndarray:
    return rng.integers(ends[0], ends[1], size=n, endpoint=True)


def _nights(rng: np.random.Generator, day: np.ndarray) -> np.ndarray:
    """Minutes awake, REM, light and deep, (readings, 4): total clip(N(450, 60), 300, 600); deep is what is left."""
    n = int(day.max()) + 1
    total = rng.normal(450, 60, n).clip(300, 600)
    shares = rng.uniform((0.05, 0.20, 0.50), (0.10, 0.25, 0.60), (n, 3))
    return (total[:, None] * np.column_stack((shares, 1 - shares.sum(1))))[day]


def detect(vitals: Vitals) -> Alarm | None:
    """The first of :data:`RULES` that holds, or None. At rest iff ``vitals.steps`` < 20."""
    check_vitals(vitals)
    resting = vitals.steps < REST_BELOW
    for rule in RULES:
        if rule.resting == resting and rule.holds(getattr(vitals, rule.field)):
            return Alarm(rule, getattr(vitals, rule.field))
    return None


def detect_frame(frame: pd.DataFrame, steps_from: StepsFrom = "interval") -> pd.DataFrame:
    """:func:`detect` on all rows at once: ``frame`` with ``resting``, ``alarm`` (its kind, or "") and ``soft_sos``.

    ``steps_from``: column ``steps_interval`` (default) or the running count ``steps``; see the module's text.
    """
    column = _steps_column(steps_from)
    check_frame(frame, ("heart_rate", "oxygen", column))
    resting = frame[column].to_numpy() < REST_BELOW
    hits = [(resting == rule.resting) & rule.holds(frame[rule.field].to_numpy()) for rule in RULES]
    kinds = np.select(hits, [rule.kind for rule in RULES], default="")  # select takes the first, as the paper does
    return frame.assign(resting=resting, alarm=kinds, soft_sos=kinds != "")


def _steps_column(steps_from: str) -> str:
    if steps_from not in get_args(StepsFrom):
        raise ReprobookError(f"steps_from={steps_from!r}; allowed: {', '.join(get_args(StepsFrom))}")
    return "steps_interval" if steps_from == "interval" else "steps"


def alarm_rate(steps_from: StepsFrom = "interval", readings: int = 1) -> float:
    r"""Expected share of the simulator's first ``readings`` readings that raise an alarm, in closed form.

    Heart rate, oxygen and steps are independent, so at rest
    :math:`a = 1 - (1 - p_{<50} - p_{>110})(1 - q_{<90})`. The simulator never leaves 40-140 bpm and 85-100 %: the two
    rules of activity cannot fire, and the rate is :math:`a\,P(\text{rest})`. ``"interval"``: P(rest) = 20/51 for each
    reading. ``"cumulative"``: the sum of k draws from {0..50} stays below 20 with probability
    :math:`\binom{19 + k}{k} / 51^k`, which is gone after a few readings.
    """
    if readings < 1:
        raise ReprobookError(f"alarm_rate: readings={readings}; at least 1")
    heart = P_HEART / 2 * (_share(LOW_HEART, RULES[0]) + _share(HIGH_HEART, RULES[1]))
    alarm = 1 - (1 - heart) * (1 - P_OXYGEN * _share(LOW_OXYGEN, RULES[2]))
    column, counts = _steps_column(steps_from), MOST_STEPS + 1
    if column == "steps_interval":
        return alarm * REST_BELOW / counts
    rest = sum(math.comb(REST_BELOW - 1 + k, k) / counts**k for k in range(1, min(readings, 100) + 1))
    return alarm * rest / readings  # terms beyond the hundredth are below 1e-140


def _share(ends: tuple[int, int], rule: Rule) -> float:
    """Share of the whole numbers from ``ends[0]`` to ``ends[1]`` for which ``rule`` holds."""
    return float(np.mean(rule.holds(np.arange(ends[0], ends[1] + 1))))


def expected_recall() -> float:
    """Share of the simulator's abnormal readings that the detector reports, in closed form (``"interval"``).

    Every alarm is an abnormal reading (the detector's limits are wider), so the expected precision is 1.
    """
    return alarm_rate() / (1 - (1 - P_HEART) * (1 - P_OXYGEN))


def score(detected: pd.DataFrame) -> dict[str, float]:
    """Precision and recall of ``soft_sos`` against the simulator's ``abnormal``, the rate of alarms, and their number.

    By scikit-learn; a precision without any alarm, or a recall without any abnormal reading, is NaN.
    """
    precision, recall, _, _ = precision_recall_fscore_support(
        detected["abnormal"], detected["soft_sos"], average="binary", zero_division=np.nan
    )
    alarms = int(detected["soft_sos"].sum())
    return {"precision": float(precision), "recall": float(recall), "rate": alarms / len(detected), "alarms": alarms}
