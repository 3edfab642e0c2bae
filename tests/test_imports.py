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
TREES = {path: ast.parse(path.read_text(encoding="utf-8"), filename=str(path)) for path in FILES}

# Each group imports only from itself and from groups above it.
GROUPS = {
    "foundation": "_compat _petsc errors log parallel parallel_start layout linear eigensolver cache lazy",
    "description": "meshes boundary coefficients continuation substitution problem evolution theta observe quadrature "
    "forms pdes",
    "solution": "weak solver boundary_map residual symmetry packing factors point sensitivity operators forward "
    "parameters linearization steady march samples reduced dense verify eigenmap",
    "use": "prior invert torch_threads layer complex_layer teams relaxation train output fields series plot slices "
    "tables job case truths progress ending checking report run info cli __main__",
}
RANK_OF = {name: rank for rank, names in enumerate(GROUPS.values()) for name in names.split()}
GROUP_OF = {name: group for group, names in GROUPS.items() for name in names.split()}

REDUCTIONS = set(
    "allreduce Allreduce Iallreduce allgather Allgather Allgatherv Iallgather alltoall Alltoall Alltoallv bcast Bcast "
    "Ibcast Barrier barrier Ibarrier Reduce Gather Gatherv Scatter Scatterv exscan Exscan Scan reduce_scatter".split()
)
# These names are methods of other things, too: with the name of a communicator before them they are MPI's.
AMBIGUOUS = set("gather scatter reduce scan".split())


def module_of(path: Path) -> str:
    """``relax/observe/points.py`` is "observe", ``relax/layout.py`` "layout", ``relax/__init__.py`` "relax"."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "relax" if parts == ("__init__",) else parts[0]


def imports(tree: ast.Module) -> list[tuple[int, str]]:
    """(line, dotted name) of everything imported, also inside functions; not what only type checkers see."""
    found = []
    unseen = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
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


# -- the rules: each gives the violations of one file ------------------------------------------------------------------


def groups_import_only_from_above(me, tree):
    """Foundation knows no PDE, description no solver, solution no use of it. ``relax/__init__.py`` is below all."""
    for line, name in imports(tree):
        parts = name.split(".")
        if me == "relax" or parts[0] != "relax" or len(parts) < 2 or parts[1] not in RANK_OF:
            continue
        if RANK_OF[parts[1]] > RANK_OF[me]:
            yield line, f"{me} ({GROUP_OF[me]}) imports {name} ({GROUP_OF[parts[1]]})"


def equations_see_only_the_description(me, tree):
    """A PDE is mathematics: no solver, no map, no PETSc."""
    allowed = {name for name in RANK_OF if GROUP_OF[name] == "description"}
    allowed |= {"parallel", "errors", "_compat", "eigensolver"}
    for line, name in imports(tree) if me == "pdes" else []:
        parts = name.split(".")
        if parts[0] == "petsc4py" or (parts[0] == "relax" and parts[1] not in allowed):
            yield line, name


def torch_stays_where_it_belongs(me, tree):
    """Only the layers, training and relaxation import torch: the engine works without it."""
    if me not in ("torch_threads", "layer", "complex_layer", "train", "relaxation"):
        yield from ((line, name) for line, name in imports(tree) if name.split(".")[0] == "torch")


def only_compat_asks_for_the_version(me, tree):
    if me == "_compat":
        return
    for line, before, name in attributes(tree):
        if name in ("__version__", "_version") and before.split(".")[0] in ("dolfinx", "ufl", "basix", "ffcx"):
            yield line, f"{before}.{name}"
    for line, name in imports(tree):
        if name in ("dolfinx.__version__", "packaging.version"):
            yield line, name


def only_petsc_touches_the_options(me, tree):
    """PETSc's database is global: one file inserts, reads and removes."""
    if me == "_petsc":
        return
    for line, before, name in attributes(tree):
        if (name == "Options" and before.endswith("PETSc")) or name in ("insertString", "setValue", "delValue"):
            yield line, f"{before}.{name}"


def only_parallel_and_layout_talk_to_other_ranks(me, tree):
    """A collective call under a condition is a hang: they are in two files, behind functions that say "Collective."."""
    if me in ("parallel", "layout"):
        return
    for line, before, name in attributes(tree):
        communicator = before.lower().rstrip("()").endswith(("comm", "comm_world", "comm_self", "private"))
        if name in REDUCTIONS or (name in AMBIGUOUS and communicator):
            yield line, f"{before}.{name}"


def only_job_and_cli_read_settings(me, tree):
    """Core code never sees a dictionary of settings."""
    readers = {"tomllib", "tomli", "toml", "yaml", "configparser", "argparse", "click", "typer", "pydantic"}
    if me not in ("job", "cli"):
        yield from ((line, name) for line, name in imports(tree) if name.split(".")[0] in readers)


def nothing_happens_when_python_collects(me, tree):
    """Ranks collect garbage at different moments: collective work in `__del__` or a finaliser deadlocks."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "__del__":
            yield node.lineno, "__del__"
    for line, before, name in attributes(tree):
        if (before, name) == ("weakref", "finalize") or before == "atexit":
            yield line, f"{before}.{name}"
    for line, name in imports(tree):
        if name == "weakref.finalize" or name.split(".")[0] == "atexit":
            yield line, name


# What each rule must see, in which module.
RULES = {
    groups_import_only_from_above: ("layout", "from relax.reduced import ReducedMap"),
    equations_see_only_the_description: ("pdes", "def f():\n    from petsc4py import PETSc"),
    torch_stays_where_it_belongs: ("reduced", "import torch.nn as nn"),
    only_compat_asks_for_the_version: ("info", "import dolfinx\ndolfinx.__version__"),
    only_petsc_touches_the_options: ("solver", "PETSc.Options()"),
    only_parallel_and_layout_talk_to_other_ranks: ("output", "V.mesh.comm.gather(1)"),
    only_job_and_cli_read_settings: ("run", "import tomllib"),
    nothing_happens_when_python_collects: ("factors", "class F:\n    def __del__(self): pass"),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rules(rule):
    module, wrong = RULES[rule]
    assert list(rule(module, ast.parse(wrong))), "the rule sees nothing"
    found = [
        f"{path.relative_to(ROOT)}:{line}: {what}"
        for path in FILES
        for line, what in rule(module_of(path), TREES[path])
    ]
    assert not found, "\n".join([rule.__doc__ or rule.__name__, *found])


def test_files_are_short():
    """A longer one is split beside itself."""
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {name: length for name, length in lengths.items() if length > 400}


@pytest.mark.one_rank
@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import relax", ["dolfinx", "torch", "petsc4py", "mpi4py", "numpy", "matplotlib", "typer"]),
        (
            "from relax import ReducedMap, PointValues, check_map, gauss_newton",
            ["torch", "matplotlib", "typer", "pydantic"],
        ),
        # Not every DOLFINx comes with SLEPc, nor with checkpoint_schedules: only those who use them need them.
        ("import relax; relax.pdes, relax.EigenMap, relax.ReducedMap", ["slepc4py", "checkpoint_schedules", "torch"]),
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
        if name not in ("SolutionLayer", "ComplexLayer"):
            assert getattr(relax, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Solver'"):
        _ = relax.Solver
