"""Equations with u_tt: Newmark's method and generalised-alpha."""

from __future__ import annotations

import numpy as np
import pytest
import ufl
from contract import close
from dolfinx import fem

import relax
from relax import AtSteps, BadInput, BadProblem, FieldValues, Functional, PointValues, ReducedMap, Stack

pytestmark = pytest.mark.ranks(1, 2, 3)


def string(steps=4, *, damping=0.0, n=4, time=1.0, load=None, **options):
    """ρ u_tt + d u_t = c (u_xx - u³) + load on (0, π), held at its ends: c and u, u_t at the start are controls."""
    domain = relax.meshes.interval(n, (0.0, np.pi))
    V = fem.functionspace(domain, ("Lagrange", 2))
    u, w, v = fem.Function(V, name="u"), fem.Function(V, name="w"), ufl.TestFunction(V)
    c, g, t = fem.Constant(domain, 1.0), fem.Function(V, name="g"), fem.Constant(domain, 0.0)
    u_0, w_0 = fem.Function(V, name="u_0"), fem.Function(V, name="w_0")
    u_0.interpolate(lambda x: np.sin(x[0]))
    cubic = options.pop("cubic", 0.0)
    R = (c * u.dx(0) * v.dx(0) + c * cubic * u**3 * v + damping * w * v) * ufl.dx
    if load is not None:
        R -= load(t, ufl.SpatialCoordinate(domain)) * v * ufl.dx
    given = {
        "initial": u_0, "initial_velocity": w_0, "controls": [c], "bcs": [relax.clamp_boundary(V, g)], "velocity": w,
        "time": t, "dt": time / steps, "num_steps": steps,
    }  # fmt: skip
    return relax.newmark_evolution(R, options.pop("mass", 1.0), u, **given | options)


def at_the_end(evolution, m=None):
    G = ReducedMap(evolution, PointValues(evolution.state.function_space, [[np.pi / 2]]))
    return G(G.present_control() if m is None else m)[0]


@pytest.mark.parametrize("options", [{}, {"alpha_m": 0.0, "alpha_f": 1 / 3}, {"alpha_m": 0.2, "alpha_f": 0.4}])
def test_is_of_second_order(options):
    """sin(x) cos(t), and with a load in time: sin(x) (1 + t³)."""
    for load, exact in ((None, np.cos(1.0)), (lambda t, x: ufl.sin(x[0]) * (1 + t**3 + 6 * t), 2.0)):
        ends = [at_the_end(string(steps, load=load, **options)) for steps in (10, 20, 40)]
        assert ends[-1] == pytest.approx(exact, abs=2e-3)
        assert np.log2((ends[0] - ends[1]) / (ends[1] - ends[2])) == pytest.approx(2.0, abs=0.1)


@pytest.mark.ranks(1)
def test_a_mass_that_changes():
    """(1 + f + u) u_tt = 6 t (1 + t + t³) with data f = t: of second order to u = t³; differentiated."""
    domain = relax.meshes.interval(1, (0.0, 1.0))
    V = fem.functionspace(domain, ("DG", 0))
    u, v = fem.Function(V), ufl.TestFunction(V)
    t, f, m = (fem.Constant(domain, value) for value in (0.0, 0.0, 1.0))
    ends = []
    for steps in (10, 20, 40):
        evolution = relax.newmark_evolution(
            -6 * m * t * (1 + t + t**3) * v * ufl.dx, 1 + f + u, u, initial=0.0, dt=1 / steps, num_steps=steps,
            alpha_f=1 / 3, time=t, controls=[m], data={f: lambda s: s},
        )  # fmt: skip
        G = ReducedMap(evolution, PointValues(V, [[0.5]]))
        ends.append(G([1.0])[0] - 1.0)
    assert np.log2(ends[0] / ends[1]) == pytest.approx(2.0, abs=0.1)
    assert np.log2(ends[1] / ends[2]) == pytest.approx(2.0, abs=0.05)
    assert relax.check_map(G).adjoint_gap < 1e-12


