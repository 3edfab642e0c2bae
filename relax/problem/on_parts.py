"""Blocks of which some are on parts of the mesh, such as multipliers on its boundary, as fields on the whole mesh."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import ufl
from dolfinx import fem, mesh
from ufl.algorithms import expand_derivatives
from ufl.corealg.map_dag import map_expr_dag
from ufl.corealg.multifunction import MultiFunction
from ufl.corealg.traversal import traverse_unique_terminals

from relax.base import parallel
from relax.base.fem.coefficients import interpolated
from relax.base.fem.extended import Extended
from relax.base.fem.one_number import OneNumber, is_one_number, is_real_element
from relax.base.fem.pointwise import laws_in, replaced
from relax.base.fem.submeshes import Part, inner_facets, integrated, part_of, sides_of, slopes_in
from relax.base.types import Array, Indices
from relax.errors import BadProblem
from relax.problem.boundary import ExpressionCondition


class BlockFields:
    """The states of blocks as Functions on one mesh. Collective, as is every method.

    Args:
        states: the Functions, each on the whole mesh or on a part of it.

    Attributes:
        extended: for each of them what it is on the whole mesh; None where it is there already.
        fields: for each the Function that stands for it there.

    Raises:
        BadProblem: for meshes that are no parts of one, and spaces that are none of the whole mesh's.
    """

    def __init__(self, states: Sequence[fem.Function]) -> None:
        whole = whole_of(states)
        self._states = states
        self._parts = [None if u.function_space.mesh is whole else part_of(u.function_space.mesh) for u in states]
        pairs = list(zip(states, self._parts, strict=True))
        self.extended = [_extended(u, part) for u, part in pairs]
        self.fields = [u if e is None else e.function for u, e in zip(states, self.extended, strict=True)]

    def moved(self, F: ufl.Form) -> ufl.Form:
        """A form in the states and in one test function of a space of theirs as one of the whole mesh.

        Raises:
            BadProblem: where one stands in an integral that leaves its part, or with a gradient on facets.
        """
        if not any(self.extended):
            return F
        F = expand_derivatives(F)
        (test,) = F.arguments()
        swapped: dict[Any, Any] = {}
        on_facets: list[Any] = []
        for u, part, e in zip(self._states, self._parts, self.extended, strict=True):
            if e is None:
                continue
            if part is not None:
                _check(F, u, test, part)
            W = e.function.function_space
            new = {u: e.function}
            if test.ufl_function_space() == u.function_space:
                new[test] = ufl.TestFunction(W)
            swapped |= new
            if part is not None and u.function_space.mesh.topology.dim < part.whole.topology.dim:
                on_facets += new.values()
        over = replaced(F, swapped)
        # A field on facets has one value there; of one on the whole mesh that is what either cell has.
        sided = _Sided(on_facets)
        return ufl.Form([
            i.reconstruct(integrand=map_expr_dag(sided, i.integrand())) if _is_inside(i) else i
            for i in over.integrals()
        ])  # fmt: skip


def _extended(u: fem.Function, part: Part | None) -> Extended | None:
    if part is not None:
        if is_one_number(u.function_space) and is_real_element(u.ufl_element()):
            raise BadProblem(
                f"state: {u.name!r} is one number for a part of the mesh; expected one for all of it, on the "
                "whole mesh, in integrals over the part"
            )
        return Extended(u, part)
    return OneNumber(u) if is_one_number(u.function_space) else None


class SpreadCondition(ExpressionCondition):
    """u = g of a block on a part of the mesh, as one of the whole: ranks are told g that do not have it.

    Args:
        given: the condition of the block.
        made: the condition of the whole.
        values: from which that one takes its values, on the whole mesh.
        extended: the block.
    """

    def __init__(self, given: fem.DirichletBC, made: fem.DirichletBC, values: fem.Function, extended: Extended) -> None:
        follows = given.expression if isinstance(given, ExpressionCondition) else ufl.zero()
        super().__init__(made, values, follows, np.empty(0, dtype=np.int32))
        self._given = given
        self._extended = extended
        self._held = np.zeros(len(extended.dofs))

    @property
    def g(self) -> Any:
        """What the condition of the block takes its values from."""
        return self._given.g

    def refresh(self) -> None:
        """Write the present values of g. Collective."""
        if isinstance(self._given, ExpressionCondition):
            self._given.refresh()
        self._given.set(self._held)
        self.values.x.array[:] = self._extended.spread(self._held)


def held_of_whole(bc: fem.DirichletBC, extended: Extended) -> Indices:
    """Which local values of the whole mesh's Function a condition of a block holds, ghosts included. Collective."""
    marks = np.zeros(len(extended.dofs))
    marks[bc.dof_indices()[0]] = 1.0
    return np.flatnonzero(extended.spread(marks) > 0.0)


