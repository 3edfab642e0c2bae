"""Several experiments as one map: the numbers of the maps, one factor for those with one operator, mistakes."""

from __future__ import annotations

import basix.ufl
import numpy as np
import pytest
import ufl
from contract import COMM, close, everyone_has, raised_everywhere
from dolfinx import fem, mesh
from mpi4py import MPI
from petsc4py import PETSc
from ufl import dx, exp, grad, inner

import relax
from relax import (
    Experiments,
    FieldValues,
    Functional,
    PointValues,
    Problem,
    ReducedMap,
    check_map,
    control_values,
    meshes,
)
from relax.base.la.linear import LinearSolver
from relax.errors import BadInput, SolveFailed

pytestmark = pytest.mark.ranks(1, 2, 3)

AROUND = [(0.0, 0.2), (0.3, 0.0), (1.0, 0.6), (0.4, 1.0)]


class Body:
    """-div(c exp(m) ∇u_k) = 0 in the unit square, currents through its boundary: u_0 and u_1 are one Function."""

    def __init__(self, comm=COMM, layout="replicated"):
        self.layout = layout
        self.domain = meshes.unit_square(5, comm=comm)
        self.V = fem.functionspace(self.domain, ("Lagrange", 1))
        self.m, self.c, self.v = fem.Function(self.V), fem.Constant(self.domain, 1.5), ufl.TestFunction(self.V)
        self.x = ufl.SpatialCoordinate(self.domain)
        u = fem.Function(self.V)
        self.maps = [self.experiment(k, state) for k, state in enumerate((u, u, fem.Function(self.V)))]

    def operator(self, u):
        return self.c * exp(self.m) * inner(grad(u), grad(self.v)) * dx

    def current(self, k):
        return ufl.cos((k + 1) * np.pi * self.x[0]) * ufl.cos(np.pi * self.x[1])

    def experiment(self, k, u, nullspace="constants", **options):
        F = self.operator(u) - (1.0 if k else self.c) * self.current(k) * self.v * ufl.ds(degree=6)
        problem = Problem(residual=F, state=u, controls=[self.m, self.c], nullspace=nullspace, name=f"current_{k}")
        # What the second one sees is not linear, and holds a control.
        seen = Functional(exp(self.m) * u**2 * dx) if k == 1 else PointValues(self.V, AROUND)
        return ReducedMap(problem, seen, layout=self.layout, **options)

    def reaction(self, **options):
        u = fem.Function(self.V)
        F = self.operator(u) + (u + u**3 - self.current(0)) * self.v * dx
        problem = Problem(residual=F, state=u, controls=[self.m, self.c], name="reaction")
        return ReducedMap(problem, FieldValues(self.V), layout=self.layout, **options)

    def point(self, G):
        return control_values(G, lambda x: np.sin(2.0 * x[0]) + x[1], 0.7)


def products(lin, seeds, directions):
    """Everything that a point gives."""
    return [lin.value, lin.jvp(directions), lin.vjp(seeds), lin.hvp(seeds, directions[0]), lin.matrix()]


def by_each(maps, places, m, seeds, directions):
    """The same by the maps themselves."""
    points = [G.linearize(m) for G in maps]
    pairs = list(zip(points, places, strict=True))
    return [
        np.concatenate([lin.value for lin in points]),
        np.concatenate([lin.jvp(directions) for lin in points], axis=1),
        sum(lin.vjp(seeds[:, place]) for lin, place in pairs),
        sum(lin.hvp(seeds[:, place], directions[0]) for lin, place in pairs),
        np.concatenate([lin.matrix() for lin in points]),
    ]


def drawn(G, seed=1):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((2, G.size_out)), rng.standard_normal((3, G.size_in))


