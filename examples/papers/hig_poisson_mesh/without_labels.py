"""A network that solves Poisson's equation, on an unstructured mesh, taught by the residual and by solutions.

Run: python3 examples/papers/hig_poisson_mesh/without_labels.py, or mpirun -n 2 python3 ...; see README.md.

The mesh and the sources m = exp(s) are those of hig_poisson_mesh.py. A network with its hidden layers takes the 10
coefficients of s and gives u at all 4 895 nodes; its last weights are 0 at first. Taught with labels it lowers the mean
square of u - u_h at the nodes, u_h solved for on the clock: for each sample of each batch, or for 1 024 samples that
come again and again. Taught without it lowers relax.ResidualLoss on u itself, and no solution is known to it: the
residual's square in the dual norm of the energy, with the derivative in the nodal values or its Riesz representer, or
in that of L2. The test is the error in the energy, relative to the solution's. Learning rates stay as they are, so that
the same runs are compared at equal time and at equal steps.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import harness  # noqa: E402, I001  (first: it sets the number of threads)

import statistics  # noqa: E402
from collections.abc import Callable, Iterator, Sequence  # noqa: E402
from functools import partial  # noqa: E402

import hig_poisson_mesh as with_observations  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import ufl  # noqa: E402

import relax  # noqa: E402
from relax.base import parallel  # noqa: E402
from relax.base.types import Array  # noqa: E402
from relax.pdes import poisson  # noqa: E402

Tensor = torch.Tensor
#: (coefficients, sources, fields of the network) -> a number for each sample.
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]

MODES, HIDDEN = with_observations.MODES, with_observations.HIDDEN
BATCH, LABELS, TEST_SAMPLES = 32, 1024, 32
#: Steps at which methods are compared, whatever they cost.
STEPS = (50, 100, 200)


class Physics:
    """The map, the losses and the sources, one for all methods and seeds. Collective, to make: teams of one rank."""

    def __init__(self) -> None:
        self.teams = relax.Teams(harness.COMM, 1)
        mesh = relax.meshes.read(with_observations.MESH, self.teams.space)
        problem = poisson.source(mesh, dirichlet=dict.fromkeys(with_observations.SIDES, 0.0))
        V = problem.state.function_space
        self.G = relax.ReducedMap(problem, relax.FieldValues(V))
        self.modes = torch.from_numpy(with_observations.modes_of(V))
        self.energy = relax.ResidualLoss(problem)
        self.riesz = relax.ResidualLoss(problem, metric="riesz")
        self.mass = relax.ResidualLoss(problem, ufl.inner(ufl.TrialFunction(V), ufl.TestFunction(V)) * ufl.dx)
        #: Errors in the energy and at the nodes, by method, number of steps and seed.
        self.errors: dict[tuple[str, int, int], tuple[float, float]] = {}

    def solved(self, sources: Tensor) -> Tensor:
        """u_h at the nodes: (samples, nodes) -> (samples, nodes)."""
        return torch.from_numpy(self.G(sources.numpy()))

    def batches(self, size: int, seed: int, samples: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's coefficients and sources, new ones each time, or of so many samples over and over."""
        random = torch.Generator().manual_seed(seed)
        draw = partial(torch.randn, MODES, generator=random, dtype=torch.float64)
        kept = torch.stack([draw() for _ in range(samples)]) if samples else None
        while True:
            if kept is None:
                whole = torch.stack([draw() for _ in range(size)])
            else:
                whole = kept[torch.randint(samples, (size,), generator=random)]
            mine = whole[harness.share(size)]
            yield mine, torch.exp(mine @ self.modes)


def off_by(u: Tensor, labels: Tensor) -> Tensor:
    """Half the mean square over the nodes, for each sample."""
    return 0.5 * ((u - labels) ** 2).mean(dim=1)


class Labels:
    """Of samples that come again, each solved for when it first comes."""

    def __init__(self, physics: Physics) -> None:
        self._physics = physics
        self._known: dict[bytes, Tensor] = {}

    def __call__(self, coefficients: Tensor, sources: Tensor, u: Tensor) -> Tensor:
        keys = [row.numpy().tobytes() for row in coefficients]
        new = [i for i, key in enumerate(keys) if key not in self._known]
        if new:
            self._known |= zip([keys[i] for i in new], self._physics.solved(sources[new]), strict=True)
        return off_by(u, torch.stack([self._known[key] for key in keys]))


