"""Gaussian priors on controls: what is known before any data, and the metric of the optimisers."""

from relax.invert.priors.base import Prior
from relax.invert.priors.block import BlockPrior
from relax.invert.priors.identity import IdentityPrior
from relax.invert.priors.smoothness import SmoothnessPrior

__all__ = ["BlockPrior", "IdentityPrior", "Prior", "SmoothnessPrior"]
