"""Poisson's residual and boundary data by tag, solved here by plain DOLFINx calls: no solver of relax takes part."""

from pathlib import Path

import numpy as np
import pytest
import ufl
from dolfinx import fem
from dolfinx.fem import petsc
from mpi4py import MPI
from petsc4py import PETSc

from relax import meshes
from relax.base import parallel
from relax.errors import BadInput
from relax.pdes import poisson

COMM = MPI.COMM_WORLD
MESHES = Path(__file__).resolve().parents[2] / "meshes"
MAKERS = [poisson.diffusion, poisson.source]


def solved(problem):
    """Solve a problem that is linear in its state, at the present control; returns the state."""
    u, F, bcs = problem.state, problem.residual, list(problem.bcs)
    jacobian, residual = fem.form(ufl.derivative(F, u)), fem.form(F)
    A = petsc.assemble_matrix(jacobian, bcs=bcs)
    A.assemble()
    b = petsc.assemble_vector(residual)
    petsc.apply_lifting(b, [jacobian], bcs=[bcs], x0=[u.x.petsc_vec], alpha=-1.0)
    b.ghostUpdate(addv=PETSc.InsertMode.ADD, mode=PETSc.ScatterMode.REVERSE)
    petsc.set_bc(b, bcs, u.x.petsc_vec, -1.0)
    solver = PETSc.KSP().create(COMM)
    solver.setOperators(A)
    solver.setType("preonly")
    solver.getPC().setType("lu")
    solver.getPC().setFactorSolverType("mumps")
    step = b.duplicate()
    solver.solve(b, step)
    u.x.petsc_vec.axpy(-1.0, step)
    u.x.scatter_forward()
    for thing in (solver, A, b, step):
        thing.destroy()
    return u


def l2(expression, domain):
    value = fem.assemble_scalar(fem.form(ufl.inner(expression, expression) * ufl.dx(domain=domain)))
    return np.sqrt(parallel.sum_over_ranks(COMM, np.array([value]))[0])


def cube_or_square(dim, n):
    return meshes.unit_square(n) if dim == 2 else meshes.unit_cube(n)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dim", "degree", "sizes"), [(2, 1, (8, 16)), (2, 2, (4, 8)), (2, 3, (4, 8)), (3, 1, (6, 12)), (3, 2, (3, 6))]
)
def test_diffusion_converges(dim, degree, sizes):
    """u = prod sin(pi x_i), m = x_0 (which P1 holds exactly): L2 rate degree + 1."""
    errors = []
    for n in sizes:
        domain = cube_or_square(dim, n)
        x = ufl.SpatialCoordinate(domain)
        exact = np.prod([ufl.sin(ufl.pi * x[i]) for i in range(dim)])
        f = -ufl.div(ufl.exp(x[0]) * ufl.grad(exact))
        problem = poisson.diffusion(domain, source=f, degree=degree)
        problem.controls[0].interpolate(lambda x: x[0])
        errors.append(l2(solved(problem) - exact, domain))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(degree + 1, abs=0.15)


@pytest.mark.parametrize("cell", ["triangle", "quadrilateral"])
def test_source_converges(cell):
    """The control of `source` is the right-hand side."""
    errors = []
    for n in (8, 16):
        domain = meshes.unit_square(n, cell=cell)
        x = ufl.SpatialCoordinate(domain)
        exact = ufl.sin(ufl.pi * x[0]) * ufl.sin(ufl.pi * x[1])
        problem = poisson.source(domain, conductivity=2.0)
        problem.controls[0].interpolate(lambda x: 4 * np.pi**2 * np.sin(np.pi * x[0]) * np.sin(np.pi * x[1]))
        errors.append(l2(solved(problem) - exact, domain))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.15)


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("cell", ["triangle", "quadrilateral"])
def test_boundary_data_by_tag(cell):
    """u = 1 + 2x + y is in the space, with k = 3: clamped on left and bottom, its flux given on right and top."""
    domain = meshes.unit_square(4, cell=cell)
    x = ufl.SpatialCoordinate(domain)
    exact = 1 + 2 * x[0] + x[1]
    dirichlet = {"left": exact, 3: lambda x: 1 + 2 * x[0]}
    neumann = {"right": 6.0, "top": lambda x: 3.0}
    problem = poisson.source(domain, conductivity=3.0, dirichlet=dirichlet, neumann=neumann)
    assert l2(solved(problem) - exact, domain) < 1e-12
    problem = poisson.diffusion(domain, source=0.0, dirichlet=dirichlet, neumann=neumann)
    problem.controls[0].interpolate(lambda x: np.full(x.shape[1], np.log(3.0)))
    assert l2(solved(problem) - exact, domain) < 1e-12


def test_no_data_means_no_flux():
    """Left clamped, nothing said elsewhere: u = x - x^2/2 for a source of 1, exactly in P2."""
    domain = meshes.unit_square(3)
    x = ufl.SpatialCoordinate(domain)
    problem = poisson.diffusion(domain, degree=2, dirichlet={"left": 0.0})
    assert l2(solved(problem) - (x[0] - x[0] ** 2 / 2), domain) < 1e-12


@pytest.mark.ranks(1, 2)
def test_conductivity_by_material():
    domain = meshes.read(MESHES / "plate_with_holes.msh")
    Q = fem.functionspace(domain, ("DG", 0))
    k = fem.Function(Q)
    k.x.array[meshes.cells(domain, "matrix")] = 1.0
    k.x.array[meshes.cells(domain, "inclusion")] = 5.0
    problem = poisson.source(domain, conductivity=k, dirichlet={"left": 0.0, "right": 1.0}, neumann={"holes": 0.0})
    u = solved(problem)
    least, most = -parallel.largest(COMM, -u.x.array.min()), parallel.largest(COMM, u.x.array.max())
    assert least == pytest.approx(0.0, abs=1e-9) and most == pytest.approx(1.0, abs=1e-9)


def test_controls_states_names():
    domain = meshes.unit_square(2)
    diffusion, source = poisson.diffusion(domain, degree=2), poisson.source(domain, degree=2)
    (m,), (f,) = diffusion.controls, source.controls
    assert (diffusion.name, m.name) == ("poisson_diffusion", "log_conductivity")
    assert (source.name, f.name) == ("poisson_source", "source")
    assert m.function_space.ufl_element().degree == 1
    assert f.function_space == source.state.function_space
    assert diffusion.state.function_space.ufl_element().degree == 2


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("data", "match"),
    [
        ({"neumann": {"left": 1.0}}, "without dirichlet"),
        ({"dirichlet": {}}, "up to a constant"),
        ({"dirichlet": {"left": 0.0}, "neumann": {"left": 1.0}}, "left"),
        ({"dirichlet": {"lft": 0.0}}, "no facet tag 'lft'"),
        ({"dirichlet": {"left": 0.0}, "neumann": {7: 1.0}}, "no facet tag 7"),
        ({"dirichlet": {"left": float("inf")}}, "finite"),
    ],
)
def test_bad_boundary_data(make, data, match):
    with pytest.raises(BadInput, match=match):
        make(meshes.unit_square(2), **data)


@pytest.mark.parametrize("k", [0.0, -1.0, lambda x: x[0] - 0.5, float("nan")])
def test_conductivity_is_positive(k):
    with pytest.raises(BadInput):
        poisson.source(meshes.unit_square(2), conductivity=k)
