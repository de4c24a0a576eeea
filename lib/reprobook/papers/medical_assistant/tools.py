"""The twelve tools: their specifications, checks of arguments, and the parser of what agents write.

The paper's application lists 15 entries for 12 names; three names come twice with different requirements, and one entry
requires a parameter that it does not declare. :func:`specs` gives one entry per name by default; ``which="paper"``
gives all fifteen. What a model writes is parsed as a Python literal and never evaluated.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from reprobook.errors import ReprobookError

TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,), "boolean": (bool,), "array": (list, tuple), "object": (dict,), "number": (int, float),
}  # fmt: skip
DATE_FORMAT = "%d/%m/%y"  # the paper's: DD/MM/YY
TIMESTAMP_FORMAT = "%d/%m/%y %H:%M"


class ToolError(ReprobookError):
    """A call that cannot be carried out: unknown tool, missing or wrong argument, unreadable text."""


@dataclass(frozen=True)
class Parameter:
    """One parameter: ``fields`` are the members of an object, all of type ``field_type``."""

    name: str
    type: str = "string"
    fields: tuple[str, ...] = ()
    field_type: str = "string"
    default: Any = None


@dataclass(frozen=True)
class Tool:
    """One entry of the list of tools (``views.py`` of the released application)."""

    name: str
    description: str
    parameters: tuple[Parameter, ...]
    required: tuple[str, ...]
    returns: str

    def schema(self) -> dict[str, Any]:
        """The entry with the keys of the paper's API dictionaries."""
        return {
            "Name": self.name, "Description": self.description,
            "Parameters": [
                {"param_name": p.name, "type": p.type, "default": p.default,
                 "description": f"with {', '.join(p.fields)}" if p.fields else ""} for p in self.parameters
            ],
            "Required Parameters": list(self.required), "Returns": self.returns,
        }  # fmt: skip

    def short(self) -> str:
        """The entry in one line for short prompts: ``name(required, optional?, object{field, ...})``."""
        parts = [
            p.name + ("" if p.name in self.required else "?") + (f"{{{', '.join(p.fields)}}}" if p.fields else "")
            for p in self.parameters
        ]
        return f"{self.name}({', '.join(parts)})"


def _user() -> Parameter:
    return Parameter("user_id")


_SYMPTOMS = Parameter("symptoms")
_WHEN = Parameter("appointment_time_date")
_ONE = (
    Tool("retrieve_past_complaints", "Past complaints of the user that resemble the symptoms",
         (_user(), _SYMPTOMS, Parameter("date_range", "object", ("start_date", "end_date"))),
         ("user_id", "symptoms"), "array of past complaints"),
    Tool("get_available_specialists", "The best free slot of a specialist for the symptoms",
         (_SYMPTOMS, Parameter("specialization"), Parameter("user_schedule", "object", ("date", "time_range"))),
         ("symptoms",), "one slot: specialist_id, name, available_slot, date"),
    Tool("confirm_appointment", "Book a slot of a specialist (HH:MM-HH:MM DD/MM/YY)",
         (_user(), Parameter("specialist_id"), _WHEN), ("user_id", "specialist_id", "appointment_time_date"),
         "boolean"),
    Tool("save_appointment_history", "Keep a booked appointment in the user's history",
         (_user(), _SYMPTOMS, Parameter("specialist_id"), _WHEN),
         ("user_id", "symptoms", "specialist_id", "appointment_time_date"), "boolean"),
    Tool("get_appointment_history", "All appointments of the user", (_user(),), ("user_id",), "array"),
    Tool("store_symptoms", "Keep the user's symptoms with their time",
         (_user(), _SYMPTOMS, Parameter("timestamp")), ("user_id", "symptoms", "timestamp"), "boolean"),
    Tool("follow_up_with_user", "Compare past complaints with the current symptoms and follow up",
         (_user(), Parameter("past_complaints", "array"), Parameter("current_symptoms"),
          Parameter("preferred_contact_method")), ("user_id", "current_symptoms"), "object"),
    Tool("get_input_from_user", "Ask the user and wait for the answer",
         (_user(), Parameter("questions")), ("user_id", "questions"), "string"),
    Tool("notify_user", "Tell the user something", (_user(), Parameter("message")), ("user_id", "message"), "boolean"),
    Tool("get_location", "Where the user is", (), (), "object: latitude, longitude"),
    Tool("search_ambulance", "The nearest ambulance",
         (Parameter("location", "object", ("latitude", "longitude"), "number"),), ("location",),
         "object: ambulance_id, phone_no"),
    Tool("send_message", "Send a text message",
         (Parameter("phone_no"), Parameter("text"), Parameter("to_emergency_contacts", "boolean", default=False)),
         ("text",), "boolean"),
)  # fmt: skip
NAMES = tuple(tool.name for tool in _ONE)


