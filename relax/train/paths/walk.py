"""Paths of dw = f(w, t) dt + σ dB, step by step, with what is summed along them and what they carry on."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

#: (w (k, d), t, a tensor without axes) -> (k, d).
Drift = Callable[[Tensor, Tensor], Tensor]
#: (h, w (k, d), t) -> dh/dt, of the shape of h.
Rate = Callable[[Tensor, Tensor, Tensor], Tensor]

ESTIMATORS = ("ckl", "fmc", "stl")
SCHEMES = ("euler", "heun")


class Walked(NamedTuple):
    """Where paths have gone.

    Attributes:
        path: w at each of steps + 1 times, (k, d).
        log_ratio: (k,) of posterior and prior along each path, as the estimator has it.
        hidden: h at the end, or None.
    """

    path: list[Tensor]
    log_ratio: Tensor
    hidden: Tensor | None


def walk(
    start: Tensor,
    increments: Tensor,
    drift: Drift,
    prior: Drift,
    sigma: Tensor,
    scheme: str,
    *,
    frozen: Drift | None,
    hidden: Tensor | None = None,
    rate: Rate | None = None,
) -> Walked:
    """From t = 0 to 1, with a graph; ½ ∫ |u|² dt is one more component of the state, u = (drift - prior)/σ.

    Args:
        start: (k, d).
        increments: (steps, k, d) of dB.
        drift: of the paths.
        prior: the drift that they are compared with.
        sigma: of the noise, 0-d or (d,).
        scheme: "euler" or "heun".
        frozen: u at the beginning of a step, for ∫ u·dB; None leaves that out.
        hidden: h at the beginning, or None.
        rate: dh/dt, where there is one.
    """
    steps = len(increments)
    times = torch.linspace(0.0, 1.0, steps + 1, dtype=start.dtype, device=start.device)

    def slopes(state: list[Tensor], t: Tensor) -> list[Tensor]:
        w, f = state[0], drift(state[0], t)
        energy = 0.5 * (((f - prior(w, t)) / sigma) ** 2).sum(-1)
        return [f, energy] if rate is None else [f, energy, rate(state[2], w, t)]

    state = [start, torch.zeros_like(start[:, 0])] + ([] if hidden is None else [hidden])
    path, martingale = [start], torch.zeros_like(start[:, 0])
    for n, increment in enumerate(increments):
        if frozen is not None:
            martingale = martingale + (frozen(state[0], times[n]) * increment).sum(-1)
        kick, here = sigma * increment, slopes(state, times[n])
        moved = _moved(state, here, 1.0 / steps, kick)
        if scheme == "heun":
            there = slopes(moved, times[n + 1])
            moved = _moved(state, [0.5 * (a + b) for a, b in zip(here, there, strict=True)], 1.0 / steps, kick)
        state = moved
        path.append(state[0])
    return Walked(path, state[1] + martingale, None if hidden is None else state[2])


def _moved(state: list[Tensor], slopes: list[Tensor], dt: float, kick: Tensor) -> list[Tensor]:
    """The noise is in the first component alone, and does not depend on the state."""
    first, *others = (x + dt * slope for x, slope in zip(state, slopes, strict=True))
    return [first + kick, *others]
