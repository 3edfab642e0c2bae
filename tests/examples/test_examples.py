"""Every script of examples/ runs to its end, which is an assertion, on 1 and on 2 ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import scripts

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(script: Path, ranks: int, tmp_path: Path) -> None:
    run = scripts.python(script, ranks=ranks, cwd=tmp_path, timeout=240)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_short(script: Path) -> None:
    assert len(script.read_text().splitlines()) < 40
