"""What the experiments of learning by settling share: a sheet of non-linear resistors, and losses by epochs.

A disk of radius 1, dimensionless. Voltages v are put on its rim through contacts of conductance 4; the
potential s makes least

    E(theta, s; x) = int exp(theta) (|grad s|^2 + 0.1)^(3/2) / 3 dx + int 2 (s - v)^2 ds,   v = x . modes :

the current is exp(theta) (|grad s|^2 + 0.1)^(1/2) grad s. The log-conductivity theta is constant in each cell,
and |dtheta|^2 is the integral of the square, in all methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import relax
import harness
import numpy as np
import numpy.typing as npt
import ufl
from dolfinx import fem

Array = npt.NDArray[np.float64]

CONTACT = 4.0
#: How many are watched.
EPOCHS = 20


class Sheet:
    """Of cells of size ``h``, with inputs x by ``modes`` of the coordinates; ``sees`` gives what is seen of the state.

    Collective, as are all methods. On several ranks the mesh is distributed; arrays of theta are of owned cells.

    Attributes:
        energy: E, with theta as its parameter.
        x: its inputs, the amplitudes of ``modes``.
        sees: the observable.
        G: (theta, x) -> observations, with its adjoint.
        areas: of the cells.
    """

    def __init__(
        self, h: float, modes: Callable[[Any], list[Any]], sees: Callable[[fem.Function], relax.Observable]
    ) -> None:
        mesh = relax.meshes.disk(h, comm=harness.COMM)
        V, Q = fem.functionspace(mesh, ("Lagrange", 1)), fem.functionspace(mesh, ("DG", 0))
        self.modes = v = modes(ufl.SpatialCoordinate(mesh))
        self.state, self.theta, self.x = fem.Function(V), fem.Function(Q), fem.Constant(mesh, np.zeros(len(v)))
        slope = ufl.inner(ufl.grad(self.state), ufl.grad(self.state))
        rim = self.state - sum(self.x[k] * mode for k, mode in enumerate(v))
        E = ufl.exp(self.theta) * (slope + 0.1) ** 1.5 / 3.0 * ufl.dx + 0.5 * CONTACT * rim**2 * ufl.ds
        self.energy = relax.Energy(E=E, state=self.state, parameters=[self.theta], name="sheet")
        self.sees = sees(self.state)
        problem = relax.Problem(
            residual=ufl.derivative(E, self.state),
            state=self.state,
            controls=[self.theta, self.x],
            name="sheet_adjoint",
        )
        self.G = relax.ReducedMap(problem, self.sees, layout="owned")
        self.cells = Q.dofmap.index_map.size_local
        areas = fem.assemble_vector(fem.form(ufl.TestFunction(Q) * ufl.dx))
        self.areas: Array = areas.array[: self.cells].copy()

    def read(self) -> Array:
        """Theta, as its Function holds it."""
        return self.theta.x.array[: self.cells].copy()

    def write(self, theta: npt.ArrayLike) -> None:
        """Let its Function hold it."""
        self.theta.x.array[: self.cells] = theta
        self.theta.x.scatter_forward()

    def interpolated(self, of: Callable[[Array], Array]) -> Array:
        """A function of the coordinates as a theta."""
        f = fem.Function(self.theta.function_space)
        f.interpolate(of)
        return f.x.array[: self.cells].copy()

    def seen(self, theta: Array, x: Array) -> Array:
        """Observations for each row of x."""
        return np.array([self.G(self._control(theta, row)) for row in x])

    def gradient(self, theta: Array, x: Array, y: Array) -> Array:
        """Of ½ |G(theta, x) - y|², in the metric, by the adjoint."""
        with self.G.linearize(self._control(theta, x)) as lin:
            return np.asarray(lin.vjp(lin.value - y))[: self.cells] / self.areas

    def _control(self, theta: Array, x: Array) -> Array:
        return np.concatenate([theta, x]) if harness.COMM.rank == 0 else theta


def samples(count: int, seed: int, looked: Callable[[], float], losses: list[float]) -> Iterator[int]:
    """Samples in a new order in each epoch, without end; ``losses`` gets the loss before each, off harness's clock."""
    random = np.random.default_rng(seed)
    while True:
        if len(losses) <= EPOCHS:
            losses.append(looked())
        yield from random.permutation(count)
