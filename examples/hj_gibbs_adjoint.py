"""The adjoint of u(x0, t) with respect to the landscape f is the Gibbs density around x0: where u looks.

Run: python3 examples/hj_gibbs_adjoint.py, or mpirun -n 2 python3 examples/hj_gibbs_adjoint.py
"""

import sys

import relax
import numpy as np
from relax.relaxation import cole_hopf

relax.init(sys.argv)
beta, t, x0 = 2.0, 0.5, 0.4


def f(x):
    return 0.3 * x[0] ** 2 + 0.4 * np.sin(3.0 * x[0])


num_cells = 400
mesh = relax.meshes.interval(num_cells, (-6.0, 6.0))
u = relax.pdes.hamilton_jacobi.viscous_evolution(mesh, f, beta=beta, t=t, num_steps=100, route="cole_hopf")
V = u.state.function_space
G = relax.ReducedMap(u, relax.PointValues(V, [[x0]]))  # f, at all nodes, -> u(x0, t)
point = G.linearize(relax.control_values(G, f))
weights = point.vjp(np.ones(1))  # one for each node: the density by the width of the cells

nodes = relax.FieldValues(V).coordinates[:, :1]
width = 12.0 / num_cells
density = cole_hopf.density(f, [x0], nodes, t, beta=beta)[0]
exact = cole_hopf.value(f, [x0], t, beta=beta)[0]
if mesh.comm.rank == 0:
    print(f"u(x0, t) = {point.value[0]:.6f}, by quadrature {exact:.6f}")
    print(f"weights: sum - 1 = {weights.sum() - 1:.1e}, least {weights.min():.1e}")
    print(f"against the Gibbs density: {np.abs(weights / width - density).max() / density.max():.1e} of its maximum")
assert abs(weights.sum() - 1.0) < 1e-12 and weights.min() > -1e-10
assert np.abs(weights / width - density).max() < 2e-3 * density.max()
