"""Descent on nodal values by the residual alone: what a step leaves of a smooth error, by the norm of the residual.

Run: python3 examples/residual_loss.py, or mpirun -n 2 python3 examples/residual_loss.py

-Δu = 1 on n × n squares, κ = cot²(π/2n) the operator's condition number. Of the smoothest error a step of the best
length leaves (κ - 1)/(κ + 1) by the energy, (κ² - 1)/(κ² + 1) by ½ |r|², and rounding by the Riesz metric.
"""

import sys

import relax
import numpy as np
import torch

relax.init(sys.argv)


def gradient(loss, m, u):
    u = u.clone().requires_grad_()
    loss(m, u).backward()
    return u.grad


for n in (8, 16, 32):
    problem = relax.pdes.poisson.source(relax.meshes.unit_square(n))
    field = relax.FieldValues(problem.state.function_space)
    G = relax.ReducedMap(problem, field)
    m = torch.ones(G.size_in, dtype=torch.float64)
    solution, error = torch.as_tensor(G(m.numpy())), torch.as_tensor(np.sin(np.pi * field.coordinates[:, :2]).prod(1))
    low, high = 8 * np.sin(np.pi / 2 / n) ** 2, 8 * np.cos(np.pi / 2 / n) ** 2  # of the five-point stencil
    energy, riesz = relax.ResidualLoss(problem), relax.ResidualLoss(problem, metric="riesz")
    r = gradient(energy, m, solution + error)  # A e: the residual is the gradient of the error in the energy
    steps = 2 / (low + high) * r, 2 / (low**2 + high**2) * gradient(energy, m, solution + r)  # of ½ |r|²: A r
    left = [((error - s).norm() / error.norm()).item() for s in (*steps, gradient(riesz, m, solution + error))]
    if problem.mesh.comm.rank == 0:
        print(f"h = 1/{n}, κ = {high / low:.0f}: energy {left[0]:.5f}, ½ |r|² {left[1]:.7f}, Riesz {left[2]:.0e}")
    assert left[2] < 1e-10 and abs(left[0] - (high - low) / (high + low)) < 1e-10
