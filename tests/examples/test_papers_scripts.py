"""The papers' experiments from end to end, quickly: every method takes a step, a table and a figure come out."""

from __future__ import annotations

from itertools import dropwhile, takewhile
from pathlib import Path

import pytest
import scripts

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


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.slow
def test_script_runs(name, tmp_path):
    ranks, methods = RUNS[name]
    if name in ("settling_sheet", "settling_digits"):
        pytest.importorskip("sklearn")
    path = PAPERS / name / f"{name}.py"
    text = f"import runpy, sys\nsys.argv[0] = {str(path)!r}\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"
    run = scripts.run(tmp_path, text, "--quick", "--budget", "0.3", ranks=ranks, timeout=240)
    assert run.returncode == 0, run.stdout + run.stderr
    from_table = dropwhile(lambda line: not line.startswith("| "), run.stdout.splitlines())
    rows = [line.split("|")[1:-1] for line in takewhile(lambda line: line.startswith("|"), from_table)][2:]
    assert len(rows) == methods
    assert all(float(row[-4]) >= 1 for row in rows), "every method takes a step"
    assert list((tmp_path / "results").glob("*.png"))
