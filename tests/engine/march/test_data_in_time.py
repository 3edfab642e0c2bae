"""Data that change in time without being controls, and steps of any lengths."""

from __future__ import annotations

from dataclasses import replace

import dolfinx.fem.petsc as fem_petsc
import numpy as np
import pytest
import ufl
from contract import close, raised_everywhere, same
from dolfinx import fem, la
from mpi4py import MPI
from petsc4py import PETSc

import relax
from relax import AtSteps, BadInput, BadProblem, Evolution, FieldValues, Functional, Problem, ReducedMap, TimeIntegral
from relax.base.la.linear import LinearSolver

pytestmark = pytest.mark.ranks(1, 2, 3)

TIMES = np.array([0.0, 0.1, 0.2, 0.3, 0.35, 0.4])


def heat(n=4, **options):
    """u_t - Lap u = f(t) + m, u = g(t) on the boundary; f a Constant, g a Function."""
    V = fem.functionspace(relax.meshes.unit_square(n), ("Lagrange", 1))
    u, v, m = fem.Function(V), ufl.TestFunction(V), fem.Function(V, name="m")
    f, g = fem.Constant(V.mesh, 0.0), fem.Function(V, name="g")
    R = (ufl.inner(ufl.grad(u), ufl.grad(v)) - (f + m) * v) * ufl.dx
    bcs = [relax.clamp_boundary(V, g)]
    options = {"dt": 0.1, "num_steps": 5} | options
    data = options.pop("data", lambda f, g: {f: [1.0, 2.0, 3.0, 2.0, 1.0], g: lambda t: lambda x: t * x[0]})
    return relax.theta_evolution(R, u, initial=0.0, controls=[m], bcs=bcs, data=data(f, g), **options), f, g, m


def by_hand(V, lengths, f_of, g_of, m, theta):
    """The states at the end of each step, by a matrix and a right-hand side of DOLFINx for each."""
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    old, f, g, k = fem.Function(V), fem.Function(V), fem.Function(V), fem.Constant(V.mesh, 1.0)
    bc = fem.dirichletbc(g, fem.locate_dofs_topological(V, 1, _boundary(V)))
    a = fem.form((u * v + k * theta * ufl.inner(ufl.grad(u), ufl.grad(v))) * ufl.dx)
    L = fem.form((old * v + k * (f + m) * v - k * (1 - theta) * ufl.inner(ufl.grad(old), ufl.grad(v))) * ufl.dx)
    states = []
    for n, length in enumerate(lengths):
        k.value = length
        f.x.array[:] = f_of(n + 1)
        g.interpolate(lambda x, n=n: g_of(n + 1) * x[0])
        A = fem_petsc.assemble_matrix(a, [bc])
        A.assemble()
        b = fem.assemble_vector(L)
        fem.apply_lifting(b.array, [a], [[bc]])
        b.scatter_reverse(la.InsertMode.add)
        bc.set(b.array)
        ksp = PETSc.KSP().create(V.mesh.comm)
        ksp.setOperators(A)
        ksp.setType("preonly")
        ksp.getPC().setType("lu")
        ksp.getPC().setFactorSolverType("mumps")
        owned = V.dofmap.index_map.size_local
        ksp.solve(PETSc.Vec().createWithArray(b.array[:owned], comm=V.mesh.comm), old.x.petsc_vec)
        old.x.scatter_forward()
        states.append(relax.FieldValues(V).value(old))
        ksp.destroy()
        A.destroy()
    return np.array(states)


def _boundary(V):
    topology = V.mesh.topology
    topology.create_connectivity(1, 2)
    from dolfinx.mesh import exterior_facet_indices

    return exterior_facet_indices(topology)


def test_equals_dolfinx_and_has_derivatives():
    """Values per step and functions of the time; on unequal steps; what holds neither in m keeps a factor."""
    evolution, f, g, m = heat(dt=None, num_steps=0, times=TIMES, theta=1.0)
    V = evolution.state.function_space
    G = ReducedMap(evolution, AtSteps(FieldValues(V), range(1, 6)))
    m.interpolate(lambda x: np.sin(3 * x[0]) + x[1])
    row = G.present_control()
    expected = by_hand(V, np.diff(TIMES), [0, 1.0, 2.0, 3.0, 2.0, 1.0].__getitem__, TIMES.__getitem__, m, 1.0)
    close(G(row).reshape(5, -1), expected, 1e-12)
    assert G.size_in == V.dofmap.index_map.size_global
    report = relax.check_map(G)
    assert report.adjoint_gap < 1e-12
    assert evolution.time_at(4) == 0.35


