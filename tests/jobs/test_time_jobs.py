"""Jobs in time: inverse problems that see several steps, control jobs, what they write, how they fail."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import jobs
import numpy as np
import pytest
import ufl
from mpi4py import MPI

import relax
from relax import cli, pdes
from relax.base import log, parallel
from relax.errors import BadInput
from relax.jobs import Outcome, progress, run_job, toml
from relax.jobs.contents import FIGURE, STATES, STRIP
from relax.jobs.control.setting import fidelity
from relax.jobs.run import build
from relax.jobs.setting import csv_files
from relax.jobs.setting.equation import built_in_pdes
from relax.jobs.view import style
from relax.jobs.view.curves import convergence

COMM = MPI.COMM_WORLD
ROOT = Path(__file__).resolve().parents[2]
HEAT_PDE = 'name = "heat.evolution"\nnum_steps = 4\ndt = 0.01'
CONTROL_PDE = 'name = "schrodinger.dipole"\nnum_steps = 50\ndt = 0.2'


def run(folder: Path, text: str, name: str = "out", **how: object) -> Outcome:
    file = toml.read(jobs.write(folder / "job.toml", text))
    return run_job(file, folder=folder / name, show=False, **how)  # type: ignore[arg-type]


def heat(*substitutions: tuple[str, str]) -> str:
    return jobs.changed(*substitutions, of=jobs.HEAT_JOB)


def control(*substitutions: tuple[str, str]) -> str:
    return jobs.changed(*substitutions, of=jobs.CONTROL_JOB)


def on_rank_0(action):
    return parallel.on_rank_0(COMM, action)


# -- inverse problems --------------------------------------------------------------------------------------------------


class TestInverse:
    @pytest.mark.slow
    @pytest.mark.ranks(1, 2)
    def test_a_run_leaves_every_file(self) -> None:
        with jobs.shared_folder() as folder:
            outcome = run(folder, jobs.HEAT_JOB)
            names = on_rank_0(lambda: sorted(path.name for path in (folder / "out").iterdir()))
            files = (
                "checkpoint control.npy fields.bp fields.h5 fields.xdmf figure.png history.jsonl job.toml run.json "
                "sensors.csv states.bp strip.png"
            )
            assert names == [*files.split(), "summary.json"]
            summary = outcome.summary
            assert outcome.converged and summary["sizes"]["steps"] == 4 and summary["sizes"]["observations"] == 20
            assert 0.0 < summary["errors"]["relative_l2"] < 1.0 and summary["errors"]["misfit_in_noise_levels"] < 2.0
            assert summary["strip"]["steps"] == [0, 2, 4] and summary["strip"]["times"] == [0.0, 0.02, 0.04]

    @pytest.mark.slow
    def test_columns_hold_the_values_of_their_steps(self) -> None:
        """Against the trajectory of the truth, looked at step by step."""
        with jobs.shared_folder() as folder:
            run(folder, heat(("steps = [2, 4]", "steps = [3, 0]")))
            columns = csv_files.read(folder / "out" / "sensors.csv").columns
            stems = [f"{stem}_step_{n}" for stem in ("value", "sigma", "predicted", "exact") for n in (3, 0)]
            assert list(columns) == ["x", "y", *stems]
            found = build(toml.read(folder / "job.toml"))
            V = found.problem.state.function_space
            points = relax.PointValues(V, np.column_stack([columns["x"], columns["y"]]))
            found.control.x.array[:] = found.truth.x.array
            m = found.G.present_control()
            for n, _ in found.G.trajectory(m):
                if n in (0, 3):
                    exact = points.value(found.problem.state)
                    assert np.allclose(exact, columns[f"exact_step_{n}"], rtol=1e-12, atol=1e-14)
            found.G.close()

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("observe", "steps"),
        [("", [2, 4]), ('[observe]\npoints = "out/sensors.csv"\nsteps = 4\n', [4])],
        ids=["all", "one"],
    )
    def test_the_sensors_of_a_run_are_a_data_file_for_another(self, observe: str, steps: list[int]) -> None:
        with jobs.shared_folder() as folder:
            first = run(folder, jobs.HEAT_JOB)
            synthetic = jobs.HEAT_JOB[jobs.HEAT_JOB.index("[observe]") : jobs.HEAT_JOB.index("[prior]")]
            second = run(folder, heat((synthetic, f'{observe}[data]\nfile = "out/sensors.csv"\n')), "again")
            columns = csv_files.read(folder / "again" / "sensors.csv").columns
            assert [name for name in columns if name.startswith("value")] == [f"value_step_{n}" for n in steps]
            if len(steps) == 2:
                key = "misfit_in_noise_levels"
                assert second.summary["errors"][key] == pytest.approx(first.summary["errors"][key], rel=1e-5)

    @pytest.mark.parametrize(
        ("header", "noise", "expected"),
        [
            ("x,y,value_step_2,value_step_4,sigma", "", None),
            ("x,y,value_step_2,value_step_4", "noise = 0.1", None),
            ("x,y,value", "noise = 0.1", None),
            ("x,y,value_step_2,value_step_9", "noise = 0.1", r"steps from 0 to 4.* got 9"),
            ("x,y,temperature", "noise = 0.1", r"needs the column\(s\) value_step_4; got x, y, temperature"),
            ("x,y,value_step_2", "", "noise"),
        ],
    )
    def test_a_data_file_by_hand(self, header: str, noise: str, expected: str | None) -> None:
        synthetic = jobs.HEAT_JOB[jobs.HEAT_JOB.index("[observe]") : jobs.HEAT_JOB.index("[prior]")]
        text = heat((synthetic, f'[data]\nfile = "data.csv"\n{noise}\n'))
        extra = header.count(",") - 1
        rows = [[0.5, 0.5, *np.arange(1.0, extra + 1.0)], [0.25, 0.5, *np.arange(11.0, extra + 11.0)]]
        with jobs.shared_folder() as folder:
            jobs.write(folder / "data.csv", "\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
            file = toml.read(jobs.write(folder / "job.toml", text))
            if expected is not None:
                with pytest.raises(BadInput, match=expected):
                    build(file)
                return
            found = build(file)
            if header == "x,y,value":
                assert found.sensors.steps == (4,) and found.data.tolist() == [1.0, 11.0]
            else:
                assert found.sensors.steps == (2, 4) and found.data.tolist() == [1.0, 11.0, 2.0, 12.0]
            if "sigma" in header:
                assert found.noise.tolist() == [3.0, 13.0, 3.0, 13.0]
            found.G.close()
            found.prior.close()

    @pytest.mark.ranks(1, 2)
    def test_truth_and_recovery_on_a_line_share_an_axis(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("matplotlib")
        drawn = {}

        def look(plt, figure, path):
            figure.canvas.draw()
            drawn.update({axis.get_ylabel() or axis.get_title(loc="left"): axis for axis in figure.axes})
            plt.close(figure)

        monkeypatch.setattr(style, "save", look)
        line = ('generator = "unit_square"\nn = 6', 'generator = "interval"\nn = 12\nlower = 0.0\nupper = 1.0')
        with jobs.shared_folder() as folder:
            run(folder, heat(line))
        if COMM.rank > 0:
            return
        assert set(drawn) == {"initial state", "misfit / noise", "gradient norm", "x", "u"}
        field = drawn["initial state"]
        assert [text.get_text() for text in field.get_legend().get_texts()] == ["truth", "recovery"]
        assert len(field.get_lines()) == 2 and drawn["u"].yaxis.label.get_rotation() == 0.0
        boxes = [text.get_window_extent() for text in field.get_xticklabels() if text.get_text()]
        assert 2 <= len(boxes) and all(a.x1 < b.x0 for a, b in zip(boxes, boxes[1:], strict=False))

    @pytest.mark.slow
    def test_a_shared_field_is_recovered_too(self) -> None:
        with jobs.shared_folder() as folder:
            text = heat(("dt = 0.01", 'dt = 0.05\ncontrols = ["source"]'), ("steps = [2, 4]", 'steps = "all"'))
            outcome = run(folder, text)
            assert outcome.converged and outcome.summary["sizes"]["observations"] == 40

    def test_without_matplotlib_all_else_is_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(style, "is_there", lambda comm: False)
        with jobs.shared_folder() as folder:
            outcome = run(folder, jobs.HEAT_JOB)
            names = on_rank_0(lambda: {path.name for path in (folder / "out").iterdir()})
            assert not names & {FIGURE, STRIP} and STATES in names
            assert "strip" not in outcome.summary

    def test_a_vector_field_from_measured_components(self) -> None:
        """Burgers in the plane: two columns a step, and a figure with the magnitude."""
        synthetic = jobs.HEAT_JOB[jobs.HEAT_JOB.index("[observe]") : jobs.HEAT_JOB.index("[prior]")]
        burgers = 'name = "burgers.evolution"\nviscosity = 0.5\nnum_steps = 2\ndt = 0.01'
        names = ["value_0_step_1", "value_1_step_1", "value_0_step_2", "value_1_step_2"]
        rows = [[0.3, 0.3, 0.1, 0.2, 0.08, 0.16], [0.7, 0.6, -0.1, 0.1, -0.08, 0.08]]
        with jobs.shared_folder() as folder:
            lines = [",".join(["x", "y", *names]), *(",".join(map(str, row)) for row in rows)]
            jobs.write(folder / "data.csv", "\n".join(lines) + "\n")
            text = heat((HEAT_PDE, burgers), (synthetic, '[data]\nfile = "data.csv"\nnoise = 0.05\n'))
            outcome = run(folder, text)
            assert outcome.converged and (folder / "out" / FIGURE).exists()
            columns = csv_files.read(folder / "out" / "sensors.csv").columns
            for name, value in zip(names, np.array(rows).T[2:], strict=True):
                assert columns[name].tolist() == value.tolist()
                assert np.allclose(columns[name.replace("value", "predicted")], value, atol=0.03)


# -- control jobs ------------------------------------------------------------------------------------------------------


class TestControl:
    @pytest.mark.slow
    @pytest.mark.ranks(1, 2)
    def test_the_population_is_transferred(self) -> None:
        with jobs.shared_folder() as folder:
            outcome = run(folder, jobs.CONTROL_JOB)
            names = on_rank_0(lambda: sorted(path.name for path in (folder / "out").iterdir()))
            files = (
                "checkpoint control.csv control.npy fields.bp fields.h5 fields.xdmf figure.png history.jsonl job.toml "
                "run.json states.bp strip.png"
            )
            assert names == [*files.split(), "summary.json"]
            summary = on_rank_0(lambda: json.loads((folder / "out" / "summary.json").read_text()))
            assert outcome.converged and summary["converged"] and summary["method"] == "lbfgs"
            assert list(summary["seconds"]) == ["build", "control", "write"]
            assert summary["fidelity"] > 0.99 and summary["target"] == [0.0, 1.0, 0.0]

            # A witness that knows neither eigenstates nor populations: the overlap with sin(pi x), from the control.
            control = np.load(folder / "out" / "control.npy")
            evolution = pdes.schrodinger.dipole(relax.meshes.interval(8, (0.0, 2.0)), num_steps=50, dt=0.2)
            psi, x = evolution.state, ufl.SpatialCoordinate(evolution.mesh)
            parts = [relax.Functional(psi[i] * ufl.sin(ufl.pi * x[0]) * ufl.dx) for i in range(2)]
            with relax.ReducedMap(evolution, relax.Stack(parts)) as G:
                overlap = G(control)
            # The quadratic elements are off from sin(pi x) by about (pi h)^3 / 24, h = 1/4, in the energy norm.
            assert np.sum(overlap**2) == pytest.approx(summary["fidelity"], abs=2e-3)

            columns = csv_files.read(folder / "out" / "control.csv").columns
            shares = [f"population_{k}" for k in (1, 2, 3)]
            assert list(columns) == ["step", "time", "control", *shares]
            assert (columns["control"] == control).all() and len(control) == 50
            assert np.allclose(columns["time"], 0.2 * np.arange(1, 51)) and columns["step"].tolist()[-1] == 50.0
            rows = (folder / "out" / "control.csv").read_text().splitlines()
            assert rows[1].startswith("1,0.2,") and rows[-1].startswith("50,")
            assert np.allclose([columns[s][-1] for s in shares], summary["populations"], rtol=1e-10)
            energy = 0.2 * np.sum(control**2)
            assert summary["control"]["energy"] == pytest.approx(energy)

    @pytest.mark.slow
    @pytest.mark.ranks(1, 2)
    def test_a_run_cut_short_is_resumed(self) -> None:
        with jobs.shared_folder() as folder:
            short = run(folder, control(("rtol = 1e-4", "rtol = 1e-4\nmax_steps = 2")))
            assert not short.converged and short.summary["steps"] == 2
            with pytest.raises(BadInput, match=r"\[target\] is not what it was"):
                run(folder, control(("[0, 1, 0]", "[0, 0, 1]")), resume=True)
            resumed = run(folder, jobs.CONTROL_JOB, resume=True)
            assert resumed.converged and resumed.summary["fidelity"] > 0.99
            lines = (folder / "out" / "history.jsonl").read_text().splitlines()
            steps = [json.loads(line)["step"] for line in lines]
            assert steps == list(range(resumed.summary["steps"] + 1)) and len(steps) > 3

    @pytest.mark.slow
    def test_layout_and_storage_do_not_change_the_result(self) -> None:
        pytest.importorskip("checkpoint_schedules")
        with jobs.shared_folder() as folder:
            few = ("num_steps = 50", "num_steps = 12"), ("rtol = 1e-4", "max_steps = 3")
            plain = run(folder, control(*few), "plain").summary
            stored = run(
                folder, control(*few) + '[solver]\nstorage = { schedule = "revolve", slots = 3 }\n', "stored"
            ).summary
            owned = run(folder, control(*few) + '[solver]\nlayout = "owned"\n', "owned").summary
            # The same sums in the same order.
            assert stored["populations"] == plain["populations"]
            assert np.allclose(owned["populations"], plain["populations"], rtol=0, atol=1e-9)

    @pytest.mark.slow
    def test_one_state_as_target(self) -> None:
        with jobs.shared_folder() as folder:
            text = control(("populations = [0, 1, 0]", "state = 2"), ("rtol = 1e-4", "max_steps = 2"))
            summary = run(folder, text).summary
            assert summary["target"] == [0.0, 1.0] and summary["sizes"]["observations"] == 1
            assert summary["fidelity"] == pytest.approx(summary["populations"][1])

    @pytest.mark.slow
    def test_a_plane_box(self) -> None:
        """Frames instead of an image over time."""
        with jobs.shared_folder() as folder:
            mesh = ('generator = "interval"\nn = 8\nlower = 0.0\nupper = 2.0', 'generator = "unit_square"\nn = 3')
            text = control(mesh, ("num_steps = 50", "num_steps = 4"), ("rtol = 1e-4", "max_steps = 1"))
            outcome = run(folder, text)
            assert outcome.summary["strip"]["frames"] == 5 and (folder / "out" / FIGURE).exists()

    @pytest.mark.slow
    def test_the_job_of_this_project(self) -> None:
        with jobs.shared_folder() as folder:
            outcome = run_job(toml.read(ROOT / "mpi_jobs" / "quantum_control.toml"), folder=folder / "out", show=False)
            assert outcome.converged and outcome.summary["fidelity"] > 0.99

    def test_fidelity_is_one_for_equal_populations_alone(self) -> None:
        wanted = np.array([0.25, 0.75])
        assert fidelity(wanted, wanted) == pytest.approx(1.0)
        assert fidelity(np.array([0.75, 0.25]), wanted) == pytest.approx(0.75)
        assert fidelity(np.array([-1e-17, 1.0]), np.array([1.0, 0.0])) == 0.0


@pytest.mark.parametrize("values", [[1.3], [1.2, 1.05], [6.0, 2.1], [40.0, 1.5], [90.0, 1.1], [5e4, 1.0]], ids=str)
@pytest.mark.parametrize("band", [None, (0.8, 1.2)])
def test_the_misfit_has_two_numbers_at_its_axis(values: list[float], band: tuple[float, float] | None) -> None:
    pytest.importorskip("matplotlib")
    history = [{"step": i, "misfit_in_noise_levels": v, "gradient_norm": 1e-9 * v} for i, v in enumerate(values)]
    with style.pyplot() as plt:
        figure, axes = plt.subplots(2, 1)
        convergence(*axes, history, method="lbfgs", unit="noise", band=band)
        figure.canvas.draw()
        for axis in axes:
            low, high = axis.get_ylim()
            ticks = zip(axis.get_yticks(), axis.get_yticklabels(), strict=True)
            labels = [text.get_text() for at, text in ticks if low <= at <= high and text.get_text()]
            assert len(set(labels)) >= 2
        plt.close(figure)


# -- the command line --------------------------------------------------------------------------------------------------


def execute(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capfd.readouterr()
    status = cli.execute([str(a) for a in arguments])
    out, err = capfd.readouterr()
    return status, out, err


@pytest.mark.slow
@pytest.mark.ranks(1, 2)
def test_long_marches_say_where_they_are(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_QUIET", 0.0)
    with jobs.shared_folder() as folder:
        path = jobs.write(folder / "job.toml", jobs.HEAT_JOB)
        status, out, err = execute(capfd, "run", path, "--output", folder / "out")
    assert status == 0
    if COMM.rank == 0:
        assert "heat: steps: 2 of 4" in err and "heat.evolution: 49 state" in out and "noise levels" in out
    else:
        assert out == err == ""


@pytest.mark.ranks(1, 2)
def test_the_log_goes_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_on_terminal", lambda: True)
    handler = logging.StreamHandler(sys.__stderr__)
    log.logger.addHandler(handler)
    try:
        bar = progress.Progress(COMM)
        bar.step({"step": 0, "gradient_norm": 1.0, "misfit_in_noise_levels": 2.0}, rtol=1e-3, unit="tolerances")
        assert (handler.stream is sys.__stderr__) == (COMM.rank > 0)
        bar.close()
        assert handler.stream is sys.__stderr__
    finally:
        log.logger.removeHandler(handler)


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("name", ["heat.evolution", "schrodinger.dipole"])
def test_check_knows_equations_in_time(capfd: pytest.CaptureFixture[str], name: str) -> None:
    status, out, err = execute(capfd, "check", name, "--n", "2")
    assert status == 0, err
    assert ("Taylor order" in out) == (COMM.rank == 0)


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    ("name", "missing", "call"),
    [
        ("burgers.evolution", "viscosity", "relax.pdes.burgers.evolution(mesh, dt=0.05, num_steps=4, viscosity=...)"),
        (
            "schrodinger.evolution",
            "initial",
            "relax.pdes.schrodinger.evolution(mesh, dt=0.05, num_steps=4, initial=...)",
        ),
    ],
)
def test_check_says_what_it_lacks(capfd: pytest.CaptureFixture[str], name: str, missing: str, call: str) -> None:
    status, _, err = execute(capfd, "check", name, "--n", "2")
    assert status == 2
    if COMM.rank == 0:
        assert f"{name} needs {missing} as a keyword besides a mesh" in err and call in err and "def f(mesh)" in err


def test_only_equations_are_equations() -> None:
    known = built_in_pdes()
    assert {"poisson.diffusion", "heat.evolution", "burgers.evolution", "schrodinger.dipole"} <= set(known)
    assert not [name for name in known if name.split(".")[0] in ("data", "unsteady")]
