"""Derivatives of formulas at points by propagation: value, first and second derivatives through +, * and functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

#: The axes that are derived in, in ascending order: () is the value, (0, 1) the mixed derivative.
Key: TypeAlias = tuple[int, ...]
#: Values and derivatives, arrays that broadcast; what is missing vanishes. Complex, for steps along the imaginary axis.
Jet: TypeAlias = dict[Key, npt.NDArray[Any]]


def closed(keys: Iterable[Key]) -> tuple[Key, ...]:
    """The derivatives that these are made of, lower ones first: () among them."""
    found = {()} | {k for key in keys for k in (key, key[:1], key[1:])}
    return tuple(sorted(found, key=lambda key: (len(key), key)))


def plus(a: Jet, b: Jet) -> Jet:
    """a + b."""
    both = {key: a[key] + b[key] for key in a.keys() & b.keys()}
    return a | b | both


def times(a: Jet, b: Jet, keys: Iterable[Key]) -> Jet:
    """a b by the product rule, the derivatives ``keys``."""
    return _summed(
        (key, a[left] * b[right])
        for key in keys
        for left, right in _splits(key)
        if left in a and right in b
    )  # fmt: skip


def composed(function: str, a: Jet, keys: Iterable[Key]) -> Jet:
    """f(a) by the chain rule. ``keys`` are closed."""
    value, first, second = FUNCTIONS[function](a[()])
    result: Jet = {(): value}
    for key in keys:
        terms = []
        if key and key in a:
            terms.append(first * a[key])
        if len(key) == 2 and key[:1] in a and key[1:] in a:
            terms.append(second * a[key[:1]] * a[key[1:]])
        if terms:
            result[key] = sum(terms[1:], start=terms[0])
    return result


def _splits(key: Key) -> list[tuple[Key, Key]]:
    """The ways in which a product shares a derivative among its factors."""
    if len(key) < 2:
        return [(key, ()), ((), key)] if key else [((), ())]
    return [(key, ()), (key[:1], key[1:]), (key[1:], key[:1]), ((), key)]


def _summed(terms: Iterable[tuple[Key, npt.NDArray[Any]]]) -> Jet:
    result: Jet = {}
    for key, term in terms:
        result[key] = result[key] + term if key in result else term
    return result


def _exp(a: Any) -> tuple[Any, Any, Any]:
    value = np.exp(a)
    return value, value, value


def _sin(a: Any) -> tuple[Any, Any, Any]:
    value = np.sin(a)
    return value, np.cos(a), -value


def _inv(a: Any) -> tuple[Any, Any, Any]:
    value = 1.0 / a
    return value, -(value**2), 2.0 * value**3


def _log(a: Any) -> tuple[Any, Any, Any]:
    # Of what is not positive the complex logarithm has a value, which would count.
    a = np.where(np.real(a) > 0.0, a, np.nan)
    return np.log(a), 1.0 / a, -(a**-2.0)


def _square(a: Any) -> tuple[Any, Any, Any]:
    return a * a, 2.0 * a, 2.0 + 0.0 * a


#: f, f' and f'' of the functions that formulas are made of.
FUNCTIONS: dict[str, Callable[[Any], tuple[Any, Any, Any]]] = {
    "exp": _exp, "sin": _sin, "log": _log, "inv": _inv, "square": _square,
}  # fmt: skip
