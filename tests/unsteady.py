"""What the tests of equations in time share: runs, errors, observations along a trajectory."""

import numpy as np
import ufl
from dolfinx import fem
from mpi4py import MPI

from relax import AtSteps, FieldValues, Functional, ReducedMap, Stack, TimeIntegral, parallel

COMM = MPI.COMM_WORLD


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
