"""The Whittle–Matérn prior: Gaussian fields with a correlation length and a pointwise standard deviation."""

from __future__ import annotations

import math
from functools import cached_property

import basix
import numpy as np
import numpy.typing as npt
import ufl
from dolfinx import fem, la
from dolfinx.fem import petsc
from petsc4py import PETSc

from relax.base import parallel
from relax.base.checks import of_kind, one_of, positive
from relax.base.fem import compat
from relax.base.fem.coefficients import Coefficient, interpolated
from relax.base.fem.forms import num_owned
from relax.base.fem.layout import ControlLayout, Kind, SpaceLayout, as_rows, control_layout
from relax.base.fem.submeshes import boundary_measure
from relax.base.la.linear import LinearSolver
from relax.base.la.options import DIRECT_SYMMETRIC, Options, merged, same_on_all_ranks
from relax.base.la.work import work_vectors
from relax.base.log import logger
from relax.base.types import Array
from relax.errors import BadInput
from relax.invert.priors.identity import vector_of
from relax.invert.restricted import RestrictedInverse

# Right-hand sides that go through one block solve; more are taken in turns, to bound the memory.
_BLOCK = 64

# Robin coefficients, in units of gamma * kappa, with which the variance on a flat boundary equals that far inside.
# On the half-space the Fourier mode k along the wall has kappa_k = sqrt(kappa**2 + |k|**2) and contributes the variance
# (1 + r)**2 / (8 kappa_k**3) on the wall, r = (1 - b kappa/kappa_k) / (1 + b kappa/kappa_k), against 2 / (8 kappa_k**3)
# inside; b makes the two sums over k equal: sqrt(2) - 1 in 1-D, 1 in 3-D, a root found numerically in 2-D.
_ROBIN = {1: math.sqrt(2.0) - 1.0, 2: 0.5508819467298667, 3: 1.0}