def start_on_parts(initial: Any, extended: Sequence[Extended | None], blocks: Sequence[fem.Function]) -> Any:
    """What blocks start from, those on parts of the mesh as Functions on the whole one. Collective.

    Raises:
        BadInput: for what no coefficient is.
    """
    if not isinstance(initial, list | tuple) or len(initial) != len(blocks) or not any(extended):
        return initial
    given = []
    for value, e, u in zip(initial, extended, blocks, strict=True):
        if e is None:
            given.append(value)
            continue
        start = fem.Function(e.function.function_space)
        start.x.array[:] = e.spread(_start(value, u))
        given.append(start)
    return given


def _start(value: Any, u: fem.Function) -> Array:
    """What a block starts from, in the place of its values."""
    if is_one_number(u.function_space) and not isinstance(value, fem.Function):
        return np.broadcast_to(np.asarray(value, dtype=np.float64).ravel(), u.x.array.shape)
    return np.asarray(interpolated(value, u.function_space).x.array)


def whole_of(states: Sequence[fem.Function]) -> mesh.Mesh:
    """The mesh that all states are on, or on parts of. Local.

    Raises:
        BadProblem: where there is none.
    """
    meshes = [u.function_space.mesh for u in states]
    parts = [part_of(m) for m in meshes]
    for whole in (*meshes, *(p.whole for p in parts if p is not None)):
        if all(m is whole or (p is not None and p.whole is whole) for m, p in zip(meshes, parts, strict=True)):
            return whole
    i = next(i for i, m in enumerate(meshes) if m is not meshes[0])
    raise BadProblem(
        f"state[{i}]: expected all states on one mesh, or on parts of one, got {states[i].name!r} on another one than "
        f"{states[0].name!r}; of facets or cells of a mesh a part is made by relax.meshes.submesh, or told of by "
        "relax.meshes.set_whole"
    )


def _check(F: ufl.Form, u: fem.Function, test: ufl.Argument, part: Part) -> None:
    """Refuse integrals over what is not the part of a state, in which it or its test function stands. Collective."""
    whole, dim = part.whole, u.function_space.mesh.topology.dim
    is_of_facets = dim < whole.topology.dim
    own: list[Any] = [u, test] if test.ufl_function_space() == u.function_space else [u]
    own += [law for law in laws_in(F) if any(f is u for f in law.depends_on)]
    kinds = ("exterior_facet", "interior_facet") if is_of_facets else ("cell", "exterior_facet", "interior_facet")
    what = "facets" if is_of_facets else "cells"
    for integral in F.integrals():
        integrand, kind = integral.integrand(), integral.integral_type()
        if not any(t == f for t in traverse_unique_terminals(integrand) for f in own):
            continue
        where = f"residual: the state {u.name!r} is on a part of {what}"
        if integral.ufl_domain() != whole.ufl_domain():
            raise BadProblem(
                f"{where}, and stands in an integral over another mesh than the whole one; expected integrals over "
                f"that, by a tag: " + ("ds(tag), or dS(tag) inside" if is_of_facets else "dx(tag)")
            )
        if kind not in kinds:
            raise BadProblem(f"{where}; expected it in integrals over {' or '.join(kinds)}, got one over {kind}")
        if is_of_facets and any(
            t == f for d in slopes_in(integrand) for t in traverse_unique_terminals(d) for f in own
        ):
            raise BadProblem(f"{where}, and its derivative is taken; expected its values alone on facets")
        for over, side in _integrated(integral, own, whole, dim):
            outside = np.count_nonzero(~np.isin(over, part.entities))
            if count := parallel.total(whole.comm, int(outside)):
                raise BadProblem(
                    f"{where}, and {count} of the {parallel.total(whole.comm, len(over))} that an integral in which it "
                    f"stands goes over{side} are outside; expected one over the part alone, by its tag"
                )


def _is_inside(integral: ufl.Integral) -> bool:
    return bool(integral.integral_type() == "interior_facet")


def _integrated(
    integral: ufl.Integral, own: Sequence[Any], whole: mesh.Mesh, dim: int
) -> Iterator[tuple[npt.NDArray[np.int32], str]]:
    """The facets or cells that an integral takes a state on, with a word for messages."""
    if not _is_inside(integral) or dim < whole.topology.dim:
        yield integrated(integral, whole, dim), ""
        return
    _, *beside = inner_facets(integral, whole)
    sides = sides_of(integral.integrand(), own)
    for side, cells in zip("+-", beside, strict=True):
        if side in sides or None in sides:
            yield cells, f' on the side "{side}"'


class _Sided(MultiFunction):
    """Takes terminals on facets from the cell on the side "+", where no side is said."""

    def __init__(self, terminals: Sequence[Any]) -> None:
        super().__init__()
        self._terminals = terminals

    expr = MultiFunction.reuse_if_untouched

    def terminal(self, node: Any) -> Any:
        return node("+") if any(node == t for t in self._terminals) else node

    def restricted(self, node: Any) -> Any:
        return node
