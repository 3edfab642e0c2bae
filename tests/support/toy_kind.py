"""A kind of job of the user's own: the integral of a power of the state."""

from __future__ import annotations

from typing import Any

import ufl

import relax
from relax.base import parallel
from relax.base.files import write_json
from relax.jobs.contents import RESULT
from relax.jobs.kinds import Kind
from relax.jobs.report import opening, sizes
from relax.jobs.session import Outcome, Session
from relax.jobs.setting.equation import build_equation, build_mesh
from relax.jobs.toml import Job, JobFile
from relax.jobs.toml.base import Count, Section

KIND = Kind("integral", "toy_kind:IntegralJob", "toy_kind:build", "toy_kind:run")

JOB = """
[mesh]
generator = "box"
n = [2, 3, 4]
lower = [0.0, 0.0, 0.0]
upper = [1.0, 2.0, 3.0]

[pde]
name = "poisson.diffusion"
source = 4.0
dirichlet = { left = 1.0 }

[integral]
power = 2

[output]
folder = "results/toy"
"""


class IntegralSection(Section):
    power: Count = 1


class IntegralJob(Job):
    kind = "integral"
    useless = {"prior": "nothing is recovered here; remove this table"}

    integral: IntegralSection


def build(file: JobFile[IntegralJob], comm: Any) -> relax.ReducedMap:
    problem = build_equation(file, build_mesh(file.job.mesh, file.root, comm))
    return relax.ReducedMap(problem, relax.Functional(problem.state**file.job.integral.power * ufl.dx))


def run(session: Session) -> Outcome:
    G = session.build()
    session.progress.say(opening(session.job.pde.name, sizes(G.problem, G.size_out), session.comm))
    with session.phase("solve"):
        (value,) = G(G.present_control())
    G.close()
    parallel.on_rank_0(session.comm, lambda: write_json(session.folder, RESULT, {"integral": value}))
    return session.finish({"converged": True, "integral": value}, f"integral {value:.6g}")
