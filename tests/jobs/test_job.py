"""Job files: what is accepted, and what each mistake is answered with."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import jobs
import numpy as np
import pytest
from mpi4py import MPI

from relax import meshes
from relax.base.la.options import PRESETS
from relax.errors import BadInput
from relax.jobs import run, toml
from relax.jobs.inverse import truths
from relax.jobs.landscape.functions import LANDSCAPES
from relax.jobs.setting import csv_files, generators
from relax.jobs.setting.equation import built_in_pdes
from relax.jobs.setting.sensors import random_points

ROOT = Path(__file__).resolve().parents[2]


def mistake(*substitutions: tuple[str, str]) -> str:
    with pytest.raises(BadInput) as caught:
        toml.parse(jobs.changed(*substitutions), "job.toml")
    return str(caught.value)


def test_a_small_job_is_read() -> None:
    small = toml.parse(jobs.SMALL_JOB)
    assert small.mesh.generator == "unit_square" and small.mesh.n == [8]
    assert small.pde.keywords == {"source": 10.0}
    assert small.method.max_steps == 50 and small.solver.layout == "replicated"


def test_keywords_of_the_equation_keep_their_kind_and_tags_become_numbers() -> None:
    text = jobs.changed(("source = 10.0", "degree = 2\ndirichlet = { 1 = 0.5, outer = 1 }"))
    keywords = toml.parse(text).pde.keywords
    assert keywords == {"degree": 2, "dirichlet": {1: 0.5, "outer": 1.0}}
    assert type(keywords["degree"]) is int


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("length = 0.5", "lenght = 0.5", ["[prior] lenght: unknown key", "did you mean 'length'?"]),
        ("[prior]", "[prio]", ["[prio]: unknown table", "did you mean 'prior'?", "[prior]: this table is missing"]),
        ('"unit_square"', '"unit_sqare"', ["[mesh] generator", "did you mean 'unit_square'?"]),
        ('"unit_square"', '""', ["[mesh] generator", "a string that is not empty"]),
        ("n = 8", "n = 8.5", ["[mesh] n", "whole number", "8.5"]),
        ("n = 8", 'n = "8"', ["[mesh] n", "'8'"]),
        ("n = 8", "n = 0", ["[mesh] n", ">= 1"]),
        ("n = 8", "h = 0.1", ["[mesh]", "unit_square", "takes n"]),
        ("n = 8", "n = [8, 8]", ["[mesh]: n", "unit_square", "takes 1 number(s), got 2"]),
        ('"unit_square"\nn = 8', '"box"\nn = 2', ["[mesh]", "'box' takes lower, n, upper", "got n"]),
        ("n = 8", 'n = 8\nfile = "a.msh"', ["[mesh]", "one mesh", "two"]),
        ('generator = "unit_square"\nn = 8', "", ["[mesh]", "one mesh", "none"]),
        ("points = 12", "points = 2000000000", ["[observe] points", "<= 1e+07"]),
        ("noise = 0.02", "noise = 1e-300", ["[data] noise", ">= 1e-12"]),
        ('"results/small"', '"a\\u0000b"', ["[output] folder", "without NUL characters"]),
        ("n = 8", "n = 8\nh = " + "[" * 5000 + "]" * 5000, ["a few levels deep"]),
        ("points = 12", "points = 0", ["[observe] points", ">= 1", "0"]),
        ("points = 12", "points = 1.5", ["[observe] points", "a whole number or a string", "1.5"]),
        ("seed = 1", "seed = -1", ["[observe] seed", ">= 0"]),
        ("length = 0.5", "", ["[prior] length: this key is missing: the correlation length of the field to recover"]),
        ("length = 0.5", "length = -1.0", ["[prior] length", "> 0", "-1"]),
        ("length = 0.5", "length = nan", ["[prior] length", "finite"]),
        ("std = 0.5", "std = inf", ["[prior] std", "finite"]),
        ("source = 10.0", "source = [[1.0]]", ["[pde] source", "a number", "[[1.0]]"]),
        ("source = 10.0", "mesh = 1", ["[pde]", "[mesh]"]),
        ('name = "poisson.diffusion"', "", ["[pde] name", "missing"]),
        ("noise = 0.02", "", ["[data]", "noise"]),
        ('truth = "inclusions"', "", ["[data]", "one source of data", "none"]),
        ('truth = "inclusions"', 'truth = "smooth"\nfile = "a.csv"', ["[data]", "two"]),
        ('truth = "inclusions"', 'truth = "a.csv"', ["random points have no measured values"]),
        ('name = "gauss_newton"', 'name = "newton"', ["[method] name", "gauss_newton"]),
        ('name = "gauss_newton"', "rtol = 2", ["[method] rtol", "< 1"]),
        ("[output]", '[solver]\noptions = "drect"\n[output]', ["[solver] options", "did you mean 'direct'?"]),
        ('folder = "results/small"', 'folder = ""', ["[output] folder", "not empty"]),
        ("[output]", "[output", ["not TOML", "line"]),
    ],
)  # fmt: skip
def test_a_mistake_is_named(old: str, new: str, expected: list[str]) -> None:
    text = mistake((old, new))
    assert text.startswith("job.toml: ")
    for part in expected:
        assert part in text
    assert "Traceback" not in text and "pydantic" not in text


def test_all_mistakes_are_named_at_once() -> None:
    text = mistake(("n = 8", "n = -1"), ("noise = 0.02", "nois = 0.02"), ("std = 0.5", "std = 0"))
    assert "3 mistakes" in text or "4 mistakes" in text
    assert all(place in text for place in ("[mesh] n", "[data] nois", "[prior] std"))


def test_without_a_kind_the_mistakes_that_all_share_are_named() -> None:
    text = mistake(("[data]", "[dat]"), ("n = 8", "n = -1"))
    assert "[dat]: unknown table" in text and "[mesh] n: expected a number >= 1" in text


def test_a_missing_job_file_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "poisson.toml").write_text(jobs.SMALL_JOB)
    with pytest.raises(BadInput) as caught:
        toml.read(tmp_path / "poison.toml")
    assert f"did you mean '{tmp_path / 'poisson.toml'}'?" in str(caught.value)


def test_files_of_spreadsheets_are_read_or_explained(tmp_path: Path) -> None:
    """A byte-order mark is skipped; semicolons, and commas within numbers, are named."""
    file = tmp_path / "points.csv"
    file.write_text("x,y\n0.5,0.25\n", encoding="utf-8-sig")
    assert csv_files.read(file).points(2).tolist() == [[0.5, 0.25]]
    for text in ("x;y\n0,5;0,25\n", "0,5;0,25\n", "x\ty\n0.5\t0.25\n"):
        file.write_text(text)
        with pytest.raises(BadInput, match="line 1: expected commas between entries"):
            csv_files.read(file)
    job = tmp_path / "job.toml"
    job.write_text(jobs.SMALL_JOB, encoding="utf-8-sig")
    assert toml.read(job).job == toml.parse(jobs.SMALL_JOB)


def test_paths_start_from_the_project_folder(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    here = tmp_path / "deep" / "er" / "job.toml"
    assert toml.project_root(here) == here.parent
    (tmp_path / "deep" / "pyproject.toml").touch()
    assert toml.project_root(here) == tmp_path / "deep"


def test_the_presets_are_those_of_the_solvers() -> None:
    names = get_args(get_args(toml.SolverSection.model_fields["options"].annotation)[0])
    assert set(names) == set(PRESETS)


def test_the_generators_are_those_of_the_meshes() -> None:
    takes = {name: generators.numbers_of(name) for name in generators.GENERATORS}
    assert takes.pop("interval") == {"n": 1, "lower": 1, "upper": 1}
    assert takes.pop("rectangle") == {"n": 2, "lower": 2, "upper": 2}
    assert takes.pop("box") == {"n": 3, "lower": 3, "upper": 3}
    assert takes == {"unit_square": {"n": 1}, "unit_cube": {"n": 1}, "disk": {"h": 1}}


@pytest.mark.parametrize("path", sorted((ROOT / "mpi_jobs").glob("*.toml")), ids=lambda p: p.stem)
def test_the_jobs_of_this_project_are_valid_and_have_their_files(path: Path) -> None:
    file = toml.read(path)
    assert file.root == ROOT
    assert file.job.mesh.file is None or (ROOT / file.job.mesh.file).exists()
    name = file.job.pde.name
    assert name in built_in_pdes() or (ROOT / f"{name.partition(':')[0].replace('.', '/')}.py").exists()
    assert file.job.kind != "inverse" or file.job.data.truth in truths.TRUTHS
    assert file.job.kind != "landscape" or file.job.landscape.function in LANDSCAPES
    assert path.with_suffix(".sbatch").exists()


# -- what only a run can tell ------------------------------------------------------------------------------------------


def build(text: str) -> str:
    """The message with which building a job fails, on every rank."""
    with jobs.shared_folder() as folder:
        path = jobs.write(folder / "job.toml", text)
        with pytest.raises(BadInput) as caught:
            run.build(toml.read(path))
    return str(caught.value)


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("poisson.diffusion", "poisson.difusion", ["did you mean 'poisson.diffusion'?"]),
        ("poisson.diffusion", "nowhere:function", ["no module 'nowhere'", "looked in"]),
        ("poisson.diffusion", "math:sine", ["no function 'sine'"]),
        ("source = 10.0", "sorce = 10.0", ["[pde] sorce", "did you mean 'source'?"]),
        ("source = 10.0", 'source = "much"', ["[pde] source", "a number", "'much'"]),
        ("source = 10.0", "dirichlet = { nowhere = 0.0 }", ["nowhere", "left"]),
        ("inclusions", "inclusion", ["[data] truth", "inclusions"]),
        ("points = 12", 'points = "nowhere.csv"', ["[observe] points", "nowhere.csv", "no such"]),
        ('generator = "unit_square"\nn = 8', 'file = "nowhere.msh"', ["[mesh] file", "nowhere.msh"]),
        ("source = 10.0", "source = 0.0", ["[data] noise", "all observations are 0"]),
    ],
)  # fmt: skip
def test_a_job_that_does_not_fit_is_refused_on_every_rank(old: str, new: str, expected: list[str]) -> None:
    text = build(jobs.changed((old, new)))
    for part in expected:
        assert part in text


@pytest.mark.ranks(1, 2)
def test_random_points_depend_on_the_seed_alone() -> None:
    domain = meshes.disk(0.3)
    points = random_points(domain, 20, seed=3)
    # On any number of ranks: the box of the disk is [-1, 1] x [-1, 1] up to round-off.
    tried = 2.0 * np.random.default_rng(3).random((80, 2)) - 1.0
    inside = tried[np.hypot(*tried.T) < 0.98]
    found = [np.abs(points - p).max(axis=1).min() < 1e-12 for p in inside[:15]]
    assert points.shape == (20, 2) and all(found)
    assert (MPI.COMM_WORLD.bcast(points) == points).all()


@pytest.mark.parametrize("name", sorted(truths.TRUTHS))
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_truths_are_of_size_one_in_any_dimension(name: str, dim: int) -> None:
    low, high = np.full(dim, -2.0), np.full(dim, 5.0)
    x = np.random.default_rng(0).uniform(-2.0, 5.0, (3, 500))
    values = truths.scaled(name, low, high)(x)
    assert values.shape == (500,) and 0.1 < np.abs(values).max() <= 1.0 + 1e-12


def test_truths_lie_in_the_box_of_the_mesh() -> None:
    low, high = np.array([-2.0, 1.0]), np.array([5.0, 3.0])
    x = low[:, None] + (high - low)[:, None] * np.array([[0.0, 1.0, 0.28, 0.72], [0.0, 1.0, 0.66, 0.36]])
    ramp, inclusions = (truths.scaled(name, low, high)(x) for name in ("ramp", "inclusions"))
    assert ramp == pytest.approx([-1.0, 1.0, 2 * 0.28 - 1, 2 * 0.72 - 1])
    # A stiff ball and a soft one, whose edges have a width.
    assert np.abs(inclusions[:2]).max() < 1e-3 and inclusions[2] > 0.9 and inclusions[3] < -0.9


class TestTables:
    def read(self, folder: Path, text: str) -> csv_files.Table:
        path = folder / "t.csv"
        path.write_text(text)
        return csv_files.read(path)

    def test_columns_by_name_or_by_place(self, tmp_path: Path) -> None:
        named = self.read(tmp_path, "# sensors\ny, x, value\n1, 2, 3\n\n4, 5, 6\n")
        assert named.points(2).tolist() == [[2.0, 1.0], [5.0, 4.0]] and named.columns["value"].tolist() == [3.0, 6.0]
        assert self.read(tmp_path, "1,2\n3,4\n").points(2).tolist() == [[1.0, 2.0], [3.0, 4.0]]

    def test_what_is_written_is_read_bit_for_bit(self, tmp_path: Path) -> None:
        columns = {"x": np.random.default_rng(0).random(5), "value": np.array([1e-300, 1 / 3, -0.0, 2.0**60, np.pi])}
        csv_files.write(tmp_path / "t.csv", columns)
        read = csv_files.read(tmp_path / "t.csv").columns
        assert all((read[name] == columns[name]).all() for name in columns)

    def test_whole_numbers_are_written_as_such(self, tmp_path: Path) -> None:
        csv_files.write(tmp_path / "t.csv", {"step": np.arange(1, 3), "time": np.array([1.0, 2.5])})
        assert (tmp_path / "t.csv").read_text().split() == ["step,time", "1,1.0", "2,2.5"]

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("", "empty"),
            ("x,y\n", "at least one row"),
            ("x,y\n1,2\n3\n", "line 3: expected 2 entries"),
            ("x,y\n1,two\n", "line 2, y: expected a finite number, got 'two'"),
            ("x,y\n1,nan\n", "finite"),
            ("1,2,3,4\n", "columns without names"),
            ("x,x\n1,2\n", "same name"),
        ],
    )
    def test_a_wrong_file_names_the_line(self, tmp_path: Path, text: str, expected: str) -> None:
        with pytest.raises(BadInput) as caught:
            self.read(tmp_path, text)
        assert expected in str(caught.value) and "t.csv" in str(caught.value)

    def test_the_coordinates_must_be_those_of_the_mesh(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match="expected the columns x, y for a mesh in 2"):
            self.read(tmp_path, "1,2,3\n").points(2)
