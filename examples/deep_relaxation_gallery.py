"""A rugged parabola, relaxed three ways: 32 local minima become 1 (viscous), 5 (inviscid), 1 (heat). Writes a figure.

Run: python3 examples/deep_relaxation_gallery.py, or mpirun -n 2 python3 examples/deep_relaxation_gallery.py
"""

import sys
from pathlib import Path

import relax
from relax import relaxation
from mpi4py import MPI
from relax.jobs.landscape.figure import curves
from relax.jobs.view import style

relax.init(sys.argv)
gallery = relaxation.gallery.deep_relaxation()

if MPI.COMM_WORLD.rank == 0:
    with style.pyplot() as plt:
        figure, axis = plt.subplots(figsize=(7.0, 4.0), layout="constrained")
        curves(axis, gallery.x, gallery.curves)
        for line in axis.lines[1:4]:
            u = line.get_ydata()
            axis.plot(gallery.x[u.argmin()], u.min(), "o", color=line.get_color())
        axis.set_ylabel("landscape")
        style.save(plt, figure, Path("deep_relaxation.png"))
    print("local minima of f, viscous, Hopf–Lax, heat:", *gallery.minima)
assert gallery.minima == (32, 1, 5, 1)
