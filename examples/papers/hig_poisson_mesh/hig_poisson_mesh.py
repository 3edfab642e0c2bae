"""From observations of a potential to its source, on an unstructured mesh: half-inverse, physical gradient, Adam.

Run: python3 examples/papers/hig_poisson_mesh/hig_poisson_mesh.py, or mpirun -n 2 python3 ...; see README.md.

On a plate with four insulated holes (4 895 nodes), dimensionless,

    -Lap u = m,   u = 0 on the sides of the plate,   m = exp(s),   s a Gaussian field of length 0.6 and deviation 0.5.

A network takes u at 20 points with noise of 1 % and gives 10 coefficients of s; y is u at these points, solved for with
the network's source, and the loss is |y - y*|^2 / 2 with the observations y* before the noise. Every batch is new.
Learning rates fall to zero like a cosine over the budget.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import harness  # noqa: E402, I001  (first: it sets the number of threads)

import subprocess  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from dataclasses import dataclass  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from petsc4py import PETSc  # noqa: E402

import relax  # noqa: E402
from relax.base import parallel  # noqa: E402
from relax.pdes import poisson  # noqa: E402

Tensor = torch.Tensor

MESH = Path(__file__).resolve().parents[3] / "meshes" / "plate_with_holes.msh"
SIDES = ("left", "right", "bottom", "top")
POINTS, MODES, HIDDEN = 20, 10, 40
LENGTH, DEVIATION, NOISE = 0.6, 0.5, 0.01
TEST_SAMPLES = 512
RCOND = 1e-4


class Physics:
    """The map, one for all methods and seeds: one factorisation for the run.

    Collective, to make. On a mesh over each team, a team of one rank each.

    Attributes:
        teams: of one rank each; samples are shared among them.
        G: source -> observations.
        layer: the same for tensors.
        modes: (10, nodes) of s; independent standard normal coefficients give the field.
        scale: the root mean square of the observations, by which y is divided.
    """

    def __init__(self) -> None:
        self.teams = relax.Teams(harness.COMM, 1)
        mesh = relax.meshes.read(MESH, self.teams.space)
        problem = poisson.source(mesh, dirichlet=dict.fromkeys(SIDES, 0.0))
        V = problem.state.function_space
        random = np.random.default_rng(0)
        nodes = relax.FieldValues(V).coordinates
        inside = nodes[(np.abs(nodes[:, 0] - 1.0) < 0.95) & (np.abs(nodes[:, 1] - 0.5) < 0.45)]
        self.points = inside[random.choice(len(inside), POINTS, replace=False), : mesh.geometry.dim]
        self.G = relax.ReducedMap(problem, relax.PointValues(V, self.points))
        self.layer = relax.SolutionLayer(self.G)
        self.modes = torch.from_numpy(modes_of(V))
        draws = torch.randn(256, MODES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        seen = self.G(torch.exp(draws @ self.modes).numpy())
        self.scale = float(np.sqrt(np.mean(seen**2)))
        self.mean = torch.from_numpy(seen.mean(axis=0) / self.scale)
        self.spread = torch.from_numpy(seen.std(axis=0) / self.scale)

    @property
    def share_of_teams(self) -> relax.Teams | None:
        """For ``HalfInverse``: None where one rank does all."""
        return self.teams if harness.COMM.size > 1 else None

    def sources(self, coefficients: Tensor) -> Tensor:
        """m at the nodes: (samples, 10) -> (samples, nodes)."""
        return torch.exp(coefficients @ self.modes)

    def observed(self, sources: Tensor) -> Tensor:
        """y, with a graph: (samples, nodes) -> (samples, 20)."""
        y: Tensor = self.layer(sources) / self.scale
        return y

    def data(self, samples: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Observations without noise, and what the network gets of them."""
        coefficients = torch.randn(samples, MODES, generator=random, dtype=torch.float64)
        noise = torch.randn(samples, POINTS, generator=random, dtype=torch.float64)
        mine = harness.share(samples)
        y = torch.from_numpy(self.G(self.sources(coefficients[mine]).numpy()) / self.scale)
        return y, (y + NOISE * noise[mine] - self.mean) / self.spread

    def close(self) -> None:
        """Collective."""
        self.G.close()
        self.teams.close()


