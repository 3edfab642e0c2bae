"""Schrödinger's equation against closed forms: packets, energies, the norm over many steps.

Run: ``environment/enter python3 benchmarks/schrodinger.py``.
"""

from __future__ import annotations

from timing import table  # noqa: F401  isort: skip  (sets the number of threads)

import sys
import time

import relax
import numpy as np
import ufl
from dolfinx import fem
from mpi4py import MPI
from relax.pdes import schrodinger


def say(text: str) -> None:
    """A line on rank 0."""
    if MPI.COMM_WORLD.rank == 0:
        print(text, flush=True)


def coherent(x: np.ndarray, t: float, start: float) -> np.ndarray:
    """The coherent state of V = x²/2."""
    phase = t / 2 + start * x * np.sin(t) - start**2 / 4 * np.sin(2 * t)
    return np.pi**-0.25 * np.exp(-((x - start * np.cos(t)) ** 2) / 2 - 1j * phase)


def free(x: np.ndarray, t: float, width: float = 0.7, k: float = 1.5, start: float = -1.0) -> np.ndarray:
    """A free Gaussian packet."""
    z = 1 + 1j * t / (2 * width**2)
    shape = -((x - start - k * t) ** 2) / (4 * width**2 * z)
    return (2 * np.pi * width**2) ** -0.25 / np.sqrt(z) * np.exp(shape + 1j * k * (x - start) - 1j * k**2 * t / 2)


def l2(expression: ufl.core.expr.Expr, comm: MPI.Comm) -> float:
    """The L2 norm. Collective."""
    square = fem.assemble_scalar(fem.form(ufl.inner(expression, expression) * ufl.dx))
    return float(np.sqrt(comm.allreduce(square, op=MPI.SUM)))


def error(mesh, potential, exact, T: float, num_steps: int) -> float:
    """The L2 error at time T of a P2 solution. Collective."""
    evolution = schrodinger.evolution(
        mesh, potential, initial=lambda x: exact(x, 0.0), dt=T / num_steps, num_steps=num_steps
    )
    G = relax.ReducedMap(evolution, schrodinger.norm(evolution.state))
    G(G.present_control())
    G.close()
    there = schrodinger.wave_function(lambda x: exact(x, T), fem.functionspace(mesh, ("Lagrange", 4, (2,))))
    return l2(evolution.state - there, mesh.comm)


def orders(title: str, cases: list[tuple[str, float]]) -> None:
    """A table of errors, each with the order against the line before."""
    say(f"\n{title}")
    for (name, e), before in zip(cases, [None, *(e for _, e in cases)], strict=False):
        order = "" if before is None else f"   order {np.log2(before / e):.2f}"
        say(f"  {name:<26}{e:.3e}{order}")


def packets() -> None:
    """Orders in h and dt of the free packet and of the coherent state over a period."""

    def line(n):
        return relax.meshes.interval(n, (-8.0, 8.0))

    def packet(x, t):
        return free(x[0], t)

    orders("free packet, 1-D, P2, T = 1, L2 error: mesh (4 000 steps)",
           [(f"{n} cells", error(line(n), 0.0, packet, 1.0, 4000)) for n in (40, 80, 160)])  # fmt: skip
    orders("free packet, 1-D, P2, T = 1, L2 error: steps (640 cells)",
           [(f"{n} steps", error(line(640), 0.0, packet, 1.0, n)) for n in (25, 50, 100)])  # fmt: skip

    def plane(n):
        return relax.meshes.rectangle((-5.0, -5.0), (5.0, 5.0), (n, n))

    def swinging(x, t):
        return coherent(x[0], t, 1.0) * coherent(x[1], t, 0.5)

    def well(x):
        return 0.5 * (x[0] ** 2 + x[1] ** 2)

    period = 2 * np.pi
    orders("coherent state, 2-D, P2, one period, L2 error: mesh (1 200 steps)",
           [(f"{n} x {n}", error(plane(n), well, swinging, period, 1200)) for n in (10, 20, 40)])  # fmt: skip
    orders("coherent state, 2-D, P2, one period, L2 error: steps (64 x 64)",
           [(f"{n} steps", error(plane(64), well, swinging, period, n)) for n in (50, 100, 200)])  # fmt: skip


def energies() -> None:
    """The 2-D harmonic oscillator: E = n_x + n_y + 1."""
    exact = np.array([1.0, 2.0, 2.0, 3.0, 3.0, 3.0])
    cases = []
    for n in (16, 32, 64):
        mesh = relax.meshes.rectangle((-5.5, -5.5), (5.5, 5.5), (n, n))
        x = ufl.SpatialCoordinate(mesh)
        found = schrodinger.eigenstates(mesh, 0.5 * ufl.inner(x, x), 6)
        cases.append((f"{n} x {n}", float(np.abs(found.energies / exact - 1.0).max())))
    orders("2-D oscillator, P2, largest relative error of the first 6 energies", cases)


def norm() -> None:
    """Drift of the norm over many steps with one factorisation."""
    N = 10_000
    evolution = schrodinger.evolution(
        relax.meshes.interval(64, (-6.0, 6.0)),
        lambda x: 0.5 * x[0] ** 2,
        initial=lambda x: coherent(x[0], 0.0, 1.0),
        dt=0.01,
        num_steps=N,
    )
    G = relax.ReducedMap(evolution, relax.AtSteps(schrodinger.norm(evolution.state), range(N + 1)))
    start = time.perf_counter()
    y = G(G.present_control())
    took = time.perf_counter() - start
    step, whole = np.abs(np.diff(y) / y[0]).max(), np.abs(y / y[0] - 1.0).max()
    say(f"\nnorm over {N} steps: drift {step:.1e} a step (must be < 1e-12), {whole:.1e} in all (< 1e-9), {took:.1f} s")
    G.close()


if __name__ == "__main__":
    relax.init(sys.argv)
    norm()
    energies()
    packets()
