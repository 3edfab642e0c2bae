"""The Gaussian prior whose precision is a bilinear form."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import ufl
from dolfinx import fem
from dolfinx.fem import petsc
from petsc4py import PETSc

from relax.base import parallel
from relax.base.checks import of_kind
from relax.base.fem.coefficients import Coefficient
from relax.base.fem.forms import compiled
from relax.base.fem.layout import Kind
from relax.base.fem.submeshes import check_both_sides
from relax.base.la.linear import LinearSolver
from relax.base.la.matrices import SYMMETRY, asymmetry, products
from relax.base.la.options import DIRECT_COUNTING, Merged, Options, merged, same_on_all_ranks
from relax.base.la.roots import InverseRoot
from relax.base.types import Array
from relax.errors import BadInput, SolveFailed
from relax.invert.priors.variance import of_covariance, variance
from relax.invert.priors.vectors import FieldVectors

PREFIX = "relax_prior_"


class FormPrior:
    """The Gaussian field m ~ N(mean, C) with C⁻¹ = R, R_ij = a(φ_j, φ_i): cost ½ a(m − mean, m − mean).

    a is any symmetric positive definite bilinear form: L², ``inner(u, v) * dx``; H¹, ``(inner(u, v) + ℓ² *
    inner(grad(u), grad(v))) * dx``; those of plates, with jumps over facets, on parts of the boundary beside one on the
    whole. Coefficients in it count as they are when the prior is made. Units: those of 1/m² for the form's value.

    A quadratic form alone gives draws that depend on the mesh: in two dimensions fields of H¹ have no variance in a
    point, it grows like log(1/h), in three like 1/h; those of L² are white noise. As a penalty, and as a metric, they
    are as good on any mesh. ``SmoothnessPrior`` has a variance.

    The square root is L = W^-½ (W^-½ R W^-½)^-½, W the diagonal of R: C = L Lᵀ and ``whiten(color(xi)) == xi`` to
    1e-12 times the condition of R. It needs about 25 factors (their number grows with the logarithm of the condition of
    R), made and kept when the first draw, ``whiten`` or ``color`` asks for them; ``covariance`` needs one, made with
    the prior.

    Collective, as are all methods. Options prefix ``relax_prior_``.

    Args:
        a: a form of two arguments in one space, which is that of the control.
        mean: a number (a list of them for a vector field), a function of x, a UFL expression, or a control vector.
        layout: that of the ``ReducedMap``: "replicated" or "owned".
        options: PETSc options, over MUMPS Cholesky and below the command line.

    Raises:
        BadInput: on every rank, for a form that is not bilinear in one space, not symmetric, or not positive definite.
    """

    def __init__(
        self, a: ufl.Form, *, mean: Coefficient = 0.0, layout: Kind = "replicated", options: Options | None = None
    ) -> None:
        self.space = _space_of(a)
        self._vectors = FieldVectors(self.space, layout)
        self._comm = self._vectors.comm
        self.kind: Kind = self._vectors.kind
        self.size = self._vectors.size
        if any(i.integral_type().startswith("interior_facet") for i in a.integrals()):
            check_both_sides(self.space.mesh, "a")
        self._matrix: PETSc.Mat = petsc.assemble_matrix(compiled(a))
        self._matrix.assemble()
        same_on_all_ranks(self._comm, PREFIX, options)
        self._options: Merged = merged(DIRECT_COUNTING, options)
        self._solver = LinearSolver(self._comm, PREFIX, self._options, self_adjoint=True)
        self._factor()
        self.mean: Array = self._vectors.vector(mean, "mean")

    def _factor(self) -> None:
        gap = asymmetry(self._matrix)
        if not gap < 100.0 * SYMMETRY:
            raise BadInput(
                f"a: expected a symmetric form, a(u, v) = a(v, u), got one that differs from its transpose by "
                f"{gap:.1e} of its size (or holds NaN)"
            )
        definite = (
            "a: expected a positive definite form, one that is above 0 for every field but 0; got one that {}. One of "
            "derivatives alone is 0 for constants: add a multiple of inner(u, v) * dx"
        )
        try:
            self._solver.factor(self._matrix)
            # A direct solver calls singular matrices solved.
            probe = np.random.default_rng([21, self._comm.rank]).standard_normal((1, self._vectors.num_owned))
            response = self._solver.solve_many(probe)
        except SolveFailed as cause:
            raise BadInput(definite.format(f"cannot be solved with ({cause})")) from cause
        negative = self._solver.negative_pivots() or 0
        if negative or parallel.sum_over_ranks(self._comm, (probe * response).sum(axis=1))[0] <= 0.0:
            raise BadInput(definite.format(f"is negative for some ({negative} negative eigenvalues)"))

    @cached_property
    def _root(self) -> InverseRoot:
        return InverseRoot(self._matrix, solver=self._solver, options=self._options, prefix=PREFIX)

    def cost(self, m: Array) -> float:
        """½ a(m − mean, m − mean), for one control vector (size,)."""
        d = self._vectors.rows(m, "m", self.mean)
        return 0.5 * parallel.dot(self._comm, d[0], products(self._matrix, d)[0])

    def gradient(self, m: Array) -> Array:
        """C⁻¹ (m − mean), dual, for m of shape (..., size): a(m − mean, ·)."""
        return self._vectors.join(products(self._matrix, self._vectors.rows(m, "m", self.mean)), m, dual=True)

    def precision(self, v: Array) -> Array:
        """C⁻¹ v for v of shape (..., size), primal to dual: a product with R."""
        return self._vectors.join(products(self._matrix, self._vectors.rows(v, "v")), v, dual=True)

    def covariance(self, v: Array) -> Array:
        """C v for v of shape (..., size), dual to primal: a solve with R, all rows at once."""
        return self._vectors.join(self._solver.solve_many(self._vectors.rows(v, "v", dual=True)), v)

    def whiten(self, m: Array) -> Array:
        """L⁻¹ (m − mean), of shape (..., size): independent standard normal entries when m is drawn from the prior."""
        return self._vectors.join(self._root.inverse(self._vectors.rows(m, "m", self.mean)), m)

    def color(self, xi: Array) -> Array:
        """mean + L xi for xi of shape (..., size): the inverse of ``whiten``."""
        return self.mean + self._vectors.join(self._root.apply(self._vectors.rows(xi, "xi")), xi)

    def color_adjoint(self, v: Array) -> Array:
        """Lᵀ v for v of shape (..., size): a derivative with respect to m as one with respect to xi."""
        return self._vectors.join(self._root.adjoint(self._vectors.rows(v, "v", dual=True)), v, dual=True)

    def sample(self, seed: int) -> Array:
        """A draw from the prior: the same field on any number of ranks, in either layout.

        But for spaces whose values on a face turn into one another, such as N1curl of degree 2 in three dimensions,
        where the draw is one of the prior, and another one on another number of ranks.
        """
        return self.color(self._vectors.noise(seed))

    def variance(self, *, samples: int | None = None, seed: int = 0) -> Array:
        """The diagonal of C, a control vector: exactly, by a solve for each value, or the mean square of draws.

        Args:
            samples: how many draws; its relative standard error is √(2/samples). None for the exact one.
            seed: of the draws.
        """
        diagonal = of_covariance(self._vectors, self._solver.solve_many)
        return variance(self._vectors, samples, seed, diagonal=diagonal, colored=lambda v: self._root.apply(v))

    def close(self) -> None:
        """Free the matrix and its factors; the prior is of no use afterwards."""
        if "_root" in self.__dict__:
            self._root.destroy()
        self._solver.destroy()
        self._matrix.destroy()


def _space_of(a: ufl.Form) -> fem.FunctionSpace:
    """The space of both arguments.

    Raises:
        BadInput: where there are not two of one.
    """
    of_kind(a, ufl.Form, "a bilinear form of UFL, such as inner(u, v) * dx of a trial and a test function", "a")
    spaces = [argument.ufl_function_space() for argument in a.arguments()]
    if len(spaces) != 2 or spaces[0] != spaces[1]:
        raise BadInput(
            f"a: expected a form in ufl.TrialFunction(V) and ufl.TestFunction(V) of one space, got one of "
            f"{len(spaces)} arguments{' in different spaces' * (len(spaces) == 2)}"
        )
    V: fem.FunctionSpace = spaces[0]
    return V
