"""What a user may hand over by mistake: an error of relax's own on every rank, that names the place and what to try."""

from __future__ import annotations

import numpy as np
import pytest
import ufl
from contract import raised_everywhere
from dolfinx import fem, mesh
from mpi4py import MPI

from relax import (
    BadInput,
    BlockPrior,
    FieldValues,
    Functional,
    IdentityPrior,
    Newton,
    PointValues,
    Problem,
    ReducedMap,
    RelaxError,
    SmoothnessPrior,
    Stack,
    TimeIntegral,
    clamp,
    clamp_boundary,
    gauss_newton,
    lbfgs,
    meshes,
    pdes,
)

COMM = MPI.COMM_WORLD


class Given:
    """A small problem and what belongs to it."""

    def __init__(self):
        self.mesh = meshes.unit_square(3)
        self.problem = pdes.poisson.diffusion(self.mesh, source=10.0)
        self.V = self.problem.state.function_space
        self.G = ReducedMap(self.problem, FieldValues(self.V))
        self.prior = IdentityPrior(self.G, std=1.0)
        self.y = np.zeros(self.G.size_out)

    def poisson(self, more, **other):
        """-Δu = m + more."""
        u, v, m = fem.Function(self.V), ufl.TestFunction(self.V), fem.Function(self.V)
        F = (ufl.inner(ufl.grad(u), ufl.grad(v)) - m * v - more(u) * v) * ufl.dx
        return Problem(residual=F, state=u, controls=[m], bcs=[clamp_boundary(self.V)], **other)


def single():
    return mesh.create_unit_square(COMM, 3, 3, dtype=np.float32)


def heat(g, **more):
    return pdes.heat.evolution(g.mesh, **{"num_steps": 2, "dt": 0.1, **more})


# Who is to blame, how: what must be said.
MISTAKES = {
    "an observable: text": (lambda g: ReducedMap(g.problem, "x"), "observable: expected a relax.Observable, got 'x'"),
    "an observable: its class": (lambda g: ReducedMap(g.problem, FieldValues), "the class; make one"),
    "a problem: text": (lambda g: ReducedMap("p", FieldValues(g.V)), "problem: expected a relax.Problem"),
    "a solver: text": (
        lambda g: ReducedMap(g.problem, FieldValues(g.V), solver="newton"),
        "solver: expected a relax.New",
    ),
    "Newton: steps": (
        lambda g: Newton(max_steps=-1),
        "Newton: max_steps: expected a whole number of at least 1, got -1",
    ),
    "Newton: rtol": (lambda g: Newton(rtol=np.nan), "Newton: rtol: expected a number in [0, 1), got nan"),
    "Newton: memory": (lambda g: Newton(factor_memory=-1), "Newton: factor_memory"),
    "Stack: a number": (lambda g: Stack([FieldValues(g.V), 3]), "Stack: observables[1]: expected a relax.Observable"),
    "points: a gradient": (
        lambda g: PointValues(ufl.grad(g.problem.state), np.zeros((1, 2))),
        "V: expected the function",
    ),
    "field values: a state": (lambda g: FieldValues(g.problem.state), "V: expected the function space"),
    "an integral in time: text": (lambda g: TimeIntegral(Functional(g.problem.state * ufl.dx), "x"), "step length"),
    "a prior: None": (lambda g: gauss_newton(g.G, g.y, noise=1.0, prior=None), "prior: expected a prior, such as"),
    "a prior: a number": (lambda g: lbfgs(g.G, g.y, noise=1.0, prior=3.0), "prior: expected a prior, such as"),
    "maps: two": (lambda g: gauss_newton([g.G, g.G], g.y, noise=1.0, prior=g.prior), "G: expected a map, such as"),
    "a block: numbers": (lambda g: BlockPrior([g.prior, 2.0]), "priors[1]: expected a prior, got float"),
    "a space: None": (
        lambda g: SmoothnessPrior(None, length=0.1, std=1.0),
        "V: expected the function space of a control",
    ),
    "rtol: 2": (
        lambda g: gauss_newton(g.G, g.y, noise=1.0, prior=g.prior, rtol=2.0),
        "rtol: expected a number in [0, 1)",
    ),
    "steps: a fraction": (lambda g: lbfgs(g.G, g.y, noise=1.0, prior=g.prior, max_steps=1.5), "max_steps: expected"),
    "degree: 0": (lambda g: pdes.poisson.diffusion(g.mesh, degree=0), "poisson: degree: expected a whole number of at"),
    "degree: -1": (lambda g: pdes.poisson.source(g.mesh, degree=-1), "poisson: degree"),
    "degree: 50": (lambda g: pdes.poisson.source(g.mesh, degree=50), "degree: expected a whole number from 1 to 12"),
    "degree: a fraction": (lambda g: heat(g, degree=1.5), "heat: degree"),
    "degree: of a wave": (lambda g: pdes.schrodinger.dipole(g.mesh, num_steps=2, dt=0.1, degree=0), "degree: expected"),
    "theta: text": (lambda g: heat(g, theta="x"), "theta"),
    "steps: none": (lambda g: heat(g, num_steps=0), "num_steps: expected a whole number of at least 1"),
    "a mesh: too many cells": (lambda g: meshes.unit_square(3_000_000_000), "at most 1e+12 parts in all"),
    "a mesh: far too many": (lambda g: meshes.interval(10**20), "at most 1e+12 parts in all"),
    "a mesh: float32": (lambda g: pdes.poisson.diffusion(single()), "expected a mesh of float64"),
    "a tag: too large": (lambda g: clamp(g.V, 99_999_999_999_999), "the mesh has no facet tag 99999999999999; it has"),
    "a clamp: an expression": (lambda g: clamp(g.V, "left", 2.0 * fem.Constant(g.mesh, 1.0)), "would not follow"),
    "a clamp: another space": (lambda g: clamp(g.V.sub(0) if g.V.num_sub_spaces else g.V, "left", g.other), "clamp"),
    "an external operator": (
        lambda g: g.poisson(lambda u: ufl.ExternalOperator(u, function_space=g.V)),
        "is an external operator, whose derivative DOLFINx does not know",
    ),
    "a name with a space": (lambda g: g.poisson(lambda u: 0 * u, name="a b"), "name: expected letters"),
}


@pytest.fixture(scope="module")
def given():
    made = Given()
    made.other = fem.Function(fem.functionspace(made.mesh, ("Lagrange", 2)))
    yield made
    made.G.close()


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_in_words(given, mistake):
    call, words = MISTAKES[mistake]
    assert words in str(raised_everywhere(RelaxError, lambda: call(given)))


def test_numbers_of_numpy_are_numbers(given):
    assert heat(given, theta=np.float64(0.5), num_steps=np.int64(3), dt=np.float64(0.1)).num_steps == 3
    assert issubclass(BadInput, ValueError)
