"""Gradients in the weights of point laws: a form assembled at their points, then one backward sweep over all."""

from __future__ import annotations

from functools import partial

import numpy as np
from dolfinx import fem

from relax.base import parallel
from relax.base.fem.compiling import Later, Together
from relax.base.fem.forms import values_of
from relax.base.types import Array
from relax.engine.residual.derived import DerivedForms
from relax.engine.residual.laws import LawAtPoints
from relax.engine.residual.packing import PackedForm
from relax.engine.residual.registers import Registers


class WeightGradients:
    """(∂F/∂θ)ᵀ λ = Σ (∂N/∂θ)ᵀ g over the points, with g = (∂F/∂k)ᵀ λ there, and its derivative. Collective.

    A point belongs to the rank that owns its cell: what the methods give is a rank's part of the sum.

    Args:
        weak: the forms.
        registers: of the problem; the laws' numbers are those of the point that they hold.
        together: compiles the forms.
    """

    def __init__(self, weak: DerivedForms, registers: Registers, together: Together) -> None:
        self._weak = weak
        self._registers = registers
        self._together = together
        self._forms: dict[tuple[LawAtPoints, bool], Later] = {}
        self._packed: dict[LawAtPoints, PackedForm] = {}

    def expect(self, i: int) -> None:
        """Have what the gradient in control i needs compiled together with the rest. Local."""
        for law in self._weak.laws.of_control(i):
            self._form(law, second=False)

    def gradient(self, i: int, point: object) -> Array:
        """(∂F/∂θ)ᵀ λ of control i, (size,); ``point`` names what the registers hold but for λ."""
        total = np.zeros(values_of(self._registers.controls[i]).size)
        for law in self._weak.laws.of_control(i):
            form = self._form(law, second=False)()
            if form is not None:
                if law not in self._packed:
                    self._packed[law] = PackedForm(form, self._registers.adjoint)
                dual = np.zeros(len(law.value.x.array))
                self._packed[law].assemble(dual, point)
                with parallel.together(self._registers.comm):
                    total += law.collected(dual)
        return total

    def second(self, i: int) -> Array:
        """Its derivative along the installed du, dm and dλ, (size,)."""
        total = np.zeros(values_of(self._registers.controls[i]).size)
        for law in self._weak.laws.of_control(i):
            first, second = self._form(law, second=False)(), self._form(law, second=True)()
            if first is not None:
                duals = np.zeros((2, len(law.value.x.array)))
                fem.assemble_vector(duals[0], first)
                if second is not None:
                    fem.assemble_vector(duals[1], second)
                with parallel.together(self._registers.comm):
                    total += law.collected_change(*duals)
        return total

    def _form(self, law: LawAtPoints, *, second: bool) -> Later:
        if (law, second) not in self._forms:
            make = self._weak.second_at_points if second else self._weak.at_points
            self._forms[law, second] = self._together.add(partial(make, law))
        return self._forms[law, second]
