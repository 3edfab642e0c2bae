"""Poisson's equation on 8 x 8 cells with the Laplacian of the prediction in the loss: Adam and the half-inverse.

Run: python3 examples/papers/hig_poisson/hig_poisson.py, or mpirun -n 2 python3 ...; see README.md.

A network maps a source y* = L phi* to a potential phi; y = L phi with the 5-point Laplacian L (cells of size 1, 0 in
the cells around the grid), and the loss is |y - y*|^2 / 2 over cells and samples. Every batch is new.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import harness  # noqa: E402, I001  (first: it sets the number of threads)

from collections.abc import Callable, Iterator  # noqa: E402
from dataclasses import dataclass  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402

import relax  # noqa: E402
from relax.base import parallel  # noqa: E402

Tensor = torch.Tensor

N = 8
WIDTHS = (64, 64, 128, 64, 64)
TEST_SAMPLES = 1024
RCOND = 1e-5


def laplacian() -> Tensor:
    """The 5-point matrix (64, 64), with zeros outside the grid."""
    beside = torch.ones(N - 1, dtype=torch.float64)
    line = torch.diag(beside, 1) + torch.diag(beside, -1) - 2.0 * torch.eye(N, dtype=torch.float64)
    eye = torch.eye(N, dtype=torch.float64)
    return torch.kron(line, eye) + torch.kron(eye, line)


def potentials(samples: int, random: torch.Generator) -> Tensor:
    """Noise with the spectrum |q|^-2, q = 10 k / 8 for whole wave numbers k, of mean 0, variance 1: (samples, 64)."""
    k = torch.fft.fftfreq(N, 1.0 / N, dtype=torch.float64)
    q2 = ((10.0 / N) * k[:, None]) ** 2 + ((10.0 / N) * k[None, :]) ** 2
    amplitude = torch.where(q2 > 0.1, 1.0 / q2.clamp_min(0.1), 0.0)
    parts = torch.randn(2, samples, N, N, generator=random, dtype=torch.float64)
    phi = torch.fft.ifft2(torch.complex(parts[0], parts[1]) * amplitude).real.reshape(samples, N * N)
    phi = phi / phi.std(dim=1, correction=0, keepdim=True)
    return phi - phi.mean(dim=1, keepdim=True)


@dataclass(frozen=True)
class Task:
    """Data and initial weights of a seed: the same for every method."""

    L: Tensor
    net: torch.nn.Module
    seed: int
    test: Tensor

    @staticmethod
    def of(seed: int) -> Task:
        """Drawn with the seed."""
        L = laplacian()
        test = potentials(TEST_SAMPLES, torch.Generator().manual_seed(10_000 + seed)) @ L
        return Task(L, harness.glorot(WIDTHS, torch.nn.Tanh, seed), seed, test)

    def batches(self, size: int) -> Iterator[Tensor]:
        """This rank's samples of batches that do not end, and never come again."""
        random = torch.Generator().manual_seed(self.seed)
        while True:
            yield (potentials(size, random) @ self.L)[harness.share(size)]

    def source_of(self, source: Tensor) -> Tensor:
        """The source of the potential that the network gives."""
        y: Tensor = self.net(source) @ self.L
        return y

    def test_loss(self) -> float:
        """The mean over the test samples. Collective."""
        mine = self.test[harness.share(TEST_SAMPLES)]
        with torch.no_grad():
            part = 0.5 * float(((self.source_of(mine) - mine) ** 2).sum())
        return float(parallel.sum_over_ranks(harness.COMM, np.array([part]))[0]) / TEST_SAMPLES


def adam(size: int) -> Callable[[int, float], harness.Training]:
    """Adam on the loss of a batch."""

    def begin(seed: int, rate: float) -> harness.Training:
        task = Task.of(seed)
        parameters = list(task.net.parameters())
        optimizer = torch.optim.Adam(parameters, lr=rate, fused=True)

        def step(source: Tensor) -> None:
            optimizer.zero_grad()
            (0.5 * ((task.source_of(source) - source) ** 2).sum()).backward()
            harness.sum_gradients(parameters)
            optimizer.step()

        return harness.Training(step, task.batches(size), task.test_loss)

    return begin


def half_inverse(size: int) -> Callable[[int, float], harness.Training]:
    """HalfInverse on the loss of a batch, a sum as in the paper's code; samples shared among ranks."""

    def begin(seed: int, rate: float) -> harness.Training:
        task = Task.of(seed)
        teams = relax.Teams(harness.COMM, 1) if harness.COMM.size > 1 else None
        optimizer = relax.HalfInverse(task.net.parameters(), lr=rate, rcond=RCOND, teams=teams)

        def step(source: Tensor) -> None:
            def closure() -> tuple[Tensor, Tensor]:
                y = task.source_of(source)
                return y, 0.5 * ((y - source) ** 2).sum()

            optimizer.step(closure)

        close = (lambda: None) if teams is None else teams.close
        return harness.Training(step, task.batches(size), task.test_loss, close)

    return begin


METHODS = (
    harness.Method("Adam, B 64, 3e-4", adam(64), 3e-4),
    harness.Method("Adam, B 64, tuned", adam(64), 1e-3, (1e-4, 3e-4, 1e-3, 3e-3)),
    harness.Method("half-inverse, B 64, 0.01", half_inverse(64), 0.01),
    harness.Method("half-inverse, B 16, tuned", half_inverse(16), 0.1, (0.03, 0.1, 0.2)),
)


def main() -> None:
    """Compare. What is claimed is not that the half-inverse is ahead here."""
    given = harness.settings(__doc__ or "", budget=60.0)
    methods = METHODS[:2] + METHODS[3:] if given.quick else METHODS
    harness.compare("Poisson 8 x 8", methods, given, times=(10.0, 30.0))


if __name__ == "__main__":
    relax.init(sys.argv)
    main()
