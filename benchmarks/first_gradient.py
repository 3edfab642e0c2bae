"""The first gradient of an equation whose forms nobody has compiled yet, over plain DOLFINx.

Run: ``environment/enter python3 benchmarks/first_gradient.py``. Each run is a process with an empty cache of forms.
Plain DOLFINx compiles F, its Jacobian and (∂F/∂m)ᵀ λ one by one, assembles each, and solves two linear systems. The
limit is one call of the C compiler in all, and FFCx for each form.
"""

from __future__ import annotations

from timing import table  # isort: skip  (sets the number of threads)

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import relax
import dolfinx.fem.petsc as fem_petsc
import numpy as np
import ufl
from dolfinx import fem
from examples.new_pde import cubic_reaction
from petsc4py import PETSc

REPEATS = 9
EQUATIONS = {"poisson.diffusion": relax.pdes.poisson.diffusion, "README's own": cubic_reaction}


def plain(problem: relax.Problem) -> None:
    F, u, m = problem.residual, problem.state, problem.controls[0]
    lam, bcs = fem.Function(u.function_space), list(problem.bcs)
    residual, jacobian = fem.form(F), fem.form(ufl.derivative(F, u))
    gradient = fem.form(ufl.derivative(ufl.replace(F, {F.arguments()[0]: lam}), m))
    A = fem_petsc.assemble_matrix(jacobian, bcs=bcs)
    A.assemble()
    b = fem_petsc.assemble_vector(residual)
    ksp = PETSc.KSP().create(A.comm)
    ksp.setOperators(A)
    ksp.setType("preonly")
    ksp.getPC().setType("lu")
    ksp.getPC().setFactorSolverType("mumps")
    for _ in range(2):
        ksp.solve(b, u.x.petsc_vec)
    fem.assemble_vector(gradient)


def by_relax(problem: relax.Problem) -> None:
    G = relax.ReducedMap(problem, relax.FieldValues(problem.state.function_space))
    with G.linearize(G.present_control()) as lin:
        lin.vjp(lin.value)


WAYS: dict[str, Callable[[relax.Problem], None]] = {"plain": plain, "relax": by_relax}


def measure(equation: str, way: str) -> None:
    """In a process of its own: print wall and CPU seconds, the compiler's included."""
    problem = EQUATIONS[equation](relax.meshes.unit_square(8))
    _ = relax.ReducedMap, relax.FieldValues  # loading a module is no part of a first call
    np.zeros(1)
    wall, before = time.perf_counter(), os.times()
    WAYS[way](problem)
    after = os.times()
    cpu = sum(after[:4]) - sum(before[:4])
    print(time.perf_counter() - wall, cpu)


def run(equation: str, way: str) -> list[float]:
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [sys.executable, __file__, equation, way], capture_output=True, text=True, check=True,
            env=os.environ | {"XDG_CACHE_HOME": cache},
        )  # fmt: skip
    return [float(word) for word in done.stdout.split()[-2:]]


if __name__ == "__main__":
    if len(sys.argv) == 3:
        measure(*sys.argv[1:])
        sys.exit()
    rows = []
    for equation in EQUATIONS:
        seconds: dict[str, list[list[float]]] = {way: [] for way in WAYS}
        for _ in range(REPEATS):
            for way, taken in seconds.items():
                taken.append(run(equation, way))
        wall, cpu = ({way: statistics.median(t[i] for t in taken) for way, taken in seconds.items()} for i in (0, 1))
        rows += [
            (f"{equation}: plain DOLFINx, CPU", cpu["plain"], 1.0, None),
            (f"{equation}: relax, CPU", cpu["relax"], cpu["relax"] / cpu["plain"], 0.7),
            (f"{equation}: relax, wall", wall["relax"], wall["relax"] / wall["plain"], None),
        ]
    table("First gradient, forms cold", rows, repeats=REPEATS)
