"""What the optimisers of relax.relaxation cost per gradient, over torch.optim.SGD on the same network and batch.

Run: ``environment/enter python3 benchmarks/optimisers.py``. A 784-784-460-10 ReLU network of one million weights; every
step evaluates as many gradients as its optimiser asks for, and its time is divided by their number. Noise is on where
an optimiser has any.
"""

from __future__ import annotations

from timing import seconds, table  # isort: skip  (sets the number of threads)

from collections.abc import Callable
from typing import Any

import torch
from relax.relaxation.optim import SGLD, ElasticSGD, EntropySGD, HamiltonJacobi, HeatSmoothing, Parle, ProximalPoint

BOUND = 1.3
# That of the papers. A larger one makes a gradient, but no optimiser, more expensive.
BATCH = 128
# About as many in each timed run: no run is short for the clock.
GRADIENTS = 25

# Of each: gradients in a step, and the optimiser of some parameters.
OPTIMISERS: dict[str, tuple[int, Callable[[Any], torch.optim.Optimizer]]] = {
    "EntropySGD": (20, lambda p: EntropySGD(p, t=100.0, beta=1e8)),
    "ProximalPoint": (20, lambda p: ProximalPoint(p, t=100.0)),
    "HamiltonJacobi": (6, lambda p: HamiltonJacobi(p, lr=0.01, t=0.1)),
    "HeatSmoothing": (20, lambda p: HeatSmoothing(p, lr=0.01, t=1e-4, beta=1.0)),
    "SGLD": (1, lambda p: SGLD(p, lr=0.01, beta=1e8)),
    "Parle": (25, lambda p: Parle(p, t=100.0)),
    "ElasticSGD": (25, lambda p: ElasticSGD(p, lr=0.01)),
}


def training(make: Callable[[Any], torch.optim.Optimizer], dtype: torch.dtype) -> Callable[[], object]:
    """One step on a network and a batch of its own."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(784, 784),
        torch.nn.ReLU(),
        torch.nn.Linear(784, 460),
        torch.nn.ReLU(),
        torch.nn.Linear(460, 10),
    ).to(dtype)
    images, labels = torch.randn(BATCH, 784, dtype=dtype), torch.randint(10, (BATCH,))
    optimizer = make(model.parameters())

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        return loss

    return lambda: optimizer.step(closure)


def repeated(step: Callable[[], object], gradients: int) -> tuple[Callable[[], None], int]:
    """A run of about ``GRADIENTS`` gradients, and how many they are."""
    times = max(1, round(GRADIENTS / gradients))

    def run() -> None:
        for _ in range(times):
            step()

    return run, times * gradients


def compare(dtype: torch.dtype) -> None:
    """Print the table of one precision."""
    every = {"torch.optim.SGD": (1, lambda p: torch.optim.SGD(p, lr=0.01)), **OPTIMISERS}
    runs = {name: repeated(training(make, dtype), n) for name, (n, make) in every.items()}
    taken = seconds(*(run for run, _ in runs.values()))
    each = {name: time / count for (name, (_, count)), time in zip(runs.items(), taken, strict=True)}
    plain = each.pop("torch.optim.SGD")
    rows: list[tuple[str, float, float, float | None]] = [("torch.optim.SGD, per gradient", plain, 1.0, None)]
    rows += [(f"{name} / SGD", time, time / plain, BOUND) for name, time in each.items()]
    table(f"1 M weights, batch of {BATCH}, {str(dtype).removeprefix('torch.')}", rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for dtype in (torch.float32, torch.float64):
        compare(dtype)
