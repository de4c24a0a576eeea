"""Python source read without running it: top-level definitions, imports, references, and a digest of their meaning."""

from __future__ import annotations

import ast
import functools
import hashlib
import tokenize
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
    body: list[ast.stmt] = field(default_factory=list)
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    others: list[ast.stmt] = field(default_factory=list)
    bindings: dict[str, Target] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    readings: dict[int, Reading] = field(default_factory=dict)  # by id of the node, which lives as long as this module
    digests: dict[tuple[tuple[int, ...], Unheard], str] = field(default_factory=dict)
    _parts: dict[str, tuple[ast.ClassDef, dict[str, list[ast.AST]]]] = field(default_factory=dict)

    def parts(self, statement: ast.ClassDef) -> tuple[ast.ClassDef, dict[str, list[ast.AST]]]:
        """A class without its methods (name, bases, decorators, fields), and its methods by name."""
        if statement.name not in self._parts:
            methods: dict[str, list[ast.AST]] = {}
            for part in statement.body:
                if isinstance(part, _FUNCTIONS):
                    methods.setdefault(part.name, []).append(part)
            fields = [part for part in statement.body if not isinstance(part, _FUNCTIONS)]
            head = ast.ClassDef(statement.name, statement.bases, statement.keywords, fields, statement.decorator_list)
            self._parts[statement.name] = (head, methods)
        return self._parts[statement.name]


def read_module(path: Path, name: str) -> Module:
    """The parsed file, remembered by its content."""
    with tokenize.open(path) as stream:  # as Python reads it, with or without a byte order mark
        text = stream.read()
    return parse_module(text, name, is_package=path.name == "__init__.py")


@functools.lru_cache(maxsize=2048)
def parse_module(text: str, name: str, *, is_package: bool = False) -> Module:
    """Sort the top-level statements of ``text`` into definitions, imports and others (docstrings are dropped)."""
    body = ast.parse(text).body
    module = Module(name, is_package, body)
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


@dataclass
class Reading:
    """What a piece of code uses.

    ``chains``: dotted names such as ``("noise", "loglinear")``; an attribute of anything else is ``("", "fit")``.
    ``guarded``: the same for code that runs only where a keyword option that is off by default is given, by its name.
    ``strings`` are its string constants, ``mentioned`` those and the names of keyword arguments. ``modules`` are names
    of modules in strings. ``tables``: tables of the paper's facts that it reads, ``ALL`` if it does not say which.
    ``reads_errors``: it catches an error and goes on with its text.
    """

    chains: list[Chain] = field(default_factory=list)
    guarded: dict[str, list[Chain]] = field(default_factory=dict)
    strings: set[str] = field(default_factory=set)
    mentioned: set[str] = field(default_factory=set)
    tables: set[str] = field(default_factory=set)
    reads_errors: bool = False
    computed_names: bool = False
    bindings: dict[str, Target] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)


ALL = "*"
_TAKES_NAME = frozenset({"getattr", "hasattr", "setattr", "methodcaller", "attrgetter"})


def read(node: ast.AST, module: Module) -> Reading:
    """What ``node`` of ``module`` uses. Annotations of functions and variables don't compute and are left out, except
    those of fields in classes with a base, which may convert (pydantic)."""
    found = Reading()
    found.bindings, found.stars = imports([node], module, inside_functions=True)
    _Reader(found).visit(node)
    found.mentioned |= found.strings
    return found


