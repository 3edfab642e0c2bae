"""``relax check``: the derivatives of a function's problem."""

from __future__ import annotations

import inspect
from pathlib import Path

from mpi4py import MPI

from relax import meshes
from relax.case import find_function
from relax.errors import BadInput
from relax.observe import FieldValues
from relax.problem import Problem
from relax.reduced import ReducedMap
from relax.verify import MapReport, check_map


def check(name: str, mesh_file: Path | None, n: int, seed: int, comm: MPI.Comm = MPI.COMM_WORLD) -> MapReport:
    """Check the problem or the map that a function returns, and print the report on rank 0.

    Collective.

    Args:
        name: ``module:function``, or a built-in equation such as ``poisson.diffusion``.
        mesh_file: the mesh that the function is given; the unit square where None.
        n: the unit square in n by n squares.
        seed: of the random control and directions.
        comm: the ranks that all call this.

    Raises:
        BadInput: when there is no such function, or it returns something else.
        CheckFailed: when a derivative is wrong.
    """
    here = Path.cwd()
    function = find_function(name, [here], comm)
    parameters = inspect.signature(function).parameters.values()
    required = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(required) > 1:
        names = ", ".join(p.name for p in required)
        raise BadInput(f"{name} needs {names}; expected a function of a mesh alone, with defaults for all else")
    if required:
        domain = meshes.read(mesh_file, comm) if mesh_file is not None else meshes.unit_square(n, comm=comm)
        by_name = required[0].kind is inspect.Parameter.KEYWORD_ONLY
        made = function(**{required[0].name: domain}) if by_name else function(domain)
    elif mesh_file is not None:
        raise BadInput(f"--mesh: {name} takes no mesh")
    else:
        made = function()
    if isinstance(made, Problem):
        made = ReducedMap(made, FieldValues(made.state.function_space))
    if not isinstance(made, ReducedMap):
        raise BadInput(f"{name} returned a {type(made).__name__}; expected a relax.Problem or a relax.ReducedMap")
    try:
        return check_map(made, seed=seed)
    finally:
        made.close()
