"""A convolutional network on shifted digits: SGD and its relaxations at equal cost, each with a cosine rate.

Run: mpirun -n 2 python3 examples/papers/digits/convolution.py --seeds 8 --epochs 100; see README.md.

Ranks share the seeds, but for Parle, whose replicas they are: each takes its share of the gradients.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import harness  # noqa: E402, I001  (first: it sets the number of threads)

import torch  # noqa: E402
from digits import BATCH, Parameters, data, error, steps_of  # noqa: E402
from relax.base import parallel  # noqa: E402
from relax.errors import NotConverged  # noqa: E402
from relax.jobs.view import style  # noqa: E402
from relax.relaxation.optim import (  # noqa: E402
    EntropySGD,
    Exponential,
    HamiltonJacobi,
    HeatSmoothing,
    Linear,
    Parle,
    beta_from_eps,
    t_from_spring,
)

COMM = harness.COMM
EPOCHS = 100


@dataclass(frozen=True)
class Method:
    """What is compared.

    Attributes:
        gradients: in a step.
        make: parameters, number of steps, seed and rate to an optimiser.
        rates: to choose from; the outer rate of an average is 1, and its chain's is chosen.
        rate: the choice.
    """

    gradients: int
    make: Callable[[Parameters, int, int, float], torch.optim.Optimizer]
    rates: Sequence[float]
    rate: float


def sgd(parameters: Parameters, steps: int, seed: int, rate: float) -> torch.optim.Optimizer:
    """The baseline."""
    return torch.optim.SGD(parameters, lr=rate, momentum=0.9, nesterov=True)


def entropy_sgd(parameters: Parameters, steps: int, seed: int, rate: float) -> torch.optim.Optimizer:
    """As in digits.py."""
    t, beta = t_from_spring(Exponential(0.03, 1e-3)), beta_from_eps(1e-4)
    return EntropySGD(parameters, t=t, beta=beta, inner_lr=rate, inner_momentum=0.9, nesterov=True, seed=seed)


def hamilton_jacobi(parameters: Parameters, steps: int, seed: int, rate: float) -> torch.optim.Optimizer:
    """From t = 1 to t = 0.01."""
    return HamiltonJacobi(parameters, lr=rate, t=Linear(1.0, 0.01, steps), momentum=0.9, nesterov=True)


def heat(parameters: Parameters, steps: int, seed: int, rate: float) -> torch.optim.Optimizer:
    """Noise of 0.03 on every weight; 5 gradients, with which it takes four times as many steps as with 20."""
    return HeatSmoothing(parameters, lr=rate, t=1e-3, beta=1.0, samples=5, momentum=0.9, nesterov=True, seed=seed)


def parle(parameters: Parameters, steps: int, seed: int, rate: float) -> torch.optim.Optimizer:
    """The paper's scoping of both springs, over the steps that there are."""
    grow = math.exp(math.log(10.0) / steps) - 1.0
    t, rho = t_from_spring(Exponential(0.03, grow, most=1.0)), Exponential(0.1, grow, most=1.0)
    return Parle(
        parameters, t=t, rho=rho, inner_steps=20, inner_lr=rate, inner_momentum=0.9, nesterov=True, seed=seed, comm=COMM
    )


RATES = (0.03, 0.1, 0.3)
METHODS = {
    "SGD": Method(1, sgd, RATES, 0.03),
    "Entropy-SGD": Method(20, entropy_sgd, RATES, 0.1),
    "Hamilton–Jacobi": Method(6, hamilton_jacobi, RATES, 0.1),
    "heat smoothing": Method(5, heat, RATES, 0.1),
    "Parle": Method(20, parle, RATES, 0.1),
}


def network() -> torch.nn.Module:
    """Three convolutions of 16, 32 and 32 channels, pooled twice, and a linear layer: 15 338 weights."""
    nn = torch.nn
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10)),
    )


def shifted_batches(
    x: torch.Tensor, y: torch.Tensor, picks: torch.Generator
) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
    """Batches drawn with replacement, each image moved by up to a pixel in each direction."""
    wide = torch.nn.functional.pad(x, (1, 1, 1, 1))
    moved = torch.stack([wide[:, :, i : i + 8, j : j + 8] for i in range(3) for j in range(3)])

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        rows, shifts = (torch.randint(n, (BATCH,), generator=picks) for n in (len(x), len(moved)))
        return moved[shifts, rows], y[rows]

    return batch


