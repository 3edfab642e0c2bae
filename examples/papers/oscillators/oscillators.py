"""Two oscillators with a cubic spring, brought back to where they started: Adam, Gauss-Newton, half-inverse, physical.

Run: python3 examples/papers/oscillators/oscillators.py, or mpirun -n 2 python3 ...; see README.md.

    x_i' = v_i,   v_1' = -x_1 + (x_2 - x_1)^3,   v_2' = -x_2 + (x_1 - x_2)^3 + 3 u(t),

dimensionless, by 96 steps of the classical Runge-Kutta method of length 0.125, with u constant in each. A network maps
the start z_0, uniform in [0, 1)^4, to the 96 values of u; y = z(12), and the loss of a sample is |y - z_0|^2.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import harness  # noqa: E402, I001  (first: it sets the number of threads)

from collections.abc import Callable, Iterator  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
import torch  # noqa: E402

import relax  # noqa: E402
from outcomes import median_at  # noqa: E402
from relax.base import parallel  # noqa: E402

Array = npt.NDArray[np.float64]
Tensor = torch.Tensor

STEPS = 96
DT = 0.125
SAMPLES = 4096
WIDTHS = (4, 20, 20, 20, STEPS)
RCOND = 1e-6
# Of the physical gradient's Gauss-Newton steps, beside J Jᵀ: without it they leave the range of any linearisation.
DAMPING = 100.0


class Oscillators:
    """(u, z_0) -> z(12): (samples, 96), (samples, 4) -> (samples, 4), with its derivative in u.

    In the sums s = x_1 + x_2, w = v_1 + v_2 and differences d = x_2 - x_1, q = v_2 - v_1 the equations fall apart:

        s' = w, w' = -s + 3 u;   d' = q, q' = -d - 2 d^3 + 3 u.

    Runge-Kutta methods commute with a linear change of variables. The first pair is linear: its final value is one
    matrix product. Only the second takes steps.
    """

    def __init__(self) -> None:
        h, eye = DT, np.eye(2)
        J = np.array([[0.0, 1.0], [-1.0, 0.0]])
        terms = [eye, h * J / 2, h**2 * J @ J / 6, h**3 * J @ J @ J / 24]
        step = eye + J @ sum(terms) * h
        kick = 3.0 * h * sum(terms) @ np.array([0.0, 1.0])
        powers = [eye]
        for _ in range(STEPS):
            powers.append(step @ powers[-1])
        self._propagator = powers[STEPS]
        self._kicks = np.stack([powers[STEPS - 1 - n] @ kick for n in range(STEPS)], axis=1)

    def __call__(self, u: Tensor, z0: Tensor) -> Tensor:
        """Final states of every sample, with a graph."""
        y: Tensor = _Run.apply(u, _Trajectories(self, z0.numpy()))
        return y

    def run(self, u: Array, z0: Array) -> tuple[Array, Array]:
        """Final states (samples, 4), and d in the four stages of every step, (96, 4, samples)."""
        sums = (z0[:, 0::2] + z0[:, 1::2]) @ self._propagator.T + u @ self._kicks.T
        d, q = z0[:, 1] - z0[:, 0], z0[:, 3] - z0[:, 2]
        force = 3.0 * np.ascontiguousarray(u.T)
        stages = np.empty((STEPS, 4, len(z0)))
        h = DT
        for n in range(STEPS):
            f = force[n]
            D = stages[n]
            D[0] = d
            a1 = f - d * (1.0 + 2.0 * d * d)
            D[1] = d + 0.5 * h * q
            q2 = q + 0.5 * h * a1
            a2 = f - D[1] * (1.0 + 2.0 * D[1] * D[1])
            D[2] = d + 0.5 * h * q2
            q3 = q + 0.5 * h * a2
            a3 = f - D[2] * (1.0 + 2.0 * D[2] * D[2])
            D[3] = d + h * q3
            q4 = q + h * a3
            a4 = f - D[3] * (1.0 + 2.0 * D[3] * D[3])
            d = d + h / 6.0 * (q + 2.0 * (q2 + q3) + q4)
            q = q + h / 6.0 * (a1 + 2.0 * (a2 + a3) + a4)
        s, w = sums.T
        return 0.5 * np.stack([s - d, s + d, w - q, w + q], axis=1), stages

    def adjoint(self, dy: Array, stages: Array) -> Array:
        """dy/du^T dy for cotangents (..., samples, 4): (..., samples, 96)."""
        A, b = _step_derivatives(stages)
        from_sums = 0.5 * (dy[..., 0::2] + dy[..., 1::2]) @ self._kicks
        mu = 0.5 * (dy[..., 1::2] - dy[..., 0::2])
        mu_d, mu_q = np.ascontiguousarray(mu[..., 0]), np.ascontiguousarray(mu[..., 1])
        du = np.empty((STEPS, *mu_d.shape))
        for n in reversed(range(STEPS)):
            du[n] = b[0, n] * mu_d + b[1, n] * mu_q
            mu_d, mu_q = A[0, 0, n] * mu_d + A[1, 0, n] * mu_q, A[0, 1, n] * mu_d + A[1, 1, n] * mu_q
        return from_sums + np.moveaxis(du, 0, -1)


def _step_derivatives(stages: Array) -> tuple[Array, Array]:
    """Of each step (d, q) -> (d, q): A (2, 2, 96, samples), and with respect to u: b (2, 96, samples)."""
    h = DT
    slope = 1.0 + 6.0 * stages**2
    # Columns: d, q, u. A stage's slope is (q, 3 u - d - 2 d^3) at the stage.
    shape = (2, 3, *slope[:, 0].shape)
    start = np.zeros(shape)
    start[0, 0] = start[1, 1] = 1.0
    k, total = np.zeros(shape), np.zeros(shape)
    for stage, (shift, weight) in enumerate([(0.0, 1.0), (0.5 * h, 2.0), (0.5 * h, 2.0), (h, 1.0)]):
        at = start + shift * k
        k = np.stack([at[1], -slope[:, stage] * at[0]])
        k[1, 2] += 3.0
        total += weight * k
    step = start + h / 6.0 * total
    return step[:, :2], step[:, 2]


class _Trajectories:
    """What one forward pass keeps. Opaque to torch."""

    def __init__(self, oscillators: Oscillators, z0: Array) -> None:
        self.oscillators = oscillators
        self.z0 = z0
        self.stages: Array = np.empty(0)


class _Run(torch.autograd.Function):
    """u (samples, 96) -> z(12) (samples, 4)."""

    @staticmethod
    def forward(u: Tensor, kept: _Trajectories) -> Tensor:
        y, kept.stages = kept.oscillators.run(u.detach().numpy(), kept.z0)
        return torch.from_numpy(y)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.kept = inputs[1]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return _Adjoint.apply(dy, ctx.kept), None


class _Adjoint(torch.autograd.Function):
    """Cotangents (..., samples, 4) -> (..., samples, 96): those that ``vmap`` brings go in one sweep."""

    @staticmethod
    def forward(dy: Tensor, kept: _Trajectories) -> Tensor:
        return torch.from_numpy(kept.oscillators.adjoint(dy.detach().numpy(), kept.stages))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, du: Tensor) -> Any:
        raise NotImplementedError("the oscillators are differentiated once")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], dy: Tensor, kept: _Trajectories) -> tuple[Tensor, int]:
        return _Adjoint.apply(dy.movedim(in_dims[0], 0), kept), 0


@dataclass(frozen=True)
class Task:
    """Data and initial weights of a seed: the same for every method."""

    oscillators: Oscillators
    net: torch.nn.Module
    train: Tensor
    test: Tensor

    @staticmethod
    def of(seed: int) -> Task:
        """Drawn with the seed."""
        random = torch.Generator().manual_seed(seed)
        z0 = torch.rand(2 * SAMPLES, 4, generator=random, dtype=torch.float64)
        return Task(Oscillators(), harness.glorot(WIDTHS, torch.nn.ReLU, seed), z0[:SAMPLES], z0[SAMPLES:])

    def answer(self, z0: Tensor) -> tuple[Tensor, Tensor]:
        """The controls, and the states they lead to."""
        u = self.net(z0)
        return u, self.oscillators(u, z0)

    def batches(self, size: int) -> Iterator[Tensor]:
        """This rank's samples of batches in the order of the data."""
        for rows in harness.in_order(SAMPLES, size):
            yield self.train[rows][harness.share(size)]

    def test_loss(self) -> float:
        """The mean over the test samples. Collective."""
        mine = self.test[harness.share(SAMPLES)]
        with torch.no_grad():
            part = float(((self.answer(mine)[1] - mine) ** 2).sum())
        return float(parallel.sum_over_ranks(harness.COMM, np.array([part]))[0]) / SAMPLES


