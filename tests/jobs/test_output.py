"""The output folder: complete after a run, never overwritten unasked, the same on any number of ranks."""

from __future__ import annotations

import json
import os
from pathlib import Path

import jobs
import numpy as np
import pytest
from dolfinx import fem, mesh
from mpi4py import MPI

from relax.base import parallel
from relax.base.files import write_json
from relax.errors import BadInput
from relax.jobs import Outcome, run_job, toml
from relax.jobs.folder import RunFolder, shutil
from relax.jobs.setting import csv_files
from relax.jobs.view import pictures
from relax.jobs.view.paraview import write_fields

COMM = MPI.COMM_WORLD


def run(folder: Path, text: str = jobs.SMALL_JOB, **how: object) -> Outcome:
    file = toml.read(jobs.write(folder / "job.toml", text))
    return run_job(file, folder=folder / "out", show=False, **how)  # type: ignore[arg-type]


@pytest.mark.ranks(1, 2)
def test_a_run_leaves_every_file_and_a_fit_within_the_noise() -> None:
    with jobs.shared_folder() as folder:
        outcome = run(folder)
        names = {path.name for path in (folder / "out").iterdir()}
        files = "checkpoint control.npy fields.bp fields.h5 fields.xdmf figure.png history.jsonl job.toml run.json "
        assert sorted(names) == [*files.split(), "sensors.csv", "summary.json"]
        assert (folder / "out" / "job.toml").read_text() == jobs.SMALL_JOB
        assert (folder / "out" / "figure.png").read_bytes().startswith(b"\x89PNG")
        summary = json.loads((folder / "out" / "summary.json").read_text())
        assert summary["converged"] and outcome.converged and summary["status"].startswith("converged")
        assert summary["versions"]["ranks"] == COMM.size
        assert summary["solves"]["forward"] >= summary["steps"]
        assert list(summary["seconds"]) == ["build", "invert", "write"]
        history = [json.loads(line) for line in (folder / "out" / "history.jsonl").read_text().splitlines()]
        assert [step["step"] for step in history] == list(range(summary["steps"] + 1))
        key = "misfit_in_noise_levels"
        assert history[-1][key] == pytest.approx(summary["errors"][key], rel=1e-6)
        assert 0.0 < summary["errors"]["relative_l2"] < 1.0
        sensors = csv_files.read(folder / "out" / "sensors.csv").columns
        assert list(sensors) == ["x", "y", "value", "sigma", "predicted", "exact"]
        # The noise is 2 % of the largest exact value.
        assert np.allclose(sensors["sigma"], 0.02 * np.abs(sensors["exact"]).max(), rtol=1e-12)
        drawn = np.random.default_rng(2).standard_normal(12)
        assert (sensors["value"] == sensors["exact"] + sensors["sigma"] * drawn).all()


@pytest.mark.slow
def test_the_sensors_of_a_run_are_a_data_file_for_another() -> None:
    with jobs.shared_folder() as folder:
        first = run(folder)
        synthetic = jobs.SMALL_JOB[jobs.SMALL_JOB.index("[observe]") : jobs.SMALL_JOB.index("[prior]")]
        measured = jobs.changed((synthetic, '[data]\nfile = "out/sensors.csv"\n'))
        file = toml.read(jobs.write(folder / "measured.toml", measured))
        second = run_job(file, folder=folder / "again", show=False)
        assert "relative_l2" not in second.summary["errors"]
        assert (folder / "again" / "figure.png").exists()
        key = "misfit_in_noise_levels"
        assert second.summary["errors"][key] == pytest.approx(first.summary["errors"][key], rel=1e-5)


def test_json_has_null_for_what_is_no_number(tmp_path: Path) -> None:
    write_json(tmp_path, "a.json", {"a": [np.float64("nan"), 1.5], "b": {"c": float("inf"), "d": np.int64(2)}})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"a": [None, 1.5], "b": {"c": None, "d": 2}}


