"""The Hamiltonian H = -1/2 Lap + V (hbar = m = 1, dimensionless) as a weak form, and a bound of its spectrum."""

from __future__ import annotations

from typing import Any

import basix
import numpy as np
import ufl
from dolfinx import fem
from dolfinx.mesh import Mesh
from ufl.core.expr import Expr

from relax.base import parallel
from relax.base.fem.coefficients import Coefficient, as_coefficient
from relax.base.fem.quadrature import with_fixed_degrees
from relax.errors import BadInput


def hamiltonian(u: Any, v: Any, potential: Any) -> ufl.Form:
    """<v, H u> = 1/2 (grad u, grad v) + (V u, v), for u and v that vanish on the boundary.

    Args:
        u: a UFL expression, a scalar or the real and imaginary parts of a wave function.
        v: another one of its shape.
        potential: V, a real scalar.
    """
    return (0.5 * ufl.inner(ufl.grad(u), ufl.grad(v)) + potential * ufl.inner(u, v)) * ufl.dx


def potential_coefficient(potential: Coefficient, V: fem.FunctionSpace) -> Expr:
    """A potential for forms on the mesh of ``V``: what :func:`relax.base.fem.coefficients.as_coefficient` makes of it.

    Collective.

    Raises:
        BadInput: when it is not a real scalar.
    """
    coefficient = as_coefficient(potential, V)
    if tuple(coefficient.ufl_shape) != ():
        raise BadInput(f"potential: expected a scalar, got an expression of shape {tuple(coefficient.ufl_shape)}")
    return coefficient


def quadrature_degree(form: ufl.Form) -> int:
    """The largest degree at which an integral of the form is computed, once its degrees are fixed."""
    return max(int(integral.metadata()["quadrature_degree"]) for integral in with_fixed_degrees(form).integrals())


class LowestValue:
    """The smallest value of a scalar expression at the points of a quadrature: where V is seen, V is not below it.

    With the points and positive weights of the rule that integrates V u v, no eigenvalue of the discrete Hamiltonian is
    below this value.

    Args:
        potential: V; live: its present values are looked at in each call.
        mesh: the mesh.
        degree: of the quadrature.
    """

    def __init__(self, potential: Expr, mesh: Mesh, degree: int) -> None:
        points, _ = basix.make_quadrature(mesh.basix_cell(), degree)
        self._mesh = mesh
        self._expression = fem.Expression(potential, points, comm=mesh.comm)
        self._cells = np.arange(mesh.topology.index_map(mesh.topology.dim).size_local, dtype=np.int32)

    def __call__(self) -> float:
        """The smallest value now, over all ranks.

        Collective.

        Raises:
            BadInput: when V is NaN or infinite at one of the points.
        """
        values = np.zeros(0)
        if self._cells.size > 0:
            values = self._expression.eval(self._mesh, self._cells)
        bad = parallel.total(self._mesh.comm, int(np.count_nonzero(~np.isfinite(values))))
        if bad > 0:
            raise BadInput(
                f"potential: expected finite values, got NaN or infinity at {bad} quadrature points; a hard wall is "
                "the boundary of the mesh, and a singular potential is cut off, as in 1/sqrt(x**2 + a**2)"
            )
        return -parallel.largest(self._mesh.comm, -float(np.min(values, initial=np.inf)))
