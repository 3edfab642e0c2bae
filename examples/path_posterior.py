"""A drift learnt from a likelihood with two modes: the bound against the evidence by a Hamilton-Jacobi equation.

Run: python3 examples/path_posterior.py, or mpirun -n 2 python3 examples/path_posterior.py
"""

import sys

import relax
import torch
from mpi4py import MPI
from relax.relaxation.control import OptimalControl

relax.init(sys.argv)
teams = relax.Teams(MPI.COMM_WORLD, 1)  # ranks share the paths
sigma = 0.8


def log_likelihood(w):
    return torch.logaddexp(-4 * (w + 0.7) ** 2, -3 * (w - 0.7) ** 2)


class Drift(torch.nn.Sequential):
    def forward(self, w, t):
        return super().forward(torch.cat([w, t.expand(len(w), 1)], dim=1)) - w  # begins near the prior's, -w


torch.manual_seed(0)  # the same network on each rank
drift = Drift(torch.nn.Linear(2, 32), torch.nn.SiLU(), torch.nn.Linear(32, 1))
posterior = relax.train.PathPosterior(drift, prior="ou", sigma=sigma, teams=teams)
adam = torch.optim.Adam(posterior.parameters(), lr=0.03)
for _ in range(100):
    adam.zero_grad(), (-posterior.elbo(lambda w: log_likelihood(w[:, 0]), num=128)).backward(), adam.step()
bound = float(posterior.elbo(lambda w: log_likelihood(w[:, 0]), num=4000))
f, V1 = lambda x: (x[0] / sigma) ** 2 / 2, lambda x: -log_likelihood(torch.as_tensor(x[0])).numpy()
mesh = relax.meshes.interval(200, (-5, 5), comm=teams.space)  # time is in units of the noise
evidence = -OptimalControl(mesh, f, V=V1, beta=1.0, t=sigma**2, num_steps=50).value([[0.0]], sigma**2)[0]
if teams.comm.rank == 0:
    print(f"log evidence {evidence:.3f}, bound {bound:.3f}")
assert -0.1 < bound - evidence < 0.01