class SmoothnessPrior:
    """The Gaussian field m ~ N(mean, C) of Whittle and Matérn, with C⁻¹ = A D⁻¹ A.

    A discretises the operator of (δ − γ Δ) (m − mean) = white noise, with γ ∂m/∂n + β m = 0 on the boundary:

        A = δ D + γ K + β B,    K_ij = ∫ ∇φ_i·∇φ_j dx,    B_ij = ∫ φ_i φ_j ds,    D_ii the lumped mass.

    Far from the boundary such a field has the Matérn covariance of smoothness ν = 2 − d/2, d the dimension of the mesh
    (1, 2 or 3), and with κ = √(8ν) / length and γ = τ, δ = τ κ²

        variance = Γ(ν) / ((4π)^(d/2) κ^(2ν) τ²) = std²,

    correlation about 0.14 at the distance ``length`` (Lindgren, Rue and Lindström, J. R. Stat. Soc. B 73 (2011)
    423–498, where τ and the range √(8ν)/κ are defined). As a prior for inverse problems: Bui-Thanh, Ghattas, Martin and
    Stadler, SIAM J. Sci. Comput. 35 (2013) A2494; Villa, Petra and Ghattas, ACM Trans. Math. Softw. 47 (2021),
    hIPPYlib.

    Boundary: with β = 0 the standard deviation is √2 times ``std`` on a flat boundary, more in corners. By default
    β = b γ κ, b such that it is ``std`` on a flat boundary too (b = 0.414, 0.551, 1 in 1-D, 2-D, 3-D; hIPPYlib takes
    1/1.42).

    D, the mass matrix and the covariance of white noise, is ∫ φ_i φ_j by quadrature in the nodes of the element, with
    weights in proportion to ∫ φ_i²: positive at any degree, where row sums are not (Hinton, Rock and Zienkiewicz,
    Earthq. Eng. Struct. Dyn. 4 (1976) 245–249), and row sums at degree 1. As D is diagonal, the square root L = A⁻¹ D^½
    is square and all methods are consistent to round-off: C = L Lᵀ, ``whiten(color(xi)) == xi``. The standard deviation
    is within 6 % of ``std`` when the cells are shorter than length/4, and within 3 % at length/8 (measured in 2-D,
    degree 1; D in A too, as in Lindgren et al., halves the error that the consistent mass there has).

    Collective, as are all methods. One factorisation of A, kept; options prefix ``relax_prior_``. Nothing is gathered
    in layout="owned" but by ``sample``.

    Args:
        V: the space of the control: continuous Lagrange of any degree. The components of a vector are independent.
        length: correlation length, in units of the mesh. A warning says when the cells are too large for it.
        std: pointwise standard deviation.
        mean: a number (a list of them for a vector field), a function of x, a UFL expression, or a control vector.
        layout: that of the ``ReducedMap``: "replicated" or "owned".
        boundary: "robin" (above) or "neumann", β = 0.
        options: PETSc options, over MUMPS Cholesky and below the command line.

    Raises:
        BadInput: for lengths and deviations that are not positive, and spaces that are not continuous Lagrange.
        SolveFailed: when A cannot be factored.
    """

    def __init__(
        self,
        V: fem.FunctionSpace,
        *,
        length: float,
        std: float,
        mean: Coefficient = 0.0,
        layout: Kind = "replicated",
        boundary: str = "robin",
        options: Options | None = None,
    ) -> None:
        of_kind(V, fem.FunctionSpace, "the function space of a control", "V")
        self.space = V
        self.length = positive(length, "length")
        self.std = positive(std, "std")
        one_of(boundary, ("robin", "neumann"), "boundary")
        _check_space(V)
        self._comm = V.mesh.comm
        self._layout: ControlLayout = control_layout(layout, self._comm, [fem.Function(V)])
        self.kind: Kind = self._layout.kind
        self.size = self._layout.size
        self._num_owned = num_owned(V)
        _warn_if_unresolved(V, self.length)

        dim = V.mesh.topology.dim
        nu = 2.0 - dim / 2.0
        kappa = math.sqrt(8.0 * nu) / self.length
        self.gamma = math.sqrt(math.gamma(nu) / (4.0 * math.pi) ** (dim / 2.0)) / (kappa**nu * self.std)
        self.delta = self.gamma * kappa**2
        self.beta = _ROBIN[dim] * self.gamma * kappa if boundary == "robin" else 0.0
        self._matrix = self._operator()
        same_on_all_ranks(self._comm, "relax_prior_", options)
        self._solver = LinearSolver(self._comm, "relax_prior_", merged(DIRECT_SYMMETRIC, options), self_adjoint=True)
        self._solver.factor(self._matrix)
        self._in, self._out = self._matrix.createVecs()
        self._mass = _nodal_mass(V)
        self._root = np.sqrt(self._mass)
        self.mean: Array = self._vector(mean)

    def _operator(self) -> PETSc.Mat:
        V = self.space
        u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
        # Constants rather than numbers: one compiled form serves all lengths and deviations.
        delta, gamma, beta = (fem.Constant(V.mesh, x) for x in (self.delta, self.gamma, self.beta))
        form = delta * ufl.inner(u, v) * _nodal_measure(V) + gamma * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
        form += beta * ufl.inner(u, v) * boundary_measure(V.mesh)
        matrix = petsc.assemble_matrix(fem.form(form))
        matrix.assemble()
        matrix.setOption(PETSc.Mat.Option.SPD, True)
        return matrix

    def _vector(self, mean: Coefficient) -> Array:
        if isinstance(mean, np.ndarray) and mean.ndim == 1:
            return vector_of(self._comm, mean, self.size, "mean")
        field = interpolated(mean, self.space)
        return self._layout.checked(self._layout.join([field.x.array[: self._num_owned]]), "mean")

    def _rows(self, vectors: Array, what: str, origin: Array | float = 0.0) -> Array:
        """Control vectors (..., size), less ``origin``, as this rank's own values (k, owned)."""
        rows = as_rows(self._layout.checked(vectors, what) - origin)
        owned = np.empty((len(rows), self._num_owned))
        for i in range(len(rows)):
            owned[i] = self._layout.split(rows[i])[0][: self._num_owned]
        return owned

    def _join(self, owned: Array, like: Array) -> Array:
        return self._layout.join([owned.reshape(*np.shape(like)[:-1], self._num_owned)])

    def _apply(self, owned: Array) -> Array:
        """A v, row by row."""
        result = np.empty_like(owned)
        for i, row in enumerate(owned):
            self._in.array[:] = row
            self._matrix.mult(self._in, self._out)
            result[i] = self._out.array_r
        return result

    def _solve(self, owned: Array) -> Array:
        """A⁻¹ v, row by row, in blocks."""
        result = np.empty_like(owned)
        for start in range(0, len(owned), _BLOCK):
            result[start : start + _BLOCK] = self._solver.solve_many(owned[start : start + _BLOCK])
        return result

    def cost(self, m: Array) -> float:
        """½ (m − mean)ᵀ C⁻¹ (m − mean), for one control vector (size,)."""
        xi = self._apply(self._rows(m, "m", self.mean))[0] / self._root
        return 0.5 * parallel.dot(self._comm, xi, xi)

    def gradient(self, m: Array) -> Array:
        """C⁻¹ (m − mean), dual, for m of shape (..., size)."""
        return self._join(self._apply(self._apply(self._rows(m, "m", self.mean)) / self._mass), m)

    def precision(self, v: Array) -> Array:
        """C⁻¹ v for v of shape (..., size), primal to dual."""
        return self._join(self._apply(self._apply(self._rows(v, "v")) / self._mass), v)

    def covariance(self, v: Array) -> Array:
        """C v for v of shape (..., size), dual to primal: two solves, all rows at once."""
        return self._join(self._solve(self._solve(self._rows(v, "v")) * self._mass), v)

    def restricted(self, v: Array, free: npt.NDArray[np.bool_]) -> Array:
        """(C⁻¹_FF)⁻¹ v_F for the free entries F, zero elsewhere, for one vector: a factor for each F."""
        owned = self._layout.values(free.astype(np.float64))[0] > 0.5
        return self._join(self._precision.solve(self._rows(v, "v")[0], owned), v)

    @cached_property
    def _precision(self) -> RestrictedInverse:
        """A D⁻¹ A, assembled: it has the neighbours of neighbours."""
        scaled = self._matrix.copy()
        with work_vectors(scaled) as (inverse, _):
            inverse.array[:] = 1.0 / self._mass
            scaled.diagonalScale(inverse)
        product = self._matrix.matMult(scaled)
        scaled.destroy()
        return RestrictedInverse(product, "relax_prior_")

    def whiten(self, m: Array) -> Array:
        """L⁻¹ (m − mean), of shape (..., size): independent standard normal entries when m is drawn from the prior."""
        return self._join(self._apply(self._rows(m, "m", self.mean)) / self._root, m)

    def color(self, xi: Array) -> Array:
        """mean + L xi for xi of shape (..., size): the inverse of ``whiten``."""
        return self.mean + self._join(self._solve(self._rows(xi, "xi") * self._root), xi)

    def color_adjoint(self, v: Array) -> Array:
        """Lᵀ v for v of shape (..., size): a derivative with respect to m as one with respect to xi."""
        return self._join(self._solve(self._rows(v, "v")) * self._root, v)

    @cached_property
    def _numbering(self) -> SpaceLayout:
        return SpaceLayout(self.space)

    def sample(self, seed: int) -> Array:
        """A draw from the prior: the same field on any number of ranks, in either layout.

        So each rank draws the whole white noise (8 bytes per degree of freedom) and, with layout="owned", keeps its
        part; the first such draw also gathers the coordinates of all nodes, about 100 bytes each, once.
        """
        size = self.space.dofmap.index_map.size_global * self.space.dofmap.index_map_bs
        noise = np.random.default_rng(seed).standard_normal(size)
        if self.kind == "owned":
            noise = self._numbering.spread(noise)[: self._num_owned]
        return self.color(noise)

    def close(self) -> None:
        """Free the operator and its factor; the prior is of no use afterwards."""
        self._solver.destroy()
        if "_precision" in self.__dict__:
            self._precision.close()
        for item in (self._matrix, self._in, self._out):
            item.destroy()


