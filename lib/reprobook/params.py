"""Parameters of a chapter: the notebook's parameters cell, the files that override it, and their validation.

The cell's defaults are the smoke scale. ``notebooks/params/<slug>.<scale>.yaml`` are plain papermill parameter files;
everything here only reads them earlier and more strictly than papermill does.
"""

from __future__ import annotations

import ast
import difflib
import io
import json
import math
import tokenize
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_origin

import yaml

from reprobook.errors import ReprobookError
from reprobook.project import SCALES, check_scale, check_slug, notebook_path, read_text, root
from reprobook.yaml_files import Loader, load_yaml

COMMON = ("scale", "seed", "device", "out_dir")  # every chapter declares these four
_TYPES = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict, "Any": Any}
N_SEEDS = 2**32  # numpy takes no others
_SHOWN = 60  # characters of a value that an error repeats


class ParameterError(ReprobookError):
    """A parameter that is unknown, badly declared or of the wrong type."""


@dataclass(frozen=True)
class Param:
    """One line of the parameters cell: ``name: annotation = default  # comment``."""

    name: str
    default: Any
    annotation: str | None
    comment: str


def read_parameters(slug: str) -> dict[str, Param]:
    """The knobs that a chapter declares, in order of the cell tagged ``parameters``.

    Raises :class:`ParameterError` if there is no such cell, or if one of its lines is not a literal with a comment:
    papermill would silently ignore it.
    """
    path = notebook_path(check_slug(slug))
    try:
        cells = json.loads(path.read_text("utf-8"))["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise ParameterError(f"notebooks/{path.name} is not a readable notebook: {error}") from error
    tagged = [cell for cell in cells if "parameters" in cell.get("metadata", {}).get("tags", [])]
    if len(tagged) != 1:
        raise ParameterError(f"notebooks/{path.name} has {len(tagged)} cells tagged 'parameters'; it needs exactly one")
    source = tagged[0]["source"]
    return parse_cell(source if isinstance(source, str) else "".join(source), where=f"notebooks/{path.name}")


def parse_cell(source: str, where: str = "parameters cell") -> dict[str, Param]:
    """Read the text of a parameters cell; ``where`` names it in errors. See :func:`read_parameters`."""
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise ParameterError(
            f"{where}: the parameters cell does not parse: line {error.lineno}: {error.msg}"
        ) from error
    comments = _comments(source)
    found: dict[str, Param] = {}
    for statement in statements:
        param = _declaration(statement, comments.get(statement.lineno, ""), source.splitlines(), where)
        if param.name in found:
            raise ParameterError(f"{where}: parameter {param.name!r} is declared twice")
        check_value(param, param.default, where)
        found[param.name] = param
    missing = [name for name in COMMON if name not in found]
    if missing:
        raise ParameterError(f"{where}: the parameters cell does not declare {', '.join(missing)}")
    return found


def _comments(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string.lstrip("# ").rstrip() for token in tokens if token.type == tokenize.COMMENT}


def _declaration(statement: ast.stmt, comment: str, lines: list[str], where: str) -> Param:
    """One statement of the cell as a :class:`Param`; anything papermill could not override is refused."""
    line = lines[statement.lineno - 1].strip()
    problem = ParameterError(
        f"{where}: {line!r} in the parameters cell isn't a plain one-line literal: write name = value  # what it means"
    )
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target, annotation = statement.targets[0], None
    elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
        target, annotation = statement.target, ast.unparse(statement.annotation)
    else:
        raise problem
    if not isinstance(target, ast.Name) or statement.lineno != statement.end_lineno:
        raise problem
    try:
        default = ast.literal_eval(statement.value)  # type: ignore[arg-type]
    except (ValueError, TypeError):
        raise problem from None
    if not comment:
        raise ParameterError(
            f"{where}: parameter {target.id!r} has no comment: say its meaning, unit, and the paper's value"
        )
    return Param(target.id, default, annotation, comment)


# ------------------------------------------------------------------------------------------------ types


def expected_type(param: Param) -> Any:
    """The type that values of ``param`` must have: from its annotation, else from its default (``None``: any)."""
    if param.annotation is None:
        return Any if param.default is None else _type_of(param.default)
    try:
        kind = _read_type(ast.parse(param.annotation, mode="eval").body)
    except (ValueError, TypeError, SyntaxError) as error:
        known = f"{', '.join(_TYPES)}, None, list[...], dict[...] and |"
        raise ParameterError(
            f"parameter {param.name!r}: annotation {param.annotation!r} is not made of {known}"
        ) from error
    return kind if param.default is not None or kind is Any else kind | None


def _read_type(node: ast.expr) -> Any:
    """The type that an annotation names; anything but the types above raises ValueError."""
    if isinstance(node, ast.Name) and node.id in _TYPES:
        return _TYPES[node.id]
    if isinstance(node, ast.Constant) and node.value is None:
        return None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _read_type(node.left) | _read_type(node.right)
    if isinstance(node, ast.Subscript):
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        return _read_type(node.value)[tuple(_read_type(each) for each in inner)]
    raise ValueError(ast.unparse(node))


def _type_of(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        return type(value)
    kinds = {_type_of(item) for item in value}
    if kinds == {int, float}:
        kinds = {float}
    return list[kinds.pop()] if len(kinds) == 1 else list  # type: ignore[misc]


def _fits(value: Any, kind: Any) -> bool:
    if kind is Any:
        return True
    if kind is None or kind is types.NoneType:
        return value is None
    if isinstance(kind, types.UnionType):
        return any(_fits(value, part) for part in get_args(kind))
    if get_origin(kind) is list:
        return isinstance(value, list | tuple) and all(_fits(item, get_args(kind)[0]) for item in value)
    if get_origin(kind) is dict:
        key, item = get_args(kind)
        return isinstance(value, dict) and all(_fits(k, key) and _fits(v, item) for k, v in value.items())
    if kind in (int, float) and isinstance(value, bool):
        return False
    if kind is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, list | tuple) if kind is list else isinstance(value, kind)


def _as(value: Any, kind: Any) -> Any:
    """``value`` in its canonical form: 1 and 1.0 of a float parameter are the same run; tuples become lists."""
    if isinstance(kind, types.UnionType):
        kinds = [part for part in get_args(kind) if _fits(value, part)]
        return _as(value, int if int in kinds else kinds[0])
    if kind is float:
        return float(value)
    if isinstance(value, list | tuple):
        inner = get_args(kind)[0] if get_origin(kind) is list else Any
        return [_as(item, inner) for item in value]
    return value


def _kind_name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)


