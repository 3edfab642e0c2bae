"""Two drivers push four evaders to the origin: a controller trained by each flow of a closed loop.

Run: python3 examples/papers/guidance_by_repulsion/guidance_by_repulsion.py, or mpirun -n 2 python3 ...; see README.md.

An experiment of Schnell and Thuerey, "Stabilizing Backpropagation Through Time to Learn Complex Physics" (ICLR 2024),
as their code has it. Points in the plane, dimensionless; with d = 0.1 + |x_i - x_j| the acceleration of i by j is

    15 (x_i - x_j) / d²               of an evader by a driver,
    0.2 (1 - 0.5/d) / d (x_i - x_j)   of an evader by another (they meet below d = 0.5 and part beyond),
    0.2 (x_i - x_j) / d²              of a driver by the other.

Friction is 4 for evaders, 1 for drivers. The network sees all positions and velocities and gives (c_1, c_2) of each
driver, which accelerates it by c_1 r + c_2 r', with r from C to the driver, r' = r turned by 90°, and C the *sum* of
the evaders' positions. 60 explicit Euler steps over a time of 4. The loss is the mean of squared positions of evaders,
over time and components, and the mean square of controls times their price.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import harness  # noqa: E402, I001  (first: it sets the number of threads)

from collections.abc import Sequence  # noqa: E402

import closed_loops  # noqa: E402
import torch  # noqa: E402

import relax  # noqa: E402

Tensor = torch.Tensor

STEPS, DT = 60, 4.0 / 60
DRIVERS, EVADERS = 2, 4
POINTS = DRIVERS + EVADERS
PRICES = (1.0, 0.001)


def _by_kind(of_drivers: float, of_evaders_by_drivers: float, of_evaders: float) -> Tensor:
    """A coefficient for each pair, (i, j): zero for drivers by evaders, and of a point by itself."""
    table = torch.zeros(POINTS, POINTS)
    table[:DRIVERS, :DRIVERS] = of_drivers
    table[DRIVERS:, :DRIVERS] = of_evaders_by_drivers
    table[DRIVERS:, DRIVERS:] = of_evaders
    return table * (1.0 - torch.eye(POINTS))


# The acceleration is (A / d² + B / d) (x_i - x_j).
A, B = _by_kind(0.2, 15.0, -0.1), _by_kind(0.0, 0.0, 0.2)
FRICTION = torch.tensor([1.0] * DRIVERS + [4.0] * EVADERS)[:, None]


def step(s: Tensor, c: Tensor) -> Tensor:
    """Positions of drivers and evaders, and their velocities, (..., 24), a step later."""
    x, v = s.unflatten(-1, (2, POINTS, 2)).unbind(-3)
    between = x[..., :, None, :] - x[..., None, :, :]
    # Evaders do meet, to the last digit: the derivative of this norm is 0 there, that of a square root is not a number.
    d = 0.1 + torch.linalg.vector_norm(between, dim=-1)
    pushed = (((A / d + B) / d)[..., None] * between).sum(-2) - FRICTION * v
    r = x[..., :DRIVERS, :] - x[..., DRIVERS:, :].sum(-2, keepdim=True)
    c1, c2 = c.unflatten(-1, (DRIVERS, 2)).split(1, -1)
    turned = torch.stack([-r[..., 1], r[..., 0]], -1)
    steered = torch.cat([c1 * r + c2 * turned, torch.zeros_like(x[..., DRIVERS:, :])], -2)
    return torch.cat([x + DT * v, v + DT * (pushed + steered)], -2).flatten(-2)


def starts(samples: int, random: torch.Generator) -> Tensor:
    """At rest: drivers 3 to 4 away, evaders within ±0.5 of a point 1 to 2 away."""

    def ring(least: float, count: int) -> Tensor:
        radius = least + torch.rand(samples, count, 1, generator=random)
        angle = 2.0 * torch.pi * torch.rand(samples, count, 1, generator=random)
        return radius * torch.cat([angle.cos(), angle.sin()], -1)

    evaders = ring(1.0, 1) + torch.rand(samples, EVADERS, 2, generator=random) - 0.5
    x = torch.cat([ring(3.0, DRIVERS), evaders], 1).flatten(1)
    return torch.cat([x, torch.zeros_like(x)], 1)


def networks(seeds: Sequence[int]) -> closed_loops.Controllers:
    """As the authors': the last layer is zero at first."""
    return closed_loops.Controllers((4 * POINTS, 100, 100, 2 * DRIVERS), seeds, starts_at_zero=True).float()


def guidance(price: float) -> closed_loops.Experiment:
    """The experiment with a price of controls."""

    def loss(s: Tensor, c: Tensor) -> Tensor:
        return (s[..., 2 * DRIVERS : 2 * POINTS].square().mean(-1) + price * c.square().mean(-1)) / STEPS

    losses = dict.fromkeys(range(1, STEPS + 1), loss)
    return closed_loops.Experiment(f"Price {price:g}", step, STEPS, losses, starts, networks)


def main() -> None:
    """Train by all flows at all prices."""
    given = harness.settings(__doc__ or "", epochs=5)
    prices = PRICES[-1:] if given.quick else PRICES
    closed_loops.compare("Guidance by repulsion", [guidance(price) for price in prices], given)


if __name__ == "__main__":
    relax.init(sys.argv)
    main()
