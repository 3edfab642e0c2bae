"""L-BFGS as a local inverse: the whole nonlinear inverse problem, from x."""

from __future__ import annotations

from typing import Any

import numpy as np

from relax.base import parallel
from relax.base.checks import AT_LEAST_0, FRACTION, at_least, number_in
from relax.base.teams import Teams
from relax.base.types import Array
from relax.engine.reduced import ReducedMap
from relax.errors import BadInput, NotConverged
from relax.invert.methods.lbfgs import lbfgs
from relax.invert.priors.base import Prior
from relax.train.inverses.base import MapInverse
from relax.train.inverses.gauss_newton import check_prior, checked_noise

_LEAST = {"max_steps": 1, "memory": 0, "max_halvings": 0}
_RULES = {"rtol": FRACTION, "atol": AT_LEAST_0}


class lbfgs_inverse(MapInverse):  # noqa: N801 - used as a function
    """dx = m − x with m the minimum of ½ |Σ⁻¹ (G(m) − G(x) − dy)|² + ½ (m − mean)ᵀ C⁻¹ (m − mean), by L-BFGS from x.

    Collective, to make and to call: :class:`relax.train.MapInverse`. A run of ``relax.lbfgs`` for each sample, at a
    forward and an adjoint solve a step. Steps are halved until the functional decreases, so a correction is never worse
    than none, however few steps it takes. Towards the prior's mean as ``gauss_newton_inverse``.

    Args:
        G: the map, in the replicated layout.
        noise: standard deviation of the observations: a number, or one for each.
        prior: N(mean, C) on the controls of G.
        max_steps: at most so many steps a sample; what they lead to is the correction.
        rtol: a sample is done when its gradient is so much smaller than at x; in [0, 1).
        must_converge: raise where a sample is not done after ``max_steps``.
        teams: share the samples of a batch among teams of ranks.
        options: more keywords of ``relax.lbfgs``: memory, atol, max_halvings.

    Raises:
        BadInput: on every rank, for arguments that do not fit.
        NotConverged: with ``must_converge``.
        SolveFailed: when a solve fails elsewhere than at a trial step.
    """

    def __init__(
        self,
        G: ReducedMap,
        *,
        noise: float | Array,
        prior: Prior,
        max_steps: int = 20,
        rtol: float = 1e-6,
        must_converge: bool = False,
        teams: Teams | None = None,
        **options: Any,
    ) -> None:
        super().__init__(G, teams)
        self.noise = checked_noise(self, noise, prior)
        check_prior(G, prior, self.name)
        if prior is None:
            raise BadInput(f"{self.name}: prior: expected one, got None; IdentityPrior is one for numbers")
        self.prior = prior
        self._must_converge = must_converge
        given = {"max_steps": max_steps, "rtol": rtol, **options}
        self._options: dict[str, Any] = {}
        with parallel.together(self.comm):
            self._options = {word: self._checked_option(word, value) for word, value in given.items()}

    def _checked_option(self, word: str, value: Any) -> float:
        what = f"{self.name}: {word}"
        if word in _LEAST:
            return at_least(value, _LEAST[word], what)
        if word not in _RULES:
            raise BadInput(
                f"{what}: expected memory, atol or max_halvings as further keywords of lbfgs; data, m0 and callback "
                "are the inverse's own"
            )
        return number_in(value, _RULES[word], what)

    def _corrections(self, x: Array | None, residual: Array) -> Array:
        here = self._needed(x)
        dx = np.empty_like(here)
        values = self.G(here)
        for i in range(len(here)):
            # The values are the same on every rank; the sum is made once, for all to have its bits.
            data = parallel.from_rank_0(self.G.comm, values[i] + residual[i])
            result = lbfgs(self.G, data, here[i], noise=self.noise, prior=self.prior, **self._options)
            if self._must_converge and not result.converged:
                raise NotConverged(f"{self.name}: sample {i} of {len(here)}: {result.status.value}")
            dx[i] = result.value - here[i]
        return dx
