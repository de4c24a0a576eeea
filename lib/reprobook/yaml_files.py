"""YAML as the files and overrides of this project are read: no key is dropped, no number is another than it looks."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from reprobook.errors import ReprobookError


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML 1.1 without its surprises; read by the C library where PyYAML has it, ten times as fast."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping; a key given twice is an error."""
        seen: set[Any] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and not key.tag.endswith("merge")):
            name = self.construct_object(key)
            if name in seen:
                raise yaml.YAMLError(f"{name!r} is given twice ({_line(key)})")
            seen.add(name)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """A number; ``010``, which is 8, and ``1:30``, which is 90, are errors."""
        whole = node.tag.endswith("int")
        number = super().construct_yaml_int(node) if whole else super().construct_yaml_float(node)
        octal = whole and re.fullmatch(r"[-+]?0[\d_]+", node.value)
        if octal or ":" in node.value:
            spellings = dict.fromkeys([str(number), *([str(int(node.value.replace("_", "")))] if octal else [])])
            raise yaml.YAMLError(
                f"{node.value} is {number} to YAML ({_line(node)}): write {' or '.join(spellings)}, or quote it"
            )
        return number

    def construct_date(self, node: yaml.ScalarNode) -> None:
        """Dates are errors: no value here is one, and YAML knows days that do not exist."""
        raise yaml.YAMLError(f"{node.value} is a date to YAML ({_line(node)}): quote it")


Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_number)
Loader.add_constructor("tag:yaml.org,2002:float", Loader.construct_number)
Loader.add_constructor("tag:yaml.org,2002:timestamp", Loader.construct_date)


def _line(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}"


def load_yaml(text: str, where: str, error: type[ReprobookError] = ReprobookError) -> Any:
    """What ``text`` says. Raises ``error``, which begins with ``where``, for what is no YAML or not unambiguous."""
    try:
        return yaml.load(text, Loader=Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as problem:  # ValueError: an integer of too many digits
        raise error(f"{where} is not valid YAML: {' '.join(str(problem).split())}") from problem
