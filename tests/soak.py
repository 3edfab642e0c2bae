"""``make soak``: does memory grow with the number of calls, of maps, of steps of training?

usage: mpirun -n 2 python3 tests/soak.py [SHARE]

A table of the growth of resident memory: the slope by least squares over the last four fifths of each row, on the
rank where it is largest. 10 000 calls of linearise + vjp + hvp on each of several maps, 2 000 steps of torch through a
layer, 500 maps made, used and closed; SHARE makes all of these shorter. Beside the maps stands what DOLFINx and PETSc
lose on as many functions, forms, matrices and factors by themselves.

Exit status: 0, or 1 where a row grows by more than it may. A row that stands still for ten minutes ends the job with
the place where it does.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import relax

# isort: split
import numpy as np
import torch
import ufl
from dolfinx import fem
from dolfinx.fem import petsc as fem_petsc
from mpi4py import MPI
from petsc4py import PETSc

sys.path.insert(0, str(Path(__file__).parent / "support"))
from problems import advection_field  # noqa: E402

from relax import FieldValues, ReducedMap, SolutionLayer, meshes, pdes, theta_evolution  # noqa: E402

COMM = MPI.COMM_WORLD
CALLS, MAPS, STEPS = 10_000, 500, 2_000
# Bytes a call and a map may lose.
A_CALL, A_MAP = 1e3, 20e3
# How often memory is looked at in each row; seconds that may pass between two looks.
LOOKS, PATIENCE = 200, 600
CELLS = 24


def resident() -> float:
    """Resident memory of this process in bytes."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * float(os.sysconf("SC_PAGE_SIZE"))


