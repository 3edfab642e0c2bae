"""A network that finds a conductivity from 20 values of the potential, the samples of a batch shared among the ranks.

    -div(exp(m) grad u) = 10,   u = 0 on the sides of the unit square,   m of 12 cosines,   dimensionless

Its loss is the misfit of the potential solved for with the network's conductivity; it takes half-inverse steps. Run:
mpirun -n 2 python3 mpi_jobs/train_half_inverse.py --output results/network, or sbatch
mpi_jobs/train_half_inverse.sbatch. Killed or stopped, the same command goes on from the last checkpoint; the folder
gets curve.csv, the loss before each step, as it goes, and network.pt, the weights, at the end.
"""

import argparse
import os
from functools import partial
from pathlib import Path

import relax
import numpy as np
import torch
from mpi4py import MPI

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--output", type=Path, required=True, help="the folder, the same for a run that goes on")
parser.add_argument("--every", default="1min", help="time between two checkpoints (1min)")
for name, number in {"steps": 200, "n": 48, "batch": 32, "seed": 0}.items():
    parser.add_argument(f"--{name}", type=int, default=number, help=f"{number}, unless given")
given = parser.parse_args()
relax.init()
torch.manual_seed(given.seed)  # the same weights on each rank, and the same samples, of which it takes its part

teams = relax.Teams(MPI.COMM_WORLD, 1)
problem = relax.pdes.poisson.diffusion(relax.meshes.unit_square(given.n, comm=teams.space), source=10.0)
points = np.random.default_rng(0).uniform(0.1, 0.9, (20, 2))
physics = relax.SolutionLayer(relax.ReducedMap(problem, relax.PointValues(problem.state.function_space, points)))
x, y = relax.FieldValues(problem.controls[0].function_space).coordinates[:, :2].T
waves = [(i, j) for i in range(4) for j in range(4) if 0 < i + j < 5]
modes = [np.cos(i * np.pi * x) * np.cos(j * np.pi * y) / (i**2 + j**2) for i, j in waves]
modes = torch.from_numpy(np.array(modes))
network = torch.nn.Sequential(
    torch.nn.Linear(20, 64), torch.nn.Tanh(), torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, len(modes))
).double()
half_inverse = relax.HalfInverse(network.parameters(), lr=np.inf, cap=0.25, rcond=1e-3, teams=teams)

curve = torch.nn.Module()
curve.register_buffer("loss", torch.zeros(given.steps, dtype=torch.float64))
kept = {"network": network, "half_inverse": half_inverse, "curve": curve}
checkpoint = relax.Checkpoint(given.output / "checkpoint", every=given.every, **kept)


def write(name, put, *what):
    """A file that is there whole, or is the one before."""
    if MPI.COMM_WORLD.rank == 0:
        put(part := given.output / f".{name}", *what)
        os.replace(part, given.output / name)


def closure(wanted, noise):
    found = physics(network(wanted + noise) @ modes)
    return found, 0.5 * ((found - wanted) ** 2).sum() / given.batch  # this team's part of the mean over all samples


given.output.mkdir(parents=True, exist_ok=True)
for step in range(checkpoint.restore(), given.steps):
    mine = teams.mine(given.batch)
    coefficients = torch.randn(given.batch, len(modes), dtype=torch.float64)[mine]
    noise = 0.005 * torch.randn(given.batch, 20, dtype=torch.float64)[mine]
    with torch.no_grad():
        wanted = physics(coefficients @ modes)
    curve.loss[step] = half_inverse.step(partial(closure, wanted, noise))
    write("curve.csv", np.savetxt, curve.loss[: step + 1])
    checkpoint.save(step + 1)
write("network.pt", lambda path: torch.save(network.state_dict(), path))
