"""Densities of a stochastic descent along the scoping: the Fokker–Planck equation, by edge-averaged finite elements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import ufl
from dolfinx import fem
from dolfinx.fem import petsc as fem_petsc
from scipy.special import exprel

from relax.base import parallel
from relax.base.checks import at_least, of_kind, positive
from relax.base.fem.coefficients import Coefficient, interpolated
from relax.base.fem.forms import assembled, num_owned
from relax.base.la.linear import LinearSolver
from relax.base.la.options import DIRECT
from relax.base.types import Array
from relax.errors import BadInput, SolveFailed
from relax.relaxation.functions import as_numbers
from relax.relaxation.landscape.landscape import RelaxedLandscape

# An entry of the stiffness matrix is one of rounding below this, beside the largest.
_ROUNDING = 1e-12
# What rounding may take from the mass in a step, or leave of the largest density below 0. Both are mended.
_AMISS = 1e-9


@dataclass(frozen=True)
class Densities:
    """rho(., s) at some times s, of mass 1. Dimensionless.

    Attributes:
        times: (k,).
        fields: rho at each, elements of degree 1; mass lies at the nodes, each with the integral of its hat function.
    """

    times: Array
    fields: tuple[fem.Function, ...]
    _masses: Array

    def mean(self, g: Callable[[Array], Any]) -> Array:
        """E g under each density, (k,), or (k, m) for a g with m components: sums over the nodes. Collective.

        ``lambda x: x[0]`` is the mean position, an indicator function such as ``lambda x: abs(x[0]) < 0.5`` gives a
        share.

        Args:
            g: coordinates (3, n) -> (n,) or (m, n).
        """
        V = self.fields[0].function_space
        own = num_owned(V)
        with parallel.together(V.mesh.comm):
            given = np.asarray(g(V.tabulate_dof_coordinates()[:own].T.copy()), dtype=np.float64)
            if given.ndim > 2 or given.shape[-1:] not in ((), (own,)):
                raise BadInput(f"Densities.mean: g: expected values of shape ({own},) or (m, {own}), got {given.shape}")
            values = np.broadcast_to(given, (*given.shape[:-1], own))
        held = np.stack([rho.x.array[:own] for rho in self.fields]) * self._masses
        return parallel.sum_over_ranks(V.mesh.comm, held @ values.T)


def density(
    landscape: RelaxedLandscape | fem.Function | Sequence[fem.Function],
    times: npt.ArrayLike,
    *,
    start: Coefficient,
    diffusion: float,
    num_steps: int = 20,
) -> Densities:
    """Where dx = -grad u ds + sqrt(2 D) dW is, while u goes from most to least smoothed. Collective. Dimensionless.

        rho_s = div(rho grad u) + D Lap rho,   (rho grad u + D grad rho) · n = 0 on the boundary.

    At s of [0, S], S the last of ``times``, u is the landscape relaxed for T (1 - s/S), T the last of its own times.
    Steps are backward Euler's, with u as it is at their end. In space the flux along each edge is that of an
    exponential (Scharfetter, Gumbel 1969; Xu, Zikatanov, "A monotone finite element scheme for convection–diffusion
    equations", Math. Comp. 68, 1999): rho stays non-negative whatever D and the steps are, mass is kept to rounding,
    and a density proportional to exp(-u/D) at the nodes stays as it is.

    Args:
        landscape: what is descended: a relaxed landscape; or fields, the most smoothed first, evenly spaced in s and
            taken as linear in between; or one Function, which stays as it is. Of all only values at vertices count.
        times: increasing; s = 0 is added where it is missing. The density is kept at each.
        start: rho at s = 0 up to a factor, not negative; a number, a function of x (coordinates (3, n) -> (n,)), a UFL
            expression, a Function.
        diffusion: D, above 0; at rest rho is exp(-u/D), so 1/D is the inverse temperature.
        num_steps: from each time to the next.

    Raises:
        BadInput: for what does not fit; for a mesh on which the scheme could make densities negative: one with an
            entry of the stiffness matrix above 0 off the diagonal. Triangles that are Delaunay, with no obtuse angle
            against the boundary, have none; nor do cells of boxes that are nearly cubes.
        SolveFailed: where a step cannot be solved.
    """
    u, V = _scoping(landscape)
    comm = V.mesh.comm
    times, diffusion, num_steps = parallel.of_rank_0(comm, (times, diffusion, num_steps))
    moments = _checked_times(times)
    at_least(num_steps, 1, "density: num_steps")
    flow = _Flow(V, positive(diffusion, "density: diffusion"))
    try:
        held = flow.started(start)
        fields = [_field(V, held)]
        for s, after in pairwise(moments):
            for n in range(1, num_steps + 1):
                part = (s + (after - s) * n / num_steps) / moments[-1]
                held = flow.stepped(held, u(part), (after - s) / num_steps)
            fields.append(_field(V, held))
        return Densities(moments, tuple(fields), flow.masses)
    finally:
        flow.close()


def _field(V: fem.FunctionSpace, owned: Array) -> fem.Function:
    rho = fem.Function(V, name="rho")
    rho.x.array[: len(owned)] = owned
    rho.x.scatter_forward()
    return rho


def _checked_times(times: npt.ArrayLike) -> Array:
    moments: Array = as_numbers(times, "density: times: expected increasing times").reshape(-1)
    if not np.isfinite(moments).all() or (moments < 0.0).any() or (np.diff(moments) <= 0.0).any():
        raise BadInput(f"density: times: expected increasing finite times of at least 0, got {moments.tolist()!r:.80}")
    moments = np.concatenate([[0.0], moments[moments > 0.0]])
    if len(moments) < 2:
        raise BadInput("density: times: expected at least one time above 0")
    return moments


def _scoping(landscape: Any) -> tuple[Callable[[float], fem.Function], fem.FunctionSpace]:
    """(u at a part of the time, from 0 to 1, as a field of degree 1; its space). Collective."""
    words = "a RelaxedLandscape, a fem.Function, or several of them, the most smoothed first"
    if isinstance(landscape, RelaxedLandscape):
        V = fem.functionspace(landscape.mesh, ("Lagrange", 1))

        def relaxed(part: float) -> fem.Function:
            return interpolated(landscape.field(landscape.times[-1] * max(1.0 - part, 0.0)), V)

        return relaxed, V
    several = isinstance(landscape, list | tuple) and len(landscape) > 0
    given = list(landscape) if several else [landscape]
    for field in given:
        of_kind(field, fem.Function, words, "density: landscape")
        if field.function_space.ufl_element() not in ufl.H1:
            raise BadInput("density: landscape: expected continuous fields, which have values at vertices")
    V = fem.functionspace(given[0].function_space.mesh, ("Lagrange", 1))
    stack = np.stack([interpolated(field, V).x.array for field in given])
    if parallel.any_rank(V.mesh.comm, not np.isfinite(stack).all()):
        raise BadInput("density: landscape: expected finite values, got NaN or infinity")
    between = fem.Function(V)

    def linear(part: float) -> fem.Function:
        at = min(part, 1.0) * (len(stack) - 1)
        below = min(int(at), max(len(stack) - 2, 0))
        above = min(below + 1, len(stack) - 1)
        between.x.array[:] = stack[below] + (at - below) * (stack[above] - stack[below])
        return between

    return linear, V


class _Flow:
    """Steps of the equation on one mesh. Collective, as are all methods.

    Attributes:
        masses: integrals of the hat functions of owned nodes.
    """

    def __init__(self, V: fem.FunctionSpace, diffusion: float) -> None:
        self._V = V
        self._comm = V.mesh.comm
        self._diffusion = diffusion
        p, v = ufl.TrialFunction(V), ufl.TestFunction(V)
        form = fem.form(ufl.inner(ufl.grad(p), ufl.grad(v)) * ufl.dx)
        self._A = fem_petsc.create_matrix(form)
        fem_petsc.assemble_matrix(self._A, form)
        self._A.assemble()
        self.masses = assembled(fem.form(v * ufl.dx), fem.Function(V)).copy()
        self._starts, columns, stiffness = (array.copy() for array in self._A.getValuesCSR())
        first, last = self._A.getOwnershipRange()
        self._rows = np.repeat(np.arange(last - first), np.diff(self._starts))
        self._is_diagonal = columns == self._rows + first
        self._columns = columns
        self._stiffness = np.where(self._is_diagonal, 0.0, stiffness)
        self._check_monotone(float(np.abs(stiffness).max(initial=0.0)))
        self._u, self._b = self._A.createVecRight(), self._A.createVecLeft()
        self._x = self._A.createVecRight()
        self._solver = LinearSolver(self._comm, "relax_density_", DIRECT, self_adjoint=False)

    def _check_monotone(self, largest: float) -> None:
        """Refuse a mesh whose stiffness matrix is no M-matrix."""
        largest = parallel.largest(self._comm, largest)
        bad = parallel.total(self._comm, int(np.count_nonzero(self._stiffness > _ROUNDING * largest)))
        if bad:
            raise BadInput(
                f"density: the mesh: densities could become negative along {bad // 2} of its edges, against which lie "
                "obtuse angles: expected a stiffness matrix with no entry above 0 off its diagonal. Try a Delaunay "
                "triangulation with no obtuse angle against the boundary, or cells of boxes that are nearly cubes"
            )
        self._stiffness = np.minimum(self._stiffness, 0.0)

    def started(self, start: Coefficient) -> Array:
        """Owned values of the density at time 0, of mass 1."""
        values = interpolated(start, self._V).x.array[: len(self.masses)].copy()
        if parallel.any_rank(self._comm, not (np.isfinite(values).all() and (values >= 0.0).all())):
            raise BadInput("density: start: expected finite values of at least 0")
        mass = self._mass(values)
        if not mass > 0.0:
            raise BadInput("density: start: expected a density with mass at the nodes, got 0 in all; is it too narrow?")
        return values / mass

    def _mass(self, values: Array) -> float:
        return parallel.dot(self._comm, self.masses, values)

    def stepped(self, held: Array, u: fem.Function, ds: float) -> Array:
        """One step of backward Euler, (M + ds A(u)) rho = M rho_before.

        A_ij = D K_ij B((u_i - u_j)/D) off the diagonal, with K of -Lap and B(z) = z/(exp(z) - 1), and columns that sum
        to 0: K is symmetric, so that the row of a node has its column.
        """
        rise = (u.x.array[self._rows] - self._at_columns(u.x.array[: len(held)])) / self._diffusion
        flux = ds * self._diffusion * self._stiffness
        values = flux / exprel(rise)
        leaving = np.bincount(self._rows, flux / exprel(-rise), minlength=len(held))
        values[self._is_diagonal] = self.masses - leaving
        self._A.setValuesCSR(self._starts, self._columns, values)
        self._A.assemble()
        self._solver.factor(self._A)
        self._b.array[:] = self.masses * held
        self._solver.solve(self._b, self._x)
        after = self._x.array_r.copy()
        least, largest = parallel.extremes(self._comm, after)
        mass = self._mass(after)
        if not (least >= -_AMISS * largest and abs(mass - 1.0) < _AMISS):
            raise SolveFailed(
                f"density: a step gave densities from {least:.1e} to {largest:.1e} and a mass of {mass:.12g}, which is "
                "more than rounding; try a larger diffusion, or smaller cells where the landscape is steep"
            )
        after = np.maximum(after, 0.0)
        return after / self._mass(after)

    def _at_columns(self, owned: Array) -> Array:
        """Values at the node of each column, which need not even be a ghost of this rank: PETSc brings them."""
        self._u.array[:] = owned
        self._A.setValuesCSR(self._starts, self._columns, np.ones(len(self._columns)))
        self._A.assemble()
        self._A.diagonalScale(None, self._u)
        return np.array(self._A.getValuesCSR()[2])

    def close(self) -> None:
        """Free what PETSc holds."""
        for held in (self._u, self._b, self._x, self._A):
            held.destroy()
        self._solver.destroy()
