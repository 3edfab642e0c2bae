"""A solver in the loop: a network corrects the steps of a coarse mesh, and is trained through them.

u_t + b · grad u = nu Lap u on a square, in a wind b that turns: blobs are carried about. The reference is the
solution on a mesh four times as fine, projected to the coarse one in L2; the coarse step S smears blobs and leaves
ripples. A network N corrects the state, u⁺ = S(u) + N(u), and is trained through 1, 2, 4 or 8 steps by
``relax.train.ClosedLoop``: N is the controller, and what it does is added to the state. Two kinds of N: a matrix,
which is enough for an equation that is linear, and messages along the edges of the mesh, with weights that all nodes
share.

Run: python3 examples/book/solver_in_the_loop.py. One rank: the networks are what takes the time.
"""

from __future__ import annotations

from chapter import COMM, Chapter, opened, say, table  # first: it sets the number of threads

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import relax
import numpy as np
import torch
import ufl
from dolfinx import fem
from dolfinx.mesh import Mesh
from graph_network import GraphNetwork
from relax.base import parallel
from relax.jobs.view import style
from torch import Tensor

STEPS, DT, DIFFUSION = 64, 0.05, 1e-3
BATCH, WIDTH, ROUNDS = 8, 24, 2
GEOMETRY = """
For i In {{0:3}}
  Point(i + 1) = {{i == 1 || i == 2 ? 1 : -1, i > 1 ? 1 : -1, 0, {h}}};
EndFor
Line(1) = {{1, 2}}; Line(2) = {{2, 3}}; Line(3) = {{3, 4}}; Line(4) = {{4, 1}};
Curve Loop(1) = {{1:4}}; Plane Surface(1) = {{1}}; Physical Surface("square") = {{1}};
"""


def square(h: float) -> Mesh:
    """(-1, 1)² in triangles of size h, without any order."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(parallel.of_rank_0(COMM, folder)) / "square.geo"
        parallel.on_rank_0(COMM, lambda: path.write_text(GEOMETRY.format(h=h)))
        mesh = relax.meshes.read(path)
        COMM.Barrier()
    return mesh


def wind(x: Any) -> list[Any]:
    """The curl of (1 - x²)(1 - y²)/2: along the sides, and fastest half way from the middle."""
    return [-x[1] * (1 - x[0] ** 2), x[0] * (1 - x[1] ** 2)]


class Steps:
    """Crank–Nicolson's step on one mesh, (..., nodes) -> (..., nodes), for a batch at once."""

    def __init__(self, mesh: Mesh) -> None:
        self.V = V = fem.functionspace(mesh, ("Lagrange", 1))
        u, v, b = fem.Function(V), ufl.TestFunction(V), ufl.as_vector(wind(ufl.SpatialCoordinate(mesh)))
        weak = (ufl.dot(b, ufl.grad(u)) * v + DIFFUSION * ufl.inner(ufl.grad(u), ufl.grad(v))) * ufl.dx
        initial = fem.Function(V)
        step = relax.theta_evolution(weak, u, initial=initial, dt=DT, num_steps=1, theta=0.5, controls=[initial])
        self.field = relax.FieldValues(V)
        G = relax.ReducedMap(step, self.field)
        self.step = torch.from_numpy(G.linearize(np.zeros(G.size_in)).matrix())
        self.nodes = self.field.coordinates[:, :2]
        # (u, v) of two fields of this space.
        product = relax.Problem(residual=(u - initial) * v * ufl.dx, state=u, controls=[initial], bcs=[], name="mass")
        loss, unit = relax.ResidualLoss(product), torch.eye(G.size_in)
        field = unit.clone().requires_grad_()
        (self.mass,) = torch.autograd.grad(loss(0 * unit, field).sum(), field)


