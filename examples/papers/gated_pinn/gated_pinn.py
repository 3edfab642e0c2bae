"""Mixtures of experts in a physics-informed network for a quantum oscillator, beside one network and finite elements.

Run: python3 examples/papers/gated_pinn/gated_pinn.py, or mpirun -n 2 python3 ...; see README.md. Stiller et al. (2020),
Large-scale neural solvers for partial differential equations: i ψ_t = −½ Δψ + ½ (x² + y²) ψ on (−3, 3)² for 0 < t < 1,
from a coherent state, which stays one: ψ = Π_i π^(-1/4) exp(−½ (x_i − a_i cos t)² − i a_i sin t x_i + ½ i a_i² sin t
cos t − ½ i t). Points of each batch are shared among ranks.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import harness  # noqa: E402, I001  (first: it sets the number of threads)

import time  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from functools import partial  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
import torch  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent))

import relax  # noqa: E402
from experts import VALUE, XX, YY, Experts, HatGate, T, TopGate  # noqa: E402
from relax.base import parallel  # noqa: E402

Tensor = torch.Tensor

#: Half the width of the box, and where the wave packet is at first.
HALF, CENTRE = 3.0, (1.0, 0.5)
#: Points for the equation, for the initial state, and along an edge for the norm. Weights of the initial state and of
#: balanced gates in the loss.
INSIDE, AT_START, EDGE = 512, 256, 16
START, BALANCE = 12.0, 0.01
#: Times and points along an edge that errors are taken at.
TIMES, GRID = (0.25, 0.5, 0.75, 1.0), 41


def coherent(x: npt.NDArray[Any], t: Any) -> npt.NDArray[np.complex128]:
    """ψ at x (2 or more, n)."""
    psi = np.ones(x.shape[1], dtype=complex)
    for x_i, a in zip(x, CENTRE, strict=False):
        phase = -a * np.sin(t) * x_i + 0.5 * a**2 * np.sin(t) * np.cos(t) - 0.5 * t
        psi = psi * np.pi**-0.25 * np.exp(-0.5 * (x_i - a * np.cos(t)) ** 2 + 1j * phase)
    return psi


def both_parts(psi: npt.NDArray[np.complex128]) -> Tensor:
    """Real and imaginary part, (n, 2)."""
    return torch.from_numpy(np.stack([psi.real, psi.imag], -1))


def lattice(num: int) -> npt.NDArray[np.float64]:
    """Points of the box, (num², 2)."""
    edge = np.linspace(-HALF, HALF, num)
    return np.stack(np.meshgrid(edge, edge, indexing="ij"), -1).reshape(-1, 2)


def batches(seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Points of the equation, of the initial state, of the norm at a random time; the same on every rank."""
    random = np.random.default_rng(seed)
    grid = lattice(EDGE)
    while True:
        inside = np.hstack([random.uniform(-HALF, HALF, (INSIDE, 2)), random.random((INSIDE, 1))])
        start = np.hstack([random.uniform(-HALF, HALF, (AT_START, 2)), np.zeros((AT_START, 1))])
        norm = np.hstack([grid, np.full((len(grid), 1), random.random())])
        yield torch.from_numpy(inside), torch.from_numpy(start), torch.from_numpy(norm)


def sums(net: Experts, batch: tuple[Tensor, Tensor, Tensor], share: Any) -> Tensor:
    """What the loss is made of, of a share of the points: three sums, importance and load of each expert."""
    inside, start, norm = (points[share(len(points))] for points in batch)
    u, gates = net(inside)
    r2 = (inside[:, :2] ** 2).sum(-1, keepdim=True)
    H = -0.5 * (u[XX] + u[YY]) + 0.5 * r2 * u[VALUE]
    # i ψ_t = H ψ in real and imaginary parts.
    left = torch.stack([u[T, :, 0] - H[:, 1], u[T, :, 1] + H[:, 0]], -1)
    first = net(start)[0][VALUE] - both_parts(coherent(start[:, :2].numpy().T, 0.0))
    # Edges and corners of the box count by a half and a quarter: the trapezoidal rule.
    weight = torch.prod(torch.where(norm[:, :2].abs() == HALF, 0.5, 1.0), -1) * (2 * HALF / (EDGE - 1)) ** 2
    mass = (weight * (net(norm)[0][VALUE] ** 2).sum(-1)).sum()
    three = torch.stack([(left**2).sum() / INSIDE, (first**2).sum() / AT_START, mass])
    return torch.cat([three, gates.sum(0), (gates > 0.0).sum(0).to(gates.dtype)])


