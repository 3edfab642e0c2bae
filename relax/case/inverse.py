"""An inverse problem: one field, recovered from values of the state at points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from dolfinx import fem, mesh

from relax import parallel, tables, truths
from relax.case.equation import build_equation, build_map
from relax.case.points import columns, from_columns, points_of, read_table, steps_in
from relax.errors import BadInput, PointsOutsideMesh
from relax.evolution import Evolution
from relax.job import Job, JobFile
from relax.observe import AtSteps, Observable, PointValues
from relax.prior import SmoothnessPrior
from relax.problem import Problem
from relax.reduced import ReducedMap, control_values
from relax.slices import bounding_box

Array = npt.NDArray[np.float64]


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
    def control(self) -> fem.Function:
        """The field to recover; it holds the control of the last evaluation of G."""
        control: fem.Function = self.problem.controls[0]
        return control


def build(file: JobFile, domain: mesh.Mesh) -> InverseCase:
    """The inverse problem of a job on its mesh. Collective."""
    job = file.job
    assert job.data is not None
    problem = build_equation(file, domain)
    _check_control(job, problem)
    table = None
    if job.data.file is not None:
        path = file.root / job.data.file
        table = parallel.on_rank_0(domain.comm, lambda: read_table("[data] file", path))
    steps = _steps(job, problem, table)
    points = points_of(file, domain, table)
    try:
        values = PointValues(problem.state.function_space, points)
    except PointsOutsideMesh as error:
        where = "[data] file" if job.observe is None else "[observe] points"
        raise BadInput(f"{where}: {error} (points are counted from 0, in the order of the file)") from error
    observable: Observable = values if steps is None else AtSteps(values, steps)
    G = build_map(job, problem, observable)
    components = values.size // len(points)
    exact = truth = None
    if table is not None:
        data, noise = _measured(job, table, len(points), components, steps)
    else:
        exact, truth = _true(job, problem, G)
        noise = _level(float(job.data.noise or 0.0), exact)
        data = exact + noise * np.random.default_rng(job.data.seed).standard_normal(G.size_out)
    prior = SmoothnessPrior(
        problem.controls[0].function_space, length=float(job.prior.length or 0.0), std=job.prior.std,
        mean=job.prior.mean, layout=job.solver.layout,
    )  # fmt: skip
    return InverseCase(problem, G, prior, points, components, steps, data, noise, exact, truth)


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


def _steps(job: Job, problem: Problem | Evolution, table: tables.Table | None) -> tuple[int, ...] | None:
    """The steps that are observed: those of [observe], of the data file, or the last one."""
    asked = None if job.observe is None else job.observe.steps
    if not isinstance(problem, Evolution):
        if asked is not None:
            raise BadInput(f"[observe] steps: {job.pde.name} is no equation in time; remove this key")
        return None
    last, place = problem.num_steps, "[observe] steps"
    if asked == "all":
        return tuple(range(1, last + 1))
    given = list(asked or [])
    if asked is None and table is not None:
        given, place = steps_in(table), f"[data] file: the columns of {table.path}"
    wrong = [n for n in given if not -last - 1 <= n <= last]
    if wrong:
        raise BadInput(
            f"{place}: expected steps from 0 to {last}, or from the end -1 to {-last - 1}, as [pde] has num_steps = "
            f"{last}, got {wrong[0]}"
        )
    steps = tuple(n if n >= 0 else last + 1 + n for n in given)
    for i, n in enumerate(steps):
        if n in steps[:i]:
            first = given[steps.index(n)]
            same = f"step {n} is there twice" if first == given[i] else f"{first} and {given[i]} are both step {n}"
            raise BadInput(f"{place}: {same}; expected each step once")
    return steps or (last,)


def _measured(
    job: Job, table: tables.Table, num_points: int, components: int, steps: tuple[int, ...] | None
) -> tuple[Array, Array]:
    """Data and their standard deviations from the columns of a file."""
    assert job.data is not None
    if table.num_rows != num_points:
        raise BadInput(f"[data] file: {table.path} has {table.num_rows} rows for {num_points} points of [observe]")
    wanted = columns("value", components, steps)
    data = from_columns(table, wanted, components)
    if data is None and steps is not None and len(steps) == 1:
        data = from_columns(table, columns("value", components, None), components)
    if data is None:
        raise BadInput(
            f"[data] file: {table.path} needs the column(s) {', '.join(wanted)}; got {', '.join(table.columns)}"
        )
    sigma = from_columns(table, columns("sigma", components, steps), components)
    if sigma is None and steps is not None:
        once = from_columns(table, columns("sigma", components, None), components)
        sigma = None if once is None else np.tile(once, len(steps))
    if sigma is None and job.data.noise is None:
        raise BadInput(f"[data] noise: give a fraction of the largest value, or a column sigma in {table.path}")
    if sigma is not None and job.data.noise is not None:
        raise BadInput(f"[data] noise: {table.path} has a column sigma already; remove one of them")
    if sigma is not None:
        if not (sigma > 0).all():
            raise BadInput(f"[data] file: {table.path}: expected every sigma above 0, got {sigma.min():g}")
        return data, sigma
    return data, _level(float(job.data.noise or 0.0), data)


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


def _level(noise: float, values: Array) -> Array:
    largest = float(np.abs(values).max())
    if largest == 0.0:
        raise BadInput("[data] noise: all observations are 0, so there is no scale for the noise; is there a source?")
    return np.full(len(values), noise * largest)