@pytest.fixture
def solves(monkeypatch):
    """How often operators are factored, and how many right-hand sides go through each solve."""
    seen = {"factors": 0, "blocks": []}
    factor, rows = LinearSolver.factor, LinearSolver._solve_rows

    def counted_factor(self, *args):
        seen["factors"] += 1
        return factor(self, *args)

    def counted_rows(self, rhs, **direction):
        seen["blocks"].append(len(rhs))
        return rows(self, rhs, **direction)

    monkeypatch.setattr(LinearSolver, "factor", counted_factor)
    monkeypatch.setattr(LinearSolver, "_solve_rows", counted_rows)
    return seen


@pytest.mark.parametrize("layout", ["replicated", "owned"])
def test_as_the_maps(layout, solves):
    body = Body(layout=layout)
    with Experiments([*body.maps, body.reaction()]) as G:
        assert G.num_operators == 2
        assert G.size_out == 4 + 1 + 4 + 36 and G.places[1] == slice(4, 5)
        seeds, directions = drawn(G)
        for m in (body.point(G), 0.5 * body.point(G) + 0.3):
            found = products(G.linearize(m), seeds, directions)
            for mine, theirs in zip(found, by_each(G.maps, G.places, m, seeds, directions), strict=True):
                close(mine, theirs, 1e-12)
            close(G(m), found[0], 1e-12)
        close(G(np.stack([m, 0.5 * m]))[0], found[0], 1e-12)
        everyone_has(found[0])
        close(G.present_control(), G.maps[0].present_control(), 1e-15)
        check_map(G)
        assert Experiments([G, body.reaction()]).num_operators == 3
    raised_everywhere(BadInput, lambda: body.maps[2](m))


def test_a_point_stays_itself():
    body = Body()
    G = Experiments(body.maps)
    m, (seeds, directions) = body.point(G), drawn(G)
    lin = G.linearize(m)
    before = products(lin, seeds, directions)
    G.linearize(m + 0.5)
    body.maps[1](0.1 * m)
    for a, b in zip(before, products(lin, seeds, directions), strict=True):
        close(a, b, 1e-13)
    np.testing.assert_array_equal(body.c.value, m[-1])


def test_one_of_them_is_closed():
    """Not the one that has the factors: what it would go on with has been freed."""
    body = Body()
    G = Experiments(body.maps)
    lin = G.linearize(m := body.point(G))
    body.maps[1].close()
    seeds, directions = drawn(G)
    for call in (lambda: G(m), lambda: lin.jvp(directions), lambda: lin.vjp(seeds), lambda: lin.hvp(seeds, m)):
        assert "has been closed" in str(raised_everywhere(BadInput, call))


def test_on_any_number_of_ranks():
    """The vectors of a mesh on one rank."""
    found = []
    for comm in (COMM, MPI.COMM_SELF):
        G = Experiments(Body(comm).maps)
        found.append(products(G.linearize(0.3 + np.linspace(0.0, 1.0, G.size_in)), *drawn(G)))
    for mine, alone in zip(*found, strict=True):
        close(mine, alone, 1e-10)


def test_one_factor_and_one_block(solves):
    body = Body()
    G = Experiments(body.maps)
    assert G.num_operators == 1
    m, (seeds, directions) = body.point(G), drawn(G)
    lin = G.linearize(m)
    lin.vjp(seeds[0])
    lin.hvp(seeds[0], directions[0])  # its adjoints are those of the gradient
    assert solves == {"factors": 1, "blocks": [3, 3, 3, 3]}
    assert G.counts == {"forward": 3, "tangent": 3, "adjoint": 6}
    # The first and the third are seen at the same points: 4 adjoints serve 8 rows, and one the second.
    lin.matrix()
    assert solves["factors"] == 1 and solves["blocks"][4:] == [5]
    assert G.counts["adjoint"] == 11
    # What is not asked for is not solved for.
    lin.vjp(np.eye(G.size_out)[4])
    assert G.counts["adjoint"] == 12
    before = dict(G.counts)
    check_map(G)
    assert G.counts == before


