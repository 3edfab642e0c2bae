"""Jobs that relax a landscape, or the misfit of a few numbers: what they write, how they fail, on any ranks."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import chirps
import jobs
import numpy as np
import pytest
from mpi4py import MPI

import relax
from relax import case, cli, job, output, parallel, pdes, tables
from relax.case.landscapes import LANDSCAPES
from relax.errors import BadInput
from relax.relaxation import hopf_lax
from relax.run import Outcome, run_job

COMM = MPI.COMM_WORLD
ROOT = Path(__file__).resolve().parent.parent

LANDSCAPE_JOB = """
[mesh]
generator = "interval"
n = 60
lower = -3.0
upper = 3.0

[pde]
name = "hamilton_jacobi.viscous_evolution"
beta = 2.0
t = 2.0
num_steps = 4
route = "cole_hopf"
theta = 1.0

[landscape]
function = "rugged"

[descent]
starts = 6
times = [0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 1.4, 2.0]

[output]
folder = "results/landscape"
frames = 3
"""

MISFIT_JOB = """
[mesh]
generator = "interval"
n = 8
lower = 0.0
upper = 1.0

[pde]
name = "chirps:chirp"
frequency = 20.0

[observe]
points = "sensors.csv"

[data]
truth = [0.8]
noise = 0.02
seed = 1

[misfit]
box = [0.1, 0.9]
num = 24
starts = 3

