"""The demos of examples/fenicsx: each is what plain DOLFINx makes of it, and the same on 1, 2 and 3 ranks."""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import in_one_process
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "fenicsx"
RANKS = (1, 2, 3)

table = SimpleNamespace(**runpy.run_path(str(FOLDER / "table.py")))
DEMOS = table.demos()


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """What each demo did, by ranks: each number of ranks is one job."""
    folder = tmp_path_factory.mktemp("fenicsx")
    return {ranks: in_one_process.run_all(folder, DEMOS, ranks=ranks, timeout=600.0) for ranks in RANKS}


@pytest.mark.parametrize("demo", [path.stem for path in DEMOS])
@pytest.mark.timeout(1800)
@pytest.mark.slow
def test_a_demo_is_what_plain_dolfinx_makes_of_it(demo, ran):
    """Values to 1e-10, derivatives to 1e-6, gaps to 1e-12, as each asserts; its numbers are those of one rank."""
    found = []
    for ranks in RANKS:
        assert not ran[ranks][demo].failure, ran[ranks][demo].out + ran[ranks][demo].failure
        (row,) = table.rows(ran[ranks][demo].out)
        assert row["demo"] == demo and row["value"] < 1e-10 and row["gradient"] < 1e-6 and row["adjoint gap"] < 1e-12
        for order, expected in zip(row["orders"], (2.0, 3.0), strict=True):
            # Of what is quadratic no remainder is left.
            assert abs(order - expected) < 0.1 or order == math.inf
        found.append(row["numbers"])
    assert max(table.apart(found[0], numbers) for numbers in found[1:]) < 1e-9


def test_the_table_has_all_demos():
    """Each is in it, none is longer than its line says or than 60 lines, and eight are there at least."""
    readme = (FOLDER / "README.md").read_text().partition(table.BEGIN)[2].partition(table.END)[0]
    listed = [line.split(" | ") for line in readme.splitlines()[2:]]
    assert [(row[0], row[-1].strip(" |")) for row in listed] == [
        (f"| [{path.stem}]({path.name})", str(len(path.read_text().splitlines()))) for path in DEMOS
    ]
    assert len(DEMOS) >= 8 and all(int(row[-1].strip(" |")) <= 60 for row in listed)
