"""What the reports of all kinds of runs share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from dolfinx import fem

from relax import output, plot, series
from relax.case import Case
from relax.evolution import Evolution
from relax.log import logger

Array = npt.NDArray[np.float64]


def sizes(found: Case) -> dict[str, int]:
    """Cells, values of state and control, observations, and steps of an equation in time. Local."""
    problem, control = found.problem, found.control
    domain = problem.mesh
    counted = {
        "cells": int(domain.topology.index_map(domain.topology.dim).size_global),
        "state": _length(problem.state.function_space),
        "control": _length(control.function_space) if isinstance(control, fem.Function) else _num_steps(problem),
        "observations": found.G.size_out,
    }
    return counted | ({"steps": problem.num_steps} if isinstance(problem, Evolution) else {})


def _length(V: fem.FunctionSpace) -> int:
    return int(V.dofmap.index_map.size_global * V.dofmap.index_map_bs)


def _num_steps(problem: object) -> int:
    return problem.num_steps if isinstance(problem, Evolution) else 0


def opening(name: str, found: Case) -> str:
    """The first line of a run: what it is about and how large. Local."""
    counted = sizes(found)
    steps = f"{counted['steps']} steps, " if "steps" in counted else ""
    return (
        f"{name}: {counted['state']} state and {counted['control']} control values, {counted['cells']} cells, {steps}"
        f"{counted['observations']} observations, {found.G.comm.size} rank(s)"
    )


def misfit(found: Case, predicted: Array) -> float:
    """sqrt of the mean of ((y - d) / sigma)^2. Local."""
    return float(np.sqrt(np.mean(((predicted - found.data) / found.noise) ** 2)))


def time_unit(evolution: Evolution) -> str:
    """Of the time axis: "t", or "step" where the length of a step is not known. Local."""
    return "step" if evolution.dt is None else "t"


def write_strip(folder: Path, evolution: Evolution, found: series.Series) -> dict[str, Any]:
    """``strip.png``, and its entry in the summary. Collective."""
    strip = plot.draw_strip(evolution.mesh.comm, folder / output.STRIP, found, time_unit(evolution))
    if strip is None:
        left_out(output.STRIP)
        return {}
    return {"strip": strip}


def left_out(name: str) -> None:
    """Say that a picture cannot be drawn here."""
    logger.warning("%s is left out: matplotlib is not installed", name)
