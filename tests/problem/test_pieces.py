"""Numbers on tagged pieces of a mesh, against the DG-0 field that they are."""

import numpy as np
import pytest
import torch
import ufl
from contract import COMM, LAYOUTS, close, everyone_has, raised_everywhere
from dolfinx import fem, mesh
from ufl import avg, dS, dx, grad, inner

from relax import (
    FieldValues,
    IdentityPrior,
    Problem,
    ReducedMap,
    SolutionLayer,
    check_map,
    clamp_boundary,
    control_values,
    gauss_newton,
    meshes,
    pieces,
    theta_evolution,
)
from relax.base.fem.coefficients import local_values
from relax.errors import BadInput, BadProblem
from relax.train.aeqprop import Energy
from relax.train.aeqprop.samples import _values as input_values

pytestmark = pytest.mark.ranks(1, 2, 3)

START = np.array([0.3, -0.2, 0.1])


def strips(domain):
    """Cell tags 30, 10, 20 from left to right; the narrow first one is on few ranks."""
    tdim = domain.topology.dim
    cells = np.arange(domain.topology.index_map(tdim).size_local, dtype=np.int32)
    x = mesh.compute_midpoints(domain, tdim, cells)[:, 0] if len(cells) else np.empty(0)
    return mesh.meshtags(domain, tdim, cells, np.array([30, 10, 20], dtype=np.int32)[np.searchsorted([0.3, 0.6], x)])


def strip_of(x):
    """The place of the tags 10, 20, 30 in rising order."""
    return np.array([2, 0, 1])[np.searchsorted([0.3, 0.6], x[0])]


@pytest.fixture(scope="module")
def domain():
    domain = meshes.unit_square(4)
    tags = strips(domain)
    meshes.set_tags(domain, meshes.Tags(cells=tags, cell_names={"left": 30, "middle": 10}))
    return domain


def diffusion(domain, m):
    """-div(exp(m) grad u) + u³ = 5 + m, and (the mean of m)² u at facets: what ranks share there, too."""
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, v = fem.Function(V), ufl.TestFunction(V)
    F = (ufl.exp(m) * inner(grad(u), grad(v)) + (u**3 - 5.0 - m) * v) * dx + avg(m) ** 2 * avg(u) * avg(v) * dS
    return Problem(residual=F, state=u, controls=[m], bcs=[clamp_boundary(V)], name="diffusion")


@pytest.fixture(scope="module")
def maps(domain):
    """By layout, with numbers; and that of the field."""
    problem = diffusion(domain, pieces(domain, strips(domain)))
    field = diffusion(domain, fem.Function(fem.functionspace(domain, ("DG", 0))))
    V = problem.state.function_space
    found = {layout: ReducedMap(problem, FieldValues(V), layout=layout) for layout in LAYOUTS}
    return found, ReducedMap(field, FieldValues(field.state.function_space))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_as_the_field(maps, layout):
    """Values and derivatives of any order; G(s) = G_f(B s), so a gradient is Bᵀ times that of the field."""
    G, field = maps[0][layout], maps[1]
    basis = np.array([control_values(field, lambda x, i=i: strip_of(x) == i) for i in range(3)])
    mine = slice(0, 3 if layout == "replicated" or COMM.rank == 0 else 0)
    assert G.size_in == len(START[mine])
    rng = np.random.default_rng(1)
    D, W = rng.standard_normal((5, 3)), rng.standard_normal((5, G.size_out))
    with G.linearize(START[mine]) as lin, field.linearize(START @ basis) as reference:
        close(lin.value, reference.value)
        for k in (1, 5):  # by forms, by matrices
            close(lin.jvp(D[:k, mine]), reference.jvp(D[:k] @ basis))
            close(lin.vjp(W[:k]), (reference.vjp(W[:k]) @ basis.T)[:, mine])
            close(lin.hvp(W[:k], D[:k, mine]), (reference.hvp(W[:k], D[:k] @ basis) @ basis.T)[:, mine])


@pytest.mark.ranks(1, 2)
def test_check_map(maps):
    G = maps[0]["owned"]
    assert check_map(G, control_values(G, START)).failures == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_numbers_come_back_to_the_bit(maps, layout):
    G = maps[0][layout]
    (f,) = G.problem.controls
    mine = slice(0, 3 if layout == "replicated" or COMM.rank == 0 else 0)
    f.values = START
    everyone_has(f.values)
    np.testing.assert_array_equal(f.values, START)
    np.testing.assert_array_equal(G.present_control(), START[mine])
    np.testing.assert_array_equal(control_values(G, START), START[mine])
    np.testing.assert_array_equal(control_values(G, 2.0), np.full(3, 2.0)[mine])
    np.testing.assert_array_equal(G.layout.restored(G.layout.as_kept(START[mine]), "kept"), START[mine])
    np.testing.assert_array_equal(G.layout.sizes(np.array([0.0, -2.0, 3.0])[mine]), np.array([1.0, 2.0, 3.0])[mine])
    f.x.array[:] = f.x.array + np.arange(len(f.x.array)) * (COMM.rank == 0)
    assert "set them by its .values" in str(raised_everywhere(BadInput, G.present_control))
    f.values = 0.0


