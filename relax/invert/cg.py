"""Conjugate gradients for (H + s C⁻¹) p = b with C as preconditioner, in the inner product of the map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from relax.base.types import Array


@dataclass(frozen=True)
class SearchDirection:
    """A direction to go from a control.

    Attributes:
        p: the direction, primal.
        precision_p: C⁻¹ p, dual, where it comes without an application of C⁻¹.
        length: of the first trial step, in units of p.
        iterations: of conjugate gradients.
        curved_down: whether negative curvature ended them.
        reach: how far the minimum may be where p goes less far, in the metric.
    """

    p: Array
    precision_p: Array | None = None
    length: float = 1.0
    iterations: int = 0
    curved_down: bool = False
    reach: float = 0.0


def conjugate_gradients(
    data_hessian: Callable[[Array], Array],
    covariance: Callable[[Array], Array],
    b: Array,
    covariance_b: Array,
    dot: Callable[[Array, Array], float],
    *,
    rtol: float,
    max_iterations: int,
    share: float = 1.0,
) -> SearchDirection:
    """Solve (H + s C⁻¹) p = b approximately, preconditioned by C. Collective.

    Stops at |r|_C <= rtol |b|_C with |r|_C² = rᵀ C r, or at a direction of negative curvature (Steihaug, SIAM J. Numer.
    Anal. 20 (1983) 626–637): the iterate so far is returned, or C b when it is the first, each of them a descent
    direction of the functional with derivative −b. Preconditioned by C the spectrum is that of I + C^½ H C^½, so the
    number of iterations depends on what the data say and not on the mesh.

    C⁻¹ is never applied: with z = C r and p = z + β p' also C⁻¹ p = r + β C⁻¹ p'. That saves its cost, and the digits
    that C⁻¹ C r loses on fine meshes.

    Args:
        data_hessian: v -> H v, primal to dual, symmetric; it may be indefinite.
        covariance: v -> C v, dual to primal, symmetric positive definite.
        b: the right-hand side, dual.
        covariance_b: C b.
        dot: the inner product over all ranks.
        rtol: relative tolerance.
        max_iterations: at most so many products with H; at least one is made.
        share: s.
    """
    x, precision_x = np.zeros_like(b), np.zeros_like(b)
    r, z = b.copy(), covariance_b
    p, precision_p = z.copy(), r.copy()
    rz = dot(r, z)
    goal = rtol**2 * rz
    for k in range(1, max(max_iterations, 1) + 1):
        Hp = data_hessian(p) + share * precision_p
        curvature = dot(p, Hp)
        if not curvature > 0.0:
            if k == 1:
                return SearchDirection(p, precision_p, iterations=k, curved_down=True)
            return SearchDirection(x, precision_x, iterations=k, curved_down=True)
        step = rz / curvature
        x += step * p
        precision_x += step * precision_p
        r -= step * Hp
        z = covariance(r)
        rz, before = dot(r, z), rz
        # Rounding can bring rz to zero or just below where r is exhausted.
        if rz <= goal:
            break
        p = z + (rz / before) * p
        precision_p = r + (rz / before) * precision_p
    return SearchDirection(x, precision_x, iterations=k)
