"""A control job: one number per step, driven so that the wave function after the last step is as wanted."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
from dolfinx import fem
from mpi4py import MPI

from relax.base.types import Array
from relax.errors import BadInput, BadProblem
from relax.invert.priors import IdentityPrior
from relax.jobs.control.job import ControlJob
from relax.jobs.setting.equation import build_equation, build_map, build_mesh, function_of
from relax.jobs.setting.optimised import Optimised
from relax.jobs.toml import JobFile
from relax.observe import Observable
from relax.pdes.schrodinger import Populations, eigenstates, norm
from relax.problem.evolution import Evolution

# How far from 1 the integral of |psi|^2 may be at the start: interpolation is no better on a coarse mesh.
_NORM_TOLERANCE = 1e-2


@dataclass(frozen=True)
class ControlSetting(Optimised):
    """What a job with [target] drives: a number per step, by the populations after the last one.

    Attributes:
        watched: populations of the lowest states, up to the last one in the target.
        wanted: (watched.size,) what they are to be after the last step.
    """

    problem: Evolution
    watched: Observable
    wanted: Array

    phase, unit = "control", "tolerances"


def fidelity(populations: Array, wanted: Array) -> float:
    """(sum of sqrt(p_i q_i))^2 for populations p and wanted ones q that add up to 1: 1 where they are equal."""
    return float(np.sqrt(np.clip(populations, 0.0, None) * wanted).sum() ** 2)


def build(file: JobFile[ControlJob], comm: MPI.Comm) -> ControlSetting:
    """The control job of a file. Collective."""
    job = file.job
    problem = build_equation(file, build_mesh(job.mesh, file.root, comm, trust=file.trust_mesh))
    if not isinstance(problem, Evolution):
        raise BadInput(f"[target]: {job.pde.name} is no equation in time; expected one that returns a relax.Evolution")
    _check_control(job, problem)
    states = _states(file, problem)
    _check_norm(problem)
    V = problem.state.function_space
    watched = Populations(V, states)
    if job.target.state is not None:
        observable: Observable = Populations(V, states[-1:])
        data: Array = np.ones(1)
        wanted: Array = np.eye(len(states))[-1]
    else:
        observable = watched
        data = wanted = np.array(job.target.populations)
    G = build_map(job.solver, problem, observable)
    prior = IdentityPrior(G, std=job.prior.std, mean=job.prior.mean)
    # Under layout = "owned" the numbers are rank 0's.
    start = _first_guess(job, problem.num_steps)[: G.size_in]
    noise = np.full(len(data), job.target.tolerance)
    return ControlSetting(problem, G, prior, start, data, noise, watched, wanted)


def _check_control(job: ControlJob, problem: Evolution) -> None:
    controls = problem.controls
    one = len(controls) == 1 and isinstance(controls[0], fem.Constant) and not controls[0].ufl_shape
    if not one or not problem.is_per_step(controls[0]):
        kinds = [f"{type(c).__name__}{' per step' if problem.is_per_step(c) else ''}" for c in controls]
        raise BadInput(
            f"[pde] name: {job.pde.name} has as controls {', '.join(kinds) or 'none'}; a job with a [target] "
            "drives one number per step, so expected one scalar fem.Constant in per_step. For other controls write a "
            "script with relax.lbfgs"
        )


def _states(file: JobFile[ControlJob], problem: Evolution) -> list[fem.Function]:
    """The eigenstates of the static potential, up to the last one in the target. Collective."""
    target = file.job.target
    V = problem.state.function_space
    element = V.ufl_element()
    num = target.state if target.populations is None else len(target.populations)
    try:
        lowest = eigenstates(problem.mesh, _potential(file, problem), int(num or 0), degree=element.degree)
    except BadInput as error:
        raise BadInput(f"[target]: the eigenstates: {error}") from error
    try:
        Populations(V, lowest.states[:1])
    except BadProblem as error:
        raise BadInput(
            f"[target]: {file.job.pde.name}: {error}; states and populations are those of a wave function"
        ) from error
    return lowest.states


def _check_norm(problem: Evolution) -> None:
    """See that the first wave function has norm 1: populations of another would not be shares of one. Collective."""
    psi = problem.initial_state
    norm_psi = float(norm(psi).value(psi)[0])
    if not abs(norm_psi - 1.0) <= _NORM_TOLERANCE:
        raise BadInput(
            f"[pde] initial: expected a wave function with norm 1, the integral of |psi|^2, got {norm_psi:.6g}; scale "
            "it, or start from an eigenstate"
        )


def _potential(file: JobFile[ControlJob], problem: Evolution) -> Any:
    """The static potential: that of [target], or the one that goes to the function of [pde]."""
    job = file.job
    if job.target.potential is not None:
        return job.target.potential
    if "potential" in job.pde.keywords:
        return job.pde.keywords["potential"]
    known = inspect.signature(function_of(file, problem.mesh.comm)).parameters.get("potential")
    if known is None or known.default is known.empty:
        raise BadInput(
            f"[target] potential: {job.pde.name} has no keyword `potential`, so the eigenstates of which static "
            "potential are meant is not known; give the number, or the keyword to the function"
        )
    return known.default


def _first_guess(job: ControlJob, num_steps: int) -> Array:
    """(num_steps,) numbers around the prior's mean, not all zero."""
    start = job.start
    amplitude = start.amplitude if start.amplitude is not None else 0.1 * job.prior.std
    middle = (np.arange(num_steps) + 0.5) / num_steps
    if start.shape == "constant":
        shape: Array = np.ones(num_steps)
    elif start.shape == "sine":
        shape = np.sin(2.0 * np.pi * start.periods * middle)
    else:
        shape = np.random.default_rng(start.seed).standard_normal(num_steps)
    return np.asarray(job.prior.mean + amplitude * shape)
