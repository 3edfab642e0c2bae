"""Two wave speeds, from a misfit that skips cycles: it is relaxed. Run: mpirun -n 2 python3 examples/relax_misfit.py"""

import sys

import relax
import numpy as np
import ufl
from dolfinx import fem
from mpi4py import MPI
from relax.relaxation import misfit


def waves(mesh, *, frequency=25.0, damping=0.02, degree=1):
    """-Δu - k²(1 + i damping)u = s, du/dn = iku, k = frequency / speed: the first outside a disk, the second inside."""
    V = fem.functionspace(mesh, ("Lagrange", degree, (2,)))
    u, v, x = fem.Function(V, name="u"), ufl.TestFunction(V), ufl.SpatialCoordinate(mesh)
    speeds = fem.Constant(mesh, (1.0, 1.0))
    k = frequency / ufl.conditional((x[0] - 0.5) ** 2 + (x[1] - 0.5) ** 2 < 0.04, speeds[1], speeds[0])
    iu, s = ufl.as_vector((-u[1], u[0])), 100.0 * ufl.exp(-300.0 * (x[0] ** 2 + (x[1] - 0.5) ** 2))
    F = (ufl.inner(ufl.grad(u), ufl.grad(v)) - k**2 * ufl.inner(u + damping * iu, v) - s * v[0]) * ufl.dx
    return relax.Problem(residual=F - k * ufl.inner(iu, v) * ufl.ds, state=u, controls=[speeds], name="waves")


if __name__ == "__main__":
    relax.init(sys.argv)
    teams = relax.Teams(MPI.COMM_WORLD, 1)  # a rank solves its share of the samples by itself
    problem = waves(relax.meshes.unit_square(20, comm=teams.space))
    sensors = [(0.95, y) for y in np.linspace(0.1, 0.9, 5)] + [(x, 0.95) for x in (0.1, 0.3, 0.5, 0.7)]
    G = relax.ReducedMap(problem, relax.PointValues(problem.state.function_space, np.array(sensors)))
    clean = G(truth := np.array([0.85, 1.2]))
    noise = 0.05 * np.abs(clean).max()
    data = clean + noise * np.random.default_rng(1).normal(size=G.size_out)
    found = misfit.relax_misfit(G, data, [(0.7, 1.7), (0.7, 1.7)], noise=noise, num=16, teams=teams)
    plain = misfit.gauss_newton_each(G, data, found.starts, noise=noise, prior=found.prior, teams=teams)
    solved = [sum(r is not None and abs(r.value - truth).max() < 0.03 for r in rs) for rs in (plain, found.results)]
    if teams.comm.rank == 0:
        print(f"of {len(found.starts)} starts Gauss-Newton solves {solved[0]}, after relaxation {solved[1]}")
    assert solved[0] < 10 and solved[1] == 25
