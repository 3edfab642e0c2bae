"""Constants by least squares: Levenberg-Marquardt from several starts at once, slopes by complex steps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from relax.base.types import Array

# Of a step along the imaginary axis only the square is lost.
_STEP = 1e-30


def least_squares(
    rows: Callable[[list[Array]], Array], starts: Array, *, iterations: int, small: float = 0.0
) -> tuple[Array, Array]:
    """Constants at which Σ rows² is least, from each start, and half that sum; infinite where rows are not finite.

    Local.

    Args:
        rows: of complex constants, each (starts, 1 + constants or 1, 1), gives (starts, same, rows): analytic.
        starts: (starts, constants).
        iterations: at most.
        small: half a sum of squares at which one start has arrived, and the others may stop.
    """
    theta: Array = np.array(starts, dtype=np.float64)
    damping: Array = np.full(len(starts), 1e-3)
    F, J = _with_slopes(rows, theta)
    cost: Array = _cost(F)
    for _ in range(iterations):
        if not theta.shape[1] or not np.isfinite(cost).any() or cost.min() <= small:
            break
        normal, right = np.einsum("spi,sqi->spq", J, J), -np.einsum("spi,si->sp", J, F)
        # Of each constant in its own units.
        unit = np.sqrt(np.einsum("spp->sp", normal))
        unit[unit == 0.0] = 1.0
        ridge = np.einsum("s,pq->spq", np.maximum(damping, 1e-13), np.eye(theta.shape[1]))
        scaled = normal / (unit[:, :, None] * unit[:, None, :]) + ridge
        step = np.linalg.solve(scaled, (right / unit)[..., None])[..., 0] / unit
        F_new, J_new = _with_slopes(rows, theta + step)
        cost_new = _cost(F_new)
        better: npt.NDArray[np.bool_] = cost_new < cost
        theta = np.where(better[:, None], theta + step, theta)
        F, J = np.where(better[:, None], F_new, F), np.where(better[:, None, None], J_new, J)
        with np.errstate(invalid="ignore"):
            gains = cost - cost_new > 1e-9 * cost
        cost = np.where(better, cost_new, cost)
        damping = np.where(better, damping / 5.0, damping * 4.0)
        if not gains.any() and (better.all() or damping.min() > 1e8):
            break
    return theta, cost


def _with_slopes(rows: Callable[[list[Array]], Array], theta: Array) -> tuple[Array, Array]:
    """Rows (starts, rows), infinite where one is not finite, and their slopes (starts, constants, rows)."""
    num = theta.shape[1]
    tilted = theta[:, None, :] + 1j * _STEP * np.eye(num)[None] if num else theta[:, None, :].astype(complex)
    with np.errstate(all="ignore"):
        values = rows([tilted[:, :, j, None] for j in range(num)])
        F: Array = values[:, 0].real
        J: Array = np.asarray(values.imag / _STEP, dtype=np.float64)
    if not num:
        return F, J[:, :0]
    fine = np.isfinite(F).all(axis=1) & np.isfinite(J).all(axis=(1, 2)) & (np.abs(J).max(axis=(1, 2)) < 1e100)
    return np.where(fine[:, None], F, np.inf), np.where(fine[:, None, None], J, 0.0)


def _cost(F: Array) -> Array:
    """Half the sum of squares of each start."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.nan_to_num(0.5 * np.sum(F**2, axis=1), nan=np.inf, posinf=np.inf))