@pytest.mark.ranks(1, 2)
def test_a_point_of_a_file_outside_the_mesh_is_refused_on_every_rank() -> None:
    with jobs.shared_folder() as folder:
        jobs.write(folder / "points.csv", "x,y\n0.5,0.5\n7.0,0.5\n")
        with pytest.raises(BadInput, match=r"7\.0"):
            run(folder, jobs.changed(("points = 12", 'points = "points.csv"')))


@pytest.mark.slow
def test_a_finished_run_is_replaced_only_when_asked() -> None:
    with jobs.shared_folder() as folder:
        run(folder)
        before = (folder / "out" / "summary.json").read_text()
        with pytest.raises(BadInput, match="finished run.*--overwrite"):
            run(folder)
        assert (folder / "out" / "summary.json").read_text() == before
        COMM.Barrier()
        assert run(folder, jobs.changed(("seed = 2", "seed = 3")), overwrite=True).converged
        assert (folder / "out" / "summary.json").read_text() != before


@pytest.mark.slow
@pytest.mark.ranks(1, 2)
def test_a_run_cut_short_is_resumed_to_the_same_minimiser() -> None:
    with jobs.shared_folder() as folder:
        whole = run(folder)
        control = np.load(folder / "out" / "control.npy")
        COMM.Barrier()
        short = run(folder, jobs.changed(('name = "gauss_newton"', "max_steps = 2")), overwrite=True)
        assert not short.converged and short.summary["steps"] == 2
        resumed = run(folder, resume=True)
        assert resumed.converged and resumed.summary["steps"] >= 3
        history = [json.loads(line) for line in (folder / "out" / "history.jsonl").read_text().splitlines()]
        assert [step["step"] for step in history] == list(range(resumed.summary["steps"] + 1))
        # Both stop with a gradient of 1e-6 of the first; the prior bounds the Hessian, so the controls are as near.
        found = np.load(folder / "out" / "control.npy")
        assert np.abs(found - control).max() < 1e-3 * np.abs(control).max()
        assert resumed.summary["solves"]["forward"] > short.summary["solves"]["forward"]
        key = "relative_l2"
        assert whole.summary["errors"][key] == pytest.approx(resumed.summary["errors"][key], rel=1e-3)


def test_resuming_another_problem_is_refused() -> None:
    with jobs.shared_folder() as folder:
        with pytest.raises(BadInput, match="nothing to resume"):
            run(folder, resume=True)
        run(folder, jobs.changed(('name = "gauss_newton"', "max_steps = 1")))
        with pytest.raises(BadInput, match=r"\[prior\] is not what it was"):
            run(folder, jobs.changed(("length = 0.5", "length = 0.4")), resume=True)


@pytest.mark.slow
@pytest.mark.ranks(1, 2)
def test_the_result_does_not_depend_on_the_layout() -> None:
    with jobs.shared_folder() as folder:
        key = "relative_l2"
        replicated = run(folder).summary["errors"][key]
        owned = run(folder, jobs.SMALL_JOB + '\n[solver]\nlayout = "owned"\n', overwrite=True).summary["errors"][key]
        assert owned == pytest.approx(replicated, rel=1e-4)


@pytest.mark.ranks(1, 2)
def test_a_folder_that_cannot_be_written_is_refused_before_anything_runs() -> None:
    with jobs.shared_folder() as folder:
        jobs.write(folder / "out", "I am a file")
        with pytest.raises(BadInput, match="this is a file"):
            run(folder)
        with pytest.raises(BadInput, match="cannot write"):
            RunFolder(COMM, folder / "out" / "below").inspect()
        if parallel.on_rank_0(COMM, lambda: os.geteuid() != 0):
            if COMM.rank == 0:
                (folder / "locked").mkdir(mode=0o500)
            with pytest.raises(BadInput, match="cannot write"):
                RunFolder(COMM, folder / "locked" / "out").inspect()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc")
