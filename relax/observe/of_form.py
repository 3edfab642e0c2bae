"""Observables that are forms of the state and of controls: values from one form, derivatives from what UFL makes of it.

A form s(u, m; w) that is linear in weights w stands for y = Q ∂s/∂w; its adjoint products are derivatives of s at
w = Qᵀ dy.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import ufl
from dolfinx import fem, la, mesh

from relax.base import parallel
from relax.base.fem.forms import Control, compiled, derivative, dual_space, like, num_owned, summed, values_of
from relax.base.types import Array
from relax.errors import BadProblem, RelaxError
from relax.observe.base import Observable


class Terminal:
    """A Function or Constant of the user's as it stands in a form: itself, or a copy on another mesh.

    Args:
        given: the user's.
        domain: the mesh of the form.
        copy: what stands in the form in its place.
        matrix: from the local values of the given Function to those of the copy.
    """

    def __init__(self, given: Control, domain: mesh.Mesh, copy: Control | None = None, matrix: Any = None) -> None:
        self.given = given
        self.here = given if copy is None else copy
        self._domain = domain
        self._matrix = matrix

    @cached_property
    def direction(self) -> Control:
        """The register of its change, in the form."""
        return like(self.here, self._domain)

    @cached_property
    def space(self) -> fem.FunctionSpace:
        """In which a derivative in it is tested. Collective."""
        return dual_space(self.here, self._domain)

    @cached_property
    def _duals(self) -> tuple[fem.Function, fem.Function] | None:
        """Dual vectors of what stands in the form, and of what was given."""
        if not isinstance(self.here, fem.Function) or not isinstance(self.given, fem.Function):
            return None
        here = fem.Function(self.here.function_space)
        return here, here if self._matrix is None else fem.Function(self.given.function_space)

    def load(self) -> None:
        """The form sees what the given one holds now. Local."""
        if self.here is not self.given:
            values_of(self.here)[...] = self._taken(values_of(self.given))

    def move(self, change: Array) -> None:
        """Set the register of its change: from local values, or the entries of a Constant. Local."""
        register = values_of(self.direction)
        register[...] = np.reshape(self._taken(change), register.shape)

    def _taken(self, values: Array) -> Array:
        return values if self._matrix is None else np.asarray(self._matrix @ values)

    def dual(self, form: fem.Form | None) -> Array:
        """An assembled vector form: owned values, or a Constant's entries (the same on every rank). Collective."""
        if self._duals is None:
            entries = np.zeros(values_of(self.here).size)
            if form is not None:
                fem.assemble_vector(entries, form)
            return parallel.sum_over_ranks(self._domain.comm, entries)
        here, given = self._duals
        here.x.array[:] = 0.0
        if form is not None:
            fem.assemble_vector(here.x.array, form)
        if self._matrix is not None:
            given.x.array[:] = self._matrix.T @ here.x.array
        given.x.scatter_reverse(la.InsertMode.add)
        return given.x.array[: num_owned(given.function_space)].copy()


class FormObservable(Observable):
    """An observable of a form. Collective, as is every method unless it says "Local".

    Derivatives are made, and compiled, when they are first asked for.

    Args:
        held: the Functions and Constants that stand in it.
    """

    #: What it is made of, for messages.
    made_of = "form"

    def __init__(self, held: Iterable[Control]) -> None:
        self._held = list(held)
        self._state: fem.Function | None = None
        self._terminals: dict[int, Terminal] = {}
        self._made: dict[tuple[int, ...], fem.Form | None] = {}

    # -- of each kind --------------------------------------------------------------------------------------------------

    @abstractmethod
    def _scalar(self) -> ufl.Form:
        """s, its degrees fixed. Local."""

    @abstractmethod
    def _weigh(self, dy: Array) -> float:
        """Write Qᵀ dy into the weights; what adjoint products are to be multiplied by."""

    @abstractmethod
    def _change(self, moved: list[Terminal], changes: list[Array]) -> Array:
        """The derivative of y along changes of these: (size,)."""

    def _terminal(self, given: Control, domain: mesh.Mesh) -> Terminal:
        """How it stands in the form."""
        return Terminal(given, domain)

    # -- an observable -------------------------------------------------------------------------------------------------

    def tangent(self, u: fem.Function, du: fem.Function) -> Array:
        return self._along(u, {u: du.x.array})

    def control_tangent(self, u: fem.Function, dm: Mapping[Control, Array]) -> Array:
        return self._along(u, dm)

    def adjoint(self, u: fem.Function, dy: Array) -> Array:
        return self._dual(u, dy, u, {})

    def control_adjoint(self, u: fem.Function, dy: Array, control: Control) -> Array:
        return self._dual(u, dy, control, {})

    def second(self, u: fem.Function, dy: Array, du: fem.Function) -> Array:
        return self._dual(u, dy, u, {u: du.x.array})

    def control_second(
        self, u: fem.Function, dy: Array, of: Control, du: fem.Function, dm: Mapping[Control, Array]
    ) -> Array:
        return self._dual(u, dy, of, dm if of is u else {u: du.x.array, **dm})

    @property
    def parameters(self) -> list[Control]:
        # The state, too: which one that is differs between maps.
        return list(self._held)

    def check_state(self, state: fem.Function) -> None:
        if not any(state is t for t in self._held):
            raise BadProblem(f"{type(self).__name__}: the state {state.name!r} does not stand in the {self.made_of}")

    # -- the work ------------------------------------------------------------------------------------------------------

    def _load(self, u: fem.Function) -> None:
        """What the user's Functions and Constants hold now is what the form sees."""
        if self._state is not u:
            self.check_state(u)
            self._state = u
            self._terminals = self._terminals or {id(t): self._terminal(t, u.function_space.mesh) for t in self._held}
        for terminal in self._terminals.values():
            terminal.load()

    def _along(self, u: fem.Function, changes: Mapping[Control, Array]) -> Array:
        self._load(u)
        return self._change([self._terminals[id(f)] for f in changes], list(changes.values()))

    def _dual(self, u: fem.Function, dy: Array, of: Control, changes: Mapping[Control, Array]) -> Array:
        """(∂B/∂f)ᵀ dy of a Function or Constant f; with changes, its derivative along them."""
        self._load(u)
        factor, terminal = self._weigh(dy), self._terminals[id(of)]
        moved = [self._terminals[id(f)] for f in changes]
        for one, change in zip(moved, changes.values(), strict=True):
            one.move(change)
        return factor * terminal.dual(self._derived(terminal, *moved))

    def _derived(self, of: Terminal, *along: Terminal) -> fem.Form | None:
        """∂s/∂f as a vector form; with others, its derivative as they change together. None where it vanishes.

        Raises:
            BadProblem: where UFL has no such derivative, or it cannot be compiled.
        """
        key = tuple(map(id, (of, *along)))
        if key not in self._made:
            try:
                slope = self._slope(of)
                form = slope
                if along and slope is not None:
                    form = summed([derivative(slope, t.here, t.direction) for t in along])
                self._made[key] = compiled(form)
            except RelaxError:
                raise
            except Exception as cause:
                names = " and ".join(str(t.given) for t in (of, *along))
                raise BadProblem(
                    f"{type(self).__name__}: its derivative in {names} cannot be made, and its value needs none: "
                    f"{type(cause).__name__}: {cause}; expected functions that UFL differentiates"
                ) from cause
        return self._made[key]

    def _slope(self, of: Terminal) -> ufl.Form | None:
        return derivative(self._scalar(), of.here, ufl.TestFunction(of.space))