def loss_of(parts: Tensor, learnt_gate: bool) -> Tensor:
    """The loss, of the sums over all ranks."""
    loss = parts[0] + START * parts[1] + (parts[2] - 1.0) ** 2
    if learnt_gate:
        importance, load = parts[3:].chunk(2)
        loss = loss + BALANCE * sum(v.var(unbiased=False) / v.mean() ** 2 for v in (importance, load))
    return loss


def loss_and_gradients(net: Experts, batch: tuple[Tensor, Tensor, Tensor]) -> float:
    """The loss, the same on any number of ranks; its gradient is left in the weights. Collective.

    A loss of sums over all points is differentiated by what it changes with each sum: two reductions, one of some
    numbers, one of the gradient.
    """
    mine = sums(net, batch, harness.share)
    whole = torch.from_numpy(parallel.sum_over_ranks(harness.COMM, mine.detach().numpy().copy())).requires_grad_()
    loss = loss_of(whole, isinstance(net.gate, TopGate))
    (by_sum,) = torch.autograd.grad(loss, whole)
    net.zero_grad()
    (by_sum * mine).sum().backward()
    harness.sum_gradients(list(net.parameters()))
    return float(loss)


def network(kind: str, seed: int) -> Experts:
    """A network, or a mixture of about as many weights."""
    if kind == "one network":
        return Experts(1, (3, 64, 64, 64, 2), None, seed)
    if kind == "top 2 of 4 experts":
        return Experts(4, (3, 31, 31, 31, 2), TopGate(4, 2, seed + 1), seed)
    return Experts(9, (3, 20, 20, 20, 2), HatGate(2, -HALF, HALF), seed)


KINDS = ("one network", "top 2 of 4 experts", "hat functions of 9 nodes")


def largest_error(net: Experts) -> float:
    """Of ψ at points of the lattice and the times. Every rank by itself."""
    x = lattice(GRID)
    errors = []
    with torch.no_grad():
        for t in TIMES:
            found = net(torch.from_numpy(np.hstack([x, np.full((len(x), 1), t)])))[0][VALUE].numpy()
            errors.append(np.abs(found[:, 0] + 1j * found[:, 1] - coherent(x.T, t)).max())
    return float(max(errors))


def training(kind: str, seed: int, rate: float) -> harness.Training:
    """Adam, with a rate that falls to zero."""
    net = network(kind, seed)
    adam = torch.optim.Adam(net.parameters(), rate)

    def step(batch: tuple[Tensor, Tensor, Tensor]) -> None:
        loss_and_gradients(net, batch)
        adam.step()

    return harness.Training(step, batches(seed), partial(largest_error, net), falling=adam)


def finite_elements(cells: int, steps: int) -> tuple[float, float]:
    """The same error of relax's solver on (−6, 6)², quadratic elements; CPU seconds with warm forms. Collective."""
    began = time.process_time()
    mesh = relax.meshes.rectangle((-6.0, -6.0), (6.0, 6.0), (cells, cells))
    oscillator = relax.pdes.schrodinger.evolution(
        mesh, lambda x: 0.5 * (x[0] ** 2 + x[1] ** 2), initial=lambda x: coherent(x[:2], 0.0), dt=1.0 / steps,
        num_steps=steps,
    )  # fmt: skip
    V, x = oscillator.step.state.function_space, lattice(GRID)
    at = [round(t * steps) for t in TIMES]
    G = relax.ReducedMap(oscillator, relax.AtSteps(relax.PointValues(V, x), at))
    found = np.asarray(G(relax.control_values(G, oscillator.initial))).reshape(len(TIMES), len(x), 2)
    error = max(
        np.abs(one[:, 0] + 1j * one[:, 1] - coherent(x.T, n / steps)).max() for n, one in zip(at, found, strict=True)
    )
    return float(error), time.process_time() - began


def main() -> None:
    """Train all kinds, then solve by finite elements."""
    given = harness.settings(__doc__ or "", budget=60.0, seeds=3)
    methods = [harness.Method(kind, partial(training, kind), 5e-3, (1e-3, 3e-3, 5e-3, 1e-2)) for kind in KINDS]
    harness.compare("Gated PINN", methods, given, times=(10.0, 30.0))
    for cells, steps in ((8, 8),) if given.quick else ((24, 52), (36, 152)):
        finite_elements(cells, 4)
        error, seconds = finite_elements(cells, steps)
        harness.say(f"Finite elements, {cells} x {cells} cells, {steps} steps: error {error:.1e}, {seconds:.2f} CPU s")


if __name__ == "__main__":
    relax.init(sys.argv)
    main()
