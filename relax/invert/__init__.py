"""Inverse problems: the control whose observations fit the data, given a prior. Names are loaded when first used."""

from relax.base import lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__)  # noqa: PLE0604
