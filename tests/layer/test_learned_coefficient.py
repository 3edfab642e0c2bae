"""A network in a form, against the same formula written in UFL, whose derivatives are UFL's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import ufl
from contract import COMM, LAYOUTS, close, everyone_has, raised_everywhere
from dolfinx import fem
from ufl import dS, ds, dx, grad, inner

import relax
from relax import (
    BadInput,
    BadProblem,
    ExpressionValues,
    FieldValues,
    Functional,
    LearnedCoefficient,
    Problem,
    ReducedMap,
    SolutionLayer,
    SolveFailed,
    check_map,
    clamp_boundary,
    meshes,
    theta_evolution,
)
from relax.discovery.library import Library
from relax.train.aeqprop import Energy

# Sums of few terms in another order; a Newton method in front of them.
SAME = 1e-11
# The twin's points, so that both sum the same numbers.
POINTS = {"quadrature_degree": 3}


def network(inputs, outputs=1, seed=1):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(inputs, 2), torch.nn.Tanh(), torch.nn.Linear(2, outputs), torch.nn.Softplus()
    ).double()


def in_ufl(theta, z):
    """The same network as an expression of its weights, a Constant, in the order of ``parameters_to_vector``."""
    d = len(z)
    hidden = [ufl.tanh(sum(theta[i * d + j] * z[j] for j in range(d)) + theta[2 * d + i]) for i in range(2)]
    return ufl.ln(1 + ufl.exp(theta[2 * d + 2] * hidden[0] + theta[2 * d + 3] * hidden[1] + theta[2 * d + 4]))


def twins(domain, make):
    """A problem with a network, and one with the formula: ``make(k_of, u, v, f, c)`` to residual and controls but θ."""
    problems = []
    for formula in (False, True):
        V = fem.functionspace(domain, ("Lagrange", 1))
        u, v, f, c = fem.Function(V), ufl.TestFunction(V), fem.Function(V), fem.Constant(domain, 1.5)
        f.interpolate(lambda x: 3.0 + x[0])
        theta = []

        def k_of(*inputs, theta=theta, formula=formula):
            flat = [z[j] if z.ufl_shape else z for z in inputs for j in range(int(np.prod(z.ufl_shape)))]
            learned = LearnedCoefficient(network(len(flat)), inputs)
            if formula:
                theta.append(fem.Constant(domain, learned.value))
                return in_ufl(theta[0], flat)
            theta.append(learned)
            return learned

        problems.append(make(k_of, theta, V, u, v, f, c))
    return problems


def diffusion(k_of, theta, V, u, v, f, c):
    k = k_of(u, c * grad(u), f)
    F = ((0.5 + k) * inner(grad(u), grad(v)) - (f + k) * v + c * u**3 * v) * dx(metadata=POINTS)
    return Problem(residual=F, state=u, controls=[theta[0], f, c], bcs=[clamp_boundary(V)])


def compare(maps, tolerance=SAME):
    """Value, tangents, adjoint and Hessian actions along two directions, of two maps at one control."""
    rng = np.random.default_rng(5)
    m = maps[0].present_control()
    close(m, maps[1].present_control(), 0.0)
    dm = rng.normal(size=(COMM.size, 2, 1000))[0 if maps[0].layout.kind == "replicated" else COMM.rank, :, : m.size]
    dy = rng.normal(size=maps[0].size_out)
    results = []
    for G in maps:
        with G.linearize(m) as lin:
            results.append((lin.value, lin.jvp(dm), lin.vjp(dy), lin.hvp(dy, dm)))
        G.close()
    for mine, theirs in zip(*results, strict=True):
        close(mine, theirs, tolerance)
    return results[0]


@pytest.mark.ranks(1, 2, 3)
class TestAgainstTheFormula:
    """k(u, c grad u, f), with its θ, f and c as controls."""

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_every_derivative_is_ufls(self, layout):
        problems = twins(meshes.unit_square(3), diffusion)
        maps = [ReducedMap(p, FieldValues(p.state.function_space), layout=layout) for p in problems]
        values = compare(maps)
        everyone_has(values[0])
        if layout == "replicated":
            everyone_has(values[3])

    def test_a_rank_without_cells(self):
        """Two cells, on up to three ranks; and the orders and gaps of its Taylor series."""
        problems = twins(meshes.interval(2, (0.0, 1.0)), diffusion)
        maps = [ReducedMap(p, FieldValues(p.state.function_space)) for p in problems]
        report = check_map(maps[0])
        assert report.adjoint_gap < 1e-12
        compare(maps)


def test_a_residual_loss_sees_the_weights():
    sizes = []
    for p in twins(meshes.unit_square(3), diffusion):
        m = torch.tensor(ReducedMap(p, FieldValues(p.state.function_space)).present_control(), requires_grad=True)
        loss = relax.ResidualLoss(p, "h1")
        field = torch.linspace(0.0, 1.0, loss.size_state, dtype=torch.float64, requires_grad=True)
        size = loss(m, field)
        sizes.append([size.detach(), *torch.autograd.grad(size, (m, field))])
    for mine, theirs in zip(*sizes, strict=True):
        close(mine, theirs, SAME)


def test_the_operator_is_newtons_and_the_gradient_that_of_differences():
    problems = twins(meshes.unit_square(3), diffusion)
    matrices = []
    for p in problems:
        G = ReducedMap(p, FieldValues(p.state.function_space))
        p.state.interpolate(lambda x: np.sin(3.0 * x[0]) * x[1])
        A = G.residual.create_matrix()
        G.residual.assemble_matrix(A)
        matrices.append(A[:, :])
        A.destroy()
    close(*matrices, SAME)
    G = ReducedMap(problems[0], FieldValues(problems[0].state.function_space))
    m, dy = G.present_control(), np.random.default_rng(1).normal(size=G.size_out)
    gradient, step = G.linearize(m).vjp(dy), 1e-5
    weights = problems[0].controls[0].size
    slopes = [dy @ (G(m + step * e) - G(m - step * e)) / (2.0 * step) for e in np.eye(m.size)[:weights]]
    close(gradient[:weights], slopes, 1e-6)
    assert not G.residual.is_linear and not G.residual.is_self_adjoint


def heat(scheme):
    def make(k_of, theta, V, u, v, f, c):
        t = fem.Constant(V.mesh, 0.0)
        R = (k_of(u, t) * inner(grad(u), grad(v)) - c * v) * dx(metadata=POINTS)
        return theta_evolution(
            R, u, initial=f, dt=0.1, num_steps=2, theta=scheme, controls=[theta[0], c], per_step=[c],
            bcs=[clamp_boundary(V)], time=t,
        )  # fmt: skip

    return make


@pytest.mark.parametrize("scheme", [0.5, "midpoint"])
def test_each_term_of_a_step_has_the_law_at_its_own_state_and_time(scheme):
    compare([ReducedMap(p, FieldValues(p.state.function_space)) for p in twins(meshes.unit_square(2), heat(scheme))])


def test_steps_that_are_linear_in_the_state():
    """A conductivity of x, whose weights all steps share, beside a number that changes from step to step."""

    def make(k_of, theta, V, u, v, f, c):
        k = k_of(ufl.SpatialCoordinate(V.mesh))
        R = (c * k * inner(grad(u), grad(v)) - k * v) * dx(metadata=POINTS)
        return theta_evolution(
            R, u, initial=f, dt=0.1, num_steps=2, theta=0.5, controls=[theta[0], c], per_step=[c],
            bcs=[clamp_boundary(V)], initial_is_fixed=True,
        )  # fmt: skip

    maps = [ReducedMap(p, FieldValues(p.state.function_space)) for p in twins(meshes.unit_square(2), make)]
    assert maps[0].residual.is_linear and maps[0].residual.is_self_adjoint
    compare(maps)


@pytest.mark.ranks(1, 2)
def test_equations_of_a_step_that_share_a_network():
    """Each has its own coefficient, named in its controls: the weights are one control."""
    V = fem.functionspace(meshes.unit_square(1), ("Lagrange", 1))
    a, b, old, v, s = fem.Function(V), fem.Function(V), fem.Function(V), ufl.TestFunction(V), fem.Constant(V.mesh, 0.0)
    shared = network(2)
    first, second = LearnedCoefficient(shared, [a, s]), LearnedCoefficient(shared, [b, a])
    step = [
        Problem(residual=((a - old) * v + 0.1 * first * inner(grad(a), grad(v)) - v) * dx, state=a, controls=[first]),
        Problem(residual=(b - a - 0.1 * second) * v * dx, state=b, controls=[second]),
    ]
    evolution = relax.Evolution(
        step=step, previous=[None, old], initial=[None, lambda x: x[0]], num_steps=2, data={s: [1.0, 2.0]}
    )
    G = ReducedMap(evolution, relax.ExpressionField(a * b, V))
    assert G.size_in == first.size
    assert relax.check_map(G).adjoint_gap < 1e-12


def test_a_law_of_coordinates_alone_leaves_the_problem_linear():
    """As data it is a coefficient: new weights are a new operator, seen at the next call."""

    def make(k_of, theta, V, u, v, f, c):
        k = k_of(ufl.SpatialCoordinate(V.mesh), f)
        F = (k * inner(grad(u), grad(v)) - c * v) * dx(metadata=POINTS)
        return Problem(residual=F, state=u, controls=[c], bcs=[clamp_boundary(V)]), theta[0], f

    (mine, learned, f), (theirs, theta, _) = twins(meshes.unit_square(3), make)
    maps = [ReducedMap(p, FieldValues(p.state.function_space)) for p in (mine, theirs)]
    assert maps[0].residual.is_affine and maps[0].residual.is_self_adjoint
    G = maps[0]
    before = G([1.0])
    close(before, maps[1]([1.0]), SAME)
    with torch.no_grad():
        for parameter in learned.network.parameters():
            parameter.mul_(1.5)
    theta.value[:] = learned.value
    after = G([1.0])
    close(after, maps[1]([1.0]), SAME)
    assert np.abs(after - before).max() > 1e-4
    f.x.array[:] += 1.0
    assert np.abs(G([1.0]) - after).max() > 1e-4
    f.x.array[:] -= 1.0
    compare(maps)


@pytest.mark.ranks(1, 2)
def test_tensors_shared_weights_and_two_quadratures():
    domain = meshes.unit_square(2)
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, v, c = fem.Function(V), ufl.TestFunction(V), fem.Constant(domain, [0.3, 0.1])
    shared = network(3, 4)
    A, B = (LearnedCoefficient(shared, [u, scale * c], (2, 2)) for scale in (1.0, 2.0))
    r = LearnedCoefficient(network(1, seed=4), [u])
    F = (inner((ufl.Identity(2) + A) * grad(u), grad(v)) + r * v * (1.0 + B[0, 1])) * dx(metadata=POINTS)
    F += (A[0, 0] - 4.0) * v * dx(metadata={"quadrature_degree": 2})
    problem = Problem(residual=F, state=u, controls=[r, B, c], bcs=[clamp_boundary(V)])
    G = ReducedMap(problem, FieldValues(V), layout="owned")
    report = check_map(G)
    assert report.adjoint_gap < 1e-12
    assert G.size_in == (r.size + B.size + 2 if COMM.rank == 0 else 0)
    seeds = np.eye(G.size_out)
    with G.linearize(G.present_control()) as lin:
        close(lin.vjp(seeds)[:3], np.array([lin.vjp(s) for s in seeds[:3]]), SAME)


@pytest.mark.ranks(1, 2)
def test_a_layers_gradient_reaches_the_networks_parameters():
    domain = meshes.unit_square(2)
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, v = fem.Function(V), ufl.TestFunction(V)
    k = LearnedCoefficient(network(3), [u, grad(u)])
    F = (k * inner(grad(u), grad(v)) - 5.0 * v) * dx
    problem = Problem(residual=F, state=u, controls=[k], bcs=[clamp_boundary(V)])
    layer = SolutionLayer(ReducedMap(problem, Functional(u * dx)))
    m = torch.nn.utils.parameters_to_vector(k.network.parameters())
    layer(m).sum().backward()
    found = torch.cat([p.grad.reshape(-1) for p in k.network.parameters()]).numpy()
    close(found, layer.G.linearize(m.detach().numpy()).vjp([1.0]), 1e-14)
    everyone_has(found)
    close(layer.G.present_control(), m.detach(), 0.0)
    layer(2.0 * m)
    close(k.value, 2.0 * m.detach(), 0.0)  # the register: what was last worked at


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def space():
    return fem.functionspace(meshes.unit_square(2), ("Lagrange", 1))


class Pairs(torch.nn.Module):
    """A row sees the others."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, z):
        return self.w * (z - z.mean(dim=0))


