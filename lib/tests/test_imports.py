"""Directions of the library's imports (function-level ones and those for types included), and that nothing idles."""

from __future__ import annotations

import ast
import functools
import graphlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIB = ROOT / "lib"
# A room imports rooms of the lines above its own, and of its own line as long as there is no circle.
LAYERS = """
errors
project yaml_files
hardware params ranges facts show bench
data record
content
evidence
metrics nn train
papers
chapter
runs
rehearsal authoring batch doctor
cli
"""
LEVEL = {room: level for level, line in enumerate(LAYERS.split("\n")) for room in line.split()}
HEAVY = frozenset(
    "torch pandas matplotlib scipy sklearn transformers diffusers datasets peft accelerate papermill nbformat".split()
)
ABOUT_TORCH = ("metrics", "nn", "train")  # rooms that a chapter alone imports, for the sake of torch
ABOUT_TORCH_TOO = ("reprobook.data.corpus", "reprobook.data.text")
PICTURES = ("pictures", "figures", "reports")  # modules of a paper that may use `show`


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Name -> syntax tree of every module of the library (but not of the example, which is a chapter to be)."""
    paths = [path for path in sorted((LIB / "reprobook").rglob("*.py")) if "example" not in path.parts]
    return {
        ".".join(path.relative_to(LIB).with_suffix("").parts).removesuffix(".__init__"): ast.parse(path.read_text())
        for path in paths
    }


def imports(node: ast.AST, types: bool = True) -> Iterator[str]:
    """Modules and names that ``node`` imports, at any depth; ``from a import b`` is ``a.b``. ``types``: also those that
    only annotations need."""
    walked = ast.walk(node)
    left_out = set() if types else {id(each) for guard in walked if is_guard(guard) for each in ast.walk(guard)}
    for each in ast.walk(node):
        if id(each) in left_out:
            continue
        if isinstance(each, ast.Import):
            yield from (alias.name for alias in each.names)
        elif isinstance(each, ast.ImportFrom):
            assert not each.level, "own modules are imported by their full name"
            yield from (f"{each.module}.{alias.name}" for alias in each.names)


def is_guard(node: ast.AST) -> bool:
    """Whether ``node`` is ``if TYPE_CHECKING:``."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def own(name: str) -> str | None:
    """The module of the library that an imported name is or comes from; None for other libraries."""
    while name and name not in modules():
        name = name.rpartition(".")[0]
    return name or None


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@functools.cache
def edges(types: bool = True) -> list[tuple[str, str]]:
    """(module, module that it imports); the package itself, which opens chapters, is no room."""
    found = [(a, b) for a, tree in modules().items() for each in imports(tree, types) if (b := own(each))]
    return [(a, b) for a, b in found if "reprobook" not in (a, b)]


def test_every_room_has_its_place() -> None:
    assert {room(name) for name in modules()} - {""} <= set(LEVEL)


def test_nothing_is_imported_upwards() -> None:
    assert [f"{a} imports {b}" for a, b in edges() if LEVEL[room(a)] < LEVEL[room(b)]] == []


def test_there_is_no_circle() -> None:
    rooms, inside = graphlib.TopologicalSorter[str](), graphlib.TopologicalSorter[str]()
    for a, b in edges():
        if room(a) != room(b):
            rooms.add(room(a), room(b))
    for a, b in edges(types=False):  # two files of one room may name each other's types
        if a != b:
            inside.add(a, b)
    rooms.prepare()
    inside.prepare()


def test_no_paper_imports_another_and_only_pictures_import_show() -> None:
    from_papers = [(a, b) for a, b in edges() if room(a) == "papers"]
    assert [(a, b) for a, b in from_papers if room(b) == "papers" and a.split(".")[2:3] != b.split(".")[2:3]] == []
    assert [a for a, b in from_papers if room(b) == "show" and a.split(".")[-1] not in PICTURES] == []


def at_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when the module is imported."""
    for statement in body:
        if not isinstance(statement, ast.FunctionDef) and not is_guard(statement):
            yield statement
            yield from at_import([child for child in ast.iter_child_nodes(statement) if isinstance(child, ast.stmt)])


def test_heavy_libraries_are_imported_by_the_functions_that_need_them() -> None:
    found = [
        f"{name} imports {each}"
        for name, tree in modules().items()
        if room(name) not in ("papers", *ABOUT_TORCH) and name not in ABOUT_TORCH_TOO
        for statement in at_import(tree.body)
        if isinstance(statement, ast.Import | ast.ImportFrom)
        for each in imports(statement)
        if each.split(".")[0] in HEAVY
    ]
    assert found == []


# ------------------------------------------------------------------------------------------------ users


def uses(node: ast.AST) -> Iterator[str]:
    """Names and attributes that ``node`` reads, and those that its strings name (``"module:function"``)."""
    for each in ast.walk(node):
        if isinstance(each, ast.Name):
            yield each.id
        elif isinstance(each, ast.Attribute):
            yield each.attr
        elif isinstance(each, ast.Constant) and re.fullmatch(r"[\w.]+:\w+|[A-Z]\w+", str(each.value)):
            yield re.split(r"\W", str(each.value))[-1]


@functools.cache
def users() -> dict[str, set[str]]:
    """Name -> the statements (module and line) of library, notebooks and other files that use it."""
    found = defaultdict(set)
    for module, tree in modules().items():
        for statement in tree.body:
            if not re.match(r"__all__ =|from |import ", ast.unparse(statement)):
                for name in uses(statement):
                    found[name].add(f"{module}:{statement.lineno}")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
        for name in re.findall(r"\w+", "\n".join("".join(cell["source"]) for cell in cells)):
            found[name].add(path.name)
    others = [ROOT / "Makefile", ROOT / "pyproject.toml", *(ROOT / "data_manifests").glob("*.yaml")]
    others += (LIB / "reprobook" / "authoring" / "example").rglob("*.*")
    for path in others:
        for name in re.findall(r"\w+", path.read_text()):
            found[name].add(path.name)
    return found


def test_everything_public_has_a_user_outside_the_tests() -> None:
    idle = [
        f"{module}.{definition.name}"
        for module, tree in modules().items()
        if room(module) != "papers"
        for definition in tree.body
        if isinstance(definition, ast.FunctionDef | ast.ClassDef) and not definition.name.startswith("_")
        if not users()[definition.name] - {f"{module}:{definition.lineno}"}
    ]
    assert idle == []
