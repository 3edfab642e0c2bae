"""J, its gradient and its Hessian actions as the functions that optimisers of other software ask for."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from petsc4py import PETSc

from relax.base import parallel
from relax.base.types import Array
from relax.engine.operators import check_whole
from relax.errors import BadInput, SolveFailed


class DifferentiatedPoint(Protocol):
    """J at one control, solved for. All methods are collective."""

    cost: float

    def gradient(self) -> Array:
        """dJ."""

    def hessian(self, v: Array) -> Array:
        """d²J v."""

    def close(self) -> None:
        """Free the linearisation."""


class Pointwise(Protocol):
    """An objective, as this needs it."""

    G: Any

    def at(self, m: Array) -> DifferentiatedPoint:
        """J at m. Raises ``SolveFailed``."""


class ScipyFunctions:
    """J for ``scipy.optimize``, nlopt, ipopt and others: three functions of plain arrays, (size_in,).

    Collective, as are its functions: every rank runs the same optimiser and gets the same numbers, those of rank 0.
    One point is kept: value, gradient and Hessian actions at one control share a forward solve. Where it fails ``fun``
    is inf, ``jac`` what it was last, since the point will be rejected, and ``failures`` counts: trust regions shrink
    there, and line searches that halve their step go on. Those that interpolate values end: scipy's L-BFGS-B calls the
    point before it converged, so look at ``failures``, or keep it from there by bounds. ::

        f = (relax.Misfit(G, data, noise) + prior).scipy()
        scipy.optimize.minimize(f.fun, m0, jac=f.jac, hessp=f.hessp, method="trust-ncg")

    These optimisers measure by the sum of squares of the entries: their iterations grow as the mesh is refined, which
    those of relax, in the metric of a prior, do not.

    Args:
        objective: J.

    Attributes:
        failures: at how many controls the solve has failed.

    Raises:
        BadInput: under ``layout="owned"`` on several ranks, where others would take a part for the whole.
        SolveFailed: by a function, where the first control cannot be solved for.
    """

    def __init__(self, objective: Pointwise) -> None:
        check_whole(objective.G, "scipy", "relax's own optimisers work on spread vectors")
        self._objective = objective
        self._comm = objective.G.comm
        self._m: Array | None = None
        self._point: DifferentiatedPoint | None = None
        self._gradient = np.full(objective.G.size_in, np.nan)
        self._has_begun = False
        self.failures = 0

    def fun(self, m: Array) -> float:
        """J(m), inf where the solve fails."""
        point = self._at(m)
        return np.inf if point is None else float(parallel.from_rank_0(self._comm, np.array([point.cost]))[0])

    def jac(self, m: Array) -> Array:
        """The derivatives of J in the entries of m, (size_in,)."""
        point = self._at(m)
        if point is not None:
            self._gradient = parallel.from_rank_0(self._comm, point.gradient())
        return self._gradient.copy()

    def hessp(self, m: Array, v: Array) -> Array:
        """The whole Hessian at m times v, (size_in,)."""
        point = self._at(m)
        if point is None:
            return np.full(np.shape(m), np.nan)
        return parallel.from_rank_0(self._comm, point.hessian(self._objective.G.layout.checked(v, "v", compared=False)))

    def close(self) -> None:
        """Free the kept point. Collective."""
        if self._point is not None:
            self._point.close()
            # What several ranks share is freed only where all of them are.
            PETSc.garbage_cleanup(self._comm)
        self._m = self._point = None

    def _at(self, m: Array) -> DifferentiatedPoint | None:
        """The point at m; None where the solve fails, or where m itself is what interpolating with inf has left."""
        is_lost = isinstance(m, np.ndarray) and m.dtype.kind == "f" and not np.isfinite(m).all()
        if parallel.any_rank(self._comm, is_lost):
            return None
        control = self._objective.G.layout.checked(m, "m").copy()
        if control.ndim != 1:
            raise BadInput(f"m: expected one control vector, got shape {control.shape}")
        if self._m is None or not np.array_equal(control, self._m):
            self.close()
            try:
                self._point = self._objective.at(control)
            except SolveFailed:
                if not self._has_begun:
                    raise
                self.failures += 1
            self._m, self._has_begun = control, True
        return self._point