def noisy():
    return torch.nn.Sequential(network(1), torch.nn.Dropout(0.2))


NETWORKS = {
    "a torch.nn.Module": lambda: np.tanh,
    "with parameters that have their shapes": torch.nn.Tanh,
    "call a lazy module once": lambda: torch.nn.LazyLinear(1),
    "float64 on the CPU": lambda: network(1).float(),
    "Dropout that trains": noisy,
    "BatchNorm1d that trains": lambda: torch.nn.Sequential(torch.nn.BatchNorm1d(1), network(1)).double(),
    "rows see others": Pairs,
    r"\(16, 1\) for inputs \(16, 1\), got \(16, 2\)": lambda: network(1, 2),
    r"fails on a tensor \(16, 1\)": lambda: network(2),
}


@pytest.mark.parametrize("words", NETWORKS)
def test_networks_that_do_not_fit(space, words):
    with pytest.raises(BadInput, match=words):
        LearnedCoefficient(NETWORKS[words](), [fem.Function(space)])


def test_inputs_that_do_not_fit(space):
    u, v = fem.Function(space), ufl.TestFunction(space)
    other = fem.Function(fem.functionspace(meshes.unit_square(1), ("Lagrange", 1)))
    for inputs, words in (
        (u, "a list of UFL expressions"),
        ([], "a list of UFL expressions"),
        ([1.0], r"inputs\[0\]: expected a UFL"),
        ([u, v], r"inputs\[1\]: expected values within cells"),
        ([ufl.avg(u)], "values within cells"),
        ([LearnedCoefficient(network(1), [u])], "values within cells, .* got LearnedCoefficient"),
        ([u, other], "of one mesh"),
    ):
        with pytest.raises(BadProblem, match=words):
            LearnedCoefficient(network(1), inputs)
    with pytest.raises(BadProblem, match="shape: expected a tuple"):
        LearnedCoefficient(network(1), [u], 1)