def test_a_point_keeps_the_parameters_of_each():
    """A load that stands in the second one alone, changed by the user afterwards."""
    body = Body()
    load, u = fem.Constant(body.domain, 2.0), fem.Function(body.V)
    F = body.operator(u) - load * body.c * body.current(1) * body.v * ufl.ds(degree=6)
    problem = Problem(residual=F, state=u, controls=[body.m, body.c], nullspace="constants", name="current_1")
    G = Experiments([body.maps[0], ReducedMap(problem, Functional(exp(body.m) * u**2 * dx))])
    assert G.num_operators == 1
    m, (seeds, directions) = body.point(G), drawn(G)
    before = products(lin := G.linearize(m), seeds, directions)
    load.value = 5.0
    G(m)
    for a, b in zip(before, products(lin, seeds, directions), strict=True):
        close(a, b, 1e-13)
    assert load.value == 5.0


def test_of_many_controls_one_factor(solves):
    """Values alone hold no point, and so no factor; each map counts its own solves."""
    body = Body()
    G = Experiments([body.maps[1], body.maps[0], body.maps[2]])
    m = body.point(G)
    G(m + 0.1 * np.arange(4.0)[:, None])
    assert solves["factors"] == 4 and len(G.maps[0].solution.operators.factors._factors) == 1
    seeds = np.eye(G.size_out)[1:]
    G.linearize(m).vjp(seeds)
    assert [one.counts["adjoint"] for one in G.maps] == [0, 4, 0]


def test_equal_on_one_rank_is_not_equal():
    """Loads that differ on one part of the mesh alone."""
    body = Body()
    G = Experiments([body.experiment(k, fem.Function(body.V)) for k in (0, 2)])
    with G.linearize(body.point(G)) as lin:
        close(lin.matrix(), np.concatenate([one.linearize(body.point(G)).matrix() for one in G.maps]), 1e-12)


def test_an_operator_without_controls_is_kept(solves):
    """Sources through one operator, whose parameter the user changes: a factor each time it does."""
    domain = meshes.unit_square(5)
    V = fem.functionspace(domain, ("Lagrange", 1))
    f, kappa, v = fem.Function(V), fem.Constant(domain, 2.0), ufl.TestFunction(V)
    maps = []
    for weight in (1.0, 3.0):
        u = fem.Function(V)
        F = (kappa * inner(grad(u), grad(v)) - weight * f * v) * dx
        clamped = [relax.clamp_boundary(V)]
        maps.append(ReducedMap(Problem(residual=F, state=u, controls=[f], bcs=clamped), FieldValues(V)))
    G = Experiments(maps)
    rows = np.random.default_rng(3).standard_normal((2, G.size_in))
    values = G(rows)
    assert solves == {"factors": 1, "blocks": [2, 2]} and G.num_operators == 1
    assert G.linearize(rows[0]).is_everywhere_the_same
    kappa.value = 4.0
    close(G(rows), 0.5 * values)
    assert solves["factors"] == 2
    close(values[:, 36:], 3.0 * values[:, :36])
    close(values[:, :36], np.concatenate([2.0 * maps[0](rows)]))


