"""From the tables of a job to the objects they describe: mesh, problem, observations, data."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from dolfinx import fem, mesh
from mpi4py import MPI

from relax import meshes, parallel, pdes, tables, truths
from relax.errors import BadInput, PointsOutsideMesh
from relax.job import Job, JobFile, MeshSection, nearest
from relax.observe import PointValues, points_inside
from relax.problem import Problem
from relax.reduced import ReducedMap, control_values
from relax.slices import bounding_box

Array = npt.NDArray[np.float64]

_MAX_TRIES = 200


@dataclass(frozen=True)
class Case:
    """What a job inverts.

    Attributes:
        problem: the PDE; its one control is the field to recover.
        G: control -> observations.
        points: (num_points, gdim), the same on every rank.
        data: (G.size_out,) observations, noise included.
        noise: (G.size_out,) their standard deviations.
        exact: (G.size_out,) observations of the truth, for synthetic data.
        truth: the control behind them.
    """

    problem: Problem
    G: ReducedMap
    points: Array
    data: Array
    noise: Array
    exact: Array | None = None
    truth: fem.Function | None = None

    @property
    def control(self) -> fem.Function:
        """The field to recover; it holds the control of the last evaluation of G."""
        control: fem.Function = self.problem.controls[0]
        return control


def build(file: JobFile, comm: MPI.Comm = MPI.COMM_WORLD) -> Case:
    """Everything that a job describes, ready to be inverted.

    Collective.

    Raises:
        BadInput: on every rank, naming the table and key that does not fit.
    """
    job = file.job
    domain = build_mesh(job.mesh, file.root, comm)
    problem = build_problem(job, file, domain)
    table = None
    if job.data.file is not None:
        path = file.root / job.data.file
        table = parallel.on_rank_0(comm, lambda: _located("[data] file", tables.read, path))
    points = _points(job, file, domain, table)
    try:
        observable = PointValues(problem.state.function_space, points)
    except PointsOutsideMesh as error:
        where = "[data] file" if job.observe is None else "[observe] points"
        raise BadInput(f"{where}: {error} (points are counted from 0, in the order of the file)") from error
    G = ReducedMap(problem, observable, options=job.solver.options, layout=job.solver.layout)
    if table is not None:
        data, noise = _measured(job, table, len(points), G.size_out)
        return Case(problem, G, points, data, noise)
    return _synthetic(job, problem, G, points)


def build_mesh(section: MeshSection, root: Path, comm: MPI.Comm) -> mesh.Mesh:
    """The mesh of a job. Collective."""
    if section.file is not None:
        path = root / section.file
        if not parallel.on_rank_0(comm, path.exists):
            raise BadInput(f"[mesh] file: there is no {path}; paths start from the project folder {root}")
        return meshes.read(path, comm, h=section.h)
    n, low, high = section.n or [], section.lower or [], section.upper or []
    if section.generator == "interval":
        return meshes.interval(n[0], (low[0], high[0]), comm=comm)
    if section.generator == "rectangle":
        return meshes.rectangle((low[0], low[1]), (high[0], high[1]), (n[0], n[1]), comm=comm)
    if section.generator == "disk":
        return meshes.disk(float(section.h or 0.0), comm=comm)
    return (meshes.unit_square if section.generator == "unit_square" else meshes.unit_cube)(n[0], comm=comm)


def build_problem(job: Job, file: JobFile, domain: mesh.Mesh) -> Problem:
    """The problem of a job on its mesh. Collective."""
    name, keywords = job.pde.name, job.pde.keywords
    function = find_function(name, [file.root, file.path.parent, Path.cwd()], domain.comm)
    check_keywords(function, name, keywords)
    problem = function(domain, **keywords)
    if not isinstance(problem, Problem):
        raise BadInput(f"[pde] name: {name} returned a {type(problem).__name__}; expected a relax.Problem")
    if len(problem.controls) != 1 or not isinstance(problem.controls[0], fem.Function):
        kinds = ", ".join(type(c).__name__ for c in problem.controls)
        raise BadInput(
            f"[pde] name: {name} has the controls {kinds}; a job recovers one field, so expected one fem.Function. "
            "For other controls write a script with relax.gauss_newton"
        )
    return problem


def built_in_pdes() -> list[str]:
    """The names that [pde] and ``relax check`` know: functions of ``relax.pdes`` that return a Problem."""
    names = []
    for module in pkgutil.iter_modules(pdes.__path__):
        members = vars(importlib.import_module(f"relax.pdes.{module.name}"))
        for name, member in members.items():
            returns = getattr(member, "__annotations__", {}).get("return")
            if inspect.isfunction(member) and not name.startswith("_") and returns in ("Problem", Problem):
                names.append(f"{module.name}.{name}")
    return sorted(set(names))


def find_function(name: str, folders: list[Path], comm: MPI.Comm) -> Callable[..., Any]:
    """The function called ``module.function`` in ``relax.pdes``, or ``module:function`` of the user's own.

    Collective.

    Args:
        name: the name.
        folders: where the user's module is looked for, before Python's own path.
        comm: the ranks that all call this.

    Raises:
        BadInput: on every rank, when there is none, or when its module cannot be imported.
    """
    if ":" not in name:
        known = built_in_pdes()
        if name not in known:
            raise BadInput(f"unknown equation {name!r}{nearest(name, known)}; one of your own is module:function")
        module_name, _, function_name = name.rpartition(".")
        built_in: Callable[..., Any] = getattr(importlib.import_module(f"relax.pdes.{module_name}"), function_name)
        return built_in
    module_name, _, function_name = name.partition(":")
    sys.path[:0] = [str(f) for f in dict.fromkeys(folders) if str(f) not in sys.path]
    error: BadInput | None = None
    module: Any = None
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as cause:
        where = ", ".join(str(f) for f in dict.fromkeys(folders))
        error = BadInput(f"{name}: there is no module {cause.name!r}; looked in {where} and on Python's path")
        error.__cause__ = cause
    except Exception as cause:
        error = BadInput(f"{name}: importing {module_name} failed: {type(cause).__name__}: {cause}")
        error.__cause__ = cause
    if error is None and not callable(getattr(module, function_name, None)):
        known = [n for n, m in vars(module).items() if inspect.isfunction(m) and not n.startswith("_")]
        error = BadInput(f"{name}: {module_name} has no function {function_name!r}{nearest(function_name, known)}")
    parallel.raise_together(comm, error)
    own: Callable[..., Any] = getattr(module, function_name)
    return own


def check_keywords(function: Callable[..., Any], name: str, keywords: dict[str, Any]) -> None:
    """See that ``function(mesh, **keywords)`` is a call that Python accepts.

    Raises:
        BadInput: naming the keyword that is unknown or missing, and those there are.
    """
    parameters = list(inspect.signature(function).parameters.values())
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = [p for p in parameters[1:] if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    known = [p.name for p in named]
    for key in keywords:
        if key not in known and not takes_any:
            raise BadInput(f"[pde] {key}: {name} has no such keyword{nearest(key, known)}")
    missing = [p.name for p in named if p.default is p.empty and p.name not in keywords]
    if missing:
        raise BadInput(f"[pde]: {name} needs {', '.join(missing)} as well (it takes: {', '.join(known)})")
    if not parameters:
        raise BadInput(f"[pde] name: {name} takes no mesh; expected a function of a mesh")


def random_points(domain: mesh.Mesh, num: int, seed: int) -> Array:
    """``num`` points uniform in the mesh, (num, gdim), that depend on the seed and not on the number of ranks.

    Collective.
    """
    low, high = bounding_box(domain)
    random = np.random.default_rng(seed)
    found: Array = np.empty((0, len(low)))
    for _ in range(_MAX_TRIES):
        tried = low + (high - low) * random.random((max(4 * num, 64), len(low)))
        found = np.concatenate([found, tried[points_inside(domain, tried)]])
        if len(found) >= num:
            return found[:num]
    raise BadInput(f"[observe] points: only {len(found)} of {num} random points are inside the mesh; name a CSV file")


def _points(job: Job, file: JobFile, domain: mesh.Mesh, table: tables.Table | None) -> Array:
    gdim = domain.geometry.dim
    if job.observe is None:
        assert table is not None
        return table.points(gdim)
    if isinstance(job.observe.points, int):
        return random_points(domain, job.observe.points, job.observe.seed)
    path = file.root / job.observe.points
    return parallel.on_rank_0(domain.comm, lambda: _located("[observe] points", tables.read, path)).points(gdim)


def _located(place: str, read: Callable[[Path], tables.Table], path: Path) -> tables.Table:
    try:
        return read(path)
    except BadInput as error:
        raise BadInput(f"{place}: {error}") from None


def value_columns(stem: str, num_points: int, size: int) -> list[str]:
    """The columns that hold ``size`` observations at ``num_points`` points: one for a scalar, else one a component."""
    components = size // num_points
    return [stem] if components == 1 else [f"{stem}_{i}" for i in range(components)]


def _column(table: tables.Table, stem: str, num_points: int, size: int) -> Array | None:
    names = value_columns(stem, num_points, size)
    if any(name not in table.columns for name in names):
        return None
    return np.column_stack([table.columns[name] for name in names]).ravel()


def _measured(job: Job, table: tables.Table, num_points: int, size: int) -> tuple[Array, Array]:
    if table.num_rows != num_points:
        raise BadInput(f"[data] file: {table.path} has {table.num_rows} rows for {num_points} points of [observe]")
    data = _column(table, "value", num_points, size)
    if data is None:
        wanted = ", ".join(value_columns("value", num_points, size))
        raise BadInput(f"[data] file: {table.path} needs the column(s) {wanted}; got {', '.join(table.columns)}")
    sigma = _column(table, "sigma", num_points, size)
    if sigma is None and job.data.noise is None:
        raise BadInput(f"[data] noise: give a fraction of the largest value, or a column sigma in {table.path}")
    if sigma is not None and job.data.noise is not None:
        raise BadInput(f"[data] noise: {table.path} has a column sigma already; remove one of them")
    if sigma is not None:
        if not (sigma > 0).all():
            raise BadInput(f"[data] file: {table.path}: expected every sigma above 0, got {sigma.min():g}")
        return data, sigma
    return data, _level(float(job.data.noise or 0.0), data)


def _synthetic(job: Job, problem: Problem, G: ReducedMap, points: Array) -> Case:
    low, high = bounding_box(problem.mesh)
    m = control_values(G, truths.scaled(str(job.data.truth), low, high))
    exact = G(m)
    noise = _level(float(job.data.noise or 0.0), exact)
    data = exact + noise * np.random.default_rng(job.data.seed).standard_normal(G.size_out)
    control: fem.Function = problem.controls[0]
    truth = fem.Function(control.function_space, name="truth")
    truth.x.array[:] = control.x.array
    return Case(problem, G, points, data, noise, exact, truth)


def _level(noise: float, values: Array) -> Array:
    largest = float(np.abs(values).max())
    if largest == 0.0:
        raise BadInput("[data] noise: all observations are 0, so there is no scale for the noise; is there a source?")
    return np.full(len(values), noise * largest)