def test_lengths_that_differ_by_rounding_are_factored_once(monkeypatch):
    done, original = [], LinearSolver.factor
    monkeypatch.setattr(LinearSolver, "factor", lambda self, matrix: (done.append(1), original(self, matrix))[1])
    evolution, *_ = heat(dt=None, num_steps=0, times=np.cumsum([0.0, 0.1, 0.1, 0.1, 0.05, 0.05]))
    with ReducedMap(evolution, FieldValues(evolution.state.function_space)) as G:
        for shift in (0.0, 1.0):
            with G.linearize(G.present_control() + shift) as lin:
                lin.vjp(np.ones(G.size_out))
    assert len(done) == 2


def test_values_at_the_start_count_in_the_theta_method():
    """A function of the time, N + 1 values and the time in the form are one and the same; N values are not."""
    seen = []
    for data in (
        lambda f, g: {f: lambda t: 1 + t**2},
        lambda f, g: {f: 1 + np.linspace(0.0, 0.5, 6) ** 2},
        lambda f, g: {f: (1 + np.linspace(0.0, 0.5, 6) ** 2)[1:]},
    ):
        evolution, *_ = heat(data=data)
        seen.append(ReducedMap(evolution, FieldValues(evolution.state.function_space))(np.zeros(25)))
    V = fem.functionspace(relax.meshes.unit_square(4), ("Lagrange", 1))
    u, v, t = fem.Function(V), ufl.TestFunction(V), fem.Constant(V.mesh, 0.0)
    R = (ufl.inner(ufl.grad(u), ufl.grad(v)) - (1 + t**2) * v) * ufl.dx
    bcs = [relax.clamp_boundary(V)]
    known = relax.theta_evolution(R, u, initial=0.0, dt=0.1, num_steps=5, time=t, bcs=bcs)
    expected = ReducedMap(known, FieldValues(V))([])
    close(seen[0], expected, 1e-13)
    close(seen[1], expected, 1e-13)
    assert np.abs(seen[2] - expected).max() > 1e-3


@pytest.mark.ranks(1)
def test_midpoint_takes_the_mean():
    evolution, *_ = heat(data=lambda f, g: {f: lambda t: 2 * t}, theta="midpoint")
    crank_nicolson, *_ = heat(data=lambda f, g: {f: lambda t: 2 * t})
    a, b = (ReducedMap(e, FieldValues(e.state.function_space))(np.zeros(25)) for e in (evolution, crank_nicolson))
    close(a, b, 1e-13)


def test_files_and_whole_fields(tmp_path):
    """A table of times between which is interpolated, and an array of degrees of freedom."""
    comm = MPI.COMM_WORLD
    folder = comm.bcast(str(tmp_path))
    fields = np.random.default_rng(3).standard_normal((5, 25))
    if comm.rank == 0:
        (tmp_path / "f.csv").write_text("t,f\n# a comment\n0.0,1.0\n0.25,2.0\n0.5,1.0\n")
        np.save(tmp_path / "g.npy", fields)
        (tmp_path / "nan.csv").write_text("nan,1.0\n0.0,1.0\n0.5,1.0\n")
    comm.Barrier()
    evolution, f, g, m = heat(data=lambda f, g: {f: f"{folder}/f.csv", g: f"{folder}/g.npy"})
    V = evolution.state.function_space
    G = ReducedMap(evolution, AtSteps(Functional(with_state(f, evolution)), range(6)))
    close(G(np.zeros(25)), np.array([1.0, 1.4, 1.8, 1.8, 1.4, 1.0]), 1e-14)
    states = ReducedMap(evolution, AtSteps(FieldValues(V), range(1, 6)))(np.zeros(25)).reshape(5, 25)
    on_boundary = np.ones(25, dtype=bool)
    x = FieldValues(V).value(_x(V, 0)), FieldValues(V).value(_x(V, 1))
    for axis in x:
        on_boundary &= (axis > 1e-9) & (axis < 1 - 1e-9)
    close(states[:, ~on_boundary], fields[:, ~on_boundary], 1e-13)
    with pytest.raises(BadInput, match="rows of finite numbers"):
        heat(data=lambda f, g: {f: f"{folder}/nan.csv"})


