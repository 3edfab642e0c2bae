"""Loads at points, whose strengths are a control."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import ufl
from dolfinx import fem
from ufl.pullback import identity_pullback

from relax.base import parallel
from relax.base.fem.expansion import Expansion
from relax.base.fem.forms import cell_dofs, num_owned
from relax.base.fem.subspace import StatePart
from relax.base.types import Array
from relax.errors import BadProblem
from relax.observe.points import PointValues

# Singular values of a cell's points below this fraction of the largest are zero: V cannot tell these points apart.
_SAME = 1e-12


class PointSource(Expansion):
    """The load Σ_i s_i · v(x_i) of a test function v in V, of which the strengths s_i are the control.

    The transpose of :class:`relax.PointValues`, with the same points, order and errors. It stands in a residual as the
    Function f does in ``- ufl.inner(f, v) * ufl.dx``, in ``controls`` and in ``per_step``. f is that piecewise
    polynomial, in the one cell of each point, with ∫ f · v dx = Σ s_i · v(x_i) exactly for all v in V (the local Riesz
    representative of Dirac's delta), by the quadrature that UFL chooses or a finer one: beside it in the integral may
    stand constants, and no coefficient that varies in the cell. Its part of a control vector is s, components of a
    vector field side by side, on every rank in the replicated layout, on rank 0 in the owned one. ``f.values`` reads s
    and sets it (zeros at first): where V cannot tell points apart, as more of them in a cell than it has degrees of
    freedom there, the smallest s of the same load.

    Collective. Units: those of s are the load's, an integral of a source over the domain.

    Args:
        V: the state's space, or a part of it: ``W.sub(0)`` of a mixed space.
        points: (num_points, gdim) coordinates; rank 0's count.

    Raises:
        PointsOutsideMesh: on every rank, naming the points.
        BadProblem: where V's elements are not polynomials on the cell: RT, BDM, N1curl.
    """

    def __init__(self, V: fem.FunctionSpace, points: npt.ArrayLike) -> None:
        import scipy.sparse  # a third of what importing relax costs, and no solve needs it

        part = StatePart(V).space
        element = part.ufl_element()
        is_mixed = part.num_sub_spaces > 0 and part.dofmap.bs == 1
        if is_mixed or element.pullback != identity_pullback:
            raise BadProblem(
                f"PointSource: expected a space of Lagrange elements, or a part of one (W.sub(i)), got {element}"
            )
        W = fem.functionspace(part.mesh, ("DG", element.embedded_superdegree, tuple(part.value_shape)))
        seen = PointValues(W, points)
        phi, inverse = _representatives(W, seen)
        # A rank's ghosts are others' cells: each takes from all entries (degree of freedom, number, value) its own.
        index_map, bs = W.dofmap.index_map, W.dofmap.index_map_bs
        numbers = np.broadcast_to(seen.rows, phi.shape)
        entries = np.stack([seen.columns + bs * index_map.local_range[0], numbers, phi], axis=-1).reshape(-1, 3)
        everyone: Array = parallel.gather_rows(part.mesh.comm, entries)
        dofs, columns = everyone[:, 0].astype(np.int64), everyone[:, 1].astype(np.int64)
        local = index_map.global_to_local(dofs // bs).astype(np.int64) * bs + dofs % bs
        here = local >= 0
        num_local = bs * (index_map.size_local + index_map.num_ghosts)
        basis = scipy.sparse.csr_matrix((everyone[here, 2], (local[here], columns[here])), (num_local, seen.size))
        places = numbers.ravel(), seen.columns.ravel()
        from_field = scipy.sparse.csr_matrix((inverse.ravel(), places), (seen.size, num_owned(W)))
        super().__init__(W, basis, from_field, "point_source", "one for each value at a point")


def _representatives(W: fem.FunctionSpace, seen: PointValues) -> tuple[Array, Array]:
    """Degrees of freedom of the φ with ∫ φ · w dx = w(x) for all w in the discontinuous W, and what reads them back.

    Collective.

    Returns:
        φ, and the pseudoinverse in each cell: (num_basis, num_own_rows), on the degrees of freedom ``seen.columns``.
    """
    first = seen.columns[0] if len(seen.columns) else np.empty(0, dtype=np.int32)
    cells = np.flatnonzero(np.isin(cell_dofs(W, slice(None)).min(axis=1), first)).astype(np.int32)
    dx = ufl.Measure("dx", domain=W.mesh, subdomain_data=[(1, cells)])(1)
    mass = fem.assemble_matrix(fem.form(ufl.inner(ufl.TrialFunction(W), ufl.TestFunction(W)) * dx))
    mass.scatter_reverse()
    M = mass.to_scipy().tocsr()
    phi, inverse = np.zeros_like(seen.values), np.zeros_like(seen.values)
    for dof in np.unique(first):
        of_cell = np.flatnonzero(first == dof)
        dofs = seen.columns[:, of_cell[0]]
        phi[:, of_cell] = np.linalg.solve(M[dofs][:, dofs].toarray(), seen.values[:, of_cell])
        inverse[:, of_cell] = np.linalg.pinv(phi[:, of_cell], rcond=_SAME).T
    return phi, inverse
