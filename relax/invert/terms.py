"""What is minimised: terms that add up, each with a weight."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, TypeAlias

import ufl

from relax.base import lazy
from relax.base.checks import as_number
from relax.errors import BadInput

_WORDS = "a relax.Misfit, a map of one number, a UFL form in the controls, or a prior"

#: A weight and a ``Misfit``, a map of one number, a form in the controls, or a prior.
Weighted: TypeAlias = tuple[float, Any]


class Term(ABC):
    """A part of J: terms add up with ``+``, also with what is none, and ``2.0 * term`` has twice the weight."""

    # NumPy's numbers leave the product to ``__rmul__``.
    __array_ufunc__ = None

    @property
    @abstractmethod
    def weighted(self) -> list[Weighted]:
        """The parts with their weights."""

    def scipy(self) -> Any:
        """``fun``, ``jac`` and ``hessp`` of this as J, for optimisers of other software. Collective.

        Returns:
            :class:`relax.invert.scipy_bridge.ScipyFunctions`.

        Raises:
            BadInput: where there is no map among the terms, or a map has a part of each control on each rank.
        """
        # Objectives know of terms.
        return lazy.part("relax.invert.objective:Objective")(self).scipy()

    def __add__(self, other: Any) -> TermSum:
        return TermSum([*self.weighted, *weighted_of(other)])

    def __radd__(self, other: Any) -> TermSum:
        # sum([...]) begins with 0.
        return TermSum(
            self.weighted if isinstance(other, int) and other == 0 else [*weighted_of(other), *self.weighted]
        )

    def __mul__(self, factor: Any) -> TermSum:
        number = as_number(factor)
        if not math.isfinite(number):
            raise BadInput(f"the weight of a term: expected a finite number, got {factor!r:.80}")
        return TermSum([(number * weight, part) for weight, part in self.weighted])

    __rmul__ = __mul__


class TermSum(Term):
    """Several terms.

    Args:
        weighted: the parts with their weights.
    """

    def __init__(self, weighted: list[Weighted]) -> None:
        self._weighted = weighted

    @property
    def weighted(self) -> list[Weighted]:
        return self._weighted


class Cost(Term):
    """J by itself, as a term that others can be added to: ``relax.Cost(G) + 0.5 * alpha * m**2 * ufl.dx``.

    Args:
        what: a map of one number, y = J(u(m), m), as a ``ReducedMap`` of a :class:`relax.Functional` is; a UFL form
            without arguments in the controls, or a prior, which are terms beside another one also as they are. A form
            in which a control with a value in each step stands is summed over the steps.

    Raises:
        BadInput: for anything else.
    """

    def __init__(self, what: Any) -> None:
        self._weighted = weighted_of(what)

    @property
    def weighted(self) -> list[Weighted]:
        return self._weighted


def weighted_of(what: Any) -> list[Weighted]:
    """The parts of a term, or of what is taken for one. Local.

    Raises:
        BadInput: for anything else.
    """
    if isinstance(what, Term):
        return list(what.weighted)
    if isinstance(what, type):
        raise BadInput(f"J: expected {_WORDS}, got {what!r:.80}, the class; make one")
    if isinstance(what, ufl.Form):
        if what.arguments():
            raise BadInput("J: expected a UFL form without test and trial functions, got one with them")
        return [(1.0, what)]
    if hasattr(what, "linearize"):
        if what.size_out != 1:
            raise BadInput(
                f"J: expected a map of one number, such as that of a relax.Functional, got one of {what.size_out}; "
                "relax.Misfit(G, data) compares them with data"
            )
        return [(1.0, what)]
    if is_prior(what):
        return [(1.0, what)]
    raise BadInput(f"J: expected {_WORDS}, or a sum of these, got {type(what).__name__}")


def is_prior(what: Any) -> bool:
    """Whether it has the cost and the gradient of a prior. Local."""
    return hasattr(what, "cost") and hasattr(what, "gradient") and hasattr(what, "kind")
