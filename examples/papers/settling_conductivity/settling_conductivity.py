"""A sheet learns another sheet's log-conductivity by settling: three kinds of nudging beside the adjoint's gradient.

Run: python3 examples/papers/settling_conductivity/settling_conductivity.py; see README.md.

The sheet is that of ../sheet.py, on 158 cells of an unstructured mesh. Teacher: theta is a Gaussian random field. Each
sample puts four patterns of voltage of random amplitudes on the rim, and gives the potentials at 12 points; 20 samples,
one at a time. "SGD" is theta - rate M^-1 dC/dtheta by the adjoint, at the same rate as all, eps beta.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import harness  # noqa: E402, I001  (first: it sets the number of threads)

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402

import relax  # noqa: E402
from relax.errors import RelaxError  # noqa: E402
from outcomes import epochs_table  # noqa: E402
from sheet import Sheet, samples  # noqa: E402

Array = npt.NDArray[np.float64]

MODES = ("optimistic", "centred", "pessimistic")
SIZE, SAMPLES = 0.24, 20
RATE, NUDGING = 0.2, 0.5
# Newton's steps end at 1e-11 of what they step from, and energies are up to ten or so.
SETTLED = 1e-10


class Lesson:
    """Inputs and a teacher's answers, drawn with a seed; another 20 to test with."""

    def __init__(self, sheet: Sheet, seed: int) -> None:
        self.sheet = sheet
        random = np.random.default_rng(seed)
        k, phase = 2.0 * random.standard_normal((6, 2)), random.uniform(0.0, 2.0 * np.pi, (6, 1))
        self.teacher = sheet.interpolated(lambda x: 0.8 * np.sqrt(2.0 / 6.0) * np.cos(k @ x[:2] + phase).sum(axis=0))
        x = random.standard_normal((2 * SAMPLES, 4))
        self.x: Array = 2.0 * x / np.linalg.norm(x, axis=1)[:, None]
        self.y = sheet.seen(self.teacher, self.x)

    def loss(self, part: slice) -> float:
        """The mean of the cost over samples, for the sheet as it is."""
        gap = self.sheet.seen(self.sheet.read(), self.x[part]) - self.y[part]
        return float(0.5 * (gap**2).sum() / len(gap))

    def settling(self, mode: str, rate: float, nudging: float) -> Callable[[int], relax.train.SettlingReport]:
        """A step from a sample, by settling."""
        sheet = self.sheet
        learner = relax.train.Aeqprop(sheet.energy, relax.Misfit(sheet.sees), rate=rate, nudging=nudging, mode=mode)
        return lambda i: learner.step({sheet.x: self.x[i]}, self.y[i])

    def descent(self, rate: float) -> Callable[[int], None]:
        """A step from a sample, by the adjoint."""

        def step(i: int) -> None:
            theta = self.sheet.read()
            self.sheet.write(theta - rate * self.sheet.gradient(theta, self.x[i], self.y[i]))

        return step


TRAINING, TEST = slice(SAMPLES), slice(SAMPLES, None)


def methods(sheet: Sheet, losses: dict[tuple[str, int], list[float]]) -> list[harness.Method]:
    """SGD and the three; ``losses`` gets the training loss before each epoch."""

    def method(name: str, of: Callable[[Lesson], Callable[[int], object]]) -> harness.Method:
        def begin(seed: int, rate: float) -> harness.Training:
            lesson = Lesson(sheet, seed)
            sheet.write(0.0)
            seen = losses[name, seed] = []
            batches = samples(SAMPLES, seed, lambda: lesson.loss(TRAINING), seen)
            return harness.Training(of(lesson), batches, lambda: lesson.loss(TEST))

        return harness.Method(name, begin, RATE * NUDGING)

    return [
        method("SGD", lambda lesson: lesson.descent(RATE * NUDGING)),
        *(method(mode, lambda lesson, mode=mode: lesson.settling(mode, RATE, NUDGING)) for mode in MODES),
    ]


def after(lesson: Lesson, step: Callable[[int], object], epochs: int) -> str:
    """The training loss after epochs from theta = 0; how it stopped, where it did."""
    lesson.sheet.write(0.0)
    for n in range(epochs * SAMPLES):
        try:
            step(n % SAMPLES)
        except RelaxError as error:
            why = "no least value" if "no least value" in str(error) else "not solved"
            return f"{why}, step {n + 1}"
    return f"{lesson.loss(TRAINING):.1e}"