[output]
folder = "results/misfit"
"""

LANDSCAPE_FILES = "descents.csv figure.png job.toml result.json states.bp strip.png summary.json".split()
MISFIT_FILES = "descents.csv figure.png job.toml result.json samples.csv summary.json".split()


def prepared(folder: Path, text: str) -> Path:
    """The job file, with the sensors of the chirp beside it."""
    jobs.write(folder / "sensors.csv", "x\n" + "".join(f"{x}\n" for x in chirps.SENSORS))
    return jobs.write(folder / "job.toml", text)


def run(folder: Path, text: str, name: str = "out", **how: object) -> Outcome:
    return run_job(job.read(prepared(folder, text)), folder=folder / name, show=False, **how)  # type: ignore[arg-type]


def landscape(*substitutions: tuple[str, str]) -> str:
    return jobs.changed(*substitutions, of=LANDSCAPE_JOB)


def misfit(*substitutions: tuple[str, str]) -> str:
    return jobs.changed(*substitutions, of=MISFIT_JOB)


def names_in(folder: Path) -> list[str]:
    return parallel.on_rank_0(COMM, lambda: sorted(path.name for path in folder.iterdir()))


def result_of(folder: Path) -> dict:
    return parallel.on_rank_0(COMM, lambda: json.loads((folder / output.RESULT).read_text()))


def columns_of(folder: Path, name: str) -> dict[str, np.ndarray]:
    return parallel.on_rank_0(COMM, lambda: tables.read(folder / name).columns)


def alone(text: str) -> tuple[dict, dict[str, np.ndarray]]:
    """``result.json`` and ``descents.csv`` of the job, run by each rank for itself."""
    folder = Path(tempfile.mkdtemp(prefix="relax-test-"))
    try:
        (folder / "sensors.csv").write_text("x\n" + "".join(f"{x}\n" for x in chirps.SENSORS))
        (folder / "job.toml").write_text(text)
        run_job(job.read(folder / "job.toml"), folder=folder / "out", show=False, comm=MPI.COMM_SELF)
        return (
            json.loads((folder / "out" / output.RESULT).read_text()),
            tables.read(folder / "out" / output.DESCENTS).columns,
        )
    finally:
        shutil.rmtree(folder)


# -- landscapes --------------------------------------------------------------------------------------------------------


class TestLandscape:
    def test_a_run_leaves_every_file(self) -> None:
        with jobs.shared_folder() as folder:
            outcome = run(folder, LANDSCAPE_JOB)
            assert names_in(folder / "out") == LANDSCAPE_FILES
            summary, result = outcome.summary, result_of(folder / "out")
            assert outcome.converged and summary["route"] == result["route"] == "cole_hopf"
            assert list(summary["seconds"]) == ["build", "solve", "descend", "write"]
            assert summary["sizes"] == {"cells": 60, "state": 61, "steps": 4}
            assert np.allclose(result["times"], [0.0, 0.5, 1.0, 1.5, 2.0])
            assert [m["step"] for m in result["minimisers"]] == [0, 2, 4]
            # Minima of 0.05 x² + ½ (1 - cos 4 x), whose slope is 0.1 x + 2 sin 4 x: 0, ±1.551, and the walls, as
            # the next ones are at ±3.10.
            first = result["minimisers"][0]
            assert first["count"] == 5 and first["x"][0][0] == pytest.approx(0.0, abs=1e-12)
            assert np.allclose(np.sort(np.ravel(first["x"])), [-3.0, -1.551, 0.0, 1.551, 3.0], atol=0.051)
            assert first["at_boundary"] == [abs(x[0]) > 2.9 for x in first["x"]]
            assert result["minimisers"][-1]["count"] == summary["local_minima"]["last"] == 1
            # The least value grows, the largest falls, and exp(-beta u) is conserved.
            assert (np.diff(result["least"]) > 0).all() and (np.diff(result["largest"]) < 0).all()
            assert result["integral"]["largest_relative_change"] < 1e-12

    def test_each_descent_has_a_row_and_reaches_the_lowest_well(self) -> None:
        with jobs.shared_folder() as folder:
            summary = run(folder, LANDSCAPE_JOB).summary
            columns = columns_of(folder / "out", output.DESCENTS)
            assert list(columns) == ["start_x", "x", "value", "reached"]
            assert summary["descents"]["starts"] == len(columns["x"]) == 6
            assert summary["descents"]["reached"] == columns["reached"].sum() == 6
            assert np.allclose(columns["value"], LANDSCAPES["rugged"](columns["x"][None, :]), atol=1e-12)
            assert np.abs(columns["x"]).max() < 0.05

    def test_given_starts_without_relaxation_stay_in_their_wells(self) -> None:
        with jobs.shared_folder() as folder:
            few = (
                "starts = 6\ntimes = [0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 1.4, 2.0]",
                "starts = [[1.6], [0.1]]\ntimes = [0.02, 0.05]\nsteps = 40",
            )
            summary = run(folder, landscape(few)).summary
            columns = columns_of(folder / "out", output.DESCENTS)
            assert columns["start_x"].tolist() == [1.6, 0.1] and columns["reached"].tolist() == [0.0, 1.0]
            assert columns["x"][0] == pytest.approx(1.53, abs=0.05) and summary["descents"]["reached"] == 1

    def test_the_range_is_that_of_the_equation_solved_by_hand(self) -> None:
        evolution = pdes.hamilton_jacobi.viscous_evolution(
            relax.meshes.interval(60, (-3.0, 3.0)), lambda x: LANDSCAPES["rugged"](x[:1]), beta=2.0, t=2.0, num_steps=4,
            route="direct", theta=1.0,
        )  # fmt: skip
        with relax.ReducedMap(evolution, relax.FieldValues(evolution.state.function_space)) as G:
            u = G(G.present_control())
        with jobs.shared_folder() as folder:
            run(folder, landscape(('"cole_hopf"', '"direct"'), ("[descent]", "[solver]\n[descent]")))
            result = result_of(folder / "out")
        assert result["route"] == "direct"
        assert result["least"][-1] == pytest.approx(u.min(), abs=1e-8)
        assert result["largest"][-1] == pytest.approx(u.max(), abs=1e-8)

    def test_any_number_of_ranks_finds_the_same(self) -> None:
        with jobs.shared_folder() as folder:
            run(folder, LANDSCAPE_JOB)
            result, columns = result_of(folder / "out"), columns_of(folder / "out", output.DESCENTS)
        own, own_columns = alone(LANDSCAPE_JOB)
        for key in ("times", "least", "largest"):
            assert np.allclose(result[key], own[key], rtol=0, atol=1e-10)
        for mine, other in zip(result["minimisers"], own["minimisers"], strict=True):
            assert np.allclose(np.sort(mine["x"], axis=0), np.sort(other["x"], axis=0), rtol=0, atol=1e-10)
            assert np.allclose(mine["values"], other["values"], rtol=0, atol=1e-10)
        assert all(np.allclose(columns[name], own_columns[name], rtol=0, atol=1e-9) for name in columns)

    @pytest.mark.parametrize(
        ("mesh", "function"),
        [
            ('generator = "rectangle"\nn = [8, 6]\nlower = [-2.0, -1.0]\nupper = [2.0, 1.0]', "two_wells"),
            ('generator = "unit_cube"\nn = 3', "rugged"),
            ('generator = "interval"\nn = 50\nlower = -3.0\nupper = 3.0', "deep_relaxation"),
        ],
        ids=["plane", "space", "line"],
    )
    def test_other_meshes_and_landscapes(self, mesh: str, function: str) -> None:
        line = LANDSCAPE_JOB[LANDSCAPE_JOB.index("generator") : LANDSCAPE_JOB.index("\n\n[pde]")]
        text = landscape((line, mesh), ('"rugged"', f'"{function}"'), ("beta = 2.0", "beta = 1.0"))
        with jobs.shared_folder() as folder:
            outcome = run(folder, text.replace("[0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 1.4, 2.0]", "0.5"))
            assert names_in(folder / "out") == LANDSCAPE_FILES and outcome.summary["function"] == function

    def test_a_landscape_and_an_equation_of_ones_own(self) -> None:
        """The heat equation as the way of smoothing: it has no beta, so no integral of exp(-beta u)."""
        module = (
            "import relax\n\n\ndef bowl(x):\n    return x[0] ** 2\n\n\ndef heat(mesh, f, *, num_steps, dt):\n"
            "    return relax.pdes.heat.evolution(mesh, initial=f, num_steps=num_steps, dt=dt, dirichlet={})\n"
        )
        text = LANDSCAPE_JOB[: LANDSCAPE_JOB.index("[pde]")] + (
            '[pde]\nname = "own_landscapes:heat"\nnum_steps = 2\ndt = 0.1\n[landscape]\n'
            'function = "own_landscapes:bowl"\n[output]\nfolder = "x"\n'
        )
        with jobs.shared_folder() as folder:
            jobs.write(folder / "own_landscapes.py", module)
            outcome = run(folder, text)
            result = result_of(folder / "out")
            assert "integral" not in result and "descents" not in outcome.summary
            # u = x² + 2 t in the middle, until the walls are felt.
            assert result["least"] == pytest.approx([0.0, 0.2, 0.4], abs=5e-3)
            assert output.DESCENTS not in names_in(folder / "out")

    def test_the_curve_of_the_inviscid_limit_is_drawn_on_a_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("matplotlib")
        from relax.plot import style

        drawn = {}

        def look(plt, figure, path):
            axis = figure.axes[0]
            drawn.update({line.get_label(): line for line in axis.get_lines()})
            plt.close(figure)

        monkeypatch.setattr(style, "save", look)
        with jobs.shared_folder() as folder:
            run(folder, LANDSCAPE_JOB)
        if COMM.rank == 0:
            assert list(drawn) == ["t = 0", "t = 1", "t = 2", "Hopf–Lax, t = 2"]
            x, f = drawn["t = 0"].get_data()
            assert np.allclose(drawn["Hopf–Lax, t = 2"].get_ydata(), hopf_lax(f, x, 2.0).value)


# -- misfits -----------------------------------------------------------------------------------------------------------


class TestMisfit:
    def test_a_run_leaves_every_file_and_solves_every_start(self) -> None:
        with jobs.shared_folder() as folder:
            outcome = run(folder, MISFIT_JOB)
            assert names_in(folder / "out") == MISFIT_FILES
            summary, result = outcome.summary, result_of(folder / "out")
            assert outcome.converged and summary["value"][0] == pytest.approx(0.8, abs=0.01)
            assert summary["errors"]["misfit_in_noise_levels"] < 2.0 and summary["errors"]["largest"] < 0.01
            assert list(summary["seconds"]) == ["build", "relax", "compare", "write"]
            assert summary["solved_after_relaxation"] == 3 > summary["solved_by_gauss_newton"] == 1
            assert summary["sizes"] == {"cells": 8, "state": 9, "control": 1, "observations": 8}
            assert result["truth"] == [0.8] and result["value"] == pytest.approx(summary["value"].tolist())

    def test_tables_hold_what_the_closed_form_says(self) -> None:
        with jobs.shared_folder() as folder:
            run(folder, MISFIT_JOB)
            samples, starts = (columns_of(folder / "out", name) for name in (output.SAMPLES, output.DESCENTS))
            result = result_of(folder / "out")
        exact = chirps.exact(np.array([0.8]))
        noise = 0.02 * np.abs(exact).max()
        data = exact + noise * np.random.default_rng(1).standard_normal(8)

        def cost(m):
            return 0.5 * np.sum(((chirps.exact(m[:, None]) - data) / noise) ** 2, axis=1)

        assert np.allclose(samples["m_0"], np.linspace(0.1, 0.9, 25))
        assert np.allclose(samples["misfit"], cost(samples["m_0"]), rtol=1e-8)
        assert len([name for name in samples if name.startswith("relaxed_t_")]) == 2
        assert np.allclose(starts["start_0"], 0.1 + 0.8 * (np.arange(3) + 0.5) / 3)
        for way in ("gauss_newton", "relaxed"):
            assert np.allclose(starts[f"{way}_misfit"], cost(starts[f"{way}_0"]), rtol=1e-6)
            assert (starts[f"{way}_solved"] == (starts[f"{way}_misfit"] <= result["misfit"] + 0.5)).all()

    def test_any_number_of_ranks_finds_the_same(self) -> None:
        text = misfit(("num = 24", f"num = 24\nranks_per_solve = {COMM.size}"))
        own, own_columns = alone(MISFIT_JOB)
        with jobs.shared_folder() as folder:
            for name, job_text in (("teams", MISFIT_JOB), ("together", text)):
                run(folder, job_text, name)
                assert result_of(folder / name)["value"] == pytest.approx(own["value"], abs=1e-7)
                columns = columns_of(folder / name, output.DESCENTS)
                assert all(np.allclose(columns[key], own_columns[key], rtol=1e-5, atol=1e-6) for key in columns)

    def test_measured_data(self) -> None:
        exact = chirps.exact(np.array([0.3]))
        rows = "".join(f"{x},{y!r}\n" for x, y in zip(chirps.SENSORS, exact.tolist(), strict=True))
        observe = '[observe]\npoints = "sensors.csv"\n\n[data]\ntruth = [0.8]\nnoise = 0.02\nseed = 1\n'
        with jobs.shared_folder() as folder:
            jobs.write(folder / "data.csv", f"x,value\n{rows}")
            outcome = run(folder, misfit((observe, '[data]\nfile = "data.csv"\nnoise = 0.02\n')))
            assert outcome.summary["value"][0] == pytest.approx(0.3, abs=1e-4)
            assert "largest" not in outcome.summary["errors"] and result_of(folder / "out")["truth"] is None

    @pytest.mark.parametrize("num", [2, 3])
    def test_several_numbers(self, num: int) -> None:
        changes = [
            ("frequency = 20.0", f"frequency = 3.0\nnum = {num}"),
            ("truth = [0.8]", f"truth = {[0.5] * num}"),
            ("box = [0.1, 0.9]", f"box = {[[0.3, 0.7]] * num}"),
            ("num = 24", "num = 4\ntimes = [0.1, 1.0]"),
            ("starts = 3", f"starts = {[[0.4] * num]}"),
        ]
        with jobs.shared_folder() as folder:
            outcome = run(folder, misfit(*changes))
            assert names_in(folder / "out") == MISFIT_FILES and outcome.summary["sizes"]["control"] == num
            assert len(columns_of(folder / "out", output.SAMPLES)["misfit"]) == 5**num
            assert outcome.summary["errors"]["misfit_in_noise_levels"] < 2.0

    def test_the_job_of_this_project_names_an_example(self) -> None:
        found = case.build(job.read(ROOT / "mpi_jobs" / "relax_misfit.toml"))
        assert isinstance(found, case.MisfitCase)
        assert found.G.size_in == 2 and found.G.size_out == 18 and found.truth.tolist() == [0.85, 1.2]
        found.close()


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
        job.parse(jobs.changed((old, new), of=text), "job.toml")
    told = str(caught.value)
    assert told.startswith("job.toml: ") and "pydantic" not in told
    for part in expected:
        assert part in told


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


@pytest.mark.parametrize(
    ("text", "kind"), [(LANDSCAPE_JOB, "landscape"), (MISFIT_JOB, "misfit")], ids=["landscape", "misfit"]
)
def test_a_run_ends_well_is_kept_and_replaced_when_asked(
    capfd: pytest.CaptureFixture[str], text: str, kind: str
) -> None:
    with jobs.shared_folder() as folder:
        path, out = prepared(folder, text), folder / "out"
        status, said, err = execute(capfd, "run", path, "--output", out)
        assert status == 0, err
        assert COMM.rank > 0 or f"results in {out}" in said
        before = (out / output.SUMMARY).read_text()
        for option, expected in ((None, "finished run"), ("--resume", f"a {kind} job keeps nothing to go on from")):
            status, _, err = execute(capfd, "run", path, "--output", out, *([option] if option else []))
            assert status == 2 and (COMM.rank > 0 or expected in err)
        assert (out / output.SUMMARY).read_text() == before
        COMM.Barrier()
        status, _, _ = execute(capfd, "run", path, "--output", out, "--overwrite")
        assert status == 0 and (out / output.SUMMARY).read_text() != before


def test_what_does_not_converge_ends_with_3_and_its_results(capfd: pytest.CaptureFixture[str]) -> None:
    with jobs.shared_folder() as folder:
        few = misfit(("[misfit]", "[method]\nmax_steps = 1\n[misfit]"), ("num = 24", "num = 6\ntimes = [0.5]"))
        status, _, err = execute(capfd, "run", prepared(folder, few), "--output", folder / "out")
        assert status == 3, err
        assert names_in(folder / "out") == MISFIT_FILES


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
        assert names_in(folder / "out") == ["job.toml"]
        # A folder without a summary is no finished run: the next one may use it.
        good = prepared(folder, MISFIT_JOB)
        assert execute(capfd, "run", good, "--output", folder / "out")[0] == 0


@pytest.mark.skipif(COMM.size > 1, reason="some seconds of work; small jobs run on all numbers of ranks")
def test_the_landscape_of_this_project_has_one_minimum_in_the_end() -> None:
    with jobs.shared_folder() as folder:
        text = (ROOT / "mpi_jobs" / "hj_relaxation.toml").read_text()
        coarse = jobs.changed(("[128, 128]", "[48, 48]"), ("num_steps = 40", "num_steps = 10"), of=text)
        summary = run(
            folder, coarse.replace("[descent]", "[descent]\ntimes = [0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0]")
        ).summary
        assert summary["local_minima"]["last"] == 1 and summary["local_minima"]["first"] > 40
        assert summary["descents"] == {"starts": 40, "reached": 40, "least": pytest.approx(0.0, abs=1e-12)}
