"""What the tests of equations in time share: runs, errors, observations along a trajectory."""

import numpy as np
import pytest
import ufl
from contract import same
from dolfinx import fem
from evolutions import STEPS, parts
from mpi4py import MPI

from relax import AtSteps, FieldValues, Functional, ReducedMap, Stack, TimeIntegral
from relax.base import parallel

COMM = MPI.COMM_WORLD
#: How states can be held; see ``storage``.
HELD = ["all states", "Revolve"]


def along_the_way(evolution):
    """The state after the first step and at the end, and the integral over time of a quartic."""
    u = evolution.state
    quartic = Functional((ufl.inner(u, u) ** 2 + ufl.inner(u, u)) * ufl.dx)
    at_steps = AtSteps(FieldValues(u.function_space), [1, -1])
    return Stack([at_steps, TimeIntegral(quartic, 0.05)])


def last_state(evolution):
    """u_N at the controls that the evolution was made with."""
    with ReducedMap(evolution, FieldValues(evolution.state.function_space)) as G:
        G(G.present_control())
    return evolution.state


def l2(expression, domain):
    """The L2 norm over the domain."""
    value = fem.assemble_scalar(fem.form(ufl.inner(expression, expression) * ufl.dx(domain=domain)))
    return np.sqrt(parallel.sum_over_ranks(COMM, np.array([value]))[0])


def final_error(evolution, exact, time=None):
    """|u_N - exact| at the last step; ``exact`` may hold the Constant ``time``."""
    u = last_state(evolution)
    if time is not None:
        time.value = evolution.time_at(evolution.num_steps)
    error = l2(u - exact, evolution.mesh)
    if time is not None:
        time.value = 0.0
    return error


def orders(errors):
    """log2 of the ratios of neighbours."""
    return np.log2(np.array(errors[:-1]) / np.array(errors[1:]))


def storage(held, num_steps=STEPS):
    """None, or a schedule that holds fewer states than there are."""
    if held == "all states":
        return None
    return pytest.importorskip("checkpoint_schedules").Revolve(num_steps, 1 if num_steps == 1 else 2)


def own_step(mesh):
    """What a step is written in: a space, a state, its test function and the state before."""
    V, u, v = parts(mesh)
    return V, u, v, fem.Function(V, name="previous")


def levels(u, num_steps):
    """The mean of the state at every step, on a domain of unit measure."""
    return AtSteps(Functional(u * ufl.dx), range(num_steps + 1))


def products(lin, seed=3):
    """The value and every product of a point, one and several directions at a time."""
    rng = np.random.default_rng(seed)
    size_out, size_in = lin.value.size, lin.vjp(np.zeros(lin.value.size)).size
    W, D = rng.standard_normal((5, size_out)), rng.standard_normal((2, size_in))
    return [lin.value, lin.vjp(W[0]), lin.jvp(D[0]), lin.hvp(W[0], D[0]), lin.vjp(W), lin.hvp(W[:2, None], D[None, :])]


def all_same(found, expected):
    """The same arrays, one by one."""
    for a, b in zip(found, expected, strict=True):
        same(a, b)
