"""The rules of the tree: who imports whom, who alone may touch DOLFINx's version, PETSc's options, MPI, settings."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

import relax
from relax.base import lazy

ROOT = Path(relax.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8"), filename=str(path)) for path in FILES}

# A package imports from itself and from those above it; the ones on a line do not know each other.
PACKAGES = """
errors
base
meshes observe
problem
pdes
engine
invert layer
discovery relaxation symbolic train
jobs bridges
cli
__main__
"""
FLOOR = {name: i for i, line in enumerate(PACKAGES.strip().splitlines()) for name in line.split()}

REDUCTIONS = set(
    "allreduce Allreduce Iallreduce allgather Allgather Allgatherv Iallgather alltoall Alltoall Alltoallv bcast Bcast "
    "Ibcast Barrier barrier Ibarrier Reduce Gather Gatherv Scatter Scatterv exscan Exscan Scan reduce_scatter".split()
)
# These names are methods of other things, too: with the name of a communicator before them they are MPI's.
AMBIGUOUS = set("gather scatter reduce scan".split())


def module_of(path: Path) -> str:
    """``relax/observe/points.py`` is "observe.points", ``relax/observe/__init__.py`` "observe", relax's own ""."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def package_of(module: str) -> str:
    return module.partition(".")[0]


def inside(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def imports(tree: ast.Module) -> list[tuple[int, str]]:
    """(line, dotted name) of everything imported, also inside functions and for type checkers alone."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            names += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return names


def imported_modules(tree: ast.Module) -> list[tuple[int, str]]:
    """(line, module of relax) of what is imported from relax; its package's face where that hands a name on."""
    modules = []
    for line, name in imports(tree):
        if name.split(".")[0] == "relax":
            below = name.removeprefix("relax").removeprefix(".")
            modules.append((line, below if below in MODULES else below.rpartition(".")[0]))
    return modules


def attributes(tree: ast.Module) -> list[tuple[int, str, str]]:
    """(line, what stands before the dot, name) of every attribute."""
    return [
        (node.lineno, ast.unparse(node.value), node.attr) for node in ast.walk(tree) if isinstance(node, ast.Attribute)
    ]


def test_every_module_has_a_floor():
    unknown = {package_of(module) for module in MODULES} - set(FLOOR) - {""}
    assert not unknown, f"give these a place in PACKAGES: {sorted(unknown)}"
    assert {path.stem for path in ROOT.glob("*.py")} == {"__init__", "__main__", "cli", "errors"}


def test_no_two_files_import_each_other():
    """Neither directly nor around a circle, not inside functions, not for type checkers alone."""
    below = {module: {m for _, m in imported_modules(TREES[path])} for module, path in MODULES.items()}
    while leaves := [module for module, needed in below.items() if not needed & set(below)]:
        for module in leaves:
            del below[module]
    assert not below, f"on a circle, or standing on one: {sorted(below)}"


# -- the rules: each gives the violations of one file ------------------------------------------------------------------


def packages_import_only_from_below(me, tree):
    """``relax/__init__.py`` stands on all of them, when a name is first used; jobs and cli ask it for the version."""
    for line, module in imported_modules(tree):
        mine, other = package_of(me), package_of(module)
        if me and (mine not in ("jobs", "cli") if not module else mine != other and FLOOR[other] >= FLOOR[mine]):
            yield line, f"{me} imports {module or 'relax itself'}"


def a_face_hands_names_on(me, tree):
    """An ``__init__.py`` imports and lists; the files of a package import each other's files, not the face."""
    is_face = me in MODULES and MODULES[me].name == "__init__.py"
    if is_face and me:
        for node in tree.body:
            lists = isinstance(node, ast.Assign) and "__all__" in ast.unparse(node.targets[0])
            says = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if not (isinstance(node, ast.Import | ast.ImportFrom) or lists or says):
                yield node.lineno, ast.unparse(node).splitlines()[0]
    for line, module in imported_modules(tree):
        if not is_face and module and MODULES[module].name == "__init__.py" and inside(me, module):
            yield line, f"{me} imports from the face of its own package {module}"


def equations_see_only_the_description(me, tree):
    """A PDE is mathematics: no solver, no map, no PETSc."""
    for line, name in imports(tree) if inside(me, "pdes", "problem") else []:
        is_solver = name.startswith(("relax.base.la.", "relax.base.fem.pencil"))
        if name.split(".")[0] in ("petsc4py", "slepc4py") or is_solver and me != EIGENSTATES:
            yield line, name


# Its function returns eigenpairs, so it solves.
EIGENSTATES = "pdes.schrodinger.eigenstates"


def torch_stays_where_it_belongs(me, tree):
    """The engine works without it; ``base`` reaches it through ``sys.modules``."""
    if not inside(me, "layer", "train", "relaxation"):
        yield from ((line, name) for line, name in imports(tree) if name.split(".")[0] == "torch")


def only_compat_asks_for_the_version(me, tree):
    if me == "base.fem.compat":
        return
    for line, before, name in attributes(tree):
        if name in ("__version__", "_version") and before.split(".")[0] in ("dolfinx", "ufl", "basix", "ffcx"):
            yield line, f"{before}.{name}"
    for line, name in imports(tree):
        if name in ("dolfinx.__version__", "packaging.version"):
            yield line, name


def only_options_touches_the_options(me, tree):
    """PETSc's database is global: one file inserts, reads and removes."""
    if me == "base.la.options":
        return
    for line, before, name in attributes(tree):
        if (name == "Options" and before.endswith("PETSc")) or name in ("insertString", "setValue", "delValue"):
            yield line, f"{before}.{name}"


def only_parallel_and_layout_talk_to_other_ranks(me, tree):
    """A collective call under a condition is a hang: they are in two files, behind functions that say "Collective."."""
    if me in ("base.parallel", "base.fem.layout"):
        return
    for line, before, name in attributes(tree):
        communicator = before.lower().rstrip("()").endswith(("comm", "comm_world", "comm_self", "private"))
        if name in REDUCTIONS or (name in AMBIGUOUS and communicator):
            yield line, f"{before}.{name}"


def only_jobs_read_settings(me, tree):
    """Core code never sees a dictionary of settings."""
    readers = {"tomllib", "tomli", "toml", "yaml", "configparser", "argparse", "click", "typer", "pydantic"}
    is_kind = me.startswith("jobs.") and me.endswith(".job")
    if not (inside(me, "jobs.toml", "cli") or is_kind):
        yield from ((line, name) for line, name in imports(tree) if name.split(".")[0] in readers)


def nothing_happens_when_python_collects(me, tree):
    """Ranks collect garbage at different moments: collective work in `__del__` or a finaliser deadlocks.

    What asks PETSc's options at the end speaks to no rank; where the ranks of a script meet, each comes once.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "__del__":
            yield node.lineno, "__del__"
    may_end = me in ("base.ending", "base.la.options")
    for line, before, name in attributes(tree):
        if (before, name) == ("weakref", "finalize") or (before == "atexit" and not may_end):
            yield line, f"{before}.{name}"
    for line, name in imports(tree):
        if name == "weakref.finalize" or (name.split(".")[0] == "atexit" and not may_end):
            yield line, name


def arrays_are_defined_once(me, tree):
    """``base/types.py`` has them."""
    for node in ast.walk(tree) if me != "base.types" else []:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(ast.unparse(target) in ("Array", "Indices", "Tensor") for target in targets):
            yield node.lineno, ast.unparse(node)


def nothing_is_imported_for_type_checkers_alone(me, tree):
    """A stub beside a face lists its names; elsewhere such an import is two files that know each other."""
    yield from ((line, name) for line, name in imports(tree) if name == "typing.TYPE_CHECKING")
    yield from ((at.lineno, at.attr) for at in ast.walk(tree) if getattr(at, "attr", "") == "TYPE_CHECKING")


# What each rule must see, in which module.
RULES = {
    packages_import_only_from_below: ("base.fem.layout", "from relax.engine.reduced import ReducedMap"),
    a_face_hands_names_on: ("observe.points", "from relax.observe import Observable"),
    equations_see_only_the_description: ("pdes.heat", "def f():\n    from petsc4py import PETSc"),
    torch_stays_where_it_belongs: ("engine.reduced", "import torch.nn as nn"),
    only_compat_asks_for_the_version: ("jobs.info", "import dolfinx\ndolfinx.__version__"),
    only_options_touches_the_options: ("engine.solve.state", "PETSc.Options()"),
    only_parallel_and_layout_talk_to_other_ranks: ("jobs.folder", "V.mesh.comm.gather(1)"),
    only_jobs_read_settings: ("jobs.session", "import tomllib"),
    nothing_happens_when_python_collects: ("base.la.factors", "class F:\n    def __del__(self): pass"),
    arrays_are_defined_once: ("engine.reduced", "Array = npt.NDArray[np.float64]"),
    nothing_is_imported_for_type_checkers_alone: ("engine.reduced", "from typing import TYPE_CHECKING"),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rules(rule):
    module, wrong = RULES[rule]
    assert list(rule(module, ast.parse(wrong))), "the rule sees nothing"
    violations = [
        f"{path.relative_to(ROOT)}:{line}: {what}"
        for path in FILES
        for line, what in rule(module_of(path), TREES[path])
    ]
    assert not violations, "\n".join([rule.__doc__ or rule.__name__, *violations])


def test_class_names_occur_once():
    names = Counter(node.name for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    assert not [name for name, count in names.items() if count > 1]


def test_files_are_short():
    """A longer one is split beside itself."""
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {name: length for name, length in lengths.items() if length > 400}


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


# What a user may rely on: names, and the modules they come from.
PUBLIC = {
    "relax": {
        "relax": "discovery errors invert meshes observe pdes relaxation symbolic train",
        "relax.base.checkpoint": "Checkpoint",
        "relax.base.fem.coefficients": "interpolated",
        "relax.base.la.options": "AMG_CG AMG_GMRES DIRECT DIRECT_SYMMETRIC NEWTON",
        "relax.base.teams": "Teams",
        "relax.bridges": "jax umbridge",
        "relax.engine.controls": "control_values",
        "relax.engine.dual_weighted": "ErrorEstimate dual_weighted_residual",
        "relax.engine.eigen": "EigenMap",
        "relax.engine.experiments": "Experiments",
        "relax.engine.linearization": "Linearization",
        "relax.engine.reduced": "ReducedMap",
        "relax.engine.solve.newton": "Newton",
        "relax.engine.verify": "MapReport check_map",
        "relax.errors": "BadInput BadProblem CheckFailed NotConverged PointsOutsideMesh RelaxError SolveFailed",
        "relax.invert": "Cost Misfit Result Stats Status gauss_newton lbfgs minimize",
        "relax.invert.priors": "BlockPrior FormPrior IdentityPrior PinnedPrior SmoothnessPrior TimePrior "
        "TotalVariation",
        "relax.jobs.view.picture": "picture",
        "relax.layer": "ComplexLayer LearnedCoefficient ResidualLoss SolutionLayer graph",
        "relax.observe": "AtSteps ExpressionField ExpressionValues FieldValues Functional Observable PointValues Stack "
        "TimeIntegral fill",
        "relax.problem": "Continuation Evolution PointSource Problem Substitution clamp clamp_boundary pieces "
        "newmark_evolution rigid_body_modes theta_evolution",
        "relax.relaxation": "ElasticSGD EntropySGD HamiltonJacobi HeatSmoothing Parle ProximalPoint "
        "RelaxedLandscape SGLD",
        "relax.train": "HalfInverse gauss_newton_inverse lbfgs_inverse physical_gradient",
        "relax.train.aeqprop": "Energy",
    },
    "relax.bridges": {"relax.bridges": "jax umbridge"},
    "relax.discovery": {
        "relax.base.fem.unknown": "unknown",
        "relax.discovery.compact": "Bumps bumps",
        "relax.discovery.data": "samples",
        "relax.discovery.fields": "FieldPosterior",
        "relax.discovery.found": "Found System",
        "relax.discovery.joint": "Candidate rank_by_bic",
        "relax.discovery.library": "test",
        "relax.discovery.refine": "Refined",
        "relax.discovery.search": "null_space",
    },
    "relax.relaxation": {
        "relax.relaxation": "cole_hopf control gallery optim",
        "relax.relaxation.envelope": "HopfLax hopf_lax",
        "relax.relaxation.fokker_planck": "Densities density",
        "relax.relaxation.landscape": "Descent Minimisers RelaxedLandscape",
        "relax.relaxation.misfit": "RelaxedMisfit relax_misfit",
        "relax.relaxation.posterior": "Posterior",
        "relax.relaxation.optim": "ElasticSGD EntropySGD HamiltonJacobi HeatSmoothing Parle ProximalPoint SGLD "
        "beta_from_eps refresh_batch_norm t_from_spring",
        "relax.relaxation.spectrum": "HessianSpectrum hessian_spectrum",
        "relax.relaxation.thermodynamic": "local_entropy",
    },
    "relax.symbolic": {
        "relax.base.fem.unknown": "unknown",
        "relax.symbolic.closed_form": "CandidateFormula SymbolicSolution solve",
    },
    "relax.train": {
        "relax.train.aeqprop": "Aeqprop SettlingReport",
        "relax.train.closed_loop": "ClosedLoop LoopReport OneStep one_step",
        "relax.train.half_inverse": "HalfInverse StepReport",
        "relax.train.inverses": "MapInverse gauss_newton_inverse heat_inverse lbfgs_inverse over_teams poisson_inverse",
        "relax.train.paths": "PathPosterior SDELayer",
        "relax.train.physical": "LocalInverse physical_gradient",
    },
}


@pytest.mark.parametrize("package", PUBLIC)
def test_public_names(package):
    """Every name that the package promises is there, and comes from where it says."""
    module, homes = (
        importlib.import_module(package),
        {n: h for h, names in PUBLIC[package].items() for n in names.split()},
    )
    assert lazy.names(package) == homes
    assert set(module.__all__) == set(homes) | ({"init"} if package == "relax" else set())
    for name in module.__all__:
        # torch is an extra; DOLFINx's wheel comes without it.
        if find_spec("torch") or name in PUBLIC["relax"]["relax"].split():
            assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Solver'"):
        _ = module.Solver
