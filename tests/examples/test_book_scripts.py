"""The book's chapters from end to end, quickly: each ends, with a table and a figure, and has its page."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import in_one_process
import pytest
import scripts

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

BOOK = Path(__file__).resolve().parents[2] / "examples" / "book"
NO_CHAPTERS = {"chapter", "clash", "graph_network"}
CHAPTERS = sorted(path.stem for path in BOOK.glob("*.py") if path.stem not in NO_CHAPTERS)
NO_FIGURE = {"pinn"}


@pytest.fixture(scope="module")
def chapters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("book")
    paths = [BOOK / f"{name}.py" for name in CHAPTERS if name != "reinforcement_learning" or find_spec("gymnasium")]
    return folder, in_one_process.run_all(folder, paths, "--quick", "--output", "results")


@pytest.mark.parametrize("name", CHAPTERS)
@pytest.mark.slow
def test_chapter_runs(name, chapters):
    if name == "reinforcement_learning":
        pytest.importorskip("gymnasium")
    folder, found = chapters
    ran = found[name]
    assert not ran.failure, ran.out + ran.failure
    assert sum(line.startswith("| ") for line in ran.out.splitlines()) >= 3, "a table with a row"
    assert name in NO_FIGURE or (folder / "results" / f"{name}.png").is_file()


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_has_its_page(name):
    page = (BOOK / f"{name}.md").read_text()
    assert f"python3 examples/book/{name}.py" in page
    assert name in NO_FIGURE or (f"({name}.png)" in page and (BOOK / f"{name}.png").is_file())
    assert f"({name}.md)" in (BOOK / "README.md").read_text()


@pytest.mark.slow
def test_environment_is_gymnasiums():
    """Gymnasium's own checker passes the environment around an ``Evolution``."""
    pytest.importorskip("gymnasium")
    text = f"import sys\nsys.path.insert(0, {str(BOOK)!r})\n" + (
        "import clash, reinforcement_learning\n"
        "from gymnasium.utils.env_checker import check_env\n"
        "step = clash.burgers()\n"
        "check_env(reinforcement_learning.ClashEnv(step, clash.samples(step, 3, 0)), skip_render_check=True)\n"
    )
    run = scripts.python("-c", text, timeout=120)
    assert run.returncode == 0, run.stderr