@pytest.mark.ranks(1)
def test_is_the_recursion_of_displacements():
    """With matrices by NumPy: the trapezoidal rule as Newmark wrote it, damping and an initial velocity."""
    evolution = string(3, damping=0.3, initial_velocity=lambda x: np.sin(2 * x[0]))
    V = evolution.state.function_space
    a, b = ufl.TrialFunction(V), ufl.TestFunction(V)
    bc = [relax.clamp_boundary(V)]
    M, K = (
        fem.assemble_matrix(fem.form(f), bc, d).to_dense()
        for f, d in ((a * b * ufl.dx, 1.0), (a.dx(0) * b.dx(0) * ufl.dx, 0.0))
    )
    k, C = 1.0 / 3, 0.3 * M
    free = np.setdiff1d(np.arange(len(M)), bc[0].dof_indices()[0])
    u, w = np.zeros(len(M)), np.zeros(len(M))
    for values, f in ((u, np.sin), (w, lambda x: np.sin(2 * x))):
        interpolated = fem.Function(V)
        interpolated.interpolate(lambda x, f=f: f(x[0]))
        values[:] = interpolated.x.array
    acc = np.zeros(len(M))
    acc[free] = np.linalg.solve(M[np.ix_(free, free)], -(K @ u + C @ w)[free])
    for _ in range(3):
        early_u, early_w = u + k * w + k**2 / 4 * acc, w + k / 2 * acc
        S = M + k / 2 * C + k**2 / 4 * K
        acc = np.zeros(len(M))
        acc[free] = np.linalg.solve(S[np.ix_(free, free)], -(K @ early_u + C @ early_w)[free])
        u, w = early_u + k**2 / 4 * acc, early_w + k / 2 * acc
    u[bc[0].dof_indices()[0]] = 0.0
    expected = fem.Function(V)
    expected.x.array[:] = u
    G = ReducedMap(evolution, FieldValues(V))
    close(G(G.present_control()), FieldValues(V).value(expected), 1e-12)


def test_keeps_the_energy_and_takes_it():
    """½ |u_t|² + ½ |u_x|² stays with the trapezoidal rule, and falls with damping; the velocity is seen by its name."""
    for damping in (0.0, 0.5):
        evolution = string(40, damping=damping, time=7.0)
        u, _, w = evolution.states
        energy = Functional(0.5 * (w**2 + u.dx(0) ** 2) * ufl.dx)
        G = ReducedMap(evolution, AtSteps(energy, range(41)))
        values = G(G.present_control())
        if damping == 0.0:
            close(values, np.full(41, values[0]), 1e-12)
        else:
            assert np.all(np.diff(values) < 0.0)
            assert values[-1] < 0.1 * values[0]


@pytest.mark.parametrize("layout", ["replicated", "owned"])
def test_derivatives(layout):
    """In the speed, both initial states and moving boundary values: through the acceleration at the start, too."""
    steps = 3
    evolution = string(steps, damping=0.2, cubic=1.0, alpha_m=0.2, alpha_f=0.4, mass=2.0)
    u, _, w = evolution.states
    seen = Stack([AtSteps(Functional((u**2 + w * u) * ufl.dx), [1, steps]), PointValues(u.function_space, [[1.0]])])
    G = ReducedMap(evolution, seen, layout=layout)
    m = G.present_control()
    assert len(evolution.controls) == 3
    assert relax.check_map(G, m + 0.1).adjoint_gap < 1e-12


