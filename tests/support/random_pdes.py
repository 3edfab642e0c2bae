"""Random problems: what a seed draws does not depend on the number of ranks.

Well-posed by construction: diffusion stays above 0.1, what is nonlinear grows with the state, transport is weak beside
both, and where nothing holds the state a reaction does. Data, states and derivatives are of order one.
"""

from __future__ import annotations

from typing import NamedTuple

import basix.ufl
import ufl
from dolfinx import fem
from random_draws import SIDES, Draws, is_mixed
from ufl import dot, exp, grad, inner

from relax import Evolution, Observable, Problem, meshes, theta_evolution


class Drawn(NamedTuple):
    """A problem, what is seen of it, and both in words."""

    problem: Problem | Evolution
    observable: Observable
    words: str


class Equation(NamedTuple):
    """R(u; v) of a state, the conditions that go with it, and (u, v) of what has a derivative in time."""

    residual: ufl.Form
    state: fem.Function
    bcs: list
    mass: ufl.core.expr.Expr


def drawn(seed, comm):
    """The problem of a seed on a communicator. Collective."""
    return _Equations(seed, comm).drawn()


class _Equations(Draws):
    """Equations of every kind, in what has been drawn."""

    # -- equations -----------------------------------------------------------------------------------------------------

    def diffusivity(self, u, at):
        """A coefficient above zero, with ``at`` in it where it depends on the state."""
        a = self.of(lambda: self.coefficient(0.4, 1.5), lambda: exp(self.coefficient(-0.7, 0.7)))()
        kind = self.of("", "", "u", "grad u")
        if kind:
            self.words.append(f"diffusion by {kind}")
        return a if kind == "" else a * (1.0 + (inner(at, at) if kind == "u" else inner(grad(at), grad(at))))

    def reaction(self, u, v, needed):
        kind = self.of(*(["linear", "cubic", "sinh"] if needed else ["", "linear", "cubic", "sinh"]))
        if kind == "":
            return 0
        self.words.append(f"{kind} reaction")
        R = self.coefficient(0.5, 2.0) * inner(u, v) * self.dx
        if kind == "cubic":
            R += self.coefficient(0.2, 1.0) * inner(u, u) * inner(u, v) * self.dx
        if kind == "sinh":
            part = u if tuple(u.ufl_shape) == () else u[0]
            R += ufl.sinh(part) * (v if tuple(u.ufl_shape) == () else v[0]) * self.dx
        return R

    def scalar(self, at=None):
        degree = self.of(1, 2, 3) if self.dim < 3 else self.of(1, 1, 2)
        self.measure(degree)
        self.words.append(f"Lagrange {degree}")
        V = fem.functionspace(self.mesh, ("Lagrange", degree))
        u, v = fem.Function(V, name="u"), ufl.TestFunction(V)
        bcs, left = self.boundary(V)
        R = self.diffusivity(u, u if at is None else at(V)) * inner(grad(u), grad(v)) * self.dx
        R += self.reaction(u, v, not bcs) + self.natural(u, v, left) - self.coefficient(-1.0, 2.0) * v * self.dx
        if self.chance(0.4):
            R += dot(self.coefficient(-0.4, 0.4, (self.dim,)), grad(u)) * v * self.dx
        return Equation(R, u, bcs, inner(u, v))

    def broken(self, at=None):
        """Symmetric interior penalty, boundary values held weakly."""
        degree = self.of(1, 2) if self.dim < 3 else 1
        self.measure(degree)
        self.words.append(f"DG {degree}")
        V = fem.functionspace(self.mesh, ("DG", degree))
        u, v, n = fem.Function(V, name="u"), ufl.TestFunction(V), self.n
        a = self.diffusivity(u, u if at is None else at(V))
        g, penalty = self.coefficient(-0.5, 0.5), 20.0 * degree**2 * self.across
        rule = {"metadata": {"quadrature_degree": 2 * degree}}
        dS, ds = ufl.dS(domain=self.mesh, **rule), meshes.ds(self.mesh)(**rule)
        flux, test = ufl.avg(a * grad(u)), ufl.avg(a * grad(v))
        R = a * inner(grad(u), grad(v)) * self.dx + penalty * ufl.jump(u) * ufl.jump(v) * dS
        R -= (dot(flux, ufl.jump(v, n)) + dot(test, ufl.jump(u, n))) * dS
        R += (penalty * (u - g) * v - a * dot(grad(u), n) * v - a * dot(grad(v), n) * (u - g)) * ds
        R += self.reaction(u, v, False) - self.coefficient(-1.0, 2.0) * v * self.dx
        return Equation(R, u, [], inner(u, v))

    def vector(self, at=None):
        """A system of as many equations as the state has components, or elasticity."""
        degree, k = (self.of(1, 2) if self.dim < 3 else 1), self.of(self.dim, self.dim, 2, 3)
        self.measure(degree)
        V = fem.functionspace(self.mesh, ("Lagrange", degree, (k,)))
        u, v = fem.Function(V, name="u"), ufl.TestFunction(V)
        is_elastic = k == self.dim and self.chance(0.5)
        self.words.append(f"{'elasticity' if is_elastic else 'system'} of {k}, degree {degree}")
        if is_elastic:
            return self._elasticity(V, u, v)
        held = V.sub(int(self.rng.integers(k))) if k > 1 and self.chance(0.3) else V
        bcs, left = self.boundary(held)
        turn = fem.Constant(self.mesh, 0.3 * self.rng.uniform(-1.0, 1.0, (k, k)))
        if self.chance(0.5):
            self.controls.append(turn)
            self.words.append("a matrix a control")
        R = self.diffusivity(u, u if at is None else at(V)) * inner(grad(u), grad(v)) * self.dx
        R += inner(dot(turn - ufl.transpose(turn), u), v) * self.dx
        R += self.reaction(u, v, not bcs or held is not V) + self.natural(u, v, left)
        return Equation(R - inner(self.coefficient(-1.0, 1.0, (k,)), v) * self.dx, u, bcs, inner(u, v))

    def _elasticity(self, V, u, v):
        """Hooke's law, of small or of finite strains; what holds and what pulls is small beside the moduli."""
        one = ufl.Identity(self.dim)
        self.size = 0.05
        bcs, _ = self.boundary(V, least=1)
        F, strain = one, ufl.sym(grad(u))
        if self.chance(0.5):
            self.words.append("finite strain")
            F, strain = one + grad(u), strain + 0.5 * dot(grad(u).T, grad(u))
        stress = exp(self.coefficient(-0.5, 0.5)) * (2.0 * strain + self.coefficient(0.5, 1.5) * ufl.tr(strain) * one)
        R = inner(dot(F, stress), grad(v)) * self.dx - inner(self.coefficient(-0.1, 0.1, (self.dim,)), v) * self.dx
        return Equation(R, u, bcs, inner(u, v))

    def edges(self, at=None):
        """curl a curl u + c u = f in Nédélec's space."""
        self.measure(2)
        self.words.append("N1curl 1")
        V = fem.functionspace(self.mesh, ("N1curl", 1))
        u, v = fem.Function(V, name="u"), ufl.TestFunction(V)
        bcs, _ = self.boundary(V)
        R = exp(self.coefficient(-0.7, 0.7)) * inner(ufl.curl(u), ufl.curl(v)) * self.dx
        R += self.reaction(u, v, True) - inner(self.coefficient(-1.0, 1.0, (self.dim,)), v) * self.dx
        return Equation(R, u, bcs, inner(u, v))

    def _mixed(self, *elements):
        cell = self.mesh.basix_cell()
        made = [
            basix.ufl.element(family, cell, degree, **({"shape": shape} if shape else {}))
            for family, degree, shape in elements
        ]
        W = fem.functionspace(self.mesh, basix.ufl.mixed_element(made))
        return W, fem.Function(W, name="w"), ufl.TestFunctions(W)

    def flow(self, at=None):
        """Stokes or Navier-Stokes by Taylor-Hood elements, one side open at least."""
        self.measure(2)
        W, w, (v, q) = self._mixed(("Lagrange", 2, (self.dim,)), ("Lagrange", 1, None))
        u, p = ufl.split(w)
        bcs, left = self.boundary(W.sub(0), least=1, free=1)
        carrier = u if at is None else ufl.split(at(W))[0]
        convective = self.chance(0.5)
        self.words.append("Navier-Stokes" if convective else "Stokes")
        R = (exp(self.coefficient(-0.7, 0.7)) * inner(grad(u), grad(v)) - p * ufl.div(v)) * self.dx
        R += (q * ufl.div(u) + 0.05 * p * q - inner(self.coefficient(-1.0, 1.0, (self.dim,)), v)) * self.dx
        if convective:
            R += self.coefficient(0.1, 0.5) * inner(dot(grad(u), carrier), v) * self.dx
        return Equation(R + self.natural(u, v, left), w, bcs, inner(u, v))

    def porous(self, at=None):
        """Darcy's law in Raviart-Thomas elements, the pressure piecewise constant."""
        self.measure(2)
        self.words.append("RT 1 x DG 0")
        W, w, (t, q) = self._mixed(("RT", 1, None), ("DG", 0, None))
        s, p = ufl.split(w)
        R = (exp(self.coefficient(-0.7, 0.7)) * inner(s, t) - p * ufl.div(t) + ufl.div(s) * q) * self.dx
        R += self.reaction(p, q, self.chance(0.5)) - self.coefficient(-1.0, 1.0) * q * self.dx
        R += self.coefficient(-0.5, 0.5) * dot(t, self.n) * self.on(self.of(*SIDES[self.dim]))
        return Equation(R, w, [], inner(p, q))

    def pair(self, at=None):
        """Two fields of different elements, each drawn to the other."""
        degree = self.of(1, 2) if self.dim < 3 else 1
        other = self.of(("DG", 0, None), ("DG", 1, None), ("Lagrange", 1, None), ("Lagrange", 2, None))
        self.measure(max(degree, other[1]))
        self.words.append(f"Lagrange {degree} x {other[0]} {other[1]}")
        W, w, (v, q) = self._mixed(("Lagrange", degree, None), other)
        a, b = ufl.split(w)
        bcs, left = self.boundary(W.sub(0))
        R = (self.diffusivity(a, a if at is None else ufl.split(at(W))[0]) * inner(grad(a), grad(v))) * self.dx
        R += (self.coefficient(0.5, 1.5) * (a - b) * v + (b + b**3 - a) * q - self.coefficient(-1.0, 1.0) * q) * self.dx
        return Equation(R + self.reaction(a, v, not bcs) + self.natural(a, v, left), w, bcs, a * v + b * q)

    # -- in time -------------------------------------------------------------------------------------------------------

    def evolution(self, kind):
        """By the theta-method, the midpoint rule, or a step of one's own that takes coefficients at the old state."""
        own = kind in ("flow", "porous") or (kind in ("scalar", "pair", "vector") and self.chance(0.3))
        previous = None

        def at(V):
            nonlocal previous
            previous = fem.Function(V, name="previous")
            return previous

        dt, N = self.number(0.05, 0.2), int(self.rng.integers(2, 5))
        R, u, bcs, mass = self._equation(kind, at if own else None)
        V = u.function_space
        initial = self._initial(V)
        fixed = self.chance(0.4)
        per_step = [c for c in self.controls if self.chance(0.4)]
        self.words.append(
            f"{N} steps, {len(per_step)} controls per step" + ("" if fixed else ", initial state a control")
        )
        common = {"initial": initial, "initial_is_fixed": fixed, "num_steps": N, "per_step": per_step, "dt": dt}
        if self.time is not None and self.time in R.constants():
            common |= {"time": self.time, "start": 0.1}
        name = f"seed_{self.seed}"
        if not own:
            theta = self.of(1, 0.5, 0.7, "midpoint")
            self.words.append(f"theta {theta}")
            return theta_evolution(R, u, theta=theta, controls=self.controls, bcs=bcs, name=name, **common)
        self.words.append("own steps")
        if previous is None:
            previous = fem.Function(V, name="previous")
        F = ufl.replace(mass, {u: u - previous}) * self.dx + dt * R
        return Evolution(
            step=Problem(residual=F, state=u, controls=self.controls, bcs=bcs, name=name), previous=previous, **common
        )

    def _initial(self, V):
        start = fem.Function(V, name="initial")
        if is_mixed(V):
            part = self.of(0, 1)
            start.sub(part).interpolate(self.smooth(-self.size, self.size, tuple(V.sub(part).value_shape)))
        else:
            start.interpolate(self.smooth(-self.size, self.size, tuple(V.value_shape)))
        return start

    # -- all of it -----------------------------------------------------------------------------------------------------

    def drawn(self):
        kinds = ["scalar", "scalar", "scalar", "broken", "vector", "vector", "pair", "flow"]
        kinds += [] if self.dim == 1 else ["edges", "porous"]
        kind = self.of(*kinds)
        if self.in_time:
            problem = self.evolution(kind)
        else:
            R, u, bcs, _ = self._equation(kind)
            problem = Problem(residual=R, state=u, controls=self.controls, bcs=bcs, name=f"seed_{self.seed}")
        observable = self.observable(problem)
        self.words.append(f"{len(problem.controls)} controls")
        return Drawn(problem, observable, ", ".join(self.words))

    def _equation(self, kind, at=None):
        """The equation of a kind, with one control at least."""
        equation = getattr(self, kind)(at)
        if self.controls:
            return equation
        self.controls.append(fem.Constant(self.mesh, self.number(0.5, 1.0)))
        return equation._replace(residual=equation.residual + self.controls[0] * equation.mass * self.dx)