def blobs(nodes: Any, num: int, seed: int) -> Tensor:
    """(num, nodes): three Gaussian blobs each, the same functions on any mesh."""
    random = np.random.default_rng(seed)
    centres, sizes = random.uniform(-0.7, 0.7, (num, 3, 2)), random.uniform(0.12, 0.2, (num, 3))
    heights = random.choice([-1.0, 1.0], (num, 3)) * random.uniform(0.5, 1.0, (num, 3))
    distance = ((nodes[None, None] - centres[:, :, None]) ** 2).sum(-1)
    return torch.from_numpy((heights[..., None] * np.exp(-distance / (2 * sizes[..., None] ** 2))).sum(1))


@dataclass(frozen=True)
class Setting:
    """The coarse step, the graph of its mesh, and reference runs there."""

    coarse: Steps
    graph: relax.layer.Graph
    fine: Steps
    to_coarse: Tensor

    def reference(self, num: int, seed: int) -> Tensor:
        """(STEPS + 1, num, coarse nodes): the fine solution, projected."""
        u, run = blobs(self.fine.nodes, num, seed), []
        for _ in range(STEPS + 1):
            run.append(u @ self.to_coarse.T)
            u = u @ self.fine.step.T
        return torch.stack(run)

    def error(self, run: Tensor, truth: Tensor) -> Tensor:
        """Relative error in L2 of a batch of states, all samples together: (..., num, nodes) -> (...)."""
        size = [torch.einsum("...bi,ij,...bj->...", v, self.coarse.mass, v) for v in (run - truth, truth)]
        return (size[0] / size[1]).sqrt()


class Messages(torch.nn.Module):
    """A correction by a graph network, which sees the state, and what the coarse step makes of it once, twice, thrice.

    The error of a step is made of derivatives, which those changes hold. All are scaled to size 1 by ``runs``.
    """

    def __init__(self, at: Setting, runs: Tensor) -> None:
        super().__init__()
        self.network = GraphNetwork(at.graph, features=8, width=WIDTH, rounds=ROUNDS)
        self._change = at.coarse.step.T - torch.eye(len(at.coarse.step))
        nodes = at.graph.nodes
        self._known = torch.cat([nodes, torch.stack(wind(nodes.T), dim=1)], dim=1)
        self._sizes = [v.std() for v in self._changes(runs[:-1])]
        self._scale = (runs[1:] - runs[:-1] @ at.coarse.step.T).std()

    def _changes(self, u: Tensor) -> list[Tensor]:
        changes = [u]
        for _ in range(3):
            changes.append(changes[-1] @ self._change)
        return changes

    def forward(self, u: Tensor) -> Tensor:
        seen = torch.stack([v / size for v, size in zip(self._changes(u), self._sizes, strict=True)], dim=-1)
        return self._scale * self.network(torch.cat([seen, self._known.expand(*u.shape, -1)], dim=-1))


def matrix(at: Setting) -> torch.nn.Module:
    """A correction that is linear in the state, without any knowledge of the mesh."""
    law = torch.nn.Linear(len(at.coarse.nodes), len(at.coarse.nodes), bias=False)
    torch.nn.init.zeros_(law.weight)
    return law


def setting(coarse_size: float, fine_size: float) -> Setting:
    coarse, fine = Steps(square(coarse_size)), Steps(square(fine_size))
    # Fields of the coarse space at the fine nodes: what is nearest to a fine field in L2 among those.
    hats = fem.Function(coarse.V)
    points = relax.PointValues(coarse.V, fine.nodes)
    G = relax.ReducedMap(
        relax.Problem(
            residual=(hats - (m := fem.Function(coarse.V))) * ufl.TestFunction(coarse.V) * ufl.dx,
            state=hats, controls=[m], bcs=[], name="hats",
        ),
        points,
    )  # fmt: skip
    values = torch.from_numpy(G.linearize(np.zeros(G.size_in)).matrix())
    onto = torch.linalg.solve(values.T @ fine.mass @ values, values.T @ fine.mass)
    return Setting(coarse, relax.graph(coarse.V.mesh), fine, onto)


