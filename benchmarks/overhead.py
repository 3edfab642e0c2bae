"""What relax adds, in Python, to the PETSc and DOLFINx calls that a forward solve and a gradient cannot do without.

Run: ``environment/enter python3 benchmarks/overhead.py``. Poisson, control in the coefficient, 1 089 unknowns.
"""

from __future__ import annotations

from timing import seconds, table  # isort: skip  (sets the number of threads)

import relax
import dolfinx.fem.petsc as fem_petsc
import numpy as np
import scipy.sparse
import ufl
from dolfinx import fem
from petsc4py import PETSc

SENSORS = np.random.default_rng(1).uniform(0.05, 0.95, (32, 2))


def bare_calls(problem: relax.Problem, observable: relax.PointValues, m: np.ndarray, dy: np.ndarray) -> tuple:
    """A forward solve and an adjoint gradient by hand, everything compiled and created before: (run, close)."""
    control, V = problem.controls[0], problem.state.function_space
    u, lam, v = fem.Function(V), fem.Function(V), ufl.TestFunction(V)
    a = fem.form(ufl.inner(ufl.exp(control) * ufl.grad(ufl.TrialFunction(V)), ufl.grad(v)) * ufl.dx)
    L = fem.form(fem.Constant(V.mesh, 1.0) * v * ufl.dx)
    w = ufl.TestFunction(control.function_space)
    g = fem.form(w * ufl.inner(ufl.exp(control) * ufl.grad(u), ufl.grad(lam)) * ufl.dx)
    bcs = list(problem.bcs)
    dofs = bcs[0].dof_indices()[0]
    A, b, rhs = fem_petsc.create_matrix(a), fem_petsc.assemble_vector(L), fem_petsc.assemble_vector(L)
    A.setOption(PETSc.Mat.Option.SYMMETRIC, True)
    gradient = fem.assemble_vector(g)
    ksp = PETSc.KSP().create(V.mesh.comm)
    ksp.setType("preonly")
    ksp.getPC().setType("cholesky")
    ksp.getPC().setFactorSolverType("mumps")
    rows = np.broadcast_to(observable.rows, observable.values.shape).ravel()
    entries = (observable.values.ravel(), (rows, observable.columns.ravel()))
    B = scipy.sparse.csr_matrix(entries, shape=(len(SENSORS), u.x.array.size))

    def run() -> None:
        control.x.array[:] = m
        A.zeroEntries()
        fem_petsc.assemble_matrix(A, a, bcs=bcs)
        A.assemble()
        ksp.setOperators(A)
        b.array[:] = 0.0
        fem_petsc.assemble_vector(b, L)
        fem_petsc.apply_lifting(b, [a], [bcs])
        fem_petsc.set_bc(b, bcs)
        ksp.solve(b, u.x.petsc_vec)
        B @ u.x.array
        rhs.array[:] = B.T @ dy
        rhs.array[dofs] = 0.0
        ksp.solve(rhs, lam.x.petsc_vec)
        gradient.array[:] = 0.0
        fem.assemble_vector(gradient.array, g)

    return run, lambda: (ksp.destroy(), A.destroy(), b.destroy(), rhs.destroy())


if __name__ == "__main__":
    problem = relax.pdes.poisson.diffusion(relax.meshes.unit_square(32))
    observable = relax.PointValues(problem.state.function_space, SENSORS)
    with relax.ReducedMap(problem, observable) as G:
        m = relax.control_values(G, lambda x: 0.3 * np.sin(5 * x[0]) * np.cos(3 * x[1]))
        dy = np.random.default_rng(2).normal(size=G.size_out)
        bare, close = bare_calls(problem, observable, G.layout.split(m)[0], dy)

        def through_relax() -> None:
            with G.linearize(m) as lin:
                lin.vjp(dy)

        ours, theirs = seconds(through_relax, bare, repeats=201)
        close()
    rows = [
        ("bare PETSc and DOLFINx calls, forward + gradient", theirs, 1.0, None),
        ("G.linearize + vjp / bare", ours, ours / theirs, None),
        ("difference; second column: over the 1 ms allowed", ours - theirs, (ours - theirs) / 1e-3, 1.0),
    ]
    table("Python overhead at 1 089 unknowns", rows)
