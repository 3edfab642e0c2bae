"""What a step of the viscous Hamilton–Jacobi equation costs in the plane as the mesh is refined, and by which route.

Run: ``environment/enter python3 benchmarks/hamilton_jacobi.py``, and with ``mpirun -n 2`` for the largest mesh alone.
The cosine of wave numbers pi and 2 pi at beta = 2, three Crank–Nicolson steps of length 0.01, degree 1. The direct
route takes GMRES with BoomerAMG, from a first guess of its own in each step; Cole–Hopf takes conjugate gradients with
BoomerAMG, or MUMPS, each set up once.
"""

from __future__ import annotations

from timing import seconds, table  # isort: skip  (sets the number of threads)

import sys
import time
from dataclasses import dataclass

import relax
import numpy as np
import ufl
from mpi4py import MPI
from petsc4py import PETSc
from relax.base import parallel
from relax.engine.solve.newton import NewtonSolver
from relax.pdes.hamilton_jacobi import viscous_evolution

COMM = MPI.COMM_WORLD
BETA, STEPS, DT = 2.0, 3, 0.01
SIZES = (32, 64, 128, 256, 512, 706)
REPEATS = 2
EVENTS = {
    "F": "SNESFunctionEval", "J": "SNESJacobianEval", "set-up": "PCSetUp", "AMG cycles": "PCApply",
}  # fmt: skip


def f(x: np.ndarray) -> np.ndarray:
    """No slope across the walls of the unit square."""
    return -np.log(1 + 0.8 * np.cos(np.pi * x[0]) * np.cos(2 * np.pi * x[1])) / BETA


def made(n: int, route: str, options: object) -> relax.ReducedMap:
    """The map from f to the integral of the last state."""
    evolution = viscous_evolution(
        relax.meshes.unit_square(n), f, beta=BETA, t=STEPS * DT, num_steps=STEPS, route=route, stabilisation=False
    )
    look = relax.Functional(evolution.state * ufl.dx)
    return relax.ReducedMap(evolution, look, options=options, layout="owned")


@dataclass
class Cost:
    """Of a run: seconds, and what SNES and KSP did."""

    dofs: int
    wall: float
    cpu: float
    newton: int
    linear: int
    spent: dict[str, float]


class Counted:
    """Newton and linear iterations of all solves within the block."""

    def __enter__(self) -> Counted:
        """Begin to count."""
        self.newton = self.linear = 0
        self._solve = solve = NewtonSolver.solve

        def counted(solver: NewtonSolver, *given: object) -> None:
            solve(solver, *given)
            self.newton += solver._snes.getIterationNumber()
            self.linear += solver._snes.getLinearSolveIterations()

        NewtonSolver.solve = counted
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        NewtonSolver.solve = self._solve


def event_times() -> dict[str, float]:
    """Seconds that this rank has spent in PETSc's events."""
    return {what: PETSc.Log.Event(name).getPerfInfo()["time"] for what, name in EVENTS.items()}


def direct(n: int, options: object = "amg_gmres") -> Cost:
    """Three steps of the direct route; everything has run once before on a mesh of the same kind."""
    with made(n, "direct", options) as G:
        m = G.present_control()
        dofs = G.problem.state.function_space.dofmap.index_map.size_global
        before = event_times()
        COMM.Barrier()
        wall, cpu = time.perf_counter(), time.process_time()
        with Counted() as counted:
            G(m)
        COMM.Barrier()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        spent = {what: seconds - before[what] for what, seconds in event_times().items()}
    return Cost(dofs, wall, cpu, counted.newton, counted.linear, spent)


def refinement(sizes: tuple[int, ...]) -> None:
    """Iterations a Newton step and time an unknown a step: how far they stay from the middle of their range."""
    direct(16)
    costs = [direct(n) for n in sizes]
    linear = np.array([c.linear / c.newton for c in costs])
    clock = 1e6 * np.array([(c.cpu if COMM.size == 1 else c.wall) / c.dofs / STEPS for c in costs])
    kind = "CPU" if COMM.size == 1 else "wall"
    ranks = f"{COMM.size} rank{'s' * (COMM.size > 1)}"
    say(f"\ndirect route, GMRES + BoomerAMG, {ranks}: Newton steps a step, linear iterations a Newton step,")
    say(f"{kind} microseconds an unknown a step; shares of F, J, BoomerAMG's set-up and cycles in the wall time")
    for c, per_newton, per_dof in zip(costs, linear, clock, strict=True):
        parts = "  ".join(f"{what} {100 * s / c.wall:2.0f} %" for what, s in c.spent.items())
        say(
            f"  {c.dofs:>7} unknowns {c.newton / STEPS:6.2f} {per_newton:7.2f} {per_dof:8.1f}   ({parts})   "
            f"{c.wall:.1f} s, {c.cpu:.1f} of them busy"
        )
    if len(costs) > 1:
        for what, values in (("linear iterations", linear), ("microseconds an unknown a step", clock)):
            low, high = values.min(), values.max()
            spread = (high - low) / (high + low)
            say(f"  {what}: {low:.3g} to {high:.3g}, ± {100 * spread:.0f} %, must be <= 30: {verdict(spread <= 0.3)}")


def routes(n: int) -> None:
    """The direct route against Cole and Hopf's, a step."""
    kinds = [
        ("direct, GMRES + BoomerAMG", "direct", "amg_gmres"),
        ("direct, MUMPS", "direct", None),
        ("Cole-Hopf, CG + BoomerAMG", "cole_hopf", "amg_cg"),
        ("Cole-Hopf, MUMPS", "cole_hopf", None),
    ]
    maps = [made(n, route, options) for _, route, options in kinds]
    controls = [G.present_control() for G in maps]
    taken = seconds(*(lambda G=G, m=m: G(m) for G, m in zip(maps, controls, strict=True)), repeats=REPEATS)
    rows = [(kind[0], t / STEPS, t / taken[0], None) for kind, t in zip(kinds, taken, strict=True)]
    what = f"a step, {(n + 1) ** 2} unknowns, factors and set-ups kept where the operator stays; ratio to the first"
    table(what, rows, repeats=REPEATS)
    for G in maps:
        G.close()


def verdict(kept: bool) -> str:
    """In capitals where it is missed."""
    return "ok" if kept else "MISSED"


def say(text: str) -> None:
    """On rank 0."""
    parallel.rank_0_prints(COMM, text)


if __name__ == "__main__":
    relax.init(sys.argv)
    PETSc.Log.begin()
    refinement(SIZES if COMM.size == 1 else SIZES[-1:])
    routes(256)
