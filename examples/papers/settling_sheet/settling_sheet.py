"""A sheet of resistors learns two classes while it is only ever settled, and read with noise.

Run: python3 examples/papers/settling_sheet/settling_sheet.py; see README.md.

The sheet is that of ../sheet.py, on 522 cells. Four features of an iris and a constant are voltages at five places of
the rim; the output is the difference of the potentials at two places, above zero for virginica, below for versicolor.
Learning sees a device: knobs, inputs and nudging go in, and the log-conductivity comes out, each cell with noise. How
much nudging is best against noise is measured by the error of a step's direction; the adjoint is the witness alone.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[:2]]

import harness  # noqa: E402, I001  (first: it sets the number of threads)

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
import ufl  # noqa: E402
from sklearn.datasets import load_iris  # noqa: E402

import relax  # noqa: E402
from relax.errors import RelaxError  # noqa: E402
from relax.jobs.view import style  # noqa: E402
from device import Device  # noqa: E402
from outcomes import epochs_table  # noqa: E402
from sheet import Sheet, samples  # noqa: E402

Array = npt.NDArray[np.float64]

SIZE, TRAINING, TEST = 0.13, slice(60), slice(60, 100)
TARGET = 0.4
# Of training: the spring 1/eps; noise in theta and nudging.
RATE = 0.5
SETTLED = ((0.02, 0.1), (0.02, 0.3), (0.02, 1.0), (0.1, 0.3), (0.1, 1.0))
# Of the error of a step's direction. A small eps: errors of first order in it stay below those looked for.
SMALL, LEVELS, BETAS = 1e-3, 10.0 ** np.linspace(-5.0, -2.0, 5), np.geomspace(0.005, 2.0, 10)
ORDERS = {"centred": 2, "optimistic": 1}
REPEATS = 2


class Irises:
    """Features and a constant, in a unit of voltage; classes as the output that is wanted. Drawn with a seed."""

    def __init__(self, seed: int) -> None:
        features, kind = load_iris(return_X_y=True)
        features, kind = features[kind > 0], kind[kind > 0]
        order = np.random.default_rng(seed).permutation(len(kind))
        features = (features - features.mean(axis=0)) / features.std(axis=0)
        self.x: Array = np.column_stack([features, np.ones(len(kind))])[order]
        self.y: Array = TARGET * (2.0 * kind[order, None] - 3.0)


def learner(device: Device, theta: Array, nudging: float, mode: str = "centred") -> relax.train.Aeqprop:
    """Of a device and where its parameters begin."""
    return relax.train.Aeqprop(
        device, rate=device.rate, nudging=nudging, mode=mode, homeostasis="steered", noise=device.noise, theta=theta
    )


def bump(x: Any, turn: float, radius: float, width: float) -> Any:
    """A Gaussian about the point at this part of a turn."""
    a, b = radius * np.cos(2.0 * np.pi * turn), radius * np.sin(2.0 * np.pi * turn)
    return ufl.exp(-((x[0] - a) ** 2 + (x[1] - b) ** 2) / (2.0 * width**2))


def output(s: Any) -> relax.Functional:
    """The difference of the potentials at two places."""
    x, width = ufl.SpatialCoordinate(s.function_space.mesh), 0.15
    weight = (bump(x, 0.35, 0.5, width) - bump(x, 0.65, 0.5, width)) / (2.0 * np.pi * width**2)
    return relax.Functional(weight * s * ufl.dx)


def methods(sheet: Sheet, errors: dict[tuple[str, int], list[float]]) -> list[harness.Method]:
    """By the adjoint without noise, and by settling; ``errors`` gets the test error in per cent before each epoch."""

    def method(name: str, nudging: float, noise: float | None = None) -> harness.Method:
        def begin(seed: int, rate: float) -> harness.Training:
            irises = Irises(seed)
            x, y = irises.x, irises.y
            sheet.write(0.0)
            by_settling = learner(Device(sheet, RATE, noise or 0.0, seed), sheet.read(), nudging)

            def step(i: int) -> None:
                if noise:
                    by_settling.step(x[i], y[i])
                    sheet.write(by_settling.theta)
                else:
                    theta = sheet.read()
                    sheet.write(theta - RATE * nudging * sheet.gradient(theta, x[i], y[i]))

            def outputs() -> Array:
                return sheet.seen(sheet.read(), x[TEST])

            def error() -> float:
                return float(100.0 * (outputs() * y[TEST] <= 0.0).mean())

            seen = errors[name, seed] = []
            batches = samples(TRAINING.stop, seed, error, seen)
            return harness.Training(step, batches, lambda: float(0.5 * ((outputs() - y[TEST]) ** 2).mean()))

        return harness.Method(name, begin, RATE * nudging)

    settled = [method(f"settled, noise {noise:g}, beta {beta:g}", beta, noise) for noise, beta in SETTLED]
    return [method(f"adjoint, rate {RATE:g}", 1.0), *settled]


def direction_errors(sheet: Sheet, seed: int, levels: Array, betas: Array) -> dict[str, Array]:
    """(levels, betas): the root mean square, relative to the gradient, of the error of -(theta+ - theta)/(eps beta)."""
    random = np.random.default_rng(seed)
    irises, k = Irises(seed), 2.0 * random.standard_normal((6, 2))
    theta = sheet.interpolated(lambda x: 0.4 * np.cos(k @ x[:2] + np.arange(6.0)[:, None]).sum(axis=0))
    # The output is as far from the target in all seeds; else one that happens to be there sees noise alone.
    x = irises.x[0]
    y = sheet.seen(theta, x[None])[0] + TARGET
    gradient = sheet.gradient(theta, x, y)
    found = {}
    for mode in ORDERS:
        squares = np.zeros((len(levels), len(betas)))
        for at in np.ndindex(*squares.shape):
            noise, beta = SMALL * levels[at[0]], betas[at[1]]
            device = Device(sheet, SMALL, noise, seed)
            try:
                for _ in range(REPEATS):
                    one = learner(device, theta, beta, mode)
                    one.step(x, y)
                    gap = (theta - one.theta) / (SMALL * beta) - gradient
                    squares[at] += (sheet.areas @ gap**2) / (sheet.areas @ gradient**2) / REPEATS
            except RelaxError:
                squares[at] = np.inf
        found[mode] = np.sqrt(squares)
    return found


def best(betas: Array, errors: Array) -> tuple[float, float]:
    """Where the error is least and how large, by a parabola through three points of the logarithms."""
    i = int(np.clip(np.argmin(errors), 1, len(betas) - 2))
    three = np.log(betas[i - 1 : i + 2])
    parabola = np.polyfit(three, np.log(errors[i - 1 : i + 2]), 2)
    fine = np.linspace(three[0], three[-1], 201)
    k = int(np.argmin(np.polyval(parabola, fine)))
    return float(np.exp(fine[k])), float(np.exp(np.polyval(parabola, fine[k])))


def noise_table(found: list[dict[str, Array]], levels: Array, betas: Array) -> str:
    """The best nudging by noise, and its power."""
    at = {mode: np.array([[best(betas, row) for row in of[mode]] for of in found]) for mode in ORDERS}
    heads = "".join(f" {mode}: best beta | error there |" for mode in ORDERS)
    lines = [f"The best nudging, median of {len(found)} seeds", "", f"| noise / eps |{heads}", "|---" * 5 + "|"]
    for i, level in enumerate(levels):
        cells = [f"{np.median(of[:, i, 0]):.3f} | {np.median(of[:, i, 1]):.1e}" for of in at.values()]
        lines.append(f"| {level:.1e} | " + " | ".join(cells) + " |")
    for mode, order in ORDERS.items():
        powers = [np.polyfit(np.log(levels), np.log(of), 1)[0] for of in at[mode][:, :, 0]]
        said = ", ".join(f"{p:.3f}" for p in powers)
        lines.append(f"\n{mode}: beta ~ noise to the power {said} (seeds); expected {1 / (order + 1):.3f}")
    return "\n".join(lines)


def main() -> None:
    """The best nudging by noise, with a figure; then the classifier."""
    given = harness.settings(__doc__ or "", budget=20.0)
    if harness.COMM.size > 1:
        sys.exit("the device is on one rank: run it without mpirun")
    sheet = Sheet(SIZE, lambda x: [bump(x, k / 5.0, 1.0, 0.3) for k in range(5)], output)
    harness.say(f"{sheet.cells} cells")
    errors: dict[tuple[str, int], list[float]] = {}
    compared = methods(sheet, errors)
    harness.compare("Settling sheet", compared[:2] if given.quick else compared, given, times=(2.0, 5.0, 10.0))
    harness.say("\n" + epochs_table("Test error in per cent", errors, (0, 1, 2, 3, 4, 5), ".0f"))
    levels, betas = (LEVELS[-1:], BETAS[5:8]) if given.quick else (LEVELS, BETAS)
    found = [direction_errors(sheet, seed, levels, betas) for seed in range(given.seeds)]
    harness.say("\n" + noise_table(found, levels, betas))

    def draw(plt: Any) -> Any:
        figure, axes = plt.subplots(1, 2, figsize=(8.0, 3.8), sharey=True, constrained_layout=True)
        for axis, mode in zip(axes, ORDERS, strict=True):
            for level, row, colour in zip(
                levels, np.median([of[mode] for of in found], axis=0), style.LINES, strict=False
            ):
                axis.loglog(betas, row, ".-", color=colour, label=f"noise / eps {level:.0e}")
            axis.set(xlabel="nudging", ylabel="error of the direction", title=mode)
            style.bare(axis)
        axes[0].legend(frameon=False, fontsize=8)
        return figure

    style.draw(harness.COMM, given.output / "curve.png", draw)
    sheet.G.close()


if __name__ == "__main__":
    relax.init(sys.argv)
    main()
