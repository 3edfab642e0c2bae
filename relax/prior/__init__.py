"""Gaussian priors on controls: what is known before any data, and the metric of the optimisers."""

from relax.prior.base import Prior
from relax.prior.block import BlockPrior
from relax.prior.identity import IdentityPrior
from relax.prior.smoothness import SmoothnessPrior

__all__ = ["BlockPrior", "IdentityPrior", "Prior", "SmoothnessPrior"]