def test_what_is_no_disk_is_not_called_a_full_one() -> None:
    with pytest.raises(BadInput, match="cannot write there"):
        RunFolder(COMM, Path("/proc/relax/out")).inspect()


@pytest.mark.ranks(1, 2)
def test_a_full_disk_is_found_before_the_parallel_write(monkeypatch: pytest.MonkeyPatch) -> None:
    with jobs.shared_folder() as folder:
        usage = type("Usage", (), {"free": 1000})
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(BadInput, match="disk is full"):
            RunFolder(COMM, folder / "out").inspect()


def fields(*elements: object) -> dict[str, fem.Function]:
    domain = mesh.create_unit_square(COMM, 3, 3)
    return {f"f{i}": fem.Function(fem.functionspace(domain, element)) for i, element in enumerate(elements)}


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    "elements",
    [
        (("Lagrange", 1), ("Lagrange", 2)),
        (("DG", 0), ("Lagrange", 1)),
        (("Lagrange", 1), ("Lagrange", 2, (2,))),
        (("N1curl", 1),),
    ],
    ids=str,
)
def test_fields_of_different_spaces_go_into_one_file(elements: tuple[object, ...]) -> None:
    with jobs.shared_folder() as folder:
        write_fields(folder, fields(*elements))
        COMM.Barrier()
        text = (folder / "fields.xdmf").read_text()
        assert all(f'Name="f{i}"' in text for i in range(len(elements))) and (folder / "fields.bp").is_dir()


@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize("cell", ["triangle", "quadrilateral", "tetrahedron", "hexahedron", "interval"])
def test_pictures_hold_the_field_whatever_the_partition(cell: str) -> None:
    kind = getattr(mesh.CellType, cell)
    if cell == "interval":
        domain = mesh.create_interval(COMM, 10, (0.0, 1.0))
    elif cell in ("triangle", "quadrilateral"):
        domain = mesh.create_unit_square(COMM, 5, 4, kind)
    else:
        domain = mesh.create_unit_cube(COMM, 3, 3, 3, kind)
    u = fem.Function(fem.functionspace(domain, ("Lagrange", 1)))
    u.interpolate(lambda x: 1.0 + 2.0 * x[0] - 3.0 * x[1] + 5.0 * x[2])
    picture = pictures.gather(u)
    assert (picture is None) == (COMM.rank != 0)
    if picture is None:
        return
    x = np.pad(picture.points, ((0, 0), (0, 2)))
    height = 0.0 if picture.cut is None else picture.cut
    assert np.allclose(picture.values, 1.0 + 2.0 * x[:, 0] - 3.0 * x[:, 1] * (picture.dim == 2) + 5.0 * height)
    if picture.dim == 1:
        assert len(picture.points) == 11
        return
    corners = picture.points[picture.triangles]
    sides = corners[:, 1:] - corners[:, :1]
    assert np.isclose(0.5 * np.abs(np.linalg.det(sides)).sum(), 1.0)
    edges = picture.outline()
    assert np.isclose(np.linalg.norm(edges[:, 1] - edges[:, 0], axis=1).sum(), 4.0)


@pytest.mark.ranks(1, 2)
def test_a_mistake_in_a_job_leaves_the_folder_as_it_was() -> None:
    """Neither a new folder nor a loss in an old one: results are replaced once the new job has solved once."""
    with jobs.shared_folder() as folder:
        bad = jobs.SMALL_JOB + '\n[solver]\noptions = { ksp_type = "no_such_type" }\n'
        with pytest.raises(BadInput):
            run(folder, bad)
        assert parallel.on_rank_0(COMM, lambda: not (folder / "out").exists())
        run(folder)
        before = parallel.on_rank_0(COMM, lambda: sorted(p.name for p in (folder / "out").iterdir()))
        with pytest.raises(BadInput):
            run(folder, bad, overwrite=True)
        assert parallel.on_rank_0(COMM, lambda: sorted(p.name for p in (folder / "out").iterdir())) == before