def with_state(f, evolution):
    """The integral of f as a form in which the state stands."""
    return (f + fem.Constant(evolution.mesh, 0.0) * evolution.state) * ufl.dx


def _x(V, axis):
    x = fem.Function(V)
    x.interpolate(lambda x: x[axis])
    return x


def test_integrals_over_time_follow_the_steps(caplog):
    """The trapezoidal rule of unequal steps; the evolution's own dt where all are equal."""
    evolution, f, g, m = heat(dt=None, num_steps=0, times=TIMES, data=lambda f, g: {f: lambda t: t**2})
    J = Functional(with_state(f, evolution))
    expected = np.trapezoid(TIMES**2, TIMES)
    assert ReducedMap(evolution, TimeIntegral(J))(np.zeros(25))[0] == pytest.approx(expected, rel=1e-13)
    with pytest.raises(BadProblem, match="times of the evolution"):
        ReducedMap(evolution, TimeIntegral(J, 0.1))
    equal, f, *_ = heat(data=lambda f, g: {f: lambda t: t**2})
    J = Functional((f + equal.state**2) * ufl.dx)
    pair = [ReducedMap(equal, TimeIntegral(J, *dt)) for dt in ([], [0.1])]
    m = np.linspace(0, 1, 25)
    same(pair[0](m), pair[1](m))
    same(pair[0].linearize(m).vjp(np.ones(1)), pair[1].linearize(m).vjp(np.ones(1)))
    assert "steps have the length" not in caplog.text
    ReducedMap(equal, TimeIntegral(J, 0.2))
    assert caplog.text.count("dt = 0.2, and the steps have the length 0.1") == 1


@pytest.mark.ranks(1)
def test_mixed_states_start_from_their_parts():
    import basix.ufl

    domain = relax.meshes.unit_square(3)
    P = basix.ufl.element("Lagrange", "triangle", 1)
    W = fem.functionspace(domain, basix.ufl.mixed_element([P, P]))
    w, old = fem.Function(W), fem.Function(W)
    v, q = ufl.TestFunctions(W)
    (a, b), (a0, b0) = ufl.split(w), ufl.split(old)
    step = Problem(residual=((a - a0) * v + (b - b0 - a) * q) * ufl.dx, state=w)
    evolution = Evolution(step=step, previous=old, initial=[lambda x: x[0], 2.0], num_steps=1)
    J = AtSteps(Functional(a * ufl.dx), [0, 1]), AtSteps(Functional(b * ufl.dx), [0, 1])
    close(ReducedMap(evolution, relax.Stack(J))([]), [0.5, 0.5, 2.0, 2.5], 1e-13)
    with pytest.raises(BadInput, match="a list of 2 values"):
        Evolution(step=step, previous=old, initial=[1.0, 2.0, 3.0], num_steps=1)


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"data": lambda f, g: {f: 1.0}}, "one value for each step"),
        ({"data": lambda f, g: {f: [1.0, 2.0]}}, "got 2 values for 5 steps"),
        ({"data": lambda f, g: {f: [1.0, 2.0, np.nan, 1.0, 1.0]}}, "step 3: .*expected finite"),
        ({"data": lambda f, g: {g: lambda x: x[0]}}, "function of the time t"),
        ({"data": lambda f, g: {f: dict.fromkeys(range(5), 1.0)}}, "one value for each step"),
        ({"data": lambda f, g: {f: {1.0, 2.0, 3.0, 4.0, 5.0}}}, "one value for each step"),
        ({"data": lambda f, g: {f: np.full(5, 1j)}}, "step 1: expected real numbers"),
        ({"data": lambda f, g: {g: np.full(5, 1j)}}, "expected real numbers"),
        ({"data": lambda f, g: {f: "missing.csv"}}, "missing.csv cannot be read"),
        ({"data": lambda f, g: {f: "table.txt"}}, ".npy or .csv"),
        ({"data": lambda f, g: {"f": [1.0] * 5}}, "as keys"),
        ({"times": [0.0, 1.0, 0.5], "dt": None, "num_steps": 0}, "each later than the one before"),
        ({"times": TIMES, "dt": 0.1, "num_steps": 0}, "nothing beside times"),
        ({"times": TIMES, "dt": None}, None),
        ({"times": TIMES, "dt": None, "num_steps": 4}, "one fewer than times"),
        ({"times": TIMES, "dt": None, "start": 1.0}, "start"),
    ],
)
def test_doubtful_data(options, words):
    """A word on what was expected, on every rank; five steps beside six times are right."""
    if words is None:
        assert heat(**options)[0].num_steps == 5
        return
    with pytest.raises((BadInput, BadProblem), match=words):
        evolution, *_ = heat(**options)
        ReducedMap(evolution, FieldValues(evolution.state.function_space))(np.zeros(25))