def check_value(param: Param, value: Any, source: str = "") -> Any:
    """``value`` for ``param``, in canonical form. Raises :class:`ParameterError` on a wrong type, with the remedy."""
    kind = expected_type(param)
    if param.name == "seed" and isinstance(value, int) and not 0 <= value < N_SEEDS:
        raise ParameterError(f"{source}: seed".removeprefix(": ") + f" must be from 0 to {N_SEEDS - 1}, got {value}")
    if _fits(value, kind):
        return _as(value, kind)
    shown = repr(value) if len(repr(value)) <= _SHOWN else f"{repr(value)[:_SHOWN]}..."
    message = f"parameter {param.name!r} must be {_kind_name(kind)}, got {shown} ({type(value).__name__})"
    parts = [f"{source}: " if source else "", message, f"; {hint}" if (hint := _hint(value, kind)) else ""]
    raise ParameterError("".join(parts))


def _hint(value: Any, kind: Any) -> str:
    if isinstance(value, str) and kind in (float, float | None, int, int | None):
        try:
            number = float(value)
        except ValueError:
            return ""
        if not math.isfinite(number):
            return "it must be finite"
        if kind in (int, int | None):
            return f"YAML reads {value} as text: write {number:.0f}" if number.is_integer() else ""
        return f"YAML reads {value} as text: write {_yaml_float(number)}"
    if isinstance(value, float) and not math.isfinite(value):
        return "it must be finite"
    if isinstance(value, bool) and kind is str:
        return "YAML reads yes, no, on and off as true and false: quote the word"
    if kind is str:
        return "quote it"
    return ""


def _yaml_float(number: float) -> str:
    text = repr(number)
    mantissa, e, exponent = text.partition("e")
    return text if not e else f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent}"


def check_names(names: Mapping[str, Any], declared: Mapping[str, Param], source: str) -> None:
    """Raise :class:`ParameterError` for the first name that the chapter doesn't declare; list the valid ones."""
    for name in names:
        if name not in declared:
            close = difflib.get_close_matches(name, declared, n=1)
            suggestion = f"; did you mean {close[0]!r}?" if close else ""
            raise ParameterError(f"{source}: unknown parameter {name!r}{suggestion} Parameters: {', '.join(declared)}")


# ------------------------------------------------------------------------------------------------ files


