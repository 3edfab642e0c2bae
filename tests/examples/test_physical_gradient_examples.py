"""The experiments with physical gradients, from end to end, quickly."""

from __future__ import annotations

from pathlib import Path

import pytest
import scripts

PAPERS = Path(__file__).resolve().parents[2] / "examples" / "papers"


@pytest.mark.parametrize(("name", "ranks"), [("sip_heat", 1), ("sip_poisson", 2)])
@pytest.mark.slow
def test_script_runs(name, ranks, tmp_path):
    """Both ways learn, and even in half a second the inverse comes closer to the cause than the adjoint."""
    path = PAPERS / name / f"{name}.py"
    text = f"import runpy, sys\nsys.argv[0] = {str(path)!r}\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"
    run = scripts.run(tmp_path, text, "--quick", "--budget", "0.5", ranks=ranks, timeout=200)
    assert run.returncode == 0, run.stdout + run.stderr
    rows = [line.split("|")[1:-1] for line in run.stdout.partition("x-loss at first")[2].splitlines()]
    losses = {row[0].strip(): [float(x) for x in row[1:]] for row in rows[2:] if len(row) == 5}
    assert set(losses) == {"physical gradient", "adjoint"}
    assert losses["physical gradient"][2] < losses["adjoint"][2] < losses["adjoint"][0]
    assert "0 factorisations in the runs" in run.stdout
    assert len(list((tmp_path / "results").glob("*.png"))) == 1
