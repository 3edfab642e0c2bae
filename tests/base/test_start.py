"""What happens before DOLFINx is imported, and which DOLFINx is refused: with packages that stand in for the wheel."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import scripts

TOP = Path(__file__).resolve().parents[2]


def run(folder: Path, statements: str, **packages: str):
    """Run statements in a Python that finds packages with these texts before any other."""
    for name, text in packages.items():
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(text)
    return scripts.python("-c", statements, cwd=folder, environment={"PYTHONPATH": f"{folder}:{TOP}"})


@pytest.mark.parametrize(
    ("statements", "printed"),
    [
        ("import relax", ""),
        ("import relax\nimport dolfinx", "solver dolfinx"),
        ("import relax\nimport petsc4py, dolfinx", "solver petsc4py dolfinx"),
        ("import relax\nimport slepc4py", "solver slepc4py"),
        ("import relax.base.start\nimport dolfinx", "solver dolfinx"),
        ("from relax import cli\nfrom relax.jobs import info\nimport dolfinx, petsc4py", "solver dolfinx petsc4py"),
    ],
)
def test_the_wheel_is_prepared_before_dolfinx(tmp_path, statements, printed):
    """`import relax` above DOLFINx is enough, and loads nothing by itself."""
    here = {name: f"print({name!r})" for name in ("dolfinx", "petsc4py", "slepc4py")}
    # The wheel looks where petsc4py would come from, in the middle of the search for it.
    solver = "from importlib.util import find_spec\nassert find_spec('petsc4py').origin\nprint('solver')"
    done = run(tmp_path, statements, dolfinx_solver=solver, **here)
    assert (done.stdout.split(), done.returncode) == (printed.split(), 0), done.stderr


@pytest.mark.skipif(find_spec("dolfinx_solver") is not None, reason="DOLFINx is the wheel's here")
def test_nothing_is_prepared_for_another_dolfinx(tmp_path):
    """Without the wheel, importing DOLFINx imports DOLFINx: MPI stays where its own bindings load it."""
    done = run(tmp_path, "import sys, relax, dolfinx\nprint('mpi4py.MPI' in sys.modules)", dolfinx="print('dolfinx')")
    assert done.stdout.split() == ["dolfinx", "False"]


def test_threads_are_settled_before_the_wheel_loads_its_libraries(tmp_path):
    solver = "import os\nprint(os.environ.get('OMP_NUM_THREADS'))"
    script = "import os\nos.environ.pop('OMP_NUM_THREADS', None)\nos.environ['PMI_SIZE'] = '2'\nimport relax, dolfinx"
    assert run(tmp_path, script, dolfinx_solver=solver, dolfinx="").stdout.split() == ["1"]


def test_what_the_wheel_refuses_is_told(tmp_path):
    """The wheel looks for another petsc4py and MPI; its words reach the user."""
    refusal = "raise ImportError('a second PETSc')"
    done = run(tmp_path, "import relax, dolfinx", dolfinx_solver=refusal, dolfinx="print('too late')")
    assert done.returncode == 1 and done.stdout == "" and "ImportError: a second PETSc" in done.stderr


def test_complex_scalars_are_refused_by_name(tmp_path):
    about = tmp_path / "dolfinx_solver_complex-0.11.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: dolfinx-solver-complex\nVersion: 0.11.0\n")
    (tmp_path / "petsc4py").mkdir()
    (tmp_path / "petsc4py" / "PETSc.py").write_text("import numpy\nScalarType = numpy.complex128\n")
    (tmp_path / "petsc4py" / "__init__.py").write_text("def init(arguments): pass")
    (tmp_path / "dolfinx_solver.py").write_text("")
    for statements in ("import relax\nrelax.init()", "from relax import DIRECT"):
        done = run(tmp_path, statements)
        assert done.returncode == 1
        for words in ("complex scalars", "dolfinx-solver-complex 0.11.0", "pip install dolfinx-solver-real"):
            assert words in done.stderr, done.stderr


SOLVED = """
import relax
relax.init(["program", "--", *OPTIONS])
from relax import FieldValues, ReducedMap, meshes, pdes
problem = pdes.poisson.diffusion(meshes.unit_square(2))
G = ReducedMap(problem, FieldValues(problem.state.function_space))
G(G.present_control())
print("DONE")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "printed"),
    [("-log_view", "PETSc Performance Summary"), ("-malloc_debug", "DONE"), ("-options_left", "no unused options")],
)
def test_petsc_is_given_its_command_line_before_it_starts(options, printed):
    """Handed over later, `-log_view` ends in PETSc's error 73, and `-malloc_debug` does nothing."""
    done = scripts.python("-c", SOLVED.replace("*OPTIONS", repr(options)), environment={"PYTHONPATH": str(TOP)})
    assert done.returncode == 0 and "DONE" in done.stdout and printed in done.stdout, done.stderr
    assert "not used" not in done.stdout and "PETSC ERROR" not in done.stderr


@pytest.mark.slow
def test_what_comes_too_late_for_petsc_is_refused():
    text = "import dolfinx" + SOLVED.replace("*OPTIONS", "'-log_view', ':log.txt'")
    done = scripts.python("-c", text, environment={"PYTHONPATH": str(TOP)})
    assert done.returncode == 1 and "DONE" not in done.stdout
    assert "BadInput: -log_view: PETSc reads this when it starts" in done.stderr and "import of DOLFINx" in done.stderr
