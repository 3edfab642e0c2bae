"""What is seen of the blocks of a state, written in the Functions and the spaces of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from dolfinx import fem

from relax.base.fem.blocks import BlockState
from relax.base.fem.extended import collected
from relax.base.fem.forms import Control, num_owned
from relax.base.fem.subspace import StatePart
from relax.base.types import Array, Indices
from relax.errors import BadInput, BadProblem
from relax.observe.base import Observable, Stack


def seen_of(observable: Observable, state: fem.Function) -> Observable:
    """An observable of a state, or of one or several of its blocks, as one of the state.

    Raises:
        BadProblem: when it is neither; when it does not say of which block it is, with what does.
    """
    if not isinstance(state, BlockState):
        observable.check_state(state)
        return observable
    if type(observable) is Stack:
        return Stack([seen_of(part, state) for part in observable.parts])
    held = [u for u in state.blocks if observable.holds(u)]
    if not held and _is_of(observable, state):
        return observable
    name = type(observable).__name__
    if held and observable.holds(state):
        raise BadProblem(f"{name}: it holds problem.state and a block of it, {held[0].name!r}, at once")
    seen = states_seen(observable, state.blocks)
    blocks = [state.blocks[i] for i in seen]
    observable.check_controls(blocks[1:])
    is_shared = any(state.extended[i] is not None for i in seen)
    return OfBlocks(observable, blocks, [state.dofs[i] for i in seen], is_shared=is_shared)


def states_seen(
    observable: Observable, states: Sequence[fem.Function], solved: Sequence[int] | None = None
) -> list[int]:
    """Which of several states an observable sees: first the one that is its state, then those that it holds beside.

    Local.

    Args:
        observable: of which its own is one that it does not name, and else the first that it holds.
        states: the states.
        solved: those that equations give, of which one is meant where a space is that of others as well; all when left
            out.

    Raises:
        BadProblem: where it sees none, or names a space that is that of several.
    """
    held = [i for i, u in enumerate(states) if observable.holds(u)]
    unnamed = [i for i, u in enumerate(states) if i not in held and _is_of(observable, u)]
    if not held and solved is not None:
        unnamed = [i for i in unnamed if i in solved] or unnamed
    name, names = type(observable).__name__, ", ".join(repr(u.name) for u in states)
    if len(unnamed) > 1:
        u = states[unnamed[0]]
        raise BadProblem(
            f"{name}: {' and '.join(repr(states[i].name) for i in unnamed)} have that space; say which is meant by "
            f"ExpressionValues({u.name}, points), ExpressionField({u.name}, V), or a Functional in which it stands"
        )
    if not unnamed and not held:
        raise BadProblem(
            f"{name}: expected a form or an expression in one or several of {names}, the space of one of them, or a "
            "part of it"
        )
    return [*unnamed, *held]


def _is_of(observable: Observable, state: fem.Function) -> bool:
    try:
        observable.check_state(state)
    except BadProblem:
        return False
    return True


class OfBlocks(Observable):
    """An observable of the first of some blocks, beside which the others stand as controls do, as one of their whole.

    Args:
        observable: B(u_1, u_2, ..., m).
        blocks: u_1, u_2, ...: registers that are written.
        dofs: which local values of the whole those of each are, ghosts included.
        is_shared: whether a rank can own values of a block that another one owns of the whole.
    """

    def __init__(
        self,
        observable: Observable,
        blocks: Sequence[fem.Function],
        dofs: Sequence[Indices],
        *,
        is_shared: bool = False,
    ) -> None:
        self.observable = observable
        self.size = observable.size
        self.is_linear = observable.is_linear and len(blocks) == 1
        self._blocks, self._dofs = list(blocks), list(dofs)
        self._is_shared = is_shared
        self._change: fem.Function | None = None

    @property
    def parameters(self) -> list[Control]:
        return [p for p in self.observable.parameters if not any(p is u for u in self._blocks)]

    def value(self, u: fem.Function) -> Array:
        return self.observable.value(self._load(u))

    def tangent(self, u: fem.Function, du: fem.Function) -> Array:
        first, (change, others) = self._load(u), self._changes(du)
        seen = self.observable.tangent(first, change)
        return seen + self.observable.control_tangent(first, others) if others else seen

    def adjoint(self, u: fem.Function, dy: Array) -> Array:
        first, seen = self._load(u), self.observable
        others = [seen.control_adjoint(first, dy, p) for p in self._blocks[1:]]
        return self._dual(u, [seen.adjoint(first, dy), *others])

    def second(self, u: fem.Function, dy: Array, du: fem.Function) -> Array:
        first, (change, others) = self._load(u), self._changes(du)
        seen = self.observable
        parts = [seen.second(first, dy, change)]
        if others:
            parts[0] = parts[0] + seen.control_second(first, dy, first, change, others)
        return self._dual(u, [*parts, *(seen.control_second(first, dy, p, change, others) for p in others)])

    def control_tangent(self, u: fem.Function, dm: Mapping[Control, Array]) -> Array:
        return self.observable.control_tangent(self._load(u), dm)

    def control_adjoint(self, u: fem.Function, dy: Array, control: Control) -> Array:
        return self.observable.control_adjoint(self._load(u), dy, control)

    def control_second(
        self, u: fem.Function, dy: Array, of: Control, du: fem.Function, dm: Mapping[Control, Array]
    ) -> Array:
        first, (change, others) = self._load(u), self._changes(du)
        seen = self.observable
        if of is not u:
            return seen.control_second(first, dy, of, change, {**others, **dm})
        # Along dm alone.
        change.x.array[:] = 0.0
        return self._dual(u, [seen.control_second(first, dy, p, change, dm) for p in self._blocks])

    def check_controls(self, controls: Sequence[Control]) -> None:
        self.observable.check_controls(controls)

    def on(self, state: fem.Function, other: fem.Function) -> Observable:
        if not isinstance(state, BlockState):
            raise BadInput(f"{type(self.observable).__name__}: expected the state of blocks, got {state.name!r}")
        observable, blocks, dofs = self.observable, [], []
        for u in self._blocks:
            part = StatePart(other.function_space.sub(state.blocks.index(u)))
            copy = fem.Function(part.space, name=u.name)
            observable = observable.on(u, copy)
            blocks.append(copy)
            dofs.append(part.in_state(np.arange(len(copy.x.array), dtype=np.int32)).astype(np.int64))
        return OfBlocks(observable, blocks, dofs)

    # -- from the whole and back ---------------------------------------------------------------------------------------

    def _load(self, u: fem.Function) -> fem.Function:
        """The blocks hold what the whole does; the first of them."""
        for block, dofs in zip(self._blocks, self._dofs, strict=True):
            block.x.array[:] = u.x.array[dofs]
        return self._blocks[0]

    def _changes(self, du: fem.Function) -> tuple[fem.Function, dict[Control, Array]]:
        """A change of the whole, as that of the first block, and of the others."""
        if self._change is None:
            self._change = fem.Function(self._blocks[0].function_space)
        self._change.x.array[:] = du.x.array[self._dofs[0]]
        others = zip(self._blocks[1:], self._dofs[1:], strict=True)
        return self._change, {block: du.x.array[dofs] for block, dofs in others}

    def _dual(self, u: fem.Function, parts: Sequence[Array]) -> Array:
        """A dual vector of the whole, from those of the blocks: owned values."""
        dual = np.zeros(len(u.x.array))
        for part, dofs in zip(parts, self._dofs, strict=True):
            dual[dofs[: len(part)]] = part
        return collected(u.function_space, dual) if self._is_shared else dual[: num_owned(u.function_space)]
