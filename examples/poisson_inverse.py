"""The conductivity of a plate with holes from 300 noisy values. Run: mpirun -n 2 python3 examples/poisson_inverse.py"""

import sys
from pathlib import Path

import relax
import numpy as np

relax.init(sys.argv)  # one rank's failure ends the job; PETSc options after --
mesh = relax.meshes.read(Path(__file__).parents[1] / "meshes/plate_with_holes.msh")
problem = relax.pdes.poisson.diffusion(mesh, source=10.0)  # -div(exp(m) grad u) = 10, u = 0 on the boundary
candidates = np.random.default_rng(1).uniform((0.0, 0.0), (2.0, 1.0), (600, 2))
sensors = candidates[relax.observe.points_inside(mesh, candidates)][:300]
G = relax.ReducedMap(problem, relax.PointValues(problem.state.function_space, sensors))

truth = relax.control_values(G, lambda x: np.where((x[0] - 0.5) ** 2 + (x[1] - 0.5) ** 2 < 0.06, 1.0, 0.0))
clean = G(truth)
noise = 0.01 * np.abs(clean).max()
data = clean + noise * np.random.default_rng(2).normal(size=clean.shape)

prior = relax.SmoothnessPrior(problem.controls[0].function_space, length=0.5, std=0.5)  # Whittle–Matérn
result = relax.gauss_newton(G, data, noise=noise, prior=prior)

misfit = np.sqrt(np.mean(((G(result.value) - data) / noise) ** 2))
error = np.linalg.norm(result.value - truth) / np.linalg.norm(truth)
if mesh.comm.rank == 0:
    print(f"{result.status.value}; {result.stats}")
    print(f"misfit {misfit:.2f} noise levels, relative error {error:.2f}")
assert 0.8 < misfit < 1.2 and error < 0.7
