"""PETSc's options: command line over call over default, and a database that is left clean."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest
import scripts
import ufl
from advection import advection, control, directions, map_of, solver_of
from contract import close, raised_everywhere
from dolfinx import fem
from mpi4py import MPI
from petsc4py import PETSc

import relax
from relax import meshes
from relax.base.la import options as petsc_options
from relax.base.la.options import inserted, merged
from relax.errors import BadInput, SolveFailed

COMM = MPI.COMM_WORLD


@pytest.fixture
def options():
    """Set PETSc options as a command line does; they are gone after the test, and nothing else has come."""
    database = PETSc.Options()
    before = database.getAll()
    names = []

    def set_all(**values):
        for name, value in values.items():
            names.append(name)
            database.setValue(name, value)

    yield set_all
    for name in names:
        database.delValue(name)
    assert database.getAll() == before


def kinds(G):
    G(control(G))
    ksp = solver_of(G).ksp
    return ksp.getType(), ksp.getPC().getType()


def test_command_line_over_call_over_default(options):
    """DOLFINx's own problems do not give the command line to the user; a map does."""
    assert kinds(map_of(advection("precedence"))) == ("preonly", "lu")
    call = {"ksp_type": "gmres", "pc_type": "jacobi", "ksp_max_it": 321}
    G = map_of(advection("precedence"), call)
    assert kinds(G) == ("gmres", "jacobi") and solver_of(G).ksp.getTolerances()[3] == 321
    options(relax_precedence_ksp_type="bcgs", relax_precedence_ksp_max_it="123")
    G = map_of(advection("precedence"), call)
    assert kinds(G) == ("bcgs", "jacobi") and solver_of(G).ksp.getTolerances()[3] == 123
    assert kinds(map_of(advection("other"), call)) == ("gmres", "jacobi")


def test_a_new_preconditioner_drops_what_belongs_to_the_old(options):
    """`-pc_type icc` beside the default's MUMPS is PETSc's error 92; defaults go with the choice they were made for."""
    options(relax_dropped_pc_type="jacobi", relax_dropped_ksp_type="gmres")
    G = map_of(advection("dropped"))
    assert kinds(G) == ("gmres", "jacobi")
    # The tolerance belongs to no choice: PETSc's 1e-5 would be the accuracy of gradients.
    assert solver_of(G).ksp.getTolerances()[0] == 1e-10
    close(G(control(G)), map_of(advection())(control(G)), 1e-8)


def test_merged():
    both = {
        "ksp_type": "cg",
        "ksp_rtol": 1e-9,
        "ksp_norm_type": "unpreconditioned",
        "pc_type": "hypre",
        "pc_hypre_type": "x",
    }
    assert merged(both, None) == both
    assert merged(both, {"pc_type": "hypre"}) == both
    assert merged(both, {"pc_type": "gamg"}) == {
        "ksp_type": "cg",
        "ksp_rtol": 1e-9,
        "ksp_norm_type": "unpreconditioned",
        "pc_type": "gamg",
    }
    assert "ksp_norm_type" not in merged(both, {"ksp_type": "gmres"})


@pytest.mark.ranks(1, 2)
def test_the_database_is_left_clean(options):
    """Options given in a call are no one else's: inserted, read and removed, also when something fails."""
    before = PETSc.Options().getAll()
    with map_of(advection("clean"), {"ksp_type": "gmres", "pc_type": "jacobi", "ksp_max_it": 1}) as G:
        raised_everywhere(SolveFailed, lambda: G(control(G)))
        assert PETSc.Options().getAll() == before
    with map_of(advection("clean"), {"mat_mumps_icntl_14": 60}) as G:
        G.linearize(control(G)).vjp(directions(G, 1)[0])
        assert solver_of(G).ksp.getPC().getFactorMatrix().getMumpsIcntl(14) == 60
        assert PETSc.Options().getAll() == before
    with pytest.raises(ZeroDivisionError), inserted("relax_clean_", {"ksp_view": True, "pc_type": "lu"}):
        assert PETSc.Options().hasName("relax_clean_ksp_view")
        raise ZeroDivisionError
    assert PETSc.Options().getAll() == before


def test_options_of_the_factor_reach_newton():
    """MUMPS reads its options when it factors, which Newton's method does inside a step."""
    domain = meshes.unit_square(4)
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, v, m = fem.Function(V), ufl.TestFunction(V), fem.Function(V)
    F = (ufl.inner(ufl.grad(u), ufl.grad(v)) + (u**3 - 1.0 - m) * v) * ufl.dx
    problem = relax.Problem(residual=F, state=u, controls=[m], bcs=[relax.clamp_boundary(V)], name="cubic")
    before = PETSc.Options().getAll()
    with map_of(problem, {"mat_mumps_icntl_14": 60}) as G:
        G(control(G))
        assert solver_of(G).ksp.getPC().getFactorMatrix().getMumpsIcntl(14) == 60
        assert PETSc.Options().getAll() == before


