"""The linear algebra of one Gauss–Newton or Newton step."""

from __future__ import annotations

import numpy as np

from relax.base import parallel
from relax.base.types import Array
from relax.invert.cg import SearchDirection
from relax.invert.objective import Trial


def exact(point: Trial, J: Array) -> SearchDirection:
    """The Gauss–Newton step by dense algebra in the space of observations. Collective.

    With q = m − mean, the step to the minimum of the linearised problem is

        p = C Jᵀ z − q,    (Σ² + J C Jᵀ) z = d − G(m) + J q

    (the posterior mean of the linear Gaussian model, for example Tarantola, Inverse Problem Theory, SIAM 2005). With
    C = L Lᵀ it costs size_out applications of Lᵀ, all at once, and one of C.
    """
    objective, prior = point.objective, point.objective.prior
    q = point.m - prior.mean
    # In units of the noise, so that the matrix is I plus a positive one.
    scaled = J / objective.noise[:, None]
    LtJt = prior.color_adjoint(scaled)
    sums = _sum(point, np.column_stack([LtJt @ LtJt.T, scaled @ q]))
    z = np.linalg.solve(np.eye(len(J)) + sums[:, :-1], sums[:, -1] - point.residual)
    dual = z @ scaled
    return SearchDirection(prior.covariance(dual) - q, dual - prior.gradient(point.m))


class DataHessian:
    """v -> Jᵀ Σ⁻² J v, plus the second derivative of G weighted by the misfit for Newton. Collective to call.

    Args:
        point: where.
        J: the Jacobian there, or None: products with the linearisation are used.
        newton: with the second derivative.
    """

    def __init__(self, point: Trial, J: Array | None, *, newton: bool) -> None:
        self._point = point
        self._J = J
        self._newton = newton

    def __call__(self, v: Array) -> Array:
        objective, lin = self._point.objective, self._point.lin
        weights = 1.0 / objective.noise**2
        if self._J is None:
            product = lin.vjp(weights * lin.jvp(v))
        else:
            product = (weights * _sum(self._point, self._J @ v)) @ self._J
        if self._newton:
            product = product + lin.hvp(self._point.residual / objective.noise, v)
        return product


def _sum(point: Trial, products: Array) -> Array:
    """Products of this rank's part of control vectors, summed over the ranks where each rank has its own part."""
    objective = point.objective
    return parallel.sum_over_ranks(objective.comm, products) if objective.G.layout.kind == "owned" else products
