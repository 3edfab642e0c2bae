"""An energy under its nudging, compiled: values, slopes and curvatures where the registers are."""

from __future__ import annotations

from collections.abc import Sequence

import dolfinx.fem.petsc as fem_petsc
import numpy as np
import ufl
from dolfinx import fem
from petsc4py import PETSc

from relax.base import parallel
from relax.base.fem import compat
from relax.base.fem.forms import assembled, compiled, nonzero, num_owned
from relax.base.fem.quadrature import with_fixed_degrees
from relax.base.la.work import work_vectors
from relax.base.types import Array
from relax.errors import BadProblem
from relax.invert.misfit import Misfit
from relax.problem.boundary import ExpressionCondition
from relax.train.aeqprop.energy import Energy


class EnergyTerms:
    """E + β C of one sample, whose inputs, state s and parameters θ are what the registers hold.

    Collective over the ranks of the mesh, as are all methods. States and slopes are arrays of owned values, those of
    several parameters one after the other.
    """

    def __init__(self, energy: Energy, misfit: Misfit) -> None:
        self.energy, self.misfit = energy, misfit
        self.comm = energy.state.function_space.mesh.comm
        # One quadrature for the energy and its derivatives: else these are those of another energy, by some 1e-5.
        E = with_fixed_degrees(compat.one_subdomain_data(energy.E))
        fields = [energy.state, *energy.parameters]
        self._value = fem.form(E)
        self._slopes = [compiled(nonzero(ufl.derivative(E, f))) for f in fields]
        if None in self._slopes:
            raise BadProblem(
                f"Energy: E: {fields[self._slopes.index(None)]} has no effect on it but through conditions, which have "
                "no slope"
            )
        self._duals = [fem.Function(f.function_space) for f in fields]
        of_state = ufl.derivative(E, energy.state)
        self._bend = compiled(nonzero(ufl.derivative(of_state, energy.state)))
        if self._bend is None:
            raise BadProblem(
                "Energy: E: expected one that bends with the state, got one that is linear in it: no least value"
            )
        self._couplings = [compiled(nonzero(ufl.derivative(of_state, theta))) for theta in energy.parameters]
        self._bends = {
            (i, j): form
            for i, a in enumerate(energy.parameters)
            for j, b in enumerate(energy.parameters[: i + 1])
            if (form := compiled(nonzero(ufl.derivative(ufl.derivative(E, a), b)))) is not None
        }
        self._ends = np.cumsum([num_owned(theta.function_space) for theta in energy.parameters])[:-1]
        clamped = [bc.dof_indices()[0][: bc.dof_indices()[1]] for bc in energy.bcs]
        self._rows: Array | None = None
        #: Owned entries of the state that conditions hold.
        self.clamped = np.unique(np.concatenate([np.empty(0, dtype=np.int32), *clamped]))

    # -- registers -----------------------------------------------------------------------------------------------------

    def clamp(self) -> None:
        """The state's register takes the boundary values that the inputs give."""
        for bc in self.energy.bcs:
            if isinstance(bc, ExpressionCondition):
                bc.refresh()
            bc.set(self.energy.state.x.array)

    def state(self) -> Array:
        """What the state's register holds. Local."""
        return self.energy.state.x.array[: num_owned(self.energy.state.function_space)].copy()

    def write_state(self, s: Array) -> None:
        _write(self.energy.state, s)

    def parameters(self) -> Array:
        """What the parameters' registers hold. Local."""
        parts = [theta.x.array[: num_owned(theta.function_space)] for theta in self.energy.parameters]
        return np.concatenate(parts)

    def write_parameters(self, values: Array) -> None:
        for theta, part in zip(self.energy.parameters, self.split(values), strict=True):
            _write(theta, part)

    def split(self, values: Array) -> list[Array]:
        """By parameter. Local."""
        return np.split(values, self._ends)

    # -- values and slopes ---------------------------------------------------------------------------------------------

    def cost(self, y: Array) -> float:
        """C."""
        gap = (self.misfit.observable.value(self.energy.state) - y) / self.misfit.noise
        return float(0.5 * gap @ gap)

    def value(self, y: Array, beta: float) -> float:
        """E + β C."""
        value = parallel.sum_over_ranks(self.comm, np.array([fem.assemble_scalar(self._value)]))[0]
        return float(value + (beta * self.cost(y) if beta else 0.0))

    def state_slope(self, y: Array, beta: float) -> Array:
        """Of E + β C in s, zero where conditions hold it."""
        slope = assembled(self._slopes[0], self._duals[0]).copy()
        if beta:
            observable = self.misfit.observable
            gap = (observable.value(self.energy.state) - y) * beta / self.misfit.noise**2
            slope += observable.adjoint(self.energy.state, np.asarray(gap, dtype=np.float64))
        slope[self.clamped] = 0.0
        return slope

    def parameter_slope(self) -> Array:
        """∂E/∂θ."""
        return np.concatenate([assembled(f, d) for f, d in zip(self._slopes[1:], self._duals[1:], strict=True)])

    # -- curvatures ----------------------------------------------------------------------------------------------------

    def bend(self, H: PETSc.Mat | None) -> PETSc.Mat:
        """∂²E/∂s², rows and columns of clamped values the identity's; in ``H``, where there is one."""
        if H is None:
            H = fem_petsc.create_matrix(self._bend)
        H.zeroEntries()
        fem_petsc.assemble_matrix(H, self._bend, bcs=list(self.energy.bcs))
        H.assemble()
        return H

    def rows(self) -> Array:
        """The derivative of G in s, (numbers seen, owned values): zero where conditions hold s."""
        observable = self.misfit.observable
        if self._rows is None or not observable.is_linear:
            rows = np.array([observable.adjoint(self.energy.state, one) for one in np.eye(observable.size)])
            rows[:, self.clamped] = 0.0
            self._rows = rows
        return self._rows

    def coupling(self) -> Coupling:
        """∂²E/∂s∂θ and ∂²E/∂θ², as they are now; the caller destroys it."""
        across = [None if form is None else _matrix(form) for form in self._couplings]
        return Coupling(self, across, {place: _matrix(form) for place, form in self._bends.items()})


