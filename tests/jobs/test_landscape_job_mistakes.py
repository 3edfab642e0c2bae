"""Jobs that relax: mistakes in their tables, exit statuses, what becomes of folders."""

from __future__ import annotations

import jobs
import pytest
from relaxation_jobs import (
    COMM,
    LANDSCAPE_JOB,
    MISFIT_FILES,
    MISFIT_JOB,
    ROOT,
    misfit,
    names_in,
    prepared,
    run,
)

from relax import cli
from relax.errors import BadInput
from relax.jobs import toml
from relax.jobs.contents import SUMMARY

# -- mistakes and exit statuses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "old", "new", "expected"),
    [
        (LANDSCAPE_JOB, "function =", "functoin =", ["[landscape] functoin: unknown key", "did you mean 'function'?"]),
        (LANDSCAPE_JOB, "[landscape]", "[lanscape]", ["[lanscape]: unknown table", "did you mean 'landscape'?"]),
        (LANDSCAPE_JOB, '"rugged"', "3", ["[landscape] function", "a string"]),
        (LANDSCAPE_JOB, "starts = 6", "stars = 6", ["[descent] stars: unknown key", "did you mean 'starts'?"]),
        (LANDSCAPE_JOB, "starts = 6", "starts = 0", ["[descent] starts", ">= 1"]),
        (LANDSCAPE_JOB, "starts = 6", "steps = 0", ["[descent] steps", ">= 1"]),
        (LANDSCAPE_JOB, "starts = 6", "tolerance = -1.0", ["[descent] tolerance", "> 0"]),
        (LANDSCAPE_JOB, "[0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 1.4, 2.0]", "[0.0]", ["[descent] times", "> 0"]),
        (LANDSCAPE_JOB, "[descent]", "[prior]\nstd = 1.0\n[descent]", ["[prior]", "landscape job", "remove it"]),
        (LANDSCAPE_JOB, "[descent]", "[method]\n[descent]", ["[method]", "landscape job"]),
        (LANDSCAPE_JOB, "[descent]", '[data]\ntruth = "ramp"\nnoise = 0.1\n[descent]', ["[data]", "landscape job"]),
        (LANDSCAPE_JOB, "[descent]", "[target]\nstate = 1\n[descent]", ["[target], [landscape]", "one of them"]),
        (LANDSCAPE_JOB, "[descent]", '[solver]\nlayout = "owned"\n[descent]', ["[solver] layout"]),
        (LANDSCAPE_JOB, "[descent]", '[solver]\nstorage = { schedule = "disk" }\n[descent]', ["[solver] storage"]),
        (MISFIT_JOB, "box =", "bex =", ["[misfit] bex: unknown key", "did you mean 'box'?", "[misfit] box", "missing"]),
        (MISFIT_JOB, "[0.1, 0.9]", "[0.9, 0.1]", ["[misfit]", "lower bound below"]),
        (MISFIT_JOB, "[0.1, 0.9]", "[[0.1, 0.9, 1.0]]", ["[misfit] box"]),
        (MISFIT_JOB, "[0.1, 0.9]", "[[0.1, 0.9], [0.1, 0.9]]", ["[data] truth", "2 number(s)", "[0.8]"]),
        (MISFIT_JOB, "num = 24", "num = 1", ["[misfit]", "at least 2"]),
        (MISFIT_JOB, "num = 24", "num = [4, 4]", ["[misfit]", "num"]),
        (MISFIT_JOB, "num = 24", "beta = 0.0", ["[misfit] beta", "> 0"]),
        (MISFIT_JOB, "num = 24", "times = [-1.0]", ["[misfit] times", "> 0"]),
        (MISFIT_JOB, "num = 24", "ranks_per_solve = 0", ["[misfit] ranks_per_solve", ">= 1"]),
        (MISFIT_JOB, "starts = 3", "starts = [[2.0]]", ["[misfit]", "starts", "in the box", "[2.0]"]),
        (MISFIT_JOB, "[0.8]", '"ramp"', ["[data] truth", "1 number(s)", "'ramp'"]),
        (MISFIT_JOB, "[misfit]", "[prior]\nstd = 1.0\n[misfit]", ["[prior]", "misfit job", "remove it"]),
        (MISFIT_JOB, "[misfit]", "[descent]\n[misfit]", ["[descent]", "misfit job"]),
        (MISFIT_JOB, "[misfit]", '[method]\nname = "lbfgs"\n[misfit]', ["[method] name", "gauss_newton"]),
        (MISFIT_JOB, "[misfit]", '[solver]\nlayout = "owned"\n[misfit]', ["[solver] layout"]),
        (MISFIT_JOB, "[data]\ntruth = [0.8]\nnoise = 0.02\nseed = 1\n", "", ["[data]: this table is missing"]),
        (jobs.SMALL_JOB, 'truth = "inclusions"', "truth = [1.0]", ["[data] truth", "name of a field", "[1.0]"]),
        (jobs.SMALL_JOB, "[prior]", "[descent]\n[prior]", ["[descent]", "inverse job"]),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 40 else "",
)  # fmt: skip
def test_a_mistake_is_named(text: str, old: str, new: str, expected: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        toml.parse(jobs.changed((old, new), of=text), "job.toml")
    told = str(caught.value)
    assert told.startswith("job.toml: ") and "pydantic" not in told
    for part in expected:
        assert part in told


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    ("text", "old", "new", "expected"),
    [
        (LANDSCAPE_JOB, '"rugged"', '"ruged"', ["[landscape] function", "did you mean 'rugged'?"]),
        (LANDSCAPE_JOB, '"rugged"', '"nowhere:f"', ["[landscape] function", "no module 'nowhere'"]),
        (LANDSCAPE_JOB, '"rugged"', '"math:sqrt"', ["[landscape] function", "math:sqrt", "TypeError"]),
        (LANDSCAPE_JOB, '"rugged"', '"numpy:ones_like"', ["[landscape] function", "numpy:ones_like", "(3, "]),
        (LANDSCAPE_JOB, "beta = 2.0", "", ["[pde]", "needs beta"]),
        (LANDSCAPE_JOB, "beta = 2.0", "beta = -1.0", ["[pde]", "beta", "above 0"]),
        (LANDSCAPE_JOB, "beta = 2.0", "beta = 200.0", ["[pde]", "would lose its digits", "route='direct'"]),
        (LANDSCAPE_JOB, "beta = 2.0", "beta = 2.0\nf = 1.0", ["[pde] f", "remove this key"]),
        (LANDSCAPE_JOB, "theta = 1.0", "thta = 1.0", ["[pde] thta", "did you mean 'theta'?"]),
        (LANDSCAPE_JOB, "hamilton_jacobi.viscous_evolution", "heat.evolution", ["[pde]", "heat.evolution"]),
        (LANDSCAPE_JOB, "starts = 6", "starts = [[9.0]]", ["[descent] starts", "inside the mesh", "[9.0]"]),
        (LANDSCAPE_JOB, "starts = 6", "starts = [[0.0, 0.0]]", ["[descent] starts", "1 number(s)"]),
        (LANDSCAPE_JOB, "[0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 1.4, 2.0]", "[0.3, 0.3]", ["[descent] times", "once"]),
        (LANDSCAPE_JOB, 'generator = "interval"\nn = 60\nlower = -3.0\nupper = 3.0', 'generator = "unit_square"\nn = 2',
         ["deep_relaxation", "on a line", "2 dimensions"]),
        (MISFIT_JOB, "frequency = 20.0", "num = 2", ["[misfit] box", "2 numbers", "got 1"]),
        (MISFIT_JOB, "num = 24", "ranks_per_solve = 7", ["[misfit] ranks_per_solve", "divisor", "7"]),
        (MISFIT_JOB, "sensors.csv", "nowhere.csv", ["[observe] points", "no such CSV file"]),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 40 else "",
)  # fmt: skip
def test_a_job_that_does_not_fit_is_refused_on_every_rank(text: str, old: str, new: str, expected: list[str]) -> None:
    text = jobs.changed((old, new), of=text)
    if "deep_relaxation" in expected:
        text = text.replace("rugged", "deep_relaxation")
    with jobs.shared_folder() as folder:
        with pytest.raises(BadInput) as caught:
            run(folder, text)
        assert not (folder / "out").exists()
    for part in expected:
        assert part in str(caught.value)


def test_a_field_is_no_control_of_a_misfit_job() -> None:
    text = misfit(('"chirps:chirp"\nfrequency = 20.0', '"poisson.source"'))
    with jobs.shared_folder() as folder, pytest.raises(BadInput, match="9 numbers.*a field is for"):
        run(folder, text)


def execute(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capfd.readouterr()
    status = cli.execute([str(a) for a in arguments])
    out, err = capfd.readouterr()
    return status, out, err


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    ("text", "kind"), [(LANDSCAPE_JOB, "landscape"), (MISFIT_JOB, "misfit")], ids=["landscape", "misfit"]
)
@pytest.mark.slow
def test_a_run_ends_well_is_kept_and_replaced_when_asked(
    capfd: pytest.CaptureFixture[str], text: str, kind: str
) -> None:
    with jobs.shared_folder() as folder:
        path, out = prepared(folder, text), folder / "out"
        status, said, err = execute(capfd, "run", path, "--output", out)
        assert status == 0, err
        assert COMM.rank > 0 or f"results in {out}" in said
        before = (out / SUMMARY).read_text()
        for option, expected in ((None, "finished run"), ("--resume", "no run that keeps its steps")):
            status, _, err = execute(capfd, "run", path, "--output", out, *([option] if option else []))
            assert status == 2 and (COMM.rank > 0 or expected in err)
        assert (out / SUMMARY).read_text() == before
        COMM.Barrier()
        status, _, _ = execute(capfd, "run", path, "--output", out, "--overwrite")
        assert status == 0 and (out / SUMMARY).read_text() != before


def test_what_does_not_converge_ends_with_3_and_its_results(capfd: pytest.CaptureFixture[str]) -> None:
    with jobs.shared_folder() as folder:
        few = misfit(("[misfit]", "[method]\nmax_steps = 1\n[misfit]"), ("num = 24", "num = 6\ntimes = [0.5]"))
        status, _, err = execute(capfd, "run", prepared(folder, few), "--output", folder / "out")
        assert status == 3, err
        assert names_in(folder / "out") == MISFIT_FILES


@pytest.mark.ranks(1, 2)
def test_a_run_that_fails_ends_with_1_and_is_not_taken_for_finished(capfd: pytest.CaptureFixture[str]) -> None:
    """u² = m has no solution for the numbers of this box."""
    with jobs.shared_folder() as folder:
        jobs.write(folder / "data.csv", "x,value\n0.5,1.0\n")
        observe = '[observe]\npoints = "sensors.csv"\n\n[data]\ntruth = [0.8]\nnoise = 0.02\nseed = 1\n'
        text = misfit(
            ('"chirps:chirp"\nfrequency = 20.0', '"chirps:root"'),
            (observe, '[data]\nfile = "data.csv"\nnoise = 0.1\n'),
            ("[0.1, 0.9]", "[-2.0, -1.0]"),
            ("num = 24", "num = 2"),
        )
        path = prepared(folder, text)
        status, _, err = execute(capfd, "run", path, "--output", folder / "out")
        assert status == 1 and (COMM.rank > 0 or "failed at each sample of the box" in err)
        assert names_in(folder / "out") == ["unfinished"]
        # It has kept nothing to go on from: the next one may use it.
        good = prepared(folder, MISFIT_JOB)
        assert execute(capfd, "run", good, "--output", folder / "out")[0] == 0


@pytest.mark.ranks(1, 2)
@pytest.mark.slow
def test_the_landscape_of_this_project_has_one_minimum_in_the_end() -> None:
    with jobs.shared_folder() as folder:
        text = (ROOT / "mpi_jobs" / "hj_relaxation.toml").read_text()
        coarse = jobs.changed(("[128, 128]", "[48, 48]"), ("num_steps = 40", "num_steps = 10"), of=text)
        summary = run(
            folder, coarse.replace("[descent]", "[descent]\ntimes = [0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0]")
        ).summary
        assert summary["local_minima"]["last"] == 1 and summary["local_minima"]["first"] > 40
        assert summary["descents"] == {"starts": 40, "reached": 40, "least": pytest.approx(0.0, abs=1e-12)}
