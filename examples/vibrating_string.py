"""Can one hear where a string is heavy? Its density from ten tones. Run: python3 examples/vibrating_string.py

-u'' = λ ρ u in (0, 1), u = 0 at both ends (dimensionless); the tones are √λ / 2π. A string sounds as its mirror image
does: one set of tones tells a density that is its own (Borg 1946), here by a number for each of twelve pairs of pieces.
"""

import sys

import relax
import numpy as np
import ufl
from dolfinx import fem, mesh
from ufl import dx, grad, inner

relax.init(sys.argv)
string = relax.meshes.interval(48)
cells = np.arange(string.topology.index_map(1).size_local + string.topology.index_map(1).num_ghosts, dtype=np.int32)
middle = mesh.compute_midpoints(string, 1, cells)[:, 0]
piece = np.floor(24 * np.minimum(middle, 1 - middle)).astype(np.int32)  # 0 at the ends, 11 in the middle
rho = relax.pieces(string, mesh.meshtags(string, 1, cells, piece))

V = fem.functionspace(string, ("Lagrange", 2))
u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
forms = inner(grad(u), grad(v)) * dx, ufl.exp(rho) * u * v * dx  # stiffness and mass; the control is log ρ
ends = [relax.clamp_boundary(V)]
G = relax.EigenMap(forms, 10, controls=[rho], bcs=ends)
relax.check_map(G, 0.1 * np.cos(np.arange(12)))

truth = np.log(1 + 2 * np.exp(-(((np.arange(12) - 7) / 2) ** 2)))  # a bump at x = 0.3 and 0.7
tones = G(truth)
result = relax.gauss_newton(G, tones, noise=1e-4 * tones, prior=relax.IdentityPrior(G, std=1.0))
assert np.abs(result.value - truth).max() < 0.05

high = relax.EigenMap(forms, 3, controls=[rho], bcs=ends, bounds=(0.5 * (tones[3] + tones[4]), tones[6] + 1.0))
assert np.allclose(high(result.value), tones[4:7], rtol=1e-3)  # the same from the interior of the spectrum
