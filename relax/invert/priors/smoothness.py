"""The Whittle–Matérn prior: Gaussian fields with a correlation length and a pointwise standard deviation."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import ufl
from dolfinx import fem
from dolfinx.fem import petsc
from petsc4py import PETSc
from ufl.core.expr import Expr

from relax.base import parallel
from relax.base.checks import one_of, positive
from relax.base.fem.coefficients import Coefficient, interpolated
from relax.base.fem.layout import Kind
from relax.base.la.linear import LinearSolver
from relax.base.la.matrices import products
from relax.base.la.options import DIRECT_SYMMETRIC, Options, merged, same_on_all_ranks
from relax.base.la.work import work_vectors
from relax.base.types import Array
from relax.errors import BadInput
from relax.invert.priors.variance import of_root, variance
from relax.invert.priors.vectors import FieldVectors
from relax.invert.priors.white_noise import LumpedMass, WhiteNoise, white_noise
from relax.invert.priors.whittle_matern import (
    Length,
    Operator,
    check_space,
    form_of,
    of_gamma_delta,
    of_length,
    warn_if_unresolved,
)
from relax.invert.restricted import RestrictedInverse

# Right-hand sides that go through one block solve; more are taken in turns, to bound the memory.
_BLOCK = 64
# hIPPYlib divides the Robin coefficient √(γδ) by it.
_ROBIN_OF_HIPPYLIB = 1.42


class SmoothnessPrior:
    """The Gaussian field m ~ N(mean, C) of Whittle and Matérn, with C⁻¹ = S⁻¹ A M⁻¹ A S⁻¹.

    A discretises the operator of (δ − div Γ grad) (m − mean) / std = white noise, with ∂m/∂(Γn) + β m = 0 on the
    boundary; S holds ``std`` in the nodes:

        A = δ M + K + β B,    K_ij = ∫ Γ∇φ_j·∇φ_i dx,    B_ij = ∫ φ_i φ_j ds,    M the lumped mass.

    Far from the boundary such a field has the Matérn covariance of smoothness ν = 2 − d/2, d the dimension of the mesh
    (1, 2 or 3), and with κ = √(8ν) / length, Γ = τ, δ = τ κ² and τ² = Γ(ν) / ((4π)^(d/2) κ^(2ν)) the variance std²,
    correlation about 0.14 at the distance ``length`` (Lindgren, Rue and Lindström, J. R. Stat. Soc. B 73 (2011)
    423–498, where τ and the range √(8ν)/κ are defined). As a prior for inverse problems: Bui-Thanh, Ghattas, Martin and
    Stadler, SIAM J. Sci. Comput. 35 (2013) A2494; Villa, Petra and Ghattas, ACM Trans. Math. Softw. 47 (2021),
    hIPPYlib.

    Several lengths: with Λ a symmetric matrix the field is the isotropic one of length 1 in the metric Λ⁻². Lengths and
    ``std`` may be fields: the field has ``std(x)`` at x and decays over ``length(x)`` there. Where lengths are those of
    a change of coordinates, as any are in 1-D, the field is the image of one of length 1, and ``std`` as good as there.

    Boundary: with β = 0 the standard deviation is √2 times ``std`` on a flat boundary, more in corners. By default
    β = b γ κ, b such that it is ``std`` on a flat boundary too (b = 0.414, 0.551, 1 in 1-D, 2-D, 3-D; hIPPYlib takes
    1/1.42; Daon and Stadler, Inverse Probl. Imaging 12 (2018) 1083–1102). Measured on the unit square, length 0.25, 64²
    cells: 1.01 to 1.03 inside, up to 1.075 beside the walls, up to 1.15 in corners (2.05 with β = 0). Where that is not
    flat enough, ``std`` divided by the root of ``variance()`` of the prior with std 1 is exactly so.

    M, the mass matrix and the covariance of white noise, is ∫ φ_i φ_j by quadrature in the nodes of the element, with
    weights in proportion to ∫ φ_i²: positive at any degree, where row sums are not (Hinton, Rock and Zienkiewicz,
    Earthq. Eng. Struct. Dyn. 4 (1976) 245–249), and row sums at degree 1. As M is diagonal, the square root
    L = S A⁻¹ M^½ is square and all methods are consistent to round-off: C = L Lᵀ, ``whiten(color(xi)) == xi``. The
    standard deviation is within 6 % of ``std`` when the cells are shorter than length/4, and within 3 % at length/8
    (measured in 2-D, degree 1; M in A too, as in Lindgren et al., halves the error that the exact mass there has). In
    DG spaces M is exact, a block for each cell.

    DG spaces: degree 0 by fluxes between the centres of two cells, higher ones by the symmetric interior penalty. The
    fluxes are right on boxes. On triangles ``std`` is within 2 %, but lengths depend on the direction, by up to a
    quarter in a structured mesh; lengths in directions other than the axes need degree 1.

    hIPPYlib's numbers: ``gamma`` and ``delta`` in place of ``length`` and ``std`` give its BiLaplacianPrior, with
    A = γ K + δ M + β B, K with its ``theta``, β = √(γδ)/1.42, C⁻¹ = A M⁻¹ A, and M the exact mass matrix. L is then
    A⁻¹ M^½ with the symmetric root (up to a diagonal scaling), a polynomial in M exact to round-off.

    Collective, as are all methods. One factorisation of A, kept; options prefix ``relax_prior_``. Nothing is gathered
    in layout="owned" but by ``sample``.

    Args:
        V: the space of the control: Lagrange or DG of any degree. The components of a vector are independent.
        length: correlation length, in units of the mesh: a number, a function of x or a UFL expression; a list of such,
            one for each axis; or a symmetric positive matrix, of numbers or UFL, with the lengths along its
            eigenvectors. A warning says when the cells are too large for it.
        std: pointwise standard deviation: a number, a function of x, or a UFL expression.
        mean: a number (a list of them for a vector field), a function of x, a UFL expression, or a control vector.
        layout: that of the ``ReducedMap``: "replicated" or "owned".
        boundary: "robin" (above) or "neumann", β = 0.
        options: PETSc options, over MUMPS Cholesky and below the command line.
        angle: in 2-D, by which the axes of a list of lengths are turned, counterclockwise: radians; a number or field.
        gamma, delta: positive numbers.
        theta: with these, a symmetric positive matrix, of numbers or UFL; the identity where it is left out.

    Attributes:
        length, std: as given; None with ``gamma`` and ``delta``.

    Raises:
        BadInput: for lengths and deviations that are not positive, and spaces that are neither Lagrange nor DG.
        SolveFailed: when A cannot be factored.
    """

    def __init__(
        self,
        V: fem.FunctionSpace,
        *,
        length: Length | None = None,
        std: Coefficient | None = None,
        mean: Coefficient = 0.0,
        layout: Kind = "replicated",
        boundary: str = "robin",
        options: Options | None = None,
        angle: Coefficient = 0.0,
        gamma: float | None = None,
        delta: float | None = None,
        theta: Any = None,
    ) -> None:
        self._vectors = FieldVectors(V, layout)
        self.space = V
        self.length, self.std = length, std
        one_of(boundary, ("robin", "neumann"), "boundary")
        check_space(V)
        self._comm = self._vectors.comm
        self.kind: Kind = self._vectors.kind
        self.size = self._vectors.size
        robin = boundary == "robin"
        if length is not None and std is not None and gamma is None and delta is None and theta is None:
            operator, smallest = of_length(V, length, angle, robin=robin)
            warn_if_unresolved(V, smallest)
            # Of each owned value; a column for rows of vectors.
            self._std = _owned_std(V, std)
        elif length is None and std is None and gamma is not None and delta is not None:
            operator = of_gamma_delta(V, gamma, delta, theta, robin=robin / _ROBIN_OF_HIPPYLIB)
            self._std = np.ones(self._vectors.num_owned)
        else:
            raise BadInput(
                "SmoothnessPrior: expected either length and std, or gamma and delta (and theta), got "
                + ", ".join(k for k, v in _named(length, std, gamma, delta, theta) if v is not None)
            )
        self._white: WhiteNoise = white_noise(V, operator.weight, is_lumped=operator.is_lumped)
        self._matrix = _assembled(V, operator)
        same_on_all_ranks(self._comm, "relax_prior_", options)
        self._solver = LinearSolver(self._comm, "relax_prior_", merged(DIRECT_SYMMETRIC, options), self_adjoint=True)
        self._solver.factor(self._matrix)
        self.mean: Array = self._vectors.vector(mean, "mean")

    def _solve(self, owned: Array) -> Array:
        """A⁻¹ v, row by row, in blocks."""
        result = np.empty_like(owned)
        for start in range(0, len(owned), _BLOCK):
            result[start : start + _BLOCK] = self._solver.solve_many(owned[start : start + _BLOCK])
        return result

    def _whitened(self, owned: Array) -> Array:
        """L⁻¹ v, row by row."""
        return self._white.inverse_root(products(self._matrix, owned / self._std))

    def _whitened_adjoint(self, owned: Array) -> Array:
        """L⁻ᵀ v, row by row."""
        return np.asarray(products(self._matrix, self._white.inverse_root_adjoint(owned)) / self._std)

    def _colored(self, owned: Array) -> Array:
        """L v, row by row."""
        return np.asarray(self._std * self._solve(self._white.root(owned)))

    def _colored_adjoint(self, owned: Array) -> Array:
        """Lᵀ v, row by row."""
        return self._white.root_adjoint(self._solve(owned * self._std))

    def cost(self, m: Array) -> float:
        """½ (m − mean)ᵀ C⁻¹ (m − mean), for one control vector (size,)."""
        xi = self._whitened(self._vectors.rows(m, "m", self.mean))[0]
        return 0.5 * parallel.dot(self._comm, xi, xi)

    def gradient(self, m: Array) -> Array:
        """C⁻¹ (m − mean), dual, for m of shape (..., size)."""
        owned = self._vectors.rows(m, "m", self.mean)
        return self._vectors.join(self._whitened_adjoint(self._whitened(owned)), m)

    def precision(self, v: Array) -> Array:
        """C⁻¹ v for v of shape (..., size), primal to dual."""
        return self._vectors.join(self._whitened_adjoint(self._whitened(self._vectors.rows(v, "v"))), v)

    def covariance(self, v: Array) -> Array:
        """C v for v of shape (..., size), dual to primal: two solves, all rows at once."""
        return self._vectors.join(self._colored(self._colored_adjoint(self._vectors.rows(v, "v"))), v)

    def restricted(self, v: Array, free: npt.NDArray[np.bool_]) -> Array:
        """(C⁻¹_FF)⁻¹ v_F for the free entries F, zero elsewhere, for one vector: a factor for each F.

        Raises:
            BadInput: where M is not diagonal, so that C⁻¹ is no sparse matrix.
        """
        owned = self._vectors.rows(free.astype(np.float64), "free")[0] > 0.5
        return self._vectors.join(self._assembled_precision.solve(self._vectors.rows(v, "v")[0], owned)[None], v)

    @cached_property
    def _assembled_precision(self) -> RestrictedInverse:
        """C⁻¹ as a matrix: it has the neighbours of neighbours."""
        if not isinstance(self._white, LumpedMass):
            raise BadInput(
                "bounds: the prior's precision is no sparse matrix with an exact mass matrix; expected one of Lagrange "
                "elements with length and std, or metric='L2' or 'H1'"
            )
        scaled = self._matrix.copy()
        with work_vectors(scaled) as (mass, std):
            mass.array[:] = 1.0 / self._white.diagonal
            std.array[:] = 1.0 / self._std
            scaled.diagonalScale(mass, std)
            product = self._matrix.matMult(scaled)
            product.diagonalScale(std)
        scaled.destroy()
        return RestrictedInverse(product, "relax_prior_")

    def whiten(self, m: Array) -> Array:
        """L⁻¹ (m − mean), of shape (..., size): independent standard normal entries when m is drawn from the prior."""
        return self._vectors.join(self._whitened(self._vectors.rows(m, "m", self.mean)), m)

    def color(self, xi: Array) -> Array:
        """mean + L xi for xi of shape (..., size): the inverse of ``whiten``."""
        return self.mean + self._vectors.join(self._colored(self._vectors.rows(xi, "xi")), xi)

    def color_adjoint(self, v: Array) -> Array:
        """Lᵀ v for v of shape (..., size): a derivative with respect to m as one with respect to xi."""
        return self._vectors.join(self._colored_adjoint(self._vectors.rows(v, "v")), v)

    def sample(self, seed: int) -> Array:
        """A draw from the prior: the same field on any number of ranks, in either layout.

        So each rank draws the whole white noise (8 bytes per degree of freedom) and, with layout="owned", keeps its
        part; the first such draw also gathers the coordinates of all nodes, about 100 bytes each, once.
        """
        return self.color(self._vectors.noise(seed))

    def variance(self, *, samples: int | None = None, seed: int = 0) -> Array:
        """The diagonal of C, a control vector: exactly, by a solve for each value, or the mean square of draws.

        Args:
            samples: how many draws; its relative standard error is √(2/samples). None for the exact one.
            seed: of the draws.
        """
        diagonal = of_root(self._vectors, self._colored_adjoint)
        return variance(self._vectors, samples, seed, diagonal=diagonal, colored=self._colored)

    def close(self) -> None:
        """Free the operator and its factor; the prior is of no use afterwards."""
        self._solver.destroy()
        if "_assembled_precision" in self.__dict__:
            self._assembled_precision.close()
        self._white.destroy()
        self._matrix.destroy()


def _named(*values: Any) -> list[tuple[str, Any]]:
    return list(zip(("length", "std", "gamma", "delta", "theta"), values, strict=True))


def _owned_std(V: fem.FunctionSpace, std: Coefficient) -> Array:
    """The standard deviation of each value that this rank owns. Collective.

    Raises:
        BadInput: on every rank, where one is not positive.
    """
    count = V.dofmap.index_map.size_local * V.dofmap.index_map_bs
    if not isinstance(std, Expr | list | tuple | np.ndarray) and not callable(std):
        return np.full(count, positive(std, "std"))
    if isinstance(std, Expr) and std.ufl_shape == () and V.value_shape:
        std = ufl.as_vector([std] * V.value_shape[0])
    values: Array = interpolated(std, V).x.array[:count].copy()
    with parallel.together(V.mesh.comm):
        if not (np.isfinite(values) & (values > 0.0)).all():
            raise BadInput(f"std: expected above 0 everywhere, got {values.min():.3g} in a node")
    return values


def _assembled(V: fem.FunctionSpace, operator: Operator) -> PETSc.Mat:
    matrix = petsc.assemble_matrix(fem.form(form_of(V, operator)))
    matrix.assemble()
    matrix.setOption(PETSc.Mat.Option.SPD, True)
    return matrix
