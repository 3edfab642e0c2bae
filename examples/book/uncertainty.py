"""Uncertainty: where a source is, from one, two or three sensors, as a posterior and not as a point.

-Δu + 10 u = exp(-|x - m|²/0.08) on the unit disk, insulated, m in the box (-0.6, 0.6)² with no preference; sensors
read u with noise. One sensor in the middle knows the distance alone: the posterior is a ring. A second one leaves two
places, a third one of them. Samples come from ``relax.relaxation.Posterior``, independent and exact, whatever the
shape; the Gaussian at the best point (Laplace) is what local methods would say. Both are judged by the lattice of the
landscape.

Run: python3 examples/book/uncertainty.py, or mpirun -n 2 python3 examples/book/uncertainty.py
"""

from __future__ import annotations

from chapter import COMM, Chapter, opened, table  # first: it sets the number of threads

from typing import Any

import relax
import numpy as np
import ufl
from dolfinx import fem
from relax.base.types import Array
from relax.jobs.view import style
from relax.relaxation import Posterior, RelaxedMisfit, relax_misfit

SENSORS = np.array([[0.0, 0.0], [0.3, 0.0], [0.0, 0.3]])
PLACE, NOISE, BOX = np.array([0.25, 0.35]), 0.2, [(-0.6, 0.6), (-0.6, 0.6)]


def source(mesh: Any) -> relax.Problem:
    V = fem.functionspace(mesh, ("Lagrange", 1))
    u, v, m = fem.Function(V), ufl.TestFunction(V), fem.Constant(mesh, np.zeros(2))
    away = ufl.SpatialCoordinate(mesh) - m
    weak = ufl.inner(ufl.grad(u), ufl.grad(v)) + (10 * u - ufl.exp(-ufl.inner(away, away) / 0.08)) * v
    return relax.Problem(residual=weak * ufl.dx, state=u, controls=[m], bcs=[], name="source")


def laplace(G: relax.ReducedMap, best: Array, noise: float, num: int) -> Array:
    """Samples of the Gaussian around the best point, by the Jacobian there."""
    with G.linearize(best) as lin:
        J = lin.matrix()
    values, axes = np.linalg.eigh(J.T @ J / noise**2)
    # Where the data say nothing a Gaussian has no bounds; the box has.
    spread = 1 / np.sqrt(np.maximum(values, 1 / 0.35**2))
    return best + np.random.default_rng(0).normal(size=(num, 2)) * spread @ axes.T


def main() -> None:
    chapter = opened(__doc__ or "")
    teams = relax.Teams(COMM, 1)  # a rank solves its share of the samples by itself
    problem = source(relax.meshes.disk(0.3 if chapter.quick else 0.08, comm=teams.space))
    V = problem.state.function_space
    num, paths = (32, 200) if chapter.quick else (96, 20_000)
    rows, shown = [], []
    for count in (3,) if chapter.quick else (1, 2, 3):
        G = relax.ReducedMap(problem, relax.PointValues(V, SENSORS[:count]))
        clean = G(PLACE)
        noise = NOISE * float(np.abs(clean).max())
        data = clean + noise * np.random.default_rng(1).normal(size=clean.shape)
        found = relax_misfit(G, data, BOX, noise=noise, num=num, starts=1, teams=teams)
        posterior = Posterior(found)
        m = posterior.sample(paths)
        gaussian = laplace(G, found.result.value, noise, paths)
        exact = moments(found)
        for name, samples in (("posterior", m), ("Laplace", gaussian)):
            near = float(np.mean(np.linalg.norm(samples - PLACE, axis=1) < 0.1))
            rows.append([f"{count}", name, *(f"{x:.3f}" for x in (*samples.mean(0), *samples.std(0))), f"{near:.3f}"])
        rows.append([f"{count}", "lattice", *(f"{x:.3f}" for x in exact)])
        shown.append((count, m, gaussian))
        worst = np.abs(np.concatenate([m.mean(0), m.std(0)]) - exact[:4]).max()
        assert chapter.quick or worst < 0.02, worst
    table(["sensors", "by", "mean m0", "mean m1", "std m0", "std m1", "within 0.1 of the true place"], rows)
    draw(chapter, shown)


def moments(found: RelaxedMisfit) -> tuple[float, ...]:
    """Means, deviations, and the chance to be near the true place, by the lattice's own weights."""
    weights = np.exp(-(found.samples - found.samples.min()))
    weights /= weights.sum()
    x = np.stack(np.meshgrid(*found.axes, indexing="ij"), axis=-1)
    mean = np.einsum("ij,ijk->k", weights, x)
    deviation = np.sqrt(np.einsum("ij,ijk->k", weights, (x - mean) ** 2))
    near = float(weights[np.linalg.norm(x - PLACE, axis=-1) < 0.1].sum())
    return (*mean, *deviation, near)


def draw(chapter: Chapter, shown: list[tuple[int, Array, Array]]) -> None:
    def fill(*axes: Any) -> None:
        for axis, (count, m, gaussian) in zip(axes, shown, strict=True):
            axis.plot(*gaussian[:1500].T, ".", ms=1, color="0.75")
            axis.plot(*m[:1500].T, ".", ms=1, color=style.BLUE)
            axis.plot(*SENSORS[:count].T, "s", color=style.INK, ms=4)
            axis.plot(*PLACE, "+", color=style.RED, ms=12, mew=2)
            axis.set(xlim=BOX[0], ylim=BOX[1], aspect="equal", title=f"{count} sensor{'s' if count > 1 else ''}")

    chapter.draw(fill, size=(3.0 * len(shown), 3.1), columns=len(shown))


if __name__ == "__main__":
    main()
