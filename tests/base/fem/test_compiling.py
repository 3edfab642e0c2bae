"""Forms of one module are those that DOLFINx compiles one by one."""

from __future__ import annotations

import numpy as np
import pytest
import ufl
from dolfinx import fem

from relax import meshes
from relax.base.fem.compiling import Together, compiled_together


def assembled(form):
    if form.rank == 0:
        return fem.assemble_scalar(form)
    return fem.assemble_vector(form).array if form.rank == 1 else fem.assemble_matrix(form).to_dense()


@pytest.mark.ranks(1, 2)
def test_each_is_what_dolfinx_makes_of_it():
    """A vector, a matrix, two numbers and nothing; some, none or all of the boundary; one more when they are made."""
    domain = meshes.unit_square(3)
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, c = fem.Function(V), fem.Constant(domain, 0.7)
    u.interpolate(lambda x: 1.0 + x[0] + x[1] ** 2)
    v, w = ufl.TestFunction(V), ufl.TrialFunction(V)
    vector = u * v * ufl.dx + u * v * meshes.ds(domain, "left") + c * v * meshes.ds(domain, ["top", "right"])
    matrix = ufl.inner(ufl.grad(w), ufl.grad(v)) * ufl.dx + c * w * v * meshes.ds(domain)
    numbers = [u**2 * ufl.dx, c * u * meshes.ds(domain, "bottom")]
    together = Together(domain)
    waiting = [together.add(form) for form in (vector, None, numbers, [], matrix)]
    last, late = waiting[-1](), together.add(c * u * v * ufl.dx)
    first, nothing, two, no_more, again = (later() for later in waiting)
    assert nothing is None and no_more is None and again is last and len(two) == 2
    assert compiled_together([], domain) == []
    for found, form in zip([first, *two, last, late()], [vector, *numbers, matrix, c * u * v * ufl.dx], strict=True):
        np.testing.assert_array_equal(assembled(found), assembled(fem.form(form)))
