"""A particle in a box, brought to an eigenstate and kept there by a field that sees it: flows of a closed loop.

Run: python3 examples/papers/quantum_closed_loop/quantum_closed_loop.py, or mpirun -n 2 python3 ...; see README.md.

After Schnell and Thuerey, "Stabilizing Backpropagation Through Time to Learn Complex Physics" (ICLR 2024):

    i psi_t = -psi'' + u(t) x psi on (0, 2), psi = 0 at both ends (hbar = 1, m = 1/2),

by 128 Crank-Nicolson steps of length 0.0625, with u constant in each, on 33 linear elements. relax has m = 1: with time
doubled this is its equation, with dt = 0.125 and the field u/2. The box is in a superposition of its first two
eigenstates at first; a network sees psi and gives u. The loss is the sum over all steps of 1 - |(phi, psi_t)|^2, at
most 128, with the third, fourth or fifth eigenstate for phi.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import harness  # noqa: E402, I001  (first: it sets the number of threads)

import statistics  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402

import closed_loops  # noqa: E402
import torch  # noqa: E402
from mpi4py import MPI  # noqa: E402

import relax  # noqa: E402
from relax.pdes import schrodinger  # noqa: E402

Tensor = torch.Tensor

STEPS, DT = 128, 0.0625
TARGETS = (3, 4, 5)
TEST_SAMPLES = 32


class Box:
    """The physics: (s, u) -> s, s = (Re, Im) at the nodes from left to right. On each rank by itself.

    Args:
        cells: how many.
        steps: of a loop.

    Attributes:
        one: the step, sample by sample.
        width: of a cell.
        nodes: where they are.
    """

    def __init__(self, cells: int = 33, steps: int = STEPS) -> None:
        self.steps = steps
        mesh = relax.meshes.interval(cells, (0.0, 2.0), comm=MPI.COMM_SELF)
        evolution = schrodinger.dipole(mesh, num_steps=2, dt=2.0 * DT, degree=1)
        self.one = relax.train.one_step(evolution, control=evolution.per_step[0])
        # All samples at once.
        self._layer = relax.SolutionLayer(self.one.G, dense=True)
        self.width = 2.0 / cells
        self.nodes = self.width * torch.arange(cells + 1, dtype=torch.float64)

    def __call__(self, s: Tensor, u: Tensor) -> Tensor:
        """A step with the field u."""
        after: Tensor = self._layer(torch.cat([s, 0.5 * u], dim=-1))
        return after

    def eigenstate(self, n: int) -> tuple[Tensor, Tensor]:
        """phi_n at the nodes, of norm 1, and the mass matrix times it: sines are eigenvectors of the matrices."""
        phi = torch.sin(0.5 * torch.pi * n * self.nodes)
        mass = self.width / 3.0 * (2.0 + torch.cos(0.5 * torch.pi * n * self.nodes[1]))
        phi[-1] = 0.0
        phi = phi / torch.sqrt(mass * (phi @ phi))
        return phi, mass * phi

    def starts(self, samples: int, random: torch.Generator) -> Tensor:
        """Superpositions of the first two eigenstates: normal moduli, uniform phases."""
        moduli = torch.randn(samples, 2, 1, generator=random, dtype=torch.float64)
        phases = 2.0 * torch.pi * torch.rand(samples, 2, 1, generator=random, dtype=torch.float64)
        c = moduli * torch.cat([phases.cos(), phases.sin()], dim=2) / moduli.norm(dim=1, keepdim=True)
        return torch.einsum("bkc,kx->bxc", c, torch.stack([self.eigenstate(n)[0] for n in (1, 2)])).flatten(1)

    def infidelity(self, target: int) -> Callable[..., Tensor]:
        """s -> 1 - |(phi, psi)|^2 of each sample."""
        onto = torch.kron(self.eigenstate(target)[1][:, None], torch.eye(2, dtype=torch.float64))
        return lambda s, u=None: 1.0 - (s @ onto).square().sum(-1)

    def networks(self, seeds: Sequence[int]) -> closed_loops.Controllers:
        """Tanh networks of psi at the inner points, as a vector of length 1."""
        widths = (2 * len(self.nodes) - 4, 100, 100, 1)
        return closed_loops.Controllers(widths, seeds, sees=lambda s: self.width**0.5 * s[..., 2:-2])

    def control(self, target: int) -> closed_loops.Experiment:
        """The experiment with a target."""
        losses = dict.fromkeys(range(1, self.steps + 1), self.infidelity(target))
        return closed_loops.Experiment(
            f"Target {target}", self, self.steps, losses, self.starts, self.networks, TEST_SAMPLES,
            flows=closed_loops.FLOWS if target == TARGETS[0] else closed_loops.FLOWS[:3],
        )  # fmt: skip

    def costates(self, target: int, net: torch.nn.Module, s: Tensor) -> dict[str, float]:
        """The largest |λ_t| / |λ_T| of the loss at the end alone, in the norm dual to that of L2."""
        inner = len(self.nodes) - 2
        off = torch.diag(torch.ones(inner - 1, dtype=torch.float64), 1)
        M = self.width / 6.0 * (4.0 * torch.eye(inner, dtype=torch.float64) + off + off.T)
        lengths: dict[str, list[float]] = {"full": [], "physics": []}

        def watch(t: int, costates: dict[str, Tensor]) -> None:
            for flow, costate in costates.items():
                values = costate[:, 0].unflatten(-1, (-1, 2))[:, 1:-1]
                lengths[flow].append(float((values * torch.linalg.solve(M, values)).sum().sqrt()))

        missed = self.infidelity(target)
        loop = relax.train.ClosedLoop(self, net, steps=self.steps, losses={self.steps: lambda s: missed(s).mean()})
        loop.gradients(s, watch=watch)
        return {flow: max(of) / of[0] for flow, of in lengths.items()}

    def unrolled(self, net: torch.nn.Module, psi: Tensor, target: int, *, sees: bool, steps: int = STEPS) -> None:
        """The published way to a gradient: dense Crank-Nicolson steps by finite differences, unrolled by torch.

        Args:
            net: the controller.
            psi: (batch, inner points), complex, of norm 1 on the grid.
            target: the number of the eigenstate.
            sees: whether the gradient goes into what the controller sees: "full"; without it, "physics".
            steps: how many.
        """
        eye = torch.eye(psi.shape[1], dtype=torch.complex128)
        off = torch.diag(torch.ones(psi.shape[1] - 1), 1)
        laplace, x = (2.0 * eye - off - off.T) / self.width**2, self.nodes[1:-1]
        phi, total = (self.width * self.eigenstate(target)[0][1:-1]).to(psi), torch.zeros((), dtype=torch.float64)
        for _ in range(steps):
            seen = torch.view_as_real(psi if sees else psi.detach()).flatten(1)
            u = net(torch.nn.functional.pad(seen, (2, 2))[:, None])
            half = 0.5j * DT * (laplace + torch.diag_embed(u[:, 0] * x))
            psi = torch.linalg.solve(eye + half, psi[..., None] - half @ psi[..., None])[..., 0]
            total = total + 1.0 - (psi @ phi).abs().square().mean()
        total.backward()


def gradients(box: Box, *, repeats: int = 5, steps: int = STEPS) -> dict[str, float]:
    """CPU ms per gradient of one network, batch 8."""
    one, net, target = box.control(TARGETS[-1]), box.networks([0]), TARGETS[-1]
    s = one.data([0])[0][: closed_loops.BATCH]
    psi = torch.view_as_complex(s[:, 0].unflatten(-1, (-1, 2)))[:, 1:-1].clone()
    losses = {t: lambda s, f=f: f(s).mean() for t, f in one.losses.items() if t <= steps}
    together = relax.train.ClosedLoop(box, net, steps=steps, losses=losses)
    singly = relax.train.ClosedLoop(box.one, net, steps=steps, losses=losses)
    ways: dict[str, Callable[[], object]] = {
        "`ClosedLoop`, full": lambda: together.backward(s, "full"),
        "`ClosedLoop`, combined": lambda: together.backward(s, "combined"),
        "`ClosedLoop`, combined, a sparse solve for each sample": lambda: singly.backward(s, "combined"),
        "dense, unrolled by torch, full": lambda: box.unrolled(net, psi, target, sees=True, steps=steps),
        "dense, unrolled by torch, full and physics": lambda: [
            box.unrolled(net, psi, target, sees=sees, steps=steps) for sees in (True, False)
        ],
    }
    found = {}
    for name, way in ways.items():
        times = []
        for _ in range(repeats):
            begun = time.process_time()
            way()
            times.append(time.process_time() - begun)
        found[name] = 1e3 * statistics.median(times)
    return found


def main() -> None:
    """Train by all flows; then the ends, costates, and the time that a gradient takes."""
    given = harness.settings(__doc__ or "", epochs=4)
    box, targets = (Box(steps=16), TARGETS[:1]) if given.quick else (Box(), TARGETS)
    experiments = [box.control(target) for target in targets]
    outcomes = closed_loops.compare("Quantum closed loop", experiments, given)
    tested = experiments[0].data(range(given.seeds))[1]
    for one, target, outcome in zip(experiments, targets, outcomes, strict=True):
        for flow, found in outcome.items():
            ends = box.infidelity(target)(one.run(found.net, tested)[1]).mean(0)
            grown = box.costates(target, closed_loops.of_seed(found.net, 0), tested[: closed_loops.BATCH, :1])
            spread = f"{ends.median():.2g} ({ends.min():.2g} to {ends.max():.2g})"
            harness.say(
                f"{one.title}, {flow}: infidelity at the end {spread}; largest |λ_t| / |λ_T|: "
                + ", ".join(f"{name} {value:.12g}" for name, value in grown.items())
            )
    for cells in (33,) if given.quick else (33, 129):
        for name, ms in (gradients(Box(cells), repeats=1, steps=4) if given.quick else gradients(Box(cells))).items():
            harness.say(f"{cells} cells, {name}: {ms:.0f} CPU ms")


if __name__ == "__main__":
    relax.init(sys.argv)
    main()
