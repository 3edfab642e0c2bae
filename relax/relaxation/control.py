"""Stochastic gradient descent under control, by simulation: what the value function of a viscous equation is worth.

    dx = -(grad f + alpha) ds + beta^(-1/2) dW,  cost E[V(x_t)] + ½ E ∫ |alpha|² ds.

With s the time to go, the least cost u solves u_s = -1/2 |grad u|² - grad f · grad u + 1/(2 beta) Lap u, u(., 0) = V,
and alpha = grad u is optimal. As alpha = 0 costs E[V(x_t)], it gives

    E[V(controlled)] <= E[V(uncontrolled)] - ½ E ∫ |alpha|² ds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from dolfinx import fem
from dolfinx.mesh import Mesh
from mpi4py import MPI

from relax.base import parallel
from relax.base.checks import at_least, positive
from relax.base.fem.coefficients import Coefficient
from relax.base.monte_carlo import Estimate, Paths, heun_step, starting
from relax.base.types import Array
from relax.engine.reduced import ReducedMap
from relax.observe import FieldValues
from relax.pdes.hamilton_jacobi import viscous_evolution
from relax.relaxation.functions import Landscape, as_points, gradient_of, values_of
from relax.relaxation.landscape.point_values import PointEvaluator
from relax.relaxation.landscape.recovery import Recovery

#: A control: points (n, d) and the time to go -> (n, d).
Control = Callable[[Array, float], Any]


@dataclass(frozen=True)
class Comparison:
    """Means over paths with and without control, driven by the same noise.

    Attributes:
        plain: E[V(x_t)] without control.
        controlled: E[V(x_t)] with control.
        cost: ½ E ∫ |alpha|² ds.
        slack: plain - controlled - cost, not below 0 for the optimal control; its error is that of the difference, path
            by path.
    """

    plain: Estimate
    controlled: Estimate
    cost: Estimate
    slack: Estimate

    @property
    def total(self) -> float:
        """Expected V and cost together: the value function at x0 for the optimal control."""
        return float(self.controlled.mean + self.cost.mean)


def simulate(
    gradient: Callable[[Array], Any],
    V: Landscape,
    alpha: Control,
    x0: npt.ArrayLike,
    *,
    beta: float,
    t: float,
    num_paths: int = 8192,
    num_steps: int = 100,
    seed: int = 0,
    comm: MPI.Comm = MPI.COMM_WORLD,
) -> Comparison:
    """Paths from x0 with and without the control. Collective. Dimensionless.

    Steps are Heun's, of weak order 2; the cost is integrated by the trapezoidal rule. Paths are shared by the ranks,
    the same on any number of them.

    Args:
        gradient: grad f: points (n, d) -> (n, d); called with each rank's own paths.
        V: the cost at the end, a function of x: (d, n) -> (n,).
        alpha: the control: points (n, d) and the time to go, from t down to 0, -> (n, d). Called equally often on each
            rank, with its own paths, of which there may be none: it may be collective, as :class:`OptimalControl` is.
        x0: (d,) start.
        beta: inverse temperature.
        t: how long.
        num_paths: over all ranks.
        num_steps: of length t / num_steps.
        seed: of all paths.
        comm: whose ranks share the paths.
    """
    positive(beta, "beta"), positive(t, "t")
    start = starting(x0)
    d = len(start)
    # One path has no standard error.
    paths = Paths(at_least(num_paths, 2, "num_paths"), seed, comm)
    ds = t / at_least(num_steps, 1, "num_steps")
    noise = np.sqrt(ds / beta)
    plain = np.tile(start, (paths.count, 1))
    guided = plain.copy()
    spent = np.zeros(paths.count)

    def drift(x: Array, s: float) -> Array:
        with parallel.together(comm):
            return -gradient_of(gradient, x, "gradient")

    def control(x: Array, s: float) -> Array:
        with parallel.together(comm):
            return gradient_of(lambda y: alpha(y, max(t - s, 0.0)), x, "alpha")

    def guided_drift(x: Array, s: float) -> Array:
        return drift(x, s) - control(x, s)

    for n in range(num_steps + 1):
        s = n * ds
        weight = 0.5 if n in (0, num_steps) else 1.0
        spent += 0.5 * weight * ds * np.sum(control(guided, s) ** 2, axis=1)
        if n < num_steps:
            kick = noise * paths.normal(d)
            plain = heun_step(drift, plain, s, ds, kick)
            guided = heun_step(guided_drift, guided, s, ds, kick)
    with parallel.together(comm):
        ends = np.stack([values_of(V, plain, "V"), values_of(V, guided, "V"), spent], axis=1)
    return Comparison(
        paths.estimate(ends[:, 0]),
        paths.estimate(ends[:, 1]),
        paths.estimate(ends[:, 2]),
        paths.estimate(ends[:, 0] - ends[:, 1] - ends[:, 2]),
    )


class OptimalControl:
    """alpha(x, s) = grad u(x, s), s the time to go, from the value function on a mesh.

    Collective, as is every method. The equation with the drift -grad f · grad u is solved once; a control between two
    steps is interpolated linearly in s. Points outside the mesh get the control of the nearest point of its bounding
    box, so that few stray paths do not end a simulation; a mesh that is no box has to hold all paths.

    Args:
        mesh: of 1 to 3 dimensions.
        f: the potential of the drift: a number, a function of x, a UFL expression, a Function.
        V: the cost at the end; f where it is not given.
        beta: inverse temperature.
        t: the longest time to go.
        num_steps: of the solver.
        degree: of the elements, 1 or 2.
        how: further arguments of ``pdes.hamilton_jacobi.viscous_evolution``.

    Attributes:
        times: (num_steps + 1,) times to go, from 0.
    """

    def __init__(
        self,
        mesh: Mesh,
        f: Coefficient,
        *,
        beta: float,
        t: float,
        num_steps: int,
        V: Coefficient | None = None,
        degree: int = 2,
        route: str = "auto",
        **how: Any,
    ) -> None:
        evolution = viscous_evolution(
            mesh, f if V is None else V, beta=beta, t=t, num_steps=num_steps, degree=degree, drift_potential=f,
            route=route, **how,  # type: ignore[arg-type]
        )  # fmt: skip
        self.mesh = mesh
        self.dim = mesh.geometry.dim
        self.times = np.linspace(0.0, t, num_steps + 1)
        self._evaluator = PointEvaluator(evolution.state.function_space)
        recovery = Recovery(evolution.state.function_space)
        self._values: list[Array] = []
        self._gradients: list[Array] = []
        with ReducedMap(evolution, FieldValues(evolution.state.function_space), layout="owned") as G:
            for _ in G.trajectory(G.present_control()):
                self._values.append(evolution.state.x.array.copy()[:, None])
                self._gradients.append(recovery.derivatives(evolution.state.x.array)[0])

    def __call__(self, x: Array, to_go: float) -> Array:
        """alpha at each rank's own points, (n, d) -> (n, d); n may differ between ranks, and be 0."""
        return self._at(self._gradients, x, to_go)

    def value(self, x: npt.ArrayLike, to_go: float) -> Array:
        """u at each rank's own points (n, d), (n,): the least cost from there."""
        return self._at(self._values, as_points(x), to_go)[:, 0]

    def field(self, to_go: float) -> fem.Function:
        """u(., to_go) as a new Function."""
        u = fem.Function(self._evaluator.space, name="u")
        u.x.array[:] = self._between(self._values, to_go)[:, 0]
        return u

    def _between(self, fields: list[Array], to_go: float) -> Array:
        n = int(np.clip(np.searchsorted(self.times, to_go, side="right") - 1, 0, len(self.times) - 2))
        part = float(np.clip((to_go - self.times[n]) / (self.times[n + 1] - self.times[n]), 0.0, 1.0))
        return (1.0 - part) * fields[n] + part * fields[n + 1]

    def _at(self, fields: list[Array], x: Array, to_go: float) -> Array:
        comm = self.mesh.comm
        counts = parallel.on_each_rank(comm, len(x))
        everyones = parallel.gather_rows(comm, np.ascontiguousarray(x))
        answers = self._evaluator.values(self._between(fields, to_go), self._evaluator.clipped(everyones))
        start = sum(counts[: comm.rank])
        return answers[start : start + len(x)]
