"""A few numbers, recovered from values of the state at points, by relaxing their misfit over a box."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mpi4py import MPI

from relax.base import parallel
from relax.base.teams import Teams
from relax.base.types import Array
from relax.engine.reduced import ReducedMap
from relax.errors import BadInput
from relax.jobs.misfit.job import MisfitJob
from relax.jobs.setting import equation
from relax.jobs.setting.equation import build_equation, build_map, build_mesh
from relax.jobs.setting.sensors import check_tables, measured, sensors_of, with_noise
from relax.jobs.toml import JobFile
from relax.problem.evolution import Evolution
from relax.problem.problem import Problem


@dataclass(frozen=True)
class MisfitSetting:
    """What a job with [misfit] inverts.

    Attributes:
        problem: the equation; its controls are one to three numbers.
        G: control -> observations, on the ``space`` of the teams.
        teams: who shares the samples.
        box: (d, 2) bounds of the numbers.
        data: (G.size_out,) observations, noise included.
        noise: (G.size_out,) their standard deviations.
        truth: (d,) the numbers behind synthetic data.
    """

    problem: Problem | Evolution
    G: ReducedMap
    teams: Teams
    box: Array
    data: Array
    noise: Array
    truth: Array | None = None

    def close(self) -> None:
        """Free the map and the teams. Collective."""
        self.G.close()
        self.teams.close()


def check_named(file: JobFile[MisfitJob], comm: MPI.Comm) -> None:
    """See that there is what a job names, and that its teams have whole ranks. Collective."""
    equation.check_named(file, comm)
    check_tables(file, comm)
    _ranks_per_solve(file.job, comm)


def _ranks_per_solve(job: MisfitJob, comm: MPI.Comm) -> int:
    per_solve = job.misfit.ranks_per_solve
    if comm.size % per_solve:
        raise BadInput(
            f"[misfit] ranks_per_solve: expected a divisor of the {comm.size} ranks of this run, got {per_solve}"
        )
    return per_solve


def build(file: JobFile[MisfitJob], comm: MPI.Comm) -> MisfitSetting:
    """The misfit of a file, its mesh on each team of ranks. Collective."""
    job = file.job
    teams = Teams(comm, _ranks_per_solve(job, comm))
    problem = build_equation(file, build_mesh(job.mesh, file.root, teams.space, trust=file.trust_mesh))
    sensors = sensors_of(file, problem)
    G = build_map(job.solver, problem, sensors.observable)
    box = np.array(job.misfit.box)
    if G.size_in != len(box):
        raise BadInput(
            f"[misfit] box: expected bounds for each of the {G.size_in} numbers of the control of {job.pde.name}, got "
            f"{len(box)}" + ("; a field is for a job with a [prior], without [misfit]" if G.size_in > 3 else "")
        )
    truth = None
    if sensors.table is not None:
        data, noise = measured(job, sensors, sensors.table)
    else:
        truth = np.array(job.data.truth, dtype=np.float64)
        data, noise = with_noise(job.data, G(truth))
    # Teams may differ in the last digit; the first one's data are everyone's.
    data, noise = parallel.from_rank_0(comm, np.array([data, noise]))
    return MisfitSetting(problem, G, teams, box, data, noise, truth)
