"""Jobs that relax a landscape, or the misfit of a few numbers: what they write, on any ranks."""

from __future__ import annotations

import chirps
import jobs
import numpy as np
import pytest
from relaxation_jobs import (
    COMM,
    LANDSCAPE_FILES,
    LANDSCAPE_JOB,
    MISFIT_FILES,
    MISFIT_JOB,
    ROOT,
    alone,
    columns_of,
    landscape,
    misfit,
    names_in,
    result_of,
    run,
)

import relax
from relax import pdes
from relax.jobs import toml
from relax.jobs.contents import DESCENTS, SAMPLES
from relax.jobs.landscape.functions import LANDSCAPES
from relax.jobs.misfit.setting import MisfitSetting
from relax.jobs.run import build
from relax.relaxation import hopf_lax

# -- landscapes --------------------------------------------------------------------------------------------------------


class TestLandscape:
    @pytest.mark.slow
    @pytest.mark.ranks(1, 2)
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
            columns = columns_of(folder / "out", DESCENTS)
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
            columns = columns_of(folder / "out", DESCENTS)
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

    @pytest.mark.slow
    @pytest.mark.ranks(1, 2)
    def test_any_number_of_ranks_finds_the_same(self) -> None:
        with jobs.shared_folder() as folder:
            run(folder, LANDSCAPE_JOB)
            result, columns = result_of(folder / "out"), columns_of(folder / "out", DESCENTS)
        own, own_columns = alone(LANDSCAPE_JOB)
        for key in ("times", "least", "largest"):
            assert np.allclose(result[key], own[key], rtol=0, atol=1e-10)
        for mine, other in zip(result["minimisers"], own["minimisers"], strict=True):
            assert np.allclose(np.sort(mine["x"], axis=0), np.sort(other["x"], axis=0), rtol=0, atol=1e-10)
            assert np.allclose(mine["values"], other["values"], rtol=0, atol=1e-10)
        assert all(np.allclose(columns[name], own_columns[name], rtol=0, atol=1e-9) for name in columns)

    @pytest.mark.slow
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
            assert DESCENTS not in names_in(folder / "out")

    @pytest.mark.ranks(1, 2)
    def test_the_curve_of_the_inviscid_limit_is_drawn_on_a_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("matplotlib")
        from relax.jobs.view import style

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
    @pytest.mark.ranks(1, 2)
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
            samples, starts = (columns_of(folder / "out", name) for name in (SAMPLES, DESCENTS))
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

    @pytest.mark.slow
    @pytest.mark.ranks(1, 2)
    def test_any_number_of_ranks_finds_the_same(self) -> None:
        text = misfit(("num = 24", f"num = 24\nranks_per_solve = {COMM.size}"))
        own, own_columns = alone(MISFIT_JOB)
        with jobs.shared_folder() as folder:
            for name, job_text in (("teams", MISFIT_JOB), ("together", text)):
                run(folder, job_text, name)
                assert result_of(folder / name)["value"] == pytest.approx(own["value"], abs=1e-7)
                columns = columns_of(folder / name, DESCENTS)
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

    @pytest.mark.slow
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
            assert len(columns_of(folder / "out", SAMPLES)["misfit"]) == 5**num
            assert outcome.summary["errors"]["misfit_in_noise_levels"] < 2.0

    def test_the_job_of_this_project_names_an_example(self) -> None:
        found = build(toml.read(ROOT / "mpi_jobs" / "relax_misfit.toml"))
        assert isinstance(found, MisfitSetting)
        assert found.G.size_in == 2 and found.G.size_out == 18 and found.truth.tolist() == [0.85, 1.2]
        found.close()
