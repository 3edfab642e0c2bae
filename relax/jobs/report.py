"""What the reports of all kinds of runs share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from relax.base.log import logger
from relax.base.types import Array
from relax.jobs import view
from relax.jobs.folder import STRIP
from relax.jobs.kinds import Case, ControlCase, InverseCase, LandscapeCase, MisfitCase
from relax.jobs.view import series
from relax.jobs.view.fields import num_values
from relax.problem.evolution import Evolution
from relax.problem.problem import Problem


def sizes(found: InverseCase | ControlCase | MisfitCase) -> dict[str, int]:
    """Cells, values of state and control, observations, and steps of an equation in time. Local."""
    of_mesh = sizes_of_state(found.problem)
    steps = {key: of_mesh.pop(key) for key in ("steps",) if key in of_mesh}
    return {**of_mesh, "control": found.num_controls, "observations": found.G.size_out, **steps}


def sizes_of_state(problem: Problem | Evolution) -> dict[str, int]:
    """Cells, values of the state, and steps of an equation in time. Local."""
    domain = problem.mesh
    counted = {
        "cells": int(domain.topology.index_map(domain.topology.dim).size_global),
        "state": num_values(problem.state.function_space),
    }
    return counted | ({"steps": problem.num_steps} if isinstance(problem, Evolution) else {})


def opening(name: str, found: Case) -> str:
    """The first line of a run: what it is about and how large. Local."""
    if isinstance(found, LandscapeCase):
        counted = sizes_of_state(found.problem)
        unknowns, seen = f"{counted['state']} values", f"{found.ranks} rank(s)"
    else:
        counted = sizes(found)
        unknowns = f"{counted['state']} state and {counted['control']} control values"
        seen = f"{counted['observations']} observations, {found.ranks} rank(s)"
    steps = f"{counted['steps']} steps, " if "steps" in counted else ""
    return f"{name}: {unknowns}, {counted['cells']} cells, {steps}{seen}"


def misfit(found: InverseCase | ControlCase | MisfitCase, predicted: Array) -> float:
    """sqrt of the mean of ((y - d) / sigma)^2. Local."""
    return float(np.sqrt(np.mean(((predicted - found.data) / found.noise) ** 2)))


def time_unit(evolution: Evolution) -> str:
    """Of the time axis: "t", or "step" where the length of a step is not known. Local."""
    return "step" if evolution.dt is None else "t"


def write_strip(folder: Path, evolution: Evolution, found: series.Series) -> dict[str, Any]:
    """``strip.png``, and its entry in the summary. Collective."""
    strip = view.draw_strip(evolution.mesh.comm, folder / STRIP, found, time_unit(evolution))
    if strip is None:
        left_out(STRIP)
        return {}
    return {"strip": strip}


def left_out(name: str) -> None:
    """Say that a picture cannot be drawn here."""
    logger.warning("%s is left out: matplotlib is not installed", name)
