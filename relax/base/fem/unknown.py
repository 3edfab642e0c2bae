"""The field of an equation that is sought, or solved in closed form: u and its derivatives in time, in UFL."""

from __future__ import annotations

from functools import cached_property

from dolfinx import fem

from relax.base.checks import of_kind


class Unknown(fem.Function):
    """The field u of an equation, or a derivative of it in time. Made by :func:`unknown`.

    Attributes:
        order: how many derivatives in time.
        field: u itself.
    """

    def __init__(self, V: fem.FunctionSpace, order: int = 0, field: Unknown | None = None) -> None:
        super().__init__(V, name="u" + "_" * (order > 0) + "t" * order)
        self.order = order
        self.field = self if field is None else field

    @cached_property
    def dt(self) -> Unknown:
        """The derivative in time, u_t of u, u_tt of u_t."""
        return Unknown(self.function_space, self.order + 1, self.field)


def unknown(V: fem.FunctionSpace) -> Unknown:
    """The field u of an equation, in a space on its mesh; ``u.dt`` is u_t, ``u.dt.dt`` u_tt.

    Collective.

    Raises:
        BadInput: when V is no space.
    """
    of_kind(V, fem.FunctionSpace, "a function space", "unknown: V")
    return Unknown(V)
