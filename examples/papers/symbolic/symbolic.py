"""Closed forms of textbook problems, found from the equation alone, and what comes of problems without.

Run: python3 examples/papers/symbolic/symbolic.py, or mpirun -n 2 python3 ...; see README.md. What Panju, Parand and
Ghodsi (arXiv:2011.06673) look for by gradient descent over trees, ``relax.symbolic.solve`` looks for by size.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import harness  # noqa: E402, I001  (first: it sets the number of threads)

import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import ufl  # noqa: E402
from dolfinx import fem, mesh  # noqa: E402
from ufl import ds, dx, exp, grad, inner, pi, sin  # noqa: E402

import relax  # noqa: E402
from relax import meshes  # noqa: E402
from relax.base import parallel  # noqa: E402
from relax.jobs.view import style  # noqa: E402

#: Form, conditions, further arguments.
Posed = tuple[Any, dict[str, Any], dict[str, Any]]


def on(domain: mesh.Mesh) -> tuple[Any, Any, Any]:
    """The unknown, a test function, coordinates."""
    V = fem.functionspace(domain, ("Lagrange", 1))
    return relax.symbolic.unknown(V), ufl.TestFunction(V), ufl.SpatialCoordinate(domain)


def parabola() -> Posed:
    """−u″ = 1."""
    u, v, _ = on(meshes.interval(16))
    return (inner(grad(u), grad(v)) - v) * dx, {"boundary": 0.0}, {}


def heat() -> Posed:
    """u_t = 0.37 u_xx, u = sin πx at first."""
    u, v, x = on(meshes.interval(16))
    return (u.dt * v + 0.37 * inner(grad(u), grad(v))) * dx, {"boundary": 0.0, "initial": sin(pi * x[0])}, {}


def wave() -> Posed:
    """u_tt = u_xx, u = sin πx at first, at rest."""
    u, v, x = on(meshes.interval(16))
    given = {"boundary": 0.0, "initial": sin(pi * x[0]), "velocity": 0.0}
    return (u.dt.dt * v + inner(grad(u), grad(v))) * dx, given, {}


def hamilton_jacobi() -> Posed:
    """u_t + ½ u_x² = u_xx/6, u = ¾ x² at first, on the line."""
    u, v, x = on(meshes.interval(16, (-2.0, 2.0)))
    form = (u.dt * v + 0.5 * inner(grad(u), grad(u)) * v + inner(grad(u), grad(v)) / 6) * dx
    return form, {"initial": 0.75 * x[0] ** 2}, {}


def two_modes() -> Posed:
    """u_t = u_xx/10, u = sin πx + ½ sin 2πx at first."""
    u, v, x = on(meshes.interval(16))
    first = sin(pi * x[0]) + 0.5 * sin(2 * pi * x[0])
    return (u.dt * v + 0.1 * inner(grad(u), grad(v))) * dx, {"boundary": 0.0, "initial": first}, {}


def burgers() -> Posed:
    """u_t + u u_x = u_xx/10, a front."""
    u, v, x = on(meshes.interval(32, (-1.0, 1.0)))
    now = fem.Constant(u.function_space.mesh, 0.0)
    front = 0.5 - 0.5 * ufl.tanh(2.5 * (x[0] - 0.5 * now))
    form = (u.dt * v + u * u.dx(0) * v + 0.1 * inner(grad(u), grad(v))) * dx
    return form, {"boundary": front, "initial": front}, {"time": now}


def fisher() -> Posed:
    """u_t = u_xx + u (1 − u), a front (Ablowitz and Zeppetella 1979)."""
    u, v, x = on(meshes.interval(32, (-5.0, 5.0)))
    now = fem.Constant(u.function_space.mesh, 0.0)
    front = (1 + exp((x[0] - 5 / 6**0.5 * now) / 6**0.5)) ** -2
    form = (u.dt * v - u * (1 - u) * v + inner(grad(u), grad(v))) * dx
    return form, {"boundary": front, "initial": front}, {"time": now}


def square_mode() -> Posed:
    """−Δu = 2π² sin πx sin πy."""
    u, v, x = on(meshes.unit_square(8))
    return (inner(grad(u), grad(v)) - 2 * pi**2 * sin(pi * x[0]) * sin(pi * x[1]) * v) * dx, {"boundary": 0.0}, {}


def laplace() -> Posed:
    """Δu = 0, u = sin πx on one side of a square, 0 on the others."""
    u, v, x = on(meshes.unit_square(8))
    return inner(grad(u), grad(v)) * dx, {"boundary": sin(pi * x[0]) * ufl.sinh(pi * x[1]) / np.sinh(np.pi)}, {}


def heat_in_the_plane() -> Posed:
    """u_t = Δu/20, u = sin πx sin 2πy at first."""
    u, v, x = on(meshes.unit_square(8))
    first = sin(pi * x[0]) * sin(2 * pi * x[1])
    return (u.dt * v + 0.05 * inner(grad(u), grad(v))) * dx, {"boundary": 0.0, "initial": first}, {}


def torsion() -> Posed:
    """−Δu = 1 on a square, a series."""
    u, v, _ = on(meshes.unit_square(8))
    return (inner(grad(u), grad(v)) - v) * dx, {"boundary": 0.0}, {}


def layer() -> Posed:
    """−u″/20 + u′ = 1, a boundary layer."""
    u, v, _ = on(meshes.interval(32))
    return (inner(grad(u), grad(v)) / 20 + u.dx(0) * v - v) * dx, {"boundary": 0.0}, {}


def insulated() -> Posed:
    """u_t = u_xx/10, u = 2 + cos πx at first, insulated ends."""
    u, v, x = on(meshes.interval(16))
    no_flux = fem.Constant(u.function_space.mesh, 0.0) * v * ds
    return (u.dt * v + 0.1 * inner(grad(u), grad(v))) * dx + no_flux, {"initial": 2 + ufl.cos(pi * x[0])}, {}


def reaction() -> Posed:
    """−u″ + u³ = exp(sin 5x)."""
    u, v, x = on(meshes.interval(16))
    return (inner(grad(u), grad(v)) + u**3 * v - exp(sin(5 * x[0])) * v) * dx, {"boundary": 0.0}, {}


#: The first ones are those of a quick look.
PROBLEMS: tuple[Callable[[], Posed], ...] = (
    parabola, heat, wave, reaction, hamilton_jacobi, two_modes, burgers, fisher, square_mode, laplace,
    heat_in_the_plane, layer, insulated, torsion,
)  # fmt: skip
QUICK = 4


def figure(path: Path, found: dict[str, Any], seconds: dict[str, float]) -> None:
    """CPU seconds of each problem; size and error of the best formulas of those that were not solved. On one rank."""
    with style.pyplot() as plt:
        drawing, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.8), constrained_layout=True)
        names = list(found)[::-1]
        colours = [style.LINES[0] if found[name].is_exact else style.LINES[1] for name in names]
        left.barh([name.replace("_", " ") for name in names], [seconds[name] for name in names], color=colours)
        left.set(xscale="log", xlabel="CPU seconds", title="solution found, or best formula")
        for name, answer in found.items():
            if not answer.is_exact:
                sizes, errors = zip(*((c.size, c.error) for c in answer.candidates), strict=True)
                right.plot(sizes, errors, "o-", label=name.replace("_", " "))
        right.set(
            yscale="log", xlabel="nodes of the formula", ylabel="distance from finite elements", title="no closed form"
        )
        right.legend(frameon=False, fontsize=8)
        for axis in (left, right):
            style.bare(axis)
        style.save(plt, drawing, path)


def main() -> None:
    """Solve them all, print a table, draw a figure."""
    given = harness.settings(__doc__ or "", budget=60.0, seeds=1)
    found, seconds = {}, {}
    heads = "problem|formula|is it the solution|formulas tried|weak residual|distance from finite elements|CPU s"
    harness.say(f"| {heads.replace('|', ' | ')} |\n{'|---' * len(heads.split('|'))}|")
    for problem in PROBLEMS[:QUICK] if given.quick else PROBLEMS:
        form, conditions, more = problem()
        began = time.process_time()
        answer = relax.symbolic.solve(form, conditions, budget=given.budget, **more)
        name = problem.__name__
        found[name], seconds[name] = answer, time.process_time() - began
        cells = [
            (problem.__doc__ or "").rstrip("."), f"`{answer.expression}`", "yes" if answer.is_exact else "no",
            f"{answer.tried}", f"{answer.residual:.1e}", f"{answer.error:.1e}", f"{seconds[name]:.1f}",
        ]  # fmt: skip
        harness.say("| " + " | ".join(cells) + " |")
    drawn = style.is_there(harness.COMM)
    with parallel.together(harness.COMM):
        if drawn and harness.COMM.rank == 0:
            given.output.mkdir(parents=True, exist_ok=True)
            figure(given.output / "symbolic.png", found, seconds)


if __name__ == "__main__":
    relax.init(sys.argv)
    main()