class Coupling:
    """∂²E/∂s∂θ and ∂²E/∂θ² of one sample. Products are collective."""

    def __init__(
        self, terms: EnergyTerms, across: Sequence[PETSc.Mat | None], within: dict[tuple[int, int], PETSc.Mat]
    ) -> None:
        self._terms, self._across, self._within = terms, across, within

    def to_state(self, dtheta: Array) -> Array:
        """∂²E/∂s∂θ dθ, zero where conditions hold s."""
        parts = zip(self._across, self._terms.split(dtheta), strict=True)
        moved = np.zeros(num_owned(self._terms.energy.state.function_space))
        for A, part in parts:
            if A is not None:
                moved += product(A, part)
        moved[self._terms.clamped] = 0.0
        return moved

    def to_parameters(self, ds: Array, dtheta: Array) -> Array:
        """∂²E/∂θ∂s ds + ∂²E/∂θ² dθ."""
        parts = self._terms.split(dtheta)
        moved = [np.zeros_like(part) for part in parts]
        for i, A in enumerate(self._across):
            if A is not None:
                moved[i] += product(A, ds, transposed=True)
        for (i, j), A in self._within.items():
            moved[i] += product(A, parts[j])
            if i != j:
                moved[j] += product(A, parts[i], transposed=True)
        return np.concatenate(moved)

    def diagonal(self, like: Array) -> Array:
        """Of ∂²E/∂θ²."""
        parts = [np.zeros_like(part) for part in self._terms.split(like)]
        for (i, j), A in self._within.items():
            if i == j:
                parts[i] += A.getDiagonal().array_r
        return np.concatenate(parts)

    def destroy(self) -> None:
        for A in (*self._across, *self._within.values()):
            if A is not None:
                A.destroy()


def product(A: PETSc.Mat, owned: Array, *, transposed: bool = False) -> Array:
    """A x or Aᵀ x, of owned values. Collective."""
    with work_vectors(A) as (x, y):
        if transposed:
            x, y = y, x
        x.array[:] = owned
        (A.multTranspose if transposed else A.mult)(x, y)
        return np.array(y.array_r)


def _matrix(form: fem.Form) -> PETSc.Mat:
    A = fem_petsc.assemble_matrix(form)
    A.assemble()
    return A


def _write(f: fem.Function, owned: Array) -> None:
    f.x.array[: len(owned)] = owned
    f.x.scatter_forward()
