"""Whether a formula is the solution: its weak residual, and its distance from finite elements that are refined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy
from dolfinx import fem

from relax.base.fem.points import points_inside
from relax.base.types import Array
from relax.errors import BadInput
from relax.symbolic.equation import Equation, values_at
from relax.symbolic.halved import halved
from relax.symbolic.natural import boundary_of
from relax.symbolic.pointwise import Formula, PointwiseFit
from relax.symbolic.reference import AtTime, Discretised, WeakResidual
from relax.symbolic.spectrum import along_axis, exponents
from relax.symbolic.trees import ANYTHING

# Steps in time on the mesh, and twice as many on that of half its width. Points at which a formula is fitted: in the
# domain, and of each condition.
_STEPS, _INSIDE, _OF_EACH = 32, 64, 32
# The weak residual that counts as zero; how the distance to the finite elements must fall as the mesh is halved, and
# the distance, as a part of the solution, from which it need not, being rounding.
_WEAK, _FALL, _ROUNDING = 1e-9, 2.8, 1e-9
# A change of the boundary values, as a part of the solution, and how it varies along each axis: orthogonal to nothing.
_PUSH, _SLOPES = 1e-6, np.array([0.7, 1.1, 0.4])


@dataclass(frozen=True)
class Verdict:
    """On a formula.

    Attributes:
        weak: its weak residual.
        error: its largest distance from the finite elements on the finer mesh; its misfit where there are none.
        is_exact: whether it is the solution.
    """

    weak: float
    error: float
    is_exact: bool


class Judge:
    """The equation by finite elements on two meshes. Collective to make and to use; the same on every rank."""

    def __init__(self, equation: Equation, end: float) -> None:
        self.equation, self.end = equation, end
        V = equation.V
        finer = halved(V)
        boundary = self._boundary = boundary_of(equation)
        self._meshes = [
            Discretised(equation, V, boundary, _STEPS, end),
            Discretised(equation, finer, boundary.halved(), 2 * _STEPS, end),
        ]
        self._data = {name: self._at_time(value) for name, value in equation.conditions.items()}
        if boundary.is_natural.all():
            self._data["boundary"] = self._at_time(sympy.Integer(0))
        self._weak = WeakResidual(equation, boundary, self._meshes[0].held, end)
        self._solutions, self._unique = None, equation.order > 0
        if "boundary" in self._data:
            self._solutions = [mesh.solve(**self._data) for mesh in self._meshes]
        self._seen: dict[Formula, Verdict] = {}

    def __call__(self, formula: Formula) -> Verdict:
        """The verdict on a formula. Collective."""
        if formula not in self._seen:
            weak = self._weak(formula.jet)
            solutions = self._solutions
            if solutions is None and formula.solves:
                data = self._data | {"boundary": formula.at_time}
                solutions = [mesh.solve(**data) for mesh in self._meshes]
            if solutions is None:
                self._seen[formula] = Verdict(weak, formula.misfit, False)
                return self._seen[formula]
            coarse, fine = (self._distance(m, u, formula) for m, u in zip(self._meshes, solutions, strict=True))
            hopeful = formula.solves and weak < _WEAK and self._is_unique()
            agrees = self._falls(coarse, fine, solutions[1])
            if hopeful and not agrees:
                # A coarse mesh can be exact by its symmetry, or too coarse to tell: one more halving does.
                boundary, space = self._boundary.halved().halved(), halved(self._meshes[1].V)
                finest = Discretised(self.equation, space, boundary, 4 * _STEPS, self.end)
                solution = finest.solve(**(self._data | {"boundary": self._data.get("boundary", formula.at_time)}))
                agrees = self._falls(fine, self._distance(finest, solution, formula), solution)
            self._seen[formula] = Verdict(weak, fine, hopeful and agrees)
        return self._seen[formula]

    def _is_unique(self) -> bool:
        """Whether the finite elements answer to a change of the boundary values by as much on the finer mesh.

        At an eigenvalue the equation has other solutions, or none. That of a mesh is off by the error of the elements:
        they have one solution, which answers by 1 over that error.
        """
        if not self._unique and self._solutions is not None:
            boundary, answers = self._data["boundary"], []
            nodes = self._meshes[0].nodes
            low, extents = nodes.min(axis=0)[:, None], np.ptp(nodes, axis=0)[:, None]
            for mesh, u in zip(self._meshes, self._solutions, strict=True):
                push = _PUSH * (float(np.abs(self._solutions[1]).max()) or 1.0)

                def pushed(x: Array, t: float, push: float = push) -> Array:
                    return boundary(x, t) + push * np.exp(_SLOPES[: len(x), None] * (x - low) / extents).prod(axis=0)

                answers.append(float(np.abs(mesh.solve(pushed) - u).max()))
            self._unique = answers[1] < _FALL * answers[0]
        return self._unique

    def pointwise(self) -> PointwiseFit:
        """What formulas are fitted to. Collective."""
        random = np.random.default_rng(0)
        nodes = self._meshes[0].nodes
        low, high = nodes.min(axis=0), nodes.max(axis=0)
        box = random.uniform(low, high, (8 * _INSIDE, nodes.shape[1]))
        inside = box[points_inside(self.equation.V.mesh, box)][:_INSIDE]
        places = {"equation": self._with_times(inside, random)}
        given: Array = np.zeros((0, 0))
        if self._boundary.is_natural.any():
            on_boundary, given = self._boundary.points(_OF_EACH, random)
            places["flux"] = self._with_times(on_boundary.T, random)
        for name in self.equation.conditions:
            if name == "boundary":
                places[name] = self._with_times(_some(self._held_nodes(), random), random)
            else:
                places[name] = np.vstack([inside[:_OF_EACH].T, np.zeros((1, len(inside[:_OF_EACH])))])
        known: tuple[Array, Array] = np.zeros((len(self.equation.symbols), 0)), np.zeros(0)
        if self._solutions is not None:
            values = self._solutions[0]
            at, node = random.integers(0, len(values), 2 * _INSIDE), random.integers(0, len(nodes), 2 * _INSIDE)
            times = self._meshes[0].times[at][None] if self.equation.order else np.zeros((0, 2 * _INSIDE))
            # Nothing of a formula is to hang on the last digits, which differ with the number of ranks.
            unit = 1e-10 * float(np.abs(values).max()) or 1.0
            known = np.vstack([nodes[node].T, times]), unit * np.round(values[at, node] / unit)
        return PointwiseFit(self.equation, self._boundary.flux(self.equation), given, places, known, self._pool())

    def _pool(self) -> dict[tuple[Any, ...], list[float]]:
        """Numbers that constants start from: what the finer solution is made of, and some of the domain's size."""
        mesh = self._meshes[1]
        if self._solutions is not None:
            fields = self._solutions[1]
        else:
            fields = self._data["initial"](mesh.nodes.T, 0.0)[None]
        low, extents = mesh.nodes.min(axis=0), np.ptp(mesh.nodes, axis=0)
        pool: dict[tuple[Any, ...], list[float]] = {}
        for axis in range(len(self.equation.symbols)):
            if axis < len(extents):
                length = float(extents[axis])
                rates, frequencies = exponents(*along_axis(mesh.nodes, fields[:: max(1, len(fields) // 8)], axis))
            else:
                length = self.end
                series = fields.T[:: max(1, fields.shape[1] // 64)]
                rates, frequencies = exponents(series, float(mesh.times[1])) if len(fields) > 1 else ([], [])
            pool["rate", axis] = [*(2 * rates), 1 / length, -1 / length]
            pool["frequency", axis] = [*(2 * frequencies), *(np.pi / length * np.arange(1, 3))]
            pool["scale", axis] = [0.5 / length, 1 / length, 3 / length, -0.5 / length]
        pool[ANYTHING] = sorted({1.0, -1.0, *(a for numbers in pool.values() for a in numbers)})
        for axis in range(len(self.equation.symbols)):
            begin, length = (float(low[axis]), float(extents[axis])) if axis < len(low) else (0.0, self.end)
            pool["place", axis] = [-begin, -begin - length / 2, -begin - length]
            pool["middle", axis], pool["reach", axis] = [-begin - length / 2], [-((length / 2) ** 2)] * 2 + [0.0]
        return {kind: [float(f"{a:.5e}") for a in numbers] for kind, numbers in pool.items()}

    def _with_times(self, x: Array, random: np.random.Generator) -> Array:
        times = random.uniform(0.0, self.end, (1 if self.equation.order else 0, len(x)))
        return np.vstack([x.T, times])

    def _held_nodes(self) -> Array:
        """Nodes at which u is held, (n, gdim), in an order that no partition decides. Collective."""
        mesh = self._meshes[0]
        marks = fem.Function(mesh.V)
        marks.x.array[mesh.held] = 1.0
        return mesh.nodes[mesh.seen.value(marks) > 0.5]

    def _at_time(self, value: sympy.Expr) -> AtTime:
        function = sympy.lambdify(self.equation.symbols, value)
        moving = self.equation.order > 0

        def at(x: Array, t: float) -> Array:
            with np.errstate(all="ignore"):
                values = values_at(function, np.vstack([x, np.full((1, x.shape[1]), t)]) if moving else x)
            if not np.isfinite(values).all():
                raise BadInput(f"conditions: expected finite values at all nodes, got NaN or infinity of {value}")
            return values

        return at

    @staticmethod
    def _falls(coarse: float, fine: float, solution: Array) -> bool:
        """Whether distances fall with the error of the finite elements, or are rounding."""
        return bool(fine <= _ROUNDING * float(np.abs(solution).max()) or fine * _FALL < coarse)

    @staticmethod
    def _distance(mesh: Discretised, solution: Array, formula: Formula) -> float:
        """The largest at nodes at all times; infinite where the formula is not finite."""
        gaps = [
            np.abs(formula.at_time(mesh.nodes.T, float(t)) - u).max() for t, u in zip(mesh.times, solution, strict=True)
        ]
        return float(np.nan_to_num(np.max(gaps), nan=np.inf))


def _some(x: Array, random: np.random.Generator) -> Array:
    """A number of these points, again and again where there are few."""
    return x[random.integers(0, len(x), _OF_EACH)] if len(x) > 2 else np.repeat(x, _OF_EACH // 2, axis=0)
