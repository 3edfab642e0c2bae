"""Ten of the problems of ``make random-problems``: right derivatives, and the same numbers on any number of ranks."""

from __future__ import annotations

import pytest
from mpi4py import MPI
from random_maps import SAME, gaps, looked_at, numbers_of
from random_pdes import drawn

from relax import ReducedMap
from relax.base import parallel

COMM = MPI.COMM_WORLD
# Quick ones that differ: every kind of cell, elements of every kind, half of them in time.
SEEDS = [1, 5, 6, 9, 13, 21, 37, 61, 68, 77]


def numbers_on(comm, seed):
    problem, observable, _ = drawn(seed, comm)
    with ReducedMap(problem, observable) as G:
        return numbers_of(G, seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_derivatives_of_a_random_problem(seed):
    problem, observable, words = drawn(seed, COMM)
    with ReducedMap(problem, observable) as G:
        assert looked_at(G, seed)[1] == [], words


@pytest.mark.ranks(2, 3)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_problem_is_the_same_on_one_rank(seed):
    numbers = numbers_on(COMM, seed)
    alone = parallel.on_rank_0(COMM, lambda: numbers_on(MPI.COMM_SELF, seed))
    assert max(gaps(numbers, alone).values()) < SAME, seed
