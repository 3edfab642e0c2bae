"""Stationary states: the lowest eigenpairs of the Hamiltonian, with signs and bases that are the same in every run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import ufl
from dolfinx import fem, la
from dolfinx.fem import petsc as fem_petsc
from dolfinx.mesh import Mesh
from ufl.core.expr import Expr

from relax.base import parallel
from relax.base.fem.coefficients import Coefficient
from relax.base.fem.quadrature import with_fixed_degrees
from relax.base.la import eigen
from relax.base.la.eigen import LowestPairs
from relax.base.types import Array
from relax.errors import BadInput
from relax.pdes.schrodinger.hamiltonian import LowestValue, hamiltonian, potential_coefficient, quadrature_degree
from relax.pdes.shared.sizes import bounding_box
from relax.pdes.shared.spaces import lagrange
from relax.problem.boundary import clamp_boundary

# Rates of the weights exp(rate . t), t in [0, 1]^d over the mesh's bounding box: of no symmetry that a box or a ball
# has, so that the moments of states that are even or odd, or change sign under x <-> y, are not zero by symmetry.
_RATES = ((1.3, 0.9, 0.6), (-2.1, 1.1, 0.5), (3.7, -2.3, 1.9), (0.8, 2.9, -3.1))
# A moment that is smaller than this part of the largest that a weight allows does not decide a sign.
_CLEAR_MOMENT = 1e-4


@dataclass(frozen=True, eq=False)
class Eigenstates:
    """The lowest eigenpairs of -1/2 Lap + V.

    Attributes:
        energies: E_1 <= E_2 <= ..., (k,), the same bits on every rank.
        states: psi_1, ..., psi_k, real, of norm 1 in L2, orthogonal to each other.
        space: where they live, ("Lagrange", degree).
        clusters: runs of indices of energies that are equal but for 1e-6 of the mean kinetic energy, such as
            ``(range(1, 3),)`` when E_2 = E_3. The states of a cluster are one basis of their common space. One that
            ends beyond k is cut: not all of it is among the k.
        residuals: |H psi - E M psi| over (E - min V) |M psi|, (k,), Euclidean norms of coefficient vectors.
    """

    energies: Array
    states: list[fem.Function]
    space: fem.FunctionSpace
    clusters: tuple[range, ...]
    residuals: Array


def eigenstates(
    mesh: Mesh, potential: Coefficient, k: int, *, degree: int = 2, options: dict[str, object] | None = None
) -> Eigenstates:
    """The k lowest pairs of -1/2 Lap psi + V psi = E psi in the domain, psi = 0 on its boundary, integral of psi^2 = 1.

    Collective. Dimensionless (hbar = m = 1). By SLEPc: Krylov-Schur with shift and invert; that no state was passed
    over is checked by the inertia of the shifted operator.

    Signs: the integral of psi exp(a . t) is positive, where t in [0, 1]^d are coordinates in the mesh's bounding box
    and a = (1.3, 0.9, 0.6); where that is next to zero, another a decides. The states of a cluster diagonalise such a
    weight within their common space. So they do not depend on the number of ranks, nor on rounding.

    Args:
        mesh: the mesh.
        potential: V, a number, a function of x, or a UFL expression. A function of x is interpolated in the space of
            the states, a UFL expression integrated as it is.
        k: how many.
        degree: polynomial degree of the states; energies converge as h^(2 degree) for a smooth potential.
        options: PETSc options that start with eps_ or st_, below those of the command line, whose prefix is
            ``relax_eigen_``.

    Raises:
        BadInput: on every rank, for k below 1 or above the number of free degrees of freedom, a potential that is not
            a finite scalar, or a mesh without boundary.
        SolveFailed: when not all k are found, or one is not accurate.
    """
    if parallel.any_rank(mesh.comm, not isinstance(k, int | np.integer) or isinstance(k, bool) or k < 1):
        raise BadInput(f"k: expected a number of states of at least 1, got {k!r}")
    V = lagrange("eigenstates", mesh, degree)
    problem = StationaryProblem(V, potential_coefficient(potential, V), options)
    try:
        spectrum = problem.solve(int(k))
    finally:
        problem.close()
    states = []
    for i, vector in enumerate(spectrum.vectors[:k]):
        psi = fem.Function(V, name=f"psi_{i + 1}")
        psi.x.array[: vector.size] = vector
        psi.x.scatter_forward()
        states.append(psi)
    cut = tuple(cluster for cluster in spectrum.clusters if cluster.start < k)
    return Eigenstates(spectrum.energies[:k], states, V, cut, spectrum.residuals[:k])


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The lowest states of one potential, and the whole cluster of the last: (p,), (p, owned), ranges, (p,).

    ``offset`` is what was subtracted from V for the solve.
    """

    energies: Array
    vectors: Array
    clusters: tuple[range, ...]
    residuals: Array
    offset: float