def test_what_share_nothing():
    body = Body()
    k, u = fem.Constant(body.domain, 1.5), fem.Function(body.V)
    one = fem.Function(body.V)
    one.x.array[:] = 1.0
    others = [
        ("options", body.experiment(0, u, options="direct")),
        ("null space", body.experiment(0, u, nullspace=[one])),
        ("nonlinear", body.reaction()),
    ]
    for what, other in others:
        assert Experiments([body.maps[0], other]).num_operators == 2, what
    # Options of a command line that only one of two names has.
    database = PETSc.Options()
    database.setValue("relax_current_2_ksp_type", "cg")
    try:
        assert Experiments([body.maps[0], body.experiment(2, u)]).num_operators == 2
    finally:
        database.delValue("relax_current_2_ksp_type")
    # One ∂F/∂u of two equations that are not linear is another one at each state.
    cubes = [body.operator(u) + (u + u**3 - f * body.x[0]) * body.v * dx for f in (1.0, 30.0)]
    pair = [
        ReducedMap(Problem(residual=F, state=u, controls=[body.m, body.c]), PointValues(body.V, AROUND)) for F in cubes
    ]
    assert Experiments(pair).num_operators == 2
    # The same code with another coefficient, and clamped elsewhere.
    F = k * exp(body.m) * inner(grad(u), grad(body.v)) * dx - body.c * body.v * dx
    maps = [
        ReducedMap(Problem(residual=F, state=u, controls=[body.m, body.c], bcs=[bc]), PointValues(body.V, AROUND))
        for bc in (
            relax.clamp(body.V, "left", 0.0),
            relax.clamp(body.V, "right", 0.0),
            relax.clamp(body.V, "left", 1.0),
        )
    ]
    assert Experiments(maps).num_operators == 2
    F = ufl.replace(F, {k: fem.Constant(body.domain, 1.5)})
    problem = Problem(residual=F, state=u, controls=[body.m, body.c], bcs=[relax.clamp(body.V, "left", 0.0)])
    assert Experiments([maps[0], ReducedMap(problem, PointValues(body.V, AROUND))]).num_operators == 2


def test_a_current_that_does_not_balance():
    body = Body()
    u = fem.Function(body.V)
    F = body.operator(u) - body.v * ufl.ds
    problem = Problem(residual=F, state=u, controls=[body.m, body.c], nullspace="constants", name="one_way")
    G = Experiments([body.maps[0], ReducedMap(problem, PointValues(body.V, AROUND))])
    m = body.point(G)
    assert "maps[1]: relax_one_way_" in str(raised_everywhere(SolveFailed, lambda: G(m)))
    close(G.maps[0](m), body.maps[0](m), 1e-12)


def test_mistakes():
    body, other = Body(), Body(layout="owned")
    own = body.experiment(0, fem.Function(body.V))
    swapped = Problem(residual=own.problem.residual, state=own.problem.state, controls=[body.c, body.m])
    for maps, words in [
        ([], "at least one map"),
        (own, "in brackets|into brackets"),
        ([own, "G"], r"maps\[1\]: expected a map"),
        ([own, own], r"maps\[1\] is an earlier one"),
        ([own, other.maps[0]], "one layout"),
        ([own, Body().maps[0]], "the controls of maps"),
        ([own, ReducedMap(swapped, PointValues(body.V, AROUND))], "the same order"),
    ]:
        with pytest.raises(BadInput, match=words):
            Experiments(maps)
    # The state of one is no parameter of another: no derivative would follow it.
    u, w = own.problem.state, fem.Function(body.V)
    F = body.operator(w) + (w - body.current(0)) * body.v * dx
    for more, seen in ((-u * body.v * dx, PointValues(body.V, AROUND)), (0, Functional((w - u) ** 2 * dx))):
        looking = ReducedMap(Problem(residual=F + more, state=w, controls=[body.m, body.c]), seen)
        for maps in ([own, looking], [looking, Experiments([own])]):
            with pytest.raises(BadInput, match=r"maps\[\d\] looks at the state of maps\[\d\]"):
                Experiments(maps)
    if COMM.size > 1:
        with pytest.raises(BadInput, match="the same ranks"):
            Experiments([own, Body(MPI.COMM_SELF).maps[0]])


def test_layer():
    torch = pytest.importorskip("torch")
    body = Body()
    G = Experiments(body.maps)
    m = torch.tensor(body.point(G), requires_grad=True)
    layer = relax.SolutionLayer(G)
    layer(m).sum().backward()
    close(m.grad.numpy(), G.linearize(m.detach().numpy()).vjp(np.ones(G.size_out)), 1e-12)
    with pytest.raises(BadInput, match="expected a ReducedMap"):
        relax.SolutionLayer(G, dense=True)


