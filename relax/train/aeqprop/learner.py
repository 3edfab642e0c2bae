"""Learning by settling: parameters that follow the difference of two states at rest, and no adjoint.

Scellier, Mishra, Bengio and Ollivier, "Agnostic Physics-Driven Deep Learning", 2022 (arXiv:2205.15021).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from relax.base import parallel
from relax.base.checks import AT_LEAST_0, number_in, one_of, positive
from relax.base.fem.forms import given_back_on_failure
from relax.base.teams import Teams, check_teams
from relax.base.types import Array
from relax.errors import BadInput, SolveFailed
from relax.invert.misfit import Misfit
from relax.train.aeqprop.box import box_of
from relax.train.aeqprop.device import MOST_STEERING, NOT_STEERED, STEERED, Device, Settles
from relax.train.aeqprop.energy import Energy, check_cost
from relax.train.aeqprop.metric import Metric
from relax.train.aeqprop.newton import DOWNWARDS
from relax.train.aeqprop.samples import Batch, samples_of
from relax.train.aeqprop.settling import Rest, Settling
from relax.train.aeqprop.shares import Shares

_MODES = {"optimistic": (0.0, 1.0), "pessimistic": (-1.0, 0.0), "centred": (-0.5, 0.5)}
_ROUNDING = 1e-9


@dataclass(frozen=True)
class SettlingReport:
    """What a step has done.

    Attributes:
        loss: C at rest without nudging, before the step, the mean over samples; None for what only settles.
        lyapunov_before, lyapunov_after: Λ = (F_β₂ - F_β₁)/(β₂ - β₁) of the step's own samples, with F_β the least value
            of E + β C; None for what only settles. A rise says that a phase has found another minimum; where it comes
            of knobs that hold nothing, 1/ε being less than what F bends downwards, the step fails.
        change: |θ⁺ - θ|, the Euclidean norm of the change of the values.
        iterations: of the homeostatic and the clamped phase: Newton's steps, in the former those of all samples, or
            settlings of what is steered.
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
    ε β on C(s(θ)); it is an implicit one, without an adjoint, and by it Λ of the step's samples does not rise where
    both phases find the least value. It takes a 1/ε above what F bends downwards: long steps are stable by much nudging
    in the mode "optimistic", with a small ε. Several samples share θ, and E and C are means over them; they settle
    sample by sample, and a factor of each is kept.

    Collective. The parameters are learned in place: the energy's Functions hold them. Its state is left where the
    (last) sample rests at the end of the clamped phase.

    Args:
        energy: an ``Energy``; or whatever has ``settle(u, theta, x, y, beta) -> (theta, s)``, which is then steered: on
            each rank by itself, or together over the communicator that it has as ``comm``.
        misfit: the cost of an ``Energy``; None otherwise.
        rate: ε.
        nudging: β, of which "optimistic" takes (0, β), "pessimistic" (-β, 0), "centred" (-β/2, β/2) for (β₁, β₂).
        mode: one of these; centred is of second order in β.
        metric: "mass": |θ - u|² is the integral of the square, so that a step does not depend on the mesh; "euclidean":
            the sum of squared values.
        bounds: (lower, upper) for all values of all parameters, or {parameter: (lower, upper)}; each a number, a
            Function, a function of x or a UFL expression, as it is now, or None for none. The clamped phase keeps to
            them exactly. What only settles has bounds of its own.
        homeostasis: "formula" as above, or "steered": u is moved by what θ is short of where it is wanted, until it is
            there; nothing of E is asked for then.
        noise: the standard deviation with which what only settles returns each parameter. Steering then ends where
            they cannot be told from where they are wanted. Each step moves them by some √2 of it at random, whatever
            the nudging, beside ε β times the gradient.
        theta: where the parameters of what only settles begin, an array.
        teams: share the samples of a step among teams of ranks; the energy is then on a mesh over ``teams.space``, and
            every rank gives all samples. Parameters are the same in all teams.

    Attributes:
        theta: the parameters of what only settles.

    Raises:
        BadInput: for arguments that do not fit.
        BadProblem: for a misfit that is none of the energy.
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
        bounds: Any = None,
        homeostasis: str = "formula",
        noise: float = 0.0,
        theta: Any = None,
        teams: Teams | None = None,
    ) -> None:
        rate, beta = positive(rate, "Aeqprop: rate"), positive(nudging, "Aeqprop: nudging")
        one_of(mode, tuple(_MODES), "Aeqprop: mode")
        one_of(metric, ("mass", "euclidean"), "Aeqprop: metric")
        one_of(homeostasis, ("formula", "steered"), "Aeqprop: homeostasis")
        noise = number_in(noise, AT_LEAST_0, "Aeqprop: noise")
        check_teams(teams)
        self._betas = tuple(beta * part for part in _MODES[mode])
        self._is_steered = homeostasis == "steered"
        self._energy: Energy | None = None
        if isinstance(energy, Energy):
            if not isinstance(misfit, Misfit) or theta is not None:
                raise BadInput(f"Aeqprop: expected a relax.Misfit and no theta= for an Energy, got {misfit!r:.80}")
            if noise:
                raise BadInput("Aeqprop: noise: expected none with a relax.Energy, which settles exactly")
            check_cost(misfit, energy)
            comm = energy.state.function_space.mesh.comm
            if teams is not None and comm.size != teams.space.size:
                raise BadInput(
                    f"Aeqprop: teams: expected an energy on a mesh over teams.space ({teams.space.size} ranks), got "
                    f"one over {comm.size}"
                )
            self._energy, self._misfit = energy, misfit
            self._shares = Shares(comm, teams)
            self._box = box_of(energy, bounds)
            of_parameters = Metric(energy.parameters, rate, is_mass=metric == "mass", name=energy.name)
            self._settling = Settling(energy, misfit, of_parameters, self._box, self._shares)
        elif isinstance(energy, Settles):
            if not self._is_steered or theta is None or any(given is not None for given in (misfit, bounds, teams)):
                raise BadInput(
                    "Aeqprop: expected homeostasis='steered', theta= and no misfit, bounds or teams for what only "
                    "settles: it has its own; a relax.Energy is given them"
                )
            self._device = Device(energy, theta, noise)
        else:
            raise BadInput(f"Aeqprop: expected a relax.Energy, or what has `settle`, got {energy!r:.80}")

    @property
    def theta(self) -> Array:
        """The parameters of what only settles. Local."""
        return self._device.theta

    def step(self, x: Any = None, y: Any = None) -> SettlingReport:
        """Learn from one sample, or from several at once.

        Args:
            x: the inputs: for an ``Energy`` {Function or Constant: values}, what stands in E, in boundary values or in
                the observable; for k samples a list of k of them; handed on to what only settles.
            y: the data, instead of those of the misfit: (size,), for k samples (k, size); handed on to what only
                settles.

        A step that fails leaves parameters, state and inputs as they were.
        """
        if self._energy is None:
            change, steps = self._device.step(x, y, *self._betas)
            return SettlingReport(None, None, None, change, (steps, 1))
        samples = samples_of(self._energy, self._misfit, x, y)
        inputs = [terminal for terminal, _ in samples[0].inputs]
        with given_back_on_failure([self._energy.state, *self._energy.parameters, *inputs]):
            return self._step(Batch(samples[self._shares.mine(len(samples))], len(samples)))

    def _step(self, batch: Batch) -> SettlingReport:
        settling, shares = self._settling, self._shares
        low, high = self._betas
        theta = settling.terms.parameters()
        self._check(theta)
        free = settling.states(batch, [settling.terms.state()] * len(batch.mine), theta, 0.0)
        loss, _ = settling.means(batch, free, 0.0)
        rest = settling.states(batch, free.states, theta, low) if low else free
        before = settling.states(batch, rest.states, theta, high).value - rest.value
        steps = free.iterations
        if self._is_steered:
            knobs, steered = self._steered_knobs(batch, rest)
            steps += steered
        else:
            knobs = settling.knobs(batch, rest)
            steps += rest.iterations
        clamped = settling.both(batch, rest, knobs, high)
        after = clamped.value - settling.states(batch, clamped.states, clamped.theta, low).value
        if after > before + _ROUNDING * abs(before) and not settling.is_held(batch, rest, knobs, low, high):
            raise SolveFailed(
                f"{DOWNWARDS}. The knobs do not hold the parameters, and the Lyapunov function rose from "
                f"{before / (high - low):.3e} to {after / (high - low):.3e}"
            )
        settling.show(batch, clamped)
        d = clamped.theta - theta
        span, change = high - low, float(np.sqrt(shares.dot(d, d)))
        return SettlingReport(loss, before / span, after / span, change, (steps, clamped.iterations))

    def _check(self, theta: Array) -> None:
        low, high = self._box
        comm = self._shares.comm
        if not self._shares.agree(theta):
            raise BadInput("Aeqprop: expected the same parameters in all teams, got others in some")
        if parallel.any_rank(comm, bool((theta < low).any() or (theta > high).any())):
            raise BadInput("Aeqprop: bounds: expected parameters within them to begin with, got some beyond; clip them")

    def _steered_knobs(self, batch: Batch, rest: Rest) -> tuple[Array, int]:
        """u with θ(u) = θ, by what θ is short of it."""
        dot, theta = self._shares.dot, rest.theta
        knobs, size = theta.copy(), max(np.sqrt(dot(theta, theta)), 1.0)
        for steps in range(1, MOST_STEERING + 1):
            rest = self._settling.both(batch, rest, knobs, self._betas[0], is_bounded=False)
            gap = theta - rest.theta
            if np.sqrt(dot(gap, gap)) <= STEERED * size:
                return knobs, steps
            knobs = knobs + gap
        raise SolveFailed(NOT_STEERED)
