"""What an ``EigenMap`` is made of: a mesh, for Schrödinger's equation, or a pair of forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ufl
from dolfinx import fem
from dolfinx.mesh import Mesh

from relax.base import parallel
from relax.base.checks import as_number
from relax.base.fem.compat import one_subdomain_data
from relax.base.fem.forms import Control, holds
from relax.base.fem.pencil import Pencil
from relax.base.fem.pointwise import refuse_laws
from relax.base.fem.quadrature import with_fixed_degrees
from relax.base.la.options import Options
from relax.errors import BadInput, BadProblem
from relax.pdes.schrodinger.eigenstates import stationary_pencil
from relax.problem.boundary import ExpressionCondition
from relax.problem.problem import Problem


@dataclass(frozen=True, eq=False)
class EigenProblem:
    """a(u, v) = λ b(u, v), as it is solved and as it is differentiated.

    Attributes:
        pencil: the forms as matrices.
        problem: a(u, v) - λ b(u, v) = 0 in a state u and controls.
        eigenvalue: λ in it.
        words: what messages call eigenvalues, and the letter of one.
    """

    pencil: Pencil
    problem: Problem
    eigenvalue: fem.Constant
    words: tuple[str, str]


def schrodinger(
    mesh: Mesh, degree: int, potential_space: fem.FunctionSpace | None, options: Options
) -> tuple[EigenProblem, fem.Function]:
    """Schrödinger's equation, and its potential. Collective.

    Raises:
        BadProblem: for a potential space on another mesh, or of vectors.
    """
    Q = fem.functionspace(mesh, ("Lagrange", 1)) if potential_space is None else potential_space
    if Q.mesh is not mesh or tuple(Q.value_shape) != ():
        raise BadProblem("potential_space: expected a space of scalars on the same mesh")
    potential = fem.Function(Q, name="potential")
    pencil = stationary_pencil(fem.functionspace(mesh, ("Lagrange", degree)), potential, dict(options))
    state = fem.Function(pencil.space, name="psi_1")
    problem, energy = _problem(pencil.a, pencil.b, state, [potential], pencil.bcs, "schrodinger_eigenstates")
    return EigenProblem(pencil, problem, energy, ("energies", "E")), potential


def of_forms(
    pair: object, controls: Sequence[Control], bcs: Sequence[fem.DirichletBC], options: Options
) -> EigenProblem:
    """That of two forms. Collective.

    Raises:
        BadInput: for what is no pair.
        BadProblem: for forms that do not fit together, and values clamped to other than zero.
    """
    forms = pair if isinstance(pair, list | tuple) else ()
    if len(forms) != 2:
        raise BadInput("forms: expected a pair (a, b) of UFL forms, stiffness and mass")
    a, b = (_checked(form, name) for form, name in zip(forms, ("a", "b"), strict=True))
    V = a.arguments()[0].ufl_function_space()
    if any(argument.ufl_function_space() != V for argument in (*a.arguments(), *b.arguments())):
        raise BadProblem("a, b: expected trial and test functions of one space, got several spaces")
    a, b = (with_fixed_degrees(one_subdomain_data(form)) for form in (a, b))
    problem, eigenvalue = _problem(a, b, fem.Function(V, name="u_1"), controls, bcs, "eigenpairs")
    _check_conditions(problem)
    return EigenProblem(Pencil(V, problem.bcs, a, b, dict(options)), problem, eigenvalue, ("eigenvalues", "λ"))


def checked_bounds(bounds: Any) -> tuple[float, float] | None:
    """(low, high) of numbers; None of None. Local.

    Raises:
        BadInput: for anything else.
    """
    if bounds is None:
        return None
    values = tuple(bounds) if isinstance(bounds, list | tuple | np.ndarray) else ()
    low, high = (as_number(v) for v in values) if len(values) == 2 else (np.nan, np.nan)
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise BadInput(f"bounds: expected two finite numbers (low, high), low below high, got {bounds!r:.80}")
    return low, high


def _problem(
    a: ufl.Form,
    b: ufl.Form,
    state: fem.Function,
    controls: Sequence[Control],
    bcs: Sequence[fem.DirichletBC],
    name: str,
) -> tuple[Problem, fem.Constant]:
    eigenvalue = fem.Constant(state.function_space.mesh, 0.0)
    v = ufl.TestFunction(state.function_space)
    of_state = [ufl.replace(form, dict(zip(form.arguments(), (v, state), strict=True))) for form in (a, b)]
    residual = of_state[0] - eigenvalue * of_state[1]
    return Problem(residual=residual, state=state, controls=controls, bcs=bcs, name=name), eigenvalue


def _checked(form: object, name: str) -> ufl.Form:
    if not isinstance(form, ufl.Form):
        raise BadInput(f"forms: {name}: expected a UFL form, got {type(form).__name__}; did you multiply by dx?")
    arguments = form.arguments()
    if len(arguments) != 2:
        raise BadProblem(
            f"{name}: expected a bilinear form, in ufl.TrialFunction(V) and ufl.TestFunction(V), got one in "
            f"{len(arguments)} arguments" + ("; is it zero?" if form.empty() else "")
        )
    if any(argument.part() is not None for argument in arguments):
        raise BadProblem(f"{name}: its arguments are parts of a MixedFunctionSpace; expected one space for all parts")
    refuse_laws(form, name)
    return form


def _check_conditions(problem: Problem) -> None:
    """Refuse states that are not zero where they are clamped: no multiple of one would be one. Collective."""
    values = np.zeros_like(problem.state.x.array)
    followed = any(isinstance(bc, ExpressionCondition) for bc in problem.bcs)
    for bc in problem.bcs:
        bc.set(values)
    held = [c for c in problem.controls if not holds(problem.residual, c)]
    if held:
        raise BadProblem(f"controls: expected what stands in a or b, got the value of a boundary condition, {held[0]}")
    if followed or parallel.any_rank(problem.mesh.comm, bool(values.any())):
        raise BadProblem("bcs: expected states that are zero where they are clamped, got another value")