def modes_of(V: object) -> np.ndarray:
    """The first principal components of draws of s: (10, nodes). Collective."""
    prior = relax.SmoothnessPrior(V, length=LENGTH, std=DEVIATION)
    draws = np.array([prior.sample(seed) for seed in range(400)])
    prior.close()
    _, s, Vt = np.linalg.svd(draws, full_matrices=False)
    return np.ascontiguousarray((s[:MODES, None] / np.sqrt(len(draws))) * Vt[:MODES])


@dataclass(frozen=True)
class Task:
    """Data and initial weights of a seed: the same for every method."""

    physics: Physics
    net: torch.nn.Module
    seed: int
    test: tuple[Tensor, Tensor]

    @staticmethod
    def of(physics: Physics, seed: int, hidden: int = HIDDEN) -> Task:
        """Drawn with the seed."""
        widths = (POINTS, hidden, hidden, MODES)
        test = physics.data(TEST_SAMPLES, torch.Generator().manual_seed(10_000 + seed))
        return Task(physics, harness.glorot(widths, torch.nn.Tanh, seed), seed, test)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's samples of batches that do not end, and never come again."""
        random = torch.Generator().manual_seed(self.seed)
        while True:
            yield self.physics.data(size, random)

    def test_loss(self) -> float:
        """The mean over the test samples. Collective."""
        y, seen = self.test
        with torch.no_grad():
            found = self.physics.observed(self.physics.sources(self.net(seen)))
        part = 0.5 * float(((found - y) ** 2).sum())
        return float(parallel.sum_over_ranks(harness.COMM, np.array([part]))[0]) / TEST_SAMPLES


Begin = Callable[[int, float], harness.Training]


def adam(physics: Physics, size: int) -> Begin:
    """Adam on the mean loss of a batch, by the adjoint."""

    def begin(seed: int, rate: float) -> harness.Training:
        task = Task.of(physics, seed)
        parameters = list(task.net.parameters())
        optimizer = torch.optim.Adam(parameters, lr=rate, fused=True)

        def step(batch: tuple[Tensor, Tensor]) -> None:
            target, seen = batch
            optimizer.zero_grad()
            y = physics.observed(physics.sources(task.net(seen)))
            (0.5 * ((y - target) ** 2).sum() / size).backward()
            harness.sum_gradients(parameters)
            optimizer.step()

        return harness.Training(step, task.batches(size), task.test_loss, falling=optimizer)

    return begin


def physical(physics: Physics, size: int) -> Begin:
    """Adam on the physical gradient: the source moves to the most probable one, s and its exponential taken alike."""
    mean = float(np.exp(0.5 * DEVIATION**2))
    prior = relax.SmoothnessPrior(
        physics.G.problem.state.function_space, length=LENGTH, std=mean * np.sqrt(np.expm1(DEVIATION**2)), mean=mean
    )
    inverse = relax.gauss_newton_inverse(physics.G, noise=NOISE * physics.scale, prior=prior)

    def begin(seed: int, rate: float) -> harness.Training:
        task = Task.of(physics, seed)
        parameters = list(task.net.parameters())
        optimizer = torch.optim.Adam(parameters, lr=rate, fused=True)

        def step(batch: tuple[Tensor, Tensor]) -> None:
            target, seen = batch
            optimizer.zero_grad()
            sources = physics.sources(task.net(seen))
            y = torch.from_numpy(physics.G(sources.detach().numpy()))
            loss = relax.physical_gradient(sources, y, target * physics.scale, inverse)
            (loss / (size * sources.shape[1])).backward()
            harness.sum_gradients(parameters)
            optimizer.step()

        return harness.Training(step, task.batches(size), task.test_loss, falling=optimizer)

    return begin


