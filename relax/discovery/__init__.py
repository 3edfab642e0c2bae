"""Discovery: the equation of a field from data with noise, by weak forms on any mesh.

A library of terms in UFL is integrated against smooth test functions; :func:`null_space` finds the few of them that add
up to zero within the noise.
"""

from relax.base import lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__)  # noqa: PLE0604
