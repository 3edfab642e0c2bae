"""Values and derivatives of stored fields, at any point and time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from relax.base import parallel
from relax.base.checks import array_like
from relax.base.types import Array
from relax.errors import BadInput
from relax.relaxation.landscape.history import History, interpolation_weights
from relax.relaxation.landscape.point_values import PointEvaluator
from relax.relaxation.landscape.recovery import Recovery, pairs


class Evaluation(PointEvaluator):
    """Evaluates u, its gradient and its Hessian between the times of a history. Collective, as are its methods.

    Args:
        history: the stored fields, forgotten by ``close``.

    Attributes:
        last_time: up to which there are values.
    """

    def __init__(self, history: History) -> None:
        super().__init__(history.space)
        self.last_time = float(history.times[-1])
        self._history = history
        self._recovery: Recovery | None = None
        self._derivatives: dict[int, tuple[Array, Array]] = {}
        self._is_open = True

    def shaped(self, what: str, x: npt.ArrayLike, t: npt.ArrayLike) -> Array:
        """:meth:`evaluate` in the shape that users see: (n,), (n, d) or (n, d, d)."""
        components = self.evaluate(what, x, t)
        if what == "value":
            return components[:, 0]
        if what == "gradient":
            return components
        hessian = np.empty((len(components), self.dim, self.dim))
        for k, (i, j) in enumerate(pairs(self.dim)):
            hessian[:, i, j] = hessian[:, j, i] = components[:, k]
        return hessian

    def evaluate(self, what: str, x: npt.ArrayLike, t: npt.ArrayLike) -> Array:
        """Values of one kind at points (n, d), (n, components).

        Args:
            what: "value", "gradient" or "hessian" (the entries on and above the diagonal).
            x: numpy points.
            t: time, or times (n,).
        """
        # All ranks go the same way, whatever they were given.
        x, t = parallel.of_rank_0(self.space.mesh.comm, (array_like(x, "x"), array_like(t, "t")))
        if np.ndim(x) == 0 and self.dim == 1:
            x = np.reshape(x, 1)
        if np.ndim(t) == 0:
            return self.values(self.nodal(what, float(np.asarray(t))), x)
        times, points = np.asarray(t, dtype=np.float64), np.asarray(x, dtype=np.float64)
        if times.shape != points.shape[:1]:
            raise BadInput(f"t: expected a number, or one for each of {len(points)} points, got shape {times.shape}")
        distinct, which = np.unique(times, return_inverse=True)
        rows = [self.values(self.nodal(what, tau), points[which == i]) for i, tau in enumerate(distinct)]
        components = np.empty((len(points), rows[0].shape[1] if rows else self.nodal(what, 0.0).shape[1]))
        for i, values in enumerate(rows):
            components[which == i] = values
        return components

    def nodal(self, what: str, t: float) -> Array:
        """Nodal values at time t, (num_local, components)."""
        if not self._is_open:
            raise BadInput("RelaxedLandscape: it has been closed")
        weights = interpolation_weights(self._history.times, float(t))
        return np.asarray(sum(weight * self._stored(what, i) for i, weight in weights.items()))

    def _stored(self, what: str, i: int) -> Array:
        """Nodal values at a stored time, recovered when they are first asked for."""
        if what == "value":
            return self._history.fields[i][:, None]
        if self._recovery is None:
            self._recovery = Recovery(self.space)
        if i not in self._derivatives:
            self._derivatives[i] = self._recovery.derivatives(self._history.fields[i])
        return self._derivatives[i][what == "hessian"]

    def close(self) -> None:
        """Forget the fields. Local."""
        self._recovery = None
        self._derivatives.clear()
        self._history.fields.clear()
        self._is_open = False
