"""relax.picture: what is painted is the field, on any number of ranks; on rank 0, without a window, and on file."""

from __future__ import annotations

import numpy as np
import pytest
from contract import COMM, raised_everywhere
from dolfinx import fem, mesh

import relax
from relax import FieldValues, meshes
from relax.errors import BadInput, RelaxError

pyplot = pytest.importorskip("matplotlib.pyplot")
pytestmark = pytest.mark.ranks(1, 2)


def affine(x):
    return x[0] + 2.0 * x[1] - 1.0


def field_of(domain, *, degree=1, shape=(), f=affine):
    V = fem.functionspace(domain, ("Lagrange", degree, shape) if shape else ("Lagrange", degree))
    u = fem.Function(V, name="u")
    u.interpolate(f)
    return u


def painted(axis):
    """Points and values of what a panel shows in colours."""
    (surface,) = (c for c in axis.collections if hasattr(c, "_triangulation"))
    return np.stack([surface._triangulation.x, surface._triangulation.y]), np.asarray(surface.get_array())


def on_rank_0(figure):
    assert (figure is None) == (COMM.rank > 0)
    return COMM.rank == 0


@pytest.mark.parametrize("degree", [1, 2])
def test_a_field_is_painted(shared_tmp, degree):
    backend = pyplot.get_backend()
    u = field_of(meshes.rectangle((0.0, 0.0), (3.0, 1.0), (3, 2)), degree=degree)
    figure = relax.picture(u, points=[[0.5, 0.5]], label="K", path=shared_tmp / "u.png")
    if on_rank_0(figure):
        points, values = painted(figure.axes[0])
        assert points.shape == (2, 12)
        np.testing.assert_allclose(values, affine(points), atol=1e-12)
        assert figure.axes[0].get_title() == "u" and figure.axes[1].get_ylabel() == "K"
        assert (shared_tmp / "u.png").read_bytes().startswith(b"\x89PNG")
        assert pyplot.get_fignums() == [] and pyplot.get_backend() == backend


def test_vectors_in_the_order_of_the_layout_beside_each_other():
    """On one scale; of a vector field the magnitude."""
    u = field_of(meshes.unit_square(3))
    V = u.function_space
    vector = FieldValues(V).value(u)
    figure = relax.picture({"truth": 2.0 * vector, "found": u}, space=V)
    if on_rank_0(figure):
        left, right = figure.axes[:2]
        assert [left.get_title(), right.get_title()] == ["truth", "found"]
        for axis, factor in ((left, 2.0), (right, 1.0)):
            points, values = painted(axis)
            np.testing.assert_allclose(values, factor * affine(points), atol=1e-12)
        assert (
            len({c.get_clim() for axis in (left, right) for c in axis.collections if hasattr(c, "_triangulation")}) == 1
        )
    w = field_of(meshes.unit_square(3), shape=(2,), f=lambda x: np.stack([3.0 * x[0], 4.0 * x[0]]))
    figure = relax.picture(w)
    if on_rank_0(figure):
        points, values = painted(figure.axes[0])
        np.testing.assert_allclose(values, 5.0 * points[0], atol=1e-12)
        assert figure.axes[0].get_title() == "|u|"


def test_on_a_line_and_through_a_box():
    figure = relax.picture(field_of(meshes.interval(4, (0.0, 1.0)), degree=2, f=lambda x: x[0] ** 2), label="y")
    if on_rank_0(figure):
        (axis,) = figure.axes
        x, y = axis.lines[0].get_data()
        assert len(x) == 9 and axis.get_ylabel() == "y"
        np.testing.assert_allclose(y, np.square(x), atol=1e-12)
    u = field_of(meshes.unit_cube(2), f=lambda x: x[0] + 2.0 * x[1] + 4.0 * x[2])
    figure = relax.picture(u)
    if on_rank_0(figure):
        points, values = painted(figure.axes[0])
        np.testing.assert_allclose(values, points[0] + 2.0 * points[1] + 2.0, atol=1e-12)
        assert "z = 0.5" in figure.axes[0].get_title()


def test_what_is_refused(shared_tmp):
    u = field_of(meshes.unit_square(2))
    prisms = field_of(mesh.create_unit_cube(COMM, 1, 1, 2, cell_type=mesh.CellType.prism))
    for action, words in (
        (lambda: relax.picture(np.zeros(9)), "with its space="),
        (lambda: relax.picture(np.zeros(8), space=u.function_space), "(..., 9)"),
        (lambda: relax.picture(np.zeros(9), space="P1"), "picture: space: expected a dolfinx.fem.FunctionSpace"),
        (lambda: relax.picture({}), "got none"),
        (lambda: relax.picture(u, points=[[0.0, 0.0, 0.0]]), "points: expected shape (..., 2)"),
        (lambda: relax.picture(prisms), "got prism cells in 3 dimensions"),
        (lambda: relax.picture({"line": field_of(meshes.interval(2), f=lambda x: x[0]), "u": u}), "as 'u', one in 2"),
    ):
        assert words in str(raised_everywhere(BadInput, action))
    kind = (FileNotFoundError, RelaxError)[COMM.rank > 0]
    assert "nowhere" in str(raised_everywhere(kind, lambda: relax.picture(u, path=shared_tmp / "nowhere/u.png")))
    assert pyplot.get_fignums() == []
