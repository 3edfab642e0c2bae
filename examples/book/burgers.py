"""Differentiable physics: the initial state of Burgers' equation from its state half way, in the setting of the book.

u_t + u u_s = nu u_ss on a closed curve of length 2, 128 cells, 32 steps of 1/32, nu = 0.01/pi; the state after step
16 is known, and that before step 0 is looked for, from zero: by 45 steps of gradient descent of rate 5, as in the
book, and by Gauss–Newton with a prior. The data, and what whole runs are compared with, are the solution by Cole's
and Hopf's formula.

Run: python3 examples/book/burgers.py, or mpirun -n 2 python3 examples/book/burgers.py
"""

from __future__ import annotations

from chapter import COMM, Chapter, opened, say, table  # first: it sets the number of threads

import math
import time
from typing import Any

import relax
import basix.ufl
import numpy as np
import ufl
from dolfinx import fem
from dolfinx.mesh import Mesh, create_mesh
from numpy.polynomial.hermite import hermgauss
from relax.base.types import Array
from relax.jobs.view import style

CELLS, STEPS, DATA, VISCOSITY = 128, 32, 16, 0.01 / math.pi
RATE, DESCENTS = 5.0, 45


def closed_curve(cells: int, length: float) -> Mesh:
    """A regular polygon of a given length: the periodic interval, as cells in the plane that bite their own tail."""
    angle = 2 * np.pi * np.arange(cells) / cells
    radius = length / (2 * cells * np.sin(np.pi / cells))
    points = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    pairs = np.stack([np.arange(cells), (np.arange(cells) + 1) % cells], axis=1)
    here = slice(None) if COMM.rank == 0 else slice(0)
    line = basix.ufl.element("Lagrange", "interval", 1, shape=(2,))
    return create_mesh(COMM, pairs[here].astype(np.int64), e=ufl.Mesh(line), x=points[here])


def position(x: Array, length: float) -> Array:
    """Where points of the curve lie on the interval (-length/2, length/2)."""
    return np.mod(np.arctan2(x[1], x[0]) / (2 * np.pi) + 0.5, 1.0) * length - 0.5 * length


def burgers(mesh: Mesh) -> relax.Evolution:
    """The steps, with the initial state as the control."""
    V = fem.functionspace(mesh, ("Lagrange", 1))
    u, v, x = fem.Function(V, name="u"), ufl.TestFunction(V), ufl.SpatialCoordinate(mesh)
    edge = ufl.Jacobian(mesh)[:, 0]
    along = edge * ufl.sign(x[0] * edge[1] - x[1] * edge[0]) / ufl.sqrt(ufl.dot(edge, edge))
    weak = (u * ufl.dot(ufl.grad(u), along) * v + VISCOSITY * ufl.inner(ufl.grad(u), ufl.grad(v))) * ufl.dx
    initial = fem.Function(V, name="initial")
    # A step of the optimiser may leave states that Crank-Nicolson's steps make ripple: backward Euler damps them.
    return relax.theta_evolution(weak, u, initial=initial, dt=1 / STEPS, num_steps=STEPS, theta=1, controls=[initial])


def exact(s: Array, t: float) -> Array:
    """From -sin(pi s), by Cole and Hopf: a ratio of two Gaussian integrals, by Gauss's and Hermite's rule."""
    if t == 0.0:
        return -np.sin(np.pi * s)
    nodes, weights = hermgauss(100)
    y = s[:, None] - math.sqrt(4 * VISCOSITY * t) * nodes
    exponent = -np.cos(np.pi * y) / (2 * np.pi * VISCOSITY)
    f = weights * np.exp(exponent - exponent.max(axis=1, keepdims=True))
    return -(f * np.sin(np.pi * y)).sum(axis=1) / f.sum(axis=1)


def main() -> None:
    chapter = opened(__doc__ or "")
    evolution = burgers(closed_curve(CELLS, 2.0))
    field = relax.FieldValues(evolution.state.function_space)
    s = position(field.coordinates.T, 2.0)
    truth = np.array([exact(s, n / STEPS) for n in range(STEPS + 1)])
    half_way = relax.ReducedMap(evolution, relax.AtSteps(field, [DATA]))
    whole = relax.ReducedMap(evolution, relax.AtSteps(field, range(1, STEPS + 1)))
    target = truth[DATA]

    def error(control: Array) -> float:
        run = np.concatenate([control[None], whole(control).reshape(STEPS, -1)])
        return float(np.abs(run - truth).mean())

    say(f"the exact initial state: loss {np.mean((half_way(truth[0]) - target) ** 2):.1e}, error {error(truth[0]):.4f}")
    rows, found = [], {}
    control, start, losses = np.zeros(half_way.size_in), time.process_time(), []
    for _ in range(3 if chapter.quick else DESCENTS):
        with half_way.linearize(control) as lin:
            losses.append(float(np.mean((lin.value - target) ** 2)))
            control = control - RATE * lin.vjp(2 * (lin.value - target) / len(s))
    found["descent"] = control
    cpu = time.process_time() - start
    last = float(np.mean((half_way(control) - target) ** 2))
    rows.append(["gradient descent", f"{losses[0]:.4f}", f"{last:.4f}", f"{error(control):.3f}", f"{cpu:.1f}"])

    prior = relax.SmoothnessPrior(evolution.state.function_space, length=0.5, std=1.0)
    start = time.process_time()
    result = relax.gauss_newton(
        half_way, target, noise=0.02, prior=prior, max_steps=2 if chapter.quick else 30, atol=0.1
    )
    cpu = time.process_time() - start
    found["Gauss–Newton"] = result.value
    last = float(np.mean((half_way(result.value) - target) ** 2))
    rows.append(["Gauss–Newton", f"{losses[0]:.4f}", f"{last:.1e}", f"{error(result.value):.3f}", f"{cpu:.1f}"])
    table(["method", "loss at first", "at the end", "mean |error| over space and time", "CPU s"], rows)
    draw(chapter, s, truth[0], found)
    assert chapter.quick or (last < 1e-3 and error(result.value) < 0.05)


def draw(chapter: Chapter, s: Array, truth: Array, found: dict[str, Array]) -> None:
    order = np.argsort(s)

    def fill(axis: Any) -> None:
        axis.plot(s[order], truth[order], color="0.7", lw=4, label="true")
        for (name, control), colour in zip(found.items(), style.LINES, strict=False):
            axis.plot(s[order], control[order], color=colour, label=name)
        axis.set(xlabel="s", ylabel="u before the first step", title="The initial state from the state at t = 1/2")

    chapter.draw(fill, size=(5.6, 3.8))


if __name__ == "__main__":
    main()
