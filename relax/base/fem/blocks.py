"""Fields that are solved for together, each in a space of its own, as one Function of a mixed space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import basix.ufl
import numpy as np
from dolfinx import fem

from relax.base import parallel
from relax.base.fem.extended import Extended
from relax.base.fem.forms import cell_dofs
from relax.base.types import Array, Indices
from relax.errors import BadProblem


class BlockState(fem.Function):
    """Functions of spaces on one mesh as one: of the mixed space of their elements, which has the same basis functions.

    Those on parts of the mesh are zero off these. Collective, as is every method.

    Args:
        blocks: the Functions, at least two.
        extended: for each of them, what it is on the mesh of the whole, where it is on a part of it; else None.

    Attributes:
        blocks: the Functions.
        extended: as given.
        dofs: for each of them, which local values of the whole its own are, ghosts included.

    Raises:
        BadProblem: for elements that no mixed element can be made of.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> BlockState:
        return object.__new__(cls)  # UFL's own looks at positional arguments

    def __init__(self, blocks: Sequence[fem.Function], extended: Sequence[Extended | None] = ()) -> None:
        self.extended = tuple(extended) or (None,) * len(blocks)
        fields = [u if e is None else e.function for u, e in zip(blocks, self.extended, strict=True)]
        spaces = [u.function_space for u in fields]
        try:
            element = basix.ufl.mixed_element([V.ufl_element() for V in spaces])
            W = fem.functionspace(spaces[0].mesh, element)
        except Exception as cause:
            elements = ", ".join(str(V.ufl_element()) for V in spaces)
            raise BadProblem(
                f"state: no mixed element can be made of {elements} ({type(cause).__name__}: {cause}); try others"
            ) from cause
        super().__init__(W, name=f"({', '.join(u.name for u in blocks)})")
        self.blocks = tuple(blocks)
        #: As ``dofs``, of what they are on the mesh of the whole.
        self.places: tuple[Indices, ...] = tuple(_dofs_in(u, W.sub(i)) for i, u in enumerate(fields))
        self.dofs: tuple[Indices, ...] = tuple(
            dofs if e is None else dofs[e.dofs] for dofs, e in zip(self.places, self.extended, strict=True)
        )
        #: What the blocks held when they and the whole last held the same.
        self.exchanged: list[Array | None] = [None] * len(self.blocks)
        take_in(self)

    @property
    def off(self) -> Indices:
        """The local values that are held at zero as the meshes of their blocks do not have them. Local."""
        held = [places[e.off] for places, e in zip(self.places, self.extended, strict=True) if e is not None]
        return np.concatenate([np.empty(0, dtype=np.int64), *held])

    def joined(self, values: Sequence[Array | None]) -> fem.Function:
        """A Function of the mixed space with these local values in its blocks; None for zeros."""
        whole = fem.Function(self.function_space)
        for i, one in enumerate(values):
            if one is not None:
                self.put(i, one, whole)
        return whole

    def put(self, i: int, values: Array, whole: fem.Function) -> None:
        """Write local values of block i into a Function of the mixed space; off the mesh of the block, zeros."""
        extended = self.extended[i]
        whole.x.array[self.places[i]] = values if extended is None else extended.spread(values)


def take_in(state: object) -> None:
    """A state of blocks takes the values of those that have changed since the last exchange. Collective."""
    if not isinstance(state, BlockState):
        return
    for i, (block, before) in enumerate(zip(state.blocks, state.exchanged, strict=True)):
        is_new = before is None or not np.array_equal(block.x.array, before)
        if is_new if state.extended[i] is None else parallel.any_rank(state.function_space.mesh.comm, is_new):
            state.put(i, block.x.array, state)
    hand_out(state)


def hand_out(state: object) -> None:
    """The blocks of a state take its values. Local."""
    if isinstance(state, BlockState):
        for i, (block, dofs) in enumerate(zip(state.blocks, state.dofs, strict=True)):
            block.x.array[:] = state.x.array[dofs]
            state.exchanged[i] = block.x.array.copy()


def registers_of(state: fem.Function) -> list[fem.Function]:
    """What holds a state: its Function, and those of its blocks. Local."""
    return [state, *state.blocks] if isinstance(state, BlockState) else [state]


def _dofs_in(block: fem.Function, part: fem.FunctionSpace) -> Indices:
    """The local values of a mixed space that those of a block are, which has the same ones in each cell. Collective.

    Raises:
        BadProblem: where it has not.
    """
    V = block.function_space
    own, of_whole = cell_dofs(V, slice(None)), cell_dofs(part, slice(None))
    dofs: Indices = np.zeros(len(block.x.array), dtype=np.int64)
    dofs[own] = of_whole
    fits = np.array_equal(dofs[own], of_whole) and len(np.unique(dofs)) == len(dofs)
    if parallel.any_rank(V.mesh.comm, not fits):
        raise BadProblem(
            f"state: {block.name!r} is in a space of {V.ufl_element()} whose degrees of freedom are tied together; "
            "expected one that fem.functionspace makes"
        )
    return dofs
