"""How a misfit weighs: deviations, covariances and precisions of noise against each other, fields against integrals."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import ufl
from dolfinx import fem
from fake_map import FakeMap
from mpi4py import MPI

import relax
from relax import BadInput, BadProblem, Misfit
from relax.base.fem.layout import SpaceLayout
from relax.invert.objective import Objective
from relax.invert.priors import IdentityPrior

COMM = MPI.COMM_WORLD
SIGMA = np.array([0.1, 0.2, 0.5])


def setting(layout="replicated"):
    V = fem.functionspace(relax.meshes.unit_square(2), ("Lagrange", 1))
    W = np.random.default_rng(3).standard_normal((3, SpaceLayout(V).size))
    G = FakeMap(V, W, layout=layout, f=FakeMap.EXP)
    return G, IdentityPrior(G, std=1.0)


def everything(misfit, prior):
    """A misfit, the slope of J along a direction, and what the map makes of the curvature."""
    G = misfit.G
    here = Objective(misfit + prior).at(0.1 * np.ones(G.size_in))
    v = np.full(G.size_in, 0.3)
    return here.misfit, G.dot(here.gradient(), v), G.dot(here.data_hessian(v, newton=True), v)


@pytest.mark.ranks(1, 2)
def test_one_noise_in_all_its_forms():
    G, prior = setting()
    d = np.array([1.0, -0.5, 0.3])
    wanted = everything(Misfit(G, d, SIGMA), prior)
    assert wanted[0] == pytest.approx(0.5 * np.sum(((G.W @ np.exp(np.full(G.size_in, 0.1)) - d) / SIGMA) ** 2))
    turned = np.diag(SIGMA**2)
    for noise in (turned, scipy.sparse.csr_array(turned), scipy.sparse.coo_matrix(turned)):
        assert np.allclose(everything(Misfit(G, d, noise), prior), wanted, rtol=1e-12)
        inverse = np.diag(1.0 / SIGMA**2) if noise is turned else type(noise)(np.diag(1.0 / SIGMA**2))
        assert np.allclose(everything(Misfit(G, d, precision=inverse), prior), wanted, rtol=1e-12)
    assert np.allclose(
        everything(Misfit(G, d, noise=2.0), prior)[::2], 0.25 * np.array(everything(Misfit(G, d), prior))[::2]
    )


def test_correlated_noise_is_that_of_independent_sums():
    """Noise R⁻¹ ξ: the misfit of R G and R d with independent noise."""
    G, prior = setting()
    R, d = np.array([[2.0, 0.0, 0.0], [-1.0, 3.0, 0.0], [0.5, 0.7, 1.5]]), np.array([1.0, -0.5, 0.3])
    V = fem.functionspace(relax.meshes.unit_square(2), ("Lagrange", 1))
    independent = Misfit(FakeMap(V, R @ G.W, f=FakeMap.EXP), R @ d)
    covariance = np.linalg.inv(R.T @ R)
    for misfit in (
        Misfit(G, d, covariance), Misfit(G, d, precision=R.T @ R),
        Misfit(G, d, scipy.sparse.csr_array(covariance)), Misfit(G, d, precision=scipy.sparse.csr_array(R.T @ R)),
    ):  # fmt: skip
        assert np.allclose(everything(misfit, prior), everything(independent, prior), rtol=1e-10)
        root = misfit.weighing.root(np.eye(3))
        assert root is None or np.allclose(root @ root.T, R.T @ R)
    # By the matrix of G, in the space of data, and by products: the same control.
    data = Misfit(G, d, covariance) + prior
    by_products = relax.minimize(data, method="newton", rtol=1e-12).value
    assert np.allclose(relax.minimize(data, method="gauss_newton", rtol=1e-12).value, by_products, rtol=0, atol=1e-6)


@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize("element", [("Lagrange", 2), ("DG", 1), ("Lagrange", 1, (2,))], ids=str)
def test_fields_are_weighed_by_their_integral(element):
    """½ ∫ (u − d)² / σ² of plain DOLFINx, for the solution u = m of a projection."""
    mesh = relax.meshes.unit_square(3)
    V = fem.functionspace(mesh, element)
    u, m, v = fem.Function(V), fem.Function(V), ufl.TestFunction(V)
    problem = relax.Problem(residual=ufl.inner(u - m, v) * ufl.dx, state=u, controls=[m], name="same")
    values = relax.FieldValues(V)
    G = relax.ReducedMap(problem, values)
    point = np.random.default_rng(1).standard_normal(G.size_in)
    data = np.random.default_rng(2).standard_normal(G.size_out)
    here = Objective(Misfit(G, data, noise=0.5, precision="L2")).at(point)
    d = fem.Function(V)
    relax.fill(d, data)
    form = 0.5 * ufl.inner(u - d, u - d) / 0.25 * ufl.dx
    assert here.misfit == pytest.approx(COMM.allreduce(fem.assemble_scalar(fem.form(form)), op=MPI.SUM), rel=1e-12)
    assert here.noise_levels == pytest.approx(np.sqrt(2.0 * here.misfit / (1.0 if V.num_sub_spaces == 0 else 2.0)))


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"data": [1.0, 2.0]}, "data: expected shape"),
        ({"data": [1.0, np.nan, 2.0]}, "data: 1 of 3"),
        ({"noise": 0.0}, "noise: expected positive"),
        ({"noise": -1.0}, "noise: expected positive"),
        ({"noise": np.ones(2)}, "noise: expected shape"),
        ({"noise": np.ones((2, 2))}, "noise: expected shape"),
        ({"noise": np.ones((2, 3))}, "expected a matrix of shape"),
        ({"noise": scipy.sparse.eye_array(2)}, "expected a matrix of shape"),
        ({"noise": np.triu(np.ones((3, 3)))}, "noise: expected a symmetric"),
        ({"noise": np.ones((3, 3))}, "noise: expected a covariance matrix"),
        ({"precision": np.diag([1.0, -1.0, 1.0])}, "precision: expected a precision matrix"),
        ({"precision": scipy.sparse.csr_array(np.diag([1.0, -1.0, 1.0]))}, "expected a precision matrix"),
        ({"precision": scipy.sparse.csr_array(np.diag([1.0, np.nan, 1.0]))}, "NaN"),
        ({"precision": np.eye(3), "noise": 0.1}, "noise: expected none beside"),
        ({"precision": "l2"}, "expected a matrix or 'L2'"),
        ({"precision": "L2"}, "the integral of what relax.FieldValues sees"),
    ],
)
def test_bad_noise(arguments, words):
    G, _ = setting()
    with pytest.raises(BadInput, match=words):
        Misfit(G, **arguments)


def test_what_is_no_map():
    with pytest.raises(BadInput, match="Misfit: G: expected a map"):
        Misfit(3.0)
    V = fem.functionspace(relax.meshes.unit_square(2), ("Lagrange", 1))
    with pytest.raises(BadInput, match="expected a map among the terms"):
        relax.minimize(Misfit(relax.PointValues(V, [(0.5, 0.5)])), np.zeros(3))
    s = fem.Function(V)
    E = (0.5 * ufl.inner(ufl.grad(s), ufl.grad(s)) + (theta := fem.Function(V)) * s) * ufl.dx
    energy = relax.Energy(E=E, state=s, parameters=[theta], bcs=[relax.clamp_boundary(V)])
    with pytest.raises(BadProblem, match="G is a map"):
        relax.train.Aeqprop(energy, Misfit(setting()[0]), rate=1.0, nudging=1.0)
