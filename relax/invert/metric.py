"""The inner product in which controls, gradients and steps are measured, where that is not a prior's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import ufl
from dolfinx import fem
from dolfinx.fem import petsc

from relax.base.checks import one_of, several
from relax.base.fem.expansion import num_entries
from relax.base.fem.layout import ControlLayout, Kind
from relax.base.types import Array
from relax.engine.protocols import Map
from relax.errors import BadInput
from relax.invert.restricted import RestrictedInverse
from relax.problem.evolution import Evolution


class ControlMetric:
    """K of |v|² = vᵀ K v: for each control ∫ |v|² dx ("L2"), or ∫ |v|² + |∇v|² dx ("H1"); of numbers their squares.

    Of a control with a value in each step the sum over the steps. Collective, as are all methods. It has of a prior
    what an optimiser asks for as metric: its covariance is K⁻¹.

    Args:
        G: the map whose controls they are.
        names: "L2" or "H1", one for all controls or a list of one for each.

    Attributes:
        kind: the layout of the control vectors.
        size: the length of the vectors that this rank hands over.

    Raises:
        BadInput: for another name or another number of them.
    """

    def __init__(self, G: Map, names: str | Sequence[str]) -> None:
        problem: Any = G.problem
        controls = list(problem.controls)
        given = [names] * len(controls) if isinstance(names, str) else several(names, "names", "metric")
        if len(given) != len(controls):
            raise BadInput(f"metric: expected one name, or {len(controls)}, one for each control, got {len(given)}")
        for name in given:
            one_of(name, ("L2", "H1"), "metric")
        self._layout: ControlLayout = G.layout
        self.kind: Kind = G.layout.kind
        self.size = G.layout.size
        # For each part of the vector its matrix, or None for numbers.
        self._inverses: dict[tuple[int, str], RestrictedInverse] = {}
        self._parts: list[RestrictedInverse | None] = []
        for control, name in zip(controls, given, strict=True):
            times = problem.num_steps if isinstance(problem, Evolution) and problem.is_per_step(control) else 1
            is_field = num_entries(control) is None
            self._parts += [self._of(control.function_space, name) if is_field else None] * times

    def _of(self, V: fem.FunctionSpace, name: str) -> RestrictedInverse:
        key = (id(V), name)
        if key not in self._inverses:
            u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
            form = ufl.inner(u, v) * ufl.dx
            if name == "H1":
                form += ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
            K = petsc.assemble_matrix(fem.form(form))
            K.assemble()
            self._inverses[key] = RestrictedInverse(K, "relax_metric_")
        return self._inverses[key]

    def precision(self, v: Array) -> Array:
        """K v, primal to dual, for one vector."""
        parts = zip(self._parts, self._layout.values(v), strict=True)
        return self._layout.of_values([x if K is None else K.product(x) for K, x in parts], dual=True)

    def covariance(self, v: Array) -> Array:
        """K⁻¹ v, dual to primal, for one vector."""
        return self.restricted(v, np.ones(self.size, dtype=bool))

    def restricted(self, v: Array, free: npt.NDArray[np.bool_]) -> Array:
        """(K_FF)⁻¹ v_F for the free entries F, zero elsewhere; dual to primal, for one vector."""
        parts = []
        masks = self._layout.values(free.astype(np.float64))
        for K, part, mask in zip(self._parts, self._layout.values(v, dual=True), masks, strict=True):
            parts.append(part * mask if K is None else K.solve(part, mask > 0.5))
        return self._layout.of_values(parts)

    def close(self) -> None:
        """Free what PETSc holds."""
        for inverse in self._inverses.values():
            inverse.close()
