"""Signs of eigenvectors, and bases of those that share an eigenvalue, which are the same in every run."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import ufl
from dolfinx import fem, la
from dolfinx.fem import petsc as fem_petsc
from petsc4py import PETSc

from relax.base import parallel
from relax.base.fem.compiling import compiled_together
from relax.base.la.matrices import products, restricted
from relax.base.types import Array

# Rates of the weights exp(rate . t), t in [0, 1]^d over the mesh's bounding box: of no symmetry that a box or a ball
# has, so that the moments of states that are even or odd, or change sign under x <-> y, are not zero by symmetry.
_RATES = ((1.3, 0.9, 0.6), (-2.1, 1.1, 0.5), (3.7, -2.3, 1.9), (0.8, 2.9, -3.1))
# A moment that is smaller than this part of the largest that a weight allows does not decide a sign.
_CLEAR_MOMENT = 1e-4
# Multiples of it, less whole numbers, are far from each other.
_GOLDEN = 0.6180339887498949


class Orientation:
    """Signs of states and bases of clusters, by weights that know no symmetry.

    Collective, as is every method. A state of several components is weighed with as many numbers, none alike.

    Args:
        V: the space of the states.
        free: this rank's degrees of freedom that are not clamped.
        are_unit: whether the states are of norm 1 in L2; else their norms are computed.
    """

    def __init__(self, V: fem.FunctionSpace, free: npt.NDArray[np.int32], *, are_unit: bool) -> None:
        mesh = V.mesh
        self.comm = mesh.comm
        self._free = free
        x, gdim = ufl.SpatialCoordinate(mesh), mesh.geometry.dim
        low, high = parallel.extremes(self.comm, mesh.geometry.x)
        extent = np.where(high > low, high - low, 1.0)
        self._extent = extent[:gdim]
        corner = fem.Constant(mesh, low[:gdim])
        self._rate = fem.Constant(mesh, np.zeros(gdim))
        weight = ufl.exp(ufl.inner(self._rate, x - corner))
        u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
        # The rule need not be exact, but it must be the same everywhere.
        dx = ufl.dx(metadata={"quadrature_degree": 2 * V.ufl_element().degree + 1})
        vector = weight * ufl.inner(_components(v.ufl_shape), v) * dx
        matrix = weight * ufl.inner(u, v) * dx
        self._vector, self._matrix, self._square = compiled_together([vector, matrix, weight**2 * dx], mesh)
        self._are_unit = are_unit
        self._norm: PETSc.Mat | None = None

    def oriented(self, vectors: Array, clusters: tuple[range, ...]) -> Array:
        """The vectors (p, free) with their clusters' bases and their signs fixed."""
        vectors = vectors.copy()
        if clusters:
            members = [i for cluster in clusters for i in cluster]
            moments = [self._second_moments(i, vectors[members]) for i in range(len(_RATES))]
            start = 0
            for cluster in clusters:
                part = slice(start, start + len(cluster))
                block = slice(cluster.start, cluster.stop)
                vectors[block] = _basis([m[part, part] for m in moments]).T @ vectors[block]
                start += len(cluster)
        return self._signs(vectors)[:, None] * vectors

    def _signs(self, vectors: Array) -> Array:
        best: Array = np.zeros(len(vectors))
        norms = self._norms(vectors)
        for i in range(len(_RATES)):
            moments = self._moments(i, vectors) / norms
            open_ = np.abs(best) < _CLEAR_MOMENT
            best = np.where(open_ & (np.abs(moments) > np.abs(best)), moments, best)
            if (np.abs(best) >= _CLEAR_MOMENT).all():
                break
        return np.where(best < 0.0, -1.0, 1.0)

    def _norms(self, vectors: Array) -> Array:
        """Norms in L2, (p,)."""
        if self._are_unit:
            return np.ones(len(vectors))
        if self._norm is None:
            self._rate.value = 0.0
            self._norm = self._assembled()
        local = (vectors * products(self._norm, vectors)).sum(axis=1)
        return np.sqrt(parallel.sum_over_ranks(self.comm, local))

    def _moments(self, i: int, vectors: Array) -> Array:
        """The integrals of w psi over the norm of w: (p,)."""
        self._choose(i)
        b = fem.assemble_vector(self._vector)
        b.scatter_reverse(la.InsertMode.add)
        local = np.append(vectors @ b.array[self._free], fem.assemble_scalar(self._square))
        sums = parallel.sum_over_ranks(self.comm, local)
        return sums[:-1] / np.sqrt(sums[-1])

    def _second_moments(self, i: int, vectors: Array) -> Array:
        """The integrals of w psi_a psi_b: (p, p)."""
        self._choose(i)
        matrix = self._assembled()
        weighted = products(matrix, vectors)
        matrix.destroy()
        return parallel.sum_over_ranks(self.comm, vectors @ weighted.T)

    def _assembled(self) -> PETSc.Mat:
        """The matrix of the weight on the free degrees of freedom."""
        whole = fem_petsc.create_matrix(self._matrix)
        fem_petsc.assemble_matrix(whole, self._matrix)
        whole.assemble()
        part = restricted(whole, self._free)
        whole.destroy()
        return part

    def _choose(self, i: int) -> None:
        self._rate.value = np.array(_RATES[i])[: len(self._extent)] / self._extent

    def close(self) -> None:
        """Free the matrix of norms."""
        if self._norm is not None:
            self._norm.destroy()


def _components(shape: tuple[int, ...]) -> ufl.core.expr.Expr:
    """1 for a scalar; for values of this shape 1 and numbers of either sign between 1/2 and 1. Local."""
    if shape == ():
        return ufl.as_ufl(1.0)
    index = np.arange(int(np.prod(shape)))
    numbers = (-1.0) ** index * (1.0 - 0.5 * ((_GOLDEN * index) % 1.0))
    return ufl.as_tensor(numbers.reshape(shape).tolist())


def _basis(moments: list[Array]) -> Array:
    """Columns that diagonalise, within a cluster, the weight that tells its states apart best. Local."""
    best, basis = -1.0, np.eye(len(moments[0]))
    for W in moments:
        values, columns = np.linalg.eigh(0.5 * (W + W.T))
        apart = float(np.diff(values).min()) / float(np.abs(values).max())
        if apart > best:
            best, basis = apart, columns
    return basis
