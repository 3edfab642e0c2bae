"""Every import is declared in pyproject.toml, and everything declared is imported."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# What comes with DOLFINx, whichever way that came.
WITH_DOLFINX = {"dolfinx", "dolfinx_solver", "ufl", "basix", "ffcx", "petsc4py", "slepc4py", "mpi4py"}
# Modules of a distribution with another name: pydantic pins its core to the very version.
DISTRIBUTION = {"checkpoint_schedules": "checkpoint-schedules", "pydantic_core": "pydantic"}
# Programs, and what relax finds without an import statement.
NOT_IMPORTED = {"dolfinx-solver-real"}
# What is used where it happens to be installed, inside a function, and asked for by nothing: gplearn does not import
# beside the scikit-learn of Debian 13.
WHERE_INSTALLED = {"gplearn"}


def distribution(requirement: str) -> str:
    """ "pydantic>=2; python_version > '3'" is "pydantic"."""
    return requirement.split(";")[0].split("[")[0].strip(" <>=!~.,0123456789")


def imported(tree: ast.Module) -> set[str]:
    """Top names of all modules that are imported, also inside functions, that are neither Python's nor relax."""
    modules = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    modules += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[0] for name in modules} - sys.stdlib_module_names - {"relax", "__future__"}


def unconditional(tree: ast.Module) -> set[str]:
    """As :func:`imported`, of statements at the top of the file."""
    body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    return imported(ast.Module(body, []))


def trees(folder: str = "relax") -> list[tuple[Path, ast.Module]]:
    return [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in sorted((TOP / folder).rglob("*.py"))]


DEPENDENCIES = {distribution(words) for words in PROJECT["dependencies"]}
EXTRAS = {
    distribution(words)
    for extra, requirements in PROJECT["optional-dependencies"].items()
    for words in requirements
    if extra != "dev"
}


def test_requirements_are_read():
    assert distribution("a-b[c]>=2.5,<3; python_version >= '3.12'") == "a-b"
    assert imported(ast.parse("import os, a.b\ndef f():\n    from c.d import e\nfrom relax import x")) == {"a", "c"}
    assert {"numpy", "typer"} <= DEPENDENCIES and {"torch", "matplotlib"} <= EXTRAS


def test_every_import_is_declared():
    """An installation has what pyproject.toml names and nothing that one of these happens to bring along today."""
    undeclared = {
        f"{path.relative_to(TOP)}: {name}"
        for path, tree in trees()
        for name in imported(tree) - WITH_DOLFINX - (WHERE_INSTALLED - unconditional(tree))
        if DISTRIBUTION.get(name, name) not in DEPENDENCIES | EXTRAS
    }
    assert not undeclared


def test_what_is_declared_is_imported():
    used = {DISTRIBUTION.get(name, name) for _, tree in trees() for name in imported(tree)}
    assert (DEPENDENCIES | EXTRAS) - used == NOT_IMPORTED


def test_the_command_line_needs_no_extra():
    """`relax --help` and `relax info` answer after a plain `pip install .`: no extra, and no DOLFINx, at the top."""
    start = {TOP / "relax" / name for name in ("__init__.py", "__main__.py", "cli.py", "jobs/info.py", "base/start.py")}
    found = {path: unconditional(tree) for path, tree in trees() if path in start}
    assert len(found) == len(start)
    assert set().union(*found.values()) <= DEPENDENCIES
