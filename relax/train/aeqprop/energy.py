"""What settles: an energy in a state and parameters, and what may nudge it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import ufl
from dolfinx import fem

from relax.base.checks import several
from relax.base.fem.expansion import Expansion
from relax.base.fem.pointwise import refuse_laws
from relax.errors import BadProblem
from relax.invert.misfit import Misfit
from relax.problem.problem import check_conditions, check_form, check_name, gives


@dataclass(frozen=True, kw_only=True, eq=False)
class Energy:
    """E(θ, s; x): for given parameters and inputs the state settles where E is least, with values given by ``bcs``.

    Args:
        E: a UFL functional, one number.
        state: s, a ``fem.Function`` that stands in it.
        parameters: θ, fields that stand in it. What else stands in it, or gives boundary values, is an input x.
        bcs: Dirichlet conditions on s, of :func:`relax.clamp`.
        name: part of the PETSc options prefix ``relax_<name>_``: letters, digits and underscores. With another solver
            than the factor of MUMPS that is there without options, nobody sees a state at rest at a maximum.

    Raises:
        BadProblem: when these do not fit together.
    """

    E: ufl.Form
    state: fem.Function
    parameters: Sequence[fem.Function]
    bcs: Sequence[fem.DirichletBC] = field(default=())
    name: str = "energy"

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", several(self.parameters, "Functions", "parameters"))
        object.__setattr__(self, "bcs", several(self.bcs, "Dirichlet conditions", "bcs"))
        check_name(self.name)
        if not isinstance(self.E, ufl.Form) or self.E.arguments():
            raise BadProblem("Energy: E: expected a functional, a UFL form without test function; multiply by dx")
        if not isinstance(self.state, fem.Function) or self.state not in self.E.coefficients():
            raise BadProblem("Energy: state: expected a Function that stands in E")
        refuse_laws(self.E, "Energy: E")
        check_form(self.E, self.state, "Energy: E")
        check_conditions(self.bcs, self.state)
        if not self.parameters:
            raise BadProblem("Energy: parameters: expected at least one Function, got none")
        for i, theta in enumerate(self.parameters):
            if not isinstance(theta, fem.Function) or theta not in self.E.coefficients() or theta is self.state:
                raise BadProblem(f"Energy: parameters[{i}]: expected a Function of E but the state, got {theta!s:.80}")
            if isinstance(theta, Expansion):
                raise BadProblem(f"Energy: parameters[{i}]: expected a field of its own, got numbers, {theta.what}")
            if any(theta is other for other in self.parameters[:i]):
                raise BadProblem(f"Energy: parameters[{i}] is an earlier parameter again")
            if any(gives(theta, bc) for bc in self.bcs):
                raise BadProblem(f"Energy: parameters[{i}] gives boundary values of the state; expected it in E alone")


def check_cost(misfit: Misfit, energy: Energy) -> None:
    """Refuse a misfit that is no cost of an energy. Local.

    Raises:
        BadProblem: then.
    """
    if misfit.weighing is not None:
        raise BadProblem("Misfit: G is a map; expected an observable of the energy's state")
    misfit.observable.check_state(energy.state)
    if misfit.observable.needs_steps:
        raise BadProblem("Misfit: G looks at the steps of an Evolution; expected an observable of a single state")
    if any(theta is p for theta in energy.parameters for p in misfit.observable.parameters):
        raise BadProblem("Misfit: G holds a parameter of the energy; expected an observable of the state alone")
