"""Which parts of the library a notebook's code reaches: found in the source, followed through imports, names in
strings, classes and methods.

No room is exempt. What is left out cannot move a number because of what it is:

- *drawing*: a function that gives back a figure; in ``show`` also one that gives back nothing or text; and a function
  of a shared room that does nothing but show. What only these reach is left out with them.
- *storage*: what ``finish`` calls in other modules. It runs after the last number.
- *messages*: see :func:`reprobook.content.source.digest`.

The unit is a top-level definition. A class of the shared rooms is followed method by method: its bases, fields and
special methods count, others once their name is used. If a class derives from one of another package, that package may
call any method, so all count; and so do all of a paper's classes, which are small and serve one chapter.
"""

from __future__ import annotations

import ast
import builtins
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from reprobook.content.source import ALL, CAPTIONS, Target, Unheard, digest, dotted, parse_module, read, read_module

if TYPE_CHECKING:
    from reprobook.content.source import Chain, Module, Reading

PACKAGE = "reprobook"
DRAWING = f"{PACKAGE}.show"
PAPERS = f"{PACKAGE}.papers"
LAST = f"{PACKAGE}.chapter:Chapter.finish"  # the call that ends a run: it stores
_FIGURES = frozenset({"Figure", "Axes"})
_TEXT_OR_NOTHING = frozenset("None str bytes Html".split())
_CONTAINERS = frozenset("list tuple Sequence".split())
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_KNOWN_BASES = frozenset("Protocol Generic NamedTuple TypedDict ABC Enum StrEnum BaseModel".split())  # call no others
_PLAIN = frozenset("property cached_property staticmethod classmethod contextmanager overload setter".split())
_FUNCTION_IN_STRING = re.compile(r"(?:reprobook\.)?([a-z_][\w.]*):([A-Za-z_]\w*)")
_MODULE_IN_STRING = re.compile(r"reprobook(\.[a-z_]\w*)+")


