"""Every script of examples/ runs to its end, which is an assertion, on 1 and on 2 ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import scripts
from mpi4py import MPI

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.py"))

pytestmark = pytest.mark.skipif(MPI.COMM_WORLD.size > 1, reason="starts processes of its own, which mpirun cannot nest")


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(script: Path, ranks: int, tmp_path: Path) -> None:
    run = scripts.python(script, ranks=ranks, cwd=tmp_path, timeout=240)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_short(script: Path) -> None:
    assert len(script.read_text().splitlines()) < 40
