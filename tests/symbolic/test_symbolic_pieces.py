"""What closed forms are found with: derivatives by propagation, formulas by size, least squares, halved meshes."""

from __future__ import annotations

import numpy as np
import pytest
import scripts
import ufl
from contract import everyone_has
from dolfinx import fem
from dolfinx.mesh import locate_entities_boundary, meshtags
from mpi4py import MPI

from relax import meshes, symbolic
from relax.base import parallel
from relax.symbolic.fit import least_squares
from relax.symbolic.halved import halved
from relax.symbolic.spectrum import exponents

sympy = pytest.importorskip("sympy")

from relax.symbolic.ansatz import likely  # noqa: E402
from relax.symbolic.equation import Equation  # noqa: E402
from relax.symbolic.jets import closed  # noqa: E402
from relax.symbolic.natural import BoundaryHats, boundary_of  # noqa: E402
from relax.symbolic.reference import Discretised  # noqa: E402
from relax.symbolic.trees import enumerated, evaluate, expression, holes, size  # noqa: E402

HOLE = ("c", ("anything",))
X, T = ("z", 0), ("z", 1)
TREES = [
    ("*", ("exp", ("*", HOLE, T)), ("sin", ("+", ("*", X, T), HOLE))),
    ("log", ("+", ("square", X), ("*", HOLE, ("inv", ("+", ("1",), T))))),
    ("+", ("*", X, ("*", X, T)), ("inv", ("+", ("1",), ("exp", ("*", HOLE, X))))),
]


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: tree[0])
def test_derivatives_by_propagation(tree):
    """Against SymPy's."""
    symbols = sympy.symbols("x t")
    constants = [0.7, -0.4][: len(holes(tree))]
    points = np.random.default_rng(0).uniform(0.3, 1.2, (2, 5))
    keys = closed([(0, 0), (0, 1), (1, 1)])
    jet = evaluate(tree, points, constants, keys)
    for key in keys:
        exact = expression(tree, symbols, constants)
        for i in key:
            exact = exact.diff(symbols[i])
        np.testing.assert_allclose(jet.get(key, 0.0) + np.zeros(5), sympy.lambdify(symbols, exact)(*points), rtol=1e-12)


def test_formulas_by_size_come_once():
    trees = list(enumerated(1, ("exp", "square"), 5))
    assert [size(t) for t in trees] == sorted(size(t) for t in trees)
    assert ("+", X, X) in trees and ("square", X) in trees
    # x x is x², c x is x c.
    assert ("*", X, X) not in trees and (("*", X, HOLE) in trees) != (("*", HOLE, X) in trees)
    assert not any(t[0] == "c" for t in trees)
    assert ("*", ("c", ("amplitude",)), X) in likely(1, ("exp",)) and len(set(likely(2, ("exp", "sin")))) == 3 + 4 * 4


def test_least_squares():
    """exp(λ z) with its amplitude, from starts of which some lead nowhere."""
    z = np.linspace(0.0, 1.0, 20)
    starts = np.array([[1.0, -1.0], [np.nan, 0.0], [5.0, 2.0], [1.0, 1e4]])
    theta, cost = least_squares(lambda c: c[0] * np.exp(c[1] * z) - 2.0 * np.exp(-3.0 * z), starts, iterations=60)
    assert cost.min() < 1e-24 and np.isinf(cost[1])
    np.testing.assert_allclose(theta[np.argmin(cost)], [2.0, -3.0], rtol=1e-9)


