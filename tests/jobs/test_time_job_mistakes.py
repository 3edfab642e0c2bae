"""Jobs in time that do not fit, and equations of one's own: clear words on every rank, and nothing hangs."""

from __future__ import annotations

import sys
from pathlib import Path

import jobs
import numpy as np
import pytest
from mpi4py import MPI

from relax import cli
from relax.errors import BadInput
from relax.jobs import run_job, toml
from relax.jobs.run import build

COMM = MPI.COMM_WORLD
HEAT_PDE = 'name = "heat.evolution"\nnum_steps = 4\ndt = 0.01'
CONTROL_PDE = 'name = "schrodinger.dipole"\nnum_steps = 50\ndt = 0.2'


@pytest.mark.parametrize(
    ("text", "old", "new", "expected"),
    [
        (jobs.HEAT_JOB, "[2, 4]", '"some"', ["[observe] steps", '"all"', "'some'"]),
        (jobs.HEAT_JOB, "[2, 4]", "[2, 4.5]", ["[observe] steps", "[2, 4.5]"]),
        (jobs.HEAT_JOB, "[2, 4]", "[]", ["[observe] steps", "[]"]),
        (jobs.HEAT_JOB, "steps =", "setps =", ["[observe] setps: unknown key", "did you mean 'steps'?"]),
        (jobs.HEAT_JOB, "frames = 3", "frames = 0", ["[output] frames", ">= 1"]),
        (jobs.HEAT_JOB, "length = 0.5", "", ["[prior] length", "missing"]),
        (jobs.HEAT_JOB, "[prior]", "[target]\nstate = 2\n[prior]", ["[data], [target]", "expected one of them"]),
        (jobs.HEAT_JOB, "[prior]", "[start]\nseed = 2\n[prior]", ["[start]", "[target]"]),
        (jobs.CONTROL_JOB, "[target]", "[traget]", ["[traget]: unknown table", "did you mean 'target'?"]),
        (jobs.CONTROL_JOB, "[target]\npopulations = [0, 1, 0]", "", ["[data]", "[target]", "missing"]),
        (jobs.CONTROL_JOB, "[0, 1, 0]", "[0, 1, 1]", ["[target]", "add up to 1", "2"]),
        (jobs.CONTROL_JOB, "[0, 1, 0]", "[0, 1.5]", ["[target] populations", "<= 1"]),
        (jobs.CONTROL_JOB, "[0, 1, 0]", "[0, 1, 0]\nstate = 2", ["[target]", "one target", "two"]),
        (jobs.CONTROL_JOB, "populations = [0, 1, 0]", "state = 0", ["[target] state", ">= 1"]),
        (jobs.CONTROL_JOB, "amplitude = 0.3", "amplitude = 0.0", ["[start] amplitude", "> 0"]),
        (jobs.CONTROL_JOB, '"sine"', '"sinus"', ["[start] shape", "did you mean 'sine'?"]),
        (jobs.CONTROL_JOB, "std = 2.0", "std = 2.0\nlength = 1.0", ["[prior] length", "remove this key"]),
        (jobs.CONTROL_JOB, "[prior]", "[observe]\npoints = 3\n[prior]", ["[observe]", "remove this table"]),
        (jobs.CONTROL_JOB, '"lbfgs"', '"lbgfs"', ["[method] name", "did you mean 'lbfgs'?"]),
        (
            jobs.CONTROL_JOB, "[output]", '[solver]\nstorage = { schedule = "revolve", slot = 3 }\n[output]',
            ["[solver] storage.slot: unknown key", "did you mean 'slots'?"],
        ),
        (
            jobs.CONTROL_JOB, "[output]", '[solver]\nstorage = { schedule = "multistage", slots = 3 }\n[output]',
            ["[solver] storage", "takes slots, disk_slots"],
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_named(text: str, old: str, new: str, expected: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        toml.parse(jobs.changed((old, new), of=text), "job.toml")
    for part in expected:
        assert part in str(caught.value)


def test_each_method_has_its_own_number_of_steps() -> None:
    assert toml.parse(jobs.HEAT_JOB).method.max_steps == 50
    assert toml.parse(jobs.CONTROL_JOB).method.max_steps == 500


OWN = """
import numpy as np
import ufl
from dolfinx import fem
import relax

def made(mesh, per_step=False, until=1e9):
    V = fem.functionspace(mesh, ("Lagrange", 1))
    u, v, s = fem.Function(V, name="u"), ufl.TestFunction(V), fem.Function(V, name="source")
    t = fem.Constant(mesh, 0.0)
    R = (ufl.inner(ufl.grad(u), ufl.grad(v)) - s * ufl.sqrt(until - t) * v) * ufl.dx
    return relax.theta_evolution(
        R, u, initial=0.0, dt=0.1, num_steps=4, theta=1, controls=[s], per_step=[s] if per_step else [], time=t,
        bcs=[relax.clamp_boundary(V)], name="own",
    )

def box(mesh):
    return relax.pdes.schrodinger.dipole(mesh, num_steps=4, dt=0.1)

def scaled(mesh, scale, potential=0.0):
    wave = lambda x: scale * np.sin(np.pi * x[0] / 2)
    return relax.pdes.schrodinger.dipole(mesh, num_steps=4, dt=0.1, initial=wave)
"""


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch):
    """A folder with a module of the user's, called ``own_in_time``."""
    with jobs.shared_folder() as folder:
        jobs.write(folder / "own_in_time.py", OWN)
        monkeypatch.setattr(sys, "path", [*sys.path])
        yield folder
        sys.modules.pop("own_in_time", None)


@pytest.mark.slow
@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    ("text", "old", "new", "expected"),
    [
        (jobs.HEAT_JOB, "[2, 4]", "[2, 5]", ["[observe] steps", "from 0 to 4", "5"]),
        (jobs.HEAT_JOB, "[2, 4]", "[4, -1]", ["[observe] steps", "4 and -1 are both step 4"]),
        (jobs.HEAT_JOB, "[2, 4]", "[2, 2]", ["[observe] steps", "step 2 is there twice"]),
        (jobs.HEAT_JOB, "[2, 4]", "[2, -6]", ["[observe] steps", "-1 to -5", "got -6"]),
        (jobs.HEAT_JOB, "inclusions", "inclusion", ["[data] truth", "inclusions"]),
        (jobs.HEAT_JOB, "dt = 0.01", "dt = -0.01", ["[pde]: dt", "above 0"]),
        (jobs.HEAT_JOB, "dt = 0.01", "", ["[pde]", "needs dt"]),
        (jobs.HEAT_JOB, "dt = 0.01", 'dt = 0.01\ncontrols = "source_per_step"', ["field for each step", "script"]),
        (jobs.HEAT_JOB, "dt = 0.01", 'dt = 0.01\ncontrols = ["intial"]', ["did you mean 'initial'?"]),
        (jobs.HEAT_JOB, "dt = 0.01", 'dt = "small"', ["[pde] dt", "'small'"]),
        (jobs.HEAT_JOB, HEAT_PDE, 'name = "poisson.source"', ["[observe] steps", "no equation in time"]),
        (jobs.HEAT_JOB, HEAT_PDE, CONTROL_PDE, ["Constant", "one field"]),
        (
            jobs.HEAT_JOB, HEAT_PDE, 'name = "burgers.evolution"\nviscosity = 0.1\nnum_steps = 4\ndt = 0.1',
            ["[data] truth", "scalar", "[data] file"],
        ),
        (
            jobs.SMALL_JOB, "[output]", '[solver]\nstorage = { schedule = "disk" }\n[output]',
            ["[solver] storage", "no equation in time"],
        ),
        (jobs.CONTROL_JOB, CONTROL_PDE, 'name = "poisson.source"', ["[target]", "no equation in time"]),
        (jobs.CONTROL_JOB, CONTROL_PDE, HEAT_PDE, ["one number per step", "Function"]),
        (jobs.CONTROL_JOB, CONTROL_PDE, 'name = "own_in_time:made"\nper_step = true', ["Function per step"]),
        (jobs.CONTROL_JOB, CONTROL_PDE, 'name = "own_in_time:box"', ["[target] potential", "no keyword"]),
        (jobs.CONTROL_JOB, "populations = [0, 1, 0]", "state = 40", ["[target]", "eigenstates", "k"]),
        (jobs.CONTROL_JOB, "num_steps = 50", "num_steps = 0", ["[pde]: num_steps", "at least 1"]),
        (jobs.CONTROL_JOB, "dt = 0.2", "dt = 0.2\ninitial = [1.0, 0.0]", ["[pde] initial", "norm 1", "got 1.9;"]),
        (jobs.CONTROL_JOB, CONTROL_PDE, 'name = "own_in_time:scaled"\nscale = 1.01', ["[pde] initial", "got 1.020"]),
    ],
)  # fmt: skip
def test_a_job_that_does_not_fit_is_refused_on_every_rank(
    own: Path, text: str, old: str, new: str, expected: list[str]
) -> None:
    file = toml.read(jobs.write(own / "job.toml", jobs.changed((old, new), of=text)))
    with pytest.raises(BadInput) as caught:
        build(file)
    for part in expected:
        assert part in str(caught.value)
    assert str(caught.value).count("[pde]: ") <= 1


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    "wrong", ["num_steps = 0\ndt = 0.01", "num_steps = 4\ndt = -0.01", "num_steps = 2.5\ndt = 0.01"]
)
def test_a_mistake_that_the_equation_finds_has_status_2(
    capfd: pytest.CaptureFixture[str], own: Path, wrong: str
) -> None:
    text = jobs.changed(("num_steps = 4\ndt = 0.01", wrong), of=jobs.HEAT_JOB)
    path = jobs.write(own / "job.toml", text)
    capfd.readouterr()
    status = cli.execute(["run", str(path), "--output", str(own / "out")])
    err = capfd.readouterr().err
    assert status == 2 and not (own / "out").exists()
    assert err == "" if COMM.rank > 0 else err.startswith("relax: error: [pde]: ") and "Traceback" not in err


@pytest.mark.ranks(1, 2)
def test_a_run_that_meets_nan_says_at_which_step(capfd: pytest.CaptureFixture[str], own: Path) -> None:
    text = jobs.changed((HEAT_PDE, 'name = "own_in_time:made"\nuntil = 0.25'), of=jobs.HEAT_JOB)
    path = jobs.write(own / "job.toml", text)
    capfd.readouterr()
    status = cli.execute(["run", str(path), "--output", str(own / "out")])
    err = capfd.readouterr().err
    assert status == 1 and not (own / "out" / "summary.json").exists()
    assert err == "" if COMM.rank > 0 else "step 3 of 4" in err and "Traceback" not in err


@pytest.mark.slow
def test_an_equation_of_ones_own_with_a_shared_field(own: Path) -> None:
    text = jobs.changed((HEAT_PDE, 'name = "own_in_time:made"'), of=jobs.HEAT_JOB)
    outcome = run_job(toml.read(jobs.write(own / "job.toml", text)), folder=own / "out", show=False)
    assert outcome.converged and outcome.summary["strip"]["times"][-1] == pytest.approx(0.4)


def test_potential_of_ones_own_box(own: Path) -> None:
    box = (CONTROL_PDE, 'name = "own_in_time:box"'), ("[0, 1, 0]", "[0, 1, 0]\npotential = 0.0")
    text = jobs.changed(*box, of=jobs.CONTROL_JOB)
    found = build(toml.read(jobs.write(own / "job.toml", text)))
    start = found.watched.value(found.problem.initial_state)
    assert np.allclose(start, [1.0, 0.0, 0.0], atol=1e-10)
    found.G.close()
