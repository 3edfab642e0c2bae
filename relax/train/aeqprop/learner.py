"""Learning by settling: parameters that follow the difference of two states at rest, and no adjoint.

Scellier, Mishra, Bengio and Ollivier, "Agnostic Physics-Driven Deep Learning", 2022 (arXiv:2205.15021).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from relax.base import parallel
from relax.base.checks import one_of, positive
from relax.base.fem.coefficients import local_values
from relax.base.fem.forms import Control, values_of
from relax.base.types import Array
from relax.errors import BadInput, SolveFailed
from relax.problem.problem import standing_in
from relax.train.aeqprop.energy import Energy, Misfit
from relax.train.aeqprop.settling import Settling

_MODES = {"optimistic": (0.0, 1.0), "pessimistic": (-1.0, 0.0), "centred": (-0.5, 0.5)}
# Steering ends where the parameter is where it is wanted, relative to its size.
_STEERED, _MOST_STEERING = 1e-11, 500


@runtime_checkable
class Settles(Protocol):
    """Anything that can be settled: a network of resistors, a device, a program."""

    def settle(self, u: Array, theta: Array, x: Any, y: Any, beta: float) -> tuple[Array, Array]:
        """Parameters and state at rest under knobs u and nudging beta, from parameters theta."""


@dataclass(frozen=True)
class SettlingReport:
    """What a step has done.

    Attributes:
        loss: C at rest without nudging, before the step; None for what only settles.
        lyapunov_before, lyapunov_after: Λ = (F_β₂ - F_β₁)/(β₂ - β₁) of the step's own sample, with F_β the least value
            of E + β C; None for what only settles. A rise says that a phase has found another minimum, or none.
        change: |θ⁺ - θ|, the Euclidean norm of the change of the values.
        iterations: of the homeostatic and the clamped phase: Newton's steps, or settlings of what is steered.
    """

    loss: float | None
    lyapunov_before: float | None
    lyapunov_after: float | None
    change: float
    iterations: tuple[int, int]


class Aeqprop:
    """Agnostic equilibrium propagation: θ⁺ = argmin_θ' |θ' - u|²/(2ε) + F_β₂(θ'), F_β(θ) = min_s E(θ, s) + β C(s).

    In the homeostatic phase s settles under the nudging β₁ while knobs u hold θ where it is, u = θ + ε ∂E/∂θ; in the
    clamped phase u is held and θ and s settle together under β₂ > β₁. To first order that is a gradient step of rate
    ε β on C(s(θ)); it is an implicit one, without an adjoint, and by it Λ of the step's sample does not rise where both
    phases find the least value.

    Collective. The parameters are learned in place: the energy's Functions hold them.

    Args:
        energy: an ``Energy``; or whatever has ``settle(u, theta, x, y, beta) -> (theta, s)``, which is then steered.
        misfit: the cost of an ``Energy``; None otherwise.
        rate: ε.
        nudging: β, of which "optimistic" takes (0, β), "pessimistic" (-β, 0), "centred" (-β/2, β/2) for (β₁, β₂).
        mode: one of these; centred is of second order in β.
        metric: "mass": |θ - u|² is the integral of the square, so that a step does not depend on the mesh; "euclidean":
            the sum of squared values.
        homeostasis: "formula" as above, or "steered": u is moved by what θ is short of where it is wanted, until it is
            there; nothing of E is asked for then.
        theta: where the parameters of what only settles begin, an array.

    Attributes:
        theta: the parameters of what only settles.

    Raises:
        BadInput: for arguments that do not fit.
        SolveFailed: when a phase does not come to rest, with what to try.
    """

    def __init__(
        self,
        energy: Energy | Settles,
        misfit: Misfit | None = None,
        *,
        rate: float,
        nudging: float,
        mode: str = "centred",
        metric: str = "mass",
        homeostasis: str = "formula",
        theta: Any = None,
    ) -> None:
        self._rate, beta = positive(rate, "Aeqprop: rate"), positive(nudging, "Aeqprop: nudging")
        one_of(mode, tuple(_MODES), "Aeqprop: mode")
        one_of(metric, ("mass", "euclidean"), "Aeqprop: metric")
        one_of(homeostasis, ("formula", "steered"), "Aeqprop: homeostasis")
        self._betas = tuple(beta * part for part in _MODES[mode])
        self._is_steered = homeostasis == "steered"
        self._energy = self._system = None
        if isinstance(energy, Energy):
            if not isinstance(misfit, Misfit):
                raise BadInput(f"Aeqprop: misfit: expected a relax.Misfit for an Energy, got {misfit!r:.80}")
            misfit.observable.check_state(energy.state)
            self._energy, self._misfit = energy, misfit
            self._settling = Settling(energy, misfit, self._rate, is_mass=metric == "mass")
        elif isinstance(energy, Settles):
            if not self._is_steered or misfit is not None or theta is None:
                raise BadInput(
                    "Aeqprop: expected homeostasis='steered', theta= and no misfit for what only settles; a "
                    "relax.Energy knows its own"
                )
            self._system = energy
            self.theta = np.array(theta, dtype=np.float64)
        else:
            raise BadInput(f"Aeqprop: expected a relax.Energy, or what has `settle`, got {energy!r:.80}")

    def step(self, x: Any = None, y: Any = None) -> SettlingReport:
        """Learn from one sample.

        Args:
            x: the inputs: for an ``Energy`` {Function or Constant in E: values}; handed on to what only settles.
            y: the data, instead of those of the misfit; handed on to what only settles.

        A step that fails leaves parameters and state as they were.
        """
        if self._energy is None:
            return self._step_of_system(x, y)
        fields = (self._energy.state, *self._energy.parameters)
        before = [f.x.array.copy() for f in fields]
        try:
            return self._step_of_energy(x, y)
        except BaseException:
            for f, values in zip(fields, before, strict=True):
                f.x.array[:] = values
            raise

    def _step_of_energy(self, x: Mapping[Control, Any] | None, y: Any) -> SettlingReport:
        settling, energy = self._settling, self._energy
        assert energy is not None
        comm = energy.state.function_space.mesh.comm
        data: Array = np.empty(0)
        with parallel.together(comm):
            data = self._misfit.data_of(y)
            _check_input(energy, x)
        data = parallel.checked_on_all(comm, data, len(data), "Aeqprop: data")
        for terminal, values in (x or {}).items():
            values_of(terminal)[...] = local_values(terminal, values, "Aeqprop: x")
        low, high = self._betas
        theta = settling.parameters()
        free = settling.state(theta, data, 0.0)
        loss = settling.cost(data)
        rest = settling.state(theta, data, low)
        before = rest.value
        if self._is_steered:
            knobs, steps = self._steered_knobs(theta, data)
        else:
            knobs = [t + self._rate * f for t, f in zip(theta, settling.force(), strict=True)]
            steps = rest.iterations
        start = settling.read()
        top = settling.state(theta, data, high).value
        settling.write(start)
        clamped = settling.both(knobs, data, high)
        new = settling.parameters()
        bottom = [settling.state(new, data, beta).value for beta in self._betas]
        span = high - low
        change = settling.norm([a - b for a, b in zip(new, theta, strict=True)])
        return SettlingReport(
            loss,
            (top - before) / span,
            (bottom[1] - bottom[0]) / span,
            change,
            (free.iterations + steps, clamped.iterations),
        )

    def _steered_knobs(self, theta: list[Array], data: Array) -> tuple[list[Array], int]:
        """u with θ(u) = θ, by what θ is short of it; state and parameters are at rest there."""
        settling = self._settling
        knobs = [t.copy() for t in theta]
        size = max(settling.norm(theta), 1.0)
        for steps in range(1, _MOST_STEERING):
            settling.both(knobs, data, self._betas[0])
            gap = [t - now for t, now in zip(theta, settling.parameters(), strict=True)]
            if settling.norm(gap) <= _STEERED * size:
                return knobs, steps
            knobs = [u + g for u, g in zip(knobs, gap, strict=True)]
        raise SolveFailed(
            f"Aeqprop: the parameters were not steered back in {_MOST_STEERING} settlings; try a smaller rate"
        )

    def _step_of_system(self, x: Any, y: Any) -> SettlingReport:
        system, theta = self._system, self.theta
        assert system is not None
        low, high = self._betas
        knobs, size = theta.copy(), max(float(np.linalg.norm(theta)), 1.0)
        steps, gap = 0, np.full_like(theta, np.inf)
        while np.linalg.norm(gap) > _STEERED * size:
            if steps == _MOST_STEERING:
                raise SolveFailed(
                    f"Aeqprop: the parameters were not steered back in {steps} settlings; try a smaller rate"
                )
            now, _ = system.settle(knobs, theta, x, y, low)
            gap = theta - np.asarray(now, dtype=np.float64)
            knobs, steps = knobs + gap, steps + 1
        self.theta = np.asarray(system.settle(knobs, theta, x, y, high)[0], dtype=np.float64)
        return SettlingReport(None, None, None, float(np.linalg.norm(self.theta - theta)), (steps, 1))


def _check_input(energy: Energy, x: Any) -> None:
    if x is None:
        return
    if not isinstance(x, Mapping):
        raise BadInput(f"Aeqprop: x: expected {{Function or Constant of E: values}}, got {x!r:.80}")
    standing = (*energy.E.coefficients(), *energy.E.constants(), *(t for bc in energy.bcs for t in standing_in(bc)))
    own = (energy.state, *energy.parameters)
    for terminal in x:
        if not any(terminal is t for t in standing) or any(terminal is t for t in own):
            raise BadInput(
                f"Aeqprop: x: expected Functions and Constants of E besides state and parameters, got {terminal}"
            )
