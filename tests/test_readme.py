"""What the READMEs show runs as printed: each listing in a process of its own, in the folder of the repository.

Their commands are run by the gate (``make demo``, ``pip install .[dolfinx]``, ``relax info``) and by ``jobs/``.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import scripts

TOP = Path(__file__).resolve().parents[1]
README = (TOP / "README.md").read_text(encoding="utf-8")
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# A listing, and the script that it is from.
FROM = re.compile(r"From\s+\[(examples/\w+\.py)\](?:(?!```).)*```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)

# Of every README there is; a listing may come into any of them.
LISTINGS = [
    pytest.param(listing, id=f"{path.relative_to(TOP)}-{number}")
    for path in sorted([*TOP.glob("*.md"), *TOP.glob("*/README.md")])
    for number, listing in enumerate(PYTHON.findall(path.read_text(encoding="utf-8")), 1)
]
# Of a command that no other test and no step of the gate runs; here is the environment already.
COMMAND = "environment/enter relax check examples.new_pde:cubic_reaction"


def runs(listing: str, folder: Path, *, ranks: int) -> None:
    if "import torch" in listing and find_spec("torch") is None:
        pytest.skip("no torch here")
    (folder / "listing.py").write_text(listing, encoding="utf-8")
    run = scripts.python(folder / "listing.py", ranks=ranks, cwd=TOP)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.slow
@pytest.mark.parametrize("listing", LISTINGS)
def test_listing_runs(listing: str, tmp_path: Path) -> None:
    runs(listing, tmp_path, ranks=1)


@pytest.mark.slow
def test_listing_that_names_mpirun_runs_on_two_ranks(tmp_path: Path) -> None:
    (listing,) = re.findall(r"with `mpirun` or without:\n\n```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    runs(listing, tmp_path, ranks=2)


def test_there_are_listings() -> None:
    """The patterns of this file still find what they are for."""
    assert len(LISTINGS) >= 7 and len(FROM.findall(README)) >= 5


@pytest.mark.parametrize(("script", "listing"), FROM.findall(README), ids=lambda text: text.partition("\n")[0])
def test_listing_is_what_its_script_does(script: str, listing: str) -> None:
    """Its lines are in the script, in this order; the script may indent them, and has lines between."""
    text = (TOP / script).read_text(encoding="utf-8").replace("Path(__file__).parents[1] / ", "")
    found = iter([line.strip() for line in text.splitlines()])
    missing = [line for line in filter(None, map(str.strip, listing.splitlines())) if line not in found]
    assert missing == []


@pytest.mark.slow
def test_command_runs() -> None:
    assert COMMAND in README
    run = scripts.python("-P", "-m", *COMMAND.split()[1:], cwd=TOP)
    assert run.returncode == 0, run.stdout + run.stderr
