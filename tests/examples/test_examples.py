"""Every script of examples/, inverse/ and benchmarks/ ends with an assertion, on 1 and 2 ranks; a theorem's on 1."""

from __future__ import annotations

from pathlib import Path

import in_one_process
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples"
EXAMPLES = [*sorted(FOLDER.glob("*.py")), *sorted(FOLDER.glob("inverse/*.py"))]
BENCHMARKS = sorted(FOLDER.glob("benchmarks/*.py"))
INVERSE = sorted(FOLDER.glob("inverse/*.py"))
ON_TWO = [*EXAMPLES, *BENCHMARKS, *INVERSE]
# Scripts that show a theorem, with nothing for ranks to share.
THEOREMS = sorted(FOLDER.glob("deep_relaxation/*.py"))


@pytest.fixture(scope="module")
def ran(request, tmp_path_factory):
    """What each script did on so many ranks."""
    paths = [*ON_TWO, *(THEOREMS if request.param == 1 else [])]
    return in_one_process.run_all(tmp_path_factory.mktemp("examples"), paths, ranks=request.param, timeout=800.0)


# Those of one number of ranks after the other: each number is one job.
@pytest.mark.parametrize(
    ("script", "ran"),
    [(path, ranks) for ranks in (1, 2) for path in (*ON_TWO, *(THEOREMS if ranks == 1 else []))],
    indirect=["ran"],
    scope="module",
    ids=lambda value: value.stem if isinstance(value, Path) else str(value),
)
@pytest.mark.timeout(900)
@pytest.mark.slow
def test_example_runs(script, ran):
    assert not ran[script.stem].failure, ran[script.stem].out + ran[script.stem].failure


@pytest.mark.parametrize("script", [*EXAMPLES, *INVERSE], ids=lambda path: path.stem)
def test_example_is_short(script: Path) -> None:
    assert len(script.read_text().splitlines()) < (60 if script in INVERSE else 40)
