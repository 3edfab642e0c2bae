"""The rules of the tree: who imports whom, who alone may touch DOLFINx's version, PETSc's options, MPI, settings."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import relax

ROOT = Path(relax.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
IDS = [str(path.relative_to(ROOT)) for path in FILES]

# Each group imports only from itself and from groups above it.
GROUPS = {
    "foundation": "_compat _petsc errors log parallel parallel_start layout linear cache",
    "description": "meshes boundary coefficients problem observe quadrature forms pdes",
    "solution": "solver boundary_map residual symmetry factors sensitivity linearization samples reduced verify",
    "use": "prior invert layer teams output plot slices tables job case truths progress ending checking run info "
    "cli __main__",
}
RANK_OF = {name: rank for rank, names in enumerate(GROUPS.values()) for name in names.split()}
GROUP_OF = {name: group for group, names in GROUPS.items() for name in names.split()}

REDUCTIONS = set(
    "allreduce Allreduce Iallreduce allgather Allgather Allgatherv Iallgather alltoall Alltoall Alltoallv bcast Bcast "
    "Ibcast Barrier barrier Ibarrier Reduce Gather Gatherv Scatter Scatterv exscan Exscan Scan reduce_scatter".split()
)
# These names are methods of other things, too: with the name of a communicator before them they are MPI's.
AMBIGUOUS = set("gather scatter reduce scan".split())


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def module_of(path: Path) -> str:
    """``relax/observe/points.py`` is "observe", ``relax/layout.py`` "layout", ``relax/__init__.py`` "relax"."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "relax" if parts == ("__init__",) else parts[0]


def imports(tree: ast.Module, *, of_types: bool = False) -> list[tuple[int, str]]:
    """(line, dotted name) of everything imported, also inside functions; not what only type checkers see."""
    found = []
    unseen = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not of_types:
            unseen |= {id(below) for statement in node.body for below in ast.walk(statement)}
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def attributes(tree: ast.Module) -> list[tuple[int, str, str]]:
    """(line, what stands before the dot, name) of every attribute."""
    return [
        (node.lineno, ast.unparse(node.value), node.attr) for node in ast.walk(tree) if isinstance(node, ast.Attribute)
    ]


def test_every_module_has_a_group():
    unknown = {module_of(path) for path in FILES} - set(RANK_OF) - {"relax"}
    assert not unknown, f"give these a place in GROUPS: {sorted(unknown)}"


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_groups_import_only_from_above(path):
    """Foundation knows no PDE, description no solver, solution no use of it. ``relax/__init__.py`` is below all."""
    me = module_of(path)
    if me == "relax":
        return
    for line, name in imports(parsed(path)):
        parts = name.split(".")
        if parts[0] != "relax" or len(parts) < 2 or parts[1] not in RANK_OF:
            continue
        assert RANK_OF[parts[1]] <= RANK_OF[me], (
            f"line {line}: {me} ({GROUP_OF[me]}) imports {name} ({GROUP_OF[parts[1]]})"
        )


@pytest.mark.parametrize("path", [p for p in FILES if module_of(p) == "pdes"], ids=lambda p: p.name)
def test_equations_see_only_the_description(path):
    """A PDE is mathematics: no solver, no map, no PETSc."""
    allowed = {name for name in RANK_OF if GROUP_OF[name] == "description"} | {"parallel", "errors", "_compat"}
    for line, name in imports(parsed(path)):
        parts = name.split(".")
        assert parts[0] != "petsc4py", f"line {line}: {name}"
        assert parts[0] != "relax" or parts[1] in allowed, f"line {line}: {name}"


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_torch_stays_where_it_belongs(path):
    """Only the layer, training and relaxation import torch: the engine works without it."""
    if module_of(path) in ("layer", "train", "relaxation"):
        return
    found = [line for line, name in imports(parsed(path)) if name.split(".")[0] == "torch"]
    assert not found, f"lines {found}"


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_only_compat_asks_for_the_version(path):
    if module_of(path) == "_compat":
        return
    for line, before, name in attributes(parsed(path)):
        version = name in ("__version__", "_version") and before.split(".")[0] in ("dolfinx", "ufl", "basix", "ffcx")
        assert not version, f"line {line}: {before}.{name}"
    for line, name in imports(parsed(path)):
        assert name not in ("dolfinx.__version__", "packaging.version"), f"line {line}: {name}"


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_only_petsc_touches_the_options(path):
    """PETSc's database is global: one file inserts, reads and removes."""
    if module_of(path) == "_petsc":
        return
    for line, before, name in attributes(parsed(path)):
        assert not (name == "Options" and before.endswith("PETSc")), f"line {line}: {before}.{name}"
        assert name not in ("insertString", "setValue", "delValue"), f"line {line}: {before}.{name}"


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_only_parallel_and_layout_talk_to_other_ranks(path):
    """A collective call under a condition is a hang: they are in two files, behind functions that say "Collective."."""
    if module_of(path) in ("parallel", "layout"):
        return
    for line, before, name in attributes(parsed(path)):
        communicator = before.lower().rstrip("()").endswith(("comm", "comm_world", "comm_self", "private"))
        assert name not in REDUCTIONS, f"line {line}: {before}.{name}"
        assert not (name in AMBIGUOUS and communicator), f"line {line}: {before}.{name}"


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_only_job_and_cli_read_settings(path):
    """Core code never sees a dictionary of settings."""
    if module_of(path) in ("job", "cli"):
        return
    readers = {"tomllib", "tomli", "toml", "yaml", "configparser", "argparse", "click", "typer", "pydantic"}
    found = [(line, name) for line, name in imports(parsed(path)) if name.split(".")[0] in readers]
    assert not found


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_files_are_short(path):
    """A longer one is split beside itself."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.one_rank
@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import relax", ["dolfinx", "torch", "petsc4py", "mpi4py", "numpy", "matplotlib", "typer"]),
        (
            "from relax import ReducedMap, PointValues, check_map, gauss_newton",
            ["torch", "matplotlib", "typer", "pydantic"],
        ),
        ("import relax.cli", ["dolfinx", "torch", "petsc4py", "mpi4py", "matplotlib"]),
    ],
)
def test_imports_are_cheap(statement, absent):
    """`relax --help` works where DOLFINx is missing, and torch is loaded by those who use it."""
    script = f"import sys\n{statement}\nprint([m for m in {absent!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_public_names():
    """Every name that the package promises is there."""
    for name in relax.__all__:
        if name != "SolutionLayer":
            assert getattr(relax, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Solver'"):
        _ = relax.Solver
