"""``relax check``: the derivatives of a function's problem."""

from __future__ import annotations

import inspect
from pathlib import Path

import ufl
from mpi4py import MPI

from relax import meshes
from relax.engine.reduced import ReducedMap
from relax.engine.verify import MapReport, check_map
from relax.errors import BadInput
from relax.jobs.setting.equation import find_function
from relax.observe import FieldValues, Functional, Observable, Stack
from relax.problem.evolution import Evolution
from relax.problem.problem import Problem

# What an equation in time is given where it asks for it: enough steps for each kind of them to occur.
_FEW_STEPS = {"num_steps": 4, "dt": 0.05}


def check(
    name: str,
    mesh_file: Path | None,
    n: int,
    seed: int,
    comm: MPI.Comm = MPI.COMM_WORLD,
    *,
    trust_mesh: bool = False,
) -> MapReport:
    """Check the problem, the evolution or the map that a function returns, and print the report on rank 0.

    Collective.

    Args:
        name: ``module:function``, or a built-in equation such as ``poisson.diffusion``. Of an equation in time the last
            state is looked at; one that needs ``num_steps`` and ``dt`` is given a few steps.
        mesh_file: the mesh that the function is given; the unit square where None.
        n: the unit square in n by n squares.
        seed: of the random control and directions.
        comm: the ranks that all call this.
        trust_mesh: whether the mesh file may run programs.

    Raises:
        BadInput: when there is no such function, or it returns something else.
        CheckFailed: when a derivative is wrong.
    """
    here = Path.cwd()
    function = find_function(name, [here], comm)
    parameters = inspect.signature(function).parameters.values()
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    few = {p.name: _FEW_STEPS[p.name] for p in needed if p.name in _FEW_STEPS and p.kind is not p.POSITIONAL_ONLY}
    required = [p for p in needed if p.name not in few]
    if len(required) > 1:
        raise BadInput(_how_to_check(name, [p.name for p in required[1:]], few))
    if required:
        if mesh_file is not None:
            domain = meshes.read(mesh_file, comm, trust=trust_mesh)
        else:
            domain = meshes.unit_square(n, comm=comm)
        by_name = required[0].kind is inspect.Parameter.KEYWORD_ONLY
        made = function(**{required[0].name: domain}, **few) if by_name else function(domain, **few)
    elif mesh_file is not None:
        raise BadInput(f"--mesh: {name} takes no mesh")
    else:
        made = function(**few)
    if isinstance(made, Problem | Evolution):
        if isinstance(made.state, tuple):
            seen: Observable = Stack([Functional(ufl.inner(u, u) * ufl.dx) for u in made.state])
        else:
            seen = FieldValues(made.state.function_space)
        made = ReducedMap(made, seen)
    if not isinstance(made, ReducedMap):
        kind = type(made).__name__
        raise BadInput(f"{name} returned a {kind}; expected a relax.Problem, a relax.Evolution or a relax.ReducedMap")
    try:
        return check_map(made, seed=seed)
    finally:
        made.close()


def _how_to_check(name: str, missing: list[str], few: dict[str, float]) -> str:
    """What to write for a function that needs more than a mesh. Local."""
    module, _, function = name.replace(":", ".").rpartition(".")
    home = module if ":" in name else f"relax.pdes.{module}"
    given = [f"{key}={value}" for key, value in few.items()] + [f"{key}=..." for key in missing]
    return (
        f"{name} needs {', '.join(missing)} as a keyword besides a mesh, which is all that it gets here. Check a "
        f"function of your own: in my_equations.py\n\n    import {home}\n\n    def f(mesh):\n"
        f"        return {home}.{function}(mesh, {', '.join(given)})\n\n"
        "and then `relax check my_equations:f`"
    )
