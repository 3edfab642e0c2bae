"""The spectrum of a pencil at one control, and what its derivatives are made of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from petsc4py import PETSc

from relax.base.fem.layout import ControlLayout, SpaceLayout
from relax.base.la.factors import Key
from relax.base.la.matrices import products
from relax.base.la.options import DIRECT_SYMMETRIC, Options, known, merged
from relax.base.types import Array
from relax.engine.eigen.bordered import BorderedSolver
from relax.engine.eigen.forms import EigenForms
from relax.engine.eigen.given import EigenProblem
from relax.engine.residual.registers import Registers
from relax.errors import BadInput

# Bytes on each rank for the bordered factors of points that are still in use, as of a reduced map.
_FACTOR_MEMORY = 2e9


@dataclass(frozen=True, eq=False)
class EigenPoint:
    """A control and the spectrum there.

    Attributes:
        controls: local parts of the control.
        parameters: what else the forms hold.
        energies: the eigenvalues, (k,).
        vectors: (k, owned) values of the states.
        clusters: runs of indices of energies that are too close for derivatives of their own.
        offset: what is subtracted from all energies in the matrices.
        key, state_keys: name the matrices, and the bordered operator of each state.
    """

    controls: list[Array]
    parameters: list[Array]
    energies: Array
    vectors: Array
    clusters: tuple[range, ...]
    offset: float
    state_keys: list[Key]
    key: Key = field(default_factory=Key)


class EigenSystem:
    """a(u, v) = E b(u, v) for k eigenvalues. Collective, as is every method unless it says "Local".

    Args:
        given: the forms and the problem; the system frees their matrices.
        layout: of control vectors.
        num_states: k.
        bounds: between which the eigenvalues lie; the lowest when None.
        has_states: whether states are among the output.
        counts: of solves, added to.
        options: PETSc options of the bordered systems.

    Attributes:
        size_out: k, or k (1 + degrees of freedom of a state).
        pencil, problem, words: as given.
        forms: what derivatives are made of.
    """

    def __init__(
        self,
        given: EigenProblem,
        layout: ControlLayout,
        num_states: int,
        bounds: tuple[float, float] | None,
        has_states: bool,
        counts: dict[str, int],
        options: Options,
    ) -> None:
        lin_options = merged(DIRECT_SYMMETRIC, known(options))
        self.pencil, self.problem, self.words = given.pencil, given.problem, given.words
        self.comm, pencil = self.pencil.comm, self.pencil
        self.num_states, self.bounds = num_states, bounds
        self.has_states = has_states
        self.layout = layout
        self.counts = counts
        self.state_layout = SpaceLayout(pencil.space)
        if has_states:
            try:
                # An order of the states' values is there, or this is an error before anything is solved.
                self.state_layout.gather(np.zeros(pencil.num_owned))
            except BadInput as cause:
                raise BadInput(f"states: expected states=False here: {cause}") from cause
        self.size_out = num_states * (1 + (self.state_layout.size if has_states else 0))
        self.registers = Registers(self.problem)
        self.forms = EigenForms(pencil.a, pencil.b, self.registers, given.eigenvalue, pencil.free)
        self.bordered = BorderedSolver(self.comm, len(pencil.free), pencil.num_free, lin_options, _FACTOR_MEMORY)
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
        self.registers.install_controls(parts)
        self._assembled_for = None
        spectrum = self.pencil.solve(k, self.bounds)
        self.counts["forward"] += 1
        clusters = tuple(c for c in spectrum.clusters if c.start < k)
        keys = [Key() for _ in range(k)]
        parameters = self.registers.present_parameters()
        point = EigenPoint(
            parts, parameters, spectrum.values[:k], spectrum.vectors[:k], clusters, spectrum.offset, keys
        )
        self._assembled_for = point.key
        self.install_state(point, 0)
        return point

    @contextmanager
    def at(self, point: EigenPoint) -> Iterator[None]:
        """The registers hold this point within the block; parameters are the user's again after it."""
        self.refuse_closed()
        with self.registers.lent():
            self.registers.install_controls(point.controls)
            self.registers.install_parameters(point.parameters)
            yield
            self.install_state(point, 0)

    def state(self, point: EigenPoint, i: int) -> Array:
        """The i-th state on the free degrees of freedom. Local."""
        return point.vectors[i, self.pencil.free]

    def install_state(self, point: EigenPoint, i: int) -> None:
        """The i-th state into the state's register, its eigenvalue into that of E; α = 0."""
        self.forms.install(self.problem.state, self.state(point, i))
        self.forms.energy.value = point.energies[i] - point.offset
        self.forms.alpha.value = 0.0

    def solve_bordered(self, point: EigenPoint, i: int, b: Array, b_border: Array) -> tuple[Array, Array]:
        """J_i x = b at an installed point: (p, free), (p,) -> (p, free), (p,)."""
        factor = self.bordered.find(point.state_keys[i])
        if factor is None:
            if self._assembled_for is not point.key:
                self.pencil.assemble(point.offset)
                self._assembled_for = point.key
            mass_psi = self.mass_times(self.state(point, i)[None, :])[0]
            energy = float(point.energies[i]) - point.offset
            factor = self.bordered.factor(
                point.state_keys[i], self.pencil.stiffness, self.pencil.mass, energy, mass_psi
            )
        return self.bordered.solve(factor, b, b_border)

    def mass_times(self, vectors: Array) -> Array:
        """B x at an installed point, on the free degrees of freedom, for each row of (p, free)."""
        if self.pencil.assemble_mass():
            self._assembled_for = None  # of the stiffness it is not known whose it is
        return products(self.pencil.mass, vectors)

    def close(self) -> None:
        """Free factors and matrices; a second time does nothing."""
        if not self._closed:
            self._closed = True
            self.bordered.destroy()
            self.pencil.close()
            PETSc.garbage_cleanup(self.comm)
