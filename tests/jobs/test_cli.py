"""The command line: exit statuses, what is printed and by whom, and that no rank is left waiting."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import jobs
import pytest
import run_folders
from mpi4py import MPI

from relax import cli
from relax.base.fem import cache
from relax.jobs import info

COMM = MPI.COMM_WORLD


def execute(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run a command line in this process, on every rank: (status, stdout, stderr) of this rank."""
    capfd.readouterr()
    status = cli.execute([str(a) for a in arguments])
    out, err = capfd.readouterr()
    return status, out, err


# -- in this process, on all ranks -------------------------------------------------------------------------------------


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["check", "-h"], ["status", "-h"], ["--version"]])
def test_help_is_printed_once(capfd: pytest.CaptureFixture[str], words: list[str]) -> None:
    status, out, _ = execute(capfd, *words)
    assert status == 0 and ("relax" in out) == (COMM.rank == 0)


@pytest.mark.parametrize(
    "words", [["rum"], ["run"], ["run", "a.toml", "--overwite"], ["check"], ["check", "m:f", "--n", "0"]], ids=" ".join
)
def test_a_wrong_command_line_has_status_2(capfd: pytest.CaptureFixture[str], words: list[str]) -> None:
    status, _, err = execute(capfd, *words)
    assert status == 2 and ("Usage" in err) == (COMM.rank == 0)


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("where", ["in the module", "in the function"])
def test_a_module_that_leaves_the_program_is_named(capfd: pytest.CaptureFixture[str], where: str) -> None:
    """`sys.exit(0)` in it ended the run well, without results."""
    name = f"leaver_{where[-1]}"
    with jobs.shared_folder() as folder:
        leave = "import sys\nsys.exit(0)\n" if "module" in where else "import sys\ndef made(mesh):\n    sys.exit(0)\n"
        jobs.write(folder / f"{name}.py", leave)
        text = jobs.changed(('"poisson.diffusion"\nsource = 10.0', f'"{name}:made"'))
        status, _, err = execute(capfd, "run", jobs.write(folder / "job.toml", text), "--output", folder / "out")
        assert status == 2 and (COMM.rank > 0 or "SystemExit: 0" in err)
        forget(folder, name)


@pytest.mark.ranks(1, 2)
def test_run_prints_on_rank_0_and_writes(capfd: pytest.CaptureFixture[str]) -> None:
    with jobs.shared_folder() as folder:
        job = jobs.write(folder / "job.toml", jobs.SMALL_JOB)
        status, out, err = execute(capfd, "run", job, "--output", folder / "out")
        assert status == 0 and err == ""
        if COMM.rank == 0:
            assert "step 0" in out and "misfit" in out and "noise levels" in out and "converged" in out
            assert json.loads((folder / "out" / "summary.json").read_text())["converged"]
        else:
            assert out == ""
        assert execute(capfd, "run", job, "--output", folder / "out")[0] == 2
        status, _, err = execute(capfd, "run", job, "--output", folder / "out", "--overwrite", "--resume")
        assert status == 2 and ("expected one of them" in err) == (COMM.rank == 0)


def test_a_run_that_does_not_converge_has_status_3_and_results(capfd: pytest.CaptureFixture[str]) -> None:
    with jobs.shared_folder() as folder:
        job = jobs.write(folder / "job.toml", jobs.changed(('name = "gauss_newton"', "max_steps = 1")))
        status, out, _ = execute(capfd, "run", job, "--output", folder / "out")
        assert status == 3 and (folder / "out" / "figure.png").exists()
        assert ("max_steps" in out) == (COMM.rank == 0)


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        ("length = 0.5", "lenght = 0.5", 2),
        ("poisson.diffusion", "poisson.difusion", 2),
        ("poisson.diffusion", "broken:raises_everywhere", 1),
        ("poisson.diffusion", "broken:leaves_everywhere", 5),
        ("poisson.diffusion", "unreadable:function", 2),
    ],
)
def test_errors_are_told_once_with_one_status(
    capfd: pytest.CaptureFixture[str], old: str, new: str, status: int
) -> None:
    with jobs.shared_folder() as folder:
        jobs.write(folder / "broken.py", BROKEN)
        jobs.write(folder / "unreadable.py", "def function(:\n")
        job = jobs.write(folder / "job.toml", jobs.changed((old, new), ("source = 10.0", "")))
        try:
            got, _, err = execute(capfd, "run", job, "--output", folder / "out")
        finally:
            forget(folder, "broken", "unreadable")
        assert got == status
        if COMM.rank > 0:
            assert err == ""
        elif status == 1:
            assert "Traceback" in err and "ZeroDivisionError: on purpose" in err
        elif status == 2:
            assert err.startswith("relax: error: ") and "Traceback" not in err
        assert not (folder / "out" / "summary.json").exists()


