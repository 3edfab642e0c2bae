"""Values of the state that follow others, in what is solved for: u = T û, and Tᵀ in what is tested with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from dolfinx import fem
from petsc4py import PETSc

from relax.base.fem.blocks import BlockState
from relax.base.fem.forms import num_owned
from relax.base.la.ties import Ties
from relax.base.types import Array, Indices
from relax.engine.residual.clamped import ClampedValues
from relax.problem.multi_point import tied_values
from relax.problem.problem import Problem


class TiedState:
    """What the constraints of a problem make of vectors and matrices of its state; false where it has none.

    Every method is collective, and costs next to nothing without constraints.

    Args:
        problem: the PDE.
        boundary: its clamped values.
        create: makes a matrix for A = ∂F/∂u.
        write: writes A into it, the identity's rows and columns at clamped values.

    Attributes:
        slaves: owned values that follow others, as local indices.
        held: those and the clamped ones: what is not solved for.
        no_constants: owned values that are zero in what stands for a constant: slaves, and what blocks on parts of the
            mesh have not.
    """

    def __init__(
        self,
        problem: Problem,
        boundary: ClampedValues,
        create: Callable[[], PETSc.Mat],
        write: Callable[[PETSc.Mat], None],
    ) -> None:
        V, values = problem.state.function_space, tied_values(problem.mpc, problem.state, problem.bcs)
        self.slaves: Indices = np.empty(0, dtype=np.int64) if values is None else values.slaves
        off = problem.state.off if isinstance(problem.state, BlockState) else np.empty(0, dtype=np.int64)
        self.no_constants: Indices = np.concatenate([self.slaves, off[off < num_owned(V)]])
        self.held: Indices = np.concatenate([boundary.owned, self.slaves])
        self._boundary, self._create, self._write = boundary, create, write
        self._whole: PETSc.Mat | None = None
        self._ties: Ties | None = None
        self._lifting: fem.DirichletBC | None = None
        if values is not None:
            self._ties = Ties(
                problem.mesh.comm,
                num_owned(V),
                V.dofmap.index_map_bs,
                values.slaves,
                values.masters,
                values.coefficients,
                values.starts,
            )

    def __bool__(self) -> bool:
        return self._ties is not None

    # -- vectors -------------------------------------------------------------------------------------------------------

    def extended(self, rows: Array) -> Array:
        """T û of each row, (k, owned)."""
        return rows if self._ties is None else self._ties.extended(rows)

    def gathered(self, rows: Array) -> Array:
        """Tᵀ r of each row, (k, owned)."""
        return rows if self._ties is None else self._ties.gathered(rows)

    def install_given(self, state: fem.Function) -> None:
        """Write the clamped values, and what follows others, into a state, ghosts included."""
        self._boundary.apply(state.x.array)
        self.complete(state)

    def complete(self, function: fem.Function) -> None:
        """The values of a Function that follow others take what these make them; ghosts, too."""
        if self._ties is not None:
            owned = function.x.array[: num_owned(function.function_space)]
            owned[:] = self._ties.extended(owned[None])[0]
            function.x.scatter_forward()

    def restrict(self, *duals: Array) -> None:
        """Dual vectors (owned,), in place, as they are tested with what may vary: zero where values are held."""
        for dual in duals:
            if self._ties is not None:
                dual[:] = self._ties.gathered(dual[None])[0]
            dual[self.held] = 0.0

    def lifting(self, given: fem.Function, bcs: Sequence[fem.DirichletBC]) -> list[fem.DirichletBC]:
        """Complete a Function of the clamped values; the conditions that hold a state at it, where it is not zero."""
        if self._ties is None:
            return list(bcs)
        self.complete(given)
        if self._lifting is None:
            V = given.function_space
            held = fem.Function(V)
            held.x.array[self.held] = 1.0
            held.x.scatter_forward()
            dofs = np.flatnonzero(held.x.array).astype(np.int32)
            kind = type(fem.dirichletbc(given, np.empty(0, dtype=np.int32))._cpp_object)
            # Two lists, as of a part of a space: single values, and not nodes with all components.
            self._lifting = fem.DirichletBC(kind(given._cpp_object, [dofs, dofs], V._cpp_object))
        return [self._lifting]

    # -- matrices ------------------------------------------------------------------------------------------------------

    def create(self) -> PETSc.Mat:
        """A matrix of the sparsity of A, or of Tᵀ A T. The caller destroys it."""
        return self._create() if self._ties is None else self._reduced(self._ties).duplicate()

    def write(self, into: PETSc.Mat) -> None:
        """Write A, or Tᵀ A T with the identity's rows and columns where values are held, into a matrix."""
        if self._ties is None:
            self._write(into)
        else:
            self._reduced(self._ties).copy(into, PETSc.Mat.Structure.SAME_NONZERO_PATTERN)

    def _reduced(self, ties: Ties) -> PETSc.Mat:
        if self._whole is None:
            self._whole = self._create()
        self._write(self._whole)
        return ties.reduced(self._whole, self.held)

    def destroy(self) -> None:
        """Free what PETSc holds."""
        for item in (self._ties, self._whole):
            if item is not None:
                item.destroy()
        self._whole = None
