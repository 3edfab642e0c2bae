"""Training with physics: half-inverse gradients, and physical gradients with their inverses.

Names are loaded when first used, so that torch is loaded only by those who use it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relax import lazy

if TYPE_CHECKING:
    from relax.train.half_inverse import HalfInverse as HalfInverse
    from relax.train.inverses import MapInverse as MapInverse
    from relax.train.inverses import gauss_newton_inverse as gauss_newton_inverse
    from relax.train.inverses import heat_inverse as heat_inverse
    from relax.train.inverses import lbfgs_inverse as lbfgs_inverse
    from relax.train.inverses import over_teams as over_teams
    from relax.train.inverses import poisson_inverse as poisson_inverse
    from relax.train.physical import LocalInverse as LocalInverse
    from relax.train.physical import physical_gradient as physical_gradient
    from relax.train.report import StepReport as StepReport

_HOMES = {
    "half_inverse": ("HalfInverse",),
    "report": ("StepReport",),
    "physical": ("physical_gradient", "LocalInverse"),
    "inverses": (
        "gauss_newton_inverse",
        "lbfgs_inverse",
        "poisson_inverse",
        "heat_inverse",
        "MapInverse",
        "over_teams",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [*_HOME_OF]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    value = lazy.attribute(__name__, name, _HOME_OF)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
