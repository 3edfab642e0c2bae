"""Where a noisy descent from x = 2.5 is led by a rugged parabola, relaxed or not. Writes a figure.

Run: python3 examples/densities.py, or mpirun -n 2 python3 examples/densities.py
"""

import sys
from pathlib import Path

import relax
import numpy as np
from mpi4py import MPI
from relax.jobs.view import style
from relax.relaxation import RelaxedLandscape, density, gallery, hopf_lax

relax.init(sys.argv)
x, f = gallery.rugged_parabola()
mesh = relax.meshes.interval(len(x) - 1, gallery.ENDS)
times, how = np.geomspace(0.005, 0.2, 10), {"beta": 1.0, "degree": 1}
viscous = RelaxedLandscape(mesh, lambda p: np.interp(p[0], x, f), times=times, num_steps=4, **how)
falling = [viscous.field(0.0) for _ in range(11)]  # Hopf–Lax from t = 0.1 to f itself
for u, t in zip(falling[:-1], np.linspace(0.1, 0.01, 10), strict=True):
    u.interpolate(lambda p, values=hopf_lax(f, x, t).value: np.interp(p[0], x, values))
cases = {"viscous": (viscous, 0.1), "inviscid": (falling, 0.1), "f itself": (falling[-1], 0.2)}
bins = np.linspace(-3.0, 3.0, 121)[:, None]
means, histograms = {}, {}
for name, (landscape, D) in cases.items():
    rho = density(landscape, [9.3], start=lambda p: np.exp(-50.0 * (p[0] - 2.5) ** 2), diffusion=D, num_steps=100)
    near = rho.mean(lambda p: np.stack([p[0], abs(p[0] - x[f.argmin()]) < 0.5]))[-1]
    means[name], histograms[name] = near, rho.mean(lambda p: abs(p[0] - bins) < 0.025)[-1]
    if MPI.COMM_WORLD.rank == 0:
        print(f"{name}: mean {near[0]:.2f}, mass within 0.5 of the minimum {near[1]:.2f}")
if MPI.COMM_WORLD.rank == 0:
    with style.pyplot() as plt:
        figure, axis = plt.subplots(figsize=(7.0, 3.5), layout="constrained")
        [axis.plot(bins, values / 0.05, label=name) for name, values in histograms.items()]
        axis.set(xlabel="x", ylabel="density"), axis.legend(frameon=False)
        style.save(plt, figure, Path("densities.png"))
assert means["viscous"][1] > 0.7 and means["inviscid"][1] < 0.01 and means["f itself"][0] > 2.4
