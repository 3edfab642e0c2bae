"""The covariance M of white noise in a space, as mass matrices discretise it, and a square root of it."""

from __future__ import annotations

from typing import Protocol

import basix
import numpy as np
import ufl
from dolfinx import fem
from dolfinx.fem import petsc
from ufl.core.expr import Expr

from relax.base import parallel
from relax.base.fem import compat
from relax.base.fem.forms import assembled, cell_dofs
from relax.base.la.roots import InverseRoot
from relax.base.types import Array
from relax.errors import BadInput


class WhiteNoise(Protocol):
    """M = H Hᵀ on rows (k, owned). All methods are collective."""

    def root(self, v: Array) -> Array:
        """H v."""

    def root_adjoint(self, v: Array) -> Array:
        """Hᵀ v."""

    def inverse_root(self, v: Array) -> Array:
        """H⁻¹ v."""

    def inverse_root_adjoint(self, v: Array) -> Array:
        """H⁻ᵀ v."""

    def destroy(self) -> None:
        """Free what PETSc holds."""


def white_noise(V: fem.FunctionSpace, weight: Expr | None, *, is_lumped: bool) -> WhiteNoise:
    """The white noise in a space. Collective.

    Args:
        V: a Lagrange or DG space.
        weight: w; 1 where it is left out.
        is_lumped: of a Lagrange space whether by quadrature in the nodes. In a DG space the exact M is as cheap.
    """
    if is_discontinuous(V):
        return CellMass(V, weight)
    return LumpedMass(V, weight) if is_lumped else ConsistentMass(V)


def is_discontinuous(V: fem.FunctionSpace) -> bool:
    """Whether a space is DG. Local."""
    return bool((V.sub(0) if V.dofmap.index_map_bs > 1 else V).ufl_element().discontinuous)


class LumpedMass:
    """M_ii = ∫ w φ_i², by quadrature in the nodes. Collective to make.

    Args:
        V: a Lagrange or DG space.
        weight: w, positive; 1 where it is left out.
    """

    def __init__(self, V: fem.FunctionSpace, weight: Expr | None = None) -> None:
        block = V.dofmap.index_map_bs
        v = ufl.TestFunction(V)
        integrand = v if block == 1 else ufl.inner(ufl.as_vector([1.0] * block), v)
        weighted = integrand if weight is None else weight * integrand
        self.diagonal = assembled(fem.form(weighted * nodal_measure(V)), fem.Function(V)).copy()
        with parallel.together(V.mesh.comm):
            if not (self.diagonal > 0.0).all():
                raise BadInput(
                    f"V: nodes of {V.ufl_element()} on this mesh have no weight of their own; expected cells that are "
                    "not inverted, and a length above 0 everywhere"
                )
        self._root = np.sqrt(self.diagonal)

    def root(self, v: Array) -> Array:
        return v * self._root

    root_adjoint = root

    def inverse_root(self, v: Array) -> Array:
        return np.asarray(v / self._root)

    inverse_root_adjoint = inverse_root

    def destroy(self) -> None:
        """Nothing to free."""


class CellMass:
    """M_ij = ∫ w φ_i φ_j in a DG space: a block for each cell, H the symmetric root of each. Collective to make.

    Args:
        V: a DG space.
        weight: w, positive; 1 where it is left out.
    """

    def __init__(self, V: fem.FunctionSpace, weight: Expr | None = None) -> None:
        product = ufl.inner(ufl.TrialFunction(V), ufl.TestFunction(V))
        matrix = petsc.assemble_matrix(fem.form((product if weight is None else weight * product) * ufl.dx))
        matrix.assemble()
        count = V.mesh.topology.index_map(V.mesh.topology.dim).size_local
        # Entries of a row stand by their columns, which are those of its cell.
        self._dofs = np.sort(cell_dofs(V, slice(count)), axis=1)
        each = self._dofs.shape[1]
        blocks = matrix.getValuesCSR()[2].reshape(count * each, each)[self._dofs]
        matrix.destroy()
        values, vectors = np.linalg.eigh(blocks)
        with parallel.together(V.mesh.comm):
            if not (values > 0.0).all():
                raise BadInput(
                    f"V: the mass matrix of {V.ufl_element()} is not positive in a cell; expected cells that are not "
                    "inverted, and a length above 0 everywhere"
                )
        self._root = np.einsum("cij,cj,ckj->cik", vectors, np.sqrt(values), vectors)
        self._inverse = np.einsum("cij,cj,ckj->cik", vectors, 1.0 / np.sqrt(values), vectors)

    def _applied(self, blocks: Array, v: Array) -> Array:
        result = np.empty_like(v)
        result[:, self._dofs] = np.einsum("cij,kcj->kci", blocks, v[:, self._dofs])
        return result

    def root(self, v: Array) -> Array:
        return self._applied(self._root, v)

    root_adjoint = root

    def inverse_root(self, v: Array) -> Array:
        return self._applied(self._inverse, v)

    inverse_root_adjoint = inverse_root

    def destroy(self) -> None:
        """Nothing to free."""


class ConsistentMass:
    """M_ij = ∫ φ_i φ_j, exactly. H is a function of M, to round-off. Collective to make."""

    def __init__(self, V: fem.FunctionSpace) -> None:
        self._matrix = petsc.assemble_matrix(fem.form(ufl.inner(ufl.TrialFunction(V), ufl.TestFunction(V)) * ufl.dx))
        self._matrix.assemble()
        # K Kᵀ = M⁻¹, so H = K⁻ᵀ.
        self._inverse = InverseRoot(self._matrix)
        self.root = self._inverse.inverse_adjoint
        self.root_adjoint = self._inverse.inverse
        self.inverse_root = self._inverse.adjoint
        self.inverse_root_adjoint = self._inverse.apply

    def destroy(self) -> None:
        """Free the matrix."""
        self._inverse.destroy()
        self._matrix.destroy()


def nodal_measure(V: fem.FunctionSpace) -> ufl.Measure:
    """dx with one quadrature point in each node of V's element, so that a mass matrix is diagonal."""
    element = V.sub(0).ufl_element() if V.dofmap.index_map_bs > 1 else V.ufl_element()
    points, weights = basix.make_quadrature(element.cell_type, 2 * element.embedded_superdegree)
    squares = weights @ element.tabulate(0, points)[0] ** 2
    # Lists, since UFL's signature of a form sees all digits of these and few of an array.
    rule = {
        "quadrature_rule": "custom",
        "quadrature_points": compat.interpolation_points(V).tolist(),
        "quadrature_weights": (squares * (weights.sum() / squares.sum())).tolist(),
    }
    return ufl.dx(domain=V.mesh, metadata=rule)
