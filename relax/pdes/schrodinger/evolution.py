"""Schrödinger's equation in time, by Crank–Nicolson."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import ufl
from dolfinx import default_scalar_type, fem
from dolfinx.mesh import Mesh
from ufl.core.expr import Expr

from relax.base.fem.coefficients import Coefficient, as_coefficient, interpolated
from relax.base.fem.forms import Control
from relax.base.types import Array
from relax.errors import BadInput
from relax.pdes.schrodinger.eigenstates import eigenstates
from relax.pdes.schrodinger.hamiltonian import hamiltonian, potential_coefficient
from relax.pdes.shared.in_time import chosen
from relax.pdes.shared.sizes import bounding_box
from relax.pdes.shared.spaces import lagrange
from relax.problem.boundary import clamp_boundary
from relax.problem.evolution import Evolution
from relax.problem.evolution_checks import check_length
from relax.problem.problem import Problem


def evolution(
    mesh: Mesh,
    potential: Coefficient = 0.0,
    *,
    initial: Coefficient | fem.Function,
    dt: float,
    num_steps: int,
    controls: Sequence[str] = ("initial",),
    direction: int | Sequence[float] = 0,
    absorber: Coefficient = 0.0,
    time: fem.Constant | None = None,
    start: float = 0.0,
    degree: int = 2,
    name: str = "schrodinger",
) -> Evolution:
    """i ψ_t = −½ Δψ + V(x, t) ψ + E_n (e · x) ψ − i W(x) ψ in the domain, ψ = 0 on its boundary.

    Collective. Dimensionless (hbar = m = 1). The state is the pair u = (Re ψ, Im ψ). Crank–Nicolson, with all
    coefficients at the middle of the step: with ψ̄ = (ψ_n + ψ_{n-1})/2,

        i (ψ_n − ψ_{n-1}, v) = dt [½ (grad ψ̄, grad v) + ((V + E_n e · x − i W) ψ̄, v)],

    which keeps the norm of ψ where W = 0, and is of second order in dt. Written in real and imaginary parts with the
    signs for which the operator is symmetric.

    Args:
        mesh: an interval, a plane mesh, or one in space.
        potential: V, a number, a function of x, or a UFL expression, in which ``time`` may stand.
        initial: ψ at the start, as it is now: a function of x that gives complex or real values (n,), or both parts
            (2, n); a Function in the state's space; a real scalar Function, such as an eigenstate; a UFL expression of
            one part or two; or a number. Values at the walls are taken to be zero.
        dt: the length of a step.
        num_steps: how many.
        controls: what to differentiate with respect to, in the order of the control vector: "initial", the pair
            (Re ψ, Im ψ) at the start; "potential", a static V, piecewise linear; "field", E_n, one number per step,
            initially 0. Without "field" there is no such term.
        direction: e: the number of a coordinate, or a vector of the mesh's dimension.
        absorber: W >= 0, a complex absorbing potential, such as :func:`absorbing_layer`; 0 for none.
        time: the scalar Constant in V that stands for t.
        start: the time of the initial state.
        degree: polynomial degree of ψ.
        name: as in :class:`relax.Problem`.

    Raises:
        BadInput: on every rank, for values that do not fit.
    """
    wanted = chosen("schrodinger", controls, ("initial", "potential", "field"))
    V, scalar = lagrange("schrodinger", mesh, degree, (2,)), lagrange("schrodinger", mesh, degree)
    walls = clamp_boundary(V)
    psi0 = wave_function(initial, V)
    psi0.name = "initial"
    # What is not zero at the walls would be lost in the first step, and with it the norm.
    walls.set(psi0.x.array)
    registers: dict[str, Control] = {}
    if "potential" in wanted:
        if time is not None:
            raise BadInput('potential: as a control it is static; leave time None, or "potential" out of controls')
        static = interpolated(potential, fem.functionspace(mesh, ("Lagrange", 1)))
        static.name = "potential"
        registers["potential"] = static
        V_x: Expr = static
    else:
        V_x = potential_coefficient(potential, scalar)
    k = fem.Constant(mesh, default_scalar_type(check_length(dt, "dt")))
    if time is not None:
        V_x = ufl.replace(V_x, {time: time - k / 2})
    if "field" in wanted:
        registers["field"] = fem.Constant(mesh, default_scalar_type(0.0))
        V_x += registers["field"] * ufl.inner(_direction(mesh, direction), ufl.SpatialCoordinate(mesh))

    u, previous, v = fem.Function(V, name="psi"), fem.Function(V, name="previous"), ufl.TestFunction(V)
    mean = (u + previous) / 2
    a, b, v_a, v_b = mean[0], mean[1], v[0], v[1]
    change = u - previous
    form = (change[1] * v_a + change[0] * v_b) * ufl.dx + k * (hamiltonian(a, v_a, V_x) - hamiltonian(b, v_b, V_x))
    W = absorber if isinstance(absorber, Expr) or callable(absorber) or np.any(absorber) else None
    if W is not None:
        form += k * as_coefficient(W, scalar) * (b * v_a + a * v_b) * ufl.dx
    own = [previous if c == "initial" else registers[c] for c in wanted]
    step = Problem(residual=form, state=u, controls=own, bcs=[walls], name=name)
    return Evolution(
        step=step, previous=previous, initial=psi0, num_steps=num_steps,
        per_step=[registers["field"]] if "field" in wanted else [], time=time, dt=k, start=start,
        initial_is_fixed="initial" not in wanted, is_wave_function=True,
    )  # fmt: skip


def dipole(
    mesh: Mesh,
    *,
    num_steps: int,
    dt: float,
    potential: Coefficient = 0.0,
    initial: int | Coefficient | fem.Function = 1,
    direction: int | Sequence[float] = 0,
    degree: int = 2,
) -> Evolution:
    """i ψ_t = −½ Δψ + V ψ + E_n (e · x) ψ: a particle in a box, driven by a field with a strength for each step.

    Collective. Dimensionless. The control is E, (num_steps,). The equation of :func:`evolution`.

    Args:
        mesh: the box.
        num_steps: how many steps.
        dt: their length.
        potential: V, static.
        initial: the number of the eigenstate of V to start from, 1 for the ground state; or ψ as :func:`evolution`
            takes it.
        direction: e, as in :func:`evolution`.
        degree: polynomial degree of ψ.
    """
    if isinstance(initial, float | bool | int | np.number):
        if not isinstance(initial, int | np.integer) or isinstance(initial, bool) or initial < 1:
            raise BadInput(
                "initial: expected the number of an eigenstate, 1 for the ground state, or a wave function, "
                f"got {initial!r}"
            )
        initial = eigenstates(mesh, potential, int(initial), degree=degree).states[-1]
    return evolution(
        mesh, potential, initial=initial, dt=dt, num_steps=num_steps, controls=["field"], direction=direction,
        degree=degree, name="schrodinger_dipole",
    )  # fmt: skip


def absorbing_layer(mesh: Mesh, *, width: float, strength: float) -> Callable[[Array], Array]:
    """W(x) = strength Σ (1 − d/width)² over the faces of the mesh's bounding box that are closer than width, at d.

    Collective. For ``absorber=`` of :func:`evolution`: what runs into the layer decays at the rate 2 W of |ψ|². Waves
    that are long beside the width are reflected in part, and so are those that meet a strong layer.

    Args:
        mesh: the mesh.
        width: of the layer, in the mesh's units.
        strength: W at the faces, in units of 1/time.

    Raises:
        BadInput: unless both are above 0.
    """
    if not (width > 0.0 and strength > 0.0):
        raise BadInput(f"absorbing_layer: expected a width and a strength above 0, got {width!r} and {strength!r}")
    gdim = mesh.geometry.dim
    low, high = bounding_box(mesh)
    if not np.isfinite(low).all():
        raise BadInput("absorbing_layer: the mesh has no points")

    def W(x: Array) -> Array:
        total = np.zeros(x.shape[1])
        for i in range(gdim):
            for distance in (x[i] - low[i], high[i] - x[i]):
                total += np.clip(1.0 - distance / width, 0.0, None) ** 2
        return strength * total

    return W


def wave_function(value: Coefficient | fem.Function, V: fem.FunctionSpace) -> fem.Function:
    """ψ as a new Function (Re ψ, Im ψ) in ``V``.

    Collective. ``value`` is what :func:`evolution` takes as its initial state.

    Raises:
        BadInput: on every rank, when it is none of these.
    """
    if isinstance(value, Expr):
        if tuple(value.ufl_shape) not in ((), (2,)):
            raise BadInput(f"initial: expected one part or two, (Re psi, Im psi), got shape {tuple(value.ufl_shape)}")
        return interpolated(value if value.ufl_shape else ufl.as_vector([value, 0 * value]), V)
    if not callable(value):
        number = np.atleast_1d(np.asarray(value))
        if number.size > 2 or not np.issubdtype(number.dtype, np.number):
            raise BadInput(f"initial: expected a number, a function of x, or a UFL expression, got {value!r}")
        return interpolated(_parts(number, 1)[:, 0], V)
    function: Callable[[Array], Any] = value
    return interpolated(lambda x: _parts(np.asarray(function(x)), x.shape[1]), V)


def _parts(values: npt.NDArray[Any], n: int) -> Array:
    """Real and imaginary part, (2, n), of complex or real values at n points, or of both parts as they are."""
    if values.ndim == 2 and values.shape[0] == 2 and not np.iscomplexobj(values):
        return values
    if values.ndim == 1 and values.size == 2 and n == 1 and not np.iscomplexobj(values):
        return values[:, None]
    row = np.broadcast_to(values.reshape(-1) if values.size != 1 else values.reshape(1), (n,))
    return np.array([row.real, row.imag], dtype=np.float64)


def _direction(mesh: Mesh, direction: int | Sequence[float]) -> Expr:
    gdim = mesh.geometry.dim
    if isinstance(direction, int | np.integer) and not isinstance(direction, bool):
        if not 0 <= direction < gdim:
            raise BadInput(f"direction: expected a coordinate from 0 to {gdim - 1}, got {direction}")
        return ufl.as_vector([float(i == direction) for i in range(gdim)])
    vector = np.asarray(direction, dtype=np.float64)
    if vector.shape != (gdim,) or not np.isfinite(vector).all():
        raise BadInput(f"direction: expected the number of a coordinate or {gdim} numbers, got {direction!r}")
    return ufl.as_vector(vector.tolist())
