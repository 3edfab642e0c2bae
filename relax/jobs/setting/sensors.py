"""What a job with [data] is given: the steps, the measured values, the level of their noise."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from dolfinx import mesh
from mpi4py import MPI

from relax.base import parallel
from relax.base.types import Array
from relax.errors import BadInput, PointsOutsideMesh
from relax.jobs.setting import csv_files
from relax.jobs.toml import DataSection, JobFile, MeasuredJob
from relax.jobs.view.pictures import bounding_box
from relax.observe import AtSteps, Observable, PointValues, points_inside
from relax.problem.evolution import Evolution
from relax.problem.problem import Problem


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
    table: csv_files.Table | None


def sensors_of(file: JobFile[MeasuredJob], problem: Problem | Evolution) -> Sensors:
    """The sensors of [observe] and [data]. Collective."""
    job, domain = file.job, problem.mesh
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


def check_tables(file: JobFile[MeasuredJob], comm: MPI.Comm) -> None:
    """See that there are the CSV files of a job, and that they can be read. Collective."""
    job = file.job
    points = None if job.observe is None else job.observe.points
    with parallel.together(comm):
        for place, name in (("[data] file", job.data.file), ("[observe] points", points)):
            if isinstance(name, str) and comm.rank == 0:
                read_table(place, file.root / name)


def with_noise(section: DataSection, exact: Array) -> tuple[Array, Array]:
    """Observations with noise added, and its standard deviations, both (size_out,).

    Raises:
        BadInput: where all of them are 0.
    """
    noise = _level(section, exact)
    return exact + noise * np.random.default_rng(section.seed).standard_normal(len(exact)), noise


def _steps(job: MeasuredJob, problem: Problem | Evolution, table: csv_files.Table | None) -> tuple[int, ...] | None:
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


def measured(job: MeasuredJob, sensors: Sensors, table: csv_files.Table) -> tuple[Array, Array]:
    """Data and their standard deviations, both (size_out,), from the columns of a file.

    Raises:
        BadInput: naming what is missing or does not fit.
    """
    num_points, components, steps = len(sensors.points), sensors.components, sensors.steps
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


_MAX_TRIES = 200
_OF_STEP = re.compile(r"value(?:_\d+)?_step_(\d+)")


def random_points(domain: mesh.Mesh, num: int, seed: int) -> Array:
    """``num`` points uniform in the mesh, (num, gdim), that depend on the seed and not on the number of ranks.

    Collective.
    """
    low, high = bounding_box(domain)
    random = np.random.default_rng(seed)
    inside: Array = np.empty((0, len(low)))
    for _ in range(_MAX_TRIES):
        tried = low + (high - low) * random.random((max(4 * num, 64), len(low)))
        inside = np.concatenate([inside, tried[points_inside(domain, tried)]])
        if len(inside) >= num:
            return inside[:num]
    raise BadInput(f"[observe] points: only {len(inside)} of {num} random points are inside the mesh; name a CSV file")


def points_of(file: JobFile[MeasuredJob], domain: mesh.Mesh, table: csv_files.Table | None) -> Array:
    """The points of [observe], or of the data file where it has none: (num_points, gdim). Collective."""
    gdim = domain.geometry.dim
    observe = file.job.observe
    if observe is None:
        assert table is not None  # The model of the job sees to it.
        return table.points(gdim)
    if isinstance(observe.points, int):
        return random_points(domain, observe.points, observe.seed)
    path = file.root / observe.points
    return parallel.on_rank_0(domain.comm, lambda: read_table("[observe] points", path)).points(gdim)


def read_table(place: str, path: Path) -> csv_files.Table:
    """A CSV file; the message of an error starts with the place in the job. On one rank."""
    try:
        return csv_files.read(path)
    except BadInput as error:
        raise BadInput(f"{place}: {error}") from None


def columns(stem: str, components: int, steps: tuple[int, ...] | None) -> list[str]:
    """The columns of observations, in the order step, component: ``value``, ``value_1``, ``value_step_8``.

    Args:
        stem: the first word.
        components: how many values at a point; a single one is not numbered.
        steps: those of an equation in time.
    """
    names = [stem] if components == 1 else [f"{stem}_{i}" for i in range(components)]
    return names if steps is None else [f"{name}_step_{n}" for n in steps for name in names]


def steps_in(table: csv_files.Table) -> list[int]:
    """The steps of which a data file has values, in the order of its columns; none where they are not named."""
    matches = [_OF_STEP.fullmatch(name) for name in table.columns]
    return list(dict.fromkeys(int(match.group(1)) for match in matches if match))


def as_columns(values: Array, components: int, names: list[str]) -> dict[str, Array]:
    """Observations, in the order step, point, component, as a column for each of the names of :func:`columns`."""
    by_step = values.reshape(len(names) // components, -1, components)
    return dict(zip(names, np.moveaxis(by_step, 1, 2).reshape(len(names), -1), strict=True))


def from_columns(table: csv_files.Table, names: list[str], components: int) -> Array | None:
    """Columns as observations in the order step, point, component; None where one is missing."""
    if any(name not in table.columns for name in names):
        return None
    rows = np.array([table.columns[name] for name in names])
    return np.moveaxis(rows.reshape(-1, components, table.num_rows), 1, 2).ravel()
