"""The demos of examples/fenicsx: each is what plain DOLFINx makes of it."""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import in_one_process
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "fenicsx"

table = SimpleNamespace(**runpy.run_path(str(FOLDER / "table.py")))
DEMOS = table.demos()


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """What each demo did on two ranks, all of them in one job; table.py runs them on one and three as well."""
    return in_one_process.run_all(tmp_path_factory.mktemp("fenicsx"), DEMOS, ranks=2, timeout=600.0)


@pytest.mark.parametrize("demo", [path.stem for path in DEMOS])
@pytest.mark.timeout(1800)
@pytest.mark.slow
def test_a_demo_is_what_plain_dolfinx_makes_of_it(demo, ran):
    """Values to 1e-10, derivatives to 1e-6, gaps to 1e-12, as each asserts."""
    assert not ran[demo].failure, ran[demo].out + ran[demo].failure
    (row,) = table.rows(ran[demo].out)
    assert row["demo"] == demo and row["value"] < 1e-10 and row["gradient"] < 1e-6 and row["adjoint gap"] < 1e-12
    for order, expected in zip(row["orders"], (2.0, 3.0), strict=True):
        # Of what is quadratic no remainder is left.
        assert abs(order - expected) < 0.1 or order == math.inf


def test_the_table_has_all_demos():
    """Each is in it, none is longer than its line says or than 60 lines, and eight are there at least."""
    readme = (FOLDER / "README.md").read_text().partition(table.BEGIN)[2].partition(table.END)[0]
    listed = [line.split(" | ") for line in readme.splitlines()[2:]]
    assert [(row[0], row[-1].strip(" |")) for row in listed] == [
        (f"| [{path.stem}]({path.name})", str(len(path.read_text().splitlines()))) for path in DEMOS
    ]
    assert len(DEMOS) >= 8 and all(int(row[-1].strip(" |")) <= 60 for row in listed)
