"""A cart with poles that swing up: a controller trained by each flow of a closed loop.

Run: python3 examples/papers/cart_poles/cart_poles.py, or mpirun -n 2 python3 ...; see README.md.

The third experiment of Schnell and Thuerey, "Stabilizing Backpropagation Through Time to Learn Complex Physics" (ICLR
2024). For a cart at x pushed with the force F, and poles at angles θ_i from upright, in SI units,

    θ_i'' (4/3 - (m/M) cos² θ_i) l = g sin θ_i - cos θ_i (F + m l θ_i'² sin θ_i) / M,
    M x'' = F + m l Σ (θ_i'² sin θ_i - θ_i'' cos θ_i),

100 steps of 0.01, velocities first. The poles hang at first; the loss is 1 - mean cos θ_i at the end alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import harness  # noqa: E402, I001  (first: it sets the number of threads)

from collections.abc import Callable, Sequence  # noqa: E402

import closed_loops  # noqa: E402
import torch  # noqa: E402

import relax  # noqa: E402

Tensor = torch.Tensor

STEPS, DT = 100, 0.01
G, LENGTH = 9.8, 0.5
# Of a pole, and of all, whatever the number of poles.
POLE, ALL = 0.1, 1.1


def cart(poles: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The step of (x, θ_1, ..., x', θ_1', ...): few operations, since these, not numbers, take the time."""
    pulling = POLE * LENGTH / ALL

    def step(s: Tensor, c: Tensor) -> Tensor:
        at, speed = s.split(poles + 1, -1)
        angle, turning = at[..., 1:], speed[..., 1:]
        sine, cosine = angle.sin(), angle.cos()
        push, pull = c / ALL, turning * turning * sine
        forced = torch.addcmul(G * sine, cosine, torch.add(push, pull, alpha=pulling), value=-1.0)
        turns = forced / torch.rsub(cosine * cosine, LENGTH * 4.0 / 3.0, alpha=LENGTH * POLE / ALL)
        pulls = torch.addcmul(pull, turns, cosine, value=-1.0).sum(-1, keepdim=True)
        speed = torch.add(speed, torch.cat([torch.add(push, pulls, alpha=pulling), turns], -1), alpha=DT)
        return torch.cat([torch.add(at, speed, alpha=DT), speed], -1)

    return step


def swing_up(poles: int) -> closed_loops.Experiment:
    """The experiment with so many poles."""

    def starts(samples: int, random: torch.Generator) -> Tensor:
        s = 2.0 * torch.rand(samples, 2 * (poles + 1), generator=random) - 1.0
        s[:, 1 : poles + 1] = torch.pi * (1.0 + s[:, 1 : poles + 1] / 6.0)
        return s

    def networks(seeds: Sequence[int]) -> closed_loops.Controllers:
        # The authors' code begins with a last layer of zeros.
        return closed_loops.Controllers((2 * (poles + 1), 100, 100, 1), seeds, starts_at_zero=True).float()

    def fallen(s: Tensor, c: Tensor) -> Tensor:
        return 1.0 - s[..., 1 : poles + 1].cos().mean(-1)

    return closed_loops.Experiment(
        f"{poles} pole{'s' if poles > 1 else ''}", cart(poles), STEPS, {STEPS: fallen}, starts, networks,
    )  # fmt: skip


def main() -> None:
    """Train by all flows."""
    flags = {"unclipped": "gradients as they are, one and two poles"}
    given = harness.settings(__doc__ or "", epochs=100, flags=flags)
    unclipped = "unclipped" in given.chosen
    numbers = (1,) if given.quick else (1, 2) if unclipped else (1, 2, 3, 4)
    closed_loops.compare(
        "Cart poles, unclipped" if unclipped else "Cart poles",
        [swing_up(n) for n in numbers],
        given,
        clip=None if unclipped else 1.0,
    )


if __name__ == "__main__":
    relax.init(sys.argv)
    main()
