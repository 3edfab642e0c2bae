"""An equation as an evolution, its coefficients as controls, and what data say of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import ufl
from dolfinx import default_scalar_type, fem
from dolfinx.mesh import Mesh
from scipy.interpolate import CubicSpline
from ufl.core.expr import Expr

from relax.base.checks import ABOVE_0, at_least, number_in, of_kind
from relax.base.fem.coefficients import Coefficient, interpolated
from relax.base.fem.forms import terminals_of
from relax.base.fem.layout import SpaceLayout
from relax.base.fem.unknown import Unknown
from relax.base.types import Array
from relax.discovery.data import Data, read
from relax.discovery.fields import FieldPosterior
from relax.discovery.library import Library, derivatives_of
from relax.discovery.refine import Refined, refined
from relax.errors import BadInput, BadProblem
from relax.invert.posterior import Drawn
from relax.meshes import Tag
from relax.observe import FieldValues
from relax.problem.boundary import clamp
from relax.problem.evolution import Evolution
from relax.problem.problem import Problem
from relax.problem.theta import averaged

BoundaryData: TypeAlias = Mapping[Tag, Coefficient | Sequence[Coefficient | None]]

# No part of the boundary is clamped.
_NATURAL: BoundaryData = MappingProxyType({})
# Steps from one time of a field to the next. With few of them rough parts of an initial state ring, by the rule of
# Crank and Nicolson, and are seen in all data.
_FINER = 3


class EvolvingEquation:
    """An equation, sum of c_k term_k = 0, of a field that is known.

    Args:
        library: of which the terms are.
        numbers: theirs.
        coefficients: c, (num_terms,).
        leads: numbers, among the terms, of those in whose units coefficients are.
        times: of the states of the field, (num_times,).
        field: what is known of it.
    """

    def __init__(
        self, library: Library, numbers: Sequence[int], coefficients: Array, leads: Sequence[int], times: Array,
        field: Drawn,
    ) -> None:  # fmt: skip
        self.library = library
        self.numbers = tuple(numbers)
        self.terms = tuple(library.names[k] for k in numbers)
        self.coefficients = coefficients
        self.times = times
        self.field = field
        self._leads = tuple(leads)
        self._order = max(library.orders[numbers[lead]] for lead in leads)

    @property
    def by_name(self) -> dict[str, float]:
        """The coefficient of each term that there is."""
        return dict(zip(self.terms, map(float, self.coefficients), strict=True))

    def evolution(
        self,
        mesh: Mesh | None = None,
        *,
        initial: Coefficient | None = None,
        num_steps: int | None = None,
        dirichlet: BoundaryData = _NATURAL,
        time: fem.Constant | None = None,
        theta: float = 0.5,
    ) -> Evolution:
        """The equation from the first time of the data to the last, its coefficients and its initial state as controls.

        Collective. By the theta-method of :func:`relax.theta_evolution`: the coefficients, but for those of leading
        terms, are one vector Constant; the control vector is the initial state, then they. An equation with u_tt goes
        in steps of (u, u_t). What integration by parts leaves at the boundary is zero where nothing is clamped.

        Args:
            mesh: another mesh than that of the data.
            initial: u, or (u, u_t), at the start: a number, a function of x, a UFL expression; by default what is known
                of the field, on the mesh of the data alone.
            num_steps: by default three from each of ``times`` to the next one.
            dirichlet: tag -> value, in which ``time`` may stand; of (u, u_t) where there is u_tt. A component that is
                None in a list is free there: ``{"left": [1.0, None]}``.
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
        if self._order == 0:
            raise BadProblem("evolution: the equation found holds no derivative in time, so nothing evolves")
        V = _space(self.library, on, self._order)
        state, previous = fem.Function(V, name="u"), fem.Function(V, name="previous")
        c = fem.Constant(on, np.delete(self.coefficients, self._leads).astype(default_scalar_type))
        k = fem.Constant(on, default_scalar_type((end - start) / steps))
        form, rest = self._forms(state, previous, c, time)
        if rest is not None:
            form += k * averaged(rest, state, previous, theta, time, k)
        given = self._start(V) if initial is None else initial
        u_0 = given if isinstance(given, fem.Function) and given.function_space == V else interpolated(given, V)
        u_0.name = "initial"
        held = [c] if c.value.size else [previous]
        step = Problem(
            residual=form, state=state, controls=held, bcs=_conditions(V, dirichlet), name="discovery"
        )  # fmt: skip
        return Evolution(
            step=step, previous=previous, initial=u_0, num_steps=steps, time=time, dt=k, start=start
        )  # fmt: skip

    def refine(
        self,
        data: Data,
        *,
        noise: float,
        num_steps: int | None = None,
        dirichlet: BoundaryData = _NATURAL,
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
        if len(self.terms) == len(self._leads):
            raise BadInput(f"refine: expected an equation of two terms or more, got {self}")
        if given.times.min() < self.times[0] or given.times.max() > self.times[-1]:
            raise BadInput(f"refine: data: expected times from {self.times[0]:g} to {self.times[-1]:g}")
        evolution = self.evolution(num_steps=num_steps, dirichlet=dirichlet, time=time)
        length, size = self._scales()
        return refined(evolution, given, number_in(noise, ABOVE_0, "noise"), self._order, length, size)

    def _forms(
        self, state: fem.Function, previous: fem.Function, c: fem.Constant, time: fem.Constant | None
    ) -> tuple[ufl.Form, ufl.Form | None]:
        """What changes within a step, and the rest."""
        order, mesh = self._order, state.function_space.mesh
        test = ufl.TestFunction(state.function_space)
        u, before, v = _fields(state, order), _fields(previous, order), _fields(test, order)
        free = [i for i in range(len(self.numbers)) if i not in self._leads]
        dx = ufl.dx(domain=mesh)
        change: list[ufl.Form] = []
        rest: list[ufl.Form] = []
        for i, number in enumerate(self.numbers):
            factor = c[free.index(i)] if i in free else 1.0
            for s, part in self.library.parts[number].items():
                _check(part, self.terms[i], self.library, time)
                # u_tt is the change of u_t, which stands for itself wherever else it does.
                field = u[-1] - before[-1] if s == order else u[s]
                (change if s == order else rest).append(factor * _on(part, self.library, field, v[-1], mesh) * dx)
        if order == 2:
            change.append(ufl.inner(u[0] - before[0], v[0]) * dx)
            rest.append(-ufl.inner(u[1], v[0]) * dx)
        return sum(change[1:], change[0]), sum(rest[1:], rest[0]) if rest else None

    def _start(self, V: fem.FunctionSpace) -> fem.Function:
        """What is known of the field at the first time, and of its derivative. Collective."""
        fields = self.field.mean.reshape(len(self.times), -1)
        parts = [fields[0]] if self._order == 1 else [fields[0], CubicSpline(self.times, fields)(self.times[0], 1)]
        start = fem.Function(V)
        start.x.array[:] = SpaceLayout(V).spread(np.stack(parts, axis=-1).ravel())
        return start

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


def _check(part: Expr, name: str, library: Library, time: fem.Constant | None) -> None:
    """Refuse a term that steps cannot take."""
    if any(t is time for t in terminals_of(part)):
        raise BadProblem(
            f"evolution: the term {name!r} holds the Constant that is to stand for the time, which the search took for "
            "the number that it held; search without such terms"
        )
    if derivatives_of(part, library.v) > 1:
        raise BadProblem(
            f"evolution: the term {name!r} takes two derivatives of the test function, which has one in Lagrange "
            "elements; write it with one, as in -inner(grad(u), grad(v)), and search anew"
        )


def _conditions(V: fem.FunctionSpace, dirichlet: BoundaryData) -> list[fem.DirichletBC]:
    """u = value on tagged parts of the boundary. Collective."""
    of_kind(dirichlet, Mapping, "a table of tag -> value, such as {'left': 0.0}", "evolution: dirichlet")
    clamped = []
    for tag, value in dirichlet.items():
        parts = [(V, value)]
        if isinstance(value, list | tuple) and any(x is None for x in value):
            if len(value) != V.num_sub_spaces:
                raise BadInput(f"evolution: dirichlet: expected {V.num_sub_spaces} values at {tag!r}, got {value!r}")
            parts = [(V.sub(i), x) for i, x in enumerate(value) if x is not None]
        clamped += [clamp(part, tag, x) for part, x in parts]
    return clamped


def _space(library: Library, mesh: Mesh, order: int) -> fem.FunctionSpace:
    """That of u, or of (u, u_t) side by side."""
    V = library.space
    if order == 1:
        return V if mesh is V.mesh else fem.functionspace(mesh, V.ufl_element())
    if V.value_shape:
        raise BadProblem("evolution: expected a scalar u of an equation with u_tt; search for a first-order system")
    element = V.ufl_element()
    return fem.functionspace(mesh, (element.family_name, element.degree, (2,)))


def _fields(state: Expr, order: int) -> tuple[Expr, ...]:
    return (state,) if order == 1 else (state[0], state[1])


def _on(part: Expr, library: Library, field: Expr, v: Expr, mesh: Mesh) -> Expr:
    """A term, of another field and test function, on the mesh that these are on."""
    if v.ufl_shape != library.v.ufl_shape:
        raise BadProblem(
            f"evolution: expected a test function of the shape of u, {v.ufl_shape}, got {library.v.ufl_shape}: an "
            "equation for one component of several does not evolve by itself, but in a relax.discovery.System of all"
        )
    others: Mapping[Expr, Expr] = {}
    if mesh is not library.mesh:
        if strange := [t for t in terminals_of(part) if not isinstance(t, Unknown)]:
            raise BadProblem(f"evolution: a term holds {strange[0]}, which lives on the mesh of the data alone")
        others = {ufl.SpatialCoordinate(library.mesh): ufl.SpatialCoordinate(mesh)}
    return ufl.replace(part, {library.u: field, library.v: v, **others})
