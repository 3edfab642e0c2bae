"""What eight experiments cost beside one: impedance tomography, conductivity exp(m), 66 049 unknowns.

Run: ``environment/enter python3 benchmarks/experiments.py``. Eight currents share one factor, and one block of
right-hand sides for states, tangents and adjoints. What they do not share is the assembly of eight sources and
gradients, and seven more columns in each block: where the factor is there already that is all there is.
"""

from __future__ import annotations

from timing import seconds, table  # isort: skip  (sets the number of threads)

import relax
import numpy as np
import ufl
from dolfinx import fem

N, CURRENTS = 256, 8


def tomography() -> list[relax.ReducedMap]:
    """-div(exp(m) ∇u_k) = 0, exp(m) ∂u_k/∂n = c_k, a wave around the boundary, seen at 32 points there."""
    domain = relax.meshes.unit_square(N)
    V = fem.functionspace(domain, ("Lagrange", 1))
    m, v = fem.Function(V), ufl.TestFunction(V)
    x, s = ufl.SpatialCoordinate(domain), np.linspace(0.0, 1.0, 8, endpoint=False)
    sides = [(s, 0.0 * s), (0.0 * s + 1.0, s), (1.0 - s, 0.0 * s + 1.0), (0.0 * s, 1.0 - s)]
    around = np.concatenate([np.stack(side, axis=1) for side in sides])
    angle, maps = ufl.atan2(x[1] - 0.5, x[0] - 0.5), []
    for k in range(CURRENTS):
        u = fem.Function(V)
        current = ufl.cos((k // 2 + 1) * angle - 0.5 * np.pi * (k % 2))
        mean = domain.comm.allreduce(fem.assemble_scalar(fem.form(current * ufl.ds(domain, degree=4)))) / 4.0
        source = (current - fem.Constant(domain, mean)) * v * ufl.ds(degree=4)
        F = ufl.exp(m) * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx - source
        problem = relax.Problem(residual=F, state=u, controls=[m], nullspace="constants", name="body")
        maps.append(relax.ReducedMap(problem, relax.PointValues(V, around)))
    return maps


def compare() -> None:
    """One experiment, eight as one map, and eight maps one after the other."""
    maps = tomography()
    one, many = maps[0], relax.Experiments(maps)
    m = relax.control_values(one, lambda x: 0.3 * np.sin(5 * x[0]) * np.cos(3 * x[1]))
    dm = relax.control_values(one, lambda x: np.cos(2 * x[0] + x[1]))

    def gradient(*each: relax.ReducedMap | relax.Experiments) -> None:
        for G in each:
            with G.linearize(m) as lin:
                lin.vjp(lin.value)

    def step(G: relax.ReducedMap | relax.Experiments) -> None:
        with G.linearize(m) as lin:
            lin.vjp(lin.value)
            lin.vjp(lin.jvp(dm))

    a, b = one.linearize(m), many.linearize(m)
    grad_1, grad_8, apart, step_1, step_8, kept_1, kept_8, matrix_1, matrix_8 = seconds(
        lambda: gradient(one),
        lambda: gradient(many),
        lambda: gradient(*maps),
        lambda: step(one),
        lambda: step(many),
        lambda: a.vjp(a.jvp(dm)),
        lambda: b.vjp(b.jvp(dm)),
        a.matrix,
        b.matrix,
    )
    table(
        f"{CURRENTS} currents, {(N + 1) ** 2} unknowns, MUMPS Cholesky; operators: {many.num_operators}",
        [
            ("one: linearise and gradient", grad_1, 1.0, None),
            ("eight as one map / one", grad_8, grad_8 / grad_1, 2.5),
            ("eight maps, one after the other / one", apart, apart / grad_1, None),
            ("one: linearise, gradient, Gauss-Newton product", step_1, 1.0, None),
            ("eight as one map / one", step_8, step_8 / step_1, 2.5),
            ("one: Gauss-Newton product, factor kept", kept_1, 1.0, None),
            ("eight as one map / one", kept_8, kept_8 / kept_1, None),
            ("one: Jacobian of 32 data, factor kept", matrix_1, 1.0, None),
            ("eight as one map, 256 data / one", matrix_8, matrix_8 / matrix_1, None),
        ],
    )


if __name__ == "__main__":
    compare()