class _Reader(ast.NodeVisitor):
    def __init__(self, found: Reading) -> None:
        self.found, self.chains = found, found.chains
        self.options: set[str] = set()  # keyword options of the functions around, off by default
        self.facts = {"facts"}  # names that stand for the paper's facts
        self.loops: dict[str, set[str]] = {}  # loop variable -> the strings it goes through

    def visit_Name(self, node: ast.Name) -> None:
        if not isinstance(node.ctx, ast.Store):
            self.chains.append((node.id,))

    def visit_Assign(self, node: ast.Assign) -> None:
        if self._is_facts(node.value):
            self.facts |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.chains.append(dotted(node.target) or ("",))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self.found.strings.add(node.value)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        chain = dotted(node)
        self.chains.append(chain or ("", node.attr))
        if node.attr in ("tables", "claims") and self._is_facts(node.value):
            self.found.tables.add(ALL if node.attr == "tables" else "claims")
        if not chain:
            self.visit(node.value)

    def visit_keyword(self, node: ast.keyword) -> None:
        self.found.mentioned.add(node.arg or "")
        self.visit(node.value)

    def visit_arg(self, node: ast.arg) -> None:
        if node.annotation is not None and ast.unparse(node.annotation).strip("'\"").split(".")[-1] == "Facts":
            self.facts.add(node.arg)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit(node.target)
        if node.value:
            self.visit(node.value)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for part in (*node.bases, *node.keywords, *node.decorator_list):
            self.visit(part)
        for part in node.body:
            if node.bases and isinstance(part, ast.AnnAssign):
                self.visit(part.annotation)
            if not _is_string(part):
                self.visit(part)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for part in (*node.decorator_list, node.args):
            self.visit(part)
        before = self.options
        defaults = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
        off = {arg.arg for arg, value in defaults if isinstance(value, ast.Constant) and not value.value}
        self.options = before | off
        for part in node.body:
            if not _is_string(part):
                self.visit(part)
        self.options = before

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_If(self, node: ast.If | ast.IfExp) -> None:
        option = _given(node.test)
        self.visit(node.test)
        body = node.body if isinstance(node.body, list) else [node.body]
        if option in self.options:
            before, self.chains = self.chains, self.found.guarded.setdefault(option, [])
            for part in body:
                self.visit(part)
            self.chains = before
        else:
            for part in body:
                self.visit(part)
        for part in node.orelse if isinstance(node.orelse, list) else [node.orelse]:
            self.visit(part)

    visit_IfExp = visit_If

    def visit_For(self, node: ast.For) -> None:
        self._loop(node.target, node.iter)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        self._loop(node.target, node.iter)
        self.generic_visit(node)

    def _loop(self, target: ast.expr, over: ast.expr) -> None:
        if isinstance(target, ast.Name):
            values = over.elts if isinstance(over, ast.Tuple | ast.List) else [over]
            names = {text(value) for value in values}
            self.loops[target.id] = {name for name in names if name is not None} if None not in names else {ALL}

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> None:
        for generator in node.generators:  # before what is made of them
            self.visit(generator)
        for part in (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,):
            self.visit(part)

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = _comprehension

    def visit_Call(self, node: ast.Call) -> None:
        name = dotted(node.func) or ("",)
        if name[-1] in _TAKES_NAME and len(node.args) > (name[-1] in ("getattr", "hasattr", "setattr")):
            asked = text(node.args[name[-1] in ("getattr", "hasattr", "setattr")])
            self.found.computed_names |= asked is None
            self.chains.append(("", asked or ""))
        if isinstance(node.func, ast.Attribute) and node.args:
            self._reads_facts(node.func, node.args[0])
        if name[-1] == "getLogger":
            return
        self.visit(node.func)
        for part in node.args:
            self.visit(part)
        for keyword in node.keywords:
            if keyword.arg != "paper_table":  # shown beside ours, not computed with
                self.visit(keyword)

    def _reads_facts(self, function: ast.Attribute, asked: ast.expr) -> None:
        """``facts.frame(name)``, ``facts.table(name)``, ``facts.claim(name)``."""
        if function.attr == "claim" and self._is_facts(function.value):
            self.found.tables.add("claims")
        if function.attr in ("frame", "table") and self._is_facts(function.value):
            known = self.loops.get(asked.id, {ALL}) if isinstance(asked, ast.Name) else {text(asked) or ALL}
            self.found.tables |= known
        elif function.attr == "frame" and text(asked):  # the facts may go by another name here
            self.found.tables.add(text(asked) or ALL)

    def _is_facts(self, node: ast.expr) -> bool:
        return (isinstance(node, ast.Name) and node.id in self.facts) or (
            isinstance(node, ast.Attribute) and node.attr == "facts"
        )

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.name and not isinstance(node.body[-1], ast.Raise):
            self.found.reads_errors |= any(_uses(part, node.name) for part in node.body)
        self.generic_visit(node)


def _given(test: ast.expr) -> str:
    """``option`` of the tests ``option`` and ``option is not None``; '' for others."""
    if isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.IsNot) and len(test.ops) == 1:
        test = test.left if isinstance(test.comparators[0], ast.Constant) else test
    return test.id if isinstance(test, ast.Name) else ""


def _uses(node: ast.AST, name: str) -> bool:
    """Whether ``node`` uses variable ``name`` for anything but a message."""
    if isinstance(node, ast.Raise) or (isinstance(node, ast.Call) and is_message(node)):
        return False
    if isinstance(node, ast.Name):
        return node.id == name
    return any(_uses(child, name) for child in ast.iter_child_nodes(node))


