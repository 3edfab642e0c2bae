"""The numbers that inverses are made with: refused when they are made, on every rank, where one rank's are wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from contract import COMM, raised_everywhere
from problems import POINTS

import relax
from relax.train.inverses.gauss_newton import gauss_newton_inverse
from relax.train.inverses.lbfgs import lbfgs_inverse


def linear_map(comm=COMM):
    problem = relax.pdes.poisson.source(relax.meshes.unit_square(3, comm=comm))
    return relax.ReducedMap(problem, relax.PointValues(problem.state.function_space, POINTS))


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    ("setting", "wrong", "right"),
    [
        ("rcond", (2.0, 1.0, -1.0, np.nan, "a", True), (0.0, np.float32(0.5), np.array(0.1))),
        ("damping", (-1.0, np.inf, np.nan, "a", True, [1.0], 10**400), (0, np.int64(1), torch.tensor(0.5))),
        ("steps", (0, 2.0, True), (np.int64(2),)),
        ("max_cg", (0, 1.5, "a"), (1,)),
        ("cg_rtol", (-1.0, 1.0, np.nan, None), (0.0,)),
        ("noise", (0.0, -1.0, np.nan, "a", True), (1, np.int64(1), np.array(2.0), torch.tensor(0.5))),
    ],
)
def test_settings_of_gauss_newton(setting, wrong, right):
    good = right[0]
    with linear_map() as G:
        for value in wrong:
            mine = value if COMM.rank == COMM.size - 1 else good
            words = str(raised_everywhere(relax.BadInput, lambda v=mine: gauss_newton_inverse(G, **{setting: v})))
            assert f"gauss_newton_inverse: {setting}: expected" in words
        for value in right:
            assert np.isfinite(gauss_newton_inverse(G, **{setting: value})(np.ones(G.size_out))).all()


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    ("setting", "wrong", "right"),
    [
        ("max_steps", (0, -1, 2.0, True), 1),
        ("rtol", (1.0, -1.0, np.nan, "a"), 0.0),
        ("atol", (-1.0, np.inf, np.nan, True), np.float64(0.0)),
        ("memory", (-1, 1.0), 0),
        ("max_halvings", (-1, 1.0), np.int64(5)),
        ("noise", (0.0, "a", True), 1),
        ("callback", (print,), None),
        ("m0", (0.0,), None),
        ("max_step", (3,), None),
    ],
)
def test_settings_of_lbfgs(setting, wrong, right):
    with linear_map() as G:
        prior = relax.IdentityPrior(G, std=1.0)
        given = {"noise": 1.0, "prior": prior}
        for value in wrong:
            words = str(raised_everywhere(relax.BadInput, lambda v=value: lbfgs_inverse(G, **(given | {setting: v}))))
            assert f"lbfgs_inverse: {setting}: expected" in words
        if right is not None:
            inverse = lbfgs_inverse(G, **(given | {setting: right}))
            assert np.isfinite(inverse.at(np.zeros(G.size_in))(np.ones(G.size_out))).all()


@pytest.mark.ranks(2)
def test_a_wrong_noise_of_one_team_is_everyones_error():
    teams = relax.Teams(COMM, 1)
    with linear_map(teams.space) as G:
        for value in (-1.0, [1.0, np.nan, 1.0]):
            mine = value if COMM.rank == COMM.size - 1 else 1.0
            raised_everywhere(relax.BadInput, lambda v=mine: gauss_newton_inverse(G, noise=v, teams=teams))
    teams.close()
