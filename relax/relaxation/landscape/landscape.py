"""A landscape relaxed by the viscous Hamilton–Jacobi equation: values and derivatives anywhere, minima, descents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from dolfinx import fem
from dolfinx.mesh import Mesh
from petsc4py import PETSc
from ufl.core.expr import Expr

from relax.base import parallel
from relax.base.checkpoint import Checkpoint
from relax.base.checks import at_least, of_kind, positive
from relax.base.fem.coefficients import Coefficient
from relax.base.fem.points import as_points
from relax.base.log import logger
from relax.base.types import Array
from relax.errors import BadInput
from relax.pdes.hamilton_jacobi.stabilisation import OVERSHOOTS, cell_peclet
from relax.relaxation.landscape import minima
from relax.relaxation.landscape.descent import Descent, descended
from relax.relaxation.landscape.evaluation import Evaluation
from relax.relaxation.landscape.history import checked_times, relaxed
from relax.relaxation.landscape.minima import Minimisers


class RelaxedLandscape:
    """u(x, t) with u_t = -1/2 |grad u|² + 1/(2 beta) Lap u, u(x, 0) = f(x), ready to be evaluated. Dimensionless.

    Collective to make, and every method but ``times``: all ranks call it, with the same points (rank 0's count), and
    all ranks get the whole answer, the same to rounding on any number of ranks.

    The equation is solved once, from each of ``times`` to the next: a time near 0 costs no fine steps later. The first
    interval is cut at 1/64, 1/16 and 1/4, since what is rough in f changes fast, and u is kept there, too. Values at a
    time between two stored ones come from a cubic in t^½ through the four nearest: where f varies by 1, with an error
    of some 4e-4 where the ratio of times is 1.3, and 7e-6 where it is 1.1. Below s = t_1/64 they come from a
    line, with an error of up to s²/8 |u_tt|. Gradients and Hessians are those of continuous fields, from
    polynomials that fit u around each vertex: of order h³ and h² for elements of degree 2, h² and h for degree 1. At
    walls, where there are cells on one side alone, gradients are an order less accurate, and Hessians of no use for
    elements of degree 1.

    Walls are reflecting (du/dn = 0), so leave room between what matters and the boundary: :meth:`padding`.

    Points are numpy arrays or torch tensors, (n, d), or (n,) on a line; the answer is of the same kind. For tensors
    ``value`` has first and second derivatives in x, ``gradient`` first ones, by automatic differentiation; ``backward``
    is then collective, too.

    Args:
        mesh: a mesh that fills its space, of 1 to 3 dimensions.
        f: the landscape: a number, a function of x (coordinates (3, n) -> (n,)), a UFL expression, a ``fem.Function``.
        beta: inverse temperature, above 0 and finite.
        times: where u is stored, besides 0; geometric ones, such as ``np.geomspace(0.02, 2, 24)``, serve a descent.
        num_steps: of the solver from each time to the next, or one number for each interval.
        route: "auto", "cole_hopf" or "direct", as in ``pdes.hamilton_jacobi.viscous_evolution``; "auto" chooses for
            each interval.
        degree: of the elements; by default 2, and 1 where h beta |grad f| is above 2, so that the equation has to be
            stabilised.
        theta: of the time steps, as in ``viscous_evolution``, but for backward Euler up to t_1/64 where it is None:
            that damps what is rough in f, which Crank–Nicolson would carry along.
        stabilisation: as in ``viscous_evolution``.
        checkpoint: a ``relax.Checkpoint`` of its own, where u is kept and gone on from after its process has ended.

    Attributes:
        mesh: the mesh.
        beta: inverse temperature.
        times: stored times, the first 0.
        routes: which route was taken in each interval.
        cell_peclet: h beta |grad f|, h the largest cell over the degree; above 2 the equation is stabilised.
        space: the Lagrange space of u.

    Raises:
        BadInput: for what does not fit.
        SolveFailed: when the equation cannot be solved, saying what to do.
    """

    def __init__(
        self,
        mesh: Mesh,
        f: Coefficient,
        beta: float,
        times: npt.ArrayLike,
        *,
        num_steps: int | Sequence[int] = 8,
        route: str = "auto",
        degree: int | None = None,
        theta: float | str | None = None,
        stabilisation: str | bool = "auto",
        checkpoint: Checkpoint | None = None,
    ) -> None:
        of_kind(mesh, Mesh, "a mesh, such as relax.meshes.interval(100)", "RelaxedLandscape: mesh")
        self.mesh = mesh
        self.dim = mesh.geometry.dim
        if mesh.topology.dim != self.dim:
            raise BadInput(
                f"mesh: expected cells that fill their space, got cells of dimension {mesh.topology.dim} in {self.dim}"
            )
        if isinstance(beta, float | np.floating) and math.isinf(beta):
            raise BadInput("beta: expected a finite number; relax.relaxation.hopf_lax is the limit of beta = infinity")
        self.beta = positive(beta, "beta")
        if degree not in (None, 1, 2):
            raise BadInput(f"degree: expected 1 or 2, got {degree!r}")
        self.cell_peclet = self._steepness(f, degree or 2)
        if degree is None and self.cell_peclet > OVERSHOOTS:
            self.cell_peclet = self._steepness(f, 1)
            degree = 1
        degree = degree or 2
        self.times = checked_times(times)
        history = relaxed(
            mesh, f, beta=self.beta, times=self.times, num_steps=num_steps, degree=degree, route=route, theta=theta,
            stabilisation=stabilisation, checkpoint=checkpoint,
        )  # fmt: skip
        self.space = history.space
        self.routes = history.routes
        if self.cell_peclet > OVERSHOOTS and stabilisation is not False and "direct" in self.routes:
            logger.warning(
                "RelaxedLandscape: the cell Péclet number h beta |grad f| is %.3g, so the equation is stabilised, at "
                "first order in h: it acts as if beta were smaller where f is steep. Above %g take smaller cells, a "
                "smaller beta, or a domain without the steepest parts of f.",
                self.cell_peclet,
                OVERSHOOTS,
            )
        # A Function is callable, too: in UFL's way.
        self._function = f if callable(f) and not isinstance(f, Expr) else None
        self._evaluation = Evaluation(history)

    def _steepness(self, f: Coefficient, degree: int) -> float:
        """The cell Péclet number of f on elements of this degree. Collective."""
        return cell_peclet(f, fem.functionspace(self.mesh, ("Lagrange", degree)), beta=self.beta)

    @staticmethod
    def padding(*, beta: float, t: float, slope: float) -> float:
        """How far walls should be from the points that matter: t times the largest slope of f, and 5 sqrt(t/beta).

        Local. What the walls change is then about 1e-9 of what f varies by.
        """
        return t * slope + 5.2 * math.sqrt(t / positive(beta, "beta"))

    # -- values --------------------------------------------------------------------------------------------------------

    def value(self, x: Any, t: Any) -> Any:
        """u(x, t), (n,).

        Collective.

        Args:
            x: (n, d) points, numpy or torch; the same on every rank.
            t: a time between 0 and the last of ``times``, or (n,) one for each point.

        Raises:
            PointsOutsideMesh: on every rank, naming the points.
        """
        return self._answered("value", x, t)

    def gradient(self, x: Any, t: Any) -> Any:
        """grad u(x, t), (n, d). Collective. Arguments as of :meth:`value`."""
        return self._answered("gradient", x, t)

    def hessian(self, x: Any, t: Any) -> Any:
        """D²u(x, t), (n, d, d). Collective. Arguments as of :meth:`value`."""
        return self._answered("hessian", x, t)

    def field(self, t: float) -> fem.Function:
        """u(., t) as a new Function. Collective."""
        u = fem.Function(self.space, name="u")
        u.x.array[:] = self._evaluation.nodal("value", parallel.of_rank_0(self.mesh.comm, t))[:, 0]
        return u

    def landscape(self, x: npt.ArrayLike) -> Array:
        """f at points, (n,): itself where it was given as a function of x, u(., 0) otherwise. Collective."""
        points = as_points(self.mesh, x)
        if self._function is None:
            return self._evaluation.evaluate("value", points[:, : self.dim], 0.0)[:, 0]
        with parallel.together(self.mesh.comm):
            values = np.asarray(self._function(points.T.copy()), dtype=np.float64)
            return np.array(np.broadcast_to(values.reshape(-1) if values.size == len(points) else values, len(points)))

    def contains(self, x: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Which points lie in the mesh, (n,). Collective."""
        return self._evaluation.contains(_numpy(x))

    # -- minima and descents -------------------------------------------------------------------------------------------

    def minimisers(self, t: float) -> Minimisers:
        """The local minimisers of u(., t), the lowest first.

        Collective. Nodes that lie below all nodes of their cells, each moved by Newton's method to where the recovered
        gradient vanishes, or left where that leads away (at a wall, or a kink).
        """
        t = parallel.of_rank_0(self.mesh.comm, t)
        nodes = minima.lowest_nodes(self.field(t))
        return minima.refined(self._evaluation, nodes, t)

    def descend(
        self, x0: Any, schedule: npt.ArrayLike | int, *, rate: float = 1.0, steps: int = 1, path: bool = False
    ) -> Descent:
        """Follow minima as t goes to 0: x <- x - rate t grad u(x, t) for each t of the schedule, from many starts.

        Collective. With rate 1 a step goes to the mean of the Gibbs measure around x, x - t grad u = E[y]; it does not
        overshoot, since D²u <= I/t. Coordinates are clipped to the mesh's bounding box; a step that would leave a mesh
        that is no box is halved until it does not. For a separable landscape f = sum_i g(x_i) a mesh of one dimension
        serves all coordinates: ``descend(x0.reshape(-1, 1), ...)``.

        Args:
            x0: (n, d) starts, numpy or torch; the same on every rank.
            schedule: times, as a rule falling; a whole number for as many in geometric order, from the last of
                ``times`` to the first above 0. Below the first stored time D²u <= I/t is no longer what bounds a step.
            rate: above 0.
            steps: at each time.
            path: keep where the points were after each step.

        Raises:
            PointsOutsideMesh: when a start lies outside.
        """
        tensor = _like(x0)
        schedule, rate, steps = parallel.of_rank_0(self.mesh.comm, (schedule, rate, steps))
        if isinstance(schedule, int | np.integer) and not isinstance(schedule, bool):
            schedule = np.geomspace(self.times[-1], self.times[1], at_least(int(schedule), 1, "schedule"))
        times = np.asarray(schedule, dtype=np.float64).reshape(-1)
        positive(rate, "rate")
        start = as_points(self.mesh, _numpy(x0))[:, : self.dim]
        steps = at_least(steps, 1, "steps")
        descent = descended(self._evaluation, self.landscape, start, times, rate=rate, steps=steps, path=path)
        return descent if tensor is None else descent.mapped(lambda a: _torch_like(a, tensor))

    @property
    def box(self) -> tuple[Array, Array]:
        """The corners of the mesh's bounding box, (d,) each. Local."""
        return self._evaluation.box

    # -- the work ------------------------------------------------------------------------------------------------------

    def _answered(self, what: str, x: Any, t: Any) -> Any:
        if _like(x) is not None:
            from relax.relaxation.landscape import tensors

            return tensors.answered(self._evaluation, what, x, t)
        return self._evaluation.shaped(what, x, t)

    def close(self) -> None:
        """Free what PETSc holds. Collective. The landscape is of no use afterwards."""
        self._evaluation.close()
        PETSc.garbage_cleanup(self.mesh.comm)

    def __enter__(self) -> RelaxedLandscape:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _like(x: Any) -> Any:
    """x where it is a torch tensor, without loading torch; else None."""
    return x if type(x).__module__.partition(".")[0] == "torch" else None


def _numpy(x: Any) -> Any:
    return x if _like(x) is None else x.detach().cpu().numpy()


def _torch_like(values: Array, x: Any) -> Any:
    import torch

    return torch.as_tensor(values).to(x)
