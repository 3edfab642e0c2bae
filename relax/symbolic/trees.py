"""Formulas with holes for constants, as trees: ``("*", ("c", hole), ("exp", ("z", 0)))``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, reduce
from typing import Any, TypeAlias

import numpy as np
import sympy

from relax.base.types import Array
from relax.symbolic.jets import Jet, Key, composed, plus, times

#: ("z", axis), ("1",), ("c", what kind of number the hole is for), ("+" or "*", tree, tree) or (function, tree).
Tree: TypeAlias = tuple[Any, ...]

#: Kinds of holes: ("amplitude",), ("phase",), and for a coefficient of an axis ("rate", axis), ("frequency", axis),
#: ("scale", axis); for minus a place on it ("place", axis), ("middle", axis), and for minus the square of a reach
#: ("reach", axis); of enumerated formulas ANYTHING.
AMPLITUDE: Tree = ("c", ("amplitude",))
PHASE: Tree = ("c", ("phase",))
ANYTHING = ("anything",)
ONE: Tree = ("1",)

_LEAVES = ("z", "c", "1")


def total(trees: Sequence[Tree]) -> Tree:
    """Their sum."""
    return reduce(lambda a, b: ("+", a, b), trees)


def product(trees: Sequence[Tree]) -> Tree:
    """Their product."""
    return reduce(lambda a, b: ("*", a, b), trees)


@lru_cache(maxsize=100_000)
def size(tree: Tree) -> int:
    """How many nodes it has."""
    return 1 + (sum(map(size, tree[1:])) if tree[0] not in _LEAVES else 0)


@lru_cache(maxsize=100_000)
def holes(tree: Tree) -> tuple[tuple[Any, ...], ...]:
    """The kinds of its holes, from left to right."""
    if tree[0] == "c":
        return (tree[1],)
    return sum(map(holes, tree[1:]), ()) if tree[0] not in _LEAVES else ()


def evaluate(tree: Tree, points: Array, constants: Sequence[Any], keys: Sequence[Key]) -> Jet:
    """Values and derivatives.

    Args:
        tree: the formula.
        points: (axes, n).
        constants: for the holes, in their order: numbers, or arrays that broadcast with (n,).
        keys: the derivatives that are wanted, closed.
    """
    left = iter(constants)

    def at(node: Tree) -> Jet:
        kind = node[0]
        if kind == "z":
            return {(): points[node[1]], (node[1],): np.ones(1)}
        if kind == "c":
            return {(): np.asarray(next(left))}
        if kind == "1":
            return {(): np.ones(1)}
        if kind == "+":
            return plus(at(node[1]), at(node[2]))
        if kind == "*":
            return times(at(node[1]), at(node[2]), keys)
        return composed(kind, at(node[1]), keys)

    return at(tree)


def expression(tree: Tree, symbols: Sequence[sympy.Symbol], constants: Sequence[Any]) -> sympy.Expr:
    """The formula in SymPy, as it stands."""
    left = iter(constants)
    functions = {"exp": sympy.exp, "sin": sympy.sin, "log": sympy.log, "inv": lambda a: 1 / a, "square": lambda a: a**2}

    def at(node: Tree) -> sympy.Expr:
        if node[0] == "z":
            return symbols[node[1]]
        if node[0] == "c":
            return sympy.sympify(next(left))
        if node[0] == "1":
            return sympy.Integer(1)
        parts = [at(child) for child in node[1:]]
        if len(parts) == 2:
            return parts[0] + parts[1] if node[0] == "+" else parts[0] * parts[1]
        return functions[node[0]](parts[0])

    return at(tree)


def enumerated(num_axes: int, functions: Sequence[str], largest: int) -> Iterator[Tree]:
    """All formulas up to a size, small ones first, each once: of those that agree at random points, the first.

    Holes count by their number alone: where all of them hold the same, formulas of equal value and as many holes are
    taken for one family.
    """
    random = np.random.default_rng(0)
    points, constant = random.uniform(0.2, 1.4, (num_axes, 8)), 0.731
    seen: set[tuple[int, bytes]] = set()
    of_size: dict[int, list[Tree]] = {0: []}
    for n in range(1, largest + 1):
        of_size[n] = []
        for tree in _of_size(n, of_size, num_axes, functions):
            kinds = holes(tree)
            with np.errstate(all="ignore"):
                value = evaluate(tree, points, [constant] * len(kinds), [()])[()] * np.ones(8)
            if not np.isfinite(value).all() or np.abs(value).max() > 1e6:
                continue
            # Nine digits: the same numbers added in another order agree.
            key = (len(kinds), np.array([float(f"{v:.8e}") for v in value]).tobytes())
            if key in seen:
                continue
            seen.add(key)
            of_size[n].append(tree)
            if not _is_constant(tree):
                yield tree


def _of_size(n: int, smaller: dict[int, list[Tree]], num_axes: int, functions: Sequence[str]) -> Iterator[Tree]:
    if n == 1:
        yield from (("z", axis) for axis in range(num_axes))
        yield ("c", ANYTHING)
        return
    for function in functions:
        # Of a constant a function is a constant; and one function undoes another.
        undone = {"exp": "log", "log": "exp", "inv": "inv"}.get(function)
        yield from ((function, tree) for tree in smaller[n - 1] if not _is_constant(tree) and tree[0] != undone)
    for left in range(1, (n - 1) // 2 + 1):
        for a in smaller[left]:
            for b in smaller[n - 1 - left]:
                if not (_is_constant(a) and _is_constant(b)):
                    yield from (("+", a, b), ("*", a, b))


def _is_constant(tree: Tree) -> bool:
    return bool(tree[0] == "c" or (tree[0] != "z" and all(map(_is_constant, tree[1:]))))
