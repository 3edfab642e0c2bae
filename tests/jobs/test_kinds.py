"""Kinds of jobs: one more is an entry in the table, and a run loads those of its own kind alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jobs
import pytest
import toy_kind
from mpi4py import MPI
from relaxation_jobs import names_in

from relax.base import parallel
from relax.errors import BadInput
from relax.jobs import read, run_job, toml
from relax.jobs.kinds import KINDS, tables

COMM = MPI.COMM_WORLD


@pytest.fixture
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "integral", toy_kind.KIND)


@pytest.mark.usefixtures("_toy")
class TestOneMoreKind:
    def test_it_is_read_and_run(self) -> None:
        """u = 1 + 4 x - 2 x² on a box of depth 6, whose square is integrated; the elements are linear."""
        with jobs.shared_folder() as folder:
            outcome = run_job(read(jobs.write(folder / "job.toml", toy_kind.JOB)), folder=folder / "out", show=False)
            assert names_in(folder / "out") == ["job.toml", "result.json", "run.json", "summary.json"]
            text = parallel.on_rank_0(COMM, (folder / "out" / "result.json").read_text)
            assert json.loads(text) == {"integral": outcome.summary["integral"]}
            assert list(outcome.summary["seconds"]) == ["build", "solve"]
            # The integral of (1 + 4 x - 2 x²)² from 0 to 1 is 1 + 4 + 4 - 4 + 4/5 = 5.8.
            assert outcome.converged and outcome.summary["integral"] == pytest.approx(6 * 5.8, rel=0.1)
            with pytest.raises(BadInput, match="an integral job keeps nothing to go on from"):
                run_job(read(folder / "job.toml"), folder=folder / "out", show=False, resume=True)

    @pytest.mark.parametrize(
        ("old", "new", "expected"),
        [
            ("[integral]", "[intergal]", ["[intergal]: unknown table", "did you mean 'integral'?"]),
            ("power = 2", "powr = 2", ["[integral] powr: unknown key", "did you mean 'power'?"]),
            ("[integral]", "[prior]\nstd = 1.0\n[integral]", ["[prior]: nothing is recovered here; remove this table"]),
            ("[integral]", "[start]\n[integral]", ["[start]: an integral job has no use for this table; remove it"]),
            (
                "[integral]",
                "[target]\nstate = 1\n[integral]",
                ["[target], [integral]: expected one of them", "[target] makes a control job, [integral] makes an int"],
            ),
            (
                "[integral]\npower = 2",
                "",
                ["is missing", "[data] makes an inverse job", "[integral] makes an"],
            ),
        ],
    )
    def test_its_mistakes_are_named_as_those_of_others(self, old: str, new: str, expected: list[str]) -> None:
        with pytest.raises(BadInput) as caught:
            toml.parse(jobs.changed((old, new), of=toy_kind.JOB), "job.toml")
        for part in expected:
            assert part in str(caught.value)


def test_every_table_of_a_job_is_of_some_kind() -> None:
    assert {kind.table for kind in KINDS.values()} <= set(tables())
    assert set(tables()) == set(
        "mesh pde observe data target start landscape descent misfit prior method solver output".split()
    )


@pytest.mark.slow
def test_a_run_loads_its_own_kind_alone(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(jobs.SMALL_JOB)
    script = (
        "import sys\nfrom pathlib import Path\nfrom relax.jobs import read, run_job\n"
        "run_job(read(Path('job.toml')), folder=Path('out'), show=False)\nprint(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120
    )
    loaded = done.stdout.split()
    others = ("schrodinger", "hamilton_jacobi", "heat", "burgers", "relaxation", "layer", "train", "engine.dense")
    kinds = [f"jobs.{kind}" for kind in ("control", "landscape", "misfit")]
    absent = ["torch", "rich", "typer", *(f"relax.pdes.{name}" for name in others[:4])]
    absent += [f"relax.{name}" for name in (*others[4:], *kinds)]
    assert "relax.pdes.poisson" in loaded and "relax.jobs.inverse.figure" in loaded
    assert not [name for name in loaded if any(name == a or name.startswith(f"{a}.") for a in absent)]
