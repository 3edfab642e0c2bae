"""Operators that cannot be solved with, in words: constants that they take to zero, rows of zeros."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from dolfinx import fem
from petsc4py import PETSc

from relax.base import parallel
from relax.base.fem import compat
from relax.base.fem.forms import num_owned
from relax.base.la.null_space import shares
from relax.base.types import Array, Indices
from relax.errors import BadProblem

# |A c| of a constant beside |A r| of random numbers in its place: rounding leaves 1e-16 to 1e-15. What is above zero
# and below this belongs to an operator whose condition number is above 1e13.
_NOTHING, _ROUNDING = 1e-13, 2e-15
# Gradients of a constant state are 1e-16 of it, and what depends on them is smaller still.
_FLAT = 1e-14


def check_constants(A: PETSc.Mat, V: fem.FunctionSpace, zeros: Indices) -> None:
    """Refuse an operator with a constant in its kernel: in all of the state, a component, or a part of a mixed one.

    Collective. Two products for each. Spaces whose degrees of freedom are not point values are not looked at.

    Args:
        A: the operator, clamped rows and columns included.
        V: the space of the state.
        zeros: owned values that are zero in what stands for a constant.

    Raises:
        BadProblem: on every rank, with the ways out.
    """
    for name, constant in constants(V):
        constant[zeros] = 0.0
        (share,) = shares(A, constant[None])
        if share <= _NOTHING:
            change = "does not change" if share < _ROUNDING else f"hardly changes (by {share:.0e} of its terms)"
            raise BadProblem(
                f"residual: it {change} when a constant is added to {name}, which is then known up to a constant only: "
                "what a solver finds depends on the solver and on the number of ranks. Say so, with "
                'Problem(..., nullspace="constants"), hold it somewhere (relax.clamp; a pressure in one vertex by '
                "dolfinx.fem.dirichletbc, with locate_dofs_geometrical), or add a term that sets its mean, such as "
                "eps * p * q * dx; where nothing is free, scale the equations to like sizes"
            )


def flat_rows(A: PETSc.Mat) -> str:
    """The sentence for an operator at a first guess that has rows of zeros, or of NaN; nothing where it has none.

    Collective.
    """
    starts, _, entries = A.getValuesCSR()
    comm = A.comm.tompi4py()
    rows = np.maximum.reduceat(np.append(np.abs(entries), 0.0), starts[:-1]) if len(starts) > 1 else np.empty(0)
    rows[np.diff(starts) == 0] = 0.0
    bad = ~np.isfinite(rows)
    flat = rows <= _FLAT * parallel.largest(comm, float(np.max(rows[~bad], initial=0.0)))
    counts = [parallel.total(comm, int(np.count_nonzero(some))) for some in (bad, flat)]
    if not any(counts):
        return ""
    what = f"NaN or infinite in {counts[0]}" if counts[0] else f"zero in {counts[1]}"
    return (
        f"At the first guess the derivative of the residual is {what} of {A.getSize()[0]} rows, as that of a "
        "p-Laplacian is where the gradient of the state is zero. Start elsewhere (problem.state.interpolate(...) "
        "before the map is made, with a gradient in each cell), or add a small number to the square of the gradient"
    )


def constants(V: fem.FunctionSpace) -> Iterator[tuple[str, Array]]:
    """What is constant, in words, and the owned values of a constant there and zero elsewhere. Collective."""
    for path, places in _components(V, (), np.arange(_num_local(V))):
        values = np.zeros(_num_local(V))
        values[places] = 1.0
        yield "the state" if not path else f"part {'.'.join(map(str, path))} of the state", values[: num_owned(V)]


def _components(
    V: fem.FunctionSpace, path: tuple[int, ...], places: Indices
) -> Iterator[tuple[tuple[int, ...], Indices]]:
    """The scalar components of a space: their numbers in it, and where their local values are in the whole state's."""
    bs = V.dofmap.bs
    if V.num_sub_spaces > 0 and bs == 1:
        for i in range(V.num_sub_spaces):
            part, parents = compat.collapse(V.sub(i))
            yield from _components(part, (*path, i), places[parents])
    elif V.element.interpolation_ident and int(np.prod(V.value_shape, dtype=np.int64)) == bs:
        for j in range(bs):
            yield (path if bs == 1 else (*path, j)), places.reshape(-1, bs)[:, j]


def _num_local(V: fem.FunctionSpace) -> int:
    index_map = V.dofmap.index_map
    return int((index_map.size_local + index_map.num_ghosts) * V.dofmap.index_map_bs)