def adam(size: int, *, falls: bool = False) -> Callable[[int, float], harness.Training]:
    """Adam on the mean loss of a batch; with a learning rate that falls to zero, if wanted."""

    def begin(seed: int, rate: float) -> harness.Training:
        task = Task.of(seed)
        parameters = list(task.net.parameters())
        optimizer = torch.optim.Adam(parameters, lr=rate, fused=True)

        def step(z0: Tensor) -> None:
            optimizer.zero_grad()
            (((task.answer(z0)[1] - z0) ** 2).sum() / size).backward()
            harness.sum_gradients(parameters)
            optimizer.step()

        return harness.Training(step, task.batches(size), task.test_loss, falling=optimizer if falls else None)

    return begin


def half_inverse(size: int, power: float, *, falls: bool = False) -> Callable[[int, float], harness.Training]:
    """HalfInverse on the mean loss of a batch; samples shared among ranks; a falling rate as of ``adam``."""

    def begin(seed: int, rate: float) -> harness.Training:
        task = Task.of(seed)
        teams = relax.Teams(harness.COMM, 1) if harness.COMM.size > 1 else None
        optimizer = relax.HalfInverse(task.net.parameters(), lr=rate, power=power, rcond=RCOND, teams=teams)

        def step(z0: Tensor) -> None:
            def closure() -> tuple[Tensor, Tensor]:
                y = task.answer(z0)[1]
                return y, ((y - z0) ** 2).sum() / size

            optimizer.step(closure)

        close = (lambda: None) if teams is None else teams.close
        falling = optimizer if falls else None
        return harness.Training(step, task.batches(size), task.test_loss, close, falling)

    return begin