def half_inverse(physics: Physics, size: int, method: str = "auto", hidden: int = HIDDEN) -> Begin:
    """HalfInverse on the mean loss of a batch; samples shared among ranks."""

    def begin(seed: int, rate: float) -> harness.Training:
        task = Task.of(physics, seed, hidden)
        optimizer = relax.HalfInverse(
            task.net.parameters(), lr=rate, rcond=RCOND, method=method, teams=physics.share_of_teams
        )

        def step(batch: tuple[Tensor, Tensor]) -> None:
            target, seen = batch

            def closure() -> tuple[Tensor, Tensor]:
                y = physics.observed(physics.sources(task.net(seen)))
                return y, 0.5 * ((y - target) ** 2).sum() / size

            optimizer.step(closure)

        return harness.Training(step, task.batches(size), task.test_loss, falling=optimizer)

    return begin


def methods(physics: Physics) -> tuple[harness.Method, ...]:
    """What is compared, each with a tuned learning rate."""
    return (
        harness.Method("Adam, B 64", adam(physics, 64), 1e-2, (3e-3, 1e-2, 3e-2)),
        harness.Method("physical gradient, B 32", physical(physics, 32), 3e-2, (3e-3, 1e-2, 3e-2)),
        harness.Method("half-inverse, B 16", half_inverse(physics, 16), 4.0, (1.0, 2.0, 4.0)),
    )


def factorisations() -> int:
    """How many PETSc has made so far on this rank, since its log was begun. Local."""
    events = ("MatLUFactorNum", "MatCholFctrNum")
    return sum(PETSc.Log.Event(name).getPerfInfo()["count"] for name in events)


def memory() -> None:
    """By how much a step raises the peak of resident memory, each case in a process of its own: a table."""
    harness.say("| batch | hidden | parameters | J, MB | gram, MB | krylov, MB |\n|---|---|---|---|---|---|")
    for size, hidden in ((16, 64), (64, 64), (16, 512), (64, 512)):
        count = sum(n * k + k for n, k in ((POINTS, hidden), (hidden, hidden), (hidden, MODES)))
        grown = []
        for method in ("gram", "krylov"):
            words = [sys.executable, __file__, "--step-of", method, str(size), str(hidden)]
            grown.append(float(subprocess.run(words, capture_output=True, text=True, check=True).stdout))
        whole = 8e-6 * size * POINTS * count
        harness.say(f"| {size} | {hidden} | {count} | {whole:.0f} | {grown[0]:.0f} | {grown[1]:.0f} |")


def step_of(method: str, size: int, hidden: int) -> None:
    """Print by how much a step raises the peak, MB."""
    physics = Physics()
    warm = half_inverse(physics, 2, method, 8)(0, 0.1)
    warm.step(next(warm.batches))
    training = half_inverse(physics, size, method, hidden)(0, 0.1)
    batch = next(training.batches)
    before = harness.forget_peak()
    training.step(batch)
    print(harness.peak_memory() - before)


def main() -> None:
    """Compare at equal time, and check that nothing was factored again."""
    if sys.argv[1:2] == ["--step-of"]:
        return step_of(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    given = harness.settings(__doc__ or "", budget=20.0, flags={"memory": "print a table of memory instead"})
    if "memory" in given.chosen:
        return memory()
    PETSc.Log.begin()
    physics = Physics()
    compared = methods(physics)
    before = factorisations()
    runs = harness.compare("Poisson on a mesh", compared, given, times=(2.0, 5.0, 10.0))
    made = factorisations() - before
    harness.say(f"{made} factorisations in the runs; solves: {physics.G.counts}")
    assert made <= 1, "expected one factorisation, of the prior of the physical gradient, and none of the physics"
    assert all(run.losses[-1] < run.losses[0] for run in runs), "expected every method to learn"
    physics.close()


if __name__ == "__main__":
    relax.init(sys.argv)
    main()
