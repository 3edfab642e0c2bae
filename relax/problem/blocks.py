"""Several equations for several Functions as one: the mixed problem of the same discretisation.

Test functions and states of spaces V_i on one mesh become the parts of those of the mixed space of their elements. Its
basis functions are theirs, and so are matrices and vectors, in another order: whatever is there for mixed states is
there for blocks. (Blocks of PETSc's own, side by side, would need all of it a second time.) Those on parts of the mesh
are fields on all of it before that, held at zero off these: ``on_parts.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import ufl
from dolfinx import fem

from relax.base.checks import several
from relax.base.fem import compat
from relax.base.fem.blocks import BlockState
from relax.base.fem.forms import Control, holds
from relax.base.fem.pointwise import replaced
from relax.base.fem.quadrature import with_fixed_degrees
from relax.errors import BadProblem
from relax.problem.boundary import ExpressionCondition, cells_with, entries_taken
from relax.problem.on_parts import BlockFields, SpreadCondition, held_of_whole, whole_of


class Blocks:
    """A problem of blocks as one of a mixed space. Collective, as is every method.

    Args:
        states: the Functions, each in a space of its own.
        equations: for each a form in one test function of its space.
        fields: what the states are on the mesh of the whole.

    Attributes:
        state: the Function of the mixed space; of one block alone that block itself.
        residual: a form in it and in one test function.

    Raises:
        BadProblem: when these do not fit together, on every rank.
    """

    def __init__(self, states: Sequence[fem.Function], equations: Sequence[ufl.Form], fields: BlockFields) -> None:
        self._states = states
        for i, u in enumerate(states):
            if not any(holds(F, u) for F in equations):
                raise BadProblem(f"state[{i}]: the Function {u.name!r} does not stand in the residual")
        self.state = states[0] if len(states) == 1 else BlockState(states, fields.extended)
        test = ufl.TestFunction(self.state.function_space)
        unknowns, tests = ([self.state], [test]) if len(states) == 1 else (ufl.split(self.state), ufl.split(test))
        swapped = dict(zip(fields.fields, unknowns, strict=True))
        self.residual: ufl.Form = ufl.Form([])
        for F, part in zip(equations, tests, strict=True):
            # Each keeps the quadrature that it has by itself: that of a mixed space is of its highest degree.
            own = fields.moved(with_fixed_degrees(compat.one_subdomain_data(F), for_good=False))
            self.residual += replaced(own, {**swapped, own.arguments()[0]: part})

    def conditions(self, bcs: Sequence[Any], known: Sequence[Control]) -> list[fem.DirichletBC]:
        """Dirichlet conditions of the blocks as those of the whole; what they take their values from stays live.

        One on a space that several blocks share holds for each of them, as in DOLFINx. Blocks on parts of the mesh are
        held at zero off these.

        Args:
            bcs: the conditions.
            known: Constants among which the value of one may be.

        Raises:
            BadProblem: for what is none, or none of a block.
        """
        if not isinstance(self.state, BlockState):
            return list(bcs)
        made: list[fem.DirichletBC] = []
        for k, bc in enumerate(bcs):
            if not isinstance(bc, fem.DirichletBC):
                raise BadProblem(
                    f"bcs[{k}]: expected Dirichlet conditions of relax.clamp or dolfinx, got {type(bc).__name__}"
                )
            space = bc.function_space
            spaces = [u.function_space._cpp_object for u in self._states]
            held = [i for i, V in enumerate(spaces) if space is V or V.contains(space)]
            if not held:
                raise BadProblem(f"bcs[{k}]: on none of the spaces of {_names(self._states)}, nor on a part of one")
            made += [self._carried(bc, i, known) for i in held]
        for i, extended in enumerate(self.state.extended):
            if extended is not None:
                both = [self.state.places[i][extended.off].astype(np.int32), extended.off.astype(np.int32)]
                made.append(fem.dirichletbc(extended.function, both, self.state.function_space.sub(i)))
        return made

    def _carried(self, bc: fem.DirichletBC, i: int, known: Sequence[Control]) -> fem.DirichletBC:
        """A condition of block i as one of the whole."""
        state = self.state
        assert isinstance(state, BlockState)
        space = state.function_space.sub(i)
        for component in bc.function_space.component():
            space = space.sub(component)
        extended = state.extended[i]
        here = bc.dof_indices()[0] if extended is None else held_of_whole(bc, extended)
        dofs = state.places[i][here].astype(np.int32)
        order = np.argsort(dofs)  # DOLFINx expects them so
        g, kind = bc.g, type(bc._cpp_object)

        def taking(values: Any, entries: Any) -> fem.DirichletBC:
            """The condition whose values are these entries of a Function."""
            both = [dofs[order], entries[order].astype(np.int32)]
            return fem.DirichletBC(kind(values, both, space._cpp_object))

        if extended is not None and (hasattr(g, "x") or g.value.size > 1):
            values = fem.Function(extended.function.function_space)
            return SpreadCondition(bc, taking(values._cpp_object, here), values, extended)
        if hasattr(g, "x"):
            carried = taking(g, entries_taken(bc, g.x.array, len(self._states[i].x.array))[here])
            if isinstance(bc, ExpressionCondition):
                return ExpressionCondition(carried, bc.values, bc.expression, bc.cells)
            return carried
        if g.value.size == 1:
            return fem.DirichletBC(kind(g, dofs[order], space._cpp_object))
        # The parts of a mixed space are numbered one by one, and DOLFINx gives vectors to nodes alone.
        values = fem.Function(self._states[i].function_space)
        bc.set(values.x.array)
        cells = cells_with(values.function_space, bc.dof_indices()[0])
        return ExpressionCondition(taking(values._cpp_object, here), values, _constant(g, known, state), cells)

    def null_space(self, given: Any) -> Any:
        """What a problem names as its null space, of the whole.

        Raises:
            BadProblem: for what does not have a Function, or None, for each block.
        """
        state = self.state
        if given is None or isinstance(given, str) or not isinstance(state, BlockState):
            return given
        vectors = []
        for k, parts in enumerate(given):
            fits = isinstance(parts, list | tuple) and len(parts) == len(self._states)
            if not fits or not all(
                n is None or (isinstance(n, fem.Function) and n.function_space == u.function_space)
                for n, u in zip(parts, self._states, strict=True)
            ):
                raise BadProblem(
                    f"nullspace[{k}]: expected a Function in its space, or None for zeros, for each of "
                    f"{_names(self._states)}, got {parts!r:.80}"
                )
            vectors.append(state.joined([None if n is None else n.x.array for n in parts]))
        return vectors


def step_of_blocks(
    residual: ufl.Form, state: BlockState, previous: Sequence[Any], initial: Any, *, initial_is_fixed: bool
) -> tuple[ufl.Form, fem.Function]:
    """A step's residual in which one mixed Function stands for what holds the blocks before the step. Collective.

    Args:
        residual: of the whole, with the Functions of ``previous`` in it.
        state: the whole.
        previous: for each block the Function that holds it before the step, or None.
        initial: what the blocks start from.
        initial_is_fixed: whether Functions there are data.

    Returns:
        The residual, and that Function.

    Raises:
        BadProblem: when these do not fit together.
    """
    names = _names(state.blocks)
    if len(previous) != len(state.blocks) or all(f is None for f in previous):
        raise BadProblem(
            f"previous: expected for each of {names} the Function that holds it before the step, None for one that "
            f"stands nowhere, got {len(previous)} entries"
        )
    for u, f in zip(state.blocks, previous, strict=True):
        if f is not None and not (isinstance(f, fem.Function) and f.function_space == u.function_space and f is not u):
            raise BadProblem(f"previous: expected a Function in the space of {u.name!r}, or None, got {f!r:.80}")
        if f is not None and f not in residual.coefficients():
            raise BadProblem(f"previous: {f.name!r} does not stand in the step's residual")
    if isinstance(initial, list | tuple) and not initial_is_fixed and any(isinstance(f, fem.Function) for f in initial):
        raise BadProblem(
            f"initial: Functions of {names} are data: expected initial_is_fixed=True, whereby their present values "
            "count; or, as a control, one Function in step.state.function_space"
        )
    before = fem.Function(state.function_space, name="previous")
    parts = zip(previous, ufl.split(before), strict=True)
    return replaced(residual, {f: part for f, part in parts if f is not None}), before


def is_in_blocks(residual: object, state: object) -> bool:
    """Whether a residual, or a state, is of several parts that are no mixed space's. Local."""
    if not isinstance(state, fem.Function) or not isinstance(residual, ufl.Form):
        return isinstance(state, list | tuple) or isinstance(residual, list | tuple)
    return any(argument.part() is not None for argument in residual.arguments())