def stability(sheet: Sheet, seeds: int, epochs: int) -> str:
    """Which rates can be used: a table, a column for each seed."""
    lessons = [Lesson(sheet, seed) for seed in range(seeds)]
    lines = [
        f"Training loss after {epochs} epochs, or how it stopped",
        "",
        "| method | eps | beta | eps beta | " + " | ".join(f"seed {seed}" for seed in range(seeds)) + " |",
        "|---" * (4 + seeds) + "|",
    ]
    for rate in (2.0, 4.0, 8.0, 16.0):
        cells = [after(lesson, lesson.descent(rate), epochs) for lesson in lessons]
        lines.append(f"| SGD | | | {rate:g} | " + " | ".join(cells) + " |")
    tried = [("optimistic", 0.1, beta) for beta in (1.0, 10.0, 100.0, 1000.0)]
    tried += [(mode, eps, NUDGING) for eps in (0.2, 0.4, 0.8) for mode in MODES]
    tried += [(mode, 0.1, 2.0) for mode in MODES[1:]]
    for mode, eps, beta in tried:
        cells = [after(lesson, lesson.settling(mode, eps, beta), epochs) for lesson in lessons]
        lines.append(f"| {mode} | {eps:g} | {beta:g} | {eps * beta:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def lyapunov(sheet: Sheet, seeds: int, steps: int) -> str:
    """Whether it rises over a step, for the step's own sample: a table."""
    lines = [
        f"Change of the Lyapunov function of the step's own sample, {steps} steps, eps {RATE:g}",
        "",
        "| mode | beta | seed | steps | rises above 1e-9 | largest rise | relative to it | largest fall |",
        "|---" * 8 + "|",
    ]
    for mode, beta in (("optimistic", 1.0), ("centred", 1.0), ("pessimistic", 0.5), ("pessimistic", 1.0)):
        for seed in range(seeds):
            lesson = Lesson(sheet, seed)
            sheet.write(0.0)
            step, seen = lesson.settling(mode, RATE, beta), []
            try:
                for n in range(steps):
                    seen.append(step(n % SAMPLES))
            except RelaxError as error:
                harness.say(f"  {mode}, beta {beta:g}, seed {seed}, step {len(seen) + 1}: {error}")
            changes = np.array([r.lyapunov_after - r.lyapunov_before for r in seen] or [0.0])
            largest = int(changes.argmax())
            part = changes[largest] / abs(seen[largest].lyapunov_before) if seen else 0.0
            lines.append(
                f"| {mode} | {beta:g} | {seed} | {len(seen)} | {(changes > 10.0 * SETTLED).sum()} | "
                f"{changes[largest]:.1e} | {part:.1e} | {changes.min():.1e} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Compare after equal epochs and equal time."""
    flags = {"rates": "tables of rates that can be used, and of the Lyapunov function, instead"}
    given = harness.settings(__doc__ or "", budget=30.0, flags=flags)
    points = [(r * np.cos(t), r * np.sin(t)) for r, n in ((0.8, 8), (0.4, 4)) for t in 2.0 * np.pi / n * np.arange(n)]
    sheet = Sheet(
        SIZE,
        lambda x: [x[0], x[1], x[0] ** 2 - x[1] ** 2, 2.0 * x[0] * x[1]],
        lambda s: relax.PointValues(s.function_space, points),
    )
    harness.say(f"{harness.COMM.allreduce(sheet.cells)} cells")
    if "rates" in given.chosen:
        steps = 2 if given.quick else 15 * SAMPLES
        harness.say("\n" + stability(sheet, given.seeds, 2) + "\n\n" + lyapunov(sheet, given.seeds, steps))
        return sheet.G.close()
    losses: dict[tuple[str, int], list[float]] = {}
    harness.compare("Settling conductivity", methods(sheet, losses), given, times=(1.0, 2.0, 5.0, 10.0))
    harness.say("\n" + epochs_table("Training loss", losses, (0, 1, 2, 5, 10, 15)))
    return sheet.G.close()


if __name__ == "__main__":
    relax.init(sys.argv)
    main()