@dataclass
class Closure:
    """What code reaches. ``definitions``: ``"module:name"`` -> digest; ``packages``: third-party import names;
    ``tables``: tables of the paper's facts that the chapter's own code reads; ``left_out``: drawing functions."""

    library: Path
    definitions: dict[str, str] = field(default_factory=dict)
    packages: set[str] = field(default_factory=set)
    tables: set[str] = field(default_factory=set)
    left_out: dict[str, ast.AST] = field(default_factory=dict)
    unheard: Unheard = field(default_factory=Unheard)
    _counted: dict[str, tuple[list[ast.AST], Module]] = field(default_factory=dict)
    _seen: set[tuple[str, str]] = field(default_factory=set)
    _work: list[tuple[ast.AST, Module]] = field(default_factory=list)
    _attributes: set[str] = field(default_factory=set)
    _methods: dict[str, list[tuple[str, list[ast.AST], Module]]] = field(default_factory=dict)
    _offered: dict[str, tuple[list[ast.AST], Module]] = field(default_factory=dict)
    _mentioned: set[str] = field(default_factory=set)
    _guarded: dict[str, list[tuple[Reading, list[Chain], Module]]] = field(default_factory=dict)
    _reads_errors: bool = False
    _paths: dict[str, Path | None] = field(default_factory=dict)
    _modules: dict[str, Module | None] = field(default_factory=dict)

    def follow(self, text: str) -> Closure:
        """Add everything that the code ``text`` (a notebook's cells, joined) reaches."""
        cells = parse_module(text, "__main__")
        for star in cells.stars:
            self._reach_all(star)
        self._work += [(node, cells) for node in cells.body]
        while self._work:
            self._visit(*self._work.pop())
        if LAST in self._counted:
            self._store(LAST)
        self.unheard = Unheard(self._captions(), errors=not self._reads_errors)
        self.definitions = {name: self._digest(nodes, module) for name, (nodes, module) in self._counted.items()}
        return self

    def _digest(self, nodes: list[ast.AST], module: Module) -> str:
        what = (tuple(id(node) for node in nodes), self.unheard)
        if what not in module.digests:
            module.digests[what] = digest(nodes, self.unheard)
        return module.digests[what]

    def _captions(self) -> frozenset[tuple[str, int]]:
        """Where captions stand among the arguments of the functions of ``show`` and of methods of the chapter."""
        found = []
        for name in (DRAWING, f"{DRAWING}.figures", f"{DRAWING}.tables", f"{PACKAGE}.chapter"):
            module = self._parsed(name)
            for function in _functions(module) if module else ():
                names = [arg.arg for arg in function.args.args]
                method = names[:1] == ["self"]
                label = function.name if method else f"show.{function.name}"
                found += [(label, i - method) for i, arg in enumerate(names) if arg in CAPTIONS]
        return frozenset(found)

    def _visit(self, node: ast.AST, module: Module) -> None:
        """Follow all that ``node`` uses."""
        found = self._read(node, module)
        for star in found.stars:
            self._reach_all(star)
        self._chains(found.chains, found, module)
        for target in found.bindings.values():
            self._import(target)
        for name in sorted(found.strings):
            self._string(name)
        if module.name == "__main__" or _is_in(module.name, PAPERS):  # the shared rooms read for all chapters
            self.tables |= found.tables
            self._reads_errors |= found.reads_errors
        if module.name == "__main__" and found.computed_names:
            self._attributes.add(ALL)
            for name in [name for name in self._methods if not name.startswith("_")]:
                self._attribute(name)
        for option in found.mentioned - self._mentioned:
            self._mentioned.add(option)
            for reading, chains, origin in self._guarded.pop(option, ()):
                self._chains(chains, reading, origin)
        for option, chains in found.guarded.items():
            if option in self._mentioned:
                self._chains(chains, found, module)
            else:
                self._guarded.setdefault(option, []).append((found, chains, module))

    def _chains(self, chains: Iterable[Chain], found: Reading, module: Module) -> None:
        for chain in chains:
            for name in chain[1:]:
                self._attribute(name)
            target = found.bindings.get(chain[0])
            if target:
                self._reach(target, chain[1:])
            else:
                self._name(module, chain[0], chain[1:])

    def _string(self, text: str) -> None:
        """A string that names a function of the library (``"reprobook.papers.x:train"``) or one of its modules."""
        if match := _FUNCTION_IN_STRING.fullmatch(text):
            if self._file(f"{PACKAGE}.{match[1]}"):
                self._reach(Target(f"{PACKAGE}.{match[1]}", match[2]), ())
        elif _MODULE_IN_STRING.fullmatch(text) and self._file(text):
            self._reach_all(text)

    def _name(self, module: Module, name: str, rest: Chain) -> None:
        """Reach top-level ``name`` of ``module``, or what it was imported from."""
        if name in module.definitions:
            self._define(module, name)
        elif name in module.bindings:
            self._reach(module.bindings[name], rest)
        else:
            for star in module.stars:
                if (origin := self._module(star)) and (name in origin.definitions or name in origin.bindings):
                    self._name(origin, name, rest)

    def _reach(self, target: Target, rest: Chain) -> None:
        """Follow an imported name and the attributes after it, module by module, to a definition."""
        chain = (target.attr, *rest) if target.attr else rest
        name = target.module
        if name.split(".")[0] != PACKAGE:
            self._import(target)
            return
        while chain and self._file(f"{name}.{chain[0]}"):
            name, chain = f"{name}.{chain[0]}", chain[1:]
        module = self._module(name)
        if chain and module and (chain[0] in module.definitions or chain[0] in module.bindings or module.stars):
            self._name(module, chain[0], chain[1:])
        else:
            self._reach_all(name)  # the module itself, or what is made in a way that the source does not show

    def _reach_all(self, name: str) -> None:
        """A module passed on as a value: anything in it may be used. The bare package is only ever a way to a name."""
        module = self._module(name)
        if module and name != PACKAGE:
            for defined in module.definitions:
                self._define(module, defined)
            for target in module.bindings.values() if module.is_package else ():  # what a package hands on
                if (target.module, target.attr or "") not in self._seen:
                    self._seen.add((target.module, target.attr or ""))
                    self._reach(target, ())

    def _define(self, module: Module, name: str) -> None:
        if module.name == "__main__" or (module.name, name) in self._seen:
            return
        self._seen.add((module.name, name))
        statements = module.definitions[name]
        if len(statements) == 1 and self.draws(statements[0], module):
            self.left_out[f"{module.name}:{name}"] = statements[0]
        elif isinstance(statements[0], ast.ClassDef) and not _is_in(module.name, PAPERS):
            self._define_class(statements[0], module)
        else:
            self._count(f"{module.name}:{name}", list(statements), module)

    def _count(self, name: str, nodes: list[ast.AST], module: Module) -> None:
        self._counted[name] = (nodes, module)
        self._work += [(node, module) for node in nodes]

    # --- classes

    def _define_class(self, statement: ast.ClassDef, module: Module) -> None:
        """Count bases, fields and what is called without its name being used; offer the other methods."""
        head, methods = module.parts(statement)
        name = f"{module.name}:{statement.name}"
        self._count(name, [head], module)
        every = self._is_foreign(statement, module) or any(
            self._read(part, module).computed_names for parts in methods.values() for part in parts
        )
        for method, parts in methods.items():
            self._offered[f"{name}.{method}"] = (parts, module)
            special = method.startswith(("__", "model_")) or method == "forward" or any(map(_registers, parts))
            any_name = ALL in self._attributes and not method.startswith("_")
            if every or special or any_name or method in self._attributes:
                self._use(f"{name}.{method}", parts, module)
            else:
                self._methods.setdefault(method, []).append((f"{name}.{method}", parts, module))

    def _attribute(self, name: str) -> None:
        if name not in self._attributes:
            self._attributes.add(name)
            for label, parts, module in self._methods.pop(name, ()):
                self._use(label, parts, module)

    def _use(self, label: str, parts: list[ast.AST], module: Module) -> None:
        """Count a method and follow it; what ends the run is not followed."""
        if len(parts) == 1 and self.draws(parts[0], module):
            self.left_out[label] = parts[0]
        elif label == LAST:
            self._counted[label] = (parts, module)
        else:
            self._count(label, parts, module)

    def _store(self, label: str) -> None:
        """Of the method that ends the run, and of what it calls on itself, only their own statements count."""
        owner = label.rpartition(".")[0]
        for part in self._offered[label][0]:
            for chain in self._read(part, self._offered[label][1]).chains:
                called = f"{owner}.{chain[1]}" if chain[0] == "self" and len(chain) > 1 else ""
                if called in self._offered and called not in self._counted and called not in self.left_out:
                    self._counted[called] = self._offered[called]
                    self._store(called)

    def _is_foreign(self, statement: ast.ClassDef, module: Module) -> bool:
        """Whether the class derives from one that is neither the library's nor of a kind that calls no named method."""
        for base in statement.bases:
            chain = dotted(base.value if isinstance(base, ast.Subscript) else base) or ("?",)
            if chain[-1] in _KNOWN_BASES or hasattr(builtins, chain[0]):
                continue
            found = self._find(module, chain)
            if not found or self._is_foreign(*found):
                return True
        return False

    def _find(self, module: Module, chain: Chain) -> tuple[ast.ClassDef, Module] | None:
        """The class of the library that ``chain`` names in ``module``, one import away at most."""
        if chain[0] not in module.definitions and chain[0] in module.bindings:
            target = module.bindings[chain[0]]
            origin, name = self._parsed(target.module), target.attr or chain[-1]
        else:
            origin, name = module, chain[0]
        statement = origin.definitions.get(name, [None])[0] if origin else None
        return (statement, origin) if origin and isinstance(statement, ast.ClassDef) else None

    # --- what draws

    def draws(self, node: ast.AST, module: Module) -> bool:
        """Whether ``node`` is a function that only makes something to look at."""
        if not isinstance(node, _FUNCTIONS):
            return False
        given = set(re.findall(r"\w+", ast.unparse(node.returns))) - _CONTAINERS if node.returns else set()
        if not given or given <= _FIGURES:
            return bool(given)
        if _is_in(module.name, DRAWING):
            return given <= _FIGURES | _TEXT_OR_NOTHING
        return given == {"None"} and not _is_in(module.name, PAPERS) and self._only_shows(node.body, module)

    def _only_shows(self, body: Iterable[ast.stmt], module: Module) -> bool:
        shown = False
        for statement in body:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                continue
            if isinstance(statement, ast.Expr) and self._shows(statement.value, module):
                shown = True
            elif not (isinstance(statement, ast.Assign) and all(isinstance(t, ast.Name) for t in statement.targets)):
                return False
        return shown

    def _shows(self, node: ast.expr, module: Module) -> bool:
        """Whether ``node`` is a call of a function of ``show``."""
        chain = dotted(node.func) if isinstance(node, ast.Call) else None
        target = module.bindings.get(chain[0]) if chain else None
        return target is not None and _is_in(".".join(filter(None, (target.module, target.attr))), DRAWING)

    # --- files

    def _read(self, node: ast.AST, module: Module) -> Reading:
        if id(node) not in module.readings:
            module.readings[id(node)] = read(node, module)
        return module.readings[id(node)]

    def _import(self, target: Target) -> None:
        top = target.module.split(".")[0]
        if top not in (PACKAGE, "__future__", "") and top not in sys.stdlib_module_names:
            self.packages.add(top)

    def _file(self, name: str) -> Path | None:
        if name not in self._paths:
            path = self.library.joinpath(*name.split("."))
            self._paths[name] = next((p for p in (path / "__init__.py", path.with_suffix(".py")) if p.is_file()), None)
        return self._paths[name]

    def _parsed(self, name: str) -> Module | None:
        path = self._file(name)
        return read_module(path, name) if path else None

    def _module(self, name: str) -> Module | None:
        """The module, with the top-level statements that importing it runs counted (those of its packages too)."""
        if name not in self._modules:
            self._modules[name] = module = self._parsed(name)
            if module and module.others and not _is_in(name, DRAWING):
                self._count(f"{name}:(top level)", list(module.others), module)
            if module and "." in name:
                self._module(name.rpartition(".")[0])
        return self._modules[name]


def _is_in(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


def _registers(part: ast.AST) -> bool:
    """Whether a decorator may hand the method to others who call it."""
    names = [dotted(d.func if isinstance(d, ast.Call) else d) or ("?",) for d in getattr(part, "decorator_list", ())]
    return any(name[-1] not in _PLAIN for name in names)


def _functions(module: Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions of a module and methods of its classes."""
    for statements in module.definitions.values():
        for statement in statements:
            inner = statement.body if isinstance(statement, ast.ClassDef) else [statement]
            yield from (part for part in inner if isinstance(part, _FUNCTIONS))


def close(texts: Iterable[str], library: Path) -> Closure:
    """The closure of the cells ``texts`` over the package found in the folder ``library``."""
    return Closure(library).follow("\n".join(texts))
