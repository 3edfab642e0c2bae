"""Two wave speeds from three sensors and much noise: what the data leave open is sampled, both modes of it.

Run: python3 examples/posterior.py, or mpirun -n 2 python3 examples/posterior.py
"""

import sys

import relax
import numpy as np
from mpi4py import MPI
from relax.relaxation import Posterior, relax_misfit

from relax_misfit import waves

relax.init(sys.argv)
teams = relax.Teams(MPI.COMM_WORLD, 1)  # a rank solves its share of the samples by itself
problem = waves(relax.meshes.unit_square(20, comm=teams.space))
sensors = np.array([(0.95, 0.5), (0.1, 0.95), (0.7, 0.95)])
G = relax.ReducedMap(problem, relax.PointValues(problem.state.function_space, sensors))
clean = G(np.array([0.85, 1.2]))
noise = np.abs(clean).max()
data = clean + noise * np.random.default_rng(0).normal(size=G.size_out)
found = relax_misfit(G, data, [(0.7, 1.7), (0.7, 1.7)], noise=noise, num=32, starts=1, teams=teams)
posterior = Posterior(found)  # each mode gets what is its own, however far it is from the others
m = posterior.sample(20_000)

weights = np.exp(-found.samples) / np.exp(-found.samples).sum()  # of the lattice, for a witness
slow = np.add.outer(found.axes[0], 0.0 * found.axes[1]) < 1.1
share = np.mean(m[:, 0] < 1.1)
if teams.comm.rank == 0:
    print(f"log evidence {posterior.log_evidence:.3f}; mean speeds {m.mean(axis=0)}, deviations {m.std(axis=0)}")
    print(f"the first below 1.1: {share:.3f} of the samples, {weights[slow].sum():.3f} of the lattice")
assert abs(share - weights[slow].sum()) < 0.02
