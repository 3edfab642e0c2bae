"""What an adjoint step costs beside a forward step, and what a trajectory holds: the heat equation from its start.

Run: ``environment/enter python3 benchmarks/evolution.py``. 128² P1, Crank–Nicolson, one factorisation. The limit of a
step in either direction is one product with a sparse matrix and one back-substitution. Then Burgers' equation, whose
forward steps take a factorisation for each Newton iteration and whose adjoint steps take one.
"""

from __future__ import annotations

from timing import seconds, table  # isort: skip  (sets the number of threads)

import resource
import subprocess
import sys
import time

import relax
import dolfinx.fem.petsc as fem_petsc
import numpy as np
import ufl
from checkpoint_schedules import MultistageCheckpointSchedule, Revolve
from dolfinx import fem, la
from mpi4py import MPI
from petsc4py import PETSc
from relax.base.fem.coefficients import interpolated

N, STEPS, DT = 128, 200, 1e-3
SLOTS, SHORT, LONG = 20, 500, 2000


def heat(num_steps: int, n: int = N, dt: float = DT) -> tuple[relax.Evolution, relax.Observable]:
    """u_t = Lap u, u = 0 on the boundary; the control is the initial state, the observation the integral of u²."""
    mesh = relax.meshes.unit_square(n)
    V = fem.functionspace(mesh, ("Lagrange", 1))
    u, v = fem.Function(V, name="u"), ufl.TestFunction(V)
    evolution = relax.theta_evolution(
        ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx,
        u,
        initial=fem.Function(V, name="initial"),
        dt=dt,
        num_steps=num_steps,
        bcs=[relax.clamp_boundary(V)],
        name="heat",
    )
    return evolution, relax.Functional(u**2 * ufl.dx)


def hand_written(evolution: relax.Evolution) -> dict[str, object]:
    """The same steps as a loop that keeps its factor; the right-hand side by a form, or by a kept matrix."""
    V = evolution.state.function_space
    p, u, v = fem.Function(V), ufl.TrialFunction(V), ufl.TestFunction(V)
    half = 0.5 * DT
    bc = relax.clamp_boundary(V)
    a = fem.form((u * v + half * ufl.inner(ufl.grad(u), ufl.grad(v))) * ufl.dx)
    L = fem.form((p * v - half * ufl.inner(ufl.grad(p), ufl.grad(v))) * ufl.dx)
    right = fem.form((u * v - half * ufl.inner(ufl.grad(u), ufl.grad(v))) * ufl.dx)
    A = fem_petsc.assemble_matrix(a, bcs=[bc])
    B = fem_petsc.assemble_matrix(right)
    for matrix in (A, B):
        matrix.assemble()
    A.setOption(PETSc.Mat.Option.SYMMETRIC, True)
    ksp = PETSc.KSP().create(V.mesh.comm)
    ksp.setOperators(A)
    ksp.setType("preonly")
    ksp.getPC().setType("cholesky")
    ksp.getPC().setFactorSolverType("mumps")
    ksp.setUp()
    b, x, work = fem.Function(V), A.createVecRight(), A.createVecLeft()
    clamped = bc.dof_indices()[0][: bc.dof_indices()[1]]
    start = interpolated(bump, V).x.array

    def by_form() -> None:
        p.x.array[:] = start
        for _ in range(evolution.num_steps):
            b.x.array[:] = 0.0
            fem.assemble_vector(b.x.array, L)
            b.x.scatter_reverse(la.InsertMode.add)
            bc.set(b.x.array)
            ksp.solve(b.x.petsc_vec, x)
            p.x.array[: x.local_size] = x.array_r
            p.x.scatter_forward()

    def by_matrix() -> None:
        p.x.array[:] = start
        for _ in range(evolution.num_steps):
            B.mult(p.x.petsc_vec, work)
            work.array[clamped] = 0.0
            ksp.solve(work, x)
            p.x.array[: x.local_size] = x.array_r
            p.x.scatter_forward()

    return {"a form": by_form, "a kept matrix": by_matrix, "state": p}


def bump(x: np.ndarray) -> np.ndarray:
    """An initial state that is zero on the boundary."""
    return np.sin(np.pi * x[0]) * np.sin(2.0 * np.pi * x[1])


