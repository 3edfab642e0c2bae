"""What a form says on the boundary by its `* ufl.ds`: c · n + b = 0 there, and where that is, on any mesh."""

from __future__ import annotations

from dataclasses import dataclass, replace

import basix
import numpy as np
import numpy.typing as npt
import sympy
import ufl
from dolfinx import fem, la, mesh
from scipy.spatial import KDTree

from relax.base import parallel
from relax.base.fem.forms import cell_dofs, num_owned
from relax.base.types import Array, Indices
from relax.errors import BadInput
from relax.symbolic.equation import Equation
from relax.symbolic.halved import children


@dataclass(frozen=True)
class Boundary:
    """The facets of a boundary, of straight simplices; the same on every rank.

    Attributes:
        corners: (n, d, gdim).
        normals: (n, gdim), outward.
        kinds: (n,) 0 where u is held, k where c · n + fluxes[k - 1] = 0.
        fluxes: b by kind, as of ``Equation.terms``.
    """

    corners: Array
    normals: Array
    kinds: Indices
    fluxes: tuple[sympy.Expr, ...]

    @property
    def is_natural(self) -> npt.NDArray[np.bool_]:
        """(n,) where the form says what holds."""
        return self.kinds > 0

    def halved(self) -> Boundary:
        """That of the mesh of half the width. Local."""
        corners = children(self.corners)
        num = len(corners) // max(1, len(self.corners))
        return replace(
            self, corners=corners, normals=np.repeat(self.normals, num, axis=0), kinds=np.repeat(self.kinds, num)
        )

    def tags(self, domain: mesh.Mesh) -> mesh.MeshTags:
        """The kind of each facet of this rank at the boundary of a mesh that has these facets. Local."""
        dim = domain.topology.dim - 1
        facets = _facets(domain)
        kinds = np.zeros(0, dtype=np.int32)
        if len(facets):
            middles = mesh.compute_midpoints(domain, dim, facets)[:, : dim + 1]
            kinds = self.kinds[KDTree(self.corners.mean(axis=1)).query(middles)[1]].astype(np.int32)
        return mesh.meshtags(domain, dim, facets, kinds)

    def points(self, number: int, random: np.random.Generator) -> tuple[Array, Array]:
        """Points where the form says what holds, (gdim, number), and what is :meth:`given` there. Local."""
        at = np.flatnonzero(self.is_natural)[random.integers(0, int(self.is_natural.sum()), number)]
        weights = random.dirichlet(np.ones(self.corners.shape[1]), number)
        return np.einsum("nk,nki->in", weights, self.corners[at]), self.given(self.normals[at], self.kinds[at])

    def given(self, normals: Array, kinds: Indices) -> Array:
        """Normals (gdim, n) and, for each kind, where it is, (len(fluxes), n)."""
        return np.vstack([normals.T, *(kinds[None] == k + 1 for k in range(len(self.fluxes)))]).astype(np.float64)

    def flux(self, equation: Equation) -> tuple[sympy.Expr, tuple[sympy.Symbol, ...]]:
        """b, and the symbols in it of what :meth:`given` gives. Local."""
        kinds = sympy.symbols(f"kind:{len(self.fluxes)}")
        b = sum((a * b for a, b in zip(kinds, self.fluxes, strict=True)), start=sympy.Integer(0))
        return b, (*equation.normal, *kinds)


def boundary_of(equation: Equation) -> Boundary:
    """The boundary of the equation's mesh, of straight simplices. Collective.

    Raises:
        BadInput: where conditions and form say twice what u is to do at the boundary, or nowhere.
    """
    domain = equation.V.mesh
    gdim, facets = domain.geometry.dim, _facets(domain)
    corners, normals = _corners(domain, facets)
    marks = np.reshape([_marked(term, facets) for term, _ in equation.terms], (len(equation.terms), len(facets)))
    rows = np.hstack([corners.reshape(len(facets), gdim * gdim), normals, marks.T])
    rows = parallel.gather_rows(domain.comm, rows.astype(np.float64))
    # In an order that no partition decides.
    rows = rows[np.lexsort(rows[:, : gdim * gdim].round(9).T[::-1])]
    corners, normals = rows[:, : gdim * gdim].reshape(-1, gdim, gdim), rows[:, gdim * gdim :][:, :gdim]
    patterns, kinds = np.unique(rows[:, gdim * (gdim + 1) :] > 0.5, axis=0, return_inverse=True)
    said = np.array([some.any() for some in patterns])
    fluxes = [sum(b for (_, b), is_there in zip(equation.terms, some, strict=True) if is_there) for some in patterns]
    found = Boundary(
        corners, normals, np.where(said, np.cumsum(said), 0)[kinds.ravel()],
        tuple(b for b, is_there in zip(fluxes, said, strict=True) if is_there),
    )  # fmt: skip
    given = "boundary" in equation.conditions
    if given and found.is_natural.all():
        raise BadInput(
            'conditions: the form says by `* ufl.ds` what holds on the whole boundary; leave out "boundary", or give '
            "`ds` the tags of a part of it"
        )
    if not given and not found.is_natural.all() and not equation.order:
        raise BadInput(
            'conditions: expected "boundary" of an equation without time: nothing else fixes u where the '
            "form has no `* ufl.ds`"
        )
    if equation.terms and not found.is_natural.any():
        raise BadInput("residual: no facet of the boundary has one of the tags of its `* ufl.ds`")
    return found


