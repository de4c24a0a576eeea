"""Which parts of the library a notebook's code reaches: found in the source, followed through imports.

The unit is a top-level definition. Classes count as a whole, so editing one method of a model is seen; only the
classes of the bookkeeping modules are followed method by method, because every notebook holds a ``Chapter``.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from reprobook.content.source import digest, imports, parse_module, read_module, references

if TYPE_CHECKING:
    from reprobook.content.source import Chain, Module, Target

PACKAGE = "reprobook"
# These carry numbers, they don't make them: followed (a chapter object leads to the training loop), but not counted.
_BOOKKEEPING = frozenset(
    "chapter facts record show params project errors cli authoring content evidence runs rehearsal data".split()
)
_CARRIES_TOO = ("reprobook.train.progress",)
_COUNTED_ANYWAY = ("reprobook.data.text", "reprobook.data.corpus")


def is_bookkeeping(module: str) -> bool:
    """Whether a change of ``module`` can't change a number."""
    if module in (PACKAGE, *_CARRIES_TOO):
        return True
    parts = module.split(".")
    return parts[0] == PACKAGE and parts[1] in _BOOKKEEPING and module not in _COUNTED_ANYWAY


@dataclass
class Closure:
    """What code reaches. ``definitions``: ``"module:name"`` -> digest; ``packages``: third-party import names."""

    library: Path
    definitions: dict[str, str] = field(default_factory=dict)
    packages: set[str] = field(default_factory=set)
    _seen: set[tuple[str, str]] = field(default_factory=set)
    _work: list[tuple[list[ast.stmt], Module]] = field(default_factory=list)
    _attributes: set[str] = field(default_factory=set)
    _methods: dict[str, list[tuple[ast.stmt, Module]]] = field(default_factory=dict)
    _paths: dict[str, Path | None] = field(default_factory=dict)
    _modules: dict[str, Module | None] = field(default_factory=dict)
    _counting: bool = True

    def follow(self, text: str) -> Closure:
        """Add everything that the code ``text`` (a notebook's cells, joined) reaches."""
        cells = parse_module(text, "__main__")
        for star in cells.stars:
            self._reach_all(star)
        self._work.append((ast.parse(text).body, cells))
        while self._work:
            self._visit(*self._work.pop())
        return self

    def _visit(self, nodes: list[ast.stmt], module: Module) -> None:
        self._counting = not is_bookkeeping(module.name)
        local, stars = imports(nodes, module, inside_functions=True)
        for star in stars:
            self._reach_all(star)
        for node in nodes:
            for chain in references(node):
                for name in chain[1:]:
                    self._attribute(name)
                self._resolve(chain, module, local)
        for target in local.values():
            self._import(target)

    def _resolve(self, chain: Chain, module: Module, local: dict[str, Target]) -> None:
        target = local.get(chain[0])
        if target:
            self._reach(target, chain[1:])
        else:
            self._name(module, chain[0], chain[1:])

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
            return self._import(target)
        while chain and self._file(f"{name}.{chain[0]}"):
            name, chain = f"{name}.{chain[0]}", chain[1:]
        if not chain:
            return self._reach_all(name)
        module = self._module(name)
        if module and (chain[0] in module.definitions or chain[0] in module.bindings or module.stars):
            self._name(module, chain[0], chain[1:])
        else:
            self._reach_all(name)  # made in a way that the source does not show

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
        if not is_bookkeeping(module.name):
            self.definitions[f"{module.name}:{name}"] = digest(statements)
            self._work.append((statements, module))
            return
        for statement in statements:
            if isinstance(statement, ast.ClassDef):
                self._offer_methods(statement, module)
            else:
                self._work.append(([statement], module))

    def _offer_methods(self, statement: ast.ClassDef, module: Module) -> None:
        """Follow a bookkeeping class: bases, special methods and fields now, other methods once their name is used."""
        self._work += [([ast.Expr(part)], module) for part in (*statement.bases, *statement.decorator_list)]
        for part in statement.body:
            name = getattr(part, "name", "__fields__")
            if name.startswith("__") or name in self._attributes:
                self._work.append(([part], module))
            else:
                self._methods.setdefault(name, []).append((part, module))

    def _attribute(self, name: str) -> None:
        self._attributes.add(name)
        self._work += [([part], module) for part, module in self._methods.pop(name, [])]

    def _import(self, target: Target) -> None:
        top = target.module.split(".")[0]
        if self._counting and top not in (PACKAGE, "__future__", "") and top not in sys.stdlib_module_names:
            self.packages.add(top)

    def _file(self, name: str) -> Path | None:
        if name not in self._paths:
            path = self.library.joinpath(*name.split("."))
            self._paths[name] = next((p for p in (path / "__init__.py", path.with_suffix(".py")) if p.is_file()), None)
        return self._paths[name]

    def _module(self, name: str) -> Module | None:
        """The module, with the top-level statements that importing it runs counted (those of its packages too)."""
        if name not in self._modules:
            path = self._file(name)
            self._modules[name] = module = read_module(path, name) if path else None
            if module and module.others and not is_bookkeeping(name):
                self.definitions[f"{name}:(top level)"] = digest(module.others)
                self._work.append((module.others, module))
            if module and "." in name:
                self._module(name.rpartition(".")[0])
        return self._modules[name]


def close(texts: Iterable[str], library: Path) -> Closure:
    """The closure of the cells ``texts`` over the package found in the folder ``library``."""
    return Closure(library).follow("\n".join(texts))
