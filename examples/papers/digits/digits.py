"""SGD, Entropy-SGD, Hamilton–Jacobi and heat smoothing on scikit-learn's 8x8 digits, with as many gradients each.

Run: python3 examples/papers/digits/digits.py --seeds 8 --epochs 100
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice

import torch
from relax.relaxation.optim import (
    EntropySGD,
    Exponential,
    HamiltonJacobi,
    HeatSmoothing,
    Linear,
    beta_from_eps,
    t_from_spring,
)
from sklearn.datasets import load_digits

BATCH = 64
TEST_IMAGES = 360

Parameters = Iterable[torch.nn.Parameter]


def sgd(parameters: Parameters, steps: int, seed: int) -> torch.optim.Optimizer:
    """The baseline."""
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True)


def entropy_sgd(parameters: Parameters, steps: int, seed: int, *, spring: float = 1e-4) -> torch.optim.Optimizer:
    """The paper's settings but for the outer momentum, with which a network without batch normalisation diverges."""
    return EntropySGD(
        parameters,
        t=t_from_spring(Exponential(spring, 1e-3)),
        beta=beta_from_eps(1e-4),
        inner_steps=20,
        inner_lr=0.1,
        inner_momentum=0.9,
        nesterov=True,
        seed=seed,
    )


def hamilton_jacobi(parameters: Parameters, steps: int, seed: int) -> torch.optim.Optimizer:
    """From t = 1 to t = 0.01."""
    t = Linear(1.0, 0.01, steps)
    return HamiltonJacobi(parameters, lr=0.1, t=t, iterations=5, momentum=0.9, nesterov=True)


def heat(parameters: Parameters, steps: int, seed: int) -> torch.optim.Optimizer:
    """Noise of 0.03 on every weight."""
    return HeatSmoothing(parameters, lr=0.1, t=1e-3, beta=1.0, samples=20, momentum=0.9, nesterov=True, seed=seed)


# Of each: gradients in a step, and a function of parameters, number of steps and seed.
METHODS: dict[str, tuple[int, Callable[[Parameters, int, int], torch.optim.Optimizer]]] = {
    "SGD": (1, sgd),
    "Entropy-SGD, spring from 1e-4": (20, entropy_sgd),
    "Entropy-SGD, spring from 0.03": (20, partial(entropy_sgd, spring=0.03)),
    "Hamilton–Jacobi": (6, hamilton_jacobi),
    "heat smoothing": (20, heat),
}


def network() -> torch.nn.Module:
    """64-64-64-10 with ReLU."""
    return torch.nn.Sequential(
        torch.nn.Linear(64, 64),
        torch.nn.ReLU(),
        torch.nn.Linear(64, 64),
        torch.nn.ReLU(),
        torch.nn.Linear(64, 10),
    )


def data(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images and labels to train with, then those to test with; the split is drawn with the seed."""
    digits = load_digits()
    x, y = torch.tensor(digits.data / 16.0, dtype=torch.float32), torch.tensor(digits.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    test, train = order[:TEST_IMAGES], order[TEST_IMAGES:]
    return x[train], y[train], x[test], y[test]


def steps_of(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Callable[[], tuple[torch.Tensor, torch.Tensor]],
) -> Iterator[None]:
    """Endless steps, each gradient from a batch of its own."""

    def closure() -> torch.Tensor:
        x, y = batches()
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    while True:
        optimizer.step(closure)
        yield


def random_batches(x: torch.Tensor, y: torch.Tensor, seed: int) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
    """Batches drawn with replacement."""
    picks = torch.Generator().manual_seed(seed)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.randint(len(x), (BATCH,), generator=picks)
        return x[rows], y[rows]

    return batch


@torch.no_grad()
def error(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Share of images that are taken for another digit, in per cent."""
    return 100.0 * float((model(x).argmax(dim=1) != y).float().mean())


def error_of(name: str, seed: int, epochs: int) -> float:
    """Test error in per cent at the end, after ``epochs`` times the training images in gradients."""
    x, y, x_test, y_test = data(seed)
    torch.manual_seed(seed)
    model = network()
    gradients, make = METHODS[name]
    steps = epochs * (len(x) // BATCH) // gradients
    optimizer = make(model.parameters(), steps, seed)
    for _ in islice(steps_of(model, optimizer, random_batches(x, y, seed)), steps):
        pass
    return error(model, x_test, y_test)


def main() -> None:
    """Print the table, and check the two that should be alike."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8, help="splits, initial weights and mini-batches to try")
    parser.add_argument(
        "--epochs", type=int, default=100, help="gradients to spend, in passes over the training images"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"test error in per cent after {arguments.epochs} epochs of gradients, {arguments.seeds} seeds")
    print("| method | gradients per step | mean ± sd | lowest to highest |")
    print("|---|---|---|---|")
    means = {}
    for name, (gradients, _) in METHODS.items():
        errors = [error_of(name, seed, arguments.epochs) for seed in range(arguments.seeds)]
        spread = statistics.stdev(errors) if len(errors) > 1 else 0.0
        means[name] = statistics.mean(errors)
        low, high = min(errors), max(errors)
        print(f"| {name} | {gradients} | {means[name]:.2f} ± {spread:.2f} | {low:.1f} to {high:.1f} |", flush=True)
    gaps = [abs(means[name] - means["SGD"]) for name in METHODS if name.startswith("Entropy-SGD")]
    print(f"Entropy-SGD and SGD differ by {max(gaps):.2f} points at most")
    assert max(gaps) <= 1.0, "expected Entropy-SGD within one point of SGD"


if __name__ == "__main__":
    main()
