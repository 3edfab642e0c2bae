"""What the experiments with physical gradients share: a network from observations to causes, trained in two ways.

Scale-invariant learning by physics inversion (Holl, Koltun and Thuerey, NeurIPS 2022): the network's output moves along
an inverse of the physics; beside it Adam on the misfit of observations, by the adjoint.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import relax
import harness
import numpy as np
import torch
from petsc4py import PETSc
from relax.base import parallel
from relax.train.physical import physical_gradient

Tensor = torch.Tensor

PHYSICAL = "physical gradient"
ADJOINT = "adjoint"
HIDDEN = 256
COMPONENTS = 128
BATCH = 64
TEST_SAMPLES = 128
RATES = (1e-3, 3e-3, 1e-2)


@dataclass(frozen=True)
class Study:
    """An equation, how its causes are drawn, and how it is undone.

    On a mesh over each team, a team of one rank each; batches are shared among the teams.

    Attributes:
        name: for the table.
        teams: of one rank each.
        G: cause x -> observation y = all values of a field; linear.
        inverse: of G, for physical gradients.
        draw: (random, samples) -> causes (samples, size_in), the same on every rank. Local.
    """

    name: str
    teams: relax.Teams
    G: relax.ReducedMap
    inverse: Any
    draw: Callable[[np.random.Generator, int], np.ndarray]

    def close(self) -> None:
        """Collective."""
        self.inverse.close()
        self.G.close()
        self.teams.close()


@dataclass(frozen=True)
class Scaling:
    """What a network sees and says: its input and output have mean 0 and size 1 over the data.

    Attributes:
        y_mean, y_size: mean (size_out,) and standard deviation, one number, of observations.
        components: observations less their mean to the amplitudes of their principal components, each of size 1,
            (size_out, COMPONENTS).
        x_mean, x_size: mean (size_in,) and standard deviation of causes.
    """

    y_mean: Tensor
    y_size: float
    components: Tensor
    x_mean: Tensor
    x_size: float

    @staticmethod
    def of(study: Study) -> Scaling:
        """From draws of their own, the same for all seeds. Collective over the team."""
        x = study.draw(np.random.default_rng(99), 1024)
        y = study.G(x)
        x_mean, y_mean = (torch.from_numpy(values.mean(axis=0)) for values in (x, y))
        _, s, Vt = np.linalg.svd(y - y_mean.numpy(), full_matrices=False)
        components = torch.from_numpy((Vt[:COMPONENTS].T / s[:COMPONENTS]) * np.sqrt(len(y)))
        return Scaling(y_mean, float(y.std(axis=0).max()), components, x_mean, float(x.std(axis=0).max()))


@dataclass
class Task:
    """Data and initial weights of a seed: the same for every method. Looks at the test data are kept.

    Attributes:
        looks: the x-loss and the y-loss of every look: Σ |x − x*|² / Σ |x*|² over the test samples, and y alike.
    """

    study: Study
    scaling: Scaling
    seed: int
    looks: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        G = self.study.G
        widths = (COMPONENTS, HIDDEN, HIDDEN, G.size_in)
        self.net = harness.glorot(widths, torch.nn.Tanh, self.seed)
        self._test = self._data(np.random.default_rng(10_000 + self.seed), TEST_SAMPLES)
        self.parameters = list(self.net.parameters())

    def _data(self, random: np.random.Generator, samples: int) -> tuple[Tensor, Tensor]:
        """This rank's causes and observations."""
        x = self.study.draw(random, samples)[harness.share(samples)]
        return torch.from_numpy(x), torch.from_numpy(self.study.G(x))

    def batches(self) -> Iterator[Tensor]:
        """This rank's observations of batches that do not end, and never come again."""
        random = np.random.default_rng(self.seed)
        while True:
            yield self._data(random, BATCH)[1]

    def guess(self, y: Tensor) -> Tensor:
        """x, with its graph."""
        s = self.scaling
        return s.x_mean + s.x_size * self.net((y - s.y_mean) @ s.components)

    def test_loss(self) -> float:
        """The x-loss on the test data. Collective."""
        truth, target = self._test
        with torch.no_grad():
            x = self.guess(target).numpy()
        y = self.study.G(x)
        pairs = ((x, truth.numpy()), (y, target.numpy()))
        sums = np.array([[((a - b) ** 2).sum(), (b**2).sum()] for a, b in pairs])
        sums = parallel.sum_over_ranks(harness.COMM, sums)
        self.looks.append((float(sums[0, 0] / sums[0, 1]), float(sums[1, 0] / sums[1, 1])))
        return self.looks[-1][0]


