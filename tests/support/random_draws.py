"""Random choices of what problems are made of: domains, coefficients, conditions on the boundary, observations."""

from __future__ import annotations

import numpy as np
import ufl
from dolfinx import fem
from ufl import dot, inner

from relax import AtSteps, FieldValues, Functional, PointValues, Stack, TimeIntegral, clamp, meshes
from relax.problem import value_space

CELLS = ("interval", "triangle", "quadrilateral", "tetrahedron", "hexahedron")
SIDES = {
    1: ["left", "right"],
    2: ["left", "right", "bottom", "top"],
    3: ["left", "right", "bottom", "top", "front", "back"],
}


class Draws:
    """Choices, one after the other, and what has been chosen so far."""

    def __init__(self, seed, comm):
        self.seed, self.rng = seed, np.random.default_rng(seed)
        self.controls, self.words = [], []
        #: Of what holds the state, and of the initial one.
        self.size = 0.5
        self.mesh = self._mesh(comm)
        self.dim = self.mesh.geometry.dim
        self.n = ufl.FacetNormal(self.mesh)
        self.in_time = self.chance(0.4)
        self.time = fem.Constant(self.mesh, 0.0) if self.in_time and self.chance(0.4) else None

    # -- choices -------------------------------------------------------------------------------------------------------

    def chance(self, share):
        return bool(self.rng.random() < share)

    def of(self, *options):
        return options[self.rng.integers(len(options))]

    def number(self, low, high):
        return float(self.rng.uniform(low, high))

    def smooth(self, low, high, shape=()):
        """A function of x with values between two numbers."""
        k, phase = self.rng.uniform(-3.0, 3.0, (*shape, 3)), self.rng.uniform(0.0, 6.0, (*shape, 1))
        return lambda x: 0.5 * (low + high) + 0.5 * (high - low) * np.sin(k @ x + phase)

    def field(self, V, low, high, name):
        f = fem.Function(V, name=name)
        f.interpolate(self.smooth(low, high, tuple(V.value_shape)))
        return f

    def coefficient(self, low, high, shape=()):
        """A number, or more, between two: a constant or a field, a control or a datum; at times an earlier control."""
        kind = self.of("number", "constant", "constant", "field", "field", "field", "datum", "expression")
        earlier = [c for c in self.controls if tuple(c.ufl_shape) == shape]
        if earlier and self.chance(0.1):
            c = self.of(*earlier)
            self.words.append("one control in two places")
            # Within the bounds, which for vectors lie on both sides of zero, whatever the other place has made of it.
            return (
                low + (high - low) * c**2 / (1.0 + c**2) if shape == () else 0.5 * high * c / ufl.sqrt(1.0 + dot(c, c))
            )
        values = self.rng.uniform(low, high, shape)
        x = ufl.SpatialCoordinate(self.mesh)
        if kind == "number":
            return float(values) if shape == () else ufl.as_vector(values.tolist())
        if kind == "expression":
            wave = 0.5 * (low + high) + 0.5 * (high - low) * ufl.sin(self.number(-2.0, 2.0) * x[0] + 1.0)
            if self.time is not None:
                wave *= 1.0 + 0.3 * ufl.cos(3.0 * self.time)
            return wave if shape == () else ufl.as_vector([wave, *values.tolist()[1:]])
        if kind == "constant":
            found = fem.Constant(self.mesh, values)
        else:
            family, degree = self.of(("Lagrange", 1), ("Lagrange", 2), ("DG", 0), ("DG", 1))
            V = fem.functionspace(self.mesh, (family, degree, shape) if shape else (family, degree))
            found = self.field(V, low, high, f"m{len(self.controls)}")
            if kind == "datum":
                return found
        self.controls.append(found)
        return found

    # -- the domain ----------------------------------------------------------------------------------------------------

    def _mesh(self, comm):
        self.cell = self.of(*CELLS)
        if self.cell == "interval":
            n = (int(self.rng.integers(12, 30)),)
            domain = meshes.interval(*n, comm=comm)
        elif self.cell in ("triangle", "quadrilateral"):
            n = tuple(int(k) for k in self.rng.integers(3, 6, 2))
            domain = meshes.rectangle((0.0, 0.0), (1.0, 1.0), n, cell=self.cell, comm=comm)
        else:
            n = (2, 2, int(self.rng.integers(2, 4)))
            domain = meshes.box((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), n, cell=self.cell, comm=comm)
        self.across = max(n)
        bend, phase = self.number(0.0, 0.06), self.rng.uniform(0.0, 6.0, 3)
        dim = domain.geometry.dim

        def bent(x):
            """Skew cells: on quadrilaterals and hexahedra no map from the reference cell is affine."""
            y = x.copy()
            for i in range(dim):
                y[:, i] += bend * np.sin(2.0 * x[:, (i + 1) % dim] + phase[i])
            return y

        domain.geometry.x[:] = bent(domain.geometry.x)
        self._bent = bent
        self.words.append(self.cell)
        return domain

    def measure(self, degree):
        """Of the cells, with a rule that keeps the mass matrix whole: nobody waits for the exact one."""
        self.dx = ufl.dx(domain=self.mesh, metadata={"quadrature_degree": 2 * degree + int(self.rng.integers(2))})

    def on(self, side):
        return meshes.ds(self.mesh, side)(metadata={"quadrature_degree": 4})

    # -- boundary conditions -------------------------------------------------------------------------------------------

    def boundary(self, V, least=0, free=0):
        """Conditions on at least so many sides, and the sides that are left, at least so many."""
        sides = self.rng.permutation(SIDES[self.dim]).tolist()
        count = int(self.rng.integers(least, len(sides) - free + 1))
        held, left = sides[:count], sides[count:]
        bcs = []
        while held:
            take = int(self.rng.integers(1, len(held) + 1))
            bcs.append(clamp(V, held[:take], self._boundary_value(V)))
            held = held[take:]
        if bcs:
            self.words.append(f"{count} of {len(sides)} sides held")
        return bcs, left

    def _boundary_value(self, V):
        size = self.size
        Q = value_space(V)
        shape = tuple(Q.value_shape)
        if not Q.element.interpolation_ident:
            return self.of(0.0, self.smooth(-size, size, shape))
        is_whole = len(V.component()) == 0 or shape == ()
        kind = self.of("zero", "number", "function", "field", "field", *(["constant"] if is_whole else []))
        if kind == "zero":
            return 0.0
        if kind == "function":
            return self.smooth(-size, size, shape)
        values = self.rng.uniform(-size, size, shape)
        if kind == "number":
            return values.tolist()
        control = fem.Constant(self.mesh, values) if kind == "constant" else self.field(Q, -size, size, "g")
        self.controls.append(control)
        self.words.append(f"boundary {kind} a control")
        return control

    def natural(self, u, v, sides):
        """Nothing, a flux or Robin's condition on each side."""
        R, shape = 0, tuple(u.ufl_shape)
        for side in sides:
            kind = self.of("free", "flux", "robin")
            if kind == "robin":
                R += self.coefficient(0.3, 1.5) * inner(u, v) * self.on(side)
            if kind != "free":
                R -= inner(self.coefficient(-0.5, 0.5, shape), v) * self.on(side)
        return R

    # -- observations --------------------------------------------------------------------------------------------------

    def observable(self, problem):
        many = [self._look(problem) for _ in range(self.of(1, 2, 2, 3))]
        if self.in_time:
            many = [self._in_time(problem, look) for look in many]
        return many[0] if len(many) == 1 else Stack(many)

    def _in_time(self, problem, look):
        steps = self.rng.integers(0, problem.num_steps + 1, 2).tolist()
        return self.of(lambda: AtSteps(look, [*steps, -1]), lambda: TimeIntegral(look, problem.dt))()

    def _look(self, problem):
        u, V = problem.state, problem.state.function_space
        seen = V.sub(self.of(0, 1)) if is_mixed(V) else V
        kind = self.of("points", "field", "functional", "functional")
        if kind == "points":
            points = np.zeros((3, 3))
            points[:, : self.dim] = self.rng.uniform(0.2, 0.8, (3, self.dim))
            return PointValues(seen, self._bent(points)[:, : self.dim])
        if kind == "field":
            return FieldValues(seen)
        size = inner(u, u)
        on = self.of(self.dx, self.dx, self.on(self.of(*SIDES[self.dim])))
        return Functional(self.of(size, size + 0.3 * size**2, ufl.exp(-size)) * on)


def is_mixed(V):
    return V.num_sub_spaces > 0 and V.dofmap.bs == 1
