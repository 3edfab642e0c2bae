"""The search for equations beside peers and on a disk, quickly: tables and a figure, and what is missing is told."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import in_one_process
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "papers" / "discovery"


@pytest.mark.slow
def test_scripts_run(tmp_path):
    paths = [FOLDER / "discovery.py", FOLDER / "disk.py"]
    ran = in_one_process.run_all(tmp_path, paths, "--quick", "--output", "results")
    for name, words in (
        ("discovery", ["| relax, viscous Hamilton-Jacobi | 0.0", "(1 of 1)"]),
        ("disk", ["right terms: 1 of 1", "deviations: 3 of 3"]),
    ):
        assert not ran[name].failure, ran[name].failure
        assert all(word in ran[name].out for word in words), ran[name].out
    assert find_spec("pysindy") or "pysindy is not installed" in ran["discovery"].out
    assert (tmp_path / "results" / "discovery.png").exists()