def specs(which: str = "one") -> tuple[Tool, ...]:
    """The tools. ``"one"``: one entry for each of the twelve names; where the paper's two entries disagree it requires
    what both require. ``"paper"``: its fifteen entries, the wrong requirement of one of them included."""
    if which == "one":
        return _ONE
    if which != "paper":
        raise ReprobookError(f"specs: which is {which!r}; allowed: 'one', 'paper'")
    by_name = {tool.name: tool for tool in _ONE}

    def again(name: str, *required: str) -> Tool:
        tool = by_name[name]
        return Tool(tool.name, tool.description, tool.parameters, required, tool.returns)

    find, confirm = "get_available_specialists", "confirm_appointment"
    changed = {
        find: (again(find, "symptoms", "user_schedule"), again(find, "symptoms", "specialization")),
        confirm: (again(confirm, "user_id", "specialist_id", "appointment_time"), by_name[confirm]),
        "save_appointment_history": (by_name["save_appointment_history"],) * 2,
    }
    return tuple(entry for tool in _ONE for entry in changed.get(tool.name, (tool,)))


def find_specs(name: str, which: str = "one") -> tuple[Tool, ...]:
    """The entries with this name; an unknown (hallucinated) name is an error that lists the known ones."""
    found = tuple(tool for tool in specs(which) if tool.name == name)
    if not found:
        raise ToolError(f"tool {name!r} does not exist; tools: {', '.join(NAMES)}")
    return found


def check_call(name: str, arguments: Mapping[str, Any], which: str = "one") -> None:
    """Raise :class:`ToolError` unless ``arguments`` fit one of the entries of ``name``: known names only, required ones
    present, types and object fields right. Checks of meaning (dates, ids) are the environment's."""
    faults = [_fault(tool, arguments) for tool in find_specs(name, which)]
    if all(faults):
        raise ToolError(f"{name}: {faults[0]}")


def _fault(tool: Tool, arguments: Mapping[str, Any]) -> str:
    known = {p.name: p for p in tool.parameters}
    for name in arguments:
        if name not in known:
            return f"unknown parameter {name!r}; parameters: {', '.join(known) or 'none'}"
    missing = [name for name in tool.required if name not in arguments]
    if missing:
        return f"required parameter {missing[0]!r} is missing"
    for name, value in arguments.items():
        if wrong := _wrong_value(value, known[name].type):
            return f"parameter {name!r} {wrong}"
        if fields := known[name].fields:
            if set(value) != set(fields):
                return f"parameter {name!r} has the fields {sorted(map(str, value))}; it must have {', '.join(fields)}"
            for field in fields:
                if wrong := _wrong_value(value[field], known[name].field_type):
                    return f"field {field!r} of {name!r} {wrong}"
    return ""


def _wrong_value(value: Any, kind: str) -> str:
    if not isinstance(value, TYPES[kind]) or (kind != "boolean" and isinstance(value, bool)):
        return f"is {value!r}; it must be of type {kind}"
    if kind == "string" and not value.strip():
        return "is empty"
    return ""


def short_list(names: Sequence[str]) -> str:
    """The list of tools in a short prompt, in the order of ``names``."""
    by_name = {tool.name: tool for tool in _ONE}
    return "; ".join(by_name[name].short() for name in names)


