"""Formulas of the card games: as the released environment evaluates them, and an exact solver.

The environment joins the chosen symbols and lets Python evaluate the text. So neighbouring digits are one number, two
stars are a power, two slashes a division without remainder; the solver, which is the corrector's tool, knows
arithmetic alone.
"""

from __future__ import annotations

import ast
import itertools
import operator
import re
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Kind = Literal["arithmetic", "joined digits", "floor", "power"]
KINDS: tuple[Kind, ...] = ("arithmetic", "joined digits", "floor", "power")
OPERATORS = "+-*/"
MOST_BITS = 1_000_000  # of an integer power: Python itself would work on larger ones for minutes
Tree = tuple[Any, Any] | int  # a leaf's place, or the two sides of an operator

BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}  # fmt: skip
UNARY: dict[type, Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


class NoNumberError(ValueError):
    """The text is no formula, or Python cannot evaluate it."""


def _parsed(text: str) -> ast.expr:
    try:
        return ast.parse(text.lstrip(" "), mode="eval").body
    except SyntaxError as error:
        raise NoNumberError(text) from error


def _evaluated(node: ast.expr) -> Any:
    try:
        match node:
            case ast.Constant(value=int() as number):
                return number
            case ast.UnaryOp(op=op, operand=operand) if type(op) in UNARY:
                return UNARY[type(op)](_evaluated(operand))
            case ast.BinOp(left=left, op=ast.Pow(), right=right):
                return _power(_evaluated(left), _evaluated(right))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in BINARY:
                return BINARY[type(op)](_evaluated(left), _evaluated(right))
    except (ArithmeticError, TypeError) as error:
        raise NoNumberError(ast.unparse(node)) from error
    raise NoNumberError("no number")


def _power(base: Any, exponent: Any) -> Any:
    whole = isinstance(base, int) and isinstance(exponent, int)
    if whole and abs(base) > 1 and exponent * base.bit_length() > MOST_BITS:
        raise NoNumberError("a power too large")
    return base**exponent


def is_formula(text: str, n_numbers: int) -> bool:
    """Whether ``text`` is ``n_numbers`` numbers joined by + - * / and brackets, whatever it equals."""
    try:
        tree = _parsed(text)
        _evaluated(tree)
    except NoNumberError:
        return False
    nodes = list(ast.walk(tree))
    strange = any(isinstance(node, (ast.Pow, ast.FloorDiv, ast.UnaryOp)) for node in nodes)
    return not strange and sum(isinstance(node, ast.Constant) for node in nodes) == n_numbers


@lru_cache(maxsize=100_000)
def outcome(text: str, target: int, n_numbers: int) -> Kind | None:
    """The kind of formula by which ``text`` equals ``target``, None if it does not.

    ``n_numbers``: chosen numbers in it; fewer constants mean joined digits. Of several kinds the last in ``KINDS``."""
    try:
        tree = _parsed(text)
        if _evaluated(tree) != target:
            return None
    except NoNumberError:
        return None
    nodes = list(ast.walk(tree))
    if any(isinstance(node, ast.Pow) for node in nodes):
        return "power"
    if any(isinstance(node, ast.FloorDiv) for node in nodes):
        return "floor"
    joined = sum(isinstance(node, ast.Constant) for node in nodes) < n_numbers
    return "joined digits" if joined else "arithmetic"


def symbols(formula: str) -> list[str]:
    """The symbols of a formula whose numbers stand apart: ``"10*(3-1)"`` -> ``["10", "*", "(", "3", ...]``."""
    return re.findall(r"10|[1-9]|[-+*/()=]", formula)


# -------------------------------------------------------------------------------------------------------------- solver


def brackets(n: int) -> list[tuple[int, ...]]:
    """Where brackets are put into a formula of n numbers, as places of its 2 n - 1 symbols: none, one pair around two
    or more neighbours, and for four numbers (a b) (c d). For n = 4 seven ways, the family of the released tool."""
    length = 2 * n - 1
    pairs = [(x, y) for x in range(0, length, 2) for y in range(x + 4, length + 2, 2) if (x, y) != (0, length + 1)]
    return [(), *pairs, *([(0, 4, 6, 10)] if n == 4 else [])]


@cache
def _trees(low: int, high: int) -> list[Tree]:
    if low == high:
        return [low]
    cuts = range(low, high)
    return [(a, b) for m in cuts for a in _trees(low, m) for b in _trees(m + 1, high)]


@cache
def _templates(n: int) -> tuple[dict[tuple[int, int], list[str]], list[tuple[str, ...]]]:
    """All formulas over n places (``{0}`` is the first) by number of their tree and of their combination of operators;
    and these combinations."""
    order = {tree: k for k, tree in enumerate(_trees(0, n - 1))}
    combinations = list(itertools.product(OPERATORS, repeat=n - 1))
    found: dict[tuple[int, int], list[str]] = {
        key: [] for key in itertools.product(range(len(order)), range(4 ** (n - 1)))
    }
    for c, ops in enumerate(combinations):
        plain = [f"{{{k // 2}}}" if k % 2 == 0 else ops[k // 2] for k in range(2 * n - 1)]
        for places in brackets(n):
            written = list(plain)
            for place, bracket in zip(places, itertools.cycle("()"), strict=False):
                written.insert(place, bracket)
            text = "".join(written)
            tree = ast.parse(text.format(*(f"x{k}" for k in range(n))), mode="eval").body
            found[order[_shape(tree)], c].append(text)
    return found, combinations


def _shape(node: ast.expr) -> Tree:
    if isinstance(node, ast.BinOp):
        return _shape(node.left), _shape(node.right)
    assert isinstance(node, ast.Name)
    return int(node.id[1:])


def _values(tree: Tree, leaves: np.ndarray, ops: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Numerators and denominators (permutations, combinations) of a tree, 0 where it divides by 0; its last leaf."""
    if isinstance(tree, int):
        leaf = leaves[:, tree, None]
        return leaf, np.ones_like(leaf), tree
    a, b, cut = _values(tree[0], leaves, ops)
    c, d, last = _values(tree[1], leaves, ops)
    op = ops[cut]  # the operator behind the left side's last leaf
    numerator = np.choose(op, [a * d + c * b, a * d - c * b, a * c, a * d])
    denominator = np.where(op == OPERATORS.index("/"), b * c * (d != 0), b * d)
    return numerator, denominator, last


@lru_cache(maxsize=20_000)
def solve(cards: tuple[int, ...], target: int = 24) -> tuple[str, ...]:
    """All formulas of + - * / and brackets (see :func:`brackets`) over the ``cards``, each used once, that equal
    ``target``; exact fractions, so division may leave remainders. Cards from 1 to 13; 2 to 4 of them."""
    if not 2 <= len(cards) <= 4 or not all(1 <= card <= 13 for card in cards):
        raise ReprobookError(f"solve: cards are {cards}; they must be 2 to 4 numbers from 1 to 13")
    if list(cards) != sorted(cards):
        return solve(tuple(sorted(cards)), target)
    templates, _ = _templates(len(cards))
    orders = sorted(set(itertools.permutations(cards)))
    found = set()
    for k, hits in enumerate(_hits(np.array(orders, dtype=np.int64), target)):
        for p, c in np.argwhere(hits):
            found |= {text.format(*orders[p]) for text in templates[k, int(c)]}
    return tuple(sorted(found, key=lambda each: (len(each), each)))


def _hits(leaves: np.ndarray, target: int) -> Iterator[np.ndarray]:
    """For each tree, whether numbers in their order (N, n) equal ``target`` by a combination of operators (N, 4^(n -
    1))."""
    n = leaves.shape[1]
    _, combinations = _templates(n)
    ops = np.array([[OPERATORS.index(op) for op in each] for each in combinations]).T[:, None]
    for tree in _trees(0, n - 1):
        numerator, denominator, _ = _values(tree, leaves, ops)
        yield (denominator != 0) & (numerator == target * denominator)


@lru_cache(maxsize=100_000)
def completions(cards: tuple[int, ...], target: int, prefix: str) -> tuple[str, ...]:
    """The solutions that begin with the symbols of ``prefix``, shortest first."""
    begun = symbols(prefix)
    if "".join(begun) != prefix:  # a blank, from a refused number, is in no solution
        return ()
    return tuple(each for each in solve(cards, target) if symbols(each)[: len(begun)] == begun)


def next_symbol(formula: str, prefix: str) -> str | None:
    """The symbol that leads from ``prefix`` to ``formula``: ``=`` if it is complete, None if it is no prefix."""
    begun, whole = symbols(prefix), symbols(formula)
    if "".join(begun) != prefix or whole[: len(begun)] != begun:
        return None
    return whole[len(begun)] if len(begun) < len(whole) else "="
