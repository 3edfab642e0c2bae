"""Keys that the command line sets (``--set``): what they become, how they are refused, what the output folder says."""

from __future__ import annotations

import random
import tomllib
from pathlib import Path
from typing import Any

import jobs
import pytest
from mpi4py import MPI
from run_folders import FEW

from relax import cli
from relax.errors import BadInput
from relax.jobs import toml
from relax.jobs.toml.changes import changed
from relax.jobs.toml.writing import written

COMM = MPI.COMM_WORLD


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("prior.length=0.3", 0.3),
        (" data . seed = 4 ", 4),
        ("data.file=runs/today.csv", "runs/today.csv"),
        ("data.truth=[0.5, 1.0]", [0.5, 1.0]),
        ('data.truth="true"', "true"),
        ("solver.storage={ schedule = 'disk' }", {"schedule": "disk"}),
        ("pde.dirichlet.left=1.0", 1.0),
        ('pde.dirichlet."upper rim"=-1', -1),
        ("pde.dirichlet.3=1e-3", 1e-3),
        ("pde.flag=true", True),
        ("pde.expression=a=b", "a=b"),
        # Neither ends a value that is there, nor begins another.
        ("pde.word=3 # of 4", "3 # of 4"),
        ("pde.word=1\nother = 2", "1\nother = 2"),
        ("pde.word=1, 2", "1, 2"),
        ("pde.word=" + "9" * 5000, "9" * 5000),
    ],
)
def test_a_value_is_that_of_toml_or_a_bare_word(setting: str, value: object) -> None:
    before: dict[str, Any] = {"data": {"seed": 1, "noise": 0.1}, "pde": {"dirichlet": {"left": 0.0, "right": 2.0}}}
    keys = next(iter(_paths(tomllib.loads(setting.partition("=")[0] + "= 0"))))
    after = changed(before, [setting])
    found: Any = after
    for key in keys:
        found = found[key]
    assert found == value and type(found) is type(value)
    assert before["data"] == {"seed": 1, "noise": 0.1} and after["pde"]["dirichlet"]["right"] == 2.0


def _paths(tables: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (key, *rest) for key, inner in tables.items() for rest in (_paths(inner) if isinstance(inner, dict) else [()])
    ]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        *(
            ([setting], "expected a table, a key and a value")
            for setting in (
                "",
                "=",
                "a.b",
                "a.b=",
                "a.b= ",
                "=3",
                ".b=3",
                "a.=3",
                "a=3",
                "a b.c=3",
                "[a]=3",
                "a\nb.c=3",
            )
        ),
        (["a.b=3", "a.b=4"], "a.b is there twice"),
        (["data.noise.left=3"], "data.noise is no table in this job, it is 0.1"),
        (["a.b=[1, 2"], "is no value of TOML"),
        (["a.b='c"], "is no value of TOML"),
        (["a.b=" + "[" * 3000], "is no value of TOML"),
        (["a.b=\udcff"], "in UTF-8"),
    ],
)
def test_what_is_no_setting_is_refused(settings: list[str], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        changed({"data": {"noise": 0.1}}, settings)


def test_what_is_written_reads_as_it_was() -> None:
    """Of 300 random tables, with keys and words that need quotes and escapes."""
    chance = random.Random(1)
    letters = "ab_-9 .=#'\"[]{}\\\n\t\x00\x1f\x7f\x85\u2028é😀"

    def word() -> str:
        return "".join(chance.choices(letters, k=chance.randrange(6)))

    def number() -> float:
        return chance.choice([0.0, -0.0, 1e-300, 1e22, 0.1 + 0.2, 5e-324, float("inf"), chance.uniform(-9, 9)])

    def value(depth: int) -> Any:
        of = [word, number, lambda: chance.randrange(-(2**63), 2**63), lambda: chance.random() < 0.5]
        if depth:
            of += [lambda: [value(depth - 1) for _ in range(chance.randrange(4))], lambda: table(depth - 1)]
        return chance.choice(of)()

    def table(depth: int) -> dict[str, Any]:
        return {word(): value(depth) for _ in range(chance.randrange(5))}

    for _ in range(300):
        tables = table(3)
        assert repr(_sorted(tomllib.loads(written(tables)))) == repr(_sorted(tables)), written(tables)


def _sorted(node: Any) -> Any:
    """Without the order of keys, in which tables come last."""
    return {key: _sorted(node[key]) for key in sorted(node)} if isinstance(node, dict) else node


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("prior.lenght=0.3", r"\[prior\] lenght: unknown key; did you mean 'length'"),
        ("priro.length=0.3", r"\[priro\]: unknown table; did you mean 'prior'"),
        ("prior.length=long", r"\[prior\] length: expected a number, got 'long'"),
        ("prior.length=0,3", r"\[prior\] length: expected a number, got '0,3'"),
        ("method.name=lbfg", "did you mean 'lbfgs'"),
        ("target.state=1", r"expected one of them"),
    ],
)
def test_a_setting_is_checked_as_the_file_is(tmp_path: Path, setting: str, words: str) -> None:
    (tmp_path / "job.toml").write_text(FEW)
    with pytest.raises(BadInput, match=rf"(?s)job\.toml --set {setting}: a mistake.*{words}"):
        toml.read(tmp_path / "job.toml", [setting])


@pytest.mark.slow
@pytest.mark.ranks(1, 2)
def test_a_run_is_of_the_job_that_was_set(shared_tmp: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its copy says so, so that `--resume` compares with it."""
    job = jobs.write(shared_tmp / "job.toml", FEW)
    words = ["run", str(job), "--output", str(shared_tmp / "out")]
    settings = ["--set", "prior.length=0.3", "--set", "data.seed=4", "--set", "method.max_steps=1"]
    assert cli.execute([*words, *settings, "--set", "pde.dirichlet.left=1.0"]) == 3
    ran = toml.read(shared_tmp / "out" / "job.toml").job
    assert ran.prior.length == 0.3 and ran.data.seed == 4 and ran.pde.keywords["dirichlet"] == {"left": 1.0}
    assert ran.prior.std == toml.parse(FEW).prior.std
    capfd.readouterr()
    assert cli.execute([*words, *settings, "--resume"]) == 2
    assert "[pde] is not what it was" in capfd.readouterr().err or COMM.rank > 0
    # What is free on a resumption is free to be set.
    again = ["--set", "prior.length=0.3", "--set", "data.seed=4", "--set", "pde.dirichlet.left=1.0"]
    assert cli.execute([*words, *again, "--set", "method.max_steps=50", "--resume"]) == 0
    for wrong in ("prior.length", "=1", "prior.lenght=1"):
        capfd.readouterr()
        assert cli.execute([*words, "--set", wrong]) == 2
        assert f"--set {wrong}: " in capfd.readouterr().err or COMM.rank > 0