def test_order_of_tags(domain):
    f = pieces(domain, ["left", 20, "middle"])
    f.values = [1.0, 2.0, 3.0]
    owned = f.function_space.dofmap.index_map.size_local
    x = f.function_space.tabulate_dof_coordinates().T[:, :owned]
    np.testing.assert_array_equal(f.x.array[:owned], np.array([3.0, 2.0, 1.0])[strip_of(x)])


def test_numbers_in_each_step(domain):
    """s in the source of each step and in what all steps share, against fields."""

    def evolution(s, m):
        V = fem.functionspace(domain, ("Lagrange", 1))
        u, v = fem.Function(V), ufl.TestFunction(V)
        R = (ufl.exp(m) * inner(grad(u), grad(v)) - s * v) * dx
        return theta_evolution(
            R, u, initial=0.0, initial_is_fixed=True, dt=0.1, num_steps=3, controls=[s, m], per_step=[s],
            bcs=[clamp_boundary(V)], name="in_steps",
        )  # fmt: skip

    def map_of(make):
        problem = evolution(make(), make())
        return ReducedMap(problem, FieldValues(problem.state.function_space))

    G = map_of(lambda: pieces(domain, strips(domain)))
    field = map_of(lambda: fem.Function(fem.functionspace(domain, ("DG", 0))))
    m = np.random.default_rng(2).standard_normal(12)
    np.testing.assert_array_equal(control_values(G, list(m[:9].reshape(3, 3)), m[9:]), m)
    one = [control_values(field, lambda x, i=i: strip_of(x) == i, 0.0) for i in range(3)]
    cells = field.size_in // 4
    basis = np.kron(np.eye(4), np.array([row[:cells] for row in one]))
    w = np.random.default_rng(3).standard_normal(G.size_out)
    with G.linearize(m) as lin, field.linearize(m @ basis) as reference:
        close(lin.value, reference.value)
        close(lin.jvp(m), reference.jvp(m @ basis))
        close(lin.vjp(w), basis @ reference.vjp(w))
        close(lin.hvp(w, m), basis @ reference.hvp(w, m @ basis))


def test_values_for_steps_and_samples(domain):
    """Where other parts of relax set what a control holds, numbers are what they take."""
    f = pieces(domain, strips(domain))
    f.values = START
    for held in (local_values(f, list(START), "fixed"), input_values(COMM, f, START)):
        np.testing.assert_array_equal(held, f.x.array)


def test_layer_and_inversion(maps):
    G = maps[0]["replicated"]
    m = torch.tensor(START, requires_grad=True)
    SolutionLayer(G)(m).sum().backward()
    with G.linearize(START) as lin:
        close(m.grad.numpy(), lin.vjp(np.ones(G.size_out)))
    found = gauss_newton(G, G(START), noise=1e-6, prior=IdentityPrior(G, std=1.0))
    np.testing.assert_allclose(found.value, START, atol=1e-6)


def test_mistakes(domain, maps):
    G = maps[0]["replicated"]
    (f,) = G.problem.controls

    def words(action, kind=BadInput):
        return str(raised_everywhere(kind, action))

    facets = mesh.meshtags(domain, 1, np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int32))
    assert "cells have none" in words(lambda: pieces(domain, [10, 20]))
    assert "each once" in words(lambda: pieces(domain, [10, 20, "left", 30]))
    assert "no cell tag 'rigth'" in words(lambda: pieces(domain, ["left", "middle", "rigth"]))
    assert "no cell tags" in words(lambda: pieces(meshes.unit_square(2), [1]))
    assert "of the cells of this mesh" in words(lambda: pieces(meshes.unit_square(4), strips(domain)))
    assert "of the cells of this mesh" in words(lambda: pieces(domain, facets))
    assert "3 of them, one for each tag" in words(lambda: setattr(f, "values", [1.0, 2.0]))
    assert "NaN" in words(lambda: setattr(f, "values", np.nan))
    assert "3 of them, one for each tag" in words(lambda: control_values(G, lambda x: x[0]))
    assert "3 of them, one for each tag" in words(lambda: control_values(G, [[1.0], [1.0, 2.0], 3.0]))
    assert "3 of them, one for each tag" in words(lambda: setattr(f, "values", fem.Constant(domain, 1.0)))
    energy = ((1.0 + f**2) * G.problem.state**2) * dx
    assert "numbers" in words(lambda: Energy(E=energy, state=G.problem.state, parameters=[f]), BadProblem)
    if COMM.size == 1:
        assert "pieces" in words(lambda: SolutionLayer(G, dense=True))
