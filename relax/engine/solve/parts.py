"""The parts of a mixed space, for a solver that treats each by itself."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import dolfinx.fem.petsc as fem_petsc
import numpy as np
import ufl
from dolfinx import fem
from mpi4py import MPI
from petsc4py import PETSc

from relax.base import parallel
from relax.base.fem import compat
from relax.base.fem.blocks import BlockState
from relax.base.fem.forms import num_owned
from relax.base.la.parts import Parts
from relax.base.types import Indices
from relax.errors import BadInput

# What DOLFINx calls a Function without a name.
_UNNAMED = re.compile(r"f(_\d+)?")
_NUMBERED = re.compile(r"^((?:lin_)?fieldsplit_)(\d+)_")


def names_of(state: fem.Function) -> list[str]:
    """What PETSc's options call the parts of a state: blocks by their Functions' names, others by numbers. Local.

    By a number goes a block without a name, with that of another one, or with one that is not of letters, digits and
    underscores.
    """
    blocks = state.blocks if isinstance(state, BlockState) else ()
    if not blocks:
        return [str(i) for i in range(state.function_space.num_sub_spaces)]
    names = [str(u.name) for u in blocks]
    good = [n.isidentifier() and n.isascii() and not _UNNAMED.fullmatch(n) and names.count(n) == 1 for n in names]
    return [name if is_good else str(i) for i, (name, is_good) in enumerate(zip(names, good, strict=True))]


def named(options: Mapping[str, object], names: Sequence[str]) -> dict[str, object]:
    """Options with the names of parts in the place of their numbers. Local."""
    known = dict(zip(map(str, range(len(names))), names, strict=True))
    return {_NUMBERED.sub(lambda m: f"{m[1]}{known.get(m[2], m[2])}_", key): v for key, v in options.items()}


def parts_of(state: fem.Function, *, with_mass: bool) -> Parts:
    """The parts of a mixed state, in the order of its space. Collective; for the caller to free.

    Args:
        state: the state.
        with_mass: for Schur's complement of two parts.

    Raises:
        BadInput: for a space without parts; for another number than two where that is asked for.
    """
    V = state.function_space
    if V.num_sub_spaces == 0:
        raise BadInput(
            "options: pc_type fieldsplit: expected a state of a mixed space, whose parts it treats each by itself, got "
            f"one of {V.ufl_element()}"
        )
    if with_mass and V.num_sub_spaces != 2:
        raise BadInput(
            "options: pc_fieldsplit_type schur: expected a state with two parts, such as velocity and pressure, got "
            f"{V.num_sub_spaces}; name the fields of the blocks, or choose another type"
        )
    first = V.dofmap.index_map.local_range[0] * V.dofmap.index_map_bs
    rows, sizes = [], []
    for i in range(V.num_sub_spaces):
        space, parents = compat.collapse(V.sub(i))
        own = np.sort(np.asarray(parents, dtype=np.int64))
        own = own[own < num_owned(V)]
        rows.append(first + own)
        sizes.append(_block_size(V.mesh.comm, own, space.dofmap.bs))
    comm = V.mesh.comm
    mass = None
    if with_mass:
        p, q = (ufl.split(f)[1] for f in (ufl.TrialFunction(V), ufl.TestFunction(V)))
        whole = fem_petsc.assemble_matrix(fem.form(ufl.inner(p, q) * ufl.dx))
        whole.assemble()
        last = PETSc.IS().createGeneral(rows[1].astype(PETSc.IntType), comm=comm)
        mass = whole.createSubMatrix(last, last)
        last.destroy()
        whole.destroy()
    return Parts(comm, names_of(state), rows, sizes, mass)


def _block_size(comm: MPI.Comm, own: Indices, size: int) -> int:
    """Of rows that come node after node; 1 where they do not."""
    groups = own[: len(own) // size * size].reshape(-1, size)
    in_blocks = len(own) % size == 0 and bool((np.diff(groups, axis=1) == 1).all())
    return 1 if parallel.any_rank(comm, not in_blocks) else size
