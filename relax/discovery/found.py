"""What a search for an equation has found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from relax.base.types import Array
from relax.discovery.elimination import TermSet
from relax.discovery.library import Library
from relax.invert.posterior import Drawn

# A set of terms is known to add up to zero in one way only where the next mu is so many times larger, and than 1.
_GAP = 3.0
# What mu may be where all terms are looked at and the noise is as it was said to be.
_NOISE = 3.0


class Found:
    """An equation, sum of c_k term_k = 0. Made by :func:`null_space`.

    Attributes:
        terms: their names.
        coefficients: c, (num_terms,): in units of that of the highest derivative in time, or of the largest.
        mu: |A c|² over what the noise alone would make of it: about 1 for an equation that holds within the noise.
        next_mu: the same for the second-best c of these terms.
        path: (mu, names) of the best set of each size, from all terms to one.
        rivals: names of the other sets of as many terms that are zero as far as the noise tells.
        field: the posterior of the field.
    """

    def __init__(
        self, library: Library, path: Sequence[TermSet], step: TermSet, rivals: Sequence[TermSet], field: Drawn
    ) -> None:
        self.library = library
        self.field = field
        self.terms = self._names(step)
        self.mu, self.next_mu = step.mu, step.next_mu
        self.path = [(each.mu, self._names(each)) for each in path]
        self.rivals = [self._names(each) for each in rivals]
        self.numbers = step.kept
        orders = [library.orders[k] for k in step.kept]
        led = np.where(np.array(orders) == max(orders), np.abs(step.vector), 0.0)
        #: The number, among its terms, of the one in whose units coefficients are.
        self.leading = int(np.argmax(led))
        self.coefficients: Array = step.vector / step.vector[self.leading]

    def _names(self, step: TermSet) -> tuple[str, ...]:
        return tuple(self.library.names[k] for k in step.kept)

    @property
    def by_name(self) -> dict[str, float]:
        """The coefficient of each term that there is."""
        return dict(zip(self.terms, map(float, self.coefficients), strict=True))

    @property
    def is_zero(self) -> bool:
        """Whether the terms add up to zero within the noise; where they do not, the library lacks a term."""
        return self.mu <= _NOISE

    @property
    def is_identifiable(self) -> bool:
        """Whether they alone do so, in one way only: else data of more variety, or less noise, are needed."""
        return not self.rivals and self.next_mu >= _GAP * max(self.mu, 1.0)

    def __str__(self) -> str:
        sum_of = " ".join(f"{c:+.4g} {name}" for name, c in self.by_name.items())
        said = [f"mu {self.mu:.3g}" + ("" if self.is_zero else ", not zero within the noise")]
        said += [] if self.is_identifiable else ["not identifiable: others add up to zero, too"]
        return f"{sum_of} = 0 ({'; '.join(said)})"
