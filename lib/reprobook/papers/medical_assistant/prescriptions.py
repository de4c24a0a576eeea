"""The scheduler's first half: prescription text to medications (:mod:`.reminders` is the second).

Meal times and the default course are those of the paper's demonstration. Nothing here is medical advice, and a text
that cannot be read with certainty is refused rather than guessed at.

Two ways lead to a :class:`Medication`, as in the paper's application: dose patterns such as 1-0-1 found by rule
(:func:`read_prescription`), and the JSON that a language model writes (:func:`parse_schedule`). The application takes
the first pattern of a prescription for all of its medicines; here each has its own.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any

from reprobook.errors import ReprobookError

PATTERNS = {  # morning-noon-night: when to take it if the text does not say
    "1-0-0": "before",
    "0-1-0": "after",
    "0-0-1": "after",
    "1-1-1": "before",
    "1-0-1": "after",
    "0-1-1": "after",
    "1-1-0": "after",
}
MEALS = ("breakfast", "lunch", "dinner")
BEFORE = (time(10, 0), time(14, 0), time(21, 0))  # breakfast and dinner: the paper's example; lunch: ours
DELAY = {"before": timedelta(0), "with": timedelta(minutes=30), "after": timedelta(hours=1)}  # ours
DEFAULT_DAYS, DEFAULT_DOSAGE = 7, "1 unit"  # what the paper's application hard-codes
MOST_DAYS = 365  # ours: a longer course is more likely a misread text

_NUMBER = r"(?:\d+(?:\.\d+)?|half|an?|one|two|three|four|five|six|seven|eight|nine|ten|twelve|fourteen)"
_WORDS = {"a": 1, "an": 1} | {
    word: value for value, word in enumerate("one two three four five six seven eight nine ten".split(), 1)
} | {"twelve": 12, "fourteen": 14}  # fmt: skip
_FRACTION = "[½⅓⅔¼¾]"
# How much: kept as it is written, so 1/2, 0,5 and 1-2 are no matter of reading.
_AMOUNT = (
    rf"(?<![\w.,/-])(?:\d+(?:[.,/]\d+)*(?:\s*(?:-|–|\bto\b)\s*\d+(?:[.,/]\d+)*)?\s*{_FRACTION}?|{_FRACTION}"
    rf"|(?:half|quarter)(?:\s+an?|\s+of\s+an?)?|{_NUMBER})"
)
_FORM = r"(?:tablets?|tabs?|capsules?|caps?|drops?|puffs?|teaspoons?|tsp|spoons?|ml|units?|sachets?|pills?)\b"
_UNIT = r"(?:mg|mcg|µg|g|iu|%)"
_EATING = r"(?:(?:every|each|the)\s+)?(?:meals?|food|eating|breakfast|lunch|dinner)"
_AND_MEALS = r"(?:\s*(?:,|and)\s*(?:breakfast|lunch|dinner))*"
_SPAN = r"(?:day|week|month)"
_TOKENS = re.compile(
    "|".join((
        r"(?P<heading>^\s*(?:name|patient|age|sex|gender|date|dr|doctor|diagnosis|address|phone|note|advice|rx)\b\s*[.:].*$)",
        r"(?P<number>^\s*(?:\d+\s*[.)]|[-*•])\s+)",
        r"(?P<pattern>(?<![\d/.-])\d\s*[-–]\s*\d\s*[-–]\s*\d(?!\s*[-–/]|\.?\d))",
        rf"(?P<supply>\b(?:qty|quantity|dispense|total)\b\s*[.:]?\s*\d+(?:\s*{_FORM})?)",
        rf"(?P<days>(?:\b(?:for|x)\s*|[×*]\s*|(?<![\w.-])(?<!every\s)(?<!after\s)(?<!in\s)){_NUMBER}[\s-]*{_SPAN}s?\b)",
        rf"(?P<meal>\b(?:before|after|with)\s+{_EATING}{_AND_MEALS}\b|\bon an empty stomach\b)",
        rf"(?P<strength>{_AMOUNT}\s*{_UNIT}(?:\s*/\s*\d*\s*ml\b)?(?!\w))",
        rf"(?P<dosage>{_AMOUNT}\s*{_FORM})",
        r"(?P<filler>\b(?:take|please|then|daily|half an hour|orally|by mouth|with water)\b|[,;.:|]+(?=\s|$))",
    )),
    re.IGNORECASE,
)  # fmt: skip
_UNREAD = re.compile(rf"\d\s*(?:{_FORM}|{_UNIT}(?!\w))|{_FRACTION}|\b(?:half|quarter)\b", re.IGNORECASE)
_NEGATION = re.compile(r"\b(?:not|don['’]t|no(?!-)|stop\w*|avoid|never|without|discontinue\w*|hold)\b", re.IGNORECASE)
_PREFIX = re.compile(r"^(?:tab|tablet|cap|capsule|syp|syr|syrup|inj|injection)\b\.?\s+(?=\w)", re.IGNORECASE)


@dataclass(frozen=True)
class Medication:
    """One medicine: taken at each of ``times`` on each of ``days`` days.

    ``conditions``: one per time, such as ``"after dinner"``. ``pattern``: the dose pattern, empty if a language model
    gave the times. ``supply``: number of pieces prescribed ("Qty: 10"), if the text says so. ``illness``: what it is
    for, if a language model's schedule says so.
    """

    name: str
    times: tuple[time, ...]
    conditions: tuple[str, ...]
    days: int = DEFAULT_DAYS
    dosage: str = DEFAULT_DOSAGE
    strength: str = ""
    pattern: str = ""
    supply: int | None = None
    illness: str = ""

    @property
    def firings(self) -> int:
        """How often its reminders fire: times x days."""
        return len(self.times) * self.days


def prescription_body(text: str) -> str:
    """What stands between the words "Prescription" and "Signature"; from or to the end where one is absent."""
    if opening := re.search(r"\bprescription\b\s*:?", text, re.IGNORECASE):
        text = text[opening.end() :]
    closing = re.search(r"\bsignature\b", text, re.IGNORECASE)
    return text[: closing.start()] if closing else text


def read_prescription(text: str) -> list[Medication]:
    """All medicines of a prescription, in order.

    A medicine is a name and one dose pattern, with or without duration ("for 5 days", "x 2 weeks"; 7 days if not
    given, as in the paper's application; a month is 30), dosage ("2 tablets"; else 1 unit), strength ("500 mg") and
    meal ("after food"; else the paper's for the pattern). It may run over several lines, and one line may hold several.
    Lines such as "Patient: ..." or "Note: ..." are passed over. A name without a dose is an error with its line, and so
    is everything else that was not understood.
    """
    found: list[dict[str, Any]] = []
    for line in filter(None, map(str.strip, prescription_body(text).splitlines())):
        _line(found, line)
    if not found:
        raise ReprobookError("prescription: no medicine in the text; write a name and a dose such as 1-0-1 per line")
    return [_medication(**each) for each in found]


def _parts(line: str) -> list[tuple[str, str]]:
    """The line as ``(kind, text)``: tokens of the pattern, and kind "name" for the text between them."""
    parts, position = [], 0
    for match in (*_TOKENS.finditer(line), None):
        between = " ".join(line[position : match.start() if match else None].split()).strip(" -–,;:.()")
        parts += [("name", between)] if between else []
        if match and match.lastgroup not in ("heading", "number", "filler"):
            parts.append((str(match.lastgroup), match.group().strip()))
        position = match.end() if match else position
    return parts


def _line(found: list[dict[str, Any]], line: str) -> None:
    """Add the medicines of a line; what stands before any name carries on the last medicine of the lines above."""
    parts = _parts(line)
    names = sum(kind == "name" for kind, _ in parts)
    if names and parts[0][0] == "dosage":  # "2 tablets Paracetamol": the dosage is of the name behind it
        parts[0], parts[1] = parts[1], parts[0]
    if (not found and parts and parts[0][0] != "name") or (names and parts[0][0] != "name"):
        raise ReprobookError(f"prescription, line {line!r}: {parts[0][1]!r} comes before the name of its medicine")
    for index, (kind, text) in enumerate(parts):
        if kind == "name" and index and "pattern" not in found[-1]:  # "Paracetamol 500 mg forte 1-0-1": one name
            found[-1]["name"] += f" {text}"
        elif kind == "name":
            found.append({"name": text, "line": line})
        elif kind in found[-1]:
            raise ReprobookError(f"prescription, line {line!r}: a second {kind} {text!r} for {found[-1]['name']!r}")
        else:
            found[-1][kind] = text if kind == "strength" else text.lower()


def _medication(
    name: str, line: str, pattern: str = "", days: str = "", meal: str = "", dosage: str = "", strength: str = "",
    supply: str = "",
) -> Medication:  # fmt: skip
    where, known = f"prescription, line {line!r}", ", ".join(PATTERNS)
    if found := _NEGATION.search(name):
        raise ReprobookError(f"{where}: {found[0]!r} in {name!r}; write what to take only (or begin it with 'Note:')")
    if found := _UNREAD.search(name):
        raise ReprobookError(f"{where}: {found[0]!r} in {name!r} cannot be read; write an amount such as 2 tablets")
    if not pattern:
        raise ReprobookError(f"{where}: {name!r} has no dose; add one of {known} (or begin the line with 'Note:')")
    pattern = re.sub(r"\s", "", pattern).replace("–", "-")
    if pattern not in PATTERNS:
        raise ReprobookError(f"{where}: dose {pattern} of {name!r} is not known; allowed: {known}")
    relation, named = PATTERNS[pattern], set(re.findall("|".join(MEALS), meal))
    if meal:
        relation = "before" if "empty stomach" in meal else meal.split()[0]
    slots = [slot for slot, taken in enumerate(pattern.split("-")) if taken == "1"]
    if named and named != {MEALS[slot] for slot in slots}:
        raise ReprobookError(f"{where}: {meal!r} contradicts the dose {pattern} of {name!r}")
    name = _PREFIX.sub("", name)
    return Medication(
        name=name,
        times=tuple((datetime.combine(date.min, BEFORE[slot]) + DELAY[relation]).time() for slot in slots),
        conditions=tuple(f"{relation} {MEALS[slot]}" for slot in slots),
        days=_days(days, where) if days else DEFAULT_DAYS,
        dosage=" ".join(dosage.split()) or DEFAULT_DOSAGE,
        strength=strength,
        pattern=pattern,
        supply=int(re.findall(r"\d+", supply)[0]) if supply else None,
    )


def _days(text: str, where: str) -> int:
    number, unit = re.findall(rf"({_NUMBER})[\s-]*({_SPAN})", text)[0]
    count = _WORDS.get(number) or (int(number) if number.isdigit() else 0)
    days = count * {"day": 1, "week": 7, "month": 30}[unit]
    if not 1 <= days <= MOST_DAYS:
        raise ReprobookError(f"{where}: duration {text!r}; allowed: a whole number, 1 to {MOST_DAYS} days in all")
    return days


def parse_schedule(text: str) -> list[Medication]:
    """Medications from the JSON of a language model, cut from the first ``{`` to the last ``}``.

    Form: ``{"medication_schedule": {"medication_name", "medications": [{"medicine_name", "total_days", "timing":
    ["HH:MM", ...], "dosage", "instructions"}]}}``; ``medication_name``, which is the illness, and the last two may be
    absent. Read as JSON, else as a Python literal (models write single quotes); never evaluated.
    """
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        raise ReprobookError("medication schedule: no {...} in the model's text; ask the model again")
    tree = _literal(text[start : end + 1])
    entries = _dig(tree)
    illness = tree["medication_schedule"].get("medication_name") or ""
    if not isinstance(illness, str):
        raise ReprobookError(f"medication schedule: medication_name={illness!r}; a text is needed")
    return [_entry(each, f"medication schedule, entry {k}", illness.strip()) for k, each in enumerate(entries, 1)]


def _literal(text: str) -> Any:
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    raise ReprobookError(f"medication schedule: neither JSON nor a Python literal: {text[:60]!r}")


def _dig(tree: Any) -> list[Any]:
    for key in ("medication_schedule", "medications"):
        if not isinstance(tree, dict) or key not in tree:
            raise ReprobookError(f"medication schedule: no {key!r} in the model's answer")
        tree = tree[key]
    if not isinstance(tree, list) or not tree:
        raise ReprobookError("medication schedule: 'medications' must be a list with at least one entry")
    return tree


def _entry(entry: Any, where: str, illness: str) -> Medication:
    if not isinstance(entry, dict):
        raise ReprobookError(f"{where}: {entry!r} is not an object")
    name, days, timing = (entry.get(key) for key in ("medicine_name", "total_days", "timing"))
    dosage, instructions = entry.get("dosage", DEFAULT_DOSAGE), entry.get("instructions", "")
    for key, value in (("medicine_name", name), ("dosage", dosage), ("instructions", instructions)):
        if not isinstance(value, str) or (key != "instructions" and not value.strip()):
            raise ReprobookError(f"{where}: {key}={value!r}; a text is needed")
    if isinstance(days, bool) or not isinstance(days, int) or not 1 <= days <= MOST_DAYS:
        raise ReprobookError(f"{where}: total_days={days!r} of {name!r}; allowed: a whole number, 1 to {MOST_DAYS}")
    if not isinstance(timing, list | tuple) or not timing:
        raise ReprobookError(f"{where}: timing={timing!r} of {name!r}; a list of times such as ['10:00'] is needed")
    times = tuple(_clock(value, f"{where}, {name!r}") for value in timing)
    if len(set(times)) < len(times):
        raise ReprobookError(f"{where}: timing={timing!r} of {name!r} names a time twice")
    conditions = (instructions.strip() or "as prescribed",) * len(times)
    return Medication(name.strip(), times, conditions, days, dosage.strip(), illness=illness)


def _clock(value: Any, where: str) -> time:
    if not isinstance(value, str) or not re.fullmatch(r"(?:[01]\d|2[0-3]):[0-5]\d", value, re.ASCII):
        raise ReprobookError(f"{where}: time {value!r}; allowed: HH:MM from 00:00 to 23:59")
    return time.fromisoformat(value)


def to_schedule(medications: Sequence[Medication]) -> dict[str, Any]:
    """The inverse of :func:`parse_schedule`: what a model should answer; JSON-ready. All are for one illness."""
    illnesses = {each.illness for each in medications}
    if len(illnesses) > 1:
        raise ReprobookError(f"medication schedule: one illness has a place in it, not {', '.join(sorted(illnesses))}")
    entries = [
        {
            "medicine_name": each.name,
            "total_days": each.days,
            "timing": [f"{at:%H:%M}" for at in each.times],
            "dosage": each.dosage,
            "instructions": " and ".join(dict.fromkeys(each.conditions)),
        }
        for each in medications
    ]
    name = {"medication_name": illnesses.pop()} if any(illnesses) else {}
    return {"medication_schedule": {**name, "medications": entries}}