@pytest.mark.parametrize("where", ["call", "command line"])
def test_tangent_and_adjoint_have_a_prefix_of_their_own(options, where):
    """`relax_<name>_lin_` is for tangent and adjoint alone, and makes a second solver."""
    call = None
    if where == "call":
        call = {"lin_ksp_type": "gmres", "lin_pc_type": "jacobi"}
    else:
        options(relax_two_lin_ksp_type="gmres", relax_two_lin_pc_type="jacobi")
    with map_of(advection("two"), call) as G, map_of(advection()) as one:
        lin = G.linearize(control(G))
        seed = directions(G, 1)[0]
        close(lin.vjp(seed), one.linearize(control(G)).vjp(seed), 1e-7)
        assert kinds(G) == ("preonly", "lu")
        ksp = G.solution.operators.lin_factors._factors[0].solver.ksp
        assert (ksp.getType(), ksp.getPC().getType()) == ("gmres", "jacobi")
        assert ksp.getOptionsPrefix() == "relax_two_lin_"


# -- options that nothing reads ----------------------------------------------------------------------------------------


def told(caplog, G):
    """What is said of options when a map has been evaluated, and differentiated, twice."""
    caplog.clear()
    for _ in range(2):
        G.linearize(control(G)).vjp(directions(G, 1)[0])
    return [text for text in caplog.messages if "nothing has read" in text]


@pytest.mark.ranks(1, 2)
def test_options_of_a_call_that_nothing_reads(caplog):
    """PETSc passes over a misspelled key, and a direct solver over tolerances."""
    (text,) = told(caplog, map_of(advection("unread"), {"ksp_typ": "cg"}))
    assert "'ksp_typ' of relax_unread_; did you mean ksp_type?" in text
    texts = told(caplog, map_of(advection("unread_too"), {"ksp_rtol": 1e-8, "snes_rtol": 1e-8, "lin_pc_tpye": "lu"}))
    assert len(texts) == 3 and all("preonly with lu by mumps has no use for it" in text for text in texts[:2])
    assert "'pc_tpye' of relax_unread_too_lin_; did you mean pc_type?" in texts[2]


@pytest.mark.ranks(1, 2)
def test_options_that_are_read_are_not_spoken_of(caplog, options):
    options(relax_are_read_lin_ksp_type="gmres", relax_are_read_lin_pc_type="jacobi", relax_are_read_ksp_max_it="300")
    call = {"ksp_type": "gmres", "pc_type": "ilu", "ksp_gmres_restart": 60, "ksp_rtol": np.float64(1e-9)}
    call = call if COMM.size == 1 else {**call, "pc_type": "asm", "sub_pc_type": "lu", "pc_asm_overlap": 1}
    assert told(caplog, map_of(advection("are_read"), call)) == []
    for preset in ("direct", "amg_gmres"):
        assert told(caplog, map_of(advection("are_read_too"), preset)) == []


def test_options_of_the_command_line_that_nothing_reads(caplog, options):
    options(relax_unread_line_ksp_tpye="cg", relax_unread_line_ksp_type="gmres", relax_unread_line_pc_type="jacobi")
    (text,) = told(caplog, map_of(advection("unread_line")))
    assert "-relax_unread_line_ksp_tpye; did you mean -relax_unread_line_ksp_type?" in text


def test_options_that_no_solver_has_read_at_the_end():
    """The name of a problem is misspelled, which shows at the end only; nobody has asked for a log."""
    text = """
from relax import FieldValues, ReducedMap, meshes, pdes
problem = pdes.poisson.diffusion(meshes.unit_square(2))
G = ReducedMap(problem, FieldValues(problem.state.function_space))
G(G.present_control())
"""
    line = "-relax_poisson_difusion_ksp_type cg -relax_poisson_diffusion_ksp_max_it 5"
    done = scripts.python("-c", text, environment={"PETSC_OPTIONS": line, "PYTHONPATH": os.getcwd()})
    said = [line for line in done.stderr.splitlines() if "relax: warning" in line]
    assert done.returncode == 0 and len(said) == 2
    assert said[0].endswith("read the option -relax_poisson_diffusion_ksp_max_it")
    assert said[1].endswith("_difusion_ksp_type; did you mean -relax_poisson_diffusion_ksp_type?")


KINDS = {
    "words": {"ksp_rtol": "small"},
    "a number and more": {"ksp_rtol": "1e-3x"},
    "a switch": {"lin_ksp_rtol": True},
    "nothing": {"snes_rtol": None},
    "a fraction": {"ksp_max_it": 1.5},
    "a fraction in words": {"ksp_gmres_restart": "1.5"},
    "NaN": {"ksp_atol": float("nan")},
    "MUMPS' own": {"mat_mumps_icntl_14": "many"},
}


@pytest.mark.parametrize("given", KINDS.values(), ids=KINDS)
def test_values_of_another_kind_are_refused(given):
    error = raised_everywhere(BadInput, lambda: map_of(advection("kinds"), given))
    assert f"options: {next(iter(given))}: expected a " in str(error) and "number, got" in str(error)


