"""Memory does not grow with the number of solves, nor of maps. `make soak` measures thousands of both."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from contract import everyone_has
from mpi4py import MPI
from problems import cubic_reaction

from relax import FieldValues, ReducedMap, meshes, pdes

pytestmark = pytest.mark.ranks(1, 2)

COMM = MPI.COMM_WORLD
# The C library asks the system for memory, and gives it back, in pieces of 128 kB: one piece on each side of the mark.
PIECES = 2 * 128 * 1024


def resident():
    """Resident memory of this process in bytes."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


def largest(value):
    return COMM.allreduce(value, op=MPI.MAX)


@pytest.mark.parametrize(
    ("pde", "options"),
    [(cubic_reaction, None), (pdes.poisson.diffusion, "amg_gmres")],
    ids=["nonlinear, direct", "linear, amg"],
)
@pytest.mark.slow
def test_derivatives_do_not_leak(pde, options):
    """Less than 1 kB a call: a state kept by mistake is 5 kB here, a matrix 50 kB, a factor more."""
    problem = pde(meshes.unit_square(24))
    with ReducedMap(problem, FieldValues(problem.state.function_space), options=options) as G:
        seed, rng = np.ones(G.size_out), np.random.default_rng(0)

        def calls(number):
            for _ in range(number):
                lin = G.linearize(0.1 * rng.standard_normal(G.size_in))
                lin.vjp(seed)
                lin.close()

        calls(100)
        before = resident()
        calls(200)
        assert largest(resident() - before) < 200 * 1024 + PIECES


def test_points_that_are_dropped_do_not_leak():
    """A point that is not closed gives its factor back all the same, at a moment on which the ranks agree."""
    problem = pdes.poisson.diffusion(meshes.unit_square(16))
    with ReducedMap(problem, FieldValues(problem.state.function_space)) as G:
        kept = []
        for i in range(20):
            kept = [*kept[-2:], G.linearize(np.full(G.size_in, 0.01 * i))]
        assert len(G.solution.operators.factors._factors) <= 5
        everyone_has(np.array(len(G.solution.operators.factors._factors)))


@pytest.mark.slow
@pytest.mark.parametrize("options", [None, "amg_cg"], ids=["direct", "amg"])
def test_closed_maps_leave_nothing(options):
    """On several ranks a matrix that is not destroyed is never freed: 190 kB for 1089 values (PETSc's garbage)."""
    domain = meshes.unit_square(32)
    matrix = 1089 * 7 * 12 / COMM.size

    def maps(number):
        for _ in range(number):
            problem = pdes.poisson.diffusion(domain)
            with ReducedMap(problem, FieldValues(problem.state.function_space), options=options) as G:
                G.linearize(np.zeros(G.size_in)).vjp(np.ones((4, G.size_out)))

    # The C library's heap takes its final shape late.
    maps(30)
    before = resident()
    maps(30)
    # A map has a matrix, a factor and the derivative in the control, each of at least this size.
    assert largest(resident() - before) < 30 * matrix / 2 + PIECES
