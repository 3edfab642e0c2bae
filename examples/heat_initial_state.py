"""Where was the heat? Initial state from noisy late values. Run: mpirun -n 2 python3 examples/heat_initial_state.py"""

import sys

import relax
import numpy as np

relax.init(sys.argv)


def blobs(x):
    return np.exp(-60.0 * ((x[0] - 0.35) ** 2 + (x[1] - 0.6) ** 2)) + 0.7 * np.exp(
        -60.0 * ((x[0] - 0.7) ** 2 + (x[1] - 0.3) ** 2)
    )


mesh = relax.meshes.unit_square(24)
heat = relax.pdes.heat.evolution(mesh, initial=0.0, dt=1e-3, num_steps=10)  # u_t = Δu, u = 0 on the boundary
sensors = np.random.default_rng(1).uniform(0.05, 0.95, (200, 2))
late = relax.AtSteps(relax.PointValues(heat.state.function_space, sensors), [10])
G = relax.ReducedMap(heat, late)  # one factorisation for all that follows

truth = relax.control_values(G, blobs)
clean = G(truth)
noise = 0.01 * np.abs(clean).max()
data = clean + noise * np.random.default_rng(2).normal(size=clean.shape)
prior = relax.SmoothnessPrior(heat.controls[0].function_space, length=0.4, std=0.3)
result = relax.gauss_newton(G, data, noise=noise, prior=prior)

misfit = np.sqrt(np.mean(((G(result.value) - data) / noise) ** 2))
error = np.linalg.norm(result.value - truth) / np.linalg.norm(truth)
if mesh.comm.rank == 0:
    print(f"{result.status.value}; {result.stats}")
    print(f"misfit {misfit:.2f} noise levels, relative error {error:.2f}")
assert 0.8 < misfit < 1.2 and error < 0.4
