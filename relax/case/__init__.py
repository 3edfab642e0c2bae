"""From the tables of a job to the objects they describe: mesh, equation, observations, data or target."""

from __future__ import annotations

from typing import TypeAlias

from mpi4py import MPI

from relax.case import control, inverse
from relax.case.control import ControlCase, fidelity
from relax.case.equation import build_mesh, built_in_pdes, find_function
from relax.case.inverse import InverseCase
from relax.case.points import as_columns, columns, random_points
from relax.job import JobFile

__all__ = [
    "Case",
    "ControlCase",
    "InverseCase",
    "as_columns",
    "build",
    "build_mesh",
    "built_in_pdes",
    "columns",
    "fidelity",
    "find_function",
    "random_points",
]

Case: TypeAlias = InverseCase | ControlCase


def build(file: JobFile, comm: MPI.Comm = MPI.COMM_WORLD) -> Case:
    """Everything that a job describes, ready to be optimised.

    Collective.

    Raises:
        BadInput: on every rank, naming the table and key that does not fit.
    """
    domain = build_mesh(file.job.mesh, file.root, comm)
    return (control if file.job.target is not None else inverse).build(file, domain)
