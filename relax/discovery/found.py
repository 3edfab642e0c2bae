"""What a search for an equation has found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import ufl
from ufl.algorithms import expand_derivatives
from ufl.algorithms.expand_indices import expand_indices
from ufl.core.expr import Expr

from relax.base import parallel
from relax.base.checks import several
from relax.base.types import Array
from relax.discovery.elimination import TermSet
from relax.discovery.evolution import EvolvingEquation
from relax.discovery.library import Library
from relax.discovery.library import test as test_function
from relax.errors import BadInput, BadProblem
from relax.invert.posterior import Drawn

# A set of terms is known to add up to zero in one way only where the next mu is so many times larger, and than 1.
_GAP = 3.0
# What mu may be where all terms are looked at and the noise is as it was said to be.
_NOISE = 3.0


class Found(EvolvingEquation):
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
        orders = [library.orders[k] for k in step.kept]
        led = np.where(np.array(orders) == max(orders), np.abs(step.vector), 0.0)
        #: The number, among its terms, of the one in whose units coefficients are.
        self.leading = int(np.argmax(led))
        super().__init__(library, step.kept, step.vector / step.vector[self.leading], [self.leading], times, field)
        self.mu, self.next_mu = step.mu, step.next_mu
        self.path = [(each.mu, self._names(each)) for each in path]
        self.rivals = [self._names(each) for each in rivals]

    def _names(self, step: TermSet) -> tuple[str, ...]:
        return tuple(self.library.names[k] for k in step.kept)

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


class System(EvolvingEquation):
    """Equations of the components of a field (u_0, u_1, ...), one of each, that evolve and are refined together.

    Collective to make. Each is found by itself, by :func:`null_space` from the same data, in the same
    ``u = unknown(V)``, V a space of vectors, with a scalar test function, as ``{"u_t": u.dt[0] * v, ...}``. It belongs
    to the component of which its leading term is the derivative in time: that of the test function of the system, in V,
    takes its place there.

    Args:
        equations: of :func:`null_space`, in any order.

    Attributes:
        equations: these.
        terms: their names, with the component, as in "u_t of u[0]"; equation after equation.
        coefficients: c, (num_terms,): in each equation in units of its leading term's.
        times, field: of the first of them.

    Raises:
        BadInput, BadProblem: on every rank, where they are not one for each component, or not of the same data.
    """

    def __init__(self, equations: Sequence[Found]) -> None:
        self.equations: tuple[Found, ...] = several(equations, "equations of null_space", "System: equations")
        if not self.equations or not all(isinstance(each, Found) for each in self.equations):
            raise BadInput(f"System: expected an equation of null_space for each component, got {self.equations!r:.80}")
        first = self.equations[0]
        V = first.library.space
        components: list[int] = []
        with parallel.together(V.mesh.comm):
            components = [_component_of(each) for each in self.equations]
            if sorted(components) != list(range(size := first.library.u.ufl_shape[0])):
                raise BadProblem(
                    f"System: expected one equation for each of {size} components of u, got leading terms with the "
                    f"derivatives in time of components {components}"
                )
            if len({(each.times.tobytes(), np.asarray(each.field.mean).tobytes()) for each in self.equations}) > 1:
                raise BadInput("System: expected equations of the same data, noise and number of bumps in time")
        told = [(k, each.terms) for k, each in zip(components, self.equations, strict=True)]
        if parallel.any_rank(V.mesh.comm, told != parallel.of_rank_0(V.mesh.comm, told)):
            raise BadInput("System: equations: expected the same ones, in the same order, on each rank")
        v, terms, leads = test_function(V), dict[str, Expr](), list[int]()
        for k, each in zip(components, self.equations, strict=True):
            leads.append(len(terms) + each.leading)
            for number, name in zip(each.numbers, each.terms, strict=True):
                terms[f"{name} of u[{k}]"] = ufl.replace(each.library.terms[number], {each.library.v: v[k]})
        c = np.concatenate([each.coefficients for each in self.equations])
        super().__init__(Library(terms), range(len(terms)), c, leads, first.times, first.field)

    def __str__(self) -> str:
        return "\n".join(map(str, self.equations))


def _component_of(equation: Found) -> int:
    """The component of u of which the leading term is the derivative in time. Local."""
    library, number, name = equation.library, equation.numbers[equation.leading], equation.terms[equation.leading]
    u, order = library.u, library.orders[number]
    if library.v.ufl_shape or len(u.ufl_shape) != 1:
        raise BadProblem(
            f"System: expected a vector u and a scalar test function, got shapes {u.ufl_shape} and "
            f"{library.v.ufl_shape}; an equation for all of u evolves by itself"
        )
    held, size = [], u.ufl_shape[0]
    for k in range(size):
        alone = ufl.as_vector([u[i] if i == k else 0 for i in range(size)])
        change = expand_indices(expand_derivatives(ufl.replace(library.parts[number][order], {u: alone})))
        held += [] if isinstance(change, ufl.constantvalue.Zero) else [k]
    if len(held) != 1 or order != 1:
        raise BadProblem(
            f"System: expected a leading term of the first order in time, of one component of u, as u.dt[0] * v, got "
            f"{name!r} of order {order} and components {held}"
        )
    return held[0]
