"""The operator A of a Whittle–Matérn field, δ − div Γ grad with a Robin condition, on Lagrange and DG spaces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import basix
import numpy as np
import ufl
from dolfinx import fem, mesh
from ufl.core.expr import Expr

from relax.base import parallel
from relax.base.checks import array_like, positive
from relax.base.fem import compat
from relax.base.fem.coefficients import Coefficient, as_coefficient, interpolated
from relax.base.fem.submeshes import boundary_measure, check_both_sides
from relax.base.log import logger
from relax.base.types import Array
from relax.errors import BadInput
from relax.invert.priors.white_noise import nodal_measure

#: A length: one for all directions, one for each axis, or a symmetric matrix of them.
Length: TypeAlias = Coefficient | Sequence[Coefficient]

# Robin coefficients, in units of gamma * kappa, with which the variance on a flat boundary equals that far inside.
# On the half-space the Fourier mode k along the wall has kappa_k = sqrt(kappa**2 + |k|**2) and contributes the variance
# (1 + r)**2 / (8 kappa_k**3) on the wall, r = (1 - b kappa/kappa_k) / (1 + b kappa/kappa_k), against 2 / (8 kappa_k**3)
# inside; b makes the two sums over k equal: sqrt(2) - 1 in 1-D, 1 in 3-D, a root found numerically in 2-D.
_ROBIN = {1: math.sqrt(2.0) - 1.0, 2: 0.5508819467298667, 3: 1.0}


@dataclass(frozen=True)
class Operator:
    """Coefficients of A = ∫ δ u v + Γ∇u·∇v dx + ∫ β u v ds, and w of the white noise, ∫ w u v dx.

    Attributes:
        delta, gamma, beta: UFL; Γ is a scalar or a symmetric matrix.
        weight: w; None for 1.
        is_lumped: whether M and the first term of A are by quadrature in the nodes of a Lagrange space, or exact.
    """

    delta: Expr
    gamma: Expr
    beta: Expr
    weight: Expr | None = None
    is_lumped: bool = True


def of_length(V: fem.FunctionSpace, length: Length, angle: Coefficient, *, robin: bool) -> tuple[Operator, Array]:
    """The operator of the field of standard deviation 1, and the least length in each owned cell. Collective.

    With Λ the matrix of lengths, the field is that of length 1 in the metric Λ⁻²: where Λ is that of a change of
    coordinates, the field is the image of a stationary one. So A = τ ∫ (8ν u v + Λ²∇u·∇v) / q dx + τ √(8ν) b
    ∫ |Λn| u v / q ds and M = ∫ w u v dx, with q = det Λ, w = 1/q; for numbers q = √(det Λ), w = 1 give the same field.

    Raises:
        BadInput: for lengths that are not positive, or of another shape.
    """
    domain = V.mesh
    tdim, gdim = domain.topology.dim, domain.geometry.dim
    lengths, is_number = _matrix_of(V, length, angle, "length")
    smallest = _check_matrices(V, lengths, "length")
    nu = 2.0 - tdim / 2.0
    tau = math.sqrt(math.gamma(nu) / (4.0 * math.pi) ** (tdim / 2.0)) * (8.0 * nu) ** (-nu / 2.0)
    if lengths.ufl_shape and tdim != gdim:
        raise BadInput(
            f"length: expected one for all directions on a mesh of dimension {tdim} in {gdim} dimensions, got several"
        )
    root = math.sqrt(8.0 * nu)
    if not lengths.ufl_shape:
        if is_number:
            # Numbers rather than products of Constants: one compiled form serves all lengths.
            ell = float(np.asarray(lengths.value))
            scale = tau * ell ** (-tdim / 2.0)
            numbers = (scale * root**2, scale * ell**2, scale * root * ell * _ROBIN[tdim] * robin)
            return Operator(*(fem.Constant(domain, x) for x in numbers)), smallest
        det, along, squared = lengths**tdim, lengths, lengths**2
    else:
        det, along = ufl.det(lengths), ufl.sqrt(_square(lengths * ufl.FacetNormal(domain)))
        squared = lengths * lengths
    q = ufl.sqrt(det) if is_number else det
    c, d, b = (fem.Constant(domain, x) for x in (tau * root**2, tau, tau * root * _ROBIN[tdim] * robin))
    return Operator(c / q, d * squared / q, b * along / q, None if is_number else 1.0 / det), smallest


def _matrix_of(V: fem.FunctionSpace, given: Any, angle: Coefficient, what: str) -> tuple[Expr, bool]:
    """Λ as a scalar or a matrix in UFL, and whether it is the same everywhere. Collective."""
    domain, gdim = V.mesh, V.mesh.geometry.dim
    is_turned = isinstance(angle, Expr) or callable(angle) or angle != 0.0
    scalar = fem.functionspace(domain, ("DG" if domain.topology.dim == 0 else "Lagrange", 1))

    def expression(value: Any, name: str) -> Expr:
        if isinstance(value, Expr) or callable(value):
            return as_coefficient(value, scalar)
        return fem.Constant(domain, positive(value, name))

    if isinstance(given, list | tuple | np.ndarray):
        entries: Array = np.empty(0)
        if not any(isinstance(x, Expr) or callable(x) for x in given):
            entries = np.asarray(array_like(given, what), dtype=np.float64)
        if entries.ndim == 2:
            if entries.shape != (gdim, gdim) or not np.allclose(entries, entries.T, rtol=1e-12, atol=0.0):
                raise BadInput(f"{what}: expected a symmetric matrix of shape ({gdim}, {gdim}), got {given!r:.80}")
            return _turned(fem.Constant(domain, entries), is_turned), True
        if len(given) != gdim:
            raise BadInput(f"{what}: expected one number, or {gdim}, one for each axis, got {given!r:.80}")
        axes = [expression(x, f"{what}[{i}]") for i, x in enumerate(given)]
        diagonal = ufl.as_matrix([[axes[i] if i == j else 0.0 for j in range(gdim)] for i in range(gdim)])
        is_number = all(isinstance(x, fem.Constant) for x in axes)
        if not is_turned:
            return diagonal, is_number
        if gdim != 2:
            raise BadInput("angle: expected 0 in another dimension than 2; give a symmetric matrix as length there")
        turn = as_coefficient(angle, scalar)
        R = ufl.as_matrix([[ufl.cos(turn), -ufl.sin(turn)], [ufl.sin(turn), ufl.cos(turn)]])
        return R * diagonal * R.T, is_number and isinstance(turn, fem.Constant)
    if isinstance(given, Expr) and given.ufl_shape == (gdim, gdim) and gdim > 1:
        return _turned(given, is_turned), isinstance(given, fem.Constant)
    if isinstance(given, Expr) and given.ufl_shape == (gdim,) and gdim > 1:
        return _matrix_of(V, [given[i] for i in range(gdim)], angle, what)
    if isinstance(given, Expr) and given.ufl_shape:
        raise BadInput(f"{what}: expected a scalar, {gdim} of them, or a matrix of {gdim} rows, got {given.ufl_shape}")
    lengths = expression(given, what)
    return _turned(lengths, is_turned), isinstance(lengths, fem.Constant)


def _turned(lengths: Expr, is_turned: bool) -> Expr:
    if is_turned:
        raise BadInput("angle: expected with a length for each axis, length=[along, across]; got it with another one")
    return lengths


def _square(v: Expr) -> Expr:
    return ufl.inner(v, v)


def _check_matrices(V: fem.FunctionSpace, given: Expr, what: str) -> Array:
    """The least eigenvalue in each owned cell: (num_cells,). Collective."""
    shape = given.ufl_shape
    if isinstance(given, fem.Constant):
        seen = np.broadcast_to(given.value, (1, *shape))
    else:
        seen = interpolated(given, fem.functionspace(V.mesh, ("DG", 0, shape))).x.array.reshape(-1, *shape)
    with parallel.together(V.mesh.comm):
        if not np.isfinite(seen).all():
            raise BadInput(f"{what}: expected finite numbers, got NaN or infinity in a cell")
        if shape and not np.allclose(seen, seen.transpose(0, 2, 1), rtol=1e-12, atol=0.0):
            raise BadInput(f"{what}: expected a symmetric matrix in each cell")
        least = np.linalg.eigvalsh(seen)[:, 0] if shape else seen
        if least.min(initial=np.inf) <= 0.0:
            raise BadInput(
                f"{what}: expected above 0 everywhere (of a matrix all eigenvalues), got {least.min():.3g} in a cell"
            )
        if shape and V.ufl_element().embedded_superdegree == 0 and (seen * (1.0 - np.eye(shape[0]))).any():
            raise BadInput(
                f"{what}: the fluxes between two cells of a DG space of degree 0 see no direction but that across "
                "their facet; expected one for each axis without an angle, or a space of degree 1"
            )
    count = V.mesh.topology.index_map(V.mesh.topology.dim).size_local
    return np.broadcast_to(least, count) if len(least) == 1 else least[:count]


def of_gamma_delta(V: fem.FunctionSpace, gamma: float, delta: float, theta: Any, robin: float) -> Operator:
    """A = δ M + γ K(Θ) + β B as hIPPYlib has it, all matrices exact. Collective.

    Raises:
        BadInput: for numbers that are not positive, and a theta that is no symmetric positive matrix.
    """
    gamma, delta = positive(gamma, "gamma"), positive(delta, "delta")
    numbers = (fem.Constant(V.mesh, x) for x in (delta, gamma, robin * math.sqrt(gamma * delta)))
    d, g, b = numbers
    if theta is not None:
        matrix, _ = _matrix_of(V, theta, 0.0, "theta")
        _check_matrices(V, matrix, "theta")
        g = g * matrix
    return Operator(d, g, b, is_lumped=False)


def warn_if_unresolved(V: fem.FunctionSpace, smallest: Array) -> None:
    """Say so where nodes are further apart than the least length in each owned cell, (num_cells,). Collective."""
    dim = V.mesh.topology.dim
    cells = np.arange(len(smallest), dtype=np.int32)
    spacing = V.mesh.h(dim, cells) / max(V.ufl_element().embedded_superdegree, 1)
    ratio = parallel.largest(V.mesh.comm, float((spacing / smallest).max(initial=0.0)))
    if ratio > 1.0:
        logger.warning(
            "SmoothnessPrior: nodes are up to %.3g times the correlation length apart; the field will not have the "
            "standard deviation asked for. Take a finer mesh or a larger length.",
            ratio,
        )


def check_space(V: fem.FunctionSpace) -> None:
    """Refuse spaces that the operator is not written for. Collective.

    Raises:
        BadInput: then.
    """
    part = V.sub(0) if V.dofmap.index_map_bs > 1 else V
    element = part.ufl_element()
    if getattr(element, "element_family", None) != basix.ElementFamily.P or not V.element.interpolation_ident:
        raise BadInput(
            f"V: expected a Lagrange or DG space, scalar or vector, got {V.ufl_element()}; for others "
            "relax.FormPrior(a) takes a form of your own"
        )
    if element.discontinuous:
        check_both_sides(V.mesh, "V")


def form_of(V: fem.FunctionSpace, A: Operator) -> ufl.Form:
    """A as a bilinear form: conforming; for DG by two-point fluxes (degree 0) or the symmetric interior penalty."""
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    element = (V.sub(0) if V.dofmap.index_map_bs > 1 else V).ufl_element()
    dx, dS, ds = ufl.dx(domain=V.mesh), ufl.dS(domain=V.mesh), boundary_measure(V.mesh)
    form = A.delta * ufl.inner(u, v) * (nodal_measure(V) if A.is_lumped and not element.discontinuous else dx)
    if element.embedded_superdegree == 0:
        return form + _two_point_fluxes(V, A, u, v, dS, ds)
    form += ufl.inner(_flux(A.gamma, u), ufl.grad(v)) * dx + A.beta * ufl.inner(u, v) * ds
    if element.discontinuous:
        form += _interior_penalty(V, A.gamma, element.embedded_superdegree, u, v, dS)
    return form


def _flux(gamma: Expr, u: Expr) -> Expr:
    """Γ grad u, a row for each component of u."""
    return ufl.dot(ufl.grad(u), gamma) if gamma.ufl_shape else gamma * ufl.grad(u)


def _across(gamma: Expr, n: Expr) -> Expr:
    """nᵀ Γ n."""
    return ufl.dot(n, ufl.dot(gamma, n)) if gamma.ufl_shape else gamma


def _two_point_fluxes(
    V: fem.FunctionSpace, A: Operator, u: Expr, v: Expr, dS: ufl.Measure, ds: ufl.Measure
) -> ufl.Form:
    """Σ ∫ T [u] [v] over facets, 1/T the sum of d/Γ of both sides, d the distance of a centre from the facet."""
    domain = V.mesh
    n, x = ufl.FacetNormal(domain), ufl.SpatialCoordinate(domain)
    centre = fem.Function(fem.functionspace(domain, ("DG", 0, (domain.geometry.dim,))))
    points = compat.interpolation_points(centre.function_space)
    centre.interpolate(fem.Expression(x, points))

    def resistance(side: str) -> Expr:
        return abs(ufl.dot(x(side) - centre(side), n(side))) / _across(A.gamma, n)(side)

    once = {"quadrature_degree": 0}
    form = ufl.inner(ufl.jump(u), ufl.jump(v)) / (resistance("+") + resistance("-")) * dS(metadata=once)
    outside = abs(ufl.dot(x - centre, n)) / _across(A.gamma, n)
    return form + A.beta / (1.0 + A.beta * outside) * ufl.inner(u, v) * ds(metadata=once)


def has_simplices(domain: mesh.Mesh) -> bool:
    """Whether the cells are intervals, triangles or tetrahedra. Local."""
    return len(basix.topology(domain.basix_cell())[0]) == domain.topology.dim + 1


def facet_over_cell(domain: mesh.Mesh, side: str) -> Expr:
    """|F|/|K| of the cell on one side of a facet, point by point: UFL knows the areas of simplices alone."""
    d = domain.topology.dim
    cell, facet = (1.0 / math.factorial(d), 1.0 / math.factorial(d - 1)) if has_simplices(domain) else (1.0, 1.0)
    scale = abs(ufl.classes.FacetJacobianDeterminant(domain)(side)) if d > 1 else 1.0
    return facet * scale / (cell * abs(ufl.JacobianDeterminant(domain)(side)))


def _interior_penalty(V: fem.FunctionSpace, gamma: Expr, k: int, u: Expr, v: Expr, dS: ufl.Measure) -> ufl.Form:
    """Terms of Arnold (SIAM J. Numer. Anal. 19 (1982) 742–760); the penalty as the trace inequality has it.

    On a simplex ∫_F w² <= (k+1)(k+d)/d |F|/|K| ∫_K w² (Warburton and Hesthaven, Comput. Methods Appl. Mech. Engrg. 192
    (2003) 2765–2773); on a product cell (k+1)² |F|/|K|. Each of a cell's facets takes its share.
    """
    domain = V.mesh
    d = domain.topology.dim
    facets = basix.topology(domain.basix_cell())[d - 1]
    trace = (k + 1.0) * (k + d) / d if has_simplices(domain) else (k + 1.0) ** 2
    n = ufl.FacetNormal(domain)

    def strength(side: str) -> Expr:
        return facet_over_cell(domain, side) * _across(gamma, n)(side)

    penalty = 0.25 * len(facets) * trace * (strength("+") + strength("-"))

    def across(w: Expr) -> Expr:
        """The mean of n · Γ grad w, n of the first side."""
        return 0.5 * sum(ufl.dot(_flux(gamma, w)(side), n("+")) for side in ("+", "-"))

    jumps = ufl.inner(across(u), ufl.jump(v)) + ufl.inner(across(v), ufl.jump(u))
    return (penalty * ufl.inner(ufl.jump(u), ufl.jump(v)) - jumps) * dS
