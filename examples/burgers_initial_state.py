"""A wave before it broke: the initial state of Burgers' equation from 32 noisy values of u at t = 1, 32 steps later.

Observed are the points x = -0.94, -0.88, ..., 0.94 at t = 1 alone, with noise of 0.01: after the shock. In the book
Physics-based Deep Learning all of u is known without noise at t = 1/2: examples/book/burgers.py does that.

Run: mpirun -n 2 python3 examples/burgers_initial_state.py
"""

import sys

import relax
import numpy as np

relax.init(sys.argv)
mesh = relax.meshes.interval(128, (-1.0, 1.0))
# u_t + u u_x = nu u_xx, u(-1) = u(1) = 0; the shock is thinner than a cell, which supg="auto" sees.
burgers = relax.pdes.burgers.evolution(
    mesh, initial=lambda x: -np.sin(np.pi * x[0]), viscosity=0.01 / np.pi, dt=1 / 32, num_steps=32
)
V = burgers.state.function_space
G = relax.ReducedMap(burgers, relax.PointValues(V, np.linspace(-1.0, 1.0, 34)[1:-1, None]))
truth = G.present_control()
clean = G(truth)
noise = 0.01
data = clean + noise * np.random.default_rng(1).normal(size=clean.shape)

# Half of the wave has run into the shock: there the prior speaks, and Gauss–Newton converges slowly at the end.
prior = relax.SmoothnessPrior(V, length=2.0, std=1.0)
result = relax.gauss_newton(G, data, noise=noise, prior=prior, atol=0.1)

misfit = np.sqrt(np.mean(((G(result.value) - data) / noise) ** 2))
error = np.abs(result.value - truth).mean()
if mesh.comm.rank == 0:
    print(f"{result.status.value}; {result.stats}")
    print(f"32 values at t = 1: misfit {misfit:.2f} noise levels, mean absolute error of the initial state {error:.3f}")
assert 0.7 < misfit < 1.2 and error < 0.1
