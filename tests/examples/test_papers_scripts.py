"""The papers' experiments from end to end, quickly: every method takes a step, a table and a figure come out."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import dropwhile, takewhile
from pathlib import Path

import in_one_process
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

PAPERS = Path(__file__).resolve().parents[2] / "examples" / "papers"
# Ranks, and how many methods are compared. Samples are shared among ranks alike in all of them.
RUNS = {
    "oscillators": (2, 8),
    "hig_poisson": (1, 3),
    "hig_poisson_mesh": (2, 3),
    "quantum_dipole": (1, 2),
    "cart_poles": (2, 3),
    "quantum_closed_loop": (1, 4),
    "hamilton_jacobi_feedback": (1, 4),
    "guidance_by_repulsion": (1, 3),
    "settling_conductivity": (1, 4),
    "settling_sheet": (1, 2),
    "settling_digits": (1, 4),
    "path_posterior": (2, 3),
    "wave_speed_basins": (1, 4),
    "symbolic": (1, 4),
    "gated_pinn": (2, 3),
}


WORDS = ("--quick", "--budget", "0.3", "--output", "{name}")
NEEDS_SKLEARN = {"settling_sheet", "settling_digits"}


@pytest.fixture(scope="module")
def ran(request, tmp_path_factory):
    """The folder, and what each script of so many ranks did there."""
    folder = tmp_path_factory.mktemp("papers")
    left_out = set() if find_spec("sklearn") else NEEDS_SKLEARN
    names = [name for name, (ranks, _) in RUNS.items() if ranks == request.param and name not in left_out]
    paths = [PAPERS / name / f"{name}.py" for name in names]
    return folder, in_one_process.run_all(folder, paths, *WORDS, ranks=request.param)


# Those of one number of ranks after the other: each number is one job.
@pytest.mark.parametrize(
    ("name", "ran"),
    [(name, ranks) for ranks in (1, 2) for name, (r, _) in RUNS.items() if r == ranks],
    indirect=["ran"],
    scope="module",
)
@pytest.mark.slow
def test_script_runs(name, ran):
    """Each method has a row in the table, with a step or more, and there is a figure."""
    folder, found = ran
    if name in NEEDS_SKLEARN:
        pytest.importorskip("sklearn")
    assert not found[name].failure, found[name].out + found[name].failure
    from_table = dropwhile(lambda line: not line.startswith("| "), found[name].out.splitlines())
    rows = [line.split("|")[1:-1] for line in takewhile(lambda line: line.startswith("|"), from_table)][2:]
    assert len(rows) == RUNS[name][1]
    assert all(float(row[-4]) >= 1 for row in rows), "every method takes a step"
    assert list((folder / name).glob("*.png"))