def begun(
    physics: Physics, name: str, loss_of: Callable[[], Loss], labels: int = 0
) -> Callable[[int, float], harness.Training]:
    """Adam on the mean of a loss over a batch; the weights and the samples of a seed are the same for all methods."""

    def begin(seed: int, rate: float) -> harness.Training:
        net = harness.glorot((MODES, HIDDEN, HIDDEN, physics.G.size_out), torch.nn.Tanh, seed)
        torch.nn.init.zeros_(net[-1].weight)
        loss, parameters = loss_of(), list(net.parameters())
        adam = torch.optim.Adam(parameters, lr=rate, fused=True)
        seen, sources = next(physics.batches(TEST_SAMPLES, 10_000 + seed))
        wanted = physics.solved(sources)
        steps = 0

        def sizes(u: Tensor) -> Array:
            """Of u - u_h over the test samples, squared: in the energy, at the nodes."""
            mine = [float(physics.energy(sources, u).sum()), float(((u - wanted) ** 2).sum())]
            return parallel.sum_over_ranks(harness.COMM, np.array(mine))

        whole = sizes(torch.zeros_like(wanted))

        def errors() -> tuple[float, float]:
            with torch.no_grad():
                energy, nodes = np.sqrt(sizes(net(seen)) / whole)
            return float(energy), float(nodes)

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            # Off the clock.
            for batch in physics.batches(BATCH, seed, labels):
                if steps in STEPS:
                    physics.errors[name, steps, seed] = errors()
                yield batch

        def step(batch: tuple[Tensor, Tensor]) -> None:
            nonlocal steps
            adam.zero_grad()
            (loss(*batch, net(batch[0])).sum() / BATCH).backward()
            harness.sum_gradients(parameters)
            adam.step()
            steps += 1

        return harness.Training(step, batches(), lambda: errors()[0])

    return begin


def methods(physics: Physics) -> tuple[harness.Method, ...]:
    """What is compared, each with a tuned learning rate."""
    compared = (
        ("labels, new ones", lambda: lambda _, m, u: off_by(u, physics.solved(m)), 0, 1e-3),
        (f"labels, {LABELS} of them", lambda: Labels(physics), LABELS, 1e-3),
        ("residual, energy", lambda: lambda _, m, u: physics.energy(m, u), 0, 1e-3),
        ("residual, energy, Riesz", lambda: lambda _, m, u: physics.riesz(m, u), 0, 1e-3),
        ("residual, L2", lambda: lambda _, m, u: physics.mass(m, u), 0, 1e-4),
    )
    return tuple(
        harness.Method(name, begun(physics, name, loss_of, labels), rate, (1e-4, 3e-4, 1e-3, 3e-3))
        for name, loss_of, labels, rate in compared
    )


def at_equal_steps(physics: Physics, names: Sequence[str]) -> str:
    """A table in Markdown: median over seeds, of those that came so far."""
    lines = [
        "| method | " + " | ".join(f"{n} steps: energy, nodes" for n in STEPS) + " |",
        "|---|" + "---|" * len(STEPS),
    ]
    for name in names:
        cells = []
        for n in STEPS:
            found = [
                errors
                for (who, steps, seed), errors in physics.errors.items()
                if (who, steps) == (name, n) and seed != harness.TUNING_SEED
            ]
            cells.append(", ".join(f"{statistics.median(each):.3g}" for each in zip(*found, strict=True)) or "-")
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Compare at equal time, and at equal steps."""
    given = harness.settings(__doc__ or "", budget=15.0)
    physics = Physics()
    compared = methods(physics)
    runs = harness.compare("Poisson without labels", compared, given, times=(2.0, 5.0, 10.0))
    harness.say(at_equal_steps(physics, [method.name for method in compared]))
    assert given.quick or all(run.losses[-1] < run.losses[0] for run in runs), "expected every method to learn"


if __name__ == "__main__":
    relax.init(sys.argv)
    main()
