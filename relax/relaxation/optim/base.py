"""What torch asks of every optimiser: settings of groups that make sense, and a state that can be saved."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from relax.base.checks import ABOVE_0, AT_LEAST_0, FRACTION, Rule, check_of_torch, closest, number_in
from relax.errors import BadInput
from relax.relaxation.optim.noise import Noise
from relax.relaxation.optim.schedules import decoded, encoded, value_at

#: Zeroes the gradients, computes the loss, calls ``backward``, returns the loss.
Closure: TypeAlias = Callable[[], Any]


class RelaxationOptimizer(torch.optim.Optimizer):
    """The torch side of the optimisers of this package. Abstract: each has its own ``step``.

    A group of parameters holds every setting of its own, and ``step``, the number of steps taken since it joined.

    Args:
        params: parameters, groups of them, or named parameters, as for every optimiser of torch.
        of_torch: keywords of torch's optimisers that say how a step is computed.
        noise: the streams of random numbers; some that are never asked for by default.
        check_finite: whether a loss that is not finite is an error.
        defaults: settings of groups that do not say otherwise.
    """

    def __init__(
        self,
        params: Any,
        *,
        of_torch: dict[str, Any],
        noise: Noise | None = None,
        check_finite: bool,
        **defaults: Any,
    ) -> None:
        check_of_torch(type(self).__name__, of_torch, defaults)
        self.noise = Noise(seed=0) if noise is None else noise
        self.check_finite = check_finite
        name = type(self).__name__
        if isinstance(params, torch.nn.Module):
            raise BadInput(f"{name}: expected parameters, got a {type(params).__name__}; .parameters() are its")
        try:
            super().__init__(params, {**defaults, "step": 0})
        except (TypeError, ValueError) as cause:
            if isinstance(cause, BadInput):
                raise
            raise BadInput(f"{name}: expected parameters, or groups of them: {cause}") from cause

    @abstractmethod
    def step(self, closure: Closure | None = None) -> Any:
        """Take a step."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with settings of their own; those not given are the optimiser's.

        Raises:
            BadInput: for a setting out of its range; the optimiser is then as before.
        """
        name = type(self).__name__
        if isinstance(param_group, dict):
            # Groups may carry words of the user's and of torch's schedulers; one that is nearly a setting is a mistake.
            for key in set(param_group) - set(self.defaults):
                if near := closest(key, self.defaults, cutoff=0.85):
                    raise BadInput(f"{name}: got {key!r} as a setting of a group of parameters; did you mean {near!r}?")
            check_settings(name, {**self.defaults, **param_group})
            for key in _ONE_FOR_ALL & set(param_group) if self.param_groups else ():
                if param_group[key] != self.param_groups[0][key]:
                    raise BadInput(
                        f"{name}: expected one {key} for all groups, since the closure is for all of them, got "
                        f"{self.param_groups[0][key]} and {param_group[key]}"
                    )
        super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """A copy of everything that the next step depends on but the weights: ``torch.save`` and ``load`` take it.

        Schedules are saved as numbers. A function of the user's is not: an optimiser that loads the state keeps its
        own.
        """
        saved = super().state_dict()
        saved["state"] = {key: _copied(held) for key, held in saved["state"].items()}
        saved["param_groups"] = [{key: encoded(value) for key, value in g.items()} for g in saved["param_groups"]]
        saved["noise"] = self.noise.state()
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue a saved run: the next steps are those that the saved optimiser would have taken, to the bit."""
        if "noise" not in state_dict:
            raise BadInput(
                f"{type(self).__name__}.load_state_dict: expected the state of an optimiser of relax.relaxation, got "
                f"one with {sorted(state_dict)}"
            )
        present = self.param_groups
        super().load_state_dict(state_dict)
        for group, before in zip(self.param_groups, present, strict=True):
            for key, value in group.items():
                group[key] = decoded(value, before.get(key))
        for held in self.state.values():
            # torch keeps the tensors that it is given: two optimisers that load one state would share them.
            held.update(_copied(held))
        self.noise.restore(state_dict["noise"])

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "noise": self.noise, "check_finite": self.check_finite}


_ONE_FOR_ALL = {"inner_steps", "iterations", "samples", "antithetic", "maximize"}


def _copied(held: dict[str, Any]) -> dict[str, Any]:
    return {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in held.items()}


# -- settings ----------------------------------------------------------------------------------------------------------

_COUNT: Rule = (lambda v: v >= 1.0 and v.is_integer(), "a whole number of at least 1")
_COUNT_OR_0: Rule = (lambda v: v >= 0.0 and v.is_integer(), "a whole number of at least 0")
_RULES: dict[str, Rule] = {
    "lr": AT_LEAST_0,
    "inner_lr": ABOVE_0,
    "t": (lambda v: v >= 0.0, "a time >= 0"),
    "beta": (lambda v: v > 0.0, "an inverse temperature > 0 (inf for no noise)"),
    "rho": AT_LEAST_0,
    "averaging": FRACTION,
    "damping": FRACTION,
    "momentum": FRACTION,
    "inner_momentum": FRACTION,
    "weight_decay": AT_LEAST_0,
    "inner_steps": _COUNT,
    "iterations": _COUNT_OR_0,
    "samples": _COUNT,
    "step": _COUNT_OR_0,
}
_SCHEDULED = ("t", "beta", "rho")


def check_settings(name: str, settings: dict[str, Any]) -> None:
    """Raise ``BadInput`` for a setting out of its range; those that change are looked at when they are used."""
    for key, rule in _RULES.items():
        if key in settings and not (key in _SCHEDULED and callable(settings[key])):
            number_in(settings[key], rule, f"{name}: {key}")
    momentum = max(float(settings.get("momentum", 0.0)), float(settings.get("inner_momentum", 0.0)))
    if settings.get("nesterov") and momentum == 0.0:
        raise BadInput(f"{name}: expected momentum > 0 with nesterov=True, got 0; 0.9 is usual")
    if settings.get("antithetic") and settings["samples"] % 2:
        raise BadInput(f"{name}: expected an even number of samples with antithetic=True, got {settings['samples']}")


def setting(name: str, group: dict[str, Any], key: str) -> float:
    """A setting of a group at its present step."""
    when = f" at step {group['step']}" if callable(group[key]) else ""
    return number_in(value_at(group[key], group["step"]), _RULES[key], f"{name}: {key}{when}")
