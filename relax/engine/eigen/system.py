"""The spectrum of a Hamiltonian at one potential, and what its derivatives are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import ufl
from dolfinx import fem
from dolfinx.mesh import Mesh
from petsc4py import PETSc

from relax.base.fem.forms import assembled, compiled, nonzero
from relax.base.fem.layout import ControlLayout, SpaceLayout
from relax.base.la.eigen import products
from relax.base.la.factors import Key
from relax.base.la.options import DIRECT_SYMMETRIC, Options, known, merged, split
from relax.base.types import Array
from relax.engine.eigen.bordered import BorderedSolver
from relax.errors import BadInput
from relax.pdes.schrodinger.eigenstates import StationaryProblem

# Bytes on each rank for the bordered factors of points that are still in use, as of a reduced map.
_FACTOR_MEMORY = 2e9


@dataclass(frozen=True, eq=False)
class EigenProblem:
    """What an ``EigenMap`` solves: H(V) psi = E psi, with its registers.

    Attributes:
        name: of the problem.
        state: psi_1 at the point at which the map last worked.
        controls: the potential V there, alone.
        bcs: psi = 0 on the boundary.
    """

    name: str
    state: fem.Function
    controls: Sequence[fem.Function]
    bcs: Sequence[fem.DirichletBC]

    @property
    def mesh(self) -> Mesh:
        """The mesh of the state."""
        return self.state.function_space.mesh


@dataclass(frozen=True, eq=False)
class EigenPoint:
    """A potential and its spectrum.

    Attributes:
        controls: local parts of the control.
        energies: (k,).
        vectors: (k, owned) values of the states.
        clusters: runs of indices of energies that are too close for derivatives of their own.
        offset: what is subtracted from V in the Hamiltonian's matrix.
        key, state_keys: name the Hamiltonian, and the bordered operator of each state.
    """

    controls: list[Array]
    energies: Array
    vectors: Array
    clusters: tuple[range, ...]
    offset: float
    state_keys: list[Key]
    key: Key = field(default_factory=Key)


class EigenSystem:
    """H(V) psi = E psi for the k lowest energies. Collective, as is every method unless it says "Local".

    Args:
        V: the space of the states.
        potential: the register of the potential.
        layout: of control vectors.
        num_states: k.
        has_states: whether states are among the output.
        counts: of solves, added to.
        options: PETSc options; those of the bordered systems start with ``lin_``.

    Attributes:
        size_out: k, or k (1 + degrees of freedom of a state).
        forms: what derivatives are made of.
    """

    def __init__(
        self,
        V: fem.FunctionSpace,
        potential: fem.Function,
        layout: ControlLayout,
        num_states: int,
        has_states: bool,
        counts: dict[str, int],
        options: Options,
    ) -> None:
        own, lin = split(options)
        lin_options = merged(DIRECT_SYMMETRIC, known(lin))
        self.comm = V.mesh.comm
        self.num_states = num_states
        self.has_states = has_states
        self.layout = layout
        self.counts = counts
        self.potential = potential
        self.state_layout = SpaceLayout(V)
        self.size_out = num_states * (1 + (self.state_layout.size if has_states else 0))
        self.stationary = StationaryProblem(V, potential, own)
        state = fem.Function(V, name="psi_1")
        self.problem = EigenProblem("schrodinger_eigenstates", state, (potential,), (self.stationary.bc,))
        self.bordered = BorderedSolver(self.stationary.mass, lin_options, _FACTOR_MEMORY)
        self.forms = DerivativeForms(self.stationary, potential)
        self._assembled_for: Key | None = None
        self._closed = False

    def value(self, point: EigenPoint) -> Array:
        """The output at a point: (size_out,)."""
        if not self.has_states:
            return point.energies.copy()
        return np.concatenate([point.energies, self.state_layout.gather(point.vectors).ravel()])

    def refuse_closed(self) -> None:
        """Raise when the map has been closed. Local: ``close`` is collective, so ranks agree."""
        if self._closed:
            raise BadInput("this map has been closed; make a new one")

    def solve(self, control: Array) -> EigenPoint:
        """The spectrum at a control vector; the registers hold it.

        Raises:
            SolveFailed: when not all states are found.
        """
        self.refuse_closed()
        k = self.num_states
        parts = self.layout.split(control)
        self.potential.x.array[:] = parts[0]
        self._assembled_for = None
        spectrum = self.stationary.solve(k)
        self.counts["forward"] += 1
        clusters = tuple(c for c in spectrum.clusters if c.start < k)
        keys = [Key() for _ in range(k)]
        point = EigenPoint(parts, spectrum.energies[:k], spectrum.vectors[:k], clusters, spectrum.offset, keys)
        self._assembled_for = point.key
        self._install_state(point)
        return point

    def install(self, point: EigenPoint) -> None:
        """The registers hold this point."""
        self.refuse_closed()
        self.potential.x.array[:] = point.controls[0]
        self._install_state(point)

    def _install_state(self, point: EigenPoint) -> None:
        state = self.problem.state
        state.x.array[: self.stationary.num_owned] = point.vectors[0]
        state.x.scatter_forward()

    def solve_bordered(self, point: EigenPoint, i: int, b: Array, b_border: Array) -> tuple[Array, Array]:
        """J_i x = b at an installed point: (p, free), (p,) -> (p, free), (p,)."""
        factor = self.bordered.find(point.state_keys[i])
        if factor is None:
            if self._assembled_for is not point.key:
                self.stationary.assemble(point.offset)
                self._assembled_for = point.key
            mass_psi = self.mass_times(point.vectors[i : i + 1, self.stationary.free])[0]
            energy = float(point.energies[i]) - point.offset
            factor = self.bordered.factor(point.state_keys[i], self.stationary.hamiltonian, energy, mass_psi)
        return self.bordered.solve(factor, b, b_border)

    def mass_times(self, vectors: Array) -> Array:
        """M x on the free degrees of freedom, for each row of (p, free)."""
        return products(self.stationary.mass, vectors)

    def close(self) -> None:
        """Free factors and matrices; a second time does nothing."""
        if not self._closed:
            self._closed = True
            self.bordered.destroy()
            self.stationary.close()
            PETSc.garbage_cleanup(self.comm)


class DerivativeForms:
    """(dV psi, v) and (phi, p q), derived from the form that is solved with, and so of its quadrature. Collective."""

    def __init__(self, stationary: StationaryProblem, potential: fem.Function) -> None:
        V, Q = stationary.space, potential.function_space
        self._free = stationary.free
        self._p, self._q, self._change = fem.Function(V), fem.Function(V), fem.Function(Q)
        self._dual, self._control_dual = fem.Function(V), fem.Function(Q)
        test, trial = stationary.form.arguments()
        action = ufl.replace(stationary.form, {trial: self._p})
        energy = ufl.replace(action, {test: self._q})
        self._action = compiled(nonzero(ufl.derivative(action, potential, self._change)))
        self._density = compiled(nonzero(ufl.derivative(energy, potential, ufl.TestFunction(Q))))

    def _install(self, register: fem.Function, psi: Array) -> None:
        register.x.array[:] = 0.0
        register.x.array[self._free] = psi
        register.x.scatter_forward()

    def potential_times(self, change: Array, psi: Array) -> Array:
        """The dual (dV psi, v): dV by its local part, psi (free,); the result (free,)."""
        self._change.x.array[:] = change
        self._install(self._p, psi)
        return assembled(self._action, self._dual)[self._free]

    def density_dual(self, p: Array, q: Array) -> Array:
        """The dual (p q, phi) for the potential's basis phi: p and q (free,); the result (owned,)."""
        self._install(self._p, p)
        self._install(self._q, q)
        return assembled(self._density, self._control_dual).copy()
