"""`relax run --dry-run`: what would be solved and where, with nothing built, written or held."""

from __future__ import annotations

from pathlib import Path

import jobs
import pytest
from mpi4py import MPI
from relaxation_jobs import LANDSCAPE_JOB, MISFIT_JOB
from run_folders import FEW, begun, contents, finished

from relax import cli
from relax.base.parallel import on_rank_0
from relax.jobs.lock import LOCK, Lock

COMM = MPI.COMM_WORLD
HUGE = jobs.changed(("n = 8", "n = 100000000"))


@pytest.mark.ranks(1, 2)
def test_what_would_be_solved_is_said_and_not_built(shared_tmp: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The mesh would not fit into any memory."""
    job = jobs.write(shared_tmp / "job.toml", HUGE)
    before = contents(shared_tmp)
    words = ["--dry-run", "--output", str(shared_tmp / "out"), "--set", "pde.dirichlet.left=1.0"]
    assert cli.execute(["run", str(job), *words]) == 0
    said = capfd.readouterr().out
    assert contents(shared_tmp) == before
    for line in (
        f"an inverse job on {COMM.size} rank(s)",
        'mesh       generator = "unit_square", n = [100000000]\n',
        'pde        name = "poisson.diffusion", source = 10.0, dirichlet = { left = 1.0 }\n',
        "observe    points = 12, seed = 1\n",
        'data       truth = "inclusions", noise = 0.02, seed = 2\n',
        "prior      std = 0.5, mean = 0.0, length = 0.5\n",
        'method     name = "gauss_newton", max_steps = 50, rtol = 1e-08, atol by default (converged at 0.001',
        'solver     options by default, layout = "replicated"\n',
        f"{shared_tmp / 'out'}: new\n",
    ):
        assert (line in said) == (COMM.rank == 0)


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([('generator = "unit_square"\nn = 8', 'file = "none.msh"')], "[mesh] file: there is no "),
        ([("points = 12\nseed = 1", 'points = "none.csv"')], "[observe] points: "),
        ([('truth = "inclusions"', 'truth = "inclusion"')], "[data] truth: expected one of"),
        ([("source = 10.0", "sorce = 10.0")], "[pde] sorce: poisson.diffusion has no such keyword"),
        ([("poisson.diffusion", "poisson.difusion")], "did you mean 'poisson.diffusion'"),
    ],
)
def test_what_is_not_there_is_a_mistake(
    shared_tmp: Path, capfd: pytest.CaptureFixture[str], changes: list[tuple[str, str]], words: str
) -> None:
    job = jobs.write(shared_tmp / "job.toml", jobs.changed(*changes))
    assert cli.execute(["run", str(job), "--dry-run", "--output", str(shared_tmp / "out")]) == 2
    assert (words in capfd.readouterr().err) == (COMM.rank == 0)


@pytest.mark.parametrize(
    ("text", "old", "new", "words"),
    [
        (LANDSCAPE_JOB, "", "", "a landscape job"),
        (LANDSCAPE_JOB, 'function = "', 'function = "no_', "unknown landscape"),
        (MISFIT_JOB, "", "", "a misfit job"),
        (MISFIT_JOB, "[misfit]", "[misfit]\nranks_per_solve = 2", "expected a divisor of the 1 ranks"),
        (jobs.CONTROL_JOB, "", "", "a control job"),
    ],
    ids=["landscape", "no landscape", "misfit", "ranks", "control"],
)
def test_jobs_of_all_kinds(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str, old: str, new: str, words: str
) -> None:
    job = jobs.write(tmp_path / "job.toml", text.replace(old, new, 1) if old else text)
    (tmp_path / "sensors.csv").write_text("x\n0.5\n")
    assert cli.execute(["run", str(job), "--dry-run", "--output", str(tmp_path / "out")]) == (2 if old else 0)
    said = capfd.readouterr()
    assert words in (said.err if old else said.out)


RUNS = {
    "empty": lambda out: out.mkdir(),
    "finished": finished,
    "ended": lambda out: finished(out / "unfinished"),
    "unfinished": lambda out: begun(out / "unfinished"),
    "both": lambda out: (finished(out), begun(out / "unfinished")),
    "another's": lambda out: (out.mkdir(), (out / "mine.txt").write_text("")),
    "a file": lambda out: out.write_text(""),
    "an input": lambda out: (out.mkdir(), (out / "points.csv").write_text("x, y\n0.5, 0.5\n")),
}
STAY = "a finished run, whose results would stay until the new ones take their place"
ANEW = "an unfinished run, which would be begun anew"


@pytest.mark.parametrize(
    ("what", "flag", "words"),
    [
        ("empty", "", "out: holds nothing"),
        ("finished", "--overwrite", f"out: holds {STAY}"),
        ("finished", "--resume", "out: holds a finished run, which would be gone on with"),
        ("ended", "--overwrite", f"out: holds {STAY}"),
        ("unfinished", "--overwrite", f"out: holds {ANEW}\n"),
        ("unfinished", "--resume", "out: holds an unfinished run, which would be gone on with"),
        ("both", "--overwrite", f"out: holds {ANEW} and {STAY}"),
        ("finished", "", "holds a finished run; --overwrite replaces it"),
        ("ended", "", "holds a finished run; --overwrite replaces it"),
        ("unfinished", "", "holds an unfinished run; --resume goes on"),
        ("unfinished", "--resume --set prior.length=0.1", "[prior] is not what it was"),
        ("empty", "--resume", "nothing to resume"),
        ("another's", "--overwrite", "so it is not a folder of relax"),
        ("a file", "--overwrite", "and this is a file"),
        ("an input", "--set observe.points=out/points.csv", "which this job reads"),
    ],
)
def test_what_would_become_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], what: str, flag: str, words: str
) -> None:
    """Refused, with all that would have been solved said before, where the run would be."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.toml").write_text(FEW)
    RUNS[what](tmp_path / "out")
    before = contents(tmp_path)
    status = cli.execute(["run", "job.toml", "--dry-run", "--output", "out", *flag.split()])
    said = capfd.readouterr()
    assert contents(tmp_path) == before and "an inverse job" in said.out
    assert status == (0 if words.startswith("out: ") else 2)
    assert words in (said.err if status else said.out)


def test_a_folder_that_is_held_is_said_to_be(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "job.toml").write_text(FEW)
    begun(tmp_path / "out" / "unfinished")
    lock = Lock(tmp_path / "out")
    try:
        words = ["run", str(tmp_path / "job.toml"), "--output", str(tmp_path / "out"), "--dry-run", "--resume"]
        assert cli.execute(words) == 2
        assert "another run writes there (process" in capfd.readouterr().err
        assert (tmp_path / "out" / LOCK).exists()
    finally:
        lock.release()
    assert cli.execute(words) == 0 and on_rank_0(COMM, lambda: not (tmp_path / "out" / LOCK).exists())
