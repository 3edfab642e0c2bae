"""A landscape: a function of x, relaxed by an equation in time, and the starts of descents on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import ufl
from dolfinx import mesh
from mpi4py import MPI

from relax.base.types import Array
from relax.engine.reduced import ReducedMap
from relax.errors import BadInput
from relax.jobs.landscape.functions import Landscape, landscape_of, named
from relax.jobs.landscape.job import DescentSection, LandscapeJob
from relax.jobs.setting import equation
from relax.jobs.setting.equation import build_equation, build_mesh
from relax.jobs.setting.sensors import random_points
from relax.jobs.toml import JobFile
from relax.observe import Functional, points_inside
from relax.problem.evolution import Evolution

# By default: times of the descents, from [pde] t down to this part of it.
_TIMES, _SHORTEST = 24, 1e-2


@dataclass(frozen=True)
class Descents:
    """What a [descent] asks for.

    Attributes:
        section: the table itself.
        starts: (k, gdim).
        times: falling.
        beta: inverse temperature of the landscape that they go down on.
    """

    section: DescentSection
    starts: Array
    times: Array
    beta: float


@dataclass(frozen=True)
class LandscapeSetting:
    """What a job with [landscape] relaxes.

    Attributes:
        problem: the equation; its first state is the landscape.
        f: the landscape, a function of x, (3, n) -> (n,).
        G: the map whose trajectory is wanted; its control is the landscape.
        beta: inverse temperature; None where [pde] has none.
        descents: from where they go and when, where there is a [descent].
    """

    problem: Evolution
    f: Landscape
    G: ReducedMap
    beta: float | None
    descents: Descents | None


def check_named(file: JobFile[LandscapeJob], comm: MPI.Comm) -> None:
    """See that there is what a job names. Collective."""
    named(file, comm)
    equation.check_named(file, comm, "f")


def build(file: JobFile[LandscapeJob], comm: MPI.Comm) -> LandscapeSetting:
    """The landscape of a file. Collective."""
    job = file.job
    domain = build_mesh(job.mesh, file.root, comm, trust=file.trust_mesh)
    f = landscape_of(file, domain)
    problem = build_equation(file, domain, f=f)
    if not isinstance(problem, Evolution) or tuple(problem.state.function_space.value_shape):
        raise BadInput(
            f"[pde] name: {job.pde.name} is no equation in time for a scalar; a job with a [landscape] needs one, such "
            "as hamilton_jacobi.viscous_evolution"
        )
    beta = _number(job.pde.keywords.get("beta"))
    t = _number(job.pde.keywords.get("t"))
    descents = None if job.descent is None else _descents(job.descent, beta, t, domain)
    G = ReducedMap(problem, Functional(problem.state * ufl.dx), options=job.solver.options, layout="owned")
    return LandscapeSetting(problem, f, G, beta, descents)


def _descents(section: DescentSection, beta: float | None, t: float | None, domain: mesh.Mesh) -> Descents:
    """What [descent] asks for on a mesh. Collective."""
    if beta is None or t is None:
        raise BadInput("[descent]: needs the numbers `beta` and `t` in [pde]: it relaxes the landscape for itself")
    times = np.sort(section.times or np.geomspace(_SHORTEST * t, t, _TIMES))[::-1]
    if len(np.unique(times)) < len(times):
        raise BadInput("[descent] times: expected each time once")
    return Descents(section, _starts(section, domain), times, beta)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _starts(section: DescentSection, domain: mesh.Mesh) -> Array:
    """(k, gdim) points inside the mesh. Collective."""
    gdim = domain.geometry.dim
    if isinstance(section.starts, int):
        return random_points(domain, section.starts, section.seed)
    if any(len(start) != gdim for start in section.starts):
        raise BadInput(f"[descent] starts: expected points of {gdim} number(s), as [mesh] has {gdim} dimension(s)")
    starts = np.array(section.starts)
    inside = points_inside(domain, starts)
    if not inside.all():
        outside = starts[~inside][0].tolist()
        raise BadInput(f"[descent] starts: expected points inside the mesh, got {outside}")
    return starts
