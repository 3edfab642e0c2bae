"""Maps for software of other kinds, each in a module of its own that is loaded when it is first used."""

from relax.base import lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__)  # noqa: PLE0604
