"""How wide the minima are at which SGD and its relaxations stop, at equal training loss: digits, 8970 weights.

Run: python3 examples/papers/minima_width/minima_width.py --seeds 3; see README.md.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / below) for below in ("", "digits")]

import harness  # noqa: E402, I001  (first: it sets the number of threads)

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
import torch  # noqa: E402
from digits import METHODS, data, error, network, random_batches, steps_of  # noqa: E402
from relax.jobs.view import style  # noqa: E402
from relax.relaxation import HessianSpectrum, hessian_spectrum, local_entropy  # noqa: E402

NAMES = ("SGD", "Entropy-SGD, spring from 0.03", "Hamilton–Jacobi", "heat smoothing")
#: Training loss at which a method stops.
TARGET = 0.02
#: Passes over the images over which a schedule of a method is spread.
PLANNED = 100
#: How many gradients go by between two looks at the training loss.
BETWEEN = 20
#: The loss of one image is 1/BETA of the sum: exp(-BETA f) is the likelihood of all training images.
BETA = 1437.0
#: A weight moves by sqrt(T/BETA), 0.037, in the local entropy; 1/T is the spring of the width.
T = 2.0
SMALL = 1e-4


@dataclass(frozen=True)
class Effort:
    """Passes over the images at most; products and vectors of a spectrum; steps and chains of a local entropy."""

    epochs: float
    num: int
    vectors: int
    steps: int
    chains: int


WHOLE, QUICK = Effort(400, 80, 12, 40, 4), Effort(1, 8, 2, 4, 2)


@dataclass(frozen=True)
class End:
    """Where a method has stopped.

    Attributes:
        epochs: passes over the images, in gradients.
        loss: on the training images.
        test_error: in per cent.
        spectrum: of the Hessian of the training loss.
        entropy: local entropy less the loss, in units of 1/BETA, and its standard error.
        eigenvalues: computes all of them, in minutes.
    """

    epochs: float
    loss: float
    test_error: float
    spectrum: HessianSpectrum
    entropy: tuple[float, float]
    eigenvalues: Callable[[], npt.NDArray[np.float64]]


def dense(model: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> npt.NDArray[np.float64]:
    """All eigenvalues of the Hessian, increasing, from all of its rows; in single precision, to some 1e-6."""
    weights = list(model.parameters())
    slopes = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss(), weights, create_graph=True)])
    rows = []
    for directions in torch.eye(len(slopes)).split(128):
        some = torch.autograd.grad(slopes, weights, directions, retain_graph=True, is_grads_batched=True)
        rows.append(torch.cat([part.flatten(1) for part in some], dim=1))
    return np.linalg.eigvalsh(torch.cat(rows).numpy()).astype(np.float64)


def stopped(name: str, seed: int, effort: Effort) -> End:
    """Train to the target, then look around."""
    x, y, x_test, y_test = data(seed)
    torch.manual_seed(seed)
    model = network()
    gradients, make = METHODS[name]
    in_epoch = len(x) // 64
    optimizer = make(model.parameters(), PLANNED * in_epoch // gradients, seed)

    def loss() -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(x), y)

    spent, now = 0, float(loss().detach())
    run = steps_of(model, optimizer, random_batches(x, y, seed))
    while now > TARGET and spent < effort.epochs * in_epoch:
        for _ in islice(run, max(BETWEEN // gradients, 1)):
            spent += gradients
        now = float(loss().detach())
    spectrum = hessian_spectrum(model, loss, num=effort.num, vectors=effort.vectors, seed=seed)
    entropy = local_entropy(model, loss, t=T, beta=BETA, chains=effort.chains, steps=effort.steps, seed=seed)
    nats = (BETA * (float(entropy.mean) - now), BETA * float(entropy.error))
    return End(spent / in_epoch, now, error(model, x_test, y_test), spectrum, nats, partial(dense, model, loss))


#: The columns: a name, a number of an end, its format.
COLUMNS: dict[str, tuple[Callable[[End], float], str]] = {
    "epochs": (lambda end: end.epochs, ".0f"),
    "training loss": (lambda end: end.loss, ".4f"),
    "test error, %": (lambda end: end.test_error, ".1f"),
    "largest eigenvalue": (lambda end: end.spectrum.lambda_max, ".1f"),
    "least": (lambda end: end.spectrum.lambda_min, ".2f"),
    "trace": (lambda end: float(end.spectrum.trace.mean), ".0f"),
    "stiff directions": (lambda end: end.spectrum.size * (1.0 - float(end.spectrum.width(T).mean) / T), ".1f"),
    "width, of 2": (lambda end: float(end.spectrum.width(T).mean), ".4f"),
    "β (u - f), nats": (lambda end: end.entropy[0], ".1f"),
}


def main() -> None:
    """Print the table, and draw the spectra of the first seed."""
    given = harness.settings(
        __doc__ or "", seeds=3, flags={"dense": "all eigenvalues for the first seed, too, a minute each"}
    )
    effort = QUICK if given.quick else WHOLE
    harness.say(f"median (lowest to highest) of {given.seeds} seeds at training loss {TARGET}, t = {T:g}, β = {BETA:g}")
    harness.say("| method | " + " | ".join(COLUMNS) + " |")
    harness.say("|---" * (1 + len(COLUMNS)) + "|")
    firsts: dict[str, HessianSpectrum] = {}
    traces: list[float] = []
    entropies: list[float] = []
    witnesses: list[str] = []
    for name in NAMES:
        ends = [stopped(name, seed, effort) for seed in range(given.seeds)]
        firsts[name] = ends[0].spectrum
        cells = []
        for number, form in COLUMNS.values():
            values = [number(end) for end in ends]
            between = f" ({min(values):{form}} to {max(values):{form}})" if len(values) > 1 else ""
            cells.append(f"{statistics.median(values):{form}}{between}")
        harness.say(f"| {name.partition(',')[0]} | " + " | ".join(cells) + " |")
        traces += [float(end.spectrum.trace.error / end.spectrum.trace.mean) for end in ends]
        entropies += [end.entropy[1] for end in ends]
        if "dense" in given.chosen:
            witnesses.append(witness(name.partition(",")[0], ends[0]))
    harness.say(f"standard errors at most: of the trace {max(traces):.0%}, of β (u - f) {max(entropies):.1f}")
    if witnesses:
        harness.say("seed 0, from all eigenvalues (from Lanczos quadrature):")
        harness.say("| method | largest | least | trace | width, of 2 | share below 1e-4 |\n" + "|---" * 6 + "|")
        harness.say("\n".join(witnesses))
    given.output.mkdir(parents=True, exist_ok=True)
    draw(given.output / "minima_width.png", firsts)


def witness(name: str, end: End) -> str:
    """A row of numbers from all eigenvalues, and of the same from the quadrature."""
    exact, found = end.eigenvalues(), end.spectrum
    small, width = np.mean(np.abs(exact) < SMALL), np.mean(1.0 / (exact + 1.0 / T))
    small_found = float(found.average(lambda x: np.abs(x) < SMALL).mean)
    return (
        f"| {name} | {exact[-1]:.3f} ({found.lambda_max:.3f}) | {exact[0]:.4f} ({found.lambda_min:.4f}) | "
        f"{exact.sum():.2f} ({found.trace.mean:.2f} ± {found.trace.error:.2f}) | {width:.5f} "
        f"({found.width(T).mean:.5f} ± {found.width(T).error:.5f}) | {small:.3f} ({small_found:.3f}) |"
    )


def draw(path: Path, spectra: dict[str, HessianSpectrum]) -> None:
    """The largest eigenvalues, and how many of all lie above each number."""
    with style.pyplot() as plt:
        figure, axis = plt.subplots(figsize=(6.4, 3.8), constrained_layout=True)
        at = np.geomspace(1e-4, max(s.lambda_max for s in spectra.values()), 200)
        for i, (name, spectrum) in enumerate(spectra.items()):
            above = [spectrum.size * float(spectrum.average(lambda x, e=e: x >= e).mean) for e in at]
            axis.plot(at, above, color=style.LINES[i], label=name.partition(",")[0])
        axis.set(xscale="log", yscale="log", xlabel="eigenvalue", ylabel="eigenvalues above")
        axis.legend(frameon=False, fontsize=8)
        style.bare(axis)
        style.save(plt, figure, path)


if __name__ == "__main__":
    main()