def text(node: ast.expr) -> str | None:
    """The value of a string constant; None for anything else."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def dotted(node: ast.expr) -> Chain | None:
    """``("a", "b", "c")`` of ``a.b.c``; None if it does not start with a name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    return (node.id, *parts) if isinstance(node, ast.Name) else None


# ------------------------------------------------------------------------------------------------ digests

_LOG = frozenset("debug info warning error exception critical".split())


@dataclass(frozen=True)
class Unheard:
    """Text that cannot move a number: captions by the place of the argument (``("show.table", 1)``, ``("figure", 1)``
    for a method of any object), and the texts of errors, unless the chapter goes on with the text of one."""

    captions: frozenset[tuple[str, int]] = frozenset()
    errors: bool = True


def is_message(node: ast.Call) -> bool:
    """Whether a call prints, logs or warns."""
    name = dotted(node.func) or ("",)
    logs = len(name) > 1 and name[0] in ("logger", "logging", "log", "LOG", "LOGGER") and name[-1] in _LOG
    return logs or name in (("print",), ("warnings", "warn"), ("sys", "stderr", "write"))


def digest(nodes: Iterable[ast.AST], unheard: Unheard = Unheard()) -> str:
    """Digest of what the code means, the same under every Python version: without comments, docstrings, annotations of
    functions and variables, layout, and without the literal text of messages and captions."""
    return hashlib.sha256("\n".join(_dump(node, unheard) for node in nodes).encode()).hexdigest()[:16]


def _dump(node: object, unheard: Unheard, in_class: bool = False) -> str:
    """A syntax tree as text. Not :func:`ast.dump`: that changes from one Python version to the next."""
    if isinstance(node, list):
        return f"[{','.join([_dump(item, unheard, in_class) for item in node])}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.Call):
        return _dump_call(node, unheard)
    if isinstance(node, ast.AnnAssign) and not in_class:  # as if it had no annotation
        if node.value is None:
            return ""
        return f"Assign(targets=[{_dump(node.target, unheard)}],value={_dump(node.value, unheard)})"
    told = []
    for name in node._fields:
        value = getattr(node, name, None)
        if name == "body" and isinstance(node, (*_FUNCTIONS, ast.ClassDef)) and value and _is_string(value[0]):
            value = value[1:]  # without its docstring
        if value is None or value == [] or name in ("ctx", "kind", "returns", "type_comment"):
            continue
        if name == "annotation" and isinstance(node, ast.arg):
            continue
        told.append(f"{name}={_dump(value, unheard, isinstance(node, ast.ClassDef))}")
    return f"{type(node).__name__}({','.join(told)})"


def _dump_call(node: ast.Call, unheard: Unheard) -> str:
    name = dotted(node.func) or (node.func.attr if isinstance(node.func, ast.Attribute) else "",)
    silent = is_message(node) or (unheard.errors and name[-1].endswith(("Error", "Warning")))
    told = [_dump(node.func, unheard)]
    for i, value in enumerate(node.args):
        caption = (".".join(name[-2:]), i) in unheard.captions or (name[-1], i) in unheard.captions
        told.append((_without_text if silent or caption else _dump)(value, unheard))
    for keyword in node.keywords:
        dump = _without_text if silent or keyword.arg in CAPTIONS else _dump
        told.append(f"{keyword.arg}={dump(keyword.value, unheard)}")
    return f"Call({','.join(told)})"


CAPTIONS = ("caption", "captions", "alt")  # parameters that take what is written beside a table or a picture


def _without_text(node: ast.expr, unheard: Unheard) -> str:
    """The expression of a message: what it computes, without its literal text."""
    if text(node) is not None:
        return "text"
    if isinstance(node, ast.JoinedStr):
        values = [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
        return f"text({','.join(_dump(value, unheard) for value in values)})"
    if isinstance(node, ast.BinOp):
        return f"({_without_text(node.left, unheard)},{_without_text(node.right, unheard)})"
    if isinstance(node, ast.Tuple | ast.List):
        return f"[{','.join(_without_text(part, unheard) for part in node.elts)}]"
    if isinstance(node, ast.IfExp):
        test, body, other = _dump(node.test, unheard), *(_without_text(n, unheard) for n in (node.body, node.orelse))
        return f"({test},{body},{other})"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and text(node.func.value) is not None:
        return f"text.{node.func.attr}({','.join(_dump(part, unheard) for part in (*node.args, *node.keywords))})"
    return _dump(node, unheard)
