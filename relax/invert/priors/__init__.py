"""Gaussian priors on controls: what is known before any data, and the metric of the optimisers."""

from relax.invert.priors.base import Prior
from relax.invert.priors.block import BlockPrior
from relax.invert.priors.form import FormPrior
from relax.invert.priors.identity import IdentityPrior
from relax.invert.priors.in_time import TimePrior
from relax.invert.priors.pinned import PinnedPrior
from relax.invert.priors.smoothness import SmoothnessPrior
from relax.invert.priors.total_variation import TotalVariation

__all__ = [
    "BlockPrior",
    "FormPrior",
    "IdentityPrior",
    "PinnedPrior",
    "Prior",
    "SmoothnessPrior",
    "TimePrior",
    "TotalVariation",
]
