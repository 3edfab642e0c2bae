"""Closed forms: formulas for the solutions of equations, looked for, and judged by finite elements.

Names are loaded when first used, so that SymPy is loaded only by those who use it.
"""

from relax.base import lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__)  # noqa: PLE0604
