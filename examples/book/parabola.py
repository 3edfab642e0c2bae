"""Supervised training and its failure: a network for the inverse of a parabola, taught by data and by the physics.

Find f with f(x)² = x on [0, 1]. Data hold either root of each x, by chance: what fits them best is their mean, which
solves nothing. With the physics in the loss, (f(x)² - x)², any root will do, and the network settles for one.

Run: python3 examples/book/parabola.py. One rank: there is nothing to share.
"""

from __future__ import annotations

from chapter import Chapter, opened, table  # first: it sets the number of threads

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from relax.jobs.view import style
from torch import Tensor

# As in the book: 200 points, batches of five, two layers of eight with Glorot's weights, Adam with its defaults.
POINTS, BATCH, WIDTH = 200, 5, 8


def trained(x: Tensor, loss: Callable[[Tensor, slice], Tensor], epochs: int, seed: int) -> torch.nn.Module:
    """A network after so many epochs of a loss of its values at the points of a batch."""
    torch.manual_seed(seed)
    layers = [torch.nn.Linear(1, WIDTH), torch.nn.ReLU(), torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers, torch.nn.Linear(WIDTH, 1))
    for layer in network[::2]:
        torch.nn.init.xavier_uniform_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    adam = torch.optim.Adam(network.parameters())
    for _ in range(epochs):
        for start in range(0, POINTS, BATCH):
            part = slice(start, start + BATCH)
            adam.zero_grad()
            loss(network(x[part, None])[:, 0], part).backward()
            adam.step()
    return network


def main() -> None:
    chapter = opened(__doc__ or "", seeds=3)
    epochs = 2 if chapter.quick else 40
    rows, shown = [], []
    for seed in range(chapter.seeds):
        random = np.random.default_rng(seed)
        x = torch.from_numpy(random.random(POINTS))
        data = torch.sqrt(x) * torch.from_numpy(random.choice([-1.0, 1.0], POINTS))
        for name, loss in (
            ("supervised", lambda y, part, data=data: ((y - data[part]) ** 2).mean()),
            ("physics", lambda y, part, x=x: ((y**2 - x[part]) ** 2).mean()),
        ):
            network = trained(x, loss, epochs, seed)
            with torch.no_grad():
                y = network(x[:, None])[:, 0]
            own, residual = loss(y, slice(None)).item(), ((y**2 - x) ** 2).mean().item()
            rows.append([name, str(seed), f"{own:.4f}", f"{residual:.1e}", f"{(y.abs() - x.sqrt()).abs().mean():.1e}"])
            shown.append((name, x, data, y))
    table(["loss", "seed", "its value", "mean of (f² - x)²", "distance to a root"], rows)
    draw(chapter, shown[:2])
    assert chapter.quick or all(float(row[3]) < 1e-2 for row in rows if row[0] == "physics")


def draw(chapter: Chapter, shown: list[tuple[str, Tensor, Tensor, Tensor]]) -> None:
    def fill(axis: Any) -> None:
        axis.plot(shown[0][1], shown[0][2], ".", color="0.8", label="data")
        for (name, x, _, y), colour in zip(shown, (style.RED, style.BLUE), strict=True):
            axis.plot(x, y, ".", color=colour, markersize=3, label=name)
        axis.set(xlabel="x", ylabel="f(x)", title="The inverse of a parabola")

    chapter.draw(fill, size=(5.6, 3.8))


if __name__ == "__main__":
    main()
