"""From the tables of a job to the objects they describe: mesh, equation, observations, data or target, landscape."""

from __future__ import annotations

from typing import TypeAlias

from mpi4py import MPI

from relax.jobs.control import setting as control
from relax.jobs.control.setting import ControlCase, fidelity
from relax.jobs.inverse import setting as inverse
from relax.jobs.inverse.setting import InverseCase
from relax.jobs.landscape import setting as landscape
from relax.jobs.landscape.functions import LANDSCAPES
from relax.jobs.landscape.setting import LandscapeCase
from relax.jobs.misfit import setting as misfit
from relax.jobs.misfit.setting import MisfitCase
from relax.jobs.setting.equation import build_mesh, built_in_pdes, find_function
from relax.jobs.setting.sensors import as_columns, columns, random_points
from relax.jobs.toml import JobFile

__all__ = [
    "LANDSCAPES",
    "Case",
    "ControlCase",
    "InverseCase",
    "LandscapeCase",
    "MisfitCase",
    "as_columns",
    "build",
    "build_mesh",
    "built_in_pdes",
    "columns",
    "fidelity",
    "find_function",
    "random_points",
]

Case: TypeAlias = InverseCase | ControlCase | LandscapeCase | MisfitCase


def build(file: JobFile, comm: MPI.Comm = MPI.COMM_WORLD) -> Case:
    """Everything that a job describes, ready to be solved.

    Collective.

    Raises:
        BadInput: on every rank, naming the table and key that does not fit.
    """
    job = file.job
    if job.kind == "misfit":
        # Each team of ranks has a mesh of its own.
        return misfit.build(file, comm)
    domain = build_mesh(job.mesh, file.root, comm)
    if job.kind == "landscape":
        return landscape.build(file, domain)
    return (control if job.kind == "control" else inverse).build(file, domain)
