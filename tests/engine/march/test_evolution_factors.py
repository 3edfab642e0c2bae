"""Equations in time: operators that stay are made once."""

from __future__ import annotations

import evolutions
import numpy as np
import pytest

from relax import FieldValues, Newton, ReducedMap, meshes
from relax.base.la.linear import LinearSolver


def make(evolution, **options):
    problem = evolution(meshes.unit_square(3))
    return ReducedMap(problem, FieldValues(problem.state.function_space), **options)


@pytest.fixture
def factored(monkeypatch):
    """How often an operator has been factored."""
    done, original = [], LinearSolver.factor
    monkeypatch.setattr(LinearSolver, "factor", lambda self, matrix: (done.append(1), original(self, matrix))[1])
    return done


def everything(G, m):
    rng = np.random.default_rng(4)
    with G.linearize(m) as lin:
        lin.vjp(rng.standard_normal((2, G.size_out)))
        lin.jvp(rng.standard_normal((5, G.size_in)))
        lin.hvp(rng.standard_normal(G.size_out), rng.standard_normal(G.size_in))


@pytest.mark.parametrize(
    ("name", "times"), [("heat", [1, 1]), ("heat_source_alone", [1, 1]), ("heat_sources", [1, 2]), ("boundary", [1, 1])]
)
def test_a_constant_operator_is_factored_once(factored, name, times):
    """For both directions and all runs; one with a shared control in it once a run."""
    with make(getattr(evolutions, name)) as G:
        m = G.present_control()
        everything(G, m)
        assert len(factored) == times[0]
        everything(G, m + 0.1)
        assert len(factored) == times[1]


def test_an_affine_operator_is_assembled_once(monkeypatch):
    """H0 + c X: its terms once for the map's shared fields, and never the whole again."""
    with make(evolutions.bilinear) as G:
        m = G.present_control()
        G(m)
        done, original = [], type(G.residual).assemble_matrix
        monkeypatch.setattr(type(G.residual), "assemble_matrix", lambda self, A: (done.append(1), original(self, A))[1])
        everything(G, m)
        # The base of the terms for this run; new factors take their sparsity from an assembly as well.
        created = len(G.solution.system.systems[0].operators.factors._factors)
        assert len(done) <= 1 + created


def test_many_runs_hold_few_factors():
    """Nonlinear steps need one operator a step; factors that nobody needs are used again."""
    with make(evolutions.burgers, solver=Newton(factor_memory=1.0)) as G:
        for i in range(3):
            everything(G, G.present_control() + 0.01 * i)
        assert len(G.solution.system.systems[0].operators.factors._factors) <= 2
