"""Growth of resident memory per linearise + vjp, after warm-up.

python3 benchmarks/memory.py [CALLS]; mpirun -n 2 python3 benchmarks/memory.py [CALLS]

Must be below 1 kB a call and rank. Each call makes a linearisation point, uses it once and drops it.
"""

from __future__ import annotations

import sys

import relax
import numpy as np
import ufl
from dolfinx import fem
from mpi4py import MPI

WARM_UP = 200


def resident() -> float:
    """Resident memory of this process in bytes."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096.0


def advection(mesh):
    """-Lap u + b . grad u + u^3 = 1 + m, u = 0 on the boundary."""
    V = fem.functionspace(mesh, ("Lagrange", 1))
    u, v, m = fem.Function(V), ufl.TestFunction(V), fem.Function(V)
    b = ufl.as_vector((3.0, 1.0))
    F = (ufl.inner(ufl.grad(u), ufl.grad(v)) + (ufl.dot(b, ufl.grad(u)) + u**3 - 1.0 - m) * v) * ufl.dx
    return relax.Problem(residual=F, state=u, controls=[m], bcs=[relax.clamp_boundary(V)], name="advection")


CASES = {
    "linear, MUMPS Cholesky": (relax.pdes.poisson.diffusion, None),
    "linear, CG + hypre": (relax.pdes.poisson.diffusion, "amg_cg"),
    "linear source": (relax.pdes.poisson.source, None),
    "nonlinear, MUMPS LU": (advection, None),
    "nonlinear, GMRES + hypre": (advection, "amg_gmres"),
}


def growth_per_call(problem, options, calls: int) -> float:
    """Bytes per call on the rank where it is largest. Collective."""
    G = relax.ReducedMap(problem, relax.FieldValues(problem.state.function_space), options=options)
    seed, rng = np.ones(G.size_out), np.random.default_rng(0)
    for i in range(WARM_UP + calls):
        if i == WARM_UP:
            before = resident()
        lin = G.linearize(0.1 * rng.standard_normal(G.size_in))
        lin.vjp(seed)
        lin.close()
    growth = (resident() - before) / calls
    G.close()
    return MPI.COMM_WORLD.allreduce(growth, op=MPI.MAX)


if __name__ == "__main__":
    relax.init(sys.argv)
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    comm = MPI.COMM_WORLD
    lines = [f"{'case':<28}{'bytes per call':>16}"]
    worst = 0.0
    for name, (pde, options) in CASES.items():
        growth = growth_per_call(pde(relax.meshes.unit_square(32)), options, calls)
        worst = max(worst, growth)
        lines.append(f"{name:<28}{growth:>16.0f}")
    if comm.rank == 0:
        print(f"growth of resident memory over {calls} calls of linearise + vjp, 1089 dofs, {comm.size} rank(s)")
        print("\n".join(lines))
        print("limit 1024:", "ok" if worst < 1024 else "EXCEEDED")
    sys.exit(worst >= 1024)