class StationaryProblem:
    """H psi = E M psi on the free degrees of freedom, assembled again for each potential.

    Collective, as is every method. Clamped rows and columns are left out of the matrices, so they bring no eigenvalues.
    H is assembled with V minus its smallest value, which makes it positive definite and keeps a large constant in V
    from drowning the energies.

    Args:
        V: the space of the states.
        potential: V, live.
        options: of the eigensolver.

    Attributes:
        form: the bilinear form of H - offset, with fixed quadrature degrees.
        offset: the constant in it.
        free: this rank's free degrees of freedom.
        num_free: over all ranks.
        mass, hamiltonian: the matrices on the free degrees of freedom; ``hamiltonian`` that of the last ``assemble``.
    """

    def __init__(self, V: fem.FunctionSpace, potential: Expr, options: dict[str, object] | None = None) -> None:
        self.options = eigen.checked_options(options)
        self.space, self.comm = V, V.mesh.comm
        self.bc = clamp_boundary(V)
        owned = V.dofmap.index_map.size_local
        self.num_owned = owned
        self.free = np.setdiff1d(np.arange(owned, dtype=np.int32), self.bc.dof_indices()[0])
        self.num_free = parallel.total(self.comm, len(self.free))
        u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
        self.degree = quadrature_degree(hamiltonian(u, v, potential))
        self.lowest_potential = LowestValue(potential, V.mesh, self.degree)
        self.lowest_potential()  # what is not finite is refused before it costs anything
        self.offset = fem.Constant(V.mesh, 0.0)
        self.form = with_fixed_degrees(hamiltonian(u, v, potential - self.offset))
        dx = ufl.dx(metadata={"quadrature_degree": self.degree})
        self._form = fem.form(self.form)
        self._whole = fem_petsc.create_matrix(self._form)
        self.mass = _assembled(fem.form(ufl.inner(u, v) * dx), self.free)
        self._kinetic = _assembled(fem.form(0.5 * ufl.inner(ufl.grad(u), ufl.grad(v)) * dx), self.free)
        self.hamiltonian = self.mass.duplicate()
        self._orientation = _Orientation(V, self.free)

    def assemble(self, offset: float | None = None) -> None:
        """``hamiltonian`` for the present potential, minus its smallest value or a given offset."""
        self.offset.value = self.lowest_potential() if offset is None else offset
        self._whole.zeroEntries()
        fem_petsc.assemble_matrix(self._whole, self._form)
        self._whole.assemble()
        part = eigen.restricted(self._whole, self.free)
        self.hamiltonian.destroy()
        self.hamiltonian = part

    def solve(self, k: int) -> Spectrum:
        """The k lowest pairs for the present potential, in order, with their signs and bases; ``assemble`` included.

        Raises:
            BadInput: when k is more than there are, or the potential is not finite.
            SolveFailed: as :func:`eigenstates`.
        """
        if k > self.num_free:
            raise BadInput(
                f"k: expected at most {self.num_free}, the degrees of freedom that are not clamped, got {k}; "
                "refine the mesh or raise the degree"
            )
        self.assemble()
        pairs = LowestPairs(self.hamiltonian, self.mass, self._kinetic, self.options).find(k)
        clusters = pairs.clusters()
        vectors = np.zeros((len(pairs.values), self.num_owned))
        vectors[:, self.free] = self._orientation.oriented(pairs.vectors, clusters)
        offset = float(self.offset.value)
        return Spectrum(pairs.values + offset, vectors, clusters, pairs.residuals, offset)

    def close(self) -> None:
        """Free the matrices."""
        for matrix in (self._whole, self.mass, self._kinetic, self.hamiltonian):
            matrix.destroy()


class _Orientation:
    """Signs of states and bases of clusters, by weights that know no symmetry. Collective."""

    def __init__(self, V: fem.FunctionSpace, free: npt.NDArray[np.int32]) -> None:
        mesh = V.mesh
        self.comm = mesh.comm
        self._free = free
        x, gdim = ufl.SpatialCoordinate(mesh), mesh.geometry.dim
        low, high = bounding_box(mesh)
        extent = np.where(high > low, high - low, 1.0)
        self._extent = extent[:gdim]
        corner = fem.Constant(mesh, low[:gdim])
        self._rate = fem.Constant(mesh, np.zeros(gdim))
        weight = ufl.exp(ufl.inner(self._rate, x - corner))
        u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
        # The rule need not be exact, but it must be the same everywhere.
        dx = ufl.dx(metadata={"quadrature_degree": 2 * V.ufl_element().degree + 1})
        self._vector = fem.form(weight * v * dx)
        self._matrix = fem.form(weight * ufl.inner(u, v) * dx)
        self._square = fem.form(weight**2 * dx)

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
        for i in range(len(_RATES)):
            moments = self._moments(i, vectors)
            open_ = np.abs(best) < _CLEAR_MOMENT
            best = np.where(open_ & (np.abs(moments) > np.abs(best)), moments, best)
            if (np.abs(best) >= _CLEAR_MOMENT).all():
                break
        return np.where(best < 0.0, -1.0, 1.0)

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
        matrix = _assembled(self._matrix, self._free)
        weighted = eigen.products(matrix, vectors)
        matrix.destroy()
        return parallel.sum_over_ranks(self.comm, vectors @ weighted.T)

    def _choose(self, i: int) -> None:
        self._rate.value = np.array(_RATES[i])[: len(self._extent)] / self._extent


def _assembled(form: fem.Form, free: npt.NDArray[np.int32]) -> Any:
    """The matrix of a form on the free degrees of freedom. Collective."""
    whole = fem_petsc.create_matrix(form)
    fem_petsc.assemble_matrix(whole, form)
    whole.assemble()
    part = eigen.restricted(whole, free)
    whole.destroy()
    return part


def _basis(moments: list[Array]) -> Array:
    """Columns that diagonalise, within a cluster, the weight that tells its states apart best. Local."""
    best, basis = -1.0, np.eye(len(moments[0]))
    for W in moments:
        values, columns = np.linalg.eigh(0.5 * (W + W.T))
        apart = float(np.diff(values).min()) / float(np.abs(values).max())
        if apart > best:
            best, basis = apart, columns
    return basis
