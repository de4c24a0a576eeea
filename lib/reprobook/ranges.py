"""What a parameter may be, checked before a kernel starts or anything is fetched.

The parameters cell says it of numbers by a range in the comment, ``dropout = 0.1  # dropout rate (>= 0, < 1); paper:
0.1``, else by the values themselves: what is above 0 at every scale of the chapter stays above 0, what is 0 at one may
be 0. Of texts it says so by their list, ``style = "paper"  # of the loss: paper | code``.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from reprobook import params
from reprobook.params import ParameterError

Range = tuple[tuple[str, float], ...]  # sign and bound of each comparison that a number must pass
SIGNS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge
}  # fmt: skip
_COMPARISON = r"([<>]=?) ?(-?[\d.]+(?:e-?\d+)?)"
_SAID = re.compile(rf"\({_COMPARISON}(?:, {_COMPARISON})?\)")
_LISTED = re.compile(r"(?:^|: )([^:;()|]+(?: \| [^:;()|]+)+)(?=[;:]|$)")


class Allowed(NamedTuple):
    """By parameter: the range of its numbers, and the texts that it may be."""

    numbers: dict[str, Range]
    texts: dict[str, tuple[str, ...]]


def allowed(slug: str) -> Allowed:
    """What the parameters of the chapter, or each of a list, may be. A text may be empty where the comment says what
    that means. What all chapters have is checked elsewhere: a device has a number."""
    declared = params.read_parameters(slug)
    values = {name: [param.default] for name, param in declared.items()}
    for kind in ("laptop", "paper", "rehearsal"):
        with suppress(ParameterError):  # a chapter that is being written has not all of them
            for name, (value, _) in params.file_parameters(slug, kind).items():
                values.get(name, []).append(value)
    numbers = {name: _said(param.comment) or _usual(values[name]) for name, param in declared.items()}
    texts = {name: _listed(param.comment) for name, param in declared.items() if name not in params.COMMON}
    return Allowed({k: v for k, v in numbers.items() if v}, {k: v for k, v in texts.items() if v})


def _listed(comment: str) -> tuple[str, ...]:
    found = _LISTED.search(comment)
    return (*found[1].split(" | "), *([""] if "empty:" in comment else [])) if found else ()


def _said(comment: str) -> Range:
    found = _SAID.search(comment)
    parts = found.groups() if found else ()
    return tuple((sign, float(bound)) for sign, bound in zip(parts[::2], parts[1::2], strict=True) if sign)


def _usual(values: list[Any]) -> Range:
    least = min(_numbers(values), default=-1.0)
    return () if least < 0 else ((">" if least else ">=", 0.0),)


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def check(given: Mapping[str, Any], allowed: Allowed, source: str) -> None:
    """Raise :class:`ParameterError` for the first number of ``given`` out of its range or text that is not listed;
    ``source`` goes first."""
    for name, value in given.items():
        within = f" in {value!r}" if isinstance(value, list | tuple) else ""
        for number in _numbers(value):
            if not all(SIGNS[sign](number, bound) for sign, bound in allowed.numbers.get(name, ())):
                said = " and ".join(f"{sign} {bound:g}" for sign, bound in allowed.numbers[name])
                raise ParameterError(f"{source}: parameter {name!r} must be {said}, got {number!r}{within}")
        for text in value if within else [value]:
            if isinstance(text, str) and text not in allowed.texts.get(name, [text]):
                said = " | ".join(text or '""' for text in allowed.texts[name])
                raise ParameterError(f"{source}: parameter {name!r} must be one of {said}; got {text!r}{within}")


def resolve(slug: str, scale: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """As :func:`reprobook.params.resolve`, for overrides that may be so."""
    values = params.resolve(slug, scale, overrides)
    check(overrides or {}, allowed(slug), "override")
    return values
