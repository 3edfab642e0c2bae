"""What a job with [data] is given: the steps, the measured values, the level of their noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from relax import parallel, tables
from relax.case.points import columns, from_columns, points_of, read_table, steps_in
from relax.errors import BadInput, PointsOutsideMesh
from relax.evolution import Evolution
from relax.job import DataSection, Job, JobFile
from relax.observe import AtSteps, Observable, PointValues
from relax.problem import Problem

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sensors:
    """Where and when a job observes.

    Attributes:
        points: (num_points, gdim), the same on every rank.
        components: how many values the state has at a point.
        steps: of an equation in time, at which it is observed; None for another.
        observable: values in the order step, point, component.
        table: the data file, for measured data.
    """

    points: Array
    components: int
    steps: tuple[int, ...] | None
    observable: Observable
    table: tables.Table | None


def sensors_of(file: JobFile, problem: Problem | Evolution) -> Sensors:
    """The sensors of [observe] and [data]. Collective."""
    job, domain = file.job, problem.mesh
    assert job.data is not None
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
    return Sensors(points, values.size // len(points), steps, observable, table)


def data_of(job: Job, sensors: Sensors, exact: Array | None) -> tuple[Array, Array]:
    """Observations and their standard deviations, both (size_out,): measured ones, or ``exact`` ones with noise added.

    Raises:
        BadInput: naming what is missing or does not fit.
    """
    assert job.data is not None
    if exact is None:
        assert sensors.table is not None
        return _measured(job, sensors.table, len(sensors.points), sensors.components, sensors.steps)
    noise = _level(job.data, exact)
    return exact + noise * np.random.default_rng(job.data.seed).standard_normal(len(exact)), noise


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
    return data, _level(job.data, data)


def _level(section: DataSection, values: Array) -> Array:
    largest = float(np.abs(values).max())
    if largest == 0.0:
        raise BadInput("[data] noise: all observations are 0, so there is no scale for the noise; is there a source?")
    return np.full(len(values), float(section.noise or 0.0) * largest)
