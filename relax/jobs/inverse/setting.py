"""An inverse problem: one field, recovered from values of the state at points."""

from __future__ import annotations

from dataclasses import dataclass

from dolfinx import fem
from mpi4py import MPI

from relax.base.types import Array
from relax.engine.controls import control_values
from relax.engine.reduced import ReducedMap
from relax.errors import BadInput
from relax.invert.priors import SmoothnessPrior
from relax.jobs.inverse import truths
from relax.jobs.inverse.job import InverseJob
from relax.jobs.setting import equation
from relax.jobs.setting.equation import build_equation, build_map, build_mesh
from relax.jobs.setting.optimised import Optimised
from relax.jobs.setting.sensors import Sensors, check_tables, measured, sensors_of, with_noise
from relax.jobs.toml import JobFile
from relax.jobs.view.pictures import bounding_box
from relax.problem.evolution import Evolution
from relax.problem.problem import Problem


@dataclass(frozen=True)
class InverseSetting(Optimised):
    """What a job with [data] inverts: a field, from observations in the order step, point, component.

    Attributes:
        sensors: where and when it is observed.
        exact: (G.size_out,) observations of the truth, for synthetic data.
        truth: the control behind them.
    """

    sensors: Sensors
    exact: Array | None
    truth: fem.Function | None

    phase, unit = "invert", "noise levels"

    @property
    def control(self) -> fem.Function:
        """The field to recover; it holds the control of the last evaluation of G."""
        control: fem.Function = self.problem.controls[0]
        return control


def check_named(file: JobFile[InverseJob], comm: MPI.Comm) -> None:
    """See that there is what a job names. Collective."""
    equation.check_named(file, comm)
    check_tables(file, comm)
    if file.job.data.truth is not None:
        truths.named(str(file.job.data.truth))


def build(file: JobFile[InverseJob], comm: MPI.Comm) -> InverseSetting:
    """The inverse problem of a job. Collective."""
    job = file.job
    problem = build_equation(file, build_mesh(job.mesh, file.root, comm, trust=file.trust_mesh))
    _check_control(job, problem)
    sensors = sensors_of(file, problem)
    G = build_map(job.solver, problem, sensors.observable)
    exact = truth = None
    if sensors.table is not None:
        data, noise = measured(job, sensors, sensors.table)
    else:
        exact, truth = _true(job, problem, G)
        data, noise = with_noise(job.data, exact)
    prior = SmoothnessPrior(
        problem.controls[0].function_space, length=job.prior.length, std=job.prior.std,
        mean=job.prior.mean, layout=job.solver.layout,
    )  # fmt: skip
    return InverseSetting(problem, G, prior, prior.mean, data, noise, sensors, exact, truth)


def _check_control(job: InverseJob, problem: Problem | Evolution) -> None:
    name, controls = job.pde.name, problem.controls
    if len(controls) != 1 or not isinstance(controls[0], fem.Function):
        kinds = ", ".join(type(c).__name__ for c in controls) or "none"
        raise BadInput(
            f"[pde] name: {name} has as controls {kinds}; a job recovers one field, so expected one fem.Function. "
            "For other controls write a script with relax.gauss_newton"
        )
    if isinstance(problem, Evolution) and problem.is_per_step(controls[0]):
        raise BadInput(
            f"[pde] name: {name} has the control {controls[0].name!r} with a field for each step; a job recovers one "
            "field, the initial state or one that all steps share. For a field per step write a script with "
            "relax.gauss_newton"
        )


def _true(job: InverseJob, problem: Problem | Evolution, G: ReducedMap) -> tuple[Array, fem.Function]:
    """Observations of the named truth, and the truth."""
    shape = tuple(problem.controls[0].function_space.value_shape)
    if shape:
        raise BadInput(
            f"[data] truth: {job.pde.name} has a control with {shape} components, and the named truths are scalar; "
            "expected measured data, [data] file"
        )
    low, high = bounding_box(problem.mesh)
    m = control_values(G, truths.scaled(str(job.data.truth), low, high))
    exact = G(m)
    control: fem.Function = problem.controls[0]
    truth = fem.Function(control.function_space, name="truth")
    truth.x.array[:] = control.x.array
    return exact, truth
