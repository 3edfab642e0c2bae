"""Parts of a state that can be written and drawn: copies that follow it, the density of a wave function, magnitudes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from dolfinx import fem

from relax.base.fem import compat
from relax.base.types import Array


@dataclass(frozen=True)
class WrittenPart:
    """A field of its own that follows another one: ``update`` gives it the values that the other has now. Local."""

    field: fem.Function
    update: Callable[[], None]


def parts_of(name: str, u: fem.Function) -> list[WrittenPart]:
    """A field, or the parts of a mixed one, each in a space of its own: ``name``, or ``name_0``, ``name_1``, ...

    Collective.
    """
    V = u.function_space
    if V.num_sub_spaces > 0 and V.dofmap.bs == 1:
        parts = []
        for i in range(V.num_sub_spaces):
            space, parents = compat.collapse(V.sub(i))
            whole = fem.Function(space)
            parts += [_after(u, parents, whole, part) for part in parts_of(f"{name}_{i}", whole)]
        return parts
    copy = fem.Function(V, name=name)

    def update() -> None:
        copy.x.array[:] = u.x.array

    update()
    return [WrittenPart(copy, update)]


def _after(u: fem.Function, parents: npt.NDArray[np.int32], whole: fem.Function, part: WrittenPart) -> WrittenPart:
    """A part of ``whole``, which is a part of u."""

    def update() -> None:
        whole.x.array[:] = u.x.array[parents]
        part.update()

    update()
    return WrittenPart(part.field, update)


def density(name: str, psi: fem.Function) -> WrittenPart:
    """|psi|^2 of psi = u_0 + i u_1 at the nodes of psi. Collective."""
    return _of_components(name, psi, lambda squares: squares)


def scalar_of(name: str, u: fem.Function, *, wave: bool) -> WrittenPart:
    """What is drawn of a state: itself where it is a scalar, the density of a wave function, else the magnitude.

    Collective. Of a mixed state it is the first part.
    """
    first = parts_of(name, u)[0]
    V = first.field.function_space
    shape = tuple(V.value_shape)
    if shape == ():
        return first
    # Edge elements and their like have no components: their values at points do.
    blocked = V.dofmap.bs > 1
    nodal = first.field if blocked else fem.Function(fem.functionspace(V.mesh, ("DG", V.ufl_element().degree, shape)))
    last = density("density", nodal) if wave else _of_components(f"|{name}|", nodal, np.sqrt)

    def update() -> None:
        first.update()
        if not blocked:
            nodal.interpolate(first.field)
        last.update()

    update()
    return WrittenPart(last.field, update)


def _of_components(name: str, u: fem.Function, function: Callable[[Array], Array]) -> WrittenPart:
    """A function of the sum of the squared components, at the nodes of a blocked space. Collective."""
    V = u.function_space
    scalar, first = compat.collapse(V.sub(0))
    result = fem.Function(scalar, name=name)

    def update() -> None:
        components = (u.x.array[first + i] for i in range(V.dofmap.bs))
        result.x.array[:] = function(np.asarray(sum(c**2 for c in components)))

    update()
    return WrittenPart(result, update)


def in_one_element(fields: Sequence[fem.Function]) -> list[fem.Function]:
    """New fields, by the names of these, in the element that a VTX file of all of them needs; not interpolated yet.

    Collective. It has the highest degree among them, and is discontinuous when one of them is.
    """
    elements = [u.function_space.ufl_element() for u in fields]
    family = "DG" if any(e.discontinuous for e in elements) else "Lagrange"
    return in_spaces(fields, family, max(1, *(e.degree for e in elements)))


def in_spaces(fields: Sequence[fem.Function], family: str, degree: int) -> list[fem.Function]:
    """New fields, by the names of these, one space for each shape; not interpolated yet. Collective."""
    spaces: dict[tuple[int, ...], fem.FunctionSpace] = {}
    new = []
    for u in fields:
        V = u.function_space
        shape = tuple(V.value_shape)
        if shape not in spaces:
            spaces[shape] = fem.functionspace(V.mesh, (family, degree, shape) if shape else (family, degree))
        new.append(fem.Function(spaces[shape], name=u.name))
    return new


def num_values(V: fem.FunctionSpace) -> int:
    """Degrees of freedom of a space over all ranks. Local."""
    return int(V.dofmap.index_map.size_global * V.dofmap.index_map_bs)


def num_bytes(fields: Sequence[fem.Function]) -> int:
    """What the values of these take over all ranks. Local."""
    return sum(8 * num_values(u.function_space) for u in fields)