def file_parameters(slug: str, scale: str) -> dict[str, tuple[Any, str]]:
    """Lines of ``notebooks/params/<slug>.<scale>.yaml`` as ``{name: (value, comment)}``; ``smoke`` has no file: ``{}``.

    ``scale`` is laptop, paper or rehearsal. A laptop or paper file must set ``scale`` itself (plain papermill reads
    nothing else), and each other line of a paper file must cite its source in a comment.
    """
    if scale == "smoke":
        return {}
    if scale != "rehearsal":
        check_scale(scale)
    name = f"notebooks/params/{slug}.{scale}.yaml"
    path = root() / name
    if not path.is_file():
        raise ParameterError(f"{name} does not exist: the chapter has no parameters for scale {scale!r}")
    found = _flat_yaml(read_text(path, name, ParameterError), name)
    if scale in SCALES and found.get("scale", (None,))[0] != scale:
        raise ParameterError(f"{name} must contain the line 'scale: {scale}', or plain papermill runs another scale")
    bare = [key for key, (_, comment) in found.items() if scale == "paper" and key != "scale" and not comment]
    if bare:
        raise ParameterError(
            f"{name}: no source for {', '.join(bare)}: cite the paper in a comment, or '# not stated; ours because ...'"
        )
    return found


def _flat_yaml(text: str, where: str) -> dict[str, tuple[Any, str]]:
    values, node = load_yaml(text, where, ParameterError), yaml.compose(text, Loader=Loader)
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise ParameterError(f"{where} must be a flat mapping, one 'name: value  # comment' per line")
    lines, found = text.splitlines(), {}
    for key, value in node.value:
        rest = lines[value.end_mark.line][value.end_mark.column :].strip() if value.end_mark.line < len(lines) else ""
        if key.start_mark.line != value.end_mark.line or (rest and not rest.startswith("#")):
            raise ParameterError(f"{where}: {key.value!r} must stand on one line as 'name: value  # comment'")
        found[str(key.value)] = (values.get(key.value), rest.lstrip("# "))
    return found


def resolve(
    slug: str, scale: str, overrides: Mapping[str, Any] | None = None, *, rehearsal: bool = False
) -> dict[str, Any]:
    """All parameters of a run, validated: defaults, then the scale's file, then the rehearsal file, then ``overrides``.

    Raises :class:`ParameterError` on an unknown name, a wrong type, or an override of ``scale`` by another scale.
    """
    check_scale(scale)
    if rehearsal and scale != "paper":
        raise ParameterError(f"only the paper scale has a rehearsal, not {scale!r}")
    declared = read_parameters(slug)
    values = {name: check_value(param, param.default) for name, param in declared.items()}
    layers = [
        (f"{slug}.{kind}.yaml", {name: value for name, (value, _) in file_parameters(slug, kind).items()})
        for kind in (scale, *(["rehearsal"] if rehearsal else []))
    ]
    for source, layer in [*layers, ("override", dict(overrides or {}))]:
        check_names(layer, declared, source)
        values.update({name: check_value(declared[name], value, source) for name, value in layer.items()})
    if values["scale"] != scale:
        raise ParameterError(
            f"parameter 'scale' is {values['scale']!r} in a run at scale {scale!r}: choose the scale itself"
        )
    return values


def parse_override(text: str) -> tuple[str, Any]:
    """``"lr=1.0e-4"`` as ``("lr", 0.0001)``: the value is read as YAML; an empty value is the empty string."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip().isidentifier():
        raise ParameterError(f"cannot read the override {text!r}: write name=value, for example seed=1 or lr=1.0e-4")
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return name.strip(), load_yaml(value, f"override {shown!r}: the value", ParameterError) if value.strip() else ""


def provenance(slug: str, scale: str = "paper") -> list[dict[str, Any]]:
    """One row per knob of the method (not scale, seed, device, out_dir): its value at each scale and its source.

    Keys: ``name, smoke, laptop, paper, source``; the source is the comment in the cell, which says the meaning, and the
    one in the file of ``scale``.
    """
    declared = read_parameters(slug)
    values = {kind: resolve(slug, kind) for kind in SCALES}
    comments = file_parameters(slug, scale)
    return [
        {
            "name": name,
            **{kind: values[kind][name] for kind in SCALES},
            "source": "; ".join(filter(None, (param.comment, comments.get(name, (None, ""))[1]))),
        }
        for name, param in declared.items()
        if name not in COMMON
    ]
