"""What is seen of a wave function: overlaps, populations, density, norm, position, energy.

The state u has two real components, psi = u_0 + i u_1 (hbar = m = 1, dimensionless).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import basix
import numpy as np
import numpy.typing as npt
import ufl
from dolfinx import fem

from relax.base import parallel
from relax.base.fem.coefficients import Coefficient
from relax.base.fem.forms import assembled, present
from relax.base.types import Array
from relax.errors import BadInput, BadProblem
from relax.observe import FieldValues, Functional, Observable, PointValues, Stack
from relax.observe.base import LinearObservable
from relax.pdes.schrodinger.hamiltonian import hamiltonian, potential_coefficient


class Overlaps(LinearObservable):
    """Overlaps with given states: y = (Re <phi_1|psi>, Im <phi_1|psi>, Re <phi_2|psi>, ...), two numbers for each.

    Collective. Dimensionless. <phi|psi> is the integral of conj(phi) psi over the mesh. The states are weighted with
    the mass matrix once, here: changing them afterwards changes nothing, and an observation is a few dot products and
    one reduction.

    Args:
        V: the state's space, ("Lagrange", degree, (2,)).
        states: phi_1, phi_2, ...: real ones in ("Lagrange", degree), complex ones in the space of the state.

    Raises:
        BadProblem: on every rank, when V is another kind of space, or a state lives in another one or on another mesh.
        BadInput: on every rank, when there are no states, or what is given is no list of Functions.
    """

    def __init__(self, V: fem.FunctionSpace, states: Sequence[fem.Function]) -> None:
        _check_space(V, "Overlaps")
        given = _checked_states(V, states)
        self._space = V
        self._comm = V.mesh.comm
        self.size = 2 * len(given)
        weights = _mass_weighted(V, given)
        #: (num_states, num_owned_nodes), mass-weighted, conjugate where any state is complex.
        self._bras: npt.NDArray[Any] = weights.conj() if _any_complex(given) else weights.real.copy()

    def value(self, u: fem.Function) -> Array:
        owned = present(u)
        if np.iscomplexobj(self._bras):
            here = (self._bras @ owned.view(np.complex128)).view(np.float64)
        else:
            here = np.asarray(self._bras @ owned.reshape(-1, 2)).ravel()
        return parallel.sum_over_ranks(self._comm, here)

    def adjoint(self, u: fem.Function, dy: Array) -> Array:
        pairs = np.ascontiguousarray(dy).reshape(-1, 2)
        if np.iscomplexobj(self._bras):
            # Real pairs are transposed by the conjugate: Re(conj(dy) <phi|psi>) = Re(conj(dy phi) psi).
            dual = (pairs.view(np.complex128)[:, 0].conj() @ self._bras).conj()
            return np.asarray(dual.view(np.float64))
        return np.asarray(self._bras.T @ pairs).ravel()

    def check_state(self, state: fem.Function) -> None:
        _check_state(self._space, state, "Overlaps")


class _SquaredModuli(Observable):
    """y_i = |a_i|^2 for complex amplitudes a = (a_1, a_2, ...) that are linear in the state, given as real pairs."""

    def __init__(self, V: fem.FunctionSpace, amplitudes: Observable) -> None:
        self._space = V
        self._amplitudes = amplitudes
        self.size = amplitudes.size // 2

    def value(self, u: fem.Function) -> Array:
        return np.asarray((self._pairs(u) ** 2).sum(axis=1))

    def tangent(self, u: fem.Function, du: fem.Function) -> Array:
        return np.asarray(2.0 * (self._pairs(u) * self._pairs(du)).sum(axis=1))

    def adjoint(self, u: fem.Function, dy: Array) -> Array:
        return self._amplitudes.adjoint(u, (2.0 * dy[:, None] * self._pairs(u)).ravel())

    def second(self, u: fem.Function, dy: Array, du: fem.Function) -> Array:
        return self._amplitudes.adjoint(u, (2.0 * dy[:, None] * self._pairs(du)).ravel())

    def check_state(self, state: fem.Function) -> None:
        _check_state(self._space, state, type(self).__name__)

    def _pairs(self, u: fem.Function) -> Array:
        return self._amplitudes.value(u).reshape(-1, 2)


class Populations(_SquaredModuli):
    """Populations of given states: y = (|<phi_1|psi>|^2, |<phi_2|psi>|^2, ...).

    Collective. Dimensionless. They add up to the square of the norm when the states are a basis, orthonormal in L2.

    Args:
        V: the state's space, ("Lagrange", degree, (2,)).
        states: phi_1, phi_2, ..., as :class:`Overlaps` takes them.

    Raises:
        BadProblem, BadInput: as :class:`Overlaps`.
    """

    def __init__(self, V: fem.FunctionSpace, states: Sequence[fem.Function]) -> None:
        _check_space(V, "Populations")
        super().__init__(V, Overlaps(V, states))


class Density(_SquaredModuli):
    """The probability density: y = (|psi(x_1)|^2, |psi(x_2)|^2, ...) at the nodes of the state's space or at points.

    Collective. In units of one over length to the power of the dimension.

    Args:
        V: the state's space, ("Lagrange", degree, (2,)).
        points: (num_points, gdim) coordinates, rank 0's on every rank; all nodes when not given, in the replicated
            order of the scalar space ("Lagrange", degree), which does not depend on the partition.

    Attributes:
        coordinates: where each entry of y lives, (size, 3), the same on every rank.

    Raises:
        BadProblem: on every rank, when V is another kind of space.
        PointsOutsideMesh: on every rank, naming the points.
    """

    def __init__(self, V: fem.FunctionSpace, points: npt.ArrayLike | None = None) -> None:
        _check_space(V, "Density")
        self.coordinates: Array
        if points is None:
            nodes = FieldValues(V)
            self.coordinates = nodes.coordinates[::2]
            super().__init__(V, nodes)
        else:
            some = PointValues(V, points)
            self.coordinates = some.points
            super().__init__(V, some)


def norm(psi: fem.Function) -> Functional:
    """The square of the norm, <psi|psi>: y = the integral of |psi|^2, one number.

    Collective. Dimensionless.

    Args:
        psi: the state, in ("Lagrange", degree, (2,)).

    Raises:
        BadProblem: on every rank, when psi lives in another kind of space.
    """
    _check_wave(psi, "norm")
    return Functional(ufl.inner(psi, psi) * ufl.dx)


def position(psi: fem.Function) -> Stack:
    """The mean position, <psi|x|psi>: y = the integrals of x_i |psi|^2, gdim numbers. Not divided by <psi|psi>.

    Collective. Dimensionless.

    Args:
        psi: the state, in ("Lagrange", degree, (2,)).

    Raises:
        BadProblem: on every rank, when psi lives in another kind of space.
    """
    _check_wave(psi, "position")
    x = ufl.SpatialCoordinate(psi.function_space.mesh)
    return Stack([Functional(x[i] * ufl.inner(psi, psi) * ufl.dx) for i in range(len(x))])


def energy(psi: fem.Function, potential: Coefficient) -> Functional:
    """The energy, <psi|H|psi>: y = the integral of |grad psi|^2 / 2 + V |psi|^2, one number. Not divided by <psi|psi>.

    Collective. Dimensionless.

    Args:
        psi: the state, in ("Lagrange", degree, (2,)).
        potential: V, a number, a function of x, which is interpolated in ("Lagrange", degree), or a UFL expression,
            ``fem.Function`` or ``fem.Constant``, which stays live; not a control of the problem.

    Raises:
        BadProblem: on every rank, when psi lives in another kind of space.
        BadInput: on every rank, when the potential is not a real scalar.
    """
    _check_wave(psi, "energy")
    V = psi.function_space
    Q = fem.functionspace(V.mesh, V.ufl_element().sub_elements[0])
    return Functional(hamiltonian(psi, psi, potential_coefficient(potential, Q)))


def _any_complex(states: Sequence[fem.Function]) -> bool:
    return any(tuple(state.function_space.value_shape) == (2,) for state in states)


def _mass_weighted(V: fem.FunctionSpace, states: Sequence[fem.Function]) -> npt.NDArray[np.complex128]:
    """M phi_j for each state on the nodes that this rank owns: (num_states, num_owned_nodes). Collective."""
    phi, dual = fem.Function(V), fem.Function(V)
    product = fem.form(ufl.inner(phi, ufl.TestFunction(V)) * ufl.dx)
    rows = []
    for state in states:
        phi.x.array[:] = 0.0
        # The same nodes as those of V, but a space of its own may number them in another way.
        (phi if _any_complex([state]) else phi.sub(0)).interpolate(state)
        phi.x.scatter_forward()
        rows.append(assembled(product, dual).copy())
    return np.array(rows).view(np.complex128)


def _check_space(V: fem.FunctionSpace, what: str) -> None:
    """Raise ``BadProblem`` unless a wave function as two real components lives in V. Local."""
    expected = f'{what}: expected a wave function\'s space, ("Lagrange", degree, (2,)): real and imaginary part'
    if not isinstance(V, fem.FunctionSpace):
        raise BadProblem(f"{expected}; got {type(V).__name__}")
    if len(V.component()) > 0:
        raise BadProblem(f"{expected}; got a subspace, which no state of its own lives in")
    element = V.ufl_element()
    lagrange = element.element_family == basix.ElementFamily.P and not element.discontinuous
    if not lagrange or tuple(V.value_shape) != (2,) or V.dofmap.index_map_bs != 2:
        raise BadProblem(f"{expected}; got {element}")


def _check_wave(psi: fem.Function, what: str) -> None:
    if not isinstance(psi, fem.Function):
        raise BadProblem(f"{what}: expected the state, a fem.Function, got {type(psi).__name__}")
    _check_space(psi.function_space, what)


def _check_state(V: fem.FunctionSpace, state: fem.Function, what: str) -> None:
    if state.function_space != V:
        raise BadProblem(
            f"{what}: expected the space of the state, {state.function_space.ufl_element()} "
            f"(problem.state.function_space), got another function space, {V.ufl_element()}"
        )


def _checked_states(V: fem.FunctionSpace, states: Sequence[fem.Function]) -> list[fem.Function]:
    """The states as a list, as many on every rank. Collective."""
    with parallel.together(V.mesh.comm):
        _complain_of_states(V, states)
    least, most = parallel.extremes(V.mesh.comm, np.array([float(len(states))]))
    if least != most:
        raise BadInput(f"states: expected the same number on each rank, got {least:g} to {most:g} of them")
    return list(states)


def _complain_of_states(V: fem.FunctionSpace, states: Sequence[fem.Function]) -> None:
    # A Function is a sequence, too, to Python: of its components.
    if isinstance(states, fem.Function) or not isinstance(states, Sequence):
        raise BadInput(f"states: expected a list of Functions, got {type(states).__name__}; one state is [phi]")
    if len(states) == 0:
        raise BadInput("states: expected at least one, got none")
    element = V.ufl_element()
    for number, state in enumerate(states):
        if not isinstance(state, fem.Function):
            raise BadInput(f"states: expected fem.Functions, got {type(state).__name__} at place {number}")
        Q = state.function_space
        if Q.mesh.ufl_domain() != V.mesh.ufl_domain():
            raise BadProblem(f"states: expected states on the mesh of psi, got state {number} on another mesh")
        if Q.ufl_element() not in (element, element.sub_elements[0]) or len(Q.component()) > 0:
            raise BadProblem(
                f"states: expected real ones in {element.sub_elements[0]} or complex ones in {element}, got state "
                f"{number} in {Q.ufl_element()}; interpolate it there first"
            )
