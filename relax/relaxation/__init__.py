"""Relaxation: landscapes smoothed by the viscous Hamilton–Jacobi equation, references for it, and optimisers.

    u_t = -1/2 |grad u|^2 + 1/(2 beta) Lap u,  u(x, 0) = f(x).

One ``beta`` everywhere, with Gibbs weight exp(-beta H); ``t`` is the time of the equation and 1/t the spring of the
Langevin form. Names are loaded when first used, so that torch is loaded only by those who use it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relax import lazy

if TYPE_CHECKING:
    from relax.relaxation import cole_hopf as cole_hopf
    from relax.relaxation import control as control
    from relax.relaxation import gallery as gallery
    from relax.relaxation import optim as optim
    from relax.relaxation import two_scale as two_scale
    from relax.relaxation.envelope import HopfLax as HopfLax
    from relax.relaxation.envelope import hopf_lax as hopf_lax
    from relax.relaxation.landscape import Descent as Descent
    from relax.relaxation.landscape import Minimisers as Minimisers
    from relax.relaxation.landscape import RelaxedLandscape as RelaxedLandscape
    from relax.relaxation.misfit import RelaxedMisfit as RelaxedMisfit
    from relax.relaxation.misfit import relax_misfit as relax_misfit
    from relax.relaxation.optim import SGLD as SGLD
    from relax.relaxation.optim import ElasticSGD as ElasticSGD
    from relax.relaxation.optim import EntropySGD as EntropySGD
    from relax.relaxation.optim import HamiltonJacobi as HamiltonJacobi
    from relax.relaxation.optim import HeatSmoothing as HeatSmoothing
    from relax.relaxation.optim import Parle as Parle
    from relax.relaxation.optim import ProximalPoint as ProximalPoint
    from relax.relaxation.optim import beta_from_eps as beta_from_eps
    from relax.relaxation.optim import refresh_batch_norm as refresh_batch_norm
    from relax.relaxation.optim import t_from_spring as t_from_spring

_HOMES = {
    "envelope": ("hopf_lax", "HopfLax"),
    "landscape": ("RelaxedLandscape", "Descent", "Minimisers"),
    "misfit": ("relax_misfit", "RelaxedMisfit"),
    "optim": (
        "EntropySGD",
        "HamiltonJacobi",
        "HeatSmoothing",
        "ProximalPoint",
        "SGLD",
        "Parle",
        "ElasticSGD",
        "beta_from_eps",
        "refresh_batch_norm",
        "t_from_spring",
    ),
}
_MODULES = ("cole_hopf", "control", "gallery", "optim", "two_scale")
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [*_HOME_OF, *_MODULES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    value = lazy.attribute(__name__, name, _HOME_OF, _MODULES)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