def equations_of(residual: object, state: object) -> tuple[list[fem.Function], list[ufl.Form]]:
    """The states of a problem, and for each a form in one test function of its space. Local.

    Args:
        residual: a form per state, each in a test function of its space; or forms in the test functions of a
            ``ufl.MixedFunctionSpace`` of these spaces, one or several, of which the sum counts.
        state: the Functions, in the order of the spaces; or a single one.

    Raises:
        BadProblem: when these do not fit together.
    """
    states = [state] if isinstance(state, fem.Function) else [*several(state, "Functions", "state")]
    _check_states(states)
    forms = [residual] if isinstance(residual, ufl.Form) else several(residual, "UFL forms", "residual")
    found: list[list[ufl.Form]] = [[] for _ in states]
    for k, F in enumerate(forms):
        where = "residual" if isinstance(residual, ufl.Form) else f"residual[{k}]"
        if not isinstance(F, ufl.Form):
            got = "None, which extract_blocks gives where no term has that test function" if F is None else repr(F)
            raise BadProblem(f"{where}: expected a UFL form, got {got:.80}")
        arguments = F.arguments()
        if not arguments or any(a.number() > 0 for a in arguments):
            raise BadProblem(
                f"{where}: expected a form in test functions alone, got {len(arguments)} arguments; the unknowns are "
                "Functions, not TrialFunctions"
            )
        for test in arguments:
            i = k if test.part() is None else test.part()
            if test.part() is None and len(forms) != len(states):
                raise BadProblem(
                    f"residual: expected a form for each of {_names(states)}, or test functions of a "
                    f"ufl.MixedFunctionSpace, ufl.TestFunctions(W), got {len(forms)} and a test function of one space"
                )
            if i >= len(states):
                raise BadProblem(
                    f"{where}: expected a state for each space of the MixedFunctionSpace, state=[u, p], got "
                    f"{_names(states)}, and a test function of part {i}"
                )
            if test.ufl_function_space() != states[i].function_space:
                raise BadProblem(
                    f"{where}: its test function is of another space than the state that it belongs to; expected "
                    f"states in the order of the spaces, got {_names(states)}"
                )
            others = {other: ufl.zero(other.ufl_shape) for other in arguments if other is not test}
            found[i].append(ufl.replace(F, others) if others else F)
    for i, (u, parts) in enumerate(zip(states, found, strict=True)):
        if not parts:
            raise BadProblem(f"residual: no term has a test function of the space of state[{i}] ({u.name!r})")
    return states, [sum(parts[1:], start=parts[0]) for parts in found]


def _check_states(states: Sequence[Any]) -> None:
    if not states:
        raise BadProblem("state: expected at least one Function, got an empty list")
    for i, u in enumerate(states):
        if not isinstance(u, fem.Function):
            raise BadProblem(f"state[{i}]: expected a dolfinx.fem.Function, got {type(u).__name__}")
        if any(u is other for other in states[:i]):
            raise BadProblem(f"state[{i}]: {u.name!r} is an earlier one again")
        if u.x.array.dtype != np.float64:
            raise BadProblem(f"state[{i}]: expected numbers of float64, on a mesh of float64, got {u.x.array.dtype}")
        if len(u.function_space.component()):
            raise BadProblem(f"state[{i}]: expected a Function of a space of its own, got one of a part of a space")
    whole_of(states)


def _constant(g: Any, known: Sequence[Control], state: BlockState) -> fem.Constant:
    """The Constant of a condition, of which DOLFINx keeps the C++ object alone."""
    for one in known:
        if isinstance(one, fem.Constant) and one._cpp_object is g:
            return one
    constant = fem.Constant(state.function_space.mesh, np.array(g.value))
    constant._cpp_object = g
    return constant


def _names(states: Sequence[fem.Function]) -> str:
    return " and ".join(repr(u.name) for u in states)
