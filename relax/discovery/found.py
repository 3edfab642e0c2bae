"""What a search for an equation has found."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import numpy as np
from dolfinx import fem
from dolfinx.mesh import Mesh
from scipy.interpolate import CubicSpline

from relax.base.checks import ABOVE_0, at_least, number_in
from relax.base.fem.coefficients import Coefficient
from relax.base.fem.layout import SpaceLayout
from relax.base.types import Array
from relax.discovery.data import Data, read
from relax.discovery.elimination import TermSet
from relax.discovery.evolution import evolution_of
from relax.discovery.fields import FieldPosterior
from relax.discovery.library import Library
from relax.discovery.refine import Refined, refined
from relax.errors import BadInput
from relax.invert.posterior import Drawn
from relax.observe import FieldValues
from relax.pdes.shared.boundary_data import BoundaryData
from relax.problem.evolution import Evolution

# A set of terms is known to add up to zero in one way only where the next mu is so many times larger, and than 1.
_GAP = 3.0
#: No part of the boundary is clamped.
NATURAL: BoundaryData = MappingProxyType({})
# Steps from one time of a field to the next. With few of them rough parts of an initial state ring, by the rule of
# Crank and Nicolson, and are seen in all data.
_FINER = 3
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
        times: of the states of the field, (num_times,).
        field: the posterior of the field.
    """

    def __init__(
        self,
        library: Library,
        path: Sequence[TermSet],
        step: TermSet,
        rivals: Sequence[TermSet],
        times: Array,
        field: Drawn,
    ) -> None:
        self.library = library
        self.times = times
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

    def evolution(
        self,
        mesh: Mesh | None = None,
        *,
        initial: Coefficient | None = None,
        num_steps: int | None = None,
        dirichlet: BoundaryData = NATURAL,
        time: fem.Constant | None = None,
        theta: float = 0.5,
    ) -> Evolution:
        """The equation from the first time of the data to the last, its coefficients and its initial state as controls.

        Collective. By the theta-method of :func:`relax.theta_evolution`: the coefficients, but for that of the leading
        term, are one vector Constant; the control vector is the initial state, then they. An equation with u_tt goes in
        steps of (u, u_t). What integration by parts leaves at the boundary is zero where nothing is clamped.

        Args:
            mesh: another mesh than that of the data.
            initial: u, or (u, u_t), at the start: a number, a function of x, a UFL expression; by default what is known
                of the field, on the mesh of the data alone.
            num_steps: by default three from each of ``times`` to the next one.
            dirichlet: tag -> value, in which ``time`` may stand; of (u, u_t) where there is u_tt.
            time: the scalar Constant that stands for t there.
            theta: 1 for backward Euler, ½ for Crank and Nicolson's.

        Raises:
            BadProblem: for an equation that does not evolve, or of which a term takes two derivatives of the test
                function; SolveFailed from the map of it where it is not well posed.
        """
        start, end = float(self.times[0]), float(self.times[-1])
        steps = _FINER * (len(self.times) - 1) if num_steps is None else at_least(num_steps, 1, "evolution: num_steps")
        on = self.library.mesh if mesh is None else mesh
        if initial is None and on is not self.library.mesh:
            raise BadInput("evolution: initial: expected one on another mesh than that of the data")
        evolution = evolution_of(
            self.library, self.numbers, self.coefficients, self.leading, on,
            initial=0.0 if initial is None else initial, dt=(end - start) / steps, num_steps=steps, start=start,
            dirichlet=dirichlet, time=time, theta=theta,
        )  # fmt: skip
        if initial is None:
            self._start(evolution.initial_state)
        return evolution

    @property
    def _order(self) -> int:
        return self.library.orders[self.numbers[self.leading]]

    def _start(self, state: fem.Function) -> None:
        """What is known of the field at the first time, and of its derivative. Collective."""
        fields = self.field.mean.reshape(len(self.times), -1)
        parts = [fields[0]] if self._order == 1 else [fields[0], CubicSpline(self.times, fields)(self.times[0], 1)]
        layout = SpaceLayout(state.function_space)
        state.x.array[:] = layout.spread(np.stack(parts, axis=-1).ravel())

    def refine(
        self,
        data: Data,
        *,
        noise: float,
        num_steps: int | None = None,
        dirichlet: BoundaryData = NATURAL,
        time: fem.Constant | None = None,
    ) -> Refined:
        """Maximum likelihood of the coefficients: the evolution whose states fit the data best, and what is left open.

        Collective. Controls are the coefficients and the initial state, from what is known of both. The prior of the
        coefficients says nothing, that of the initial state is a :class:`relax.SmoothnessPrior` of the length and the
        size that the field has. Nothing of the search's own bias is left; ``.covariance`` is the inverse of the Fisher
        information.

        Args:
            data: as of :func:`null_space`, at times from the first to the last of ``times``.
            noise: their standard deviation.
            num_steps: as of :meth:`evolution`.
            dirichlet: as there.
            time: as there.

        Returns:
            A ``Result``, with ``.coefficients``, ``.covariance`` and ``.std``; whether it converged is its ``status``.
        """
        given = read(data, self.library.space)
        if len(self.terms) < 2:
            raise BadInput(f"refine: expected an equation of two terms or more, got {self}")
        if given.times.min() < self.times[0] or given.times.max() > self.times[-1]:
            raise BadInput(f"refine: data: expected times from {self.times[0]:g} to {self.times[-1]:g}")
        evolution = self.evolution(num_steps=num_steps, dirichlet=dirichlet, time=time)
        length, size = self._scales()
        return refined(evolution, given, number_in(noise, ABOVE_0, "noise"), self._order, length, size)

    def _scales(self) -> tuple[float, float]:
        """Length and size of what the field may be at one time."""
        if isinstance(self.field, FieldPosterior):
            of = [c.lengths for c in self.field.components]
            # Where the correlation is 0.14, which is what a SmoothnessPrior calls its length.
            length, time, size = 2.0 * min(x.space for x in of), min(x.time for x in of), max(x.size for x in of)
        else:
            x = FieldValues(self.library.space).coordinates
            length, time = 0.5 * float(np.ptp(x, axis=0).max()), float(np.ptp(self.times))
            size = float(self.field.mean.std())
        return length, size * max(1.0, 1.0 / time if self._order == 2 else 0.0)
