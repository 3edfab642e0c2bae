"""Every script of examples/ runs to its end, which is an assertion, on 1 and on 2 ranks; a theorem's on 1."""

from __future__ import annotations

from pathlib import Path

import pytest
import scripts

FOLDER = Path(__file__).resolve().parents[2] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))
# Scripts that show a theorem, with nothing for ranks to share.
THEOREMS = sorted(FOLDER.glob("deep_relaxation/*.py"))


@pytest.mark.parametrize(
    ("script", "ranks"),
    [(script, ranks) for script in EXAMPLES for ranks in (1, 2)] + [(script, 1) for script in THEOREMS],
    ids=lambda value: value.stem if isinstance(value, Path) else str(value),
)
@pytest.mark.slow
def test_example_runs(script: Path, ranks: int, tmp_path: Path) -> None:
    run = scripts.python(script, ranks=ranks, cwd=tmp_path, timeout=240)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_short(script: Path) -> None:
    assert len(script.read_text().splitlines()) < 40