class BoundaryHats:
    """Integrals over the boundary with test functions, where the form says what holds there. Collective to make.

    Attributes:
        points: (gdim, n) of this rank's facets.
        given: of :meth:`Boundary.given` there.
    """

    def __init__(self, V: fem.FunctionSpace, boundary: Boundary, degree: int) -> None:
        domain, tags = V.mesh, boundary.tags(V.mesh)
        d = domain.geometry.dim
        facets, kinds = tags.indices[tags.values > 0], tags.values[tags.values > 0]
        corners, normals = _corners(domain, facets)
        at, weights = np.zeros((1, 0)), np.ones(1)
        if d > 1:
            at, weights = basix.make_quadrature(basix.CellType.interval if d == 2 else basix.CellType.triangle, degree)
        edges = corners[:, 1:] - corners[:, :1]
        # Of the parallelotope: weights add up to the volume of the simplex.
        areas = np.sqrt(np.linalg.det(np.einsum("nij,nkj->nik", edges, edges)))
        points = corners[:, :1] + np.einsum("qi,nij->nqj", at, edges)
        cells = facet_cells(domain, facets)
        first = domain.geometry.x[domain.geometry.dofmap[cells]][:, :, :d]
        inverse = np.linalg.inv(first[:, 1:] - first[:, :1])
        reference = np.einsum("nqj,nji->nqi", points - first[:, :1], inverse).reshape(-1, d)
        values = np.zeros((len(reference), V.dofmap.dof_layout.num_dofs))
        if len(reference):
            # Of no points Basix makes no table.
            values[:] = V.ufl_element().tabulate(0, reference)[0]
        values = values.reshape(len(facets), len(weights), values.shape[1])
        self._hats = np.einsum("n,q,nqi->nqi", areas, weights, values)
        self._dofs, self._dual = cell_dofs(V, cells), fem.Function(V)
        self.points = points.reshape(-1, d).T
        self.given = boundary.given(np.repeat(normals, len(weights), axis=0), np.repeat(kinds, len(weights)))

    def integrals(self, values: Array) -> Array:
        """Of values (n,) at the points, for the test functions of this rank. Collective."""
        x = self._dual.x
        x.array[:] = 0.0
        shares = np.einsum("nqi,nq->ni", self._hats, values.reshape(self._hats.shape[:2]))
        np.add.at(x.array, self._dofs, shares)
        x.scatter_reverse(la.InsertMode.add)
        return np.asarray(x.array[: num_owned(self._dual.function_space)])


def _facets(domain: mesh.Mesh) -> npt.NDArray[np.int32]:
    """Facets of this rank at the boundary. Local."""
    topology, dim = domain.topology, domain.topology.dim
    topology.create_connectivity(dim - 1, dim)
    topology.create_connectivity(dim, dim - 1)
    return np.asarray(mesh.exterior_facet_indices(topology), dtype=np.int32)


def facet_cells(domain: mesh.Mesh, facets: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """The cell of each facet at the boundary. Local."""
    cells = domain.topology.connectivity(domain.topology.dim - 1, domain.topology.dim)
    return np.array([cells.links(f)[0] for f in facets], dtype=np.int32)


def _marked(integral: ufl.Integral, facets: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """On which facets the integral is taken. Local."""
    numbers = integral.subdomain_id()
    if numbers == "everywhere":
        return np.ones(len(facets), dtype=bool)
    tags = integral.subdomain_data()
    return np.isin(facets, tags.indices[np.isin(tags.values, numbers)])


def _corners(domain: mesh.Mesh, facets: npt.NDArray[np.int32]) -> tuple[Array, Array]:
    """Corners (n, d, gdim) of facets at the boundary, in ascending order, and outward unit normals (n, gdim). Local."""
    gdim, x = domain.geometry.dim, domain.geometry.x
    if not len(facets):
        # DOLFINx divides by their number.
        return np.zeros((0, gdim, gdim)), np.zeros((0, gdim))
    nodes = mesh.entities_to_geometry(domain, gdim - 1, facets).reshape(len(facets), -1)
    of_cell = domain.geometry.dofmap[facet_cells(domain, facets)]
    apart = x[of_cell[(of_cell[:, :, None] != nodes[:, None]).all(axis=2)], :gdim]
    corners = np.array([some[np.lexsort(some.T[::-1])] for some in x[nodes, :gdim]]).reshape(-1, gdim, gdim)
    along = np.linalg.qr((corners[:, 1:] - corners[:, :1]).transpose(0, 2, 1))[0]
    away = corners[:, 0] - apart
    away -= np.einsum("nij,nkj,nk->ni", along, along, away)
    return corners, away / np.linalg.norm(away, axis=1, keepdims=True)