@pytest.mark.ranks(1)
def test_data_that_stand_nowhere(caplog):
    """A word of it: the Function that was meant is another one. What is seen counts."""
    evolution, f, *_ = heat(data=lambda f, g: {fem.Constant(f.ufl_domain(), 0.0): [1.0] * 5, f: [1.0] * 5})
    ReducedMap(evolution, Functional(evolution.state * ufl.dx))
    assert caplog.text.count("stands neither in the steps") == 1 and f"data[{f}]" not in caplog.text
    caplog.clear()
    weight = fem.Constant(evolution.mesh, 0.0)
    evolution = replace(evolution, data={weight: [1.0] * 5})
    ReducedMap(evolution, TimeIntegral(Functional(weight * evolution.state * ufl.dx)))
    assert not caplog.text


@pytest.mark.ranks(2)
def test_data_that_are_others_on_one_rank():
    """Numbers drawn on each rank, and what a function gives on one of them alone: an error on both, and no hang."""
    second = MPI.COMM_WORLD.rank == 1
    for data, words in (
        (lambda f, g: {f: [1.0, 2.0, 3.0, 4.0, 6.0 if second else 5.0]}, "step 5: expected the same values"),
        (lambda f, g: {f: np.ones(6 if second else 5)}, "expected the same on each"),
        (lambda f, g: {f: (lambda t: t) if second else np.ones(5)}, "expected the same on each"),
        (lambda f, g: {f: 1.0 if second else np.ones(5)}, "one value for each step"),
        (lambda f, g: {f: lambda t: "t" if second else t}, "expected real numbers"),
        (lambda f, g: {f: lambda t: t + second}, "expected the same values"),
        (lambda f, g: {g: lambda t: np.full(25, t) if second else t}, "expected the same on each"),
        (lambda f, g: {g: lambda t: t if second else lambda x: x[0]}, "expected the same on each"),
    ):

        def solve(data=data):
            evolution, *_ = heat(data=data)
            return ReducedMap(evolution, FieldValues(evolution.state.function_space))(np.zeros(25))

        assert words in str(raised_everywhere(BadInput, solve))


@pytest.mark.ranks(1)
def test_data_and_controls_are_different_things():
    V = fem.functionspace(relax.meshes.unit_square(2), ("Lagrange", 1))
    u, old, v, m = fem.Function(V), fem.Function(V), ufl.TestFunction(V), fem.Function(V)
    step = Problem(residual=(u - old - m) * v * ufl.dx, state=u, controls=[m])
    for f, words in ((m, "a control"), (u, "a state"), (old, "previous")):
        with pytest.raises(BadProblem, match=words):
            Evolution(step=step, previous=old, initial=0.0, num_steps=1, data={f: [1.0]})
    free = Problem(residual=(u - old - m) * v * ufl.dx, state=u)
    with pytest.raises(BadProblem, match="pass dt="):
        Evolution(step=free, previous=old, initial=0.0, num_steps=1, data={m: lambda t: t})


@pytest.mark.ranks(1)
def test_a_length_that_is_a_control_beside_the_time():
    """The time would follow from it: refused, but for a time that the form makes of it."""
    V = fem.functionspace(relax.meshes.unit_square(2), ("Lagrange", 1))
    u, v, f = fem.Function(V), ufl.TestFunction(V), fem.Constant(V.mesh, 0.0)
    k, t, n = (fem.Constant(V.mesh, value) for value in (0.1, 0.0, 1.0))

    def steps(of_time, **options):
        R = (u - f - of_time**2) * v * ufl.dx
        return relax.theta_evolution(R, u, initial=0.0, dt=k, num_steps=3, theta=1, controls=[k], **options)

    for options in ({"time": t}, {"data": {f: lambda s: s}}):
        with pytest.raises(BadProblem, match="length of a step is the control"):
            steps(t, **options)
    G = ReducedMap(steps(k * n, data={n: [1.0, 2.0, 3.0]}), FieldValues(V))
    assert relax.check_map(G, [0.2]).adjoint_gap < 1e-12
