"""What the reports of all kinds of runs share."""

from __future__ import annotations

import numpy as np
from dolfinx import fem
from mpi4py import MPI

from relax.base.types import Array
from relax.jobs.view.fields import num_values
from relax.problem.evolution import Evolution
from relax.problem.problem import Problem


def sizes(problem: Problem | Evolution, observations: int | None = None) -> dict[str, int]:
    """Cells, values of the state, of a control that is observed, observations, steps of an equation in time. Local."""
    cells = problem.mesh.topology.index_map(problem.mesh.topology.dim).size_global
    counted = {"cells": int(cells), "state": num_values(problem.state.function_space)}
    if observations is not None:
        control = 0
        for c in problem.controls:
            size = num_values(c.function_space) if isinstance(c, fem.Function) else int(c.value.size)
            control += size * (problem.num_steps if isinstance(problem, Evolution) and problem.is_per_step(c) else 1)
        counted |= {"control": control, "observations": observations}
    return counted | ({"steps": problem.num_steps} if isinstance(problem, Evolution) else {})


def opening(name: str, sizes: dict[str, int], comm: MPI.Comm) -> str:
    """The first line of a run: what it is about and how large. Local."""
    fitted = "control" in sizes
    values = f"{sizes['state']} state and {sizes['control']} control values" if fitted else f"{sizes['state']} values"
    steps = f"{sizes['steps']} steps, " if "steps" in sizes else ""
    seen = f"{sizes['observations']} observations, " if fitted else ""
    return f"{name}: {values}, {sizes['cells']} cells, {steps}{seen}{comm.size} rank(s)"


def misfit(data: Array, noise: Array, predicted: Array) -> float:
    """sqrt of the mean of ((y - d) / sigma)^2. Local."""
    return float(np.sqrt(np.mean(((predicted - data) / noise) ** 2)))
