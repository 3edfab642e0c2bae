"""Formulas that gplearn proposes for values at points, where it is installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from relax.base.log import logger
from relax.base.types import Array
from relax.symbolic.trees import AMPLITUDE, ANYTHING, Tree

# Programs, generations of them, and how many of the last are handed on.
_POPULATION, _GENERATIONS, _BEST = 400, 8, 12
# Of relax's functions those that gplearn has.
_NAMES = {"sin": "sin", "log": "log", "inv": "inv"}


def bred(points: Array, values: Array, functions: Sequence[str]) -> list[Tree]:
    """The fittest formulas, with holes for their numbers; none where gplearn is missing. Local.

    Args:
        points: (axes, n).
        values: (n,) to be fitted.
        functions: the names of those that may be used.
    """
    try:
        from gplearn.genetic import SymbolicRegressor
    except ImportError as error:
        logger.info("symbolic: gplearn proposes no formulas (%s); those of an ansatz and by size are tried", error)
        return []
    known = [_NAMES[f] for f in functions if f in _NAMES]
    breeder = SymbolicRegressor(
        population_size=_POPULATION, generations=_GENERATIONS, function_set=("add", "sub", "mul", "div", *known),
        const_range=(-3.0, 3.0), parsimony_coefficient=0.003, random_state=0,
    )  # fmt: skip
    breeder.fit(points.T, values / (np.abs(values).max() or 1.0))
    fittest = sorted((p for p in breeder._programs[-1] if p is not None), key=lambda p: p.raw_fitness_)
    trees = dict.fromkeys(("*", AMPLITUDE, _tree(iter(p.program))) for p in fittest)
    return list(trees)[:_BEST]


def _tree(program: Any) -> Tree:
    """A program in prefix order: functions, numbers of variables, constants."""
    node = next(program)
    if isinstance(node, int | np.integer):
        return ("z", int(node))
    if isinstance(node, float | np.floating):
        return ("c", ANYTHING)
    parts = [_tree(program) for _ in range(node.arity)]
    if node.name in _NAMES:
        return (node.name, parts[0])
    if node.name == "sub":
        parts[1] = ("*", AMPLITUDE, parts[1])
    if node.name == "div":
        parts[1] = ("inv", parts[1])
    return ("+" if node.name in ("add", "sub") else "*", *parts)
