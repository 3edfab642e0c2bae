"""Independent priors for several controls."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from relax.base.checks import several
from relax.base.fem.layout import Kind
from relax.base.types import Array
from relax.errors import BadInput
from relax.invert.priors.base import Prior, check_prior


class BlockPrior:
    """A prior for each control of a problem, in the order of ``problem.controls``, independent of one another.

    Collective, as are all methods.

    Args:
        priors: one per control, all of one layout. ``close`` closes them.

    Raises:
        BadInput: for no priors, or priors of different layouts.
    """

    def __init__(self, priors: Sequence[Prior]) -> None:
        self.priors: tuple[Prior, ...] = several(priors, "priors", "priors")
        for i, prior in enumerate(self.priors):
            check_prior(prior, f"priors[{i}]")
        kinds = sorted({p.kind for p in self.priors})
        if len(kinds) != 1:
            raise BadInput(f"priors: expected at least one, all of the same layout, got the layouts {kinds}")
        self.kind: Kind = self.priors[0].kind
        self._ends = np.cumsum([p.size for p in self.priors])
        self.size = int(self._ends[-1])
        self.mean: Array = np.concatenate([p.mean for p in self.priors])

    def _parts(self, v: Array) -> list[tuple[Prior, Array]]:
        return list(zip(self.priors, np.split(v, self._ends[:-1], axis=-1), strict=True))

    def cost(self, m: Array) -> float:
        """The sum of the priors' costs."""
        return sum(p.cost(x) for p, x in self._parts(m))

    def gradient(self, m: Array) -> Array:
        """C⁻¹ (m − mean), prior by prior."""
        return np.concatenate([p.gradient(x) for p, x in self._parts(m)])

    def precision(self, v: Array) -> Array:
        """C⁻¹ v, prior by prior, for v of shape (..., size)."""
        return np.concatenate([p.precision(x) for p, x in self._parts(v)], axis=-1)

    def covariance(self, v: Array) -> Array:
        """C v, prior by prior, for v of shape (..., size)."""
        return np.concatenate([p.covariance(x) for p, x in self._parts(v)], axis=-1)

    def restricted(self, v: Array, free: npt.NDArray[np.bool_]) -> Array:
        """(C⁻¹_FF)⁻¹ v_F for the free entries F, zero elsewhere, prior by prior, for one vector."""
        masks = np.split(free, self._ends[:-1])
        return np.concatenate([p.restricted(x, mask) for (p, x), mask in zip(self._parts(v), masks, strict=True)])

    def whiten(self, m: Array) -> Array:
        """L⁻¹ (m − mean), prior by prior."""
        return np.concatenate([p.whiten(x) for p, x in self._parts(m)], axis=-1)

    def color(self, xi: Array) -> Array:
        """mean + L xi, prior by prior."""
        return np.concatenate([p.color(x) for p, x in self._parts(xi)], axis=-1)

    def color_adjoint(self, v: Array) -> Array:
        """Lᵀ v, prior by prior, for v of shape (..., size)."""
        return np.concatenate([p.color_adjoint(x) for p, x in self._parts(v)], axis=-1)

    def sample(self, seed: int) -> Array:
        """A draw from the prior, from one stream of random numbers per block."""
        seeds = np.random.SeedSequence(seed).generate_state(len(self.priors), np.uint64)
        return np.concatenate([p.sample(int(s)) for p, s in zip(self.priors, seeds, strict=True)])

    def variance(self, *, samples: int | None = None, seed: int = 0) -> Array:
        """The variance of each entry, prior by prior."""
        return np.concatenate([p.variance(samples=samples, seed=seed) for p in self.priors])

    def close(self) -> None:
        """Close each prior."""
        for prior in self.priors:
            prior.close()
