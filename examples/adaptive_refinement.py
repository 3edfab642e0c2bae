"""A mesh made for one number: cells are refined where the error of what a sensor sees comes from.

-div(e^m grad u) + 100 u = 100 sin(9 x y), u = 0 outside. Run: [mpirun -n 2] python3 examples/adaptive_refinement.py
"""

import sys

import relax
import numpy as np
import ufl
from dolfinx import fem, mesh

relax.init(sys.argv)


def solved(domain, before):
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, m, v, x = fem.Function(V), fem.Function(V), ufl.TestFunction(V), ufl.SpatialCoordinate(domain)
    m.interpolate(lambda x: np.sin(3.0 * x[0] + x[1]) - 1.0)
    for new, old in zip((u, m), before, strict=False):  # control and state go on to the new mesh
        own = np.arange(domain.topology.index_map(2).size_local, dtype=np.int32)
        new.interpolate_nonmatching(old, own, fem.create_interpolation_data(V, old.function_space, own, 1e-10))
        new.x.scatter_forward()
    F = (ufl.exp(m) * ufl.inner(ufl.grad(u), ufl.grad(v)) + 100.0 * (u - ufl.sin(9.0 * x[0] * x[1])) * v) * ufl.dx
    problem = relax.Problem(residual=F, state=u, controls=[m], bcs=[relax.clamp_boundary(V)])
    G = relax.ReducedMap(problem, relax.PointValues(V, [(0.81, 0.63)]))
    lin = G.linearize(G.present_control())
    return lin.value[0], relax.dual_weighted_residual(lin, [1.0]), G.size_in, (u, m)


for share, times in (1.0, 4), (0.5, 9):  # all cells, and those that make half of the error
    domain, fields = relax.meshes.unit_square(8), ()
    for _ in range(times):
        value, error, unknowns, fields = solved(domain, fields)
        if domain.comm.rank == 0:
            print(f"{share} {unknowns:6d} unknowns: u = {value:.6f}, {value + error.total:.6f} with {error.total:+.1e}")
        domain.topology.create_entities(1)
        domain = mesh.refine(domain, mesh.compute_incident_entities(domain.topology, error.marked(share), 2, 1))[0]
assert abs(error.total) < 2e-4 and unknowns < 4225, "as good as the uniform mesh, and smaller"
