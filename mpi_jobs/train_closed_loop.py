"""A feedback law for an unstable flow: ten sensors, five actuators, the samples of a batch shared among the ranks.

    u_t + u u_x = u_xx + 20 u + sum_i c_i exp(-((x - x_i) / 0.06)^2),   u = 0 at x = 0 and x = 1,   dimensionless

Left alone the state u = 0 is unstable. Run: mpirun -n 2 python3 mpi_jobs/train_closed_loop.py --output results/law, or
sbatch mpi_jobs/train_closed_loop.sbatch. Killed or stopped, the same command goes on from the last checkpoint; the
folder gets curve.csv, the loss before each step, as it goes, and law.pt, the weights, at the end.
"""

import argparse
import os
from pathlib import Path

import relax
import numpy as np
import torch
import ufl
from dolfinx import fem
from mpi4py import MPI

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--output", type=Path, required=True, help="the folder, the same for a run that goes on")
parser.add_argument("--every", default="1min", help="time between two checkpoints (1min)")
for name, number in {"steps": 200, "n": 400, "batch": 32, "seed": 0}.items():
    parser.add_argument(f"--{name}", type=int, default=number, help=f"{number}, unless given")
given = parser.parse_args()
relax.init()
torch.manual_seed(given.seed)  # the same weights on each rank, and the same samples, of which it takes its part

teams = relax.Teams(MPI.COMM_WORLD, 1)
V = fem.functionspace(mesh := relax.meshes.interval(given.n, comm=teams.space), ("Lagrange", 1))
u, v, c, bcs = fem.Function(V), ufl.TestFunction(V), fem.Constant(mesh, np.zeros(5)), [relax.clamp_boundary(V)]
force = sum(c[i] * ufl.exp(-(((ufl.SpatialCoordinate(mesh)[0] - (i + 1) / 6) / 0.06) ** 2)) for i in range(5))
F = (u * u.dx(0) * v + u.dx(0) * v.dx(0) - 20.0 * u * v - force * v) * ufl.dx
flow = relax.theta_evolution(F, u, initial=0.0, dt=0.01, num_steps=20, theta=1, controls=[c], per_step=[c], bcs=bcs)
sensors = relax.PointValues(V, np.linspace(0.05, 0.95, 10)[:, None])
law = torch.nn.Sequential(torch.nn.Linear(10, 32), torch.nn.Tanh(), torch.nn.Linear(32, 5)).double()
adam = torch.optim.Adam(law.parameters(), lr=0.03)
loop = relax.train.ClosedLoop(
    relax.train.one_step(flow, control=c),
    law,
    steps=20,
    losses=lambda s: (s**2).sum() / (given.batch * s.shape[1]),  # this team's part of the mean over all samples
    observe=sensors,
    teams=teams,
)
modes = torch.from_numpy(np.sin(np.pi * np.outer(range(1, 5), relax.FieldValues(V).coordinates[:, 0])))

curve = torch.nn.Module()
curve.register_buffer("loss", torch.zeros(given.steps, dtype=torch.float64))
checkpoint = relax.Checkpoint(given.output / "checkpoint", every=given.every, law=law, adam=adam, curve=curve)


def write(name, put, *what):
    """A file that is there whole, or is the one before."""
    if MPI.COMM_WORLD.rank == 0:
        put(part := given.output / f".{name}", *what)
        os.replace(part, given.output / name)


given.output.mkdir(parents=True, exist_ok=True)
for step in range(checkpoint.restore(), given.steps):
    starts = torch.randn(given.batch, 4, dtype=torch.float64)[teams.mine(given.batch)] @ modes
    adam.zero_grad()
    curve.loss[step] = loop.backward(starts, flow="combined")
    adam.step()
    write("curve.csv", np.savetxt, curve.loss[: step + 1])
    checkpoint.save(step + 1)
write("law.pt", lambda path: torch.save(law.state_dict(), path))
