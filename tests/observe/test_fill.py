"""Vectors into Functions and back: every kind of space, ghosts included."""

import basix.ufl
import numpy as np
import pytest
import ufl
from contract import raised_everywhere
from dolfinx import fem
from mpi4py import MPI

import relax
from relax.errors import BadInput

pytestmark = pytest.mark.ranks(1, 2, 3)

COMM = MPI.COMM_WORLD


def space(kind):
    domain = relax.meshes.unit_square(3)
    cell = domain.basix_cell()
    if kind == "mixed":
        velocity, pressure = basix.ufl.element("Lagrange", cell, 2, shape=(2,)), basix.ufl.element("Lagrange", cell, 1)
        return fem.functionspace(domain, basix.ufl.mixed_element([velocity, pressure]))
    elements = {"P1": ("Lagrange", 1), "P2 vector": ("Lagrange", 2, (2,)), "DG1": ("DG", 1), "DG0": ("DG", 0)}
    return fem.functionspace(domain, elements[kind])


def marked(V):
    """A Function that is another number at each entry, the same on any number of ranks; and those numbers."""
    values = relax.FieldValues(V)
    y = np.sin(1.0 + np.arange(values.size))
    f = fem.Function(V)
    relax.fill(f, y)
    return f, y, values


@pytest.mark.parametrize("kind", ["P1", "P2 vector", "DG1", "DG0", "mixed"])
def test_there_and_back(kind):
    f, y, values = marked(space(kind))
    np.testing.assert_array_equal(values.value(f), y)
    # Owned values as DOLFINx has them, and the ghosts those of their owners.
    scattered = f.copy()
    scattered.x.scatter_forward()
    np.testing.assert_array_equal(f.x.array, scattered.x.array)


def test_the_order():
    """That of the coordinates: a linear function comes back where it stands, at ghosts, too."""
    V = space("P2 vector")
    f, g, values = fem.Function(V), fem.Function(V), relax.FieldValues(V)
    g.interpolate(lambda x: np.stack([x[0] + 2.0 * x[1], x[0] - x[1]]))
    x = values.coordinates
    wanted = np.where(np.arange(values.size) % 2 == 0, x[:, 0] + 2.0 * x[:, 1], x[:, 0] - x[:, 1])
    relax.fill(f, wanted)
    np.testing.assert_allclose(f.x.array, g.x.array, atol=1e-14)


def test_a_part_of_a_mixed_function():
    """The pressure is written, the velocity stays."""
    W = space("mixed")
    w, y, values = marked(W)
    velocity, pressure = relax.FieldValues(W.sub(0)), relax.FieldValues(W.sub(1))
    before = velocity.value(w)
    p = np.cos(np.arange(pressure.size))
    relax.fill(w.sub(1), p)
    np.testing.assert_array_equal(pressure.value(w), p)
    np.testing.assert_array_equal(velocity.value(w), before)


def test_a_block_of_a_control_vector():
    """The field of a control vector with a number behind it."""
    V = space("P1")
    u, v, f, c = fem.Function(V), ufl.TestFunction(V), fem.Function(V), fem.Constant(V.mesh, 2.0)
    F = (ufl.inner(ufl.grad(u), ufl.grad(v)) - c * f * v) * ufl.dx
    problem = relax.Problem(residual=F, state=u, controls=[f, c], bcs=[relax.clamp_boundary(V)], name="filled")
    with relax.ReducedMap(problem, relax.FieldValues(V)) as G:
        m = relax.control_values(G, lambda x: np.exp(x[0] * x[1]), 3.0)
        g = fem.Function(V)
        relax.fill(g, m[:-1])
        G(m)
        np.testing.assert_array_equal(g.x.array, f.x.array)


def test_what_does_not_fit():
    f, y, _ = marked(space("P1"))
    held = f.x.array.copy()
    others = y + (COMM.rank if COMM.size > 1 else np.nan)
    for function, vector, words in (
        (f, y[1:], "fill: vector: expected shape (..., 16), got (15,)"),
        (f, [y, y], "fill: vector: expected one of shape (16,), got (2, 16)"),
        (f, np.where(y == y[3], np.nan, y), "fill: vector: 1 of 16 entries are NaN or infinite"),
        (f, others, "fill: vector: "),
        (f, y + 1j, "fill: vector: expected real numbers"),
        (fem.Constant(f.function_space.mesh, 1.0), [1.0], "fill: function: expected a dolfinx.fem.Function"),
    ):
        assert words in str(raised_everywhere(BadInput, lambda f=function, y=vector: relax.fill(f, y)))
    np.testing.assert_array_equal(f.x.array, held)
