"""Values of a state that are sums of other ones, such as those of periodic states, as ``dolfinx_mpc`` has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from dolfinx import fem

from relax.base import parallel
from relax.base.fem.blocks import BlockState
from relax.base.fem.forms import num_owned
from relax.base.fem.one_number import OneNumber
from relax.base.types import Array, Indices
from relax.errors import BadProblem


@dataclass(frozen=True, eq=False)
class TiedValues:
    """u_s = Σ c_k u_{m_k} of the owned slaves of a state.

    Attributes:
        slaves: their local numbers.
        masters: global numbers, those of one slave after the other.
        coefficients: c, for each master.
        starts: where those of each slave begin, and their end.
    """

    slaves: Indices
    masters: npt.NDArray[np.int64]
    coefficients: Array
    starts: Indices


def tied_values(mpc: Any, state: fem.Function, bcs: Sequence[fem.DirichletBC]) -> TiedValues | None:
    """What the constraints of a problem say of its state. Collective.

    Args:
        mpc: a constraint on the state's space, or None; of blocks a list with one of these for each.
        state: the state.
        bcs: its Dirichlet conditions.

    Returns:
        None where there is no constraint.

    Raises:
        BadProblem: on every rank, when these do not fit together.
    """
    comm = state.function_space.mesh.comm
    if isinstance(state, BlockState):
        parts = _of_blocks(mpc, state)
    else:
        parts = [] if mpc is None else [_of_one(mpc, "mpc", state, state, np.arange(len(state.x.array)))]
    if not parts:
        return None
    slaves = np.concatenate([part.slaves for part in parts])
    clamped = np.zeros(len(state.x.array), dtype=bool)
    for bc in bcs:
        clamped[bc.dof_indices()[0]] = True
    held = parallel.any_rank(comm, bool(clamped[slaves].any()))
    if held and mpc is None:
        raise BadProblem("bcs: a block that is one number is held; expected a Constant in its place")
    if held:
        raise BadProblem(
            "mpc: some of its slaves are held by bcs, too; expected the same Dirichlet conditions here and where the "
            "constraint is made, create_periodic_constraint_geometrical(..., bcs), which leaves them out"
        )
    lengths = np.concatenate([np.diff(part.starts) for part in parts])
    return TiedValues(
        slaves,
        np.concatenate([part.masters for part in parts]),
        np.concatenate([part.coefficients for part in parts]),
        np.append(0, np.cumsum(lengths)),
    )


def _of_blocks(mpc: Any, state: BlockState) -> list[TiedValues]:
    """Of constraints on blocks, and of blocks that are one number. Collective.

    Raises:
        BadProblem: where they are none.
    """
    parts = [_of_number(state, i) for i, e in enumerate(state.extended) if isinstance(e, OneNumber)]
    if mpc is None:
        return parts
    if not isinstance(mpc, list | tuple) or len(mpc) != len(state.blocks):
        names = " and ".join(repr(u.name) for u in state.blocks)
        raise BadProblem(f"mpc: expected a list with a constraint, or None, for each of {names}, got {mpc!r:.80}")
    for i, (one, u, extended) in enumerate(zip(mpc, state.blocks, state.extended, strict=True)):
        if one is not None and extended is not None:
            raise BadProblem(f"mpc[{i}]: expected None for {u.name!r}, which is on a part of the mesh or a number")
        if one is not None:
            parts.append(_of_one(one, f"mpc[{i}]", state, u, state.dofs[i]))
    return parts


def _of_number(state: BlockState, i: int) -> TiedValues:
    """Of a block that is one number: the values in all cells are that in one of them. Collective."""
    V, size = state.function_space, len(state.blocks[i].x.array)
    local = state.places[i].reshape(-1, size)
    own = local[local[:, 0] < num_owned(V)]
    first = V.dofmap.index_map.local_range[0] * V.dofmap.index_map_bs
    far = np.iinfo(np.int64).max
    masters = parallel.smallest(V.mesh.comm, (first + own).min(axis=0, initial=far))
    slaves = own[first + own[:, 0] != masters[0]]
    return TiedValues(slaves.ravel(), np.tile(masters, len(slaves)), np.ones(slaves.size), np.arange(slaves.size + 1))


def _of_one(mpc: Any, what: str, state: fem.Function, part: fem.Function, dofs: Indices) -> TiedValues:
    """Of a constraint on the space of a part of the state, whose local values are these of the whole. Collective.

    Raises:
        BadProblem: for what is none.
    """
    if not all(hasattr(mpc, name) for name in ("finalize", "finalized", "coefficients")):
        raise BadProblem(f"{what}: expected a dolfinx_mpc.MultiPointConstraint, got {type(mpc).__name__}")
    if not mpc.finalized:
        raise BadProblem(f"{what}: expected a constraint that is whole: call its finalize() first")
    W, V, whole = mpc.function_space, part.function_space, state.function_space
    if parallel.any_rank(whole.mesh.comm, not _has_the_dofs_of(W, V)):
        raise BadProblem(
            f"{what}: expected a constraint on the space of {part.name!r}, {V.ufl_element()}, got one on a space of "
            f"{W.ufl_element()}" + ("" if W.mesh is V.mesh else " on another mesh")
        )
    owned, first = num_owned(V), whole.dofmap.index_map.local_range[0] * whole.dofmap.index_map_bs
    # A master that another rank owns is among the ghosts of the constraint's own space.
    numbers = fem.Function(W)
    numbers.x.array[:owned] = first + dofs[:owned]
    numbers.x.scatter_forward()
    listed = np.asarray(mpc.slaves)
    # Of those that are tied twice it lists one, and the number 0 in the place of the others.
    if parallel.any_rank(
        whole.mesh.comm, len(np.unique(listed)) < len(listed) or not np.asarray(mpc.is_slave)[listed].all()
    ):
        raise BadProblem(
            f"{what}: some values are tied twice, such as those in a corner that is on two sides which follow others; "
            "expected each once: leave the corner out of the one, and let it follow by the other"
        )
    slaves = np.sort(listed[listed < owned])
    values, starts = mpc.coefficients()
    takes = [np.arange(starts[s], starts[s + 1]) for s in slaves]
    entries = np.concatenate(takes or [np.empty(0)]).astype(np.int64)
    return TiedValues(
        dofs[slaves].astype(np.int64),
        np.rint(numbers.x.array[mpc.masters.array[entries]]).astype(np.int64),
        np.asarray(values, dtype=np.float64)[entries],
        np.append(0, np.cumsum([len(take) for take in takes])).astype(np.int64),
    )


def _has_the_dofs_of(W: fem.FunctionSpace, V: fem.FunctionSpace) -> bool:
    """Whether a space is another one but for more ghosts. Local."""
    return (
        W.mesh is V.mesh
        and W.ufl_element() == V.ufl_element()
        and W.dofmap.index_map.local_range == V.dofmap.index_map.local_range
        and np.array_equal(W.dofmap.list, V.dofmap.list)
    )
