"""What the reports of all kinds of runs share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from dolfinx import fem
from mpi4py import MPI

from relax.base.types import Array
from relax.jobs.folder import STRIP
from relax.jobs.view.fields import num_values
from relax.jobs.view.series import Series
from relax.jobs.view.strip import draw_strip
from relax.problem.evolution import Evolution
from relax.problem.problem import Problem


def sizes(problem: Problem | Evolution, observations: int) -> dict[str, int]:
    """Cells, values of state and control, observations, and steps of an equation in time. Local."""
    control = 0
    for c in problem.controls:
        size = num_values(c.function_space) if isinstance(c, fem.Function) else int(np.size(c.value))
        control += size * (problem.num_steps if isinstance(problem, Evolution) and problem.is_per_step(c) else 1)
    of_mesh = sizes_of_state(problem)
    steps = {key: of_mesh.pop(key) for key in ("steps",) if key in of_mesh}
    return {**of_mesh, "control": control, "observations": observations, **steps}


def sizes_of_state(problem: Problem | Evolution) -> dict[str, int]:
    """Cells, values of the state, and steps of an equation in time. Local."""
    domain = problem.mesh
    counted = {
        "cells": int(domain.topology.index_map(domain.topology.dim).size_global),
        "state": num_values(problem.state.function_space),
    }
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


def time_unit(evolution: Evolution) -> str:
    """Of the time axis: "t", or "step" where the length of a step is not known. Local."""
    return "step" if evolution.dt is None else "t"


def write_strip(folder: Path, evolution: Evolution, trajectory: Series) -> dict[str, Any]:
    """``strip.png``, and its entry in the summary. Collective."""
    strip = draw_strip(evolution.mesh.comm, folder / STRIP, trajectory, time_unit(evolution))
    return {} if strip is None else {"strip": strip}
