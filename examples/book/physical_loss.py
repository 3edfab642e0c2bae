"""The residual as the loss: a graph network learns -Δu = m on a disk without one solution.

The network sees the source at the nodes and passes messages along the mesh's edges; it is tried on another mesh, too.
It is taught by the discrete residual in the norm dual to the energy (``relax.ResidualLoss``, with and without the
Riesz metric), by the plain residual ½ |r|², and by solutions; the same sources, initial weights and CPU seconds.

Run: python3 examples/book/physical_loss.py. One rank, or several: mpirun -n 2 shares the mesh.
"""

from __future__ import annotations

from chapter import Chapter, opened, say, table  # first: it sets the number of threads

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import relax
import numpy as np
import torch
from graph_network import GraphNetwork
from relax.base import parallel
from relax.jobs.view import style
from torch import Tensor

BATCH, WIDTH, ROUNDS = 8, 24, 4


@dataclass(frozen=True)
class Disk:
    """The problem on one mesh: sources and solutions there, and what the network sees of a source."""

    problem: relax.Problem
    graph: relax.layer.Graph
    stiffness: Tensor
    load: Tensor
    solve: relax.SolutionLayer

    def features(self, m: Tensor) -> Tensor:
        """(..., nodes, 4): the source, whether u is free at the node, and where it is."""
        inside = (self.graph.nodes.norm(dim=1) < 1 - 1e-8).double()
        known = torch.cat([inside[:, None], self.graph.nodes], dim=1)
        return torch.cat([m[..., None], known.expand(*m.shape, 3)], dim=-1)

    def plain_residual(self, m: Tensor, u: Tensor) -> Tensor:
        """½ |r|² of each sample, r = A u - M m the residual at the free nodes."""
        return 0.5 * ((u @ self.stiffness - m @ self.load) ** 2).sum(-1)

    def error(self, u: Tensor, m: Tensor) -> float:
        """The error in the energy over the size of the solution in it, for all samples together."""
        solution = self.solve(m)
        parts = [torch.einsum("bi,ij,bj", v, self.stiffness, v).item() for v in (u - solution, solution)]
        return (parts[0] / parts[1]) ** 0.5


def disk(h: float) -> Disk:
    problem = relax.pdes.poisson.source(relax.meshes.disk(h))
    G = relax.ReducedMap(problem, relax.FieldValues(problem.state.function_space))
    # The gradient of this loss in u is the residual itself, A u - M m.
    loss, unit = relax.ResidualLoss(problem), torch.eye(G.size_in)
    matrices = []
    for m, u in ((0 * unit, unit), (unit, 0 * unit)):
        at = u.clone().requires_grad_()
        matrices += torch.autograd.grad(loss(m, at).sum(), at)
    return Disk(problem, relax.graph(problem.mesh), matrices[0], -matrices[1], relax.SolutionLayer(G, dense=True))


def sources(nodes: Tensor, num: int, seed: int) -> Tensor:
    """(num, nodes): sums of six waves with random directions, lengths and phases, the same functions on any mesh."""
    random = np.random.default_rng(seed)
    waves, phases = random.normal(0.0, 2.0, (num, 6, 2)), random.uniform(0.0, 2 * np.pi, (num, 6))
    return torch.from_numpy(np.sin(np.einsum("nd,bkd->bkn", nodes.numpy(), waves) + phases[..., None]).sum(axis=1))


def trained(disk: Disk, loss: Callable[[Tensor, Tensor], Tensor], budget: float, seed: int) -> tuple[GraphNetwork, int]:
    """A network after so many CPU seconds of a loss (m, u) -> (batch,), and how many steps these were."""
    torch.manual_seed(seed)
    network = GraphNetwork(disk.graph, features=4, width=WIDTH, rounds=ROUNDS)
    adam = torch.optim.Adam(network.parameters())
    comm, steps, start = disk.problem.mesh.comm, 0, time.process_time()
    while (spent := parallel.of_rank_0(comm, time.process_time() - start)) < budget:
        adam.param_groups[0]["lr"] = 3e-3 * (1 - spent / budget)
        m = sources(disk.graph.nodes, BATCH, seed=10_000 * (seed + 1) + steps)
        adam.zero_grad()
        value = loss(m, inside(disk, network, m)).mean()
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        adam.step()
        steps += 1
    return network, steps


def inside(disk: Disk, network: GraphNetwork, m: Tensor) -> Tensor:
    """The network's field, zero at the rim."""
    features = disk.features(m)
    return network(features) * features[..., 1]


def main() -> None:
    chapter = opened(__doc__ or "", seeds=3)
    budget = 0.1 if chapter.quick else 20.0
    here, there = disk(0.4 if chapter.quick else 0.2), disk(0.3 if chapter.quick else 0.15)
    losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "residual, dual norm, Riesz metric": relax.ResidualLoss(here.problem, metric="riesz"),
        "residual, dual norm": relax.ResidualLoss(here.problem),
        "residual, ½ |r|²": here.plain_residual,
        "solutions, mean square": lambda m, u: ((u - here.solve(m)) ** 2).mean(-1),
    }
    tests = [(d, sources(d.graph.nodes, 64, seed=1)) for d in (here, there)]
    say(
        f"{len(here.graph.nodes)} nodes, {here.graph.edges.shape[1] // 2} edges; tried on {len(there.graph.nodes)}, too"
    )
    rows, shown = [], []
    for name, loss in losses.items():
        errors, steps = [], 0
        for seed in range(chapter.seeds):
            network, steps = trained(here, loss, budget, seed)
            found = []
            for at, m in tests:
                network.mesh = at.graph
                with torch.no_grad():
                    found.append(at.error(inside(at, network, m), m))
            errors.append(found)
            say(f"  {name}, seed {seed}: {found[0]:.3f}, {found[1]:.3f}")
        middle = [statistics.median(column) for column in zip(*errors, strict=True)]
        rows.append([name, str(steps), *(f"{e:.3f}" for e in middle)])
        shown.append((name, middle))
    table(["loss", f"steps in {budget:g} CPU s", "relative error in the energy", "on the other mesh"], rows)
    draw(chapter, shown)


def draw(chapter: Chapter, shown: list[tuple[str, list[float]]]) -> None:
    def fill(axis: Any) -> None:
        for i, (label, colour) in enumerate((("the mesh", style.BLUE), ("another mesh", style.RED))):
            places = np.arange(len(shown)) + 0.2 - 0.4 * i
            axis.barh(places, [e[i] for _, e in shown], height=0.38, color=colour, label=label)
        axis.set_yticks(range(len(shown)), [name for name, _ in shown])
        axis.set(xlabel="relative error in the energy", title="-Δu = m by a graph network")

    chapter.draw(fill, size=(6.4, 3.0))


if __name__ == "__main__":
    main()