def growth(run: Callable[[], None], times: int) -> float:
    """Bytes a run, by least squares over the last four fifths of them; of the rank with the most. Collective."""
    every = max(times // LOOKS, 1)
    looks = []
    for i in range(times):
        run()
        if i % every == 0:
            faulthandler.dump_traceback_later(PATIENCE, exit=True)
            gc.collect()
            if i >= times // 5:
                looks.append((i, resident()))
    faulthandler.cancel_dump_traceback_later()
    return COMM.allreduce(float(np.polyfit(*np.array(looks).T, 1)[0]), op=MPI.MAX)


# -- calls -------------------------------------------------------------------------------------------------------------


def heat(mesh):
    """Three steps of the heat equation, the initial state and a source in each step the controls."""
    V = fem.functionspace(mesh, ("Lagrange", 1))
    u, v, s = fem.Function(V), ufl.TestFunction(V), fem.Function(V)
    R = (ufl.inner(ufl.grad(u), ufl.grad(v)) + u**3 * v - s * v) * ufl.dx
    return theta_evolution(
        R, u, initial=fem.Function(V), dt=0.1, num_steps=3, controls=[s], per_step=[s], name="soaked_heat"
    )


MAPS_OF_CALLS = {
    "linear, Cholesky": (pdes.poisson.diffusion, None),
    "linear, CG + multigrid": (pdes.poisson.diffusion, "amg_cg"),
    "nonlinear, LU": (advection_field, None),
    "nonlinear, three steps in time": (heat, None),
}


def map_of(make, options=None) -> ReducedMap:
    problem = make(meshes.unit_square(CELLS))
    return ReducedMap(problem, FieldValues(problem.state.function_space), options=options)


def calls_of(G: ReducedMap) -> Callable[[], None]:
    """A point made, differentiated twice and dropped."""
    seed, direction, rng = np.ones(G.size_out), np.ones(G.size_in), np.random.default_rng(0)

    def call() -> None:
        lin = G.linearize(0.1 * rng.uniform(size=G.size_in))
        lin.vjp(seed)
        lin.hvp(seed, direction)
        lin.close()

    return call


def steps_of(G: ReducedMap) -> Callable[[], None]:
    """A step of torch's descent on a misfit, a new graph each time."""
    layer = SolutionLayer(G)
    control = torch.nn.Parameter(torch.zeros(G.size_in, dtype=torch.float64))
    optimiser = torch.optim.Adam([control], lr=1e-3)

    def step() -> None:
        optimiser.zero_grad()
        (layer(control) - 0.05).square().sum().backward()
        optimiser.step()

    return step


# -- maps --------------------------------------------------------------------------------------------------------------


def maps_on(mesh) -> Callable[[], None]:
    """A problem and its map made, used once and closed."""

    def one() -> None:
        problem = advection_field(mesh)
        with ReducedMap(problem, FieldValues(problem.state.function_space)) as G:
            calls_of(G)()

    return one


def plain_on(mesh) -> Callable[[], None]:
    """What such a map is made of, by DOLFINx and PETSc alone: 12 functions, 8 forms, 4 matrices, a factor."""

    def one() -> None:
        problem = advection_field(mesh)
        F, u, (m,) = problem.residual, problem.state, problem.controls
        V, M = u.function_space, m.function_space
        du, dm, lam = fem.Function(V), fem.Function(M), fem.Function(V)
        functions = [fem.Function(V) for _ in range(7)]
        J, C = ufl.derivative(F, u), ufl.derivative(F, m)
        operator, sensitivity = fem.form(J), fem.form(C)
        along, of_controls = ufl.derivative(F, u, du) + ufl.derivative(F, m, dm), ufl.action(ufl.adjoint(C), lam)
        vectors = [F, along, of_controls, ufl.action(ufl.adjoint(J), lam), ufl.action(C, dm), ufl.action(J, du)]
        forms = [fem.form(form) for form in vectors]
        matrices = [fem_petsc.create_matrix(form) for form in (operator, operator, operator, sensitivity)]
        fem_petsc.assemble_matrix(matrices[0], operator, bcs=problem.bcs)
        matrices[0].assemble()
        duals = [fem_petsc.assemble_vector(form) for form in forms]
        duals[0].ghostUpdate(addv=PETSc.InsertMode.ADD, mode=PETSc.ScatterMode.REVERSE)
        ksp = PETSc.KSP().create(mesh.comm)
        ksp.setType("preonly")
        ksp.getPC().setType("lu")
        ksp.getPC().setFactorSolverType("mumps")
        ksp.setOperators(matrices[0])
        ksp.solve(duals[0], functions[0].x.petsc_vec)
        for item in (ksp, *duals, *matrices, functions[0].x.petsc_vec):
            item.destroy()
        PETSc.garbage_cleanup(mesh.comm)

    return one


def main() -> int:
    relax.init(sys.argv[:1])
    share = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    is_too_much = False
    # What the imports left is there for good; to look through it at each collection would cost more than the calls.
    gc.collect()
    gc.freeze()

    def row(what: str, run: Callable[[], None], times: int, limit: float | None, unit: str) -> None:
        nonlocal is_too_much
        times, start = max(int(share * times), 10), time.monotonic()
        bytes_each = growth(run, times)
        is_too_much |= limit is not None and not bytes_each < limit
        verdict = "" if limit is None else f"< {limit:.0f}  {'ok' if bytes_each < limit else 'EXCEEDED'}"
        if COMM.rank == 0:
            seconds = time.monotonic() - start
            print(f"{what:<52}{times:>7}{bytes_each:>12.0f} bytes a {unit:<5}{seconds:>7.0f} s  {verdict}", flush=True)

    if COMM.rank == 0:
        print(f"growth of resident memory, {(CELLS + 1) ** 2} unknowns on {COMM.size} rank(s)")
    for name, (make, options) in MAPS_OF_CALLS.items():
        with map_of(make, options) as G:
            row(f"linearise + vjp + hvp: {name}", calls_of(G), CALLS, A_CALL, "call")
    with map_of(advection_field) as G:
        row("steps of Adam through a layer: nonlinear, LU", steps_of(G), STEPS, A_CALL, "step")
    mesh = meshes.unit_square(CELLS)
    row("the parts of a map by DOLFINx and PETSc alone", plain_on(mesh), MAPS, None, "map")
    row("maps made, used and closed: nonlinear, LU", maps_on(mesh), MAPS, A_MAP, "map")
    return int(is_too_much)


if __name__ == "__main__":
    sys.exit(main())
