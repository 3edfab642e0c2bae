"""What a formula leaves of an equation and its conditions at points, and the constants that leave least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import sympy

from relax.base.types import Array
from relax.symbolic.equation import Equation, Pointwise, values_at
from relax.symbolic.fit import least_squares
from relax.symbolic.jets import Jet, Key, closed
from relax.symbolic.trees import ANYTHING, Tree, evaluate, expression, holes, size

# How many starts, how many of them go on to the end, and the root of the mean square up to which they do.
_STARTS, _KEPT, _HOPEFUL = 8, 2, 0.1
#: The root of the mean square, as a part of what stands in the equation, that counts as zero.
VANISHES = 1e-10


@dataclass(frozen=True)
class Formula:
    """A tree with numbers in its holes.

    Attributes:
        misfit: root of the mean square of what it leaves, and of how far it is from the finite elements; relative.
        solves: whether it leaves nothing of the equation and its conditions, to rounding.
    """

    tree: Tree
    constants: tuple[float, ...]
    misfit: float
    solves: bool

    @property
    def size(self) -> int:
        """Nodes of the tree."""
        return size(self.tree)

    def jet(self, points: Array, keys: Sequence[Key]) -> Jet:
        """Its derivatives at points (axes, n)."""
        with np.errstate(all="ignore"):
            return evaluate(self.tree, points, self.constants, closed(keys))

    def at_time(self, x: Array, t: float) -> Array:
        """Its values at x (gdim, n), and at a time where it depends on one."""
        return np.real(self.jet(np.vstack([x, np.full((1, x.shape[1]), t)]), [])[()]) + np.zeros(x.shape[1])


class PointwiseFit:
    """The equation at points of the domain and of time, its conditions, and values of the finite elements.

    Local; the same on every rank.

    Args:
        equation: what is to hold.
        end: the last time.
        flux: b of the boundary's c · n + b, and the symbols in it besides coordinates.
        given: (symbols, n) for these, at the points of "flux".
        places: points (axes, n) for "equation", for "flux" where the form has one, and those for "boundary",
            "initial", "velocity" that are given.
        known: points (axes, n) and values (n,) of the finite elements; none of them where there is no solution yet.
        pool: numbers to start from by kind of hole.

    Attributes:
        known: as given.
    """

    def __init__(
        self,
        equation: Equation,
        flux: tuple[sympy.Expr, Sequence[sympy.Symbol]],
        given: Array,
        places: Mapping[str, Array],
        known: tuple[Array, Array],
        pool: Mapping[tuple[Any, ...], Sequence[float]],
    ) -> None:
        self._equation, self._pool, self.known = equation, pool, known
        time_key = (len(equation.symbols) - 1,)
        #: What holds at points: of which derivatives, the function, and what it takes besides.
        self._laws: dict[str, tuple[tuple[Key, ...], Pointwise, Array]]
        self._laws = {"equation": (equation.keys, equation.residual, np.zeros((0, 0)))}
        if "flux" in places:
            out = sum(c * n for c, n in zip(equation.parts[1:], equation.normal, strict=True))
            self._laws["flux"] = (*equation.at_points(out + flux[0], flux[1]), given)
        held = [key for keys, *_ in self._laws.values() for key in keys]
        self._keys = closed([*held, *([time_key] if "velocity" in places else [])])
        self._points = np.hstack([*places.values(), known[0]])
        ends = np.cumsum([p.shape[1] for p in (*places.values(), known[0])])
        starts = [0, *ends[:-1]]
        self._slices = {n: slice(a, b) for n, a, b in zip([*places, "known"], starts, ends, strict=True)}
        data = {
            name: values_at(sympy.lambdify(equation.symbols, equation.conditions[name]), points)
            for name, points in places.items() if name not in self._laws
        } | {"known": known[1]}  # fmt: skip
        self._data = data
        extents = np.ptp(self._points, axis=1)
        length = float(extents[-1]) if "velocity" in places else 1.0
        largest = [length ** (name == "velocity") * np.abs(v).max(initial=0.0) for name, v in data.items()]
        self.magnitude = float(max(largest)) or 1.0
        self._scales = dict.fromkeys(data, self.magnitude) | {"velocity": self.magnitude / length}
        self._scales |= {name: self._size_of_terms(name, places[name], extents) for name in self._laws}

    def _size_of_terms(self, name: str, points: Array, extents: Array) -> float:
        """How large the terms of a law are for functions of the magnitude of u that vary over the domain."""
        keys, f, given = self._laws[name]
        points = np.vstack([points, given]) if len(given) else points
        nothing = [np.zeros(1)] * len(keys)
        rest = values_at(f, points, nothing)
        sizes = [np.abs(rest).mean()]
        for i, key in enumerate(keys):
            one = self.magnitude / float(np.prod(extents[list(key)]))
            with np.errstate(all="ignore"):
                sizes.append(
                    np.abs(values_at(f, points, [*nothing[:i], np.full(1, one), *nothing[i + 1 :]]) - rest).mean()
                )
        return float(np.max(sizes, where=np.isfinite(sizes), initial=0.0)) or 1.0

    def rows(self, tree: Tree, with_known: bool, constants: Sequence[Any]) -> Array:
        """What is left, each part divided by its size and by the root of its number: (..., rows)."""
        known = self._slices["known"]
        points = self._points if with_known else self._points[:, : known.start]
        jet = evaluate(tree, points, constants, self._keys)
        lead = np.broadcast_shapes(*(np.shape(c)[:-1] for c in constants)) if constants else (1, 1)
        found = []
        for name, part in self._slices.items():
            n = part.stop - part.start
            if n == 0 or (name == "known" and not with_known):
                continue
            here = {key: a if a.shape[-1] == 1 else a[..., part] for key, a in jet.items()}
            if name in self._laws:
                keys, law, given = self._laws[name]
                left = law(*points[:, part], *given, *(here.get(key, np.zeros(1)) for key in keys))
            else:
                left = here.get((len(self._points) - 1,) if name == "velocity" else (), 0.0) - self._data[name]
            found.append(np.broadcast_to(left / (self._scales[name] * np.sqrt(n)), (*lead, n)))
        return np.concatenate(found, axis=-1)

    def fitted(self, tree: Tree, number: int) -> Formula:
        """The constants of a tree: first near the finite elements' values, then for the equation alone.

        Args:
            tree: with holes.
            number: of which the random starts depend.
        """
        starts = self._starts(tree, number)
        near, cost = least_squares(partial(self.rows, tree, True), starts, iterations=25)
        best = np.argsort(cost)[:_KEPT]
        theta, misfit = near[best[0]], float(np.sqrt(2.0 * cost[best[0]]))
        if misfit < _HOPEFUL:
            alone = partial(self.rows, tree, False)
            last, left = least_squares(alone, near[best], iterations=40, small=1e-28)
            i = int(np.argmin(left))
            if np.sqrt(2.0 * left[i]) < VANISHES:
                return Formula(tree, tuple(map(float, self._pinned(tree, last[i], float(left[i])))), misfit, True)
        return Formula(tree, tuple(map(float, theta)), misfit, False)

    def _starts(self, tree: Tree, number: int) -> Array:
        kinds = holes(tree)
        random = np.random.default_rng([number, 1])
        starts = np.empty((_STARTS if kinds else 1, len(kinds)))
        for j, kind in enumerate(kinds):
            drawn = self.magnitude * random.standard_normal(_STARTS)
            if numbers := self._pool.get(kind):
                drawn = random.choice(numbers, _STARTS)
            if kind == ANYTHING:
                drawn = np.where(random.random(_STARTS) < 0.5, drawn, random.standard_normal(_STARTS))
            starts[:, j] = drawn[: len(starts)]
        return starts

    def _pinned(self, tree: Tree, theta: Array, cost: float) -> Array:
        """0, 1, fractions, or those of π or π², in place of numbers, wherever the others then leave as little.

        Where two constants say one thing, as in a log(b x), that pins one of them.
        """
        free = list(range(len(theta)))
        for j in range(len(theta)):
            others = [i for i in free if i != j]
            for value in dict.fromkeys((0.0, 1.0, float(near_fraction(theta[j])))):
                held = theta.copy()
                held[j] = value
                rows = partial(self._rows_of_some, tree, held, others)
                moved, left = least_squares(rows, theta[others][None], iterations=12, small=1e-28)
                if left[0] <= max(10.0 * cost, 1e-24):
                    held[others] = moved[0]
                    theta, free = held, others
                    break
        return theta

    def _rows_of_some(self, tree: Tree, held: Array, moving: Sequence[int], constants: list[Array]) -> Array:
        """Rows of a formula of whose constants some are held."""
        every: list[Any] = [np.full((1, 1, 1), c, dtype=complex) for c in held]
        for i, c in zip(moving, constants, strict=True):
            every[i] = c
        return self.rows(tree, False, every)


def near_fraction(value: float) -> sympy.Expr:
    """A fraction of small terms, of one, π or π², that agrees to nine digits; else ten digits of the number."""
    for unit in (sympy.Integer(1), sympy.pi, sympy.pi**2):
        fraction = Fraction(value / float(unit)).limit_denominator(1000)
        exact = sympy.Rational(fraction.numerator, fraction.denominator) * unit
        # Every large number is near a fraction, every small one near 0.
        if abs(fraction.numerator) * fraction.denominator <= 10**6 and abs(float(exact) - value) <= 1e-9 * abs(value):
            return exact
    return sympy.Float(f"{value:.9e}")


def in_sympy(formula: Formula, symbols: Sequence[sympy.Symbol]) -> sympy.Expr:
    """The formula, simplified."""
    simple = sympy.simplify(expression(formula.tree, symbols, [near_fraction(c) for c in formula.constants]))
    # Where two constants say one thing, their sum may be a fraction, and neither of them.
    simple = simple.xreplace({number: near_fraction(float(number)) for number in simple.atoms(sympy.Float)})
    if simple.is_polynomial(*symbols) and not simple.has(sympy.Float):
        return min(simple, sympy.factor(simple), key=sympy.count_ops)
    return simple
