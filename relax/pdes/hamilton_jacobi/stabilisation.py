"""Viscosity by which the equations of degree 1 become monotone on any mesh of simplices."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import combinations, permutations

import ufl
from dolfinx import fem
from ufl.core.expr import Expr

from relax.errors import BadInput

# A jump within a cell, over the viscosity, that is as good as none.
_FLAT = 0.1


def check_simplices(equation: str, V: fem.FunctionSpace) -> None:
    """Refuse cells that are no simplices. Local.

    Raises:
        BadInput: naming the cells.
    """
    cell = V.mesh.topology.cell_name()
    if cell not in ("interval", "triangle", "tetrahedron"):
        raise BadInput(
            f"{equation}: stabilisation: expected a mesh of intervals, triangles or tetrahedra, got {cell} cells; "
            "say stabilisation=False, or use another mesh"
        )


def graph_viscosity(u: Expr, v: ufl.Argument, nu: Expr, drift: Expr | None = None) -> ufl.Form:
    """Σ_K |K| mu_K Σ_{i<j} (u_i - u_j)(v_i - v_j) over the vertices of each cell K.

    Local. With H(p) = ½ |p|² + b · p, the viscosity nu and a lumped mass matrix, the derivative of the equation of a
    vertex i in the value at another vertex j of a cell is |K| times

        (p + b) · grad phi_j / (d + 1) + nu grad phi_i · grad phi_j - mu_K + ∂mu_K/∂u_j Σ_k (u_i - u_k).

    A step of the implicit Euler method is monotone, so that neither extremes nor slopes grow, when this is negative.
    With mu_K = w_K q, q² = Σ_{i<j} (u_i - u_j)² in the cell, it is on intervals and triangles of any shape, for any nu
    and any length of step (:func:`_weight`); on tetrahedra extremes do not grow, and of slopes it is not proved. b
    takes |b| max_j |grad phi_j| / (d + 1), obtuse angles take nu max_{i≠j} grad phi_i · grad phi_j on top. The error is
    of first order in h. On intervals this is the scheme of Engquist and Osher.

    Graph viscosity: Guermond and Nazarov, Comput. Methods Appl. Mech. Engrg. 272 (2014) 198–213.

    Args:
        u: the unknown, of degree 1; of a higher degree the form is a viscosity of the same size and not more.
        v: the test function.
        nu: the viscosity that is there already.
        drift: b.
    """
    V = v.ufl_function_space()
    domain, dim = V.mesh, V.mesh.topology.dim
    J, K = ufl.Jacobian(domain), ufl.JacobianInverse(domain)
    # Gradients of the barycentric coordinates: the rows of K, and what is left to their sum 0.
    rows = [ufl.as_vector([K[j, i] for i in range(domain.geometry.dim)]) for j in range(dim)]
    gradients = [-_sum(rows), *rows]
    widest = _largest([ufl.inner(a, b) for a, b in combinations(gradients, 2)])

    def over_edges(a: Expr, b: Expr) -> Expr:
        """Σ_{i<j} of products of differences: over the reference simplex, Σ e eᵀ is (d + 1) I less a matrix of ones."""
        da, db = ufl.dot(ufl.transpose(J), ufl.grad(a)), ufl.dot(ufl.transpose(J), ufl.grad(b))
        return (dim + 1) * ufl.inner(da, db) - _sum([da[i] for i in range(dim)]) * _sum([db[i] for i in range(dim)])

    # Where u is flat its square root would have no second derivative: nu is in the units of u.
    q = ufl.sqrt(over_edges(u, u) + (_FLAT * nu) ** 2)
    size = _weight(gradients) * q + nu * ufl.max_value(widest, 0.0)
    if drift is not None:
        size += ufl.sqrt(ufl.inner(drift, drift)) * _largest([ufl.sqrt(ufl.inner(g, g)) for g in gradients]) / (dim + 1)
    return size * over_edges(u, v) * ufl.dx(metadata={"quadrature_degree": 3 * V.ufl_element().degree})


def _weight(gradients: Sequence[Expr]) -> Expr:
    """w_K, from the gradients of the barycentric coordinates. Local.

    In terms of s_k = u_k - mean u, with q² = (d + 1) Σ s_k² and p · grad phi_j = a · s, a_k = grad phi_k · grad phi_j,

        a · s / (d + 1) - w q + w (d + 1)² s_i s_j / q <= 0 for all s with Σ s_k = 0

    is asked for. On intervals s_j = -s_i, and w = |grad phi|² / 4. On triangles with the third vertex m,
    q² - 9 s_i s_j = (3/2) α² + (15/2) γ² in α = (s_i + s_j - 2 s_m)/√6 and γ = (s_i - s_j)/√2, and the inequality of
    Cauchy and Schwarz gives w = (2/√27) ((3/2) a_m² + (a_i - a_j)²/10)^½, the largest of all i and j. On tetrahedra no
    w will do for all s; twice |a| / (d + 1)^(3/2), which is twice what extremes need, is taken.
    """
    a = [[ufl.inner(g, h) for g in gradients] for h in gradients]
    if len(gradients) == 2:
        return a[0][0] / 4
    if len(gradients) == 3:
        triples = permutations(range(3))
        return (
            2
            / 27**0.5
            * _largest([ufl.sqrt(1.5 * a[j][m] ** 2 + (a[j][i] - a[j][j]) ** 2 / 10) for i, j, m in triples])
        )
    return _largest([ufl.sqrt(_sum([entry**2 for entry in row])) for row in a]) / 4


def _sum(terms: Sequence[Expr]) -> Expr:
    return reduce(lambda a, b: a + b, terms)


def _largest(terms: Sequence[Expr]) -> Expr:
    return reduce(ufl.max_value, terms)
