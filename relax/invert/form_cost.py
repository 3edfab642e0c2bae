"""A form in the controls of a map: its value, gradient and Hessian action at control vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import ufl
from dolfinx import fem

from relax.base import parallel
from relax.base.fem import compat
from relax.base.fem.expansion import num_entries
from relax.base.fem.forms import compiled, derivative, given_back, holds, num_owned, summed, write
from relax.base.fem.pointwise import refuse_laws
from relax.base.fem.quadrature import with_fixed_degrees
from relax.base.fem.submeshes import check_meshes
from relax.base.types import Array
from relax.engine.protocols import Map
from relax.errors import BadInput
from relax.observe.of_form import Terminal
from relax.problem.evolution import Evolution


class FormCost:
    """A form of rank 0 in the controls of a map, at its control vectors; summed over steps where one stands in it.

    Collective, as are all methods. The controls hold afterwards what they held before.

    Args:
        form: the form.
        G: the map.

    Raises:
        BadInput: for a form with the state, or without a control.
    """

    def __init__(self, form: ufl.Form, G: Map) -> None:
        problem: Any = G.problem
        self._layout, self._comm, self._mesh = G.layout, G.comm, problem.mesh
        with parallel.together(G.comm):
            refuse_laws(form, "J: a form")
            check_meshes(form, "J: a form")
            states = problem.state if isinstance(problem.state, list | tuple) else [problem.state]
            if any(isinstance(u, fem.Function) and holds(form, u) for u in states):
                raise BadInput(
                    "J: a form: expected one in the controls alone, got one with the state; relax.Functional(form) "
                    "sees both, and a map of it is a term"
                )
            if not any(holds(form, c) for c in problem.controls):
                raise BadInput("J: a form: expected one in which a control of the map stands, got one without")
        self._form = with_fixed_degrees(compat.one_subdomain_data(form))
        self._value = compiled(self._form)
        # Where each control begins in the split vector, and whether it has a part for each step.
        self._controls: list[Any] = []
        self._starts: list[int] = []
        self._per_step: list[bool] = []
        at = 0
        self._lengths: list[int] = []
        steps = 1
        for control in problem.controls:
            is_per_step = isinstance(problem, Evolution) and problem.is_per_step(control)
            times = problem.num_steps if is_per_step else 1
            if holds(form, control):
                self._controls.append(control)
                self._starts.append(at)
                self._per_step.append(is_per_step)
                steps = max(steps, times)
            at += times
            # An expansion takes the derivative in its field.
            is_field = isinstance(control, fem.Function)
            self._lengths += [num_owned(control.function_space) if is_field else num_entries(control) or 0] * times
        self._steps = steps

    @cached_property
    def _terminals(self) -> list[Terminal]:
        fields = [t.function_space.mesh for t in self._form.coefficients() if isinstance(t, fem.Function)]
        domain = fields[0] if fields else self._mesh
        return [Terminal(c, domain) for c in self._controls]

    @cached_property
    def _slopes(self) -> list[ufl.Form | None]:
        return [derivative(self._form, t.here, ufl.TestFunction(t.space)) for t in self._terminals]

    @cached_property
    def _gradients(self) -> list[fem.Form | None]:
        return [compiled(slope) for slope in self._slopes]

    @cached_property
    def _curvatures(self) -> list[fem.Form | None]:
        moved = self._terminals
        return [
            None if slope is None else compiled(summed([derivative(slope, t.here, t.direction) for t in moved]))
            for slope in self._slopes
        ]

    def _places(self, step: int) -> list[int]:
        return [a + step * is_per_step for a, is_per_step in zip(self._starts, self._per_step, strict=True)]

    @contextmanager
    def _steps_at(self, m: Array) -> Iterator[Iterator[list[int]]]:
        """Each step's places in the split vector, while the controls hold what ``m`` has there."""
        parts = self._layout.split(m)

        def steps() -> Iterator[list[int]]:
            for step in range(self._steps):
                places = self._places(step)
                for control, place in zip(self._controls, places, strict=True):
                    write(control, parts[place])
                yield places

        with given_back(self._controls):
            yield steps()

    def value(self, m: Array) -> float:
        """J(m)."""
        with self._steps_at(m) as steps:
            total = sum(float(fem.assemble_scalar(self._value)) for _ in steps)
        return float(parallel.sum_over_ranks(self._comm, np.array([total]))[0])

    def gradient(self, m: Array) -> Array:
        """dJ, dual."""
        return self._summed(m, lambda places: self._gradients)

    def hessian(self, m: Array, v: Array) -> Array:
        """d/dε dJ at m + ε v, dual."""
        directions = self._layout.split(v)

        def forms(places: list[int]) -> list[fem.Form | None]:
            for terminal, place in zip(self._terminals, places, strict=True):
                terminal.move(directions[place])
            return self._curvatures

        return self._summed(m, forms)

    def _summed(self, m: Array, forms: Callable[[list[int]], list[fem.Form | None]]) -> Array:
        parts: list[Array] = [np.zeros(n) for n in self._lengths]
        with self._steps_at(m) as steps:
            for places in steps:
                for terminal, form, place in zip(self._terminals, forms(places), places, strict=True):
                    if form is not None:
                        parts[place] = parts[place] + terminal.dual(form)
        return self._layout.join(parts)
