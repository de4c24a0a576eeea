"""Python source read without running it: top-level definitions, imports, references, and a digest of their meaning."""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Chain = tuple[str, ...]
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Target:
    """What an imported name stands for: ``attr`` of ``module``, or the module itself if ``attr`` is None."""

    module: str
    attr: str | None = None


@dataclass
class Module:
    """Top level of one file. ``definitions`` maps a name to the statements that make it; ``others`` are the rest."""

    name: str
    is_package: bool = False
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    others: list[ast.stmt] = field(default_factory=list)
    bindings: dict[str, Target] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)


def read_module(path: Path, name: str) -> Module:
    """The parsed file, remembered as long as its size and time of change stay the same."""
    stat = path.stat()
    return _read_module(path, name, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _read_module(path: Path, name: str, size: int, mtime_ns: int) -> Module:
    return parse_module(path.read_text("utf-8"), name, is_package=path.name == "__init__.py")


def parse_module(text: str, name: str, *, is_package: bool = False) -> Module:
    """Sort the top-level statements of ``text`` into definitions, imports and others (docstrings are dropped)."""
    module = Module(name, is_package)
    body = ast.parse(text).body
    for statement in body:
        names = _defined(statement)
        if isinstance(statement, ast.Import | ast.ImportFrom) or _never_runs(statement) or _is_string(statement):
            continue
        for defined in names:
            module.definitions.setdefault(defined, []).append(statement)
        if not names:
            module.others.append(statement)
    module.bindings, module.stars = imports(body, module, inside_functions=False)
    return module


def _defined(statement: ast.stmt) -> list[str]:
    """Names that a definition or a plain assignment makes; empty for any other statement."""
    if isinstance(statement, (*_FUNCTIONS, ast.ClassDef)):
        return [statement.name]
    if isinstance(statement, ast.AnnAssign | ast.AugAssign):
        targets: Sequence[ast.expr] = [statement.target]
    else:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
    parts = [part for target in targets for part in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return [part.id for part in parts if isinstance(part, ast.Name)]


def _never_runs(statement: ast.stmt) -> bool:
    """Not on import: ``if TYPE_CHECKING:`` and ``if __name__ == "__main__":``."""
    guards = {"TYPE_CHECKING", "typing.TYPE_CHECKING", "__name__"}
    return isinstance(statement, ast.If) and ast.unparse(statement.test).split()[0] in guards


def _is_string(statement: ast.AST) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def imports(nodes: Iterable[ast.AST], module: Module, *, inside_functions: bool) -> tuple[dict[str, Target], list[str]]:
    """``(name -> target, modules imported with a star)`` of all import statements among ``nodes`` and below them."""
    bindings: dict[str, Target] = {}
    stars: list[str] = []

    def collect(nodes: Iterable[ast.AST]) -> None:
        for node in nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    top = alias.name.split(".")[0]
                    bindings[alias.asname or top] = Target(alias.name if alias.asname else top)
            elif isinstance(node, ast.ImportFrom):
                origin = absolute(node, module)
                for alias in node.names:
                    if alias.name == "*":
                        stars.append(origin)
                    else:
                        bindings[alias.asname or alias.name] = Target(origin, alias.name)
            elif isinstance(node, ast.expr):
                continue  # an expression holds no statement
            elif inside_functions or not isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
                collect(ast.iter_child_nodes(node))

    collect(nodes)
    return bindings, stars


def absolute(node: ast.ImportFrom, module: Module) -> str:
    """Full name of the module that ``from ... import`` reads, seen from ``module``."""
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    parts = parts[: len(parts) - node.level + module.is_package]
    return ".".join([*parts, node.module] if node.module else parts)


def references(node: ast.AST) -> list[Chain]:
    """Dotted names that ``node`` uses, such as ``("noise", "loglinear")``; an attribute of anything else comes as
    ``("", "fit")``. Annotations of functions and variables are not followed: they don't compute."""
    found: list[Chain] = []
    _collect_references(node, found)
    return found


def _collect_references(node: ast.AST, found: list[Chain]) -> None:
    if isinstance(node, ast.Name):
        found.append((node.id,))
    elif isinstance(node, ast.Attribute):
        chain = _chain(node)
        found.append(chain or ("", node.attr))
        if not chain:
            _collect_references(node.value, found)
    elif not isinstance(node, ast.arg):
        for name in node._fields:
            value = getattr(node, name, None) if name not in ("annotation", "returns") else None
            if isinstance(value, ast.AST):
                _collect_references(value, found)
            elif isinstance(value, list):
                for child in value:
                    if isinstance(child, ast.AST):
                        _collect_references(child, found)


def _chain(node: ast.expr) -> Chain | None:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    return (node.id, *parts) if isinstance(node, ast.Name) else None


def digest(nodes: Iterable[ast.AST]) -> str:
    """Digest of what the code means: without comments, docstrings and layout, the same under every Python version."""
    return hashlib.sha256("\n".join(dump(node) for node in nodes).encode()).hexdigest()[:16]


def dump(node: object) -> str:
    """A syntax tree as text. Not :func:`ast.dump`: that changes from one Python version to the next."""
    if isinstance(node, list):
        return f"[{','.join([dump(item) for item in node])}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    told = []
    for name in node._fields:
        value = getattr(node, name, None)
        if name == "body" and isinstance(node, (*_FUNCTIONS, ast.ClassDef)) and value and _is_string(value[0]):
            value = value[1:]  # without its docstring
        if value is not None and value != [] and name not in ("ctx", "kind"):
            told.append(f"{name}={dump(value)}")
    return f"{type(node).__name__}({','.join(told)})"
