"""A form with kept coefficients gives, bit for bit, what DOLFINx gives."""

from __future__ import annotations

import basix.ufl
import numpy as np
import pytest
import ufl
from dolfinx import fem

from relax import meshes
from relax.engine.residual.packing import PackedForm


class Point:
    """Something to name a point by."""


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("cell", ["triangle", "quadrilateral"])
@pytest.mark.parametrize("element", ["P1", "P3", "vector", "N1curl"])
@pytest.mark.parametrize("measure", ["dx", "ds", "dx and ds", "tagged"])
def test_assembly_is_that_of_dolfinx(cell, element, measure):
    """At one point with the coefficient changing, at a new point, and back; simple forms and those that are not."""
    domain = meshes.unit_square(3, cell=cell)
    family = {"P1": ("Lagrange", 1), "P3": ("Lagrange", 3), "vector": ("Lagrange", 2, (2,))}
    kind = "N1curl" if cell == "triangle" else "RTCE"
    V = fem.functionspace(domain, family.get(element) or basix.ufl.element(kind, cell, 1))
    m, lam, other = (fem.Function(V) for _ in range(3))
    v = ufl.TestFunction(V)
    over = {"dx": ufl.dx, "ds": ufl.ds, "dx and ds": ufl.dx + ufl.ds, "tagged": meshes.ds(domain, "left")}[measure]
    form = fem.form(ufl.inner(m, lam) * ufl.inner(other, v) * over)
    packed = PackedForm(form, lam)
    rng = np.random.default_rng(4)
    first, second = Point(), Point()
    for point in (first, first, first, second, second, first):
        for function in (m, other):
            function.x.array[:] = np.random.default_rng(1 if point is first else 2).normal(size=function.x.array.size)
        lam.x.array[:] = rng.normal(size=lam.x.array.size)
        expected, found = np.zeros_like(lam.x.array), np.zeros_like(lam.x.array)
        fem.assemble_vector(expected, form)
        packed.assemble(found, point)
        np.testing.assert_array_equal(found, expected)
        assert expected.any() or domain.topology.index_map(2).size_local == 0 or measure != "dx"
