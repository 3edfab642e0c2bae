"""The null space that a problem names, as vectors and the functionals that tell them from what is solved for."""

from __future__ import annotations

import numpy as np
import ufl
from dolfinx import fem
from petsc4py import PETSc

from relax.base import parallel
from relax.base.fem.forms import assembled
from relax.base.la.null_space import NullSpace, finite, orthonormal, shares
from relax.base.types import Array
from relax.engine.residual.residual import Residual
from relax.engine.solve.kernel import constants
from relax.errors import BadProblem
from relax.problem.null_space import rigid_body_modes

# Of a constant that the operator does not see.
_NOTHING = 1e-12


def null_space_of(residual: Residual, A: PETSc.Mat) -> NullSpace:
    """Collective.

    Args:
        residual: of a problem with ``nullspace``.
        A: its derivative in the state, as assembled.

    Raises:
        BadProblem: where no constants are in the null space; where a vector is not finite, or not zero at a clamped
            value.
        SolveFailed: where A is not finite.
    """
    given, V = residual.problem.nullspace, residual.state.function_space
    clamped, slaves, n = residual.boundary.owned, residual.tied.slaves, residual.num_owned
    if isinstance(given, str):
        free = []
        for name, values in constants(V):
            values[residual.tied.no_constants] = 0.0
            if not parallel.any_rank(residual.comm, bool(values[clamped].any())):
                free.append((name, values))
        left = finite(shares(A, np.array([values for _, values in free]).reshape(len(free), n)))
        vectors = [values for (_, values), share in zip(free, left, strict=True) if share <= _NOTHING]
        if not vectors:
            raise BadProblem(
                "nullspace: expected a state, or a part of it, to which constants may be added; each is clamped "
                "somewhere, or the residual sees it: leave nullspace out, or name the vectors"
            )
    else:
        assert given is not None
        vectors = [function.x.array[:n].copy() for function in given if isinstance(function, fem.Function)]
        for i, values in enumerate(vectors):
            if parallel.any_rank(residual.comm, not np.isfinite(values).all()):
                raise BadProblem(f"nullspace[{i}]: expected finite values")
            if parallel.any_rank(residual.comm, bool(np.abs(values[clamped]).max(initial=0.0) > 0.0)):
                raise BadProblem(f"nullspace[{i}]: expected zeros where the state is clamped: it is held there")
            values[slaves] = 0.0
    return NullSpace(residual.comm, np.array(vectors), _duals(residual, vectors))


def is_of_vectors(V: fem.FunctionSpace) -> bool:
    """Whether a space has a component per axis at each node, as displacements have. Local."""
    gdim = V.mesh.geometry.dim
    return gdim > 1 and V.dofmap.bs == gdim and tuple(V.value_shape) == (gdim,)


def rigid_motions(A: PETSc.Mat, residual: Residual) -> PETSc.NullSpace:
    """Those of :func:`relax.rigid_body_modes` as a multigrid method takes them. Collective; for the caller to free."""
    modes = rigid_body_modes(residual.state.function_space)
    rows = np.array([mode.x.array[: residual.num_owned] for mode in modes])
    rows[:, residual.tied.slaves] = 0.0
    return orthonormal(A, rows)


def _duals(residual: Residual, vectors: list[Array]) -> Array:
    """v -> ∫ n · v dx of each vector, zero at clamped values, for those v whose values are tied as the state's are."""
    V = residual.state.function_space
    function, dual = fem.Function(V), fem.Function(V)
    form = fem.form(ufl.inner(function, ufl.TestFunction(V)) * ufl.dx)
    rows = np.empty((len(vectors), len(vectors[0])))
    for row, values in zip(rows, vectors, strict=True):
        function.x.array[: len(values)] = values
        residual.tied.complete(function)
        function.x.scatter_forward()
        row[:] = assembled(form, dual)
        residual.tied.restrict(row)
    return rows