def test_values_of_another_kind_on_the_command_line_are_refused(options):
    options(relax_kinds_line_ksp_rtol="small")
    error = raised_everywhere(BadInput, lambda: kinds(map_of(advection("kinds_line"))))
    assert "-relax_kinds_line_ksp_rtol: expected a number, got 'small'" in str(error)


def test_numbers_of_all_sorts_are_of_their_kind():
    call = {"ksp_type": "gmres", "pc_type": "jacobi", "ksp_rtol": "1e-9", "ksp_max_it": np.int64(321)}
    ksp = solver_of(evaluated(map_of(advection("sorts"), {**call, "ksp_divtol": "unlimited", "ksp_atol": 0}))).ksp
    assert ksp.getTolerances()[0] == 1e-9 and ksp.getTolerances()[3] == 321


def evaluated(G):
    G(control(G))
    return G


def test_init_hands_over_what_follows_the_dashes(options):
    """Plain petsc4py never looks at sys.argv; relax.init does, after PETSc is up."""
    options()
    database = PETSc.Options()
    try:
        relax.init(["prog", "-ksp_type", "cg", "--", "-relax_argv_ksp_type", "gmres", "-relax_argv_pc_type", "jacobi"])
        assert not database.hasName("ksp_type")
        assert kinds(map_of(advection("argv"))) == ("gmres", "jacobi")
    finally:
        database.delValue("relax_argv_ksp_type")
        database.delValue("relax_argv_pc_type")


@pytest.mark.ranks(2, 3)
def test_options_that_differ_between_ranks(options):
    """Ranks that iterate differently wait for each other for ever."""
    mine = "gmres" if COMM.rank < COMM.size - 1 else "cg"
    there = rf"ksp_type is 'gmres' on rank 0 and 'cg' on rank {COMM.size - 1}"
    preset = "direct" if COMM.rank == 0 else None
    for call in ({"ksp_type": mine}, {"ksp_typo" if COMM.rank else "ksp_type": "cg"}, preset):
        error = raised_everywhere(BadInput, lambda call=call: map_of(advection("differs"), call))
        assert f"same on each of the {COMM.size} ranks" in str(error)
        assert re.search(there, str(error)) or "not there" in str(error)
    options(relax_differs_ksp_type=mine)
    error = raised_everywhere(BadInput, lambda: map_of(advection("differs")))
    assert re.search(f"-relax_differs_{there}", str(error))
    assert f"-relax_differs_{there}" in str(raised_everywhere(BadInput, lambda: relax.init([])))


@pytest.mark.ranks(1, 2)
def test_presets_by_name():
    multigrid = "hypre" if PETSc.Sys.hasExternalPackage("hypre") else "gamg"
    assert kinds(map_of(advection(), "amg_gmres")) == ("gmres", multigrid)
    assert kinds(map_of(advection(), "direct")) == ("preonly", "lu")
    error = raised_everywhere(BadInput, lambda: map_of(advection(), "fast"))
    assert "'fast'" in str(error) and "amg_cg" in str(error)


@pytest.mark.parametrize("there", [True, False], ids=["hypre", "no hypre"])
def test_the_log_says_where_gamg_stands_in(caplog, monkeypatch, there):
    """The presets that name multigrid say so, by name and as mappings; the others have nothing to say."""
    monkeypatch.setattr(petsc_options, "AMG", "hypre" if there else "gamg")
    for options in ("direct", "direct_symmetric", None, {"pc_type": "gamg"}):
        petsc_options.preset(options)
    assert not caplog.messages
    for options in ("amg_cg", relax.AMG_GMRES):
        petsc_options.preset(options)
    assert [("no hypre" in line and "GAMG" in line) for line in caplog.messages] == [True, True] * (not there)


@pytest.mark.skipif(PETSc.Sys.hasExternalPackage("hypre"), reason="this PETSc has hypre")
@pytest.mark.parametrize("where", ["call", "command line"])
def test_hypre_by_name_is_not_replaced(options, where):
    """A preset asks for multigrid, and takes what is there; who asks for hypre gets hypre or an error."""
    if where == "command line":
        options(relax_named_pc_type="hypre", relax_named_ksp_type="gmres")
    call = {"ksp_type": "gmres", "pc_type": "hypre"} if where == "call" else "amg_gmres"
    error = raised_everywhere(BadInput, lambda: kinds(map_of(advection("named"), call)))
    assert "relax_named_" in str(error) and "hypre" in str(error) and "relax info" in str(error)


@pytest.mark.ranks(2)
def test_names_that_are_a_ranks_own_are_no_difference(options):
    """DOLFINx's LinearProblem leaves its options under a name with the id of a Python object in it."""
    options(**{f"dolfinx_solve_{139871744275904 + COMM.rank}ksp_type": "preonly"})
    petsc_options.insert_command_line([])
