"""Numbers and words that a user hands over. Local: where the ranks were given the same, they raise the same."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, TypeAlias

from relax.errors import BadInput

#: Whether a number will do, which NaN never does, and what was expected, in words.
Rule: TypeAlias = tuple[Callable[[float], bool], str]

ABOVE_0: Rule = (lambda v: 0.0 < v < math.inf, "a finite number above 0")
AT_LEAST_0: Rule = (lambda v: 0.0 <= v < math.inf, "a finite number of at least 0")
FRACTION: Rule = (lambda v: 0.0 <= v < 1.0, "a number in [0, 1)")

# What is a control vector, by the names that messages have for it.
_VECTORS = ("control", "direction", "m0", "mean")


def as_number(value: Any) -> float:
    """A real number as a float, be it Python's, NumPy's, or an array or a tensor without axes; else NaN.

    What changes later, or is differentiated, is no number: a Constant, a tensor that requires a gradient.
    """
    if getattr(value, "ndim", None) == 0 and not getattr(value, "requires_grad", False):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def number_in(value: Any, rule: Rule, what: str) -> float:
    """``value`` as a float.

    Args:
        value: whatever :func:`as_number` takes.
        rule: of which numbers will do.
        what: the name of the argument, for the message.

    Raises:
        BadInput: when it is no number, or breaks the rule.
    """
    holds, words = rule
    number = as_number(value)
    if not holds(number):
        raise BadInput(f"{what}: expected {words}, got {value!r}")
    return number


def positive(value: Any, what: str) -> float:
    """``value`` as a float.

    Raises:
        BadInput: unless it is a finite number above 0.
    """
    return number_in(value, ABOVE_0, what)


def at_least(value: Any, least: int, what: str) -> int:
    """``value`` as an int.

    Raises:
        BadInput: unless it is a whole number of at least ``least``; 3.0 and True are none.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise BadInput(f"{what}: expected a whole number of at least {least}, got {value!r}")
    return int(value)


def of_kind(value: Any, kinds: type | tuple[type, ...], words: str, what: str) -> None:
    """Refuse what is something else.

    Raises:
        BadInput: with what was expected, in ``words``.
    """
    if not isinstance(value, kinds):
        hint = ", the class; make one" if isinstance(value, type) else ""
        raise BadInput(f"{what}: expected {words}, got {value!r:.80}{hint}")


def several(value: Any, words: str, what: str) -> tuple[Any, ...]:
    """A list, or what else can be gone through, as a tuple.

    Raises:
        BadInput: for a single thing, with what there should be several of, in ``words``.
    """
    if isinstance(value, str) or hasattr(value, "ufl_shape") or not isinstance(value, Iterable):
        hint = "" if value is None else "; a single one goes into brackets"
        raise BadInput(f"{what}: expected a list of {words}, got {value!r:.80}{hint}")
    return tuple(value)


def one_of(value: Any, known: Sequence[str], what: str) -> None:
    """Refuse a word that is not among two or more.

    Raises:
        BadInput: then.
    """
    if not isinstance(value, str) or value not in known:
        near = closest(value, known) if isinstance(value, str) else None
        words = f"{', '.join(map(repr, known[:-1]))} or {known[-1]!r}"
        raise BadInput(f"{what}: expected {words}, got {value!r}" + (f"; did you mean {near!r}?" if near else ""))


def array_like(values: Any, what: str) -> Any:
    """``values``, for NumPy to make an array of.

    Raises:
        BadInput: for what NumPy hangs on, loses something of, or should not take: UFL, tensors that require a gradient,
            masked arrays.
    """
    if isinstance(values, list | tuple):
        for entry in values:
            if not isinstance(entry, float | int):
                array_like(entry, what)
        return values
    if hasattr(values, "ufl_shape"):
        # UFL turns itself into a number by evaluating itself, for ever.
        vector = "; `relax.control_values(G, f)` is the control vector of functions, constants and expressions"
        raise BadInput(f"{what}: expected numbers, got UFL's {type(values).__name__}" + vector * (what in _VECTORS))
    if getattr(values, "requires_grad", False):
        raise BadInput(
            f"{what}: expected numbers, got a tensor that requires a gradient, which would end here; "
            "`relax.SolutionLayer(G)` is differentiated through, m.detach() is an array"
        )
    if type(values).__name__ == "MaskedArray":
        raise BadInput(f"{what}: expected numbers, got a masked array; fill it, or leave out what is masked")
    return values


def closest(word: str, known: Collection[str], *, cutoff: float = 0.5) -> str | None:
    """The known word that an unknown one is most like; None where none is like it by ``cutoff``, from 0 to 1."""
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=cutoff)), None)


def nearest(word: str, known: Collection[str]) -> str:
    """``"; did you mean 'x'?"`` followed by what there is, for the end of a message about an unknown name."""
    near = closest(word, known)
    ask = f"; did you mean {near!r}?" if near else ""
    return f"{ask} (there is: {', '.join(known)})"


# What torch's optimisers let choose of how they compute; these here have one way.
_OF_TORCH = {"foreach": (None, False, True), "fused": (None, False), "differentiable": (False,), "capturable": (False,)}
_WHY = {
    "fused": "there is no kernel that takes a whole step",
    "differentiable": "a step is taken without a graph",
    "capturable": "a step looks at the loss, which no CUDA graph can",
}


def check_of_torch(name: str, given: dict[str, Any], known: Iterable[str]) -> None:
    """Refuse keywords of torch's optimisers that would change nothing though they ask for it, and unknown ones.

    Raises:
        BadInput: naming the keyword.
    """
    for key, value in given.items():
        if key not in _OF_TORCH:
            raise BadInput(f"{name}: unknown keyword {key!r}{nearest(key, [*known, *_OF_TORCH])}")
        if value not in _OF_TORCH[key]:
            why = _WHY.get(key, "small tensors go together in any case")
            raise BadInput(f"{name}: {key}: expected {_OF_TORCH[key][0]}, got {value!r}: {why}")
