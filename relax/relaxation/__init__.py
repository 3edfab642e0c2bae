"""Relaxation: landscapes smoothed by the viscous Hamilton–Jacobi equation, references for it, and optimisers.

    u_t = -1/2 |grad u|^2 + 1/(2 beta) Lap u,  u(x, 0) = f(x).

One ``beta`` everywhere, with Gibbs weight exp(-beta H); ``t`` is the time of the equation and 1/t the spring of the
Langevin form. Names are loaded when first used, so that torch is loaded only by those who use it.
"""

from relax.base import lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__)  # noqa: PLE0604
