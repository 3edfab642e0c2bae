"""The search for equations beside its peers, quickly: a table and a figure come out, and what is missing is said."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import scripts

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "papers" / "discovery" / "discovery.py"


@pytest.mark.slow
def test_script_runs(tmp_path):
    run = scripts.python(SCRIPT, "--quick", "--output", str(tmp_path / "results"), cwd=tmp_path, timeout=240)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "| relax, viscous Hamilton-Jacobi | 0.0" in run.stdout and "(1 of 1)" in run.stdout
    assert find_spec("pysindy") or "pysindy is not installed" in run.stdout
    assert (tmp_path / "results" / "discovery.png").exists()