@pytest.mark.ranks(1, 2)
def test_boundary_values_that_move_and_steps_of_any_lengths():
    """A wave that is sent in from the left, u(0, t) = t³, in steps that grow: against ten times as many, and itself."""
    ends = []
    for steps in (20, 200):
        times = np.linspace(0.0, 1.0, steps + 1) ** 1.2
        domain = relax.meshes.interval(20, (0.0, 2.0))
        V = fem.functionspace(domain, ("Lagrange", 1))
        u, v, g = fem.Function(V), ufl.TestFunction(V), fem.Function(V)
        R = u.dx(0) * v.dx(0) * ufl.dx
        bcs = [relax.clamp(V, lambda x: np.isclose(x[0], 0.0), g)]
        evolution = relax.newmark_evolution(
            R, ufl.TrialFunction(V) * v * ufl.dx, u, initial=0.0, times=times, bcs=bcs, data={g: lambda t: t**3}
        )
        ends.append(ReducedMap(evolution, FieldValues(V))([]))
    close(ends[0], ends[1], 0.02)
    # What was sent at the left has come as far as it is old.
    np.testing.assert_allclose(ends[1][:11], (1 - np.linspace(0, 1.0, 11)) ** 3, atol=0.02)


@pytest.mark.ranks(1, 2)
def test_a_body_with_a_clamped_side():
    """A vector state: the acceleration at the start is zero at the wall, for all components or one."""
    domain = relax.meshes.unit_square(2)
    V = fem.functionspace(domain, ("Lagrange", 1, (2,)))
    u, v = fem.Function(V), ufl.TestFunction(V)
    wall = lambda x: np.isclose(x[0], 0.0)  # noqa: E731
    R = (ufl.inner(ufl.sym(ufl.grad(u)), ufl.sym(ufl.grad(v))) - v[1]) * ufl.dx
    found = []
    for bcs in ([relax.clamp(V, wall)], [relax.clamp(V.sub(0), wall), relax.clamp(V.sub(1), wall)]):
        evolution = relax.newmark_evolution(R, 1.0, u, initial=0.0, dt=0.1, num_steps=1, bcs=bcs)
        a = evolution.states[1]
        found.append(ReducedMap(evolution, AtSteps(Functional(a[1] * ufl.dx), [0, 1]))([]))
    # Nothing is strained at the start: there (a, v) is the load, where a is free.
    at_rest = relax.Problem(residual=(ufl.inner(a, v) - v[1]) * ufl.dx, state=a, bcs=[relax.clamp(V, wall)])
    close(found[0][:1], ReducedMap(at_rest, Functional(a[1] * ufl.dx))([]), 1e-13)
    close(found[1], found[0], 1e-13)


@pytest.mark.ranks(1)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mass": -1.0}, "a density"),
        ({"mass": "1"}, "a density"),
        ({"alpha_f": 1.0}, "numbers below 1"),
        ({"beta": 0.0}, "beta, gamma"),
        ({"dt": 0.0}, "a finite length above 0"),
        ({"times": [0.0, 1.0], "num_steps": 0}, "nothing beside times"),
    ],
)
def test_doubtful_input(options, words):
    with pytest.raises((BadInput, BadProblem), match=words):
        string(2, **options)


@pytest.mark.ranks(1)
def test_a_length_that_is_a_control_is_refused():
    V = fem.functionspace(relax.meshes.interval(2, (0.0, 1.0)), ("Lagrange", 1))
    u, v, k = fem.Function(V), ufl.TestFunction(V), fem.Constant(V.mesh, 0.1)
    with pytest.raises(BadProblem, match="length of a step is the control"):
        relax.newmark_evolution(u * v * ufl.dx, 1.0, u, initial=1.0, dt=k, num_steps=2, controls=[k])


@pytest.mark.ranks(1)
def test_a_late_start_does_not_round_lengths():
    """Differences of times of the size of seconds since 1970 have four digits of a millisecond."""
    seen = []
    for start in (0.0, 1.7e9):
        V = fem.functionspace(relax.meshes.interval(4, (0.0, 1.0)), ("Lagrange", 1))
        u, v = fem.Function(V), ufl.TestFunction(V)
        evolution = relax.newmark_evolution(
            u.dx(0) * v.dx(0) * ufl.dx, 1.0, u, initial=lambda x: x[0], dt=1e-3, num_steps=5, start=start
        )
        seen.append(ReducedMap(evolution, FieldValues(V))([]))
    np.testing.assert_array_equal(seen[0], seen[1])