BROKEN = """
import sys
from mpi4py import MPI

def raises_everywhere(mesh):
    raise ZeroDivisionError("on purpose")

def leaves_everywhere(mesh):
    sys.exit(5)

def raises_on_the_last_rank(mesh):
    if mesh.comm.rank == mesh.comm.size - 1:
        raise ZeroDivisionError("on purpose")
    mesh.comm.Barrier()

def leaves_on_the_last_rank(mesh):
    if mesh.comm.rank == mesh.comm.size - 1:
        sys.exit(0)
    mesh.comm.Barrier()

def is_interrupted_on_the_last_rank(mesh):
    if mesh.comm.rank == mesh.comm.size - 1:
        raise KeyboardInterrupt
    mesh.comm.Barrier()

def refuses_on_the_last_rank(mesh):
    from relax.errors import BadInput
    if mesh.comm.rank == mesh.comm.size - 1:
        raise BadInput("on purpose")
    mesh.comm.Barrier()
"""


def forget(folder: Path, *modules: str) -> None:
    """Undo what finding a user's module left in this process."""
    sys.path[:] = [entry for entry in sys.path if entry != str(folder)]
    for module in modules:
        sys.modules.pop(module, None)


def test_debug_adds_the_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    _, _, err = execute(capfd, "run", "nowhere.toml", "--debug")
    assert ("Traceback" in err and "no such job file" in err) == (COMM.rank == 0)


@pytest.mark.ranks(1, 2)
def test_info_is_printed_once(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, _ = execute(capfd, "info")
    assert status == 0
    if COMM.rank == 0:
        for name in "relax Python DOLFINx PETSc petsc4py torch MPI ranks threads BLAS mumps".split():
            assert name in out
        assert f"ranks        {COMM.size}" in out
    else:
        assert out == ""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/usr/lib/x86_64-linux-gnu/openblas-pthread/libopenblasp-r0.3.29.so", "openblas"),
        ("/usr/lib/x86_64-linux-gnu/blas/libblas.so.3.12.1", "reference"),
        ("/opt/intel/libmkl_rt.so.2", "mkl"),
        ("/usr/lib/libc.so.6", "unknown"),
    ],
)
def test_the_blas_is_recognised(path: str, kind: str) -> None:
    line = "7f00-7f01 r-xp 00000000 00:00 0   "
    wheel = "/usr/lib/python3/site-packages/numpy.libs/libscipy_openblas64_.so"
    assert info.blas_in_use(f"{line}{path}\n{line}{wheel}\n") == kind


def test_arguments_after_the_dashes_are_petscs() -> None:
    assert cli.split_arguments(["run", "a.toml"]) == (["run", "a.toml"], [])
    assert cli.split_arguments(["run", "a", "--", "-log_view", "--", "x"]) == (["run", "a"], ["-log_view", "--", "x"])


def test_only_dead_compilations_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMPI_COMM_WORLD_LOCAL_RANK", raising=False)
    for name in ("done.c", "done.c.cached", "dead.c", "dead.o", "fresh.c"):
        (tmp_path / f"libffcx_forms_{name}").touch()
    hour_ago = time.time() - 3600.0
    for name in ("done.c", "done.c.cached", "dead.c", "dead.o"):
        os.utime(tmp_path / f"libffcx_forms_{name}", (hour_ago, hour_ago))
    assert [p.name for p in cache.sweep_stale_forms(tmp_path)] == ["libffcx_forms_dead.c"]
    left = {p.name.removeprefix("libffcx_forms_") for p in tmp_path.iterdir()}
    assert left == {"done.c", "done.c.cached", "fresh.c"}
    assert cache.sweep_stale_forms(tmp_path / "nowhere") == []


# -- in processes of their own -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.slow
def test_statuses_reach_the_shell(tmp_path: Path, ranks: int) -> None:
    (tmp_path / "job.toml").write_text(jobs.SMALL_JOB)
    done = jobs.command("run", "job.toml", ranks=ranks, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.startswith("step 0") for line in lines) == 1
    assert f"{ranks} rank(s)" in lines[0] and lines[-1].endswith("results in results/small")
    again = jobs.command("run", "job.toml", ranks=ranks, cwd=tmp_path)
    assert again.returncode == 2 and again.stderr.count("holds a finished run") == 1 and "Traceback" not in again.stderr