def test_exponents_and_frequencies():
    z = np.linspace(0.0, 1.0, 17)
    rates, frequencies = exponents(np.stack([np.exp(-2.0 * z) + np.sin(5.0 * z), np.cos(5.0 * z)]), z[1])
    assert min(abs(r + 2.0) for r in rates) < 1e-6 and min(abs(f - 5.0) for f in frequencies) < 1e-6
    assert exponents(np.zeros((1, 17)), 0.1) == ([], [])


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.ranks(1, 2, 3)
def test_halved(dim):
    """Eight tetrahedra from one, of an eighth of its volume each, and the same points on any number of ranks."""
    mesh = {1: meshes.interval(3), 2: meshes.unit_square(2), 3: meshes.unit_cube(2)}[dim]
    finer = halved(fem.functionspace(mesh, ("Lagrange", 1))).mesh
    cells = [m.topology.index_map(dim).size_global for m in (mesh, finer)]
    assert cells[1] == 2**dim * cells[0]
    volumes = fem.Function(fem.functionspace(finer, ("DG", 0)))
    volumes.interpolate(fem.Expression(ufl.CellVolume(finer), _points(volumes)))
    owned = volumes.x.array[: volumes.function_space.dofmap.index_map.size_local]
    np.testing.assert_allclose(owned, 1.0 / cells[1], rtol=1e-12)
    n = finer.geometry.index_map().size_local
    points = np.unique(parallel.gather_rows(MPI.COMM_WORLD, finer.geometry.x[:n].round(9)), axis=0)
    edge = 2 * (3 if dim == 1 else 2) + 1
    assert len(points) == edge**dim
    everyone_has(points)


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.ranks(1, 2, 3)
def test_boundary(dim):
    """Outward normals, and parts of the boundary that stay what they are on a mesh of half the width."""
    mesh = {1: meshes.interval(3), 2: meshes.unit_square(2), 3: meshes.unit_cube(2)}[dim]
    V, held = fem.functionspace(mesh, ("Lagrange", 1)), dim - 1
    facets = locate_entities_boundary(mesh, held, lambda at: np.isclose(at[0], 1.0))
    ds = ufl.Measure("ds", domain=mesh, subdomain_data=meshtags(mesh, held, facets, np.full(len(facets), 4, np.int32)))
    u, v = symbolic.unknown(V), ufl.TestFunction(V)
    form = ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx + u * v * ds(4)
    found = boundary_of(Equation(form, {"boundary": 0.0}))
    middles = found.corners.mean(axis=1)
    assert len(middles) == {1: 2, 2: 8, 3: 48}[dim] and found.fluxes == (Equation(form, {"boundary": 0.0}).u,)
    assert np.abs(found.normals[found.kinds == 1] - np.eye(dim)[0]).max() < 1e-14
    assert (np.einsum("ni,ni->n", found.normals, middles - 0.5) > 0.49).all()
    everyone_has(found.corners)
    finer = halved(V)
    tags = found.halved().tags(finer.mesh)
    one, first = fem.Constant(finer.mesh, 1.0), ufl.SpatialCoordinate(finer.mesh)[0]
    for weight, kind, area in ((one, 1, 1.0), (first, 1, 1.0), (one, 0, 2.0 * dim - 1.0)):
        part = fem.form(weight * ufl.Measure("ds", domain=finer.mesh, subdomain_data=tags)(kind))
        assert mesh.comm.allreduce(fem.assemble_scalar(part)) == pytest.approx(area)
    # Linear test functions add up to one.
    hats = BoundaryHats(V, found, 4)
    assert mesh.comm.allreduce(hats.integrals(hats.points[-1] ** 2).sum()) == pytest.approx(1.0 if dim == 1 else 1 / 3)


def test_waves_in_steps():
    """u_tt = u_xx by finite elements is of second order, in space and time together."""
    mesh = meshes.interval(8)
    V = fem.functionspace(mesh, ("Lagrange", 1))
    u, v, x = symbolic.unknown(V), ufl.TestFunction(V), ufl.SpatialCoordinate(mesh)
    form = (u.dt.dt * v + ufl.inner(ufl.grad(u), ufl.grad(v))) * ufl.dx
    at_rest = {"boundary": 0.0, "initial": ufl.sin(ufl.pi * x[0]), "velocity": 0.0}
    gaps = []
    for space, steps in ((V, 16), (halved(V), 32)):
        equation = Equation(form, at_rest)
        boundary = boundary_of(equation)
        coarse = Discretised(equation, space, boundary.halved() if steps > 16 else boundary, steps, 1.0)
        shape = np.sin(np.pi * coarse.nodes[:, 0])
        nothing = lambda at, t: np.zeros(at.shape[1])  # noqa: E731
        states = coarse.solve(nothing, lambda at, t: np.sin(np.pi * at[0]), nothing)
        gaps.append(np.abs(states - np.cos(np.pi * coarse.times)[:, None] * shape).max())
    assert gaps[0] < 0.05 and 3.0 < gaps[0] / gaps[1] < 5.0


def _points(f: fem.Function) -> np.ndarray:
    points = f.function_space.element.interpolation_points
    return points() if callable(points) else points


@pytest.mark.slow
def test_sympy_is_missing():
    text = "import sys; sys.modules['sympy'] = None; import relax; relax.symbolic.solve"
    run = scripts.python("-c", text)
    assert run.returncode and "needs sympy" in run.stderr and "pip install sympy" in run.stderr
