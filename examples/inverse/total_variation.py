"""A jump behind a blur, by total variation and by a smooth prior. Run: python3 examples/inverse/total_variation.py

u - (0.1)² u'' = m in (0, 1), ∂u/∂n = 0 (dimensionless): which m gives the u that was seen, with an error of 0.05, at 60
points? m jumps from 0 to 1 at x = 0.4. Total variation counts a jump by its height, so the recovered one is sharp.
"""

import sys

import relax
import numpy as np
import ufl
from dolfinx import fem
from ufl import dx, grad, inner

relax.init(sys.argv)
mesh = relax.meshes.interval(200)
V = fem.functionspace(mesh, ("Lagrange", 1))
u, v, m = fem.Function(V), ufl.TestFunction(V), fem.Function(V)
F = ((u - m) * v + 0.1**2 * inner(grad(u), grad(v))) * dx
points = [(x,) for x in np.linspace(0.0, 1.0, 60)]
G = relax.ReducedMap(relax.Problem(residual=F, state=u, controls=[m], name="blur"), relax.PointValues(V, points))
truth = relax.control_values(G, lambda x: 1.0 * (x[0] > 0.4))
data = G(truth) + 0.05 * np.random.default_rng(1).standard_normal(G.size_out)

smooth = relax.gauss_newton(G, data, noise=0.05, prior=relax.SmoothnessPrior(V, length=0.3, std=1.0)).value
sharp, tv = np.zeros(G.size_in), relax.TotalVariation(V, weight=20.0, smoothing=0.05)
for k in range(60):
    prior = tv.at(sharp, curvature="lagged" if k < 10 else "newton")
    step = relax.gauss_newton(G, data, sharp, noise=0.05, prior=prior, jacobian="products", max_steps=1)
    prior.close()
    sharp = step.value
    if step.history[-1]["gradient_norm"] < 1e-6:
        break
# Over how much of the mesh each is between 0.1 and 0.9: the width of the jump.
widths = [np.mean((field > 0.1) & (field < 0.9)) for field in (sharp, smooth)]
assert widths[0] < 0.5 * widths[1] and np.abs(sharp - truth).mean() < 0.5 * np.abs(smooth - truth).mean()
