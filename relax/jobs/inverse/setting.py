"""An inverse problem: one field, recovered from values of the state at points."""

from __future__ import annotations

from dataclasses import dataclass

from dolfinx import fem, mesh

from relax.base.types import Array
from relax.engine.controls import control_values
from relax.engine.reduced import ReducedMap
from relax.errors import BadInput
from relax.invert.priors import SmoothnessPrior
from relax.jobs.inverse import truths
from relax.jobs.setting.equation import build_equation, build_map
from relax.jobs.setting.sensors import data_of, sensors_of
from relax.jobs.toml import Job, JobFile
from relax.jobs.view.fields import num_values
from relax.jobs.view.pictures import bounding_box
from relax.problem.evolution import Evolution
from relax.problem.problem import Problem


@dataclass(frozen=True)
class InverseCase:
    """What a job with [data] inverts.

    Attributes:
        problem: the equation; its one control is the field to recover.
        G: control -> observations, in the order step, point, component.
        prior: of the control.
        points: (num_points, gdim), the same on every rank.
        components: how many values the state has at a point.
        steps: of an equation in time, at which it is observed; None for another.
        data: (G.size_out,) observations, noise included.
        noise: (G.size_out,) their standard deviations.
        exact: (G.size_out,) observations of the truth, for synthetic data.
        truth: the control behind them.
    """

    problem: Problem | Evolution
    G: ReducedMap
    prior: SmoothnessPrior
    points: Array
    components: int
    steps: tuple[int, ...] | None
    data: Array
    noise: Array
    exact: Array | None = None
    truth: fem.Function | None = None

    #: What the optimisation is called among the times of a run.
    phase = "invert"

    @property
    def start(self) -> Array:
        """The control vector to start from."""
        return self.prior.mean

    @property
    def ranks(self) -> int:
        """Of the run."""
        return int(self.G.comm.size)

    @property
    def num_controls(self) -> int:
        """Values of the control on all ranks."""
        return num_values(self.control.function_space)

    @property
    def control(self) -> fem.Function:
        """The field to recover; it holds the control of the last evaluation of G."""
        control: fem.Function = self.problem.controls[0]
        return control


def build(file: JobFile, domain: mesh.Mesh) -> InverseCase:
    """The inverse problem of a job on its mesh. Collective."""
    job = file.job
    assert job.data is not None and job.prior is not None
    problem = build_equation(file, domain)
    _check_control(job, problem)
    sensors = sensors_of(file, problem)
    G = build_map(job, problem, sensors.observable)
    exact = truth = None
    if job.data.truth is not None:
        exact, truth = _true(job, problem, G)
    data, noise = data_of(job, sensors, exact)
    prior = SmoothnessPrior(
        problem.controls[0].function_space, length=float(job.prior.length or 0.0), std=job.prior.std,
        mean=job.prior.mean, layout=job.solver.layout,
    )  # fmt: skip
    return InverseCase(
        problem, G, prior, sensors.points, sensors.components, sensors.steps, data, noise, exact, truth
    )  # fmt: skip


def _check_control(job: Job, problem: Problem | Evolution) -> None:
    name, controls = job.pde.name, problem.controls
    if len(controls) != 1 or not isinstance(controls[0], fem.Function):
        kinds = ", ".join(type(c).__name__ for c in controls)
        raise BadInput(
            f"[pde] name: {name} has the controls {kinds}; a job recovers one field, so expected one fem.Function. "
            "For other controls write a script with relax.gauss_newton"
        )
    if isinstance(problem, Evolution) and problem.is_per_step(controls[0]):
        raise BadInput(
            f"[pde] name: {name} has the control {controls[0].name!r} with a field for each step; a job recovers one "
            "field, the initial state or one that all steps share. For a field per step write a script with "
            "relax.gauss_newton"
        )


def _true(job: Job, problem: Problem | Evolution, G: ReducedMap) -> tuple[Array, fem.Function]:
    """Observations of the named truth, and the truth."""
    assert job.data is not None
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