@pytest.mark.parametrize("how", ["raises", "leaves", "is_interrupted", "refuses"])
@pytest.mark.slow
def test_a_rank_that_fails_alone_ends_the_job(tmp_path: Path, how: str) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    function = f"broken:{how}_on_the_last_rank"
    (tmp_path / "job.toml").write_text(jobs.changed(("poisson.diffusion", function), ("source = 10.0", "")))
    start = time.monotonic()
    ended = jobs.command("run", "job.toml", ranks=2, cwd=tmp_path, timeout=60.0)
    # Ten seconds from the failure; the rest is starting Python on a busy machine.
    assert time.monotonic() - start < 30.0 and ended.returncode != 0
    if how in ("raises", "refuses"):
        assert f"in {how}_on_the_last_rank" in ended.stderr and "on purpose" in ended.stderr


@pytest.mark.slow
def test_options_after_the_dashes_reach_petsc(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(jobs.SMALL_JOB)
    options = ["-log_view", "-relax_poisson_diffusion_ksp_view", "-relax_poisson_diffusion_pc_type", "lu"]
    done = jobs.command("run", "job.toml", "--", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "PETSc Performance Summary" in done.stdout and "KSP Object: (relax_poisson_diffusion_)" in done.stdout


def test_help_and_info_work_without_dolfinx(tmp_path: Path) -> None:
    for name in ("dolfinx", "petsc4py", "mpi4py"):
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('not here', name={name!r})\n")
    (tmp_path / "job.toml").write_text(jobs.SMALL_JOB)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    run_folders.finished(tmp_path / "out")
    for words, status in (
        (["--help"], 0), (["run", "--help"], 0), (["info"], 0), (["status", "out"], 0), (["compare", "out", "out"], 0),
        (["status", "."], 2), (["run", "job.toml"], 1),
    ):  # fmt: skip
        ended = jobs.command(*words, cwd=tmp_path, environment={"PYTHONPATH": path})
        assert ended.returncode == status and "Traceback" not in ended.stderr
        said = ended.stdout + ended.stderr
        assert ("apt install python3-dolfinx-real" in said) == (words[0] in ("info", "run") and "--help" not in words)


CHECKED = """
import ufl
from dolfinx import fem
import relax

def right(mesh, rate=1.0):
    V = fem.functionspace(mesh, ("Lagrange", 1))
    u, v, m = fem.Function(V), ufl.TestFunction(V), fem.Function(V)
    F = (ufl.inner(ufl.grad(u), ufl.grad(v)) + (rate * u**3 - m) * v) * ufl.dx
    return relax.Problem(residual=F, state=u, controls=[m], bcs=[relax.clamp_boundary(V)], name="right")

def made():
    problem = right(relax.meshes.unit_square(4))
    return relax.ReducedMap(problem, relax.FieldValues(problem.state.function_space))

def wrong(mesh):
    class Wrong(relax.FieldValues):
        def adjoint(self, u, dy):
            return -super().adjoint(u, dy)
    problem = right(mesh)
    return relax.ReducedMap(problem, Wrong(problem.state.function_space))

def split(mesh):
    first = right(mesh)
    a, v = first.state, ufl.TestFunction(first.state.function_space)
    b, old = fem.Function(a.function_space), fem.Function(a.function_space)
    F = ((b - old - 0.1 * a) * v) * ufl.dx
    second = relax.Problem(residual=F, state=b)
    return relax.Evolution(step=[first, second], previous=[None, old], initial=[None, 1.0], num_steps=2)

def other(mesh):
    return 3
"""


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    ("function", "options", "status", "expected"),
    [
        ("right", ["--n", "4"], 0, ""),
        ("made", [], 0, ""),
        ("split", ["--n", "3"], 0, ""),
        ("wrong", ["--n", "4"], 1, "check failed"),
        ("other", [], 2, "returned a int"),
        ("made", ["--mesh", "a.msh"], 2, "takes no mesh"),
        ("rigth", [], 2, "did you mean 'right'?"),
    ],
)
def test_check(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    options: list[str],
    status: int,
    expected: str,
) -> None:
    with jobs.shared_folder() as folder:
        jobs.write(folder / "checked.py", CHECKED)
        monkeypatch.chdir(folder)
        try:
            got, _, err = execute(capfd, "check", f"checked:{function}", *options)
        finally:
            monkeypatch.undo()
            forget(folder, "checked")
        assert got == status, err
        assert expected in err or COMM.rank > 0


def test_check_knows_the_equations_of_relax(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, err = execute(capfd, "check", "poisson.diffusion", "--n", "4")
    assert status == 0, err
    assert bool(out) == (COMM.rank == 0)