def _check_space(V: fem.FunctionSpace) -> None:
    part = V.sub(0) if V.dofmap.index_map_bs > 1 else V
    element = part.ufl_element()
    lagrange = getattr(element, "element_family", None) == basix.ElementFamily.P and not element.discontinuous
    if not lagrange or not V.element.interpolation_ident:
        raise BadInput(
            f"V: expected a continuous Lagrange space, scalar or vector, got {V.ufl_element()}; a control that is "
            "constant in each cell can be written as a Lagrange field of degree 1 in the form"
        )


def _warn_if_unresolved(V: fem.FunctionSpace, length: float) -> None:
    dim = V.mesh.topology.dim
    cells = np.arange(V.mesh.topology.index_map(dim).size_local, dtype=np.int32)
    largest = parallel.largest(V.mesh.comm, float(V.mesh.h(dim, cells).max(initial=0.0)))
    spacing = largest / V.ufl_element().embedded_superdegree
    if spacing > length:
        logger.warning(
            "SmoothnessPrior: nodes are up to %.3g apart, further than the correlation length %.3g; the field will not "
            "have the standard deviation asked for. Take a finer mesh or a larger length.",
            spacing,
            length,
        )


def _nodal_measure(V: fem.FunctionSpace) -> ufl.Measure:
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


def _nodal_mass(V: fem.FunctionSpace) -> Array:
    """The owned diagonal of D; for each component it sums to the volume. Collective."""
    block = V.dofmap.index_map_bs
    v = ufl.TestFunction(V)
    integrand = v if block == 1 else ufl.inner(ufl.as_vector([1.0] * block), v)
    mass = fem.Function(V)
    fem.assemble_vector(mass.x.array, fem.form(integrand * _nodal_measure(V)))
    mass.x.scatter_reverse(la.InsertMode.add)
    return mass.x.array[: num_owned(V)].copy()
