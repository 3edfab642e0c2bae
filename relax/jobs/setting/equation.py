"""From [mesh], [pde] and [solver] to a mesh, an equation and a map."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import sys
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dolfinx import mesh
from mpi4py import MPI

from relax import meshes, pdes
from relax.base import parallel
from relax.base.checks import nearest
from relax.engine.reduced import ReducedMap
from relax.errors import BadInput, BadProblem
from relax.jobs.setting.generators import GENERATORS, arguments_of
from relax.jobs.toml import JobFile, SolverSection, StorageSection
from relax.jobs.toml.sections import MeshSection
from relax.observe import Observable
from relax.problem.evolution import Evolution
from relax.problem.problem import Problem

_EQUATIONS = ("Problem", Problem, "Evolution", Evolution)


def build_mesh(section: MeshSection, root: Path, comm: MPI.Comm, *, trust: bool = False) -> mesh.Mesh:
    """The mesh of a job, whose file may run programs if ``trust`` says so. Collective."""
    if section.file is not None:
        path = _mesh_file(section.file, root, comm)
        return meshes.read(path, comm, h=section.h, trust=trust)
    name = str(section.generator)
    numbers = section.model_dump(include={"n", "lower", "upper", "h"}, exclude_none=True)
    return GENERATORS[name](**arguments_of(name, numbers), comm=comm)


def _mesh_file(name: str, root: Path, comm: MPI.Comm) -> Path:
    path = root / name
    if not parallel.on_rank_0(comm, lambda: os.path.exists(path)):
        raise BadInput(f"[mesh] file: there is no {path!s:.300}; paths start from the project folder {root}")
    return path


def check_named(file: JobFile[Any], comm: MPI.Comm, *more: str) -> None:
    """See that there are the mesh and the equation that a job names, and that it takes its keywords, and ``more``.

    Collective. Nothing is built.
    """
    section = file.job.mesh
    if section.file is not None:
        _mesh_file(section.file, file.root, comm)
    function_of(file, comm, *more)


def function_of(file: JobFile[Any], comm: MPI.Comm, *more: str) -> Callable[..., Any]:
    """The function that [pde] names, when it takes the keywords of [pde] and these ``more``. Collective."""
    name, keywords = file.job.pde.name, file.job.pde.keywords
    function = find_function(name, places_of(file), comm)
    check_keywords(function, name, keywords, *more)
    return function


def places_of(file: JobFile[Any]) -> list[Path]:
    """The folders in which modules of a job are looked for. Local."""
    return [file.root, file.path.parent, Path.cwd()]


def build_equation(file: JobFile[Any], domain: mesh.Mesh, **more: Any) -> Problem | Evolution:
    """The equation of a job on its mesh, with ``more`` keywords than those of [pde]. Collective."""
    function = function_of(file, domain.comm, *more)
    try:
        made = function(domain, **file.job.pde.keywords, **more)
    except (BadInput, BadProblem) as error:
        raise BadInput(f"[pde]: {error}") from error
    except SystemExit as error:
        if error.code:
            raise
        # The status would say that all is done.
        raise BadInput(f"[pde] name: {file.job.pde.name} left the program: SystemExit: {error}") from error
    if not isinstance(made, Problem | Evolution):
        kind = type(made).__name__
        raise BadInput(
            f"[pde] name: {file.job.pde.name} returned a {kind}; expected a relax.Problem or a relax.Evolution"
        )
    if isinstance(made.state, tuple):
        raise BadInput(
            f"[pde] name: {file.job.pde.name} returned an evolution of {len(made.state)} states; a job sees and draws "
            "one: expected a step of one equation, with parts of a mixed state. A script takes several"
        )
    return made


def build_map(solver: SolverSection, problem: Problem | Evolution, observable: Observable) -> ReducedMap:
    """The map from the control to what is seen, solved and stored as [solver] says. Collective."""
    storage = None
    if solver.storage is not None:
        if not isinstance(problem, Evolution):
            raise BadInput(f"[solver] storage: {problem.name} is no equation in time, so it has no trajectory to store")
        storage = _schedule(solver.storage, problem.num_steps)
    return ReducedMap(problem, observable, options=solver.options, layout=solver.layout, storage=storage)


def _schedule(section: StorageSection, num_steps: int) -> object:
    try:
        import checkpoint_schedules as schedules
    except ModuleNotFoundError:
        raise BadInput(
            "[solver] storage: needs the package checkpoint_schedules, which is not installed: "
            "`pip install checkpoint-schedules`; without this key all states are kept in memory"
        ) from None
    if section.schedule == "revolve":
        return schedules.Revolve(num_steps, section.slots)
    if section.schedule == "multistage":
        return schedules.MultistageCheckpointSchedule(num_steps, section.slots, section.disk_slots)
    return schedules.SingleDiskStorageSchedule()


def built_in_pdes() -> list[str]:
    """The names that [pde] and ``relax check`` know: functions of ``relax.pdes`` that return an equation."""
    return sorted(f"{module}.{function}" for module in _modules_of_pdes() for function in _equations_of(module))


def _modules_of_pdes() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(pdes.__path__)]


def _equations_of(module: str) -> dict[str, Callable[..., Any]]:
    """The functions of a module of ``relax.pdes``, which is loaded now, that return an equation."""
    home = f"relax.pdes.{module}"
    equations = {}
    for name, member in vars(importlib.import_module(home)).items():
        returns = getattr(member, "__annotations__", {}).get("return")
        own = inspect.isfunction(member) and f"{member.__module__}.".startswith(f"{home}.")
        if own and not name.startswith("_") and returns in _EQUATIONS and _is_of_a_mesh(member):
            equations[name] = member
    return equations


def _is_of_a_mesh(function: Callable[..., Any]) -> bool:
    return next(iter(inspect.signature(function).parameters), None) == "mesh"


def find_function(name: str, folders: list[Path], comm: MPI.Comm) -> Callable[..., Any]:
    """The function called ``module.function`` in ``relax.pdes``, or ``module:function`` of the user's own.

    Collective.

    Args:
        name: the name.
        folders: where the user's module is looked for, after Python's own path: a ``random.py`` there is not Python's.
        comm: the ranks that all call this.

    Raises:
        BadInput: on every rank, when there is none, or when its module cannot be imported.
    """
    if ":" not in name:
        module_name, _, function_name = name.rpartition(".")
        # The other equations are loaded only to name the nearest.
        built_in = _equations_of(module_name) if module_name in _modules_of_pdes() else {}
        if function_name not in built_in:
            known = built_in_pdes()
            raise BadInput(f"unknown equation {name!r}{nearest(name, known)}; one of your own is module:function")
        return built_in[function_name]
    module_name, _, function_name = name.partition(":")
    sys.path += [str(f) for f in dict.fromkeys(folders) if str(f) not in sys.path]
    with parallel.together(comm):
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as cause:
            where = ", ".join(str(f) for f in dict.fromkeys(folders))
            raise BadInput(
                f"{name}: there is no module {cause.name!r}; looked in {where} and on Python's path"
            ) from cause
        except (Exception, SystemExit) as cause:
            raise BadInput(f"{name}: importing {module_name} failed: {type(cause).__name__}: {cause}") from cause
        if not callable(getattr(module, function_name, None)):
            known = [n for n, m in vars(module).items() if inspect.isfunction(m) and not n.startswith("_")]
            raise BadInput(f"{name}: {module_name} has no function {function_name!r}{nearest(function_name, known)}")
    own: Callable[..., Any] = getattr(module, function_name)
    return own


def check_keywords(function: Callable[..., Any], name: str, keywords: dict[str, Any], *more: str) -> None:
    """See that ``function(mesh, **keywords)`` is a call that Python accepts, and that words stand where words may.

    ``more`` are keywords that another table than [pde] gives.

    Raises:
        BadInput: naming the keyword that is unknown, missing or no number, and those there are.
    """
    parameters = list(inspect.signature(function).parameters.values())
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = [p for p in parameters[1:] if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    known = [p.name for p in named]
    for key, value in keywords.items():
        if key not in known and not takes_any:
            raise BadInput(f"[pde] {key}: {name} has no such keyword{nearest(key, known)}")
        words = [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str)]
        if words and not _takes_words(function, key):
            raise BadInput(
                f"[pde] {key}: expected a number, a list of numbers, or a table of tag = number, got {value!r}"
            )
    for key in more:
        if key in keywords:
            raise BadInput(f"[pde] {key}: another table of this job gives it; remove this key")
        if key not in known and not takes_any:
            raise BadInput(f"[pde] name: {name} has no keyword {key!r}, which this kind of job gives it")
    missing = [p.name for p in named if p.default is p.empty and p.name not in (*keywords, *more)]
    if missing:
        raise BadInput(f"[pde]: {name} needs {', '.join(missing)} as well (it takes: {', '.join(known)})")
    if not parameters:
        raise BadInput(f"[pde] name: {name} takes no mesh; expected a function of a mesh")


def _takes_words(function: Callable[..., Any], key: str) -> bool:
    """Whether the type of a parameter has a place for a string; True where the type is not known."""
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # Annotations are any code at all; what they say is a help to the user, not a condition.
        return True
    return key not in hints or _holds_text(hints[key])


def _holds_text(hint: Any) -> bool:
    """Whether a type has a place for a string: by itself, as one of several, or in a list of them. Local."""
    if hint in (Any, object) or (isinstance(hint, type) and issubclass(hint, str)):
        return True
    kind, inner = typing.get_origin(hint), typing.get_args(hint)
    if kind is typing.Literal:
        return any(isinstance(value, str) for value in inner)
    several = kind in (typing.Union, types.UnionType, typing.Annotated)
    listed = isinstance(kind, type) and kind in (list, tuple, Sequence)
    return (several or listed) and any(_holds_text(part) for part in inner)
