"""A PDE as mathematics: residual, state, controls, boundary conditions. Nothing here says how it is solved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ufl
from dolfinx import fem, mesh
from ufl.core.expr import Expr
from ufl.corealg.traversal import traverse_unique_terminals
from ufl.domain import extract_unique_domain

from relax.base.checks import of_kind, one_of, several
from relax.base.fem.forms import Control, holds, is_same, standing, terminals_of, values_of
from relax.base.fem.pointwise import PointLaw, check_laws
from relax.base.fem.submeshes import check_meshes
from relax.errors import BadProblem
from relax.problem.blocks import Blocks, equations_of, is_in_blocks
from relax.problem.boundary import ExpressionCondition
from relax.problem.continuation import Continuation
from relax.problem.multi_point import tied_values
from relax.problem.on_parts import BlockFields, SpreadCondition

_A_SHAPE = (
    "A shape can be a control as a displacement d, a vector Function, of a mesh that stays: with K = Identity + "
    "grad(d) write dot(grad(u), inv(K)) for the gradient of u, x + d for x, and det(K) * dx for dx"
)
_HELD_AT_ITSELF = (
    "bcs: the state stands in the value that it is held at; expected known values, or a boundary term in the residual"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """Find the state u with F(u, m; v) = 0 for all test functions v, and u given on the clamped boundary.

    The UFL coefficients *are* the unknowns: ``state`` and ``controls`` are the very Functions and Constants that stand
    in ``residual`` (or, for a control, as the value of a boundary condition). A ``ReducedMap`` uses them as registers:
    after each call they hold the point at which it last worked.

    Blocks: ``state=[u, p]`` are Functions of several spaces on one mesh, solved for together. They hold the solution
    after a call, and observables are written in them and in their spaces. ``problem.state`` is then one Function of the
    mixed space of their elements, the same discretisation, and ``residual`` and ``bcs`` are those in it; an observable
    of one's own is handed that one. PETSc's options name the blocks by their Functions where these have names of their
    own, ``fieldsplit_velocity_pc_type``, else by their numbers. They are assembled into one matrix, out of which
    fieldsplit takes them; ``mat_type nest`` beside that is heard, and changes nothing. Collective to make. A step of an
    ``Evolution`` that is one equation may be one of blocks; ``theta_evolution``, and steps of several equations, take
    mixed spaces.

    Blocks on parts of the mesh (:func:`relax.meshes.submesh`): a multiplier lam on facets, in a space of continuous
    Lagrange elements, has values alone, in integrals over those facets of the whole mesh, ``lam * v * ds`` and, inside,
    ``lam * jump(v) * dS``; a field in some cells, in one of Lagrange or DG, stands in integrals over these and facets
    beside them. One of the states may be on the whole mesh, or none. ``problem.state`` holds each on the whole mesh,
    zero off its part, which costs as many unknowns as a field there, with one equation "= 0" for each of those. What
    such a state is clamped at may be data or a scalar Constant; error estimates are not had. A Function of one number
    for all of the mesh (``basix.ufl.real_element``, DOLFINx 0.11), such as a multiplier that fixes a mean, is a block,
    too: one number in each cell, of which all are the same.

    Args:
        residual: F(u, m; v), a UFL form of rank one in the test function of the state's space. Linear or not in u.
            Of blocks a form in the test functions of a ``ufl.MixedFunctionSpace``, or a list of forms, as
            ``ufl.extract_blocks`` gives it, or one for each state in a test function of its space.
        state: u, or a list of blocks in the order of the spaces. Its values when a ``ReducedMap`` is made are the first
            guess of a nonlinear solve.
        controls: what to differentiate with respect to: fields (``fem.Function``), numbers or vectors
            (``fem.Constant``), numbers on parts of the mesh (:func:`relax.pieces`), strengths of loads at points
            (:class:`relax.PointSource`), weights of networks (:class:`relax.LearnedCoefficient`), fields on a part of
            the mesh (:func:`relax.meshes.submesh`), in ``residual``, in the value of one of ``bcs`` or as it, or in
            both. With none the control vector is empty, and ``G([])`` is the solution alone.
        bcs: Dirichlet conditions: of :func:`relax.clamp`, or of DOLFINx itself; of blocks on their spaces (on one that
            several share, of each of these).
        name: part of the PETSc options prefix ``relax_<name>_``: letters, digits and underscores.
        continuation: an easier equation to begin with where Newton's method fails from its first guess.
        nullspace: states n that leave the residual as it is, F(u + n, m; v) = F(u, m; v): "constants", those of all
            components of the state that nothing clamps and the residual does not see (Neumann data alone, a pressure
            between walls); or Functions in the state's space, such as :func:`relax.rigid_body_modes` gives, zero where
            values are clamped; of blocks each n is a list with a Function, or None for zeros, for each (of one on a
            part of the mesh ∫ is over all of it, of the field that it is there). The state is
            the one with ∫ u · n dx = 0, but for what stands at clamped values. A residual that no state makes zero,
            since ∫ of its sources over n is not, is ``SolveFailed`` at a solve, with the amount; derivatives are those
            of the residual without such a part.
        mpc: values of the state that are sums of other ones, u_s = Σ c_k u_k, first of all those of periodic states: a
            ``dolfinx_mpc.MultiPointConstraint`` on its space, finalised, made with the same Dirichlet conditions; of
            blocks a list with one, or None, for each. The equation is solved for the others alone, Tᵀ F(T û, m) = 0,
            and so are tangents and adjoints. What an evolution starts from counts as it is given.

    Raises:
        BadProblem: when these do not fit together. Every rank sees the same problem, so all ranks raise.
    """

    #: Of blocks these are given as lists, and read as one.
    residual: ufl.Form
    state: fem.Function
    controls: Sequence[Control] = field(default=())
    bcs: Sequence[fem.DirichletBC] = field(default=())
    name: str = "pde"
    continuation: Continuation | None = None
    nullspace: str | Sequence[fem.Function] | None = None
    mpc: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "controls", several(self.controls, "Functions and Constants", "controls"))
        object.__setattr__(self, "bcs", several(self.bcs, "Dirichlet conditions", "bcs"))
        if not isinstance(self.nullspace, str | None):
            object.__setattr__(self, "nullspace", several(self.nullspace, "Functions", "nullspace"))
        if is_in_blocks(self.residual, self.state):
            self._join_blocks()
        _check(self)

    def _join_blocks(self) -> None:
        """One form in one Function in the place of those of blocks. Collective."""
        states, equations = equations_of(self.residual, self.state)
        fields = BlockFields(states)
        for F in equations:
            check_form(fields.moved(F), fields.fields[0], "residual")
        for i, control in enumerate(self.controls):
            if any(control is u for u in states):
                raise BadProblem(f"controls[{i}] ({control}) is one of the states")
        for k, bc in enumerate(self.bcs):
            if isinstance(bc, fem.DirichletBC) and any(gives(u, bc) for u in states):
                raise BadProblem(_HELD_AT_ITSELF.replace("bcs", f"bcs[{k}]"))
        blocks = Blocks(states, equations, fields)
        known = [*self.controls, *(c for F in equations for c in F.constants())]
        whole = {
            "residual": blocks.residual,
            "state": blocks.state,
            "bcs": tuple(blocks.conditions(self.bcs, known)),
            "nullspace": blocks.null_space(self.nullspace),
        }
        for name, value in whole.items():
            object.__setattr__(self, name, value)
        for i, control in enumerate(self.controls):
            if any(isinstance(bc, SpreadCondition) and gives(control, bc) for bc in self.bcs):
                raise BadProblem(
                    f"controls[{i}] ({control}) gives boundary values of a state on a part of the mesh; expected a "
                    "scalar Constant for that, or data; or a condition in the weak form"
                )

    @property
    def mesh(self) -> mesh.Mesh:
        """The mesh of the state."""
        return self.state.function_space.mesh


def is_value_of(bc: fem.DirichletBC, control: Control) -> bool:
    """Whether ``control`` is the live value of the boundary condition."""
    return not isinstance(control, PointLaw) and bc.g is control._cpp_object


def gives(control: Control, bc: fem.DirichletBC) -> bool:
    """Whether ``control`` is the live value of the boundary condition, or stands in it."""
    return is_value_of(bc, control) or any(control is t for t in standing_in(bc))


def standing_in(bc: fem.DirichletBC) -> list[Control]:
    """The Functions and Constants in the expression that the value of the condition follows."""
    return terminals_of(bc.expression) if isinstance(bc, ExpressionCondition) else []


def check_control(control: object, domain: mesh.Mesh, what: str) -> None:
    """Refuse what nothing can be differentiated in, coordinates with the way around. Local.

    Raises:
        BadProblem: then.
    """
    if isinstance(control, fem.Function | fem.Constant | PointLaw):
        return
    is_place = isinstance(control, mesh.Mesh | mesh.Geometry | ufl.Mesh) or (
        isinstance(control, np.ndarray) and np.may_share_memory(control, domain.geometry.x)
    )
    if isinstance(control, Expr):
        is_place = any(isinstance(t, ufl.SpatialCoordinate) for t in traverse_unique_terminals(control))
    raise BadProblem(
        f"{what}: expected a Function or a Constant, got {type(control).__name__}"
        + ("; the coordinates of the mesh cannot be differentiated in. " + _A_SHAPE if is_place else "")
    )


def check_conditions(bcs: Sequence[fem.DirichletBC], state: fem.Function) -> None:
    """Refuse what are no Dirichlet conditions on a state. Local.

    Raises:
        BadProblem: saying which.
    """
    V = state.function_space
    for bc in bcs:
        if not isinstance(bc, fem.DirichletBC):
            raise BadProblem(f"bcs: expected Dirichlet conditions of relax.clamp or dolfinx, got {type(bc).__name__}")
        space = bc.function_space
        if space is not V._cpp_object and not V._cpp_object.contains(space):
            raise BadProblem("bcs: a condition is on another space than the state's")
        if gives(state, bc):
            raise BadProblem(_HELD_AT_ITSELF)


def check_name(name: object) -> None:
    """Refuse what PETSc's options could not be named by. Local.

    Raises:
        BadProblem: then.
    """
    if not isinstance(name, str) or not name.replace("_", "").isalnum():
        raise BadProblem(f"name: expected letters, digits and underscores, got {name!r}")


def check_form(form: ufl.Form, state: fem.Function, what: str) -> None:
    """Refuse a form in a state that DOLFINx cannot compile, or not differentiate. Collective.

    Raises:
        BadProblem: saying what stands in the way in ``what``.
    """
    if state.x.array.dtype != np.float64:
        raise BadProblem(f"state: expected numbers of float64, on a mesh of float64, got {state.x.array.dtype}")
    if operators := form.base_form_operators():
        raise BadProblem(
            f"{what}: {operators[0]} is an external operator, whose derivative DOLFINx does not know; expected UFL "
            "of Functions and Constants"
        )
    check_laws(form, what)
    for terminal in standing(form):
        if (kind := values_of(terminal).dtype) != np.float64:
            raise BadProblem(f"{what}: expected numbers of float64, got {terminal} of {kind}; write 1.0, not 1")
    domain = state.function_space.mesh.ufl_domain()
    seen = (*form.coefficients(), *form.constants())
    for terminal in standing(form):
        if not any(terminal is t for t in seen) and extract_unique_domain(terminal) != domain:
            raise BadProblem(f"{what}: expected inputs of a network on the mesh of the state, got {terminal}")
    if any(other != domain for other in form.ufl_domains()):
        raise BadProblem(f"{what}: expected integrals over the mesh of the state, got one over another mesh")
    check_meshes(form, what)


def _check(problem: Problem) -> None:
    residual, state = problem.residual, problem.state
    check_name(problem.name)
    if not isinstance(residual, ufl.Form):
        raise BadProblem(f"residual: expected a UFL form, got {type(residual).__name__}; did you multiply by dx?")
    if not isinstance(state, fem.Function):
        raise BadProblem(f"state: expected a dolfinx.fem.Function, got {type(state).__name__}")
    check_form(residual, state, "residual")
    arguments = residual.arguments()
    if len(arguments) != 1:
        raise BadProblem(
            f"residual: expected a form in one test function, got {len(arguments)} arguments; "
            "the unknown is a Function, not a TrialFunction"
        )
    if arguments[0].ufl_function_space() != state.function_space:
        raise BadProblem("residual: its test function is of another space than the state")
    if not holds(residual, state):
        raise BadProblem(f"state: the Function {state.name!r} does not stand in the residual")
    check_conditions(problem.bcs, state)
    terminals = standing(residual)
    for i, control in enumerate(problem.controls):
        check_control(control, problem.mesh, f"controls[{i}]")
        if control is state or any(is_same(control, other) for other in problem.controls[:i]):
            raise BadProblem(f"controls[{i}] is the state or an earlier control again")
        used = holds(residual, control) or any(gives(control, bc) for bc in problem.bcs)
        if not used:
            raise BadProblem(
                f"controls[{i}] ({control}) stands neither in the residual nor as the value of a boundary condition"
            )
    _check_null_space(problem)
    tied_values(problem.mpc, state, problem.bcs)
    path = problem.continuation
    if path is not None:
        of_kind(path, Continuation, "a relax.Continuation", "continuation")
    if path is not None and (path.constant not in terminals or any(path.constant is c for c in problem.controls)):
        raise BadProblem("continuation: expected a Constant that stands in the residual and is no control")


def _check_null_space(problem: Problem) -> None:
    given, V = problem.nullspace, problem.state.function_space
    if given is None:
        return
    if isinstance(given, str):
        one_of(given, ("constants", "Functions in the state's space"), "nullspace")
        return
    if not given:
        raise BadProblem("nullspace: expected at least one Function, or None, got an empty list")
    for i, n in enumerate(given):
        if not isinstance(n, fem.Function) or n.function_space != V:
            raise BadProblem(f"nullspace[{i}]: expected a Function in the space of the state, got {n!r:.80}")
