"""Equations: a function returns a ``Problem`` or an ``Evolution``, and its docstring is the equation.

A module is loaded when first used, so that nobody waits for equations that are not solved.
"""

from relax.base import lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__)  # noqa: PLE0604
