"""Burgers' equation under forces, as in the book's chapters on control and on reinforcement learning: the task of both.

u_t + u u_x = 0.003 u_xx + f on (0, 1), u = 0 at both ends, 32 cells, 32 steps of 0.03. Two waves run into each other;
the target is what they become under a force of Gaussian shape that does not change in time, and that nobody is told.
Looked for: forces of each step, from the state, the target and the time, with J = 32 |u_32 - u*|² + mean over steps
of |f|².
"""

from __future__ import annotations

import relax
import numpy as np
import torch
import ufl
from dolfinx import fem
from relax.train import OneStep, one_step
from torch import Tensor

CELLS, STEPS, DT, VISCOSITY = 32, 32, 0.03, 0.003
#: What the distance to the target weighs against the force of one step.
FINAL = float(STEPS)


def burgers() -> OneStep:
    """(u, f) -> u after a step, 33 nodal values each; convected with the velocity before, so that steps are linear."""
    V = fem.functionspace(relax.meshes.interval(CELLS), ("Lagrange", 1))
    u, p, f = (fem.Function(V, name=name) for name in ("u", "previous", "force"))
    v, h = ufl.TestFunction(V), 1 / CELLS
    # Upwind: the convected test function has the weight of Brooks and Hughes.
    tau = (4 * p**2 / h**2 + (12 * VISCOSITY / h**2) ** 2) ** (-0.5)
    dx = ufl.dx(metadata={"quadrature_degree": 4})
    rate = (u - p) / DT + p * u.dx(0) - f
    residual = rate * (v + tau * p * v.dx(0)) * dx + VISCOSITY * u.dx(0) * v.dx(0) * dx
    step = relax.Problem(residual=residual, state=u, controls=[f], bcs=[relax.clamp_boundary(V)], name="clash")
    waves = relax.Evolution(step=step, previous=p, initial=fem.Function(V), num_steps=STEPS, per_step=[f])
    return one_step(waves, control=f)


def samples(step: OneStep, num: int, seed: int) -> Tensor:
    """Runs under hidden forces, (num, 33 times, 33 nodes); the last state of each is the target."""
    random, x = np.random.default_rng(seed), np.linspace(0.0, 1.0, CELLS + 1)

    def gaussian(height: tuple[float, float], place: tuple[float, float], width: tuple[float, float]) -> np.ndarray:
        a, b, c = (random.uniform(*between, (num, 1)) for between in (height, place, width))
        return a * np.exp(-0.5 * ((x - b) / c) ** 2)

    waves = gaussian((0, 3), (0.2, 0.4), (0.05, 0.15)) + gaussian((-3, 0), (0.6, 0.8), (0.05, 0.15))
    force = torch.from_numpy(gaussian((-1.6, 1.6), (0.4, 0.6), (0.1, 0.4)))
    run = [torch.from_numpy(waves * (np.abs(x - 0.5) < 0.5))]
    with torch.no_grad():
        for _ in range(STEPS):
            run.append(step(run[-1], force))
    return torch.stack(run, dim=1)


def mean_square(v: Tensor) -> Tensor:
    """Over the interval: (..., 33) -> (...)."""
    return (v**2).mean(-1)


def judged(last: Tensor, target: Tensor, forces: Tensor) -> tuple[float, float, float]:
    """Of a batch: mean |error| over mean |target|, the mean over time of |f|², forces (num, 32, 33), and J."""
    error = ((last - target).abs().mean() / target.abs().mean()).item()
    effort = mean_square(forces).mean().item()
    return error, effort, effort + FINAL * mean_square(last - target).mean().item()