def trained(name: str, seed: int, rate: float, epochs: int) -> tuple[float, float]:
    """(test error in per cent, training loss) at the end. Collective for Parle."""
    x, y, x_test, y_test = data(seed)
    x, x_test = x.view(-1, 1, 8, 8), x_test.view(-1, 1, 8, 8)
    method, replicas = METHODS[name], COMM.size if name == "Parle" else 1
    steps = max(epochs * (len(x) // BATCH) // (method.gradients * replicas), 1)
    torch.manual_seed(seed)
    model = network()
    optimizer = method.make(model.parameters(), steps, seed, rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    picks = torch.Generator().manual_seed(1000 * seed + (COMM.rank if replicas > 1 else 0))
    try:
        for _ in islice(steps_of(model, optimizer, shifted_batches(x, y, picks)), steps):
            falling.step()
    except NotConverged:
        return 90.0, math.inf
    if isinstance(optimizer, Parle):
        optimizer.average()
    with torch.no_grad():
        loss = float(torch.nn.functional.cross_entropy(model(x), y))
    return error(model, x_test, y_test), loss


def over_ranks(name: str, runs: Sequence[tuple[int, float]], epochs: int) -> list[tuple[float, float]]:
    """What comes of (seed, rate) each, in their order. Collective."""
    if name == "Parle":
        return [trained(name, seed, rate, epochs) for seed, rate in runs]
    mine = {i: trained(name, *runs[i], epochs) for i in range(COMM.rank, len(runs), COMM.size)}
    every = {i: found for some in parallel.on_each_rank(COMM, mine) for i, found in some.items()}
    return [every[i] for i in range(len(runs))]


def chosen_rate(name: str, epochs: int, *, is_tuned: bool) -> float:
    """The rate of the lowest error on a seed that is not reported; the loss decides between equal ones."""
    method = METHODS[name]
    if not is_tuned:
        return method.rate
    found = over_ranks(name, [(harness.TUNING_SEED, rate) for rate in method.rates], epochs)
    tried = ", ".join(f"{r:g}: {e:.1f} %, {loss:.1e}" for r, (e, loss) in zip(method.rates, found, strict=True))
    rate = method.rates[found.index(min(found))]
    harness.say(f"{name}: rate {rate:g} ({tried})")
    return rate


def main() -> None:
    """Print the table, and draw every run."""
    given = harness.settings(
        __doc__ or "", seeds=8, epochs=EPOCHS, flags={"rates": "try rates, each on a seed that is not reported"}
    )
    epochs = 1 if given.quick else given.epochs or EPOCHS
    names = [name for name in METHODS if name != "Parle" or COMM.size > 1]
    rates = {name: chosen_rate(name, epochs, is_tuned="rates" in given.chosen) for name in names}
    if COMM.size == 1:
        harness.say("Parle has a replica on each rank: mpirun -n 2 shows it")
    harness.say(f"test error in per cent after {epochs} epochs of gradients, {given.seeds} seeds")
    harness.say("| method | gradients per step | rate | mean ± sd | lowest to highest | training loss |")
    harness.say("|---|---|---|---|---|---|")
    errors = {}
    for name in names:
        found = over_ranks(name, [(seed, rates[name]) for seed in range(given.seeds)], epochs)
        errors[name] = [error for error, _ in found]
        mean, spread = statistics.mean(errors[name]), statistics.stdev(errors[name]) if given.seeds > 1 else 0.0
        harness.say(
            f"| {name} | {METHODS[name].gradients} | {rates[name]:g} | {mean:.2f} ± {spread:.2f} "
            f"| {min(errors[name]):.1f} to {max(errors[name]):.1f} | {statistics.median(x for _, x in found):.1e} |"
        )
    for name in names[1:]:
        gaps = [a - b for a, b in zip(errors[name], errors["SGD"], strict=True)]
        error_of_mean = statistics.stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.nan
        harness.say(f"{name} - SGD, seed by seed: {statistics.mean(gaps):+.2f} ± {error_of_mean:.2f} points")
    if COMM.rank == 0:
        given.output.mkdir(parents=True, exist_ok=True)
        draw(given.output / "convolution.png", errors)


def draw(path: Path, errors: dict[str, list[float]]) -> None:
    """A point for each run, a line for each seed. On one rank."""
    with style.pyplot() as plt:
        figure, axis = plt.subplots(figsize=(6.4, 3.6), constrained_layout=True)
        for runs in zip(*errors.values(), strict=True):
            axis.plot(list(errors), runs, color="0.8", lw=0.8, zorder=1)
        for i, (name, values) in enumerate(errors.items()):
            axis.plot([name] * len(values), values, "o", color=style.LINES[i], alpha=0.7)
            axis.plot(name, statistics.mean(values), "_", color=style.LINES[i], ms=24, mew=2)
        axis.set(ylabel="test error, %", ylim=(0.0, None))
        style.bare(axis)
        style.save(plt, figure, path)


if __name__ == "__main__":
    main()
