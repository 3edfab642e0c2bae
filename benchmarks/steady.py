"""What derivatives cost beside a forward solve: Poisson, control in the coefficient, 66 049 unknowns.

Run: ``environment/enter python3 benchmarks/steady.py``. The limit of a gradient is one back-substitution and one vector
assembly; that of a Hessian action with a known adjoint, two and three.
"""

from __future__ import annotations

from timing import seconds, table  # isort: skip  (sets the number of threads)

import relax
import dolfinx.fem.petsc as fem_petsc
import numpy as np
import ufl
from dolfinx import fem
from petsc4py import PETSc

N = 256
SENSORS = np.random.default_rng(1).uniform(0.05, 0.95, (32, 2))


def hand_written(problem: relax.Problem, options: dict[str, object]) -> tuple[object, object]:
    """The same forward solve as a DOLFINx script that keeps its matrix and its solver: (solve, close)."""
    m, V = problem.controls[0], problem.state.function_space
    u, v, uh = ufl.TrialFunction(V), ufl.TestFunction(V), fem.Function(V)
    a = fem.form(ufl.inner(ufl.exp(m) * ufl.grad(u), ufl.grad(v)) * ufl.dx)
    L = fem.form(fem.Constant(V.mesh, 1.0) * v * ufl.dx)
    bcs = list(problem.bcs)
    A = fem_petsc.create_matrix(a)
    b = fem_petsc.assemble_vector(L)
    ksp = PETSc.KSP().create(V.mesh.comm)
    ksp.setOptionsPrefix("hand_")
    database = PETSc.Options()
    for key, value in options.items():
        database.setValue("hand_" + key, value)
    ksp.setFromOptions()
    if options["pc_type"] == "cholesky":
        A.setOption(PETSc.Mat.Option.SYMMETRIC, True)

    def solve() -> None:
        A.zeroEntries()
        fem_petsc.assemble_matrix(A, a, bcs=bcs)
        A.assemble()
        ksp.setOperators(A)
        with b.localForm() as local:
            local.set(0.0)
        fem_petsc.assemble_vector(b, L)
        fem_petsc.apply_lifting(b, [a], [bcs])
        b.ghostUpdate(addv=PETSc.InsertMode.ADD, mode=PETSc.ScatterMode.REVERSE)
        fem_petsc.set_bc(b, bcs)
        ksp.solve(b, uh.x.petsc_vec)
        uh.x.scatter_forward()

    return solve, lambda: (ksp.destroy(), A.destroy(), b.destroy())


def coefficient(options: dict[str, object], bounds: dict[str, float | None], title: str) -> None:
    """Forward, adjoint, Hessian and Jacobian of exp(m) in the operator."""
    problem = relax.pdes.poisson.diffusion(relax.meshes.unit_square(N))
    with relax.ReducedMap(problem, relax.PointValues(problem.state.function_space, SENSORS), options=options) as G:
        m = relax.control_values(G, lambda x: 0.3 * np.sin(5 * x[0]) * np.cos(3 * x[1]))
        dm = relax.control_values(G, lambda x: np.cos(2 * x[0] + x[1]))
        dy = np.random.default_rng(2).normal(size=G.size_out)
        script, close = hand_written(problem, options)
        lin = G.linearize(m)

        def new_point() -> None:
            G.linearize(m).close()

        forward, by_hand, vjp, jvp, hvp, matrix = seconds(
            new_point, script, lambda: lin.vjp(dy), lambda: lin.jvp(dm), lambda: lin.hvp(dy, dm), lin.matrix
        )
        close()
    table(
        title,
        [
            ("forward", forward, 1.0, None),
            ("hand-written DOLFINx script", by_hand, by_hand / forward, None),
            ("forward / hand-written", forward, forward / by_hand, bounds["hand"]),
            ("vjp / forward", vjp, vjp / forward, bounds["vjp"]),
            ("jvp / forward", jvp, jvp / forward, None),
            ("hvp / forward", hvp, hvp / forward, bounds["hvp"]),
            ("matrix() of 32 sensors / forward", matrix, matrix / forward, bounds["matrix"]),
        ],
    )


def batch_of_sources() -> None:
    """32 sources through one operator against one forward solve that makes its factor, and one that has it."""
    problem = relax.pdes.poisson.source(relax.meshes.unit_square(N))
    with relax.ReducedMap(problem, relax.PointValues(problem.state.function_space, SENSORS)) as G:
        ms = np.random.default_rng(3).normal(size=(32, G.size_in))
        kept_one, kept_batch = seconds(lambda: G(ms[0]), lambda: G(ms))

        def first(samples: np.ndarray) -> None:
            with relax.ReducedMap(problem, G.observable) as fresh:
                fresh(samples)

        made_one, made_batch = seconds(lambda: first(ms[0]), lambda: first(ms), repeats=7)
    table(
        "Poisson, source, 66 049 unknowns, MUMPS: 32 sources",
        [
            ("one forward solve, operator made for it", made_one, 1.0, None),
            ("32 sources, operator made for them / one", made_batch, made_batch / made_one, 2.0),
            ("one forward solve, factor kept", kept_one, 1.0, None),
            ("32 sources, factor kept / one", kept_batch, kept_batch / kept_one, None),
        ],
    )


if __name__ == "__main__":
    direct = {"hand": 1.05, "vjp": 0.2, "hvp": 0.6, "matrix": 1.5}
    coefficient(dict(relax.DIRECT_SYMMETRIC), direct, "Poisson, coefficient, 66 049 unknowns, MUMPS Cholesky (default)")
    coefficient(dict(relax.DIRECT), direct, "Poisson, coefficient, 66 049 unknowns, MUMPS LU")
    amg = {"hand": 1.05, "vjp": 0.6, "hvp": None, "matrix": None}
    coefficient(dict(relax.AMG_CG), amg, "Poisson, coefficient, 66 049 unknowns, CG + hypre, rtol 1e-10")
    batch_of_sources()
