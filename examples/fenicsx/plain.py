"""What the demos do themselves, in plain DOLFINx and PETSc, and how a map of relax is compared with it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import relax
import numpy as np
import ufl
from dolfinx import fem
from dolfinx.fem import petsc
from mpi4py import MPI
from petsc4py import PETSc

#: What a row of the table may be at most: relative differences, and gaps.
BOUNDS = {"value": 1e-10, "gradient": 1e-6, "adjoint gap": 1e-12}


def solve(F: ufl.Form, u: fem.Function, bcs: Sequence[fem.DirichletBC] = ()) -> None:
    """Newton's method from what u holds, with full steps and MUMPS; what is linear takes one step, and one to see it.

    Collective.
    """
    residual, jacobian, x = fem.form(F), fem.form(ufl.derivative(F, u)), u.x.petsc_vec
    petsc.set_bc(x, list(bcs))
    u.x.scatter_forward()
    for _ in range(25):
        A, b = petsc.assemble_matrix(jacobian, bcs=list(bcs)), _assembled(residual, bcs)
        A.assemble()
        ksp, step = _lu(A), b.duplicate()
        ksp.solve(b, step)
        x.axpy(-1.0, step)
        u.x.scatter_forward()
        small = step.norm() <= 1e-9 * x.norm()
        for used in (ksp, A, b, step):
            used.destroy()
        if small:
            return
    raise RuntimeError("plain Newton has not converged")


def linear(F: ufl.Form, u: fem.Function, bcs: Sequence[fem.DirichletBC] = ()) -> Callable[[], None]:
    """What solves an equation that is linear in u, with one factor for all calls. Collective, as is each call."""
    residual, A = fem.form(F), petsc.assemble_matrix(fem.form(ufl.derivative(F, u)), bcs=list(bcs))
    A.assemble()
    x, step, ksp = u.x.petsc_vec, A.createVecRight(), _lu(A)

    def solved() -> None:
        petsc.set_bc(x, list(bcs))
        u.x.scatter_forward()
        b = _assembled(residual, bcs)
        ksp.solve(b, step)
        b.destroy()
        x.axpy(-1.0, step)
        u.x.scatter_forward()

    return solved


def _lu(A: PETSc.Mat) -> PETSc.KSP:
    ksp = PETSc.KSP().create(A.comm)
    ksp.setOperators(A)
    ksp.setType("preonly")
    ksp.getPC().setType("lu")
    ksp.getPC().setFactorSolverType("mumps")
    return ksp


def _assembled(residual: fem.Form, bcs: Sequence[fem.DirichletBC]) -> PETSc.Vec:
    """Zero where values are given. Collective."""
    b = petsc.assemble_vector(residual)
    b.ghostUpdate(PETSc.InsertMode.ADD, PETSc.ScatterMode.REVERSE)
    petsc.set_bc(b, list(bcs), alpha=0.0)
    return b


def pinned(V: fem.FunctionSpace) -> fem.DirichletBC:
    """Zero at the corner (0, 0): what one does in plain DOLFINx about a constant that nothing holds. V may be a part.

    Collective.
    """

    def corner(x: Any) -> Any:
        return np.isclose(x[0], 0.0) & np.isclose(x[1], 0.0)

    if not V.component():
        return fem.dirichletbc(0.0, fem.locate_dofs_geometrical(V, corner), V)
    space, _ = V.collapse()
    return fem.dirichletbc(fem.Function(space), fem.locate_dofs_geometrical((V, space), corner), V)


def integral(form: ufl.Form) -> float:
    """Over all ranks. Collective."""
    return float(MPI.COMM_WORLD.allreduce(fem.assemble_scalar(fem.form(form))))


def compare(G: relax.ReducedMap, base: Sequence[Any], direction: Sequence[Any], plain: Callable[[], Any]) -> Any:
    """The values of a map at ``base``, after they and a derivative have been compared with a plain solution.

    Collective. Rank 0 prints a row of the table, in JSON.

    Args:
        G: the map.
        base: for each control a number, or a function of x.
        direction: the same, of the derivative.
        plain: of the controls, which hold Functions' and Constants' values by then, to the values of the map.
    """

    def there(step: float) -> Any:
        for control, a, b in zip(G.problem.controls, base, direction, strict=True):
            if isinstance(control, fem.Constant):
                control.value = a + step * np.asarray(b)
            else:
                control.interpolate(lambda x, a=a, b=b: a(x) + step * b(x))
        return np.atleast_1d(plain())

    expected, h = there(0.0), 1e-3
    near, far = there(h) - there(-h), there(2 * h) - there(-2 * h)
    slope = (8.0 * near - far) / (12.0 * h)
    m, delta = relax.control_values(G, *base), relax.control_values(G, *direction)
    report = relax.check_map(G, m)
    with G.linearize(m) as lin:
        value, found = lin.value, [G.dot(row, delta) for row in lin.vjp(np.eye(G.size_out))]
    row = {
        "value": float(np.abs(value - expected).max() / np.abs(expected).max()),
        "gradient": float(np.abs(found - slope).max() / np.abs(slope).max()),
        "adjoint gap": report.adjoint_gap,
        "orders": [report.first_order, report.second_order],
        "vjp / forward": report.adjoint_ratio,
        "numbers": [*map(float, value), *map(float, found)],
    }
    if G.comm.rank == 0:
        print(json.dumps({"demo": Path(sys.argv[0]).stem, **row}))
    assert all(row[name] < bound for name, bound in BOUNDS.items()), row
    return value
