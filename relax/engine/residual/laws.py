"""Point laws k = N(z; θ) in a residual: Functions at quadrature points that stand for them, and the chain rule.

With A = ∂N/∂z at the points, k follows the state and the controls by dk = A dz + ∂N/∂θ dθ. A derivative of a form is
that in what it names, and in k along dk, one Gateaux derivative in several Functions at once; a second derivative needs
A's own change, too, and that along one direction alone: dA, by N's forward mode in z and θ together. Nothing is
approximated: this is the chain rule at each point of the sum that is solved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import basix
import basix.ufl
import numpy as np
import ufl
from dolfinx import fem
from mpi4py import MPI
from ufl.algorithms import expand_derivatives
from ufl.constantvalue import Zero
from ufl.core.expr import Expr

from relax.base import parallel
from relax.base.fem.forms import Control, is_same, nonzero, values_of
from relax.base.fem.pointwise import AtPoints, PointLaw, laws_in
from relax.base.types import Array
from relax.engine.residual.registers import Registers
from relax.errors import SolveFailed


class LawAtPoints:
    """One law at the points of one quadrature. Collective to make; methods are Local unless they say otherwise.

    Args:
        law: the law.
        degree: of the quadrature.
        registers: of the problem.

    Attributes:
        value: k, of s components.
        slope: A, of s d components; ``moves`` says whether anything asks for it.
        tangent: ∂N/∂θ dθ.
        change, slope_change: dk and dA along all of du and dm.
        weights: which control θ is; None for none.
    """

    def __init__(self, law: PointLaw, degree: int, registers: Registers) -> None:
        self.law = law
        self._registers = registers
        self._degree = degree
        self._mesh = registers.state.function_space.mesh
        self._cell = self._mesh.ufl_domain().ufl_coordinate_element().cell_type
        self._width = len(law.z)
        which = [i for i, c in enumerate(registers.controls) if is_same(c, law)]
        self.weights: int | None = which[0] if which else None
        self.value = self._register("value", self.law.components)
        self.moves = any(t is r for t in law.depends_on for r in (registers.state, *registers.controls))
        topology = self._mesh.topology
        self._cells = np.arange(topology.index_map(topology.dim).size_local, dtype=np.int32)
        self._dofs = self.value.function_space.dofmap.list[: len(self._cells)].ravel()
        self._z: Array | None = None
        self._seen: list[Array] = []
        self._has_slope = False
        self._along: tuple[Array, Array, Array] | None = None

    def _register(self, name: str, components: int) -> AtPoints:
        element = basix.ufl.quadrature_element(self._cell, value_shape=(components,), degree=self._degree)
        V = fem.functionspace(self._mesh, element)
        return AtPoints(V, f"{self.law} {name}", (*self.law.depends_on, self.law))

    @cached_property
    def slope(self) -> AtPoints:
        """A. Collective the first time, as are the other registers."""
        return self._register("slope", self.law.components * self._width)

    @cached_property
    def tangent(self) -> AtPoints:
        """∂N/∂θ dθ."""
        return self._register("tangent", self.law.components)

    @cached_property
    def change(self) -> AtPoints:
        """dk."""
        return self._register("change", self.law.components)

    @cached_property
    def slope_change(self) -> AtPoints:
        """dA."""
        return self._register("slope change", self.law.components * self._width)

    # -- in forms ------------------------------------------------------------------------------------------------------

    @property
    def in_form(self) -> Expr:
        """What stands for the law: k in its shape."""
        shape = self.law.ufl_shape
        if not shape:
            return self.value[0]
        entries = np.array([self.value[i] for i in range(self.law.components)], dtype=object)
        return ufl.as_tensor(entries.reshape(shape).tolist())

    def moved(self, dz: Expr) -> Expr:
        """A dz."""
        rows = [
            sum((self.slope[i * self._width + j] * dz[j] for j in range(self._width)), start=ufl.as_ufl(0.0))
            for i in range(self.law.components)
        ]
        return ufl.as_vector(rows)

    # -- values --------------------------------------------------------------------------------------------------------

    def compile(self, *, change: bool = False) -> None:
        """Compile what gives z, or dz. Collective."""
        _ = self._compiled_change if change else self._compiled

    def _points(self) -> Array:
        points: Array = basix.make_quadrature(self._cell, self._degree)[0]
        return points

    @cached_property
    def _compiled(self) -> fem.Expression:
        return fem.Expression(self.law.z, self._points(), comm=self._registers.comm)

    @cached_property
    def _compiled_change(self) -> fem.Expression | None:
        registers = self._registers
        pairs = [(registers.state, registers.tangent_state)]
        pairs += zip(registers.controls, registers.tangent_controls, strict=True)
        moved = [change_of(self.law.z, terminal, direction) for terminal, direction in pairs]
        present = [dz for dz in moved if dz is not None]
        if not present:
            return None
        return fem.Expression(sum(present[1:], start=present[0]), self._points(), comm=registers.comm)

    def refresh(self, *, slopes: bool) -> None:
        """k, and A where it is asked for, at the registers' point; what is known is not computed again.

        Raises:
            SolveFailed: for numbers that are not finite.
        """
        now = [values_of(t) for t in (*self.law.depends_on, self.law)]
        if self._z is None or not all(np.array_equal(a, b) for a, b in zip(now, self._seen, strict=True)):
            self._z = None
            z = self._at_points(self._compiled)
            self._write(self.value, self._finite(self.law.values(z), z, "values"))
            self._z, self._seen, self._has_slope = z, [a.copy() for a in now], False
        if slopes and self.moves and not self._has_slope:
            self._write(self.slope, self._finite(self.law.slopes(self._z), self._z, "derivatives"))
            self._has_slope = True

    def refresh_tangent(self) -> None:
        """∂N/∂θ dθ at the installed dm, after ``refresh``."""
        self._write(self.tangent, self.law.tangents(self._here, self._weight_change()))

    def refresh_changes(self) -> None:
        """dk and dA along the installed du and dm, after ``refresh``."""
        z, dz, dw = self._here, self._input_change(), self._weight_change()
        known = self._along
        if known is None or known[0] is not z or not (np.array_equal(known[1], dz) and np.array_equal(known[2], dw)):
            change, slope_change = self.law.changes(z, dz, dw)
            self._write(self.change, change)
            self._write(self.slope_change, slope_change)
            self._along = (z, dz, dw.copy())  # of a register, which the next direction overwrites

    def collected(self, dual: Array) -> Array:
        """(∂N/∂θ)ᵀ of a dual vector at this rank's points: this rank's part, (size,)."""
        return self.law.collected(self._here, self._read(dual))

    def collected_change(self, dual: Array, change: Array) -> Array:
        """Its derivative along the installed du and dm, and along the change of the dual vector."""
        dz, dw = self._input_change(), self._weight_change()
        return self.law.collected_change(self._here, self._read(dual), dz, dw, self._read(change))

    @property
    def _here(self) -> Array:
        assert self._z is not None, "refreshed before"
        return self._z

    def _weight_change(self) -> Array:
        if self.weights is None:
            return np.zeros(self.law.size)
        return values_of(self._registers.tangent_controls[self.weights])

    def _input_change(self) -> Array:
        return np.zeros_like(self._here) if self._compiled_change is None else self._at_points(self._compiled_change)

    def _at_points(self, expression: fem.Expression) -> Array:
        values = expression.eval(self._mesh, self._cells)
        return np.asarray(values, dtype=np.float64).reshape(len(self._dofs), self._width)

    def _write(self, register: AtPoints, values: Array) -> None:
        """(n, ...) at this rank's points. Ghosts are other ranks' cells, over which nothing is integrated here."""
        flat = values.reshape(len(self._dofs), register.function_space.dofmap.bs)
        register.x.array.reshape(-1, flat.shape[1])[self._dofs] = flat

    def _read(self, dual: Array) -> Array:
        return dual.reshape(-1, self.law.components)[self._dofs]

    def _finite(self, numbers: Array, z: Array, what: str) -> Array:
        is_finite = np.isfinite(numbers).all(axis=tuple(range(1, numbers.ndim)))
        if not is_finite.all():
            raise SolveFailed(
                f"{self.law}: its {what} are NaN or infinite at {np.count_nonzero(~is_finite)} of {len(z)} points, "
                f"first at the inputs {z[np.argmin(is_finite)]}; expected a function that is finite wherever the "
                "solver looks: bound its inputs, or start nearer to the solution"
            )
        return numbers


def change_of(z: Expr, terminal: Control, direction: Expr, variable: Expr | None = None) -> Expr | None:
    """d/dε of a vector expression as a Function or Constant moves along ``direction``; None where it is zero.

    Args:
        z: the expression.
        terminal: what moves.
        direction: along what.
        variable: what stands for a Constant in z, where something does.
    """
    if isinstance(terminal, PointLaw):
        return None
    if isinstance(terminal, fem.Function):
        slope = ufl.derivative(z, terminal, direction)
    else:
        if variable is None:
            variable = ufl.variable(terminal)
            z = ufl.replace(z, {terminal: variable})
        slope = ufl.as_vector([ufl.inner(ufl.diff(z[j], variable), direction) for j in range(len(z))])
    expanded = expand_derivatives(slope)
    return None if isinstance(expanded, Zero) else expanded


class Laws:
    """The point laws of a residual. Collective, as are methods that refresh; others are Local.

    Args:
        form: the residual, its quadrature degrees fixed.
        registers: of the problem.

    Attributes:
        form: the residual with Functions at points in the place of laws.
        each: the laws, at the points of each quadrature.
    """

    def __init__(self, form: ufl.Form, registers: Registers) -> None:
        self._comm: MPI.Comm = registers.comm
        known: dict[tuple[int, int], LawAtPoints] = {}
        integrals = []
        for integral in form.integrals():
            laws, degree = laws_in(integral.integrand()), integral.metadata().get("quadrature_degree")
            for law in laws:
                if (id(law), degree) not in known:
                    known[id(law), degree] = LawAtPoints(law, degree, registers)
            standing_for = {law: known[id(law), degree].in_form for law in laws}
            integrand = ufl.replace(integral.integrand(), standing_for) if laws else integral.integrand()
            integrals.append(integral.reconstruct(integrand=integrand))
        self.each = list(known.values())
        self.form: ufl.Form = ufl.Form(integrals) if self.each else form

    def of_control(self, i: int) -> list[LawAtPoints]:
        """Those whose weights control i is."""
        return [law for law in self.each if law.weights == i]

    # -- derivatives of forms ------------------------------------------------------------------------------------------

    def through(
        self, form: ufl.Form, terminal: Control, direction: Expr, variables: dict[Control, Expr]
    ) -> tuple[list[AtPoints], list[Expr]]:
        """How k moves in a form as a Function or Constant moves along ``direction``: the k, and A dz of each."""
        values, directions = [], []
        for law in self._in(form, "value"):
            if any(t is terminal for t in law.law.depends_on):
                z = ufl.replace(law.law.z, variables) if variables else law.law.z
                dz = change_of(z, terminal, direction, variables.get(terminal))
                if dz is not None:
                    values.append(law.value)
                    directions.append(law.moved(dz))
        return values, directions

    def along_weights(self, form: ufl.Form, i: int) -> ufl.Form | None:
        """The derivative of a form along dθ of control i."""
        laws = [law for law in self._in(form, "value") if law.weights == i]
        return _along([law.value for law in laws], [law.tangent for law in laws], form)

    def along_all(self, form: ufl.Form) -> ufl.Form | None:
        """What a form changes by through k and A, as the state and all controls move along du and dm."""
        values, slopes = self._in(form, "value"), self._in(form, "slope")
        moving = [law.value for law in values] + [law.slope for law in slopes]
        return _along(moving, [law.change for law in values] + [law.slope_change for law in slopes], form)

    def _in(self, form: ufl.Form, what: str) -> list[LawAtPoints]:
        if not self.each:
            return []
        held = {id(c) for c in form.coefficients()}
        asked = self.each if what == "value" else [law for law in self.each if law.moves]
        return [law for law in asked if id(getattr(law, what)) in held]

    # -- numbers at points ---------------------------------------------------------------------------------------------

    def refresh(self, *, slopes: bool = True) -> None:
        """k, and A, at the registers' point."""
        self._together(lambda law: law.refresh(slopes=slopes))

    def refresh_tangents(self, which: Sequence[int]) -> None:
        """∂N/∂θ dθ at the installed dm, of these controls, after ``refresh``."""
        self._together(lambda law: law.refresh_tangent() if law.weights in which else None)

    def refresh_changes(self) -> None:
        """dk and dA along the installed du and dm, after ``refresh``."""
        for law in self.each:
            law.compile(change=True)
        self._together(lambda law: law.refresh_changes())

    def _together(self, work: Callable[[LawAtPoints], None]) -> None:
        if not self.each:
            return
        for law in self.each:
            law.compile()
        with parallel.together(self._comm):
            for law in self.each:
                work(law)


def _along(moving: list[AtPoints], directions: list[AtPoints], form: ufl.Form) -> ufl.Form | None:
    return nonzero(ufl.derivative(form, tuple(moving), tuple(directions))) if moving else None
