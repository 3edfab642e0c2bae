"""Reaction and diffusion on a disk, from moving sensors with 5 % noise: the right terms, and error bars that hold.

u_t = 0.05 Lap u + 2 u - 2 u^3 on the unit disk, insulated, for 0 < t < 2. Twenty sensors go round, each at a radius and
a speed of its own, and read u 100 times. ``null_space`` finds which of eight terms it takes, ``refine`` their
coefficients with deviations, on a coarser mesh than that of the data.

Run: python3 examples/papers/discovery/disk.py [--seeds 10]. 20 CPU seconds a seed; ranks share the mesh.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import harness  # noqa: E402, I001  (first: it sets the number of threads)

import numpy as np  # noqa: E402
import ufl  # noqa: E402
from dolfinx import fem  # noqa: E402

import relax  # noqa: E402
from relax import discovery  # noqa: E402
from relax.discovery.seen import ScatteredValues  # noqa: E402

END, NOISE, SENSORS, READINGS = 2.0, 0.05, 20, 100
TRUTH = {"lap u": -0.05, "u": -2.0, "u^3": 2.0}
# A coefficient is within so many of its deviations of the truth in 95 of 100.
INTERVAL = 1.96


def truth(h: float, num_steps: int) -> relax.Evolution:
    """The field that is seen."""
    V = fem.functionspace(relax.meshes.disk(h), ("Lagrange", 2))
    u, v = fem.Function(V), ufl.TestFunction(V)
    x, y = ufl.SpatialCoordinate(V.mesh)
    lumps = ((0.9, -0.4, 0.1, 8), (0.7, 0.4, -0.4, 10), (-1.6, 0.3, 0.5, 8))
    initial = fem.Function(V)
    start = sum(a * ufl.exp(-k * ((x - p) ** 2 + (y - q) ** 2)) for a, p, q, k in lumps)
    points = V.element.interpolation_points
    initial.interpolate(fem.Expression(start, points() if callable(points) else points))
    weak = 0.05 * ufl.inner(ufl.grad(u), ufl.grad(v)) - (2 * u - 2 * u**3) * v
    return relax.theta_evolution(weak * ufl.dx, u, initial=initial, dt=END / num_steps, num_steps=num_steps)


def paths(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Where sensors are when they read: (num, 2) and (num,)."""
    t = np.linspace(0, END, READINGS)[None]
    radius, phase = np.sqrt(random.uniform(0.01, 0.9, (SENSORS, 1))), random.uniform(0, 2 * np.pi, (SENSORS, 1))
    speed, swing = random.uniform(-3, 3, (SENSORS, 1)), random.uniform(0, 0.15, (SENSORS, 1))
    r, angle = np.clip(radius + swing * np.sin(3 * t + phase), 0, 0.97), phase + speed * t
    return np.stack([r * np.cos(angle), r * np.sin(angle)], -1).reshape(-1, 2), np.broadcast_to(t, r.shape).ravel()


def library(V: fem.FunctionSpace) -> dict[str, ufl.core.expr.Expr]:
    u, v = discovery.unknown(V), discovery.test(V)
    terms = {"u_t": u.dt * v, "lap u": -ufl.inner(ufl.grad(u), ufl.grad(v)), "u": u * v, "u^2": u**2 * v}
    slopes = {"u_x": u.dx(0) * v, "u_y": u.dx(1) * v, "|grad u|^2": ufl.inner(ufl.grad(u), ufl.grad(u)) * v}
    return terms | {"u^3": u**3 * v} | slopes


def main() -> None:
    given = harness.settings(__doc__ or "", seeds=10)
    fine, coarse, steps = (0.3, 0.4, 12) if given.quick else (0.08, 0.25, 40)
    seen, V = truth(fine, 160), fem.functionspace(relax.meshes.disk(coarse), ("Lagrange", 2))
    terms, rows, right, within = library(V), [], 0, []
    for seed in range(given.seeds):
        random = np.random.default_rng(seed)
        points, times = paths(random)
        sees = ScatteredValues(seen.state.function_space, points, times / END * 160, 160)
        with relax.ReducedMap(seen, sees) as G:
            clean = G(G.present_control())
        noise = NOISE * clean.std()
        data = (points, times, clean + noise * random.standard_normal(len(clean)))
        found = discovery.null_space(terms, data, noise=noise, tests=discovery.bumps(6, 8))
        row = [str(seed), " ".join(f"{c:+.3g} {name}" for name, c in found.by_name.items())]
        if set(found.terms) == {"u_t", *TRUTH}:
            right += 1
            refined = found.refine(data, noise=noise, num_steps=steps)
            names = [name for name in found.terms if name != "u_t"]
            z = [(c - TRUTH[name]) / s for name, c, s in zip(names, refined.coefficients, refined.std, strict=True)]
            within += [abs(each) < INTERVAL for each in z]
            row += [f"{c:.4f} ± {s:.4f}" for c, s in zip(refined.coefficients, refined.std, strict=True)]
            row += [", ".join(f"{each:.1f}" for each in z)]
        rows.append(row)
        harness.say("| " + " | ".join(row) + " |")
    share = f"{sum(within)} of {len(within)}" if within else "none"
    harness.say(f"right terms: {right} of {given.seeds}; coefficients within {INTERVAL} deviations: {share}")


if __name__ == "__main__":
    relax.init(sys.argv)
    main()
