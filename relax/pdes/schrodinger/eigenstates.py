"""Stationary states: the lowest eigenpairs of the Hamiltonian, with signs and bases that are the same in every run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import ufl
from dolfinx import fem
from dolfinx.mesh import Mesh
from ufl.core.expr import Expr

from relax.base import parallel
from relax.base.fem.coefficients import Coefficient
from relax.base.fem.pencil import LowerBound, Pencil
from relax.base.fem.pointwise import refuse_laws
from relax.base.fem.quadrature import with_fixed_degrees
from relax.base.types import Array
from relax.errors import BadInput
from relax.pdes.schrodinger.hamiltonian import LowestValue, hamiltonian, potential_coefficient, quadrature_degree
from relax.pdes.shared.spaces import lagrange
from relax.problem.boundary import clamp_boundary


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
    pencil = stationary_pencil(V, potential_coefficient(potential, V), options)
    try:
        spectrum = pencil.solve(int(k))
    finally:
        pencil.close()
    states = []
    for i, vector in enumerate(spectrum.vectors[:k]):
        psi = fem.Function(V, name=f"psi_{i + 1}")
        psi.x.array[: vector.size] = vector
        psi.x.scatter_forward()
        states.append(psi)
    cut = tuple(cluster for cluster in spectrum.clusters if cluster.start < k)
    return Eigenstates(spectrum.values[:k], states, V, cut, spectrum.residuals[:k])


def stationary_pencil(V: fem.FunctionSpace, potential: Expr, options: dict[str, object] | None = None) -> Pencil:
    """H psi = E psi, psi = 0 on the boundary, as a pencil. Collective.

    H is assembled with V minus its smallest value, which makes it positive definite and keeps a large constant in V
    from drowning the energies.

    Args:
        V: the space of the states.
        potential: V, live.
        options: of the eigensolver.

    Raises:
        BadInput: for a potential that is not finite, and wrong options.
    """
    refuse_laws(potential, "potential")
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    degree = quadrature_degree(hamiltonian(u, v, potential))
    lowest = LowestValue(potential, V.mesh, degree)
    lowest()  # what is not finite is refused before it costs anything
    offset = fem.Constant(V.mesh, 0.0)
    dx = ufl.dx(metadata={"quadrature_degree": degree})
    return Pencil(
        V,
        (clamp_boundary(V),),
        with_fixed_degrees(hamiltonian(u, v, potential - offset)),
        ufl.inner(u, v) * dx,
        options,
        part=0.5 * ufl.inner(ufl.grad(u), ufl.grad(v)) * dx,
        lower_bound=LowerBound(offset, lowest),
    )