def methods(study: Study, looks: dict[tuple[str, int], list[tuple[float, float]]]) -> tuple[harness.Method, ...]:
    """Both ways, by Adam.

    Args:
        study: what is learnt.
        looks: filled with what each run saw, by method and seed.
    """
    scaling = Scaling.of(study)
    layer = relax.SolutionLayer(study.G)

    def physical(task: Task, target: Tensor) -> Tensor:
        x = task.guess(target)
        y = torch.from_numpy(study.G(x.detach().numpy()))
        return physical_gradient(x, y, target, study.inverse) / scaling.x_size**2

    def adjoint(task: Task, target: Tensor) -> Tensor:
        y = layer(task.guess(target))
        return 0.5 * ((y - target) ** 2).sum() / scaling.y_size**2

    def begin(name: str, loss: Callable[[Task, Tensor], Tensor]) -> Callable[[int, float], harness.Training]:
        def begin(seed: int, rate: float) -> harness.Training:
            task = Task(study, scaling, seed)
            looks[name, seed] = task.looks
            optimizer = torch.optim.Adam(task.parameters, lr=rate)

            def step(target: Tensor) -> None:
                optimizer.zero_grad()
                (loss(task, target) / BATCH).backward()
                harness.sum_gradients(task.parameters)
                optimizer.step()

            return harness.Training(step, task.batches(), task.test_loss)

        return begin

    return tuple(
        harness.Method(name, begin(name, loss), rate, RATES)
        for name, loss, rate in ((PHYSICAL, physical, 3e-3), (ADJOINT, adjoint, 3e-3))
    )


def main(study: Callable[[], Study], description: str) -> None:
    """Compare at equal time, as the command line says. Collective."""
    given = harness.settings(description, budget=12.0)
    PETSc.Log.begin()
    run(study(), given, times=(1.0, 2.0, 5.0))


def run(study: Study, given: harness.Settings, times: tuple[float, ...]) -> None:
    """Compare both ways; print both losses; check that they learn and that nothing is factored again. Collective."""
    looks: dict[tuple[str, int], list[tuple[float, float]]] = {}
    compared = methods(study, looks)
    study.inverse(np.zeros(study.G.size_out))  # what it keeps is made at its first call
    before = factorisations()
    harness.compare(study.name, compared, given, times=times)
    made = factorisations() - before
    lines = [
        "| method | x-loss at first | y-loss at first | x-loss at the end | y-loss at the end |",
        "|---|---|---|---|---|",
    ]
    ends = {}
    for name in (PHYSICAL, ADJOINT):
        mine = [looks[name, seed] for seed in range(given.seeds)]
        numbers = [statistics.median(look[at][i] for look in mine) for at in (0, -1) for i in (0, 1)]
        lines.append(f"| {name} | " + " | ".join(f"{number:.2e}" for number in numbers) + " |")
        ends[name] = numbers
        assert all(look[-1][0] < look[0][0] or given.quick for look in mine), f"expected {name} to learn"
    harness.say("\n".join(["", *lines, "", f"{made} factorisations in the runs; solves: {study.G.counts}"]))
    assert made == 0, "expected one factorisation, made before the first run"
    if not given.quick:
        assert ends[PHYSICAL][2] < ends[ADJOINT][2], "expected the inverse to come closer to the cause"
    study.close()


def factorisations() -> int:
    """How many PETSc has made so far on this rank, since its log was begun. Local."""
    events = ("MatLUFactorNum", "MatCholFctrNum")
    return sum(PETSc.Log.Event(name).getPerfInfo()["count"] for name in events)
