"""A step of HalfInverse whose samples are shared among ranks, over the same step of a rank alone.

Run: ``environment/enter mpirun -n 2 python3 benchmarks/half_inverse_ranks.py``. Every rank takes the whole batch, then
its share. What is shared is the physics and the rows of the Gram matrix; its eigenvalues are found on every rank.
"""

from __future__ import annotations

from timing import seconds, table  # isort: skip  (sets the number of threads)

from collections.abc import Callable

import relax
import numpy as np
import torch
from mpi4py import MPI

BATCH, POINTS, CELLS = 24, 10, 48


def stepping(teams: relax.Teams) -> Callable[[], object]:
    """A step of a network to the logarithm of a conductivity, 2 401 numbers, seen at points of the potential."""
    problem = relax.pdes.poisson.diffusion(relax.meshes.unit_square(CELLS, comm=teams.space), source=10.0)
    points = np.random.default_rng(1).uniform(0.1, 0.9, (POINTS, 2))
    G = relax.ReducedMap(problem, relax.PointValues(problem.state.function_space, points))
    physics = relax.SolutionLayer(G)
    torch.manual_seed(0)
    layers = torch.nn.Linear(POINTS, 20), torch.nn.Tanh(), torch.nn.Linear(20, G.size_in)
    network = torch.nn.Sequential(*layers).double()
    optimizer = relax.HalfInverse(network.parameters(), lr=np.inf, cap=0.5, teams=teams)
    x = torch.randn(BATCH, POINTS, dtype=torch.float64)[teams.mine(BATCH)]

    def closure() -> tuple[torch.Tensor, torch.Tensor]:
        y = physics(0.3 * network(x))
        return y, ((y - 1.0) ** 2).sum() / BATCH

    return lambda: optimizer.step(closure)


def main() -> None:
    """The table."""
    alone, shared = seconds(
        stepping(relax.Teams(MPI.COMM_SELF, 1)), stepping(relax.Teams(MPI.COMM_WORLD, 1)), repeats=5
    )
    size = MPI.COMM_WORLD.size
    # 1.7 times faster on two ranks.
    bound = 1.0 / (1.0 + 0.7 * (size - 1))
    rows = [
        ("a rank alone", alone, 1.0, None),
        (f"samples shared among {size}", shared, shared / alone, bound if size == 2 else None),
    ]
    table(f"a step of HalfInverse, {BATCH} samples of a Poisson problem", rows, repeats=5)


if __name__ == "__main__":
    main()
