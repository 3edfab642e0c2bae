"""Forms of one module are those that DOLFINx compiles one by one."""

from __future__ import annotations

import numpy as np
import pytest
import ufl
from contract import raised_everywhere
from dolfinx import fem, mesh

from relax import meshes
from relax.base.fem.compiling import Together, compiled_together
from relax.errors import BadProblem


def assembled(form):
    if form.rank == 0:
        return fem.assemble_scalar(form)
    return fem.assemble_vector(form).array if form.rank == 1 else fem.assemble_matrix(form).to_dense()


def kept(form):
    return lambda: form


@pytest.mark.ranks(1, 2)
def test_each_is_what_dolfinx_makes_of_it():
    """Vectors, a matrix, numbers and nothing; some, none or all facets; tagged cells; one more when they are made."""
    domain = meshes.unit_square(3)
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, c = fem.Function(V), fem.Constant(domain, 0.7)
    u.interpolate(lambda x: 1.0 + x[0] + x[1] ** 2)
    v, w = ufl.TestFunction(V), ufl.TrialFunction(V)
    num_cells = domain.topology.index_map(2).size_local
    in_cells = ufl.Measure(
        "dx", domain, subdomain_data=mesh.meshtags(domain, 2, np.arange(num_cells), np.arange(num_cells) % 2)
    )
    vector = u * v * ufl.dx + u * v * meshes.ds(domain, "left") + c * v * meshes.ds(domain, ["top", "right"])
    inside = u * v * in_cells + c * v * in_cells((0, 1)) + u("+") * ufl.jump(v) * ufl.dS
    matrix = ufl.inner(ufl.grad(w), ufl.grad(v)) * ufl.dx + c * w * v * meshes.ds(domain)
    number = u**2 * in_cells + c * in_cells(1)
    together = Together(domain)
    waiting = [together.add(kept(forms)) for forms in (vector, None, number, inside, matrix)]
    last, late = waiting[-1](), together.add(lambda: c * u * v * ufl.dx)
    first, nothing, total, within, again = (later() for later in waiting)
    assert nothing is None and again is last
    assert compiled_together([], domain) == []
    made, forms = [first, total, within, last, late()], [vector, number, inside, matrix, c * u * v * ufl.dx]
    for found, form in zip(made, forms, strict=True):
        np.testing.assert_array_equal(assembled(found), assembled(fem.form(form)))


@pytest.mark.ranks(1)
def test_all_cells_beside_tagged_ones():
    """DOLFINx 0.9 wants the tags in each integral of a kind."""
    domain = meshes.unit_square(2)
    v = ufl.TestFunction(fem.functionspace(domain, ("Lagrange", 1)))
    tagged = ufl.Measure("dx", domain, subdomain_data=mesh.meshtags(domain, 2, np.arange(4), np.arange(4) % 2))
    (found,) = compiled_together([v * ufl.dx + 2.0 * v * tagged(1)], domain)
    np.testing.assert_array_equal(assembled(found), assembled(fem.form(v * tagged + 2.0 * v * tagged(1))))


@pytest.mark.ranks(1)
def test_coefficients_that_ffcx_drops():
    """They stand in the form, of zero derivative, yet in no kernel: those that are left must not take their places."""
    domain = meshes.unit_square(2)
    V, V0 = (fem.functionspace(domain, space) for space in (("Lagrange", 1), ("DG", 0)))
    dropped, u, d = fem.Function(V0), fem.Function(V), fem.Function(V)
    u.interpolate(lambda x: 1.0 + x[0])
    d.interpolate(lambda x: 2.0 - x[1])
    dropped.x.array[:] = 5.0
    v = ufl.TestFunction(V)
    energy = 0.5 * d**2 * ufl.dot(ufl.grad(u), ufl.grad(u)) * ufl.dx + dropped * d * ufl.dx
    form = ufl.derivative(energy, u, v)
    found = compiled_together([form, u * v * ufl.dx], domain)[0]
    by_hand = fem.form(d**2 * ufl.dot(ufl.grad(u), ufl.grad(v)) * ufl.dx)
    np.testing.assert_allclose(assembled(found), assembled(by_hand), rtol=0, atol=1e-13)


@pytest.mark.ranks(1, 2)
def test_tags_in_two_places_are_refused():
    domain = meshes.unit_square(2)
    v = ufl.TestFunction(fem.functionspace(domain, ("Lagrange", 1)))
    num_cells = domain.topology.index_map(2).size_local
    measures = [
        ufl.Measure(
            "dx", domain, subdomain_data=mesh.meshtags(domain, 2, np.arange(num_cells), np.full(num_cells, tag))
        )
        for tag in (1, 2)
    ]
    form = v * measures[0](1) + v * measures[1](2)
    words = raised_everywhere(BadProblem, lambda: compiled_together([form, v * ufl.dx], domain))
    assert "the tags of all its cell integrals in one place, got 2 sets" in str(words)


def test_the_fault_of_one_is_not_the_others():
    """Those that are asked for are there, before and after the one that cannot be derived."""
    domain = meshes.unit_square(2)
    v = ufl.TestFunction(fem.functionspace(domain, ("Lagrange", 1)))

    def broken():
        raise ValueError("no derivative")

    together = Together(domain)
    before, fault, after = (together.add(make) for make in (lambda: v * ufl.dx, broken, lambda: 2.0 * v * ufl.dx))
    np.testing.assert_array_equal(assembled(before()), assembled(fem.form(v * ufl.dx)))
    for _ in range(2):
        with pytest.raises(ValueError, match="no derivative"):
            fault()
    np.testing.assert_array_equal(assembled(after()), 2.0 * assembled(before()))
