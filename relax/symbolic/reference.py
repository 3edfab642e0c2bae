"""The same equation by finite elements; and what a formula leaves of its weak form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import basix.ufl
import numpy as np
import numpy.typing as npt
import sympy
import ufl
from dolfinx import default_scalar_type, fem, mesh
from sympy.core.function import AppliedUndef
from ufl.core.expr import Expr

from relax.base import parallel
from relax.base.fem import compat
from relax.base.fem.forms import assembled
from relax.base.types import Array
from relax.engine.reduced import ReducedMap
from relax.observe.fields import FieldValues
from relax.problem.problem import Problem
from relax.symbolic.equation import Equation, Pointwise
from relax.symbolic.jets import Jet, Key
from relax.symbolic.natural import Boundary, BoundaryHats
from relax.symbolic.translate import to_ufl

#: Values (n,) of a formula, or of data, at points (gdim, n) and a time.
AtTime = Callable[[Array, float], Array]

# How exactly integrals over cells are taken, by the dimension of the mesh.
_QUADRATURE = {1: 12, 2: 10, 3: 8}
# Times at which the weak residual is looked at, as parts of the last one.
_LOOKS = (0.0, 0.29, 0.53, 0.78, 1.0)
_NOTHING: Array = np.zeros((0, 0))


class Discretised:
    """The equation in a space, stepped by the implicit midpoint rule. Collective to make and to use.

    Attributes:
        V: the space.
        seen: its values at nodes, in the order of these.
        nodes: (n, gdim), the same on every rank.
        held: local degrees of freedom at which u is held, ghosts included.
    """

    def __init__(
        self, equation: Equation, V: fem.FunctionSpace, boundary: Boundary, num_steps: int, end: float
    ) -> None:
        self.times = np.linspace(0.0, end, num_steps + 1) if equation.order else np.zeros(1)
        self._order, self._k = equation.order, end / num_steps
        u, old, rate, self._g = (fem.Function(V) for _ in range(4))
        k, middle = self._k, fem.Constant(V.mesh, default_scalar_type(0.0))
        change = (u - old) / k
        by_order: list[Expr] = [(u + old) / 2, change, 2.0 * (change - rate) / k] if self._order else [u]
        names: dict[sympy.Expr, Expr | float] = dict(zip(equation.symbols, ufl.SpatialCoordinate(V.mesh), strict=False))
        if self._order:
            names[equation.symbols[-1]] = middle
        names |= {n: ufl.FacetNormal(V.mesh)[i] for i, n in enumerate(equation.normal)}
        said = [*equation.parts, *map(sympy.sympify, boundary.fluxes)]
        for atom in sorted(set().union(*(p.atoms(sympy.Derivative, AppliedUndef) for p in said)), key=str):
            names[atom] = _derivative(equation, atom, by_order)
        value, *slopes = to_ufl(equation.parts, names)
        v, tags = ufl.TestFunction(V), boundary.tags(V.mesh)
        form = (value * v + ufl.inner(ufl.as_vector(slopes), ufl.grad(v))) * ufl.dx(domain=V.mesh)
        ds = ufl.Measure("ds", domain=V.mesh, subdomain_data=tags)
        for k, flux in enumerate(to_ufl(boundary.fluxes, names)):
            form += flux * v * ds(k + 1)
        self.held = fem.locate_dofs_topological(V, tags.dim, tags.find(0))
        bcs = [fem.dirichletbc(self._g, self.held)]
        if boundary.is_natural.all():
            # The data are a flux beside the form's: of 0, or to see what answers to it.
            form, bcs = form + self._g * v * ds, []
        controls = [self._g, *[c for c in (old, rate, middle) if c in (*form.coefficients(), *form.constants())]]
        self._moving = middle in controls
        problem = Problem(residual=form, state=u, controls=controls, bcs=bcs, name="symbolic")
        seen = FieldValues(V)
        self.V, self.seen, self._map = V, seen, ReducedMap(problem, seen)
        self.nodes = seen.coordinates[:, : V.mesh.geometry.dim]

    def solve(self, boundary: AtTime, initial: AtTime | None = None, velocity: AtTime | None = None) -> Array:
        """Values at nodes at all times, (times, n).

        Collective. Boundary data are taken at the end of each step.

        Raises:
            SolveFailed: as a :class:`relax.ReducedMap` does.
        """
        x = self.nodes.T
        if initial is None:
            return np.asarray(self._map(boundary(x, 0.0)))[None]
        states = [initial(x, 0.0)]
        rate = velocity(x, 0.0) if velocity is not None else None
        for start, end in zip(self.times[:-1], self.times[1:], strict=True):
            given = [boundary(x, float(end)), states[-1]] + ([rate] if rate is not None else [])
            states.append(self._map(np.concatenate([*given, *([[0.5 * (start + end)]] if self._moving else [])])))
            if rate is not None:
                rate = 2.0 * (states[-1] - states[-2]) / self._k - rate
        return np.array(states)


@dataclass(frozen=True)
class WeakResidual:
    """∫ c_0 v + c · grad v dx + ∫ b v ds of a formula for the hat functions v that do not vanish where u is held.

    Collective to make and to use.
    """

    equation: Equation
    boundary: Boundary
    held: npt.NDArray[np.int32]
    end: float

    def __call__(self, jet_at: Callable[[Array, Sequence[Key]], Jet]) -> float:
        """The largest at five times, as a part of ∫ |c_0| + (|c| + |b|)/h over a cell; the same on every rank.

        Args:
            jet_at: the formula's derivatives at points (axes, n), as many as are asked for.
        """
        V = self.equation.V
        domain = V.mesh
        d, gdim = domain.topology.dim, domain.geometry.dim
        degree = _QUADRATURE[d]
        cell = domain.basix_cell()
        scalar = fem.functionspace(domain, basix.ufl.quadrature_element(cell, (), "default", degree))
        vector = fem.functionspace(domain, basix.ufl.quadrature_element(cell, (gdim,), "default", degree))
        c0, c, x, v = fem.Function(scalar), fem.Function(vector), fem.Function(vector), ufl.TestFunction(V)
        x.interpolate(fem.Expression(ufl.SpatialCoordinate(domain), compat.interpolation_points(vector)))
        rule = {"quadrature_degree": degree, "quadrature_rule": "default"}
        form = fem.form((c0 * v + ufl.inner(c, ufl.grad(v))) * ufl.dx(domain=domain, metadata=rule))
        dual, inner = fem.Function(V), np.ones(V.dofmap.index_map.size_local, dtype=bool)
        inner[self.held[self.held < len(inner)]] = False
        points, hats = x.x.array.reshape(-1, gdim).T, BoundaryHats(V, self.boundary, degree)
        cell_volume = _volume(domain) / domain.topology.index_map(d).size_global
        worst = 0.0
        functions = [self.equation.at_points(part) for part in self.equation.parts]
        on_boundary = [self.equation.at_points(*self.boundary.flux(self.equation))]
        for share in _LOOKS if self.equation.order else (0.0,):
            values = self._values(functions, jet_at, points, share)
            flux = self._values(on_boundary, jet_at, hats.points, share, hats.given)[0]
            c0.x.array[:], c.x.array[:] = values[0], values[1:].T.ravel()
            left = np.abs(assembled(form, dual) + hats.integrals(flux))[inner].max(initial=0.0)
            sizes = np.abs(values).max(axis=1, initial=0.0)
            slope = sizes[1:].max() + np.abs(flux).max(initial=0.0)
            scale = sizes[0] * cell_volume + slope * cell_volume ** ((d - 1) / d)
            left, scale = (parallel.largest(domain.comm, float(a)) for a in (left, scale))
            worst = max(worst, left / scale if scale > 0.0 else left) if np.isfinite(left) else np.inf
        return worst

    def _values(
        self,
        functions: Sequence[tuple[tuple[Key, ...], Pointwise]],
        jet_at: Callable[[Array, Sequence[Key]], Jet],
        points: Array,
        share: float,
        besides: Array = _NOTHING,
    ) -> Array:
        """(functions, n) at points (gdim, n) and a part of the last time. Local."""
        at = np.vstack([points, np.full((min(self.equation.order, 1), points.shape[1]), share * self.end)])
        jet = jet_at(at, [key for keys, _ in functions for key in keys])
        return np.array([
            np.real(f(*at, *besides, *(jet.get(key, 0.0) for key in keys))) + np.zeros(at.shape[1])
            for keys, f in functions
        ])  # fmt: skip


def _derivative(equation: Equation, atom: sympy.Expr, by_order: Sequence[Expr]) -> Expr:
    """u, or a derivative of it in space and time, by what stands for u, u_t and u_tt."""
    variables = atom.variables if isinstance(atom, sympy.Derivative) else ()
    in_space = [equation.symbols.index(z) for z in variables if not equation.order or z != equation.symbols[-1]]
    result = by_order[len(variables) - len(in_space)]
    for axis in in_space:
        result = result.dx(axis)
    return result


def _volume(domain: mesh.Mesh) -> float:
    one = fem.Constant(domain, default_scalar_type(1.0))
    return float(parallel.sum_over_ranks(domain.comm, np.array([fem.assemble_scalar(fem.form(one * ufl.dx))]))[0])
