"""Training with physics: half-inverse and physical gradients with their inverses, closed loops, settling,
posteriors over paths.

Names are loaded when first used, so that torch is loaded only by those who use it.
"""

from relax.base import lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__)  # noqa: PLE0604