# -- impedance tomography ----------------------------------------------------------------------------------------------

RADII, INSIDE = (0.4, 0.7), (1.0, 5.0, 0.5)


def disk(rings):
    """The unit disk in rings of equal width, two of their edges at the radii; 6 cells around for each ring."""
    around = 6 * rings
    radius, angle = np.arange(1, rings + 1) / rings, 2.0 * np.pi * np.arange(around) / around
    points = np.array([(0.0, 0.0), *((r * np.cos(a), r * np.sin(a)) for r in radius for a in angle)])
    cells = []
    for i in range(around):
        j = (i + 1) % around
        cells.append((0, 1 + i, 1 + j))
        for below in range(1, 1 + (rings - 1) * around, around):
            above = below + around
            cells += [(below + i, above + i, above + j), (below + i, above + j, below + j)]
    mine, element = COMM.rank == 0, basix.ufl.element("Lagrange", "triangle", 1, shape=(2,))
    return mesh.create_mesh(
        COMM,
        cells=np.array(cells if mine else np.empty((0, 3)), dtype=np.int64),
        x=points if mine else points[:0],
        e=ufl.Mesh(element),
    )


def log_sigma(x):
    """The logarithm of the conductivity of a disk with a ring in it, constant in each cell."""
    radius = np.hypot(x[0], x[1])
    return np.log(np.select([radius < r for r in RADII], INSIDE[:2], INSIDE[2]))


def exact(n):
    """The voltage at r = 1 under the current cos(nθ): of A r^n, then B r^n + C r^-n, then D r^n + E r^-n."""
    (a, b), (s0, s1, s2) = RADII, INSIDE
    p, q = a**n, b**n
    matrix = [
        [p, -p, -1 / p, 0, 0],
        [s0 * p, -s1 * p, s1 / p, 0, 0],
        [0, q, 1 / q, -q, -1 / q],
        [0, s1 * q, -s1 / q, -s2 * q, s2 / q],
        [0, 0, 0, s2 * n, -s2 * n],
    ]
    *_, D, E = np.linalg.solve(matrix, [0, 0, 0, 0, 1])
    return D + E


@pytest.mark.ranks(1, 2)
def test_ring_against_separation_of_variables(solves):
    """Eight currents, cos and sin of nθ, n = 1, ..., 4: voltages of order 2 in h, one factor."""
    seen = 2.0 * np.pi * np.arange(12) / 12  # at nodes of the polygon
    expected = np.concatenate([exact(n) * f(n * seen) for n in range(1, 5) for f in (np.cos, np.sin)])
    errors = []
    for rings in (20, 40):
        domain = disk(rings)
        V, M = fem.functionspace(domain, ("Lagrange", 1)), fem.functionspace(domain, ("DG", 0))
        m, v, x = fem.Function(M), ufl.TestFunction(V), ufl.SpatialCoordinate(domain)
        angle, maps = ufl.atan2(x[1], x[0]), []
        for n in range(1, 5):
            for f in (ufl.cos, ufl.sin):
                u = fem.Function(V)
                F = exp(m) * inner(grad(u), grad(v)) * dx - f(n * angle) * v * ufl.ds(degree=6)
                problem = Problem(residual=F, state=u, controls=[m], nullspace="constants", name="ring")
                maps.append(ReducedMap(problem, PointValues(V, np.stack([np.cos(seen), np.sin(seen)], axis=1))))
        G = Experiments(maps)
        solves.update(factors=0, blocks=[])
        voltages = G(control_values(G, log_sigma))
        assert solves == {"factors": 1, "blocks": [8]}
        errors.append(np.abs(voltages - expected).max() / np.abs(expected).max())
    assert errors[1] <= 1e-3, errors
    assert 1.8 <= np.log2(errors[0] / errors[1]) <= 2.3
