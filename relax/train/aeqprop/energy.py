"""What settles: an energy in a state and parameters, and the cost that nudges it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ufl
from dolfinx import fem

from relax.base.checks import of_kind, positive, several
from relax.base.types import Array
from relax.errors import BadInput, BadProblem
from relax.observe.base import Observable
from relax.problem.problem import check_conditions, gives


@dataclass(frozen=True, kw_only=True, eq=False)
class Energy:
    """E(θ, s; x): for given parameters and inputs the state settles where E is least, with values given by ``bcs``.

    Args:
        E: a UFL functional, one number.
        state: s, a ``fem.Function`` that stands in it.
        parameters: θ, fields that stand in it, on the mesh of s. What else stands in it is an input x.
        bcs: Dirichlet conditions on s, of :func:`relax.clamp`.
        name: part of the PETSc options prefix ``relax_<name>_``.

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
        if not isinstance(self.E, ufl.Form) or self.E.arguments():
            raise BadProblem("Energy: E: expected a functional, a UFL form without test function; multiply by dx")
        if not isinstance(self.state, fem.Function) or self.state not in self.E.coefficients():
            raise BadProblem("Energy: state: expected a Function that stands in E")
        check_conditions(self.bcs, self.state)
        if not self.parameters:
            raise BadProblem("Energy: parameters: expected at least one Function, got none")
        for i, theta in enumerate(self.parameters):
            if not isinstance(theta, fem.Function) or theta not in self.E.coefficients() or theta is self.state:
                raise BadProblem(f"Energy: parameters[{i}]: expected a Function of E but the state, got {theta!s:.80}")
            if theta.function_space.mesh is not self.state.function_space.mesh:
                raise BadProblem(f"Energy: parameters[{i}]: expected a Function on the mesh of the state")
            if any(gives(theta, bc) for bc in self.bcs):
                raise BadProblem(f"Energy: parameters[{i}] gives boundary values of the state; expected it in E alone")


class Misfit:
    """C = ½ |G(s) - y|² / σ².

    Args:
        G: an observable of the state.
        data: y, (size,); None where each step brings its own.
        noise: σ.

    Raises:
        BadInput: for arguments that do not fit.
    """

    def __init__(self, G: Observable, data: Any = None, noise: float = 1.0) -> None:
        of_kind(G, Observable, "a relax.Observable", "Misfit: G")
        self.observable = G
        self.noise = positive(noise, "Misfit: noise")
        self.data = None if data is None else self._checked(data)

    def _checked(self, data: Any) -> Array:
        y = np.asarray(data, dtype=np.float64)
        if y.shape != (self.observable.size,) or not np.isfinite(y).all():
            raise BadInput(f"Misfit: data: expected {self.observable.size} finite numbers, got shape {y.shape}")
        return y

    def data_of(self, y: Any) -> Array:
        """The data of a step."""
        if y is None and self.data is None:
            raise BadInput("Misfit: expected data, in the step or when it was made, got none")
        return self.data if y is None else self._checked(y)  # type: ignore[return-value]
