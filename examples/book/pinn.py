"""A network in the place of the solver: the same task as burgers.py, by the residual at points (torch alone).

u(s, t) is a network of eight layers of 20 that is periodic in s; its loss is the mean square of u_t + u u_s - nu u_ss
at random points of space and time, and that of its error at t = 1/2. The solution is compared with Cole's and Hopf's.

Run: python3 examples/book/pinn.py. One rank.
"""

from __future__ import annotations

from chapter import opened, table  # first: it sets the number of threads

import time

import numpy as np
import torch
from burgers import CELLS, DATA, STEPS, VISCOSITY, exact
from torch import Tensor


class Field(torch.nn.Module):
    """(n, 2) -> (n,): u at points (s, t)."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, *[20] * 8, 1]
        layers: list[torch.nn.Module] = []
        for n_in, n_out in zip(widths[:-1], widths[1:], strict=True):
            layers += [torch.nn.Linear(n_in, n_out), torch.nn.Tanh()]
            torch.nn.init.xavier_uniform_(layers[-2].weight)
        self.layers = torch.nn.Sequential(*layers[:-1])

    def forward(self, points: Tensor) -> Tensor:
        s, t = points.T
        return self.layers(torch.stack([torch.sin(torch.pi * s), torch.cos(torch.pi * s), 2 * t - 1], dim=1))[:, 0]


def residual(u: Field, points: Tensor) -> Tensor:
    """u_t + u u_s - nu u_ss."""
    points = points.requires_grad_()
    value = u(points)
    (first,) = torch.autograd.grad(value.sum(), points, create_graph=True)
    (second,) = torch.autograd.grad(first[:, 0].sum(), points, create_graph=True)
    return first[:, 1] + value * first[:, 0] - VISCOSITY * second[:, 0]


def main() -> None:
    chapter = opened(__doc__ or "", seeds=3)
    budget = 0.5 if chapter.quick else 30.0
    s = (np.arange(CELLS) + 0.5) * 2 / CELLS - 1
    truth = torch.from_numpy(np.array([exact(s, n / STEPS) for n in range(STEPS + 1)]))
    grid = torch.cartesian_prod(torch.arange(STEPS + 1) / STEPS, torch.from_numpy(s)).flip(1)
    known = grid.reshape(STEPS + 1, CELLS, 2)[DATA]
    rows = []
    for seed in range(chapter.seeds):
        torch.manual_seed(seed)
        u = Field()
        adam = torch.optim.Adam(u.parameters(), lr=2e-3)
        start, steps = time.process_time(), 0
        while (spent := time.process_time() - start) < budget:
            adam.param_groups[0]["lr"] = 2e-3 * (1 - spent / budget)
            points = torch.rand(1000, 2) * torch.tensor([2.0, 1.0]) - torch.tensor([1.0, 0.0])
            adam.zero_grad()
            physics, data = (residual(u, points) ** 2).mean(), ((u(known) - truth[DATA]) ** 2).mean()
            (physics + data).backward()
            adam.step()
            steps += 1
        with torch.no_grad():
            error = (u(grid).reshape(STEPS + 1, CELLS) - truth).abs().mean().item()
        rows.append([str(seed), str(steps), f"{physics.item():.1e}", f"{data.item():.1e}", f"{error:.3f}"])
    table(["seed", f"steps in {budget:g} CPU s", "residual", "data", "mean |error| over space and time"], rows)


if __name__ == "__main__":
    main()
