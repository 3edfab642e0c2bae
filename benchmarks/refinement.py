"""Does the main job take the same number of Gauss-Newton steps on finer meshes?

Run: ``environment/enter python3 benchmarks/refinement.py``, or with ``mpirun -n 2``. The plate with holes at about
5 000, 20 000 and 80 000 unknowns, with the settings of ``mpi_jobs/poisson_inverse.toml``.
"""

from __future__ import annotations

from pathlib import Path

import relax
import numpy as np
from relax.base import parallel
from relax.jobs.inverse import truths

import timing  # noqa: F401 - sets the number of threads

HERE = Path(__file__).parents[1]
SIZES = (0.0224, 0.0107, 0.00525)


def solve(h: float) -> tuple[int, relax.Result, float]:
    """The job at mesh size h: (unknowns, result, misfit in noise levels)."""
    mesh = relax.meshes.read(HERE / "meshes" / "plate_with_holes.geo", h=h)
    problem = relax.pdes.poisson.diffusion(mesh, source=10.0)
    V = problem.state.function_space
    candidates = np.random.default_rng(1).uniform((0.0, 0.0), (2.0, 1.0), (700, 2))
    points = candidates[relax.observe.points_inside(mesh, candidates)][:400]
    with relax.ReducedMap(problem, relax.PointValues(V, points), layout="owned") as G:
        truth = relax.control_values(G, truths.scaled("inclusions", np.zeros(2), np.array([2.0, 1.0])))
        clean = G(truth)
        noise = 0.01 * np.abs(clean).max()
        data = clean + noise * np.random.default_rng(2).normal(size=clean.shape)
        prior = relax.SmoothnessPrior(problem.controls[0].function_space, length=0.5, std=0.5, layout="owned")
        result = relax.gauss_newton(G, data, noise=noise, prior=prior)
        misfit = float(np.sqrt(np.mean(((G(result.value) - data) / noise) ** 2)))
        prior.close()
    return V.dofmap.index_map.size_global, result, misfit


if __name__ == "__main__":
    for h in SIZES:
        unknowns, result, misfit = solve(h)
        stats = result.stats
        parallel.rank_0_prints(
            parallel.MPI.COMM_WORLD,
            f"{unknowns:7d} unknowns  {stats.outer:3d} steps  {stats.forward} forward  {stats.tangent} tangent  "
            f"{stats.adjoint} adjoint  misfit {misfit:.3f} noise levels  {stats.seconds:.1f} s  {result.status.value}",
        )
