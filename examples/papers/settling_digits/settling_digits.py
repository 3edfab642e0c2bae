"""A layered network that settles learns scikit-learn's 8x8 digits, beside the same network by backpropagation.

Run: python3 examples/papers/settling_digits/settling_digits.py; see README.md.

x are 64 pixels without their mean, s1 64 numbers in [-1, 1], s2 ten numbers, theta = (W1, b1, W2, b2); for one image

    E = |s1|^2 / 2 + |s2|^2 / 2 - x.W1 s1 - b1.s1 - s1.W2 s2 - b2.s2,   C = |s2 - y|^2 / 2,

y one for the digit and zero for the others; of a batch E and C are the means. s1 = clip(x W1 + b1 + W2 s2) at rest: it
hears from s2, too. "Backpropagation" goes through 30 sweeps to rest; "feed-forward" has s1 = clip(x W1 + b1).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import harness  # noqa: E402, I001  (first: it sets the number of threads)

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
import torch  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402

import relax  # noqa: E402
from relax.errors import SolveFailed  # noqa: E402
from outcomes import epochs_table  # noqa: E402
from sheet import EPOCHS  # noqa: E402

Array = npt.NDArray[np.float64]

SHAPES = ((64, 64), (64,), (64, 10), (10,))
BATCH, TEST_IMAGES, SWEEPS = 64, 360, 30
RATE, NUDGING = 0.05, 1.0
# How far from rest the parameters may be; a step moves them by some 1e-5.
NEAR = 1e-8


def parts(theta: Array) -> list[Array]:
    """W1, b1, W2, b2."""
    ends = np.cumsum([np.prod(shape) for shape in SHAPES])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(theta, ends), SHAPES, strict=True)]


class Network:
    """A batch of it settles, layer after layer and with the parameters: each has its least energy in closed form."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def settle(self, u: Array, theta: Array, x: Array, y: Array, beta: float) -> tuple[Array, Array]:
        """By sweeps, until nothing moves."""
        s2 = np.zeros((len(x), 10))
        for _ in range(1000):
            W1, b1, W2, b2 = parts(theta)
            s1 = np.clip(x @ W1 + b1 + s2 @ W2.T, -1.0, 1.0)
            s2 = (s1 @ W2 + b2 + beta * y) / (1.0 + beta)
            forces = (x.T @ s1, s1.sum(axis=0), s1.T @ s2, s2.sum(axis=0))
            moved = u + self.rate / len(x) * np.concatenate([force.ravel() for force in forces])
            gap, theta = np.abs(moved - theta).max(), moved
            if gap < NEAR:
                return theta, s2
        raise SolveFailed("the network does not come to rest; take less nudging, or a smaller rate")


def outputs(theta: list[torch.Tensor], x: torch.Tensor, sweeps: int) -> torch.Tensor:
    """s2 at rest without nudging; after one sweep that of a feed-forward network."""
    W1, b1, W2, b2 = theta
    fed = x @ W1 + b1
    s2 = x.new_zeros(len(x), 10)
    for _ in range(sweeps):
        s2 = torch.clip(fed + s2 @ W2.T, -1.0, 1.0) @ W2 + b2
    return s2


class Task:
    """Images and answers, those to test with last, and initial parameters; drawn with a seed."""

    def __init__(self, seed: int) -> None:
        digits, random = load_digits(), np.random.default_rng(seed)
        order = random.permutation(len(digits.target))
        x = digits.data[order] / 16.0
        self.x: Array = x - x[:-TEST_IMAGES].mean(axis=0)
        self.y: Array = np.eye(10)[digits.target[order]]
        # W2 by less than Glorot's: where a singular value of it is above 1 the network rests in one of many places.
        bounds = [np.sqrt(6.0 / 128.0), 0.0, 0.2 * np.sqrt(6.0 / 74.0), 0.0]
        drawn = [bound * random.uniform(-1.0, 1.0, shape) for bound, shape in zip(bounds, SHAPES, strict=True)]
        self.theta: Array = np.concatenate([part.ravel() for part in drawn])

    def error(self, theta: Array, sweeps: int) -> float:
        """The part of the test images that are taken for another digit."""
        tensors = [torch.from_numpy(part) for part in parts(theta)]
        found = outputs(tensors, torch.from_numpy(self.x[-TEST_IMAGES:]), sweeps).argmax(dim=1).numpy()
        return float((found != self.y[-TEST_IMAGES:].argmax(axis=1)).mean())


def methods(errors: dict[tuple[str, int], list[float]]) -> list[harness.Method]:
    """What is compared; ``errors`` gets the test error before each epoch."""

    def method(name: str, mode: str | None, sweeps: int = SWEEPS) -> harness.Method:
        def begin(seed: int, rate: float) -> harness.Training:
            task = Task(seed)
            count = len(task.x) - TEST_IMAGES
            tensors = [torch.from_numpy(part.copy()).requires_grad_() for part in parts(task.theta)]
            learner = relax.train.Aeqprop(
                Network(RATE), rate=RATE, nudging=NUDGING, mode=mode or "centred", homeostasis="steered", noise=NEAR,
                theta=task.theta,
            )  # fmt: skip

            def step(rows: Array) -> None:
                x, y = task.x[rows], task.y[rows]
                if mode:
                    learner.step(x, y)
                    return
                answer = outputs(tensors, torch.from_numpy(x), sweeps)
                slopes = torch.autograd.grad(0.5 * ((answer - torch.from_numpy(y)) ** 2).sum() / len(x), tensors)
                with torch.no_grad():
                    for t, slope in zip(tensors, slopes, strict=True):
                        t -= rate * slope

            def error() -> float:
                now = learner.theta if mode else np.concatenate([t.detach().numpy().ravel() for t in tensors])
                return task.error(now, sweeps)

            def batches() -> Iterator[Array]:
                random, seen = np.random.default_rng(seed), errors.setdefault((name, seed), [])
                while True:
                    if len(seen) <= EPOCHS:
                        seen.append(error())
                    order = random.permutation(count)
                    yield from (order[i : i + BATCH] for i in range(0, count - BATCH + 1, BATCH))

            return harness.Training(step, batches(), error)

        return harness.Method(name, begin, RATE * NUDGING)

    settled = [method(f"settling, {mode}", mode) for mode in ("centred", "optimistic")]
    return [method("backpropagation", None), *settled, method("feed-forward, backpropagation", None, 1)]


def main() -> None:
    """Compare after equal epochs and at equal time."""
    given = harness.settings(__doc__ or "", budget=6.0)
    errors: dict[tuple[str, int], list[float]] = {}
    harness.compare("Settling digits", methods(errors), given, times=(1.0, 3.0))
    harness.say("\n" + epochs_table("Test error, as a part of 1", errors, (0, 1, 2, 5, 10, 15), ".3f"))


if __name__ == "__main__":
    relax.init(sys.argv)
    main()