def linear_steps() -> None:
    """Forward, adjoint, tangent and Hessian steps of the heat equation."""
    evolution, observable = heat(STEPS)
    hand = hand_written(evolution)
    G = relax.ReducedMap(evolution, observable)
    m = relax.control_values(G, bump)
    w = np.ones(1)
    with G.linearize(m) as lin:
        names = ["forward step of a loop by hand, " + k for k in ("a form", "a kept matrix")]
        names += ["forward step", "forward step, linearised", "adjoint step", "tangent step", "Hessian action, a step"]
        taken = seconds(
            hand["a form"],
            hand["a kept matrix"],
            lambda: G(m),
            lambda: G.linearize(m),
            lambda: lin.vjp(w),
            lambda: lin.jvp(m),
            lambda: lin.hvp(w, m),
        )
    G(m)
    gap = np.abs(hand["state"].x.array - evolution.state.x.array).max() / np.abs(m).max()
    form, matrix, forward = taken[:3]
    rows = [(name, t / STEPS, t / forward, None) for name, t in zip(names, taken, strict=True)]
    rows[4] = (*rows[4][:3], 1.5)
    rows += [
        ("forward step / loop by hand that assembles a form", forward / STEPS, forward / form, 1.05),
        ("forward step / loop by hand that keeps the matrix, too", forward / STEPS, forward / matrix, None),
    ]
    title = f"heat, {observable.form.coefficients()[0].function_space.dofmap.index_map.size_global} dofs, {STEPS} steps"
    table(title, rows)
    if MPI.COMM_WORLD.rank == 0:
        print(f"  largest difference from the loop by hand, relative to the start: {gap:.1e}")
    G.close()


def nonlinear_steps() -> None:
    """Forward and adjoint steps of Burgers' equation."""
    evolution = relax.pdes.burgers.evolution(
        relax.meshes.unit_square(64),
        initial=lambda x: np.stack([bump(x), 0.5 * bump(x)]),
        viscosity=0.02,
        dt=0.02,
        num_steps=10,
    )
    u = evolution.state
    G = relax.ReducedMap(evolution, relax.Functional(ufl.inner(u, u) * ufl.dx))
    m = G.present_control()
    with G.linearize(m) as lin:
        forward, adjoint = seconds(lambda: G(m), lambda: lin.vjp(np.ones(1)), repeats=3)
    table("Burgers in the plane, 8 450 dofs, 10 steps", [
        ("forward step", forward / 10, 1.0, None),
        ("adjoint step", adjoint / 10, adjoint / forward, 1.5),
    ])  # fmt: skip
    G.close()


def largest_resident() -> float:
    """The most memory that this process has ever held, in bytes."""
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


SCHEDULES = {
    "Multistage": lambda n: MultistageCheckpointSchedule(n, SLOTS, 0),
    "Revolve": lambda n: Revolve(n, SLOTS),
    "all-states": lambda n: None,
}


def storage(name: str) -> None:
    """States held, and growth of the largest resident memory a step from a short run to a long one.

    In a process of its own: the largest resident memory of what ran before would hide it.
    """

    def counted(num_steps: int, schedule: object) -> tuple[dict[str, int], float]:
        evolution, observable = heat(num_steps, n=32, dt=1e-4)
        with relax.ReducedMap(evolution, observable, storage=schedule) as G:
            with G.linearize(relax.control_values(G, bump)) as lin:
                found = float(np.linalg.norm(lin.vjp(np.ones(1))))
            return dict(G.counts), found

    make = SCHEDULES[name]
    start = time.process_time()
    schedule = make(LONG)
    made_in = time.process_time() - start
    for _ in range(2):
        counted(SHORT, make(SHORT))
    before = largest_resident()
    counts, size = counted(LONG, schedule)
    growth = (largest_resident() - before) / (LONG - SHORT)
    print(
        f"  {name:<12} {counts['stored']:>5} states held, each step solved {counts['forward'] / LONG:.2f} times, "
        f"largest resident memory {growth:+.0f} bytes a step, |gradient| {size:.16e}, schedule made in {made_in:.1f} s",
        flush=True,
    )


if __name__ == "__main__":
    relax.init(sys.argv)
    if "--storage" in sys.argv:
        storage(sys.argv[-1])
        sys.exit()
    linear_steps()
    nonlinear_steps()
    if MPI.COMM_WORLD.size == 1:
        print(f"\nheat, 1 089 dofs, {LONG} steps, gradient of the end in the start (8 712 bytes a state)", flush=True)
        for name in SCHEDULES:
            subprocess.run([sys.executable, __file__, "--storage", name], check=True)
