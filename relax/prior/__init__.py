"""Gaussian priors on controls: what is known about a control before any data, and the inner product of its optimisers."""

from relax.prior.base import Prior
from relax.prior.block import BlockPrior
from relax.prior.identity import IdentityPrior
from relax.prior.smoothness import SmoothnessPrior

__all__ = ["BlockPrior", "IdentityPrior", "Prior", "SmoothnessPrior"]
