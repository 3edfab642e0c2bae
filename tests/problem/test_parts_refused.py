"""States on parts of the mesh that cannot be had: in words, on every rank."""

from __future__ import annotations

import numpy as np
import pytest
import ufl
from contract import raised_everywhere
from dolfinx import fem
from mesh_parts import halves, on_facets
from ufl import dx, grad, inner

import relax
from relax import meshes
from relax.errors import BadProblem


def refused():
    domain = meshes.unit_square(2)
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, v = fem.Function(V, name="u"), ufl.TestFunction(V)
    lam, ds = on_facets(domain, "top", ("Lagrange", 1))
    top, mu = lam.function_space.mesh, ufl.TestFunction(lam.function_space)
    stokes = inner(grad(u), grad(v)) * dx
    (left, _), over, _, dS = halves(domain)
    c = fem.Function(fem.functionspace(left, ("Lagrange", 1)), name="c")
    q = ufl.TestFunction(c.function_space)
    cell = c * q * over(1)

    def of(F0, F1, other=lam, **more):
        return lambda: relax.Problem(residual=[F0, F1], state=[u, other], **more)

    def in_space(element, part=top):
        f = fem.Function(fem.functionspace(part, element), name="f")
        return of(stokes + f * v * ds, (u - f) * ufl.TestFunction(f.function_space) * ds, f)

    fields = fem.Function(fem.functionspace(left, ("RT", 1)), name="fields")
    turned = inner(fields, ufl.TestFunction(fields.function_space)) * over(1)
    at_end = relax.clamp(lam.function_space, lambda x: np.isclose(x[0], 0.0), g := fem.Function(lam.function_space))
    elsewhere = meshes.submesh(meshes.unit_square(2), 1, meshes.facets(meshes.unit_square(2), "top"))
    return {
        "jumps from facet to facet": in_space(("DG", 0)),
        "expected continuous Lagrange elements": in_space(("DG", 1)),
        "no values of one that the whole mesh has": in_space(("Bubble", 2)),
        "turn with the numbers of vertices": of(stokes + fields[0] * v * over(1), turned, fields),
        "are outside": of(stokes + lam * v * ds, (u - lam) * mu * meshes.ds(domain)),
        'on the side "+" are outside': of(stokes + c("+") * v("+") * ufl.dS(domain), cell, c),
        'on the side "-" are outside': of(stokes + c("-") * v("+") * dS, cell, c),
        "its values alone": of(stokes + lam * v * ds, (u - lam) * mu.dx(0) * ds),
        "got one over cell": of(stokes + lam * v * dx(domain), (u - lam) * mu * ds),
        "stands in an integral over another mesh": of(stokes + lam * v * ds, lam * mu * dx(top)),
        "gives boundary values of a state on a part": of(
            stokes + lam * v * ds, (u - lam) * mu * ds, bcs=[at_end], controls=[g]
        ),
        "or on parts of one, got 'f'": in_space(("Lagrange", 1), elsewhere),
    }


@pytest.mark.ranks(1, 2)
def test_refused():
    for words, make in refused().items():
        assert words in str(raised_everywhere(BadProblem, make))