def train(at: Setting, network: torch.nn.Module, runs: Tensor, unrolled: int, rate: float, budget: float) -> None:
    """Train a correction through so many steps for so many CPU seconds."""
    adam = torch.optim.Adam(network.parameters())
    random, now = np.random.default_rng(torch.initial_seed()), {}
    losses = {
        t: lambda s, t=t: ((s - now["run"][t]) ** 2).mean() / (now["run"][t] ** 2).mean() / unrolled
        for t in range(1, unrolled + 1)
    }
    loop = relax.train.ClosedLoop(lambda s, c: s @ at.coarse.step.T + c, network, steps=unrolled, losses=losses)
    start = time.process_time()
    while (spent := parallel.of_rank_0(COMM, time.process_time() - start)) < budget:
        adam.param_groups[0]["lr"] = rate * (1 - spent / budget)
        first = random.integers(STEPS + 1 - unrolled, size=BATCH)
        sample = random.integers(runs.shape[1], size=BATCH)
        now["run"] = torch.stack([runs[first + t, sample] for t in range(unrolled + 1)])
        adam.zero_grad()
        loop.backward(now["run"][0], flow="full")
        adam.step()


def rolled_out(at: Setting, network: torch.nn.Module | None, start: Tensor) -> Tensor:
    u, run = start, [start]
    with torch.no_grad():
        for _ in range(STEPS):
            u = u @ at.coarse.step.T + (0.0 if network is None else network(u))
            run.append(u)
    return torch.stack(run)


def main() -> None:
    chapter = opened(__doc__ or "", seeds=3)
    at = setting(0.5, 0.25) if chapter.quick else setting(0.16, 0.04)
    say(f"{len(at.coarse.nodes)} coarse nodes, {len(at.fine.nodes)} fine ones")
    num = 4 if chapter.quick else 64
    runs, tests = at.reference(num, seed=1), at.reference(num // 4, seed=2)
    alone = at.error(rolled_out(at, None, tests[0]), tests)
    curves = {"coarse steps alone": [alone]}
    # Kind of network, through how many steps, learning rate, CPU seconds.
    kinds = [("matrix", m, 5e-4, 15.0) for m in (1, 2, 4, 8)] + [("messages", m, 3e-3, 40.0) for m in (1, 4)]
    for kind, unrolled, rate, budget in kinds[::4] if chapter.quick else kinds:
        name = f"{kind}, through {unrolled}"
        curves[name] = []
        for seed in range(chapter.seeds):
            torch.manual_seed(seed)
            network = matrix(at) if kind == "matrix" else Messages(at, runs)
            train(at, network, runs, unrolled, rate, 0.2 if chapter.quick else budget)
            curves[name].append(at.error(rolled_out(at, network, tests[0]), tests))
            say(f"  {name}, seed {seed}: {curves[name][-1][-1]:.4f} after {STEPS} steps")
    looks = (8, 16, 32, 64)
    rows = []
    for name, runs in curves.items():
        middle = [statistics.median(run[n].item() for run in runs) for n in looks]
        rows.append([name, *(f"{e:.4f}" for e in middle), f"{alone[-1].item() / middle[-1]:.1f}"])
    table(["", *(f"after {n} steps" for n in looks), "gain at the end"], rows)
    draw(chapter, curves)


def draw(chapter: Chapter, curves: dict[str, list[Tensor]]) -> None:
    def fill(axis: Any) -> None:
        for (name, runs), colour in zip(curves.items(), style.LINES, strict=False):
            axis.plot(torch.stack(runs).median(dim=0).values, color=colour, label=name)
        axis.set(xlabel="step", ylabel="relative error in L2", title="A coarse solver, corrected", yscale="log")

    chapter.draw(fill, size=(5.6, 3.8))


if __name__ == "__main__":
    main()
