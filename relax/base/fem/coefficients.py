"""What a user gives as a coefficient (a number, a function of x, a UFL expression, a Function) as one UFL object."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from dolfinx import fem
from mpi4py import MPI
from ufl.core.expr import Expr
from ufl.domain import extract_domains

from relax.base import parallel
from relax.base.fem import compat
from relax.base.fem.expansion import Expansion
from relax.base.fem.pointwise import refuse_laws
from relax.base.types import Array
from relax.errors import BadInput

# Of the extent of a mesh: a point this near to it is on it, whatever rounding says.
_ROUNDING = 1e-9

Coefficient: TypeAlias = float | Sequence[float] | Array | Callable[[Array], Any] | Expr


def as_coefficient(value: Coefficient, V: fem.FunctionSpace) -> Expr:
    """A coefficient for a form on the mesh of ``V``.

    Collective.

    Args:
        value: a number or a sequence of numbers, which becomes a ``fem.Constant``; a function of x, with x of shape
            (3, n), or a Function of another mesh, which is interpolated in ``V``; or a UFL expression, ``fem.Function``
            or ``fem.Constant``, which is passed through and so stays live.
        V: where a function of x is interpolated.

    Raises:
        BadInput: when it is none of these, or its values are not finite or not of one shape with those of ``V``.
    """
    if _is_of_another_mesh(value, V):
        return interpolated(value, V)
    if isinstance(value, Expr):
        _check_mesh(value, V)
        return value
    if callable(value):
        return interpolated(value, V)
    return fem.Constant(V.mesh, _numbers(value, V.value_shape))


def interpolated(value: Coefficient, V: fem.FunctionSpace) -> fem.Function:
    """A new Function in ``V`` with these values at this moment: a coefficient that stays, whatever the given one does.

    Collective.

    Args:
        value: a number, which fills every component; a function of x; a UFL expression; or a Function on any mesh over
            the same ranks, whose values at the points of ``V`` are taken. For a mixed space a list of these, one for
            each of its parts, the number 0, or a Function in it.
        V: a space.

    Raises:
        BadInput: for none of these, and where points of ``V`` are outside the mesh of a Function, with how many.
    """
    result = fem.Function(V)
    parts = V.num_sub_spaces if V.num_sub_spaces > 0 and V.dofmap.bs == 1 else 0
    if parts and isinstance(value, list | tuple):
        if len(value) != parts:
            raise _not_of_parts(value, parts)
        for i, of_part in enumerate(value):
            part, dofs = compat.collapse(V.sub(i))
            result.x.array[dofs] = interpolated(of_part, part).x.array
        return result
    if _is_of_another_mesh(value, V):
        _interpolate_across(result, value)
        return result
    if isinstance(value, Expr):
        _interpolate_ufl(result, value)
        return result
    if callable(value):
        function = value
    else:
        numbers = _numbers(value, V.value_shape)
        if not np.any(numbers):
            return result

        def function(x: Array) -> Array:
            return numbers.ravel()

    size = int(np.prod(V.value_shape, dtype=np.int64))
    if parts:
        raise _not_of_parts(value, parts)
    with parallel.together(V.mesh.comm):
        result.interpolate(lambda x: _values_at(function, x, size))
    return result


def _not_of_parts(value: Any, parts: int) -> BadInput:
    return BadInput(
        f"a mixed space takes a list of {parts} values, one for each of its parts W.sub(i), the number 0 or a Function "
        f"in it; got {value!r:.80}"
    )


def local_values(terminal: fem.Function | fem.Constant, value: Any, what: str) -> Array:
    """What a Function (owned and ghosts) or a Constant is to hold.

    Collective.

    Args:
        terminal: of which kind.
        value: as :func:`interpolated` takes it; for a Constant a number, or an array of its shape; for an expansion a
            number, or an array of its numbers.
        what: the argument's name, for the message.
    """
    if isinstance(terminal, Expansion):
        return terminal.spread(terminal.checked(value, what))
    if isinstance(terminal, fem.Function):
        return interpolated(value, terminal.function_space).x.array
    try:
        if np.iscomplexobj(value):
            raise TypeError("complex")
        return np.broadcast_to(np.asarray(value, dtype=np.float64), terminal.value.shape).copy()
    except (TypeError, ValueError) as cause:
        raise BadInput(
            f"{what}: expected a number or an array of shape {terminal.value.shape} for {terminal}, got {value!r:.80}"
        ) from cause


def _interpolate_ufl(result: fem.Function, value: Expr) -> None:
    V = result.function_space
    if tuple(value.ufl_shape) != tuple(V.value_shape):
        raise BadInput(f"expected an expression of shape {tuple(V.value_shape)}, got shape {tuple(value.ufl_shape)}")
    refuse_laws(value, "an expression that is interpolated")
    _check_mesh(value, V, least=1)
    # Between elements that DOLFINx knows, nothing has to be compiled.
    given = value if isinstance(value, fem.Function) else fem.Expression(value, compat.interpolation_points(V))
    result.interpolate(given)


def _is_of_another_mesh(value: object, V: fem.FunctionSpace) -> bool:
    return isinstance(value, fem.Function) and value.function_space.mesh is not V.mesh


def _interpolate_across(result: fem.Function, value: Any) -> None:
    """The values of a Function of another mesh. Collective."""
    V, W = result.function_space, value.function_space
    comm = V.mesh.comm
    if MPI.Comm.Compare(comm, W.mesh.comm) not in (MPI.IDENT, MPI.CONGRUENT):
        raise BadInput(f"{value} is on a mesh over other ranks; expected one over those of the space")
    if tuple(W.value_shape) != tuple(V.value_shape) or V.num_sub_spaces > 0 and V.dofmap.bs == 1:
        raise BadInput(
            f"expected a Function with values of shape {tuple(V.value_shape)}, in a space that is not mixed, for "
            f"{V.ufl_element()}; got {value} of {W.ufl_element()}"
        )
    index_map = V.mesh.topology.index_map(V.mesh.topology.dim)
    cells = np.arange(index_map.size_local + index_map.num_ghosts, dtype=np.int32)
    low, high = parallel.extremes(comm, W.mesh.geometry.x)
    data = fem.create_interpolation_data(V, W, cells, padding=_ROUNDING * float((high - low).max()))
    owners = np.asarray(compat.point_owners(data))
    if outside := parallel.total(comm, int(np.count_nonzero(owners < 0))):
        raise BadInput(
            f"{value}: {outside} of {parallel.total(comm, len(owners))} points of the space are outside its mesh; "
            "expected a Function whose mesh covers that of the space"
        )
    result.interpolate_nonmatching(value, cells, data)
    result.x.scatter_forward()


def _check_mesh(value: Expr, V: fem.FunctionSpace, least: int = 0) -> None:
    domains = extract_domains(value)
    if len(domains) < least or any(domain != V.mesh.ufl_domain() for domain in domains):
        raise BadInput(f"expected an expression on the same mesh as the space, got {value}; plain numbers need no UFL")


def _numbers(value: Any, shape: tuple[int, ...]) -> Array:
    """Finite numbers of this shape; a single one is repeated."""
    if _holds_ufl(value):
        # NumPy takes a scalar Constant for the number that it is now.
        raise BadInput("expected numbers, got UFL among them; write ufl.as_vector([...]), or ufl.as_matrix")
    if np.iscomplexobj(value):
        raise BadInput(f"expected real numbers, got complex ones: {value!r:.80}")
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.array(np.nan)
    if numbers.shape not in ((), tuple(shape)) or not np.isfinite(numbers).all() or isinstance(value, str | bool):
        several = f" or {shape} of them" if shape else ""
        raise BadInput(
            f"expected a finite number{several}, a function of x, a UFL expression, a Function or a Constant; "
            f"got {value!r}"
        )
    return np.broadcast_to(numbers, shape).copy()


def _holds_ufl(value: Any) -> bool:
    if isinstance(value, np.ndarray) and value.dtype == object:
        value = value.tolist()
    return isinstance(value, Expr) or (isinstance(value, list | tuple) and any(map(_holds_ufl, value)))


def _values_at(function: Callable[[Array], Any], x: Array, size: int) -> Array:
    """``function(x)`` as an array (size, n); what does not depend on x is repeated."""
    try:
        values = np.asarray(function(x))
    except Exception as cause:
        raise BadInput(
            f"a function of x failed: {type(cause).__name__}: {cause}; x is an array of shape {x.shape}, whatever the "
            "dimension of the mesh, and values are wanted for all points at once"
        ) from cause
    if np.iscomplexobj(values):
        raise BadInput("a function of x gave complex values; expected real ones")
    flat = values.reshape(-1, 1) if values.ndim == 0 or values.shape == (size,) and x.shape[1] != size else values
    if size == 1 and flat.shape == (x.shape[1],):
        flat = flat[None, :]
    try:
        return np.array(np.broadcast_to(flat, (size, x.shape[1])), dtype=np.float64)
    except ValueError as cause:
        raise BadInput(
            f"a function of x gave shape {values.shape} for x of shape {x.shape}; expected ({size}, {x.shape[1]})"
            + (f" or ({x.shape[1]},)" if size == 1 else "")
        ) from cause