# ---------------------------------------------------------------------------------------------- what agents write

_PLAN = re.compile(r"\s*<reason>(.*?)</reason>\s*<action>(.*?)</action>\s*", re.S)
_CALL = re.compile(r"\s*<tool>(.*?)</tool>\s*<parameters>(.*)</parameters>\s*", re.S)
MAX_TEXT = 10_000  # characters of one turn: deep nesting in longer ones could exhaust the literal parser


def write_plan(reason: str, action: str) -> str:
    """A planner's turn."""
    return f"<reason>{reason}</reason><action>{action}</action>"


def write_call(name: str, arguments: Mapping[str, Any]) -> str:
    """A caller's turn."""
    return f"<tool>{name}</tool><parameters>{dict(arguments)!r}</parameters>"


def parse_plan(text: str) -> tuple[str, str]:
    """``(reason, action)`` of a planner's turn; :class:`ToolError` if it has another form."""
    found = _PLAN.fullmatch(text) if len(text) <= MAX_TEXT else None
    if not found or not found[2].strip():
        raise ToolError(f"planner's turn is not <reason>..</reason><action>..</action>: {text[:80]!r}")
    return found[1].strip(), found[2].strip()


def parse_call(text: str) -> tuple[str, dict[str, Any]]:
    """``(tool, arguments)`` of a caller's turn. Arguments are a literal of plain values (``ast.literal_eval``): no
    name, call or operator in it is ever looked up. Raises :class:`ToolError` if it has another form."""
    found = _CALL.fullmatch(text) if len(text) <= MAX_TEXT else None
    if not found:
        raise ToolError(f"caller's turn is not <tool>..</tool><parameters>{{..}}</parameters>: {text[:80]!r}")
    try:
        arguments = ast.literal_eval(found[2].strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ToolError(f"parameters are no Python literal: {found[2].strip()[:80]!r}") from error
    if not isinstance(arguments, dict) or not all(isinstance(key, str) for key in arguments):
        raise ToolError(f"parameters are no dictionary with names as keys: {found[2].strip()[:80]!r}")
    try:
        json.dumps(arguments, ensure_ascii=False).encode()
    except (TypeError, UnicodeEncodeError) as error:  # bytes, sets; half of a surrogate pair
        raise ToolError(f"parameters hold what cannot be stored as text: {found[2].strip()[:80]!r}") from error
    return found[1].strip(), arguments


# ---------------------------------------------------------------------------------------------- dates and times


def parse_date(text: str, what: str = "date") -> datetime:
    """Midnight of a date DD/MM/YY; :class:`ToolError` if there is no such day."""
    try:
        return datetime.strptime(text.strip(), DATE_FORMAT)
    except ValueError as error:
        raise ToolError(f"{what} {text!r} is no date DD/MM/YY") from error


def parse_range(text: str, what: str = "time range") -> tuple[str, str]:
    """Begin and end of HH:MM-HH:MM; :class:`ToolError` for impossible times or an end before the begin."""
    found = re.fullmatch(r"\s*(\d\d:\d\d)\s*-\s*(\d\d:\d\d)\s*", text)
    try:
        begin, end = (datetime.strptime(part, "%H:%M") for part in found.groups()) if found else (None, None)
    except ValueError as error:
        raise ToolError(f"{what} {text!r} has an impossible time; times run from 00:00 to 23:59") from error
    if not found or begin is None or end is None or begin >= end:
        raise ToolError(f"{what} {text!r} is no range HH:MM-HH:MM that ends after it begins")
    return found[1], found[2]


def parse_appointment(text: str) -> tuple[str, str]:
    """``(time range, date)`` of ``HH:MM-HH:MM DD/MM/YY``, as written."""
    parts = text.split()
    if len(parts) != 2:
        raise ToolError(f"appointment_time_date {text!r} is not HH:MM-HH:MM DD/MM/YY")
    parse_range(parts[0], "appointment_time_date")
    parse_date(parts[1], "appointment_time_date")
    return parts[0], parts[1]
