"""Trajectories as they are written and drawn: the file, the frames, the strip."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import basix.ufl
import jobs
import numpy as np
import pytest
from dolfinx import fem
from mpi4py import MPI

import relax
from relax import meshes, pdes
from relax.base import parallel
from relax.errors import BadInput, BadProblem
from relax.jobs.contents import STATES
from relax.jobs.folder import shutil
from relax.jobs.view import fields, series
from relax.jobs.view.strip import draw_strip

COMM = MPI.COMM_WORLD


def heat(domain, degree: int = 1, num_steps: int = 6):
    evolution = pdes.heat.evolution(
        domain, initial=lambda x: np.sin(np.pi * x[0]), num_steps=num_steps, dt=0.01, degree=degree
    )
    return evolution, relax.ReducedMap(evolution, relax.FieldValues(evolution.state.function_space))


@pytest.mark.parametrize("last", [1, 2, 7, 50, 384])
@pytest.mark.parametrize("most", [1, 2, 5, 50, 1000])
def test_frames_are_spread_evenly(last: int, most: int) -> None:
    steps = series.spread(last, most)
    assert len(steps) <= most and steps[-1] == last and list(steps) == sorted(set(steps))
    if most > 1:
        gaps = np.diff(steps)
        assert steps[0] == 0 and (gaps[:-1] == gaps[0]).all() and gaps[-1] <= gaps[0]
        # Half of what is allowed is used, at the least.
        assert len(steps) >= min(last, most) / 2


# -- parts of a state --------------------------------------------------------------------------------------------------


def test_parts_follow_a_mixed_state() -> None:
    domain = meshes.unit_square(3)
    cell = domain.basix_cell()
    elements = [basix.ufl.element("Lagrange", cell, 2, shape=(2,)), basix.ufl.element("Lagrange", cell, 1)]
    w = fem.Function(fem.functionspace(domain, basix.ufl.mixed_element(elements)))
    parts = fields.parts_of("w", w)
    assert [part.field.name for part in parts] == ["w_0", "w_1"]
    assert all((part.field.x.array == 0.0).all() for part in parts)
    w.sub(0).interpolate(lambda x: np.stack([3.0 * x[0], 4.0 * x[0]]))
    w.sub(1).interpolate(lambda x: x[1])
    drawn = fields.scalar_of("w", w, wave=False)
    for part in (*parts, drawn):
        part.update()
    for part, exact in ((parts[1], lambda x: x[1]), (drawn, lambda x: 5.0 * x[0])):
        other = fem.Function(part.field.function_space)
        other.interpolate(exact)
        assert np.allclose(part.field.x.array, other.x.array, atol=1e-14)


def test_the_density_of_a_wave_function() -> None:
    V = fem.functionspace(meshes.unit_square(3), ("Lagrange", 2, (2,)))
    psi = fem.Function(V, name="psi")
    psi.interpolate(lambda x: np.stack([x[0], x[1]]))
    evolution = pdes.schrodinger.dipole(meshes.interval(3), num_steps=1, dt=0.1)
    assert evolution.is_wave_function and not heat(meshes.unit_square(2))[0].is_wave_function
    with pytest.raises(BadProblem, match="expected a state with two components"):
        replace(heat(meshes.unit_square(2))[0], is_wave_function=True)
    part = fields.scalar_of("psi", psi, wave=True)
    exact = fem.Function(part.field.function_space)
    exact.interpolate(lambda x: x[0] ** 2 + x[1] ** 2)
    assert part.field.name == "density" and np.allclose(part.field.x.array, exact.x.array, atol=1e-14)


def test_the_magnitude_of_an_edge_element() -> None:
    u = fem.Function(fem.functionspace(meshes.unit_square(3), ("N1curl", 1)))
    part = fields.scalar_of("u", u, wave=False)
    u.interpolate(lambda x: np.stack([0.0 * x[0] + 3.0, 0.0 * x[0] - 4.0]))
    part.update()
    assert np.allclose(part.field.x.array, 5.0)


# -- the file ----------------------------------------------------------------------------------------------------------


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("degree", [1, 2])
def test_the_file_holds_the_frames_at_their_times(degree: int) -> None:
    adios2 = pytest.importorskip("adios2")
    with jobs.shared_folder() as folder:
        evolution = pdes.schrodinger.dipole(meshes.interval(6, (0.0, 2.0)), num_steps=7, dt=0.1, degree=degree)
        with relax.ReducedMap(evolution, pdes.schrodinger.norm(evolution.state)) as G:
            found = series.record(folder, G, np.linspace(1.0, 2.0, 7), frames=4, watch=G.observable.value)
        assert found.written == (0, 3, 6, 7) and found.label == "density"
        assert found.watched.shape == (8, 1) and np.allclose(found.watched, 1.0, atol=1e-10)

        def read() -> None:
            with adios2.FileReader(str(folder / STATES)) as file:
                assert file.read("step", step_selection=[0, 4]).tolist() == pytest.approx([0.0, 0.3, 0.6, 0.7])
                for i in range(4):
                    # The values of the first rank; psi with a third component for ParaView.
                    psi, density = (file.read(name, step_selection=[i, 1]) for name in ("psi", "density"))
                    assert density.max() > 0.1
                    assert np.allclose((psi.reshape(len(density), -1) ** 2).sum(axis=1), density.ravel())

        parallel.on_rank_0(COMM, read)


@pytest.mark.ranks(1, 2)
def test_a_full_disk_is_found_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    with jobs.shared_folder() as folder:
        _, G = heat(meshes.unit_square(3))
        usage = type("Usage", (), {"free": 1000})
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(BadInput, match="disk is full"):
            series.record(folder, G, G.present_control(), frames=3)
        assert G.counts["forward"] == 0
        G.close()


# -- frames and the strip ----------------------------------------------------------------------------------------------


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_frames_hold_the_states(dim: int) -> None:
    """Against the trajectory itself, at the middle of the box."""
    domain = [meshes.interval(6, (0.0, 1.0)), meshes.unit_square(6), meshes.unit_cube(2)][dim - 1]
    with jobs.shared_folder() as folder:
        evolution, G = heat(domain, degree=2 if dim == 1 else 1)
        middle = relax.PointValues(evolution.state.function_space, [[0.5] * dim])
        m = G.present_control()
        found = series.record(folder, G, m, frames=3, watch=middle.value)
        assert found.written == (0, 3, 6)
        if COMM.rank == 0:
            steps = [frame.step for frame in found.frames]
            assert steps == (list(range(7)) if dim == 1 else [0, 3, 6])
            for frame in found.frames:
                assert frame.time == pytest.approx(0.01 * frame.step)
                away = np.abs(frame.picture.points - 0.5).max(axis=1)
                assert away.min() < 1e-12
                seen = frame.picture.values[np.argmin(away)]
                assert seen == pytest.approx(found.watched[frame.step, 0], abs=1e-12)
                assert len(frame.picture.points) == {1: 13, 2: 49}.get(dim, len(frame.picture.points))
        else:
            assert found.frames is None
        G.close()


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_the_strip_is_cut_by_the_numbers_in_the_summary(dim: int) -> None:
    pytest.importorskip("matplotlib")
    domain = [meshes.interval(4, (0.0, 1.0)), meshes.rectangle((0.0, 0.0), (2.0, 1.0), (4, 2)), meshes.unit_cube(2)]
    with jobs.shared_folder() as folder:
        _, G = heat(domain[dim - 1])
        found = series.record(folder, G, G.present_control(), frames=4)
        entry = draw_strip(COMM, folder / "strip.png", found)["strip"]
        G.close()
        assert entry["frames"] == 4 and entry["steps"] == [0, 2, 4, 6]
        assert entry["times"] == pytest.approx([0.0, 0.02, 0.04, 0.06])
        parallel.on_rank_0(COMM, lambda: check_strip(folder / "strip.png", entry))


def test_times_in_the_summary_are_free_of_rounding() -> None:
    pytest.importorskip("matplotlib")
    with jobs.shared_folder() as folder:
        _, G = heat(meshes.interval(4, (0.0, 1.0)), num_steps=3)
        found = series.record(folder, G, G.present_control(), frames=4)
        G.close()
        if found.frames is not None:
            frames = [replace(frame, time=0.1 * frame.step) for frame in found.frames]
            found = replace(found, frames=frames)
            assert frames[3].time != 0.3
        entry = draw_strip(COMM, folder / "strip.png", found)["strip"]
        assert entry["times"] == [0.0, 0.1, 0.2, 0.3] and entry["steps"] == [0, 1, 2, 3]


def check_strip(path: Path, entry: dict) -> None:
    """Frames of one size with the same axes: they differ in what is drawn, and nowhere left of it."""
    from matplotlib import image

    pixels = image.imread(path)
    assert pixels.shape[:2] == (entry["height"], entry["frames"] * entry["width"])
    frames = np.split(pixels, entry["frames"], axis=1)
    left = entry["width"] // 10
    for frame in frames[1:]:
        assert (frame[:, :left] == frames[0][:, :left]).all() and (frame != frames[0]).any()
        assert np.std(frame) > 0.01


@pytest.mark.ranks(1, 2)
def test_the_same_frames_on_any_number_of_ranks() -> None:
    """The heat of sin(pi x) on an interval decays as the discrete eigenvalue says."""
    with jobs.shared_folder() as folder:
        n, k = 8, 0.01
        _, G = heat(meshes.interval(n, (0.0, 1.0)))
        found = series.record(folder, G, G.present_control(), frames=7)
        G.close()
        # Linear elements: sin(pi x) is an eigenvector of stiffness over mass.
        c = np.cos(np.pi / n)
        lam = 6.0 * n**2 * (1.0 - c) / (2.0 + c)
        if found.frames is not None:
            for frame in found.frames:
                exact = ((1.0 - k * lam / 2.0) / (1.0 + k * lam / 2.0)) ** frame.step
                x = frame.picture.points[:, 0]
                assert np.allclose(frame.picture.values, exact * np.sin(np.pi * x), atol=1e-10)
