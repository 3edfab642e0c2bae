"""A sheet of resistors learns the potentials of three sensors by settling alone: no adjoint, no gradient is ever taken.

Run: python3 examples/learning_by_settling.py, or mpirun -n 2 python3 examples/learning_by_settling.py

The potential s makes E = ∫ e^θ (½ |grad s|² + |grad s|⁴/20) least, between 0 on the left and 1 on the right. Knobs hold
θ while the sensors are nudged away from the data; then the knobs are held, the nudging is turned round, and θ follows
(Scellier, Mishra, Bengio and Ollivier 2022). An adjoint, taken for a witness, finds the direction of the first step.
"""

import sys

import relax
import numpy as np
import ufl
from dolfinx import fem

relax.init(sys.argv)
V = fem.functionspace(relax.meshes.unit_square(12), ("Lagrange", 1))
s, theta = fem.Function(V), fem.Function(V)
slope = ufl.inner(ufl.grad(s), ufl.grad(s))
E = ufl.exp(theta) * (slope / 2 + slope**2 / 20) * ufl.dx
bcs = [relax.clamp(V, "left", 0.0), relax.clamp(V, "right", 1.0)]
sensors, y = relax.PointValues(V, np.array([[0.3, 0.4], [0.5, 0.8], [0.6, 0.2]])), np.array([0.2, 0.6, 0.5])

problem = relax.Problem(residual=ufl.derivative(E, s), state=s, controls=[theta], bcs=bcs)
G = relax.ReducedMap(problem, sensors)
with G.linearize(np.zeros(G.size_in)) as lin:
    gradient = lin.vjp(lin.value - y)

energy, misfit = relax.Energy(E=E, state=s, parameters=[theta], bcs=bcs), relax.Misfit(sensors, y)
theta.x.array[:] = 0.0
relax.train.Aeqprop(energy, misfit, rate=1e-3, nudging=0.1, metric="euclidean").step()
step = G.present_control()
learner = relax.train.Aeqprop(energy, misfit, rate=2.0, nudging=0.5)
reports = [learner.step() for _ in range(50)]
cosine = -gradient @ step / np.linalg.norm(gradient) / np.linalg.norm(step)
if V.mesh.comm.rank == 0:
    print(f"cosine with the adjoint {cosine:.7f}; cost {reports[0].loss:.1e}, after 50 steps {reports[-1].loss:.1e}")
assert cosine > 0.9999 and reports[-1].loss < 0.01 * reports[0].loss
