"""Which numbers a parameter may be, checked before a kernel starts or anything is fetched.

The parameters cell says it: by a range in the comment, ``dropout = 0.1  # dropout rate (>= 0, < 1); paper: 0.1``, else
by the values themselves: what is above 0 at every scale of the chapter stays above 0, what is 0 at one may be 0.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from reprobook import params
from reprobook.params import ParameterError

Range = tuple[tuple[str, float], ...]  # sign and bound of each comparison that a number must pass
SIGNS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge
}  # fmt: skip
_COMPARISON = r"([<>]=?) ?(-?[\d.]+(?:e-?\d+)?)"
_SAID = re.compile(rf"\({_COMPARISON}(?:, {_COMPARISON})?\)")


def ranges(slug: str) -> dict[str, Range]:
    """The range of every parameter of the chapter that is a number or holds numbers."""
    declared = params.read_parameters(slug)
    values = {name: [param.default] for name, param in declared.items()}
    for kind in ("laptop", "paper", "rehearsal"):
        with suppress(ParameterError):  # a chapter that is being written has not all of them
            for name, (value, _) in params.file_parameters(slug, kind).items():
                values.get(name, []).append(value)
    found = {name: _said(param.comment) or _usual(values[name]) for name, param in declared.items()}
    return {name: allowed for name, allowed in found.items() if allowed}


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


def check(given: Mapping[str, Any], allowed: Mapping[str, Range], source: str) -> None:
    """Raise :class:`ParameterError` for the first number of ``given`` out of its range; ``source`` goes first."""
    for name, value in given.items():
        for number in _numbers(value):
            if not all(SIGNS[sign](number, bound) for sign, bound in allowed.get(name, ())):
                said = " and ".join(f"{sign} {bound:g}" for sign, bound in allowed[name])
                within = f" in {value!r}" if isinstance(value, list | tuple) else ""
                raise ParameterError(f"{source}: parameter {name!r} must be {said}, got {number!r}{within}")


def resolve(slug: str, scale: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """As :func:`reprobook.params.resolve`, for overrides whose numbers are in range."""
    values = params.resolve(slug, scale, overrides)
    check(overrides or {}, ranges(slug), "override")
    return values
