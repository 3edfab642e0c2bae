"""The table of optimisers, and one more in it: what a new method has to bring."""

from __future__ import annotations

import inspect

import jobs
import numpy as np
import pytest
from dolfinx import fem, mesh
from fake_map import FakeMap
from mpi4py import MPI

import relax
from relax import SmoothnessPrior
from relax.base.fem.layout import SpaceLayout
from relax.errors import BadInput
from relax.invert import METHODS, Optimiser, Status
from relax.invert.cg import SearchDirection
from relax.invert.loop import iterate
from relax.invert.objective import Objective
from relax.jobs import run_job, toml
from relax.jobs.toml import JobFile

COMM = MPI.COMM_WORLD
LAYOUTS = ["replicated", "owned"]


class Steepest:
    """Down the gradient in the metric of the prior, as far as the last step says (Barzilai and Borwein 1988)."""

    length = 0.1

    def direction(self, here, *, start_size, goal):
        return SearchDirection(-here.Cg, length=self.length)

    def told(self, step, before, after):
        dot, y = after.point.objective.G.dot, after.g - before.g
        self.length = max(dot(step, y) / dot(y, after.Cg - before.Cg), 0.01)

    def state_dict(self, layout):
        return {"length": self.length}

    def load_state_dict(self, state, layout):
        self.length = state["length"]


def steepest_descent(
    G, data, m0=None, *, noise, prior, rtol=1e-6, atol=1e-8, max_steps=100, callback=None, checkpoint=None
):
    objective = Objective(G, data, noise, prior)
    stops = {"rtol": rtol, "atol": atol, "max_steps": max_steps, "max_halvings": 20}
    return iterate(objective, Steepest(), m0, **stops, callback=callback, checkpoint=checkpoint)


@pytest.fixture
def methods(monkeypatch):
    monkeypatch.setitem(METHODS, "steepest_descent", Optimiser(f"{__name__}:steepest_descent", "Steepest descent", 100))
    return METHODS


def setting(layout):
    """exp(m) averaged over two halves of a square, a prior, data."""
    V = fem.functionspace(mesh.create_unit_square(COMM, 6, 6), ("Lagrange", 1))
    numbering, weight = SpaceLayout(V), fem.Function(V)
    W = []
    for sign in (1.0, -1.0):
        weight.interpolate(lambda x, sign=sign: 1.0 + sign * np.tanh(4.0 * (x[0] - 0.5)))
        values = numbering.gather(weight.x.array[: numbering.num_owned])
        W.append(values / values.sum())
    G = FakeMap(V, np.array(W), layout=layout, f=FakeMap.EXP)
    return G, np.array([1.5, 0.7]), SmoothnessPrior(V, length=0.6, std=0.5, layout=layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_method_finds_the_same_minimum(methods, layout):
    minima = {}
    for name, method in methods.items():
        G, data, prior = setting(layout)
        seen = []
        result = method.run(
            G, data, None, noise=0.2, prior=prior, rtol=1e-9, atol=0.0, max_steps=100,
            callback=lambda entry, m, seen=seen: seen.append(entry["step"]),
        )  # fmt: skip
        assert result.raise_if_failed().status is Status.converged and G.open == 0
        assert seen == list(range(len(result.history))) and result.stats.outer == len(seen) - 1 > 1
        costs = [entry["cost"] for entry in result.history]
        assert all(b <= a * (1 + 1e-12) for a, b in zip(costs, costs[1:], strict=False))
        minima[name] = result.value
        prior.close()
    assert set(minima) >= {"gauss_newton", "lbfgs", "steepest_descent"}
    # The gradient is 1e-9 of some 10 prior standard deviations, and bounds the distance there (H >= C⁻¹).
    for value in minima.values():
        np.testing.assert_allclose(value, minima["gauss_newton"], rtol=0, atol=1e-7)


@pytest.mark.ranks(1, 2)
def test_a_job_takes_it(methods, shared_tmp):
    """By its name, with the number of steps that the table has for it; its figure says the label."""
    text = jobs.changed(('name = "gauss_newton"', 'name = "steepest_descent"\nrtol = 1e-9\natol = 7.0'))
    file = JobFile(toml.parse(text), text, shared_tmp / "job.toml", shared_tmp)
    outcome = run_job(file, folder=shared_tmp / "out", show=False)
    assert outcome.converged and outcome.summary["method"] == "steepest_descent"
    assert file.job.method.max_steps == 100 and outcome.summary["steps"] > 1
    with pytest.raises(BadInput, match="did you mean 'steepest_descent'"):
        toml.parse(text.replace("steepest", "steepst"))


def test_a_method_that_goes_nowhere_is_stopped(methods):
    """Directions uphill, and steps of no length: the loop says so, whatever the method."""
    for factor, status in ((1.0, Status.line_search_failed), (-1e-16, Status.small_step)):
        G, data, prior = setting("replicated")
        method = Steepest()
        method.direction = lambda here, factor=factor, **_: SearchDirection(factor * here.Cg)
        objective = Objective(G, data, 0.2, prior)
        start = prior.mean + 1.0
        result = iterate(objective, method, start, rtol=1e-9, atol=0, max_steps=9, max_halvings=5, callback=None)
        assert result.status is status and G.open == 0
        prior.close()


def test_the_table_names_what_is_public():
    for name, method in METHODS.items():
        assert getattr(relax, name) is method.run
        taken = set(inspect.signature(method.run).parameters)
        assert {"G", "data", "m0", "noise", "prior", "rtol", "atol", "max_steps", "callback"} <= taken
        assert method.label and inspect.signature(method.run).parameters["max_steps"].default == method.max_steps