def physical(size: int) -> Callable[[int, float], harness.Training]:
    """Adam on the physical gradient, a damped Gauss-Newton step of the controls of each sample."""

    def begin(seed: int, rate: float) -> harness.Training:
        task = Task.of(seed)
        parameters = list(task.net.parameters())
        optimizer = torch.optim.Adam(parameters, lr=rate, fused=True)
        unit_4 = torch.eye(4, dtype=torch.float64)
        unit = np.broadcast_to(np.eye(4)[:, None, :], (4, len(range(size)[harness.share(size)]), 4))

        def step(z0: Tensor) -> None:
            u = task.net(z0)
            y, stages = task.oscillators.run(u.detach().numpy(), z0.numpy())
            D = torch.from_numpy(task.oscillators.adjoint(unit, stages)).movedim(1, 0)

            def damped(residual: Tensor) -> Tensor:
                return (D.mT @ torch.linalg.solve(D @ D.mT + DAMPING * unit_4, residual[..., None]))[..., 0]

            optimizer.zero_grad()
            (relax.physical_gradient(u, torch.from_numpy(y), z0, damped) / size).backward()
            harness.sum_gradients(parameters)
            optimizer.step()

        return harness.Training(step, task.batches(size), task.test_loss)

    return begin


TUNED = "half-inverse, B 128, tuned"
METHODS = (
    harness.Method("Adam, B 512, 3e-4", adam(512), 3e-4),
    harness.Method("Adam, B 128, tuned", adam(128), 3e-3, (1e-3, 3e-3, 1e-2, 3e-2)),
    harness.Method("Adam, B 128, tuned, falling", adam(128, falls=True), 3e-3, (1e-3, 3e-3, 1e-2, 3e-2)),
    harness.Method("physical gradient, B 256, tuned", physical(256), 3e-3, (1e-3, 3e-3, 1e-2)),
    harness.Method("Gauss-Newton, B 128, 1", half_inverse(128, 1.0), 1.0),
    harness.Method("half-inverse, B 128, 1", half_inverse(128, 0.5), 1.0),
    harness.Method(TUNED, half_inverse(128, 0.5), 5.0, (1.0, 2.0, 3.0, 5.0, 8.0)),
    harness.Method(TUNED + ", falling", half_inverse(128, 0.5, falls=True), 5.0, (1.0, 2.0, 3.0, 5.0, 8.0)),
)


def main() -> None:
    """Compare, and check what is claimed of the half-inverse when there was time for it."""
    given = harness.settings(__doc__ or "", budget=60.0)
    runs = harness.compare("Oscillators", METHODS, given, times=(5.0, 15.0, 35.0))
    if given.budget < 60.0:
        return
    tuned = median_at(runs, TUNED, 60.0)
    others = min(median_at(runs, m.name, 60.0) for m in METHODS if m.name.startswith("Adam"))
    assert median_at(runs, TUNED, 15.0) <= 1e-3, "expected the half-inverse below 1e-3 after 15 s"
    assert median_at(runs, TUNED, 35.0) <= 1e-4, "expected the half-inverse below 1e-4 after 35 s"
    assert others >= 10.0 * tuned, f"expected Adam ten times above the half-inverse, got {others:.1e} and {tuned:.1e}"


if __name__ == "__main__":
    relax.init(sys.argv)
    main()