def test_where_a_law_has_no_place(space):
    u, v, w = fem.Function(space), ufl.TestFunction(space), ufl.TrialFunction(space)
    k = LearnedCoefficient(network(1), [u])
    diffused = inner(grad(u), grad(v)) * dx

    def problem(F, controls=(k,)):
        return Problem(residual=F, state=u, controls=controls, bcs=[clamp_boundary(space)])

    for F, words in (
        (diffused + k * v * ds, "over cells, dx, .* exterior_facet"),
        (diffused + ufl.avg(k) * ufl.avg(v) * dS, "over cells, dx, .* interior_facet"),
        (diffused + k * v * dx(metadata={"quadrature_rule": "vertex"}), "by the rule 'vertex'"),
        (inner(grad(k * u), grad(v)) * dx, "derivative of LearnedCoefficient"),
        (ufl.derivative(k * inner(grad(u), grad(u)) * dx, u, v), "derivative of LearnedCoefficient"),
    ):
        with pytest.raises(BadProblem, match=words):
            problem(F)
    twice = k.replaced({u: 2 * u})
    with pytest.raises(BadProblem, match=r"controls\[1\] is the state or an earlier control again"):
        problem(k * v * dx + diffused + twice * v * dx, [k, twice])
    with pytest.raises(BadProblem, match="stands neither in the residual"):
        problem(diffused)
    for refused in (
        lambda: Functional(k * dx),
        lambda: ExpressionValues(k * u, [(0.3, 0.4)]),
        lambda: Energy(E=k * u * u * dx, state=u, parameters=[fem.Function(space)]),
        lambda: clamp_boundary(space, k * u),
        lambda: relax.pdes.schrodinger.eigenstates(space.mesh, k, 1),
        lambda: relax.EigenMap((k * w * v * dx, w * v * dx), 1, controls=[k]),
        lambda: Library({"law": k * v, "load": v}),
    ):
        with pytest.raises(BadProblem, match="LearnedCoefficient stands in it"):
            refused()
    G = ReducedMap(problem(diffused + (k - 1.0) * v * dx), FieldValues(space))
    with G.linearize(G.present_control()) as lin, pytest.raises(BadInput, match="got a LearnedCoefficient"):
        relax.dual_weighted_residual(lin, np.ones(G.size_out))
    with pytest.raises(BadInput, match="got a LearnedCoefficient"):
        SolutionLayer(G, dense=True)
    k.network.append(torch.nn.Dropout(0.5))
    with pytest.raises(BadInput, match="Dropout that trains"):
        G(1.1 * G.present_control())


@pytest.mark.ranks(1, 2)
def test_what_is_not_finite_or_not_the_same_is_said_on_every_rank(space):
    u, v = fem.Function(space), ufl.TestFunction(space)

    class Root(Pairs):
        def forward(self, z):
            return torch.sqrt(self.w * z)

    # At the first guess, and where Newton's first step leads.
    for start, strength in ((-0.1, 1.0), (0.1, -500.0)):
        k = LearnedCoefficient(Root(), [u + start])
        F = (inner(grad(u), grad(v)) - strength * k * v) * dx
        G = ReducedMap(Problem(residual=F, state=u, controls=[k], bcs=[clamp_boundary(space)]), FieldValues(space))
        assert "values are NaN or infinite at" in str(raised_everywhere(SolveFailed, lambda G=G: G([1.0])))
    if COMM.size > 1:
        others = network(1, seed=COMM.rank), network(1) if COMM.rank else torch.nn.Linear(1, 1).double()
        for other, words in zip(others, ("torch.manual_seed", "other numbers of weights"), strict=True):
            assert words in str(raised_everywhere(BadInput, lambda other=other: LearnedCoefficient(other, [u])))
