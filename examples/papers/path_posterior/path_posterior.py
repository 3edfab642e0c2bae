"""Estimators of a learnt posterior over paths against the Hamilton-Jacobi drift; a layer with weights that are paths.

Run: python3 examples/papers/path_posterior/path_posterior.py, or mpirun -n 2 python3 ...; see README.md. Dimensionless.

Drift: dw = -w dt + 0.8 dB from w(0) = 0, and a likelihood of w(1) with two modes. The posterior's drift by finite
elements, ``relax.relaxation.control.OptimalControl``; a network 2-48-48-1 for it by ``relax.train.PathPosterior``.
Landing: the standard deviation of a path's gradient at the exact posterior of a linear-Gaussian bridge.
Regression: ``relax.train.SDELayer`` beside Hamiltonian Monte Carlo on the same prior.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import harness  # noqa: E402, I001  (first: it sets the number of threads)

import itertools  # noqa: E402
import math  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from mpi4py import MPI  # noqa: E402

import relax  # noqa: E402
from relax.base import parallel  # noqa: E402
from relax.jobs.view import style  # noqa: E402
from relax.relaxation.control import OptimalControl  # noqa: E402
from relax.train import PathPosterior, SDELayer  # noqa: E402

Tensor = torch.Tensor

SIGMA = 0.8
ESTIMATORS = ("ckl", "fmc", "stl")
#: Of the bridge: what is seen of w(1), and its noise.
Y, NOISE = 1.3, 0.3


# -- the drift ---------------------------------------------------------------------------------------------------------


def log_likelihood(w: Tensor) -> Tensor:
    """Of w(1), (n,): two modes."""
    return torch.logaddexp(-4.0 * (w + 0.7) ** 2, -3.0 * (w - 0.7) ** 2 + 0.3)


class Drift(torch.nn.Module):
    """-w and a network of w and t."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        widths = (2, 48, 48, 1)
        layers = [torch.nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
        self.net = torch.nn.Sequential(layers[0], torch.nn.SiLU(), layers[1], torch.nn.SiLU(), layers[2])

    def forward(self, w: Tensor, t: Tensor) -> Tensor:
        """(k, 1), a time -> (k, 1)."""
        correction: Tensor = self.net(torch.cat([2.0 * w, (2.0 * t - 1.0).expand(len(w), 1)], 1))
        return correction - w


class Reference:
    """The posterior's drift by finite elements on each rank, and how far another is from it.

    Attributes:
        log_evidence: by the equation.
    """

    def __init__(self, paths: int) -> None:
        mesh = relax.meshes.interval(400, (-5.0, 5.0), comm=MPI.COMM_SELF)
        # The equation's time and potential are in units of the noise.
        self._V = OptimalControl(
            mesh, lambda x: 0.5 * (x[0] / SIGMA) ** 2, beta=1.0, t=SIGMA**2, num_steps=100,
            V=lambda x: -log_likelihood(torch.as_tensor(x[0])).numpy(),
        )  # fmt: skip
        self.log_evidence = -float(self._V.value([[0.0]], SIGMA**2)[0])
        self._path = PathPosterior(self.drift, sigma=SIGMA, steps=100).paths(paths, seed=harness.TUNING_SEED)
        self._exact = [self.drift(w, n / 100.0) for n, w in enumerate(self._path[:-1])]

    def drift(self, w: Tensor, t: Tensor | float) -> Tensor:
        """-w - σ² grad V."""
        slope = self._V(w.double().numpy(), SIGMA**2 * (1.0 - float(t)))
        return -w - SIGMA**2 * torch.from_numpy(slope).to(w)

    def gap(self, drift: Callable[[Tensor, Tensor], Tensor]) -> float:
        """Root mean square of the difference, over that of σ² grad V, along the posterior's paths."""
        difference = size = 0.0
        with torch.no_grad():
            for n, (w, exact) in enumerate(zip(self._path, self._exact, strict=False)):
                difference += float(((drift(w, torch.tensor(n / 100.0)) - exact) ** 2).sum())
                size += float(((exact + w) ** 2).sum())
        return math.sqrt(difference / size)


def learning(estimator: str, reference: Reference, teams: relax.Teams) -> Callable[[int, float], harness.Training]:
    """Adam on the bound of 512 paths of 16 Heun steps."""

    def begin(seed: int, rate: float) -> harness.Training:
        drift = Drift(seed)
        posterior = PathPosterior(drift, sigma=SIGMA, steps=16, teams=teams)
        adam = torch.optim.Adam(drift.parameters(), lr=rate)

        def step(batch: int) -> None:
            adam.zero_grad()
            bound = posterior.elbo(lambda w: log_likelihood(w[:, 0]), estimator=estimator, num=512, seed=batch)
            (-bound).backward()
            adam.step()

        return harness.Training(step, itertools.count(10_000 * seed), lambda: reference.gap(drift), falling=adam)

    return begin


# -- the landing -------------------------------------------------------------------------------------------------------


class Bridge(torch.nn.Module):
    """The exact drift times ``part``, one number for each path."""

    def __init__(self, part: float, paths: int) -> None:
        super().__init__()
        self.part = torch.nn.Parameter(torch.full((paths, 1), part, dtype=torch.float64))

    def forward(self, w: Tensor, t: Tensor) -> Tensor:
        """(k, 1), a time -> (k, 1)."""
        left = torch.exp(t - 1.0)
        spread = SIGMA**2 * (1.0 - left**2) / 2.0 + NOISE**2
        return -w + self.part * SIGMA**2 * left * (Y - w * left) / spread


def landing(part: float, estimator: str, steps: int, paths: int, scheme: str = "euler") -> tuple[float, float, float]:
    """The bound's mean, and the mean and the standard deviation of its gradient, path by path."""
    start = torch.zeros(1, dtype=torch.float64)
    posterior = PathPosterior(Bridge(part, paths), start=start, sigma=SIGMA, steps=steps, scheme=scheme)
    random = torch.Generator().manual_seed(0)
    walked = posterior(torch.randn(steps, paths, 1, generator=random, dtype=torch.float64) / steps**0.5, estimator)
    seen = -0.5 * ((walked.path[-1][:, 0] - Y) / NOISE) ** 2 - math.log(NOISE * math.sqrt(2.0 * math.pi))
    bound = seen - walked.log_ratio
    bound.sum().backward()
    gradient = posterior.drift.part.grad
    return float(bound.mean()), float(gradient.mean()), float(gradient.std())


def landing_table(paths: int, steps: tuple[int, ...]) -> dict[tuple[str, str], list[float]]:
    """Print standard deviations at the posterior and means away from it; the former by scheme and estimator."""
    found = {}
    harness.say(f"\nGradient of a path at the exact posterior, standard deviation, {paths} paths\n")
    harness.say("| scheme | estimator | " + " | ".join(f"dt {1.0 / n:g}" for n in steps) + " | mean at 0.7 of it |")
    harness.say("|---" * (3 + len(steps)) + "|")
    for scheme, estimator in itertools.product(("euler", "heun"), ESTIMATORS):
        found[scheme, estimator] = [landing(1.0, estimator, n, paths, scheme)[2] for n in steps]
        _, mean, spread = landing(0.7, estimator, steps[1], paths, scheme)
        cells = [f"{value:.2g}" for value in found[scheme, estimator]]
        cells.append(f"{mean:.3f} ± {spread / paths**0.5:.3f}")
        harness.say(f"| {scheme} | {estimator} | " + " | ".join(cells) + " |")
    return found


# -- regression --------------------------------------------------------------------------------------------------------


class Regression:
    """y = h_2(x) + 0.2 N(0, 1), h from (x, 0) by a layer of two features, σ = 1, 10 steps; data at both ends.

    What data come from is a draw of the layer's prior, whose w(0) is known.

    Attributes:
        x: (n, 1) of the data.
        y: (n,).
        grid: (m, 1) where to predict.
        truth: (m,) what data come from there.
    """

    def __init__(self, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.x = torch.from_numpy(np.concatenate([random.uniform(-2, -0.8, 8), random.uniform(0.6, 1.6, 8)]))[:, None]
        self.grid = torch.linspace(-3.0, 3.0, 61, dtype=torch.float64)[:, None]
        torch.manual_seed(seed)
        self.layer = SDELayer(2, sigma=1.0, steps=10, widths=(64,), dtype=torch.float64)
        self.layer.weights.start.requires_grad_(False)
        with torch.no_grad():
            drawn = self.predicted(self.layer, torch.cat([self.grid, self.x]), 1)[0][0]
        self.truth, clean = drawn.split([61, 16])
        self.y = clean + 0.2 * torch.from_numpy(random.standard_normal(16))

    def predicted(self, layer: SDELayer, x: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        """h_2, (samples, n), and log ratios."""
        h, log_ratio = layer(torch.cat([x, torch.zeros_like(x)], 1), samples)
        return h[..., 1], log_ratio

    def log_likelihood(self, seen: Tensor) -> Tensor:
        """(k, n) -> (k,)."""
        return -0.5 * (((seen - self.y) / 0.2) ** 2).sum(-1)

    def train(self, updates: int) -> None:
        """By the bound with 16 draws a step."""
        learnt = [p for p in self.layer.parameters() if p.requires_grad]
        adam = torch.optim.Adam(learnt, lr=0.01)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, updates)
        for _ in range(updates):
            adam.zero_grad()
            seen, log_ratio = self.predicted(self.layer, self.x, 16)
            bound = (self.log_likelihood(seen) - log_ratio).mean()
            (-bound).backward()
            adam.step()
            falling.step()

    def sampled(self, chains: int, updates: int, leaps: int = 12) -> tuple[Tensor, float]:
        """h_2 on the grid by Hamiltonian Monte Carlo in the increments of the prior, (n, m), and the accepted share."""
        weights = self.layer.weights
        prior = PathPosterior(lambda w, t: -w, start=weights.start.detach(), sigma=1.0, steps=weights.steps)

        def seen(z: Tensor, x: Tensor) -> Tensor:
            rows = torch.cat([x, torch.zeros_like(x)], 1).expand(z.shape[1], -1, -1)
            walked = prior(z / weights.steps**0.5, "ckl", rows, rate)
            assert walked.hidden is not None
            return walked.hidden[..., 1]

        def rate(h: Tensor, w: Tensor, t: Tensor) -> Tensor:
            return torch.tanh(h @ w[:, :4].reshape(-1, 2, 2) + w[:, None, 4:])

        def energy(z: Tensor) -> tuple[Tensor, Tensor]:
            z = z.detach().requires_grad_()
            total = 0.5 * (z**2).sum((0, 2)) - self.log_likelihood(seen(z, self.x))
            (slope,) = torch.autograd.grad(total.sum(), z)
            return total.detach(), slope

        z = torch.randn(weights.steps, chains, 6, dtype=torch.float64)
        now, slope = energy(z)
        size, taken, kept = 0.05, 0.0, []
        for update in range(updates):
            p = torch.randn_like(z)
            start = now + 0.5 * (p**2).sum((0, 2))
            ahead, pull = z, slope
            jitter = size * (0.8 + 0.4 * float(torch.rand(())))
            for _ in range(leaps):
                p = p - 0.5 * jitter * pull
                ahead = ahead + jitter * p
                there, pull = energy(ahead)
                p = p - 0.5 * jitter * pull
            accept = torch.rand(chains) < torch.exp(start - there - 0.5 * (p**2).sum((0, 2)))
            z = torch.where(accept[:, None], ahead, z)
            slope, now = torch.where(accept[:, None], pull, slope), torch.where(accept, there, now)
            rate_now = float(accept.double().mean())
            if update < updates // 2:
                size *= 1.05 if rate_now > 0.75 else 0.95
            else:
                taken += rate_now / (updates - updates // 2)
                if update % 4 == 0:
                    with torch.no_grad():
                        kept.append(seen(z, self.grid))
        return torch.cat(kept), taken


def regression(quick: bool) -> tuple[Regression, list[tuple[str, Tensor]]]:
    """Train, sample, print, for several truths; both predictions of the first."""
    rows: dict[str, list[list[float]]] = {"SDELayer": [], "Hamiltonian Monte Carlo": []}
    apart, first = [], None
    for seed in range(1 if quick else 4):
        task = Regression(seed)
        began = time.process_time()
        task.train(3 if quick else 1000)
        trained = time.process_time()
        exact, taken = task.sampled(4 if quick else 64, 8 if quick else 240)
        seconds = trained - began, time.process_time() - trained
        with torch.no_grad():
            learnt, _ = task.predicted(task.layer, task.grid, 20 if quick else 2000)
        found = list(zip(rows, (learnt, exact), strict=True))
        first = first or (task, found)
        grid = task.grid[:, 0]
        at_data = ((grid > -2.0) & (grid < -0.8)) | ((grid > 0.6) & (grid < 1.6))
        parts = at_data, (grid > -0.6) & (grid < 0.4), (grid < -2.2) | (grid > 1.8)
        for (name, h), spent in zip(found, seconds, strict=True):
            low, high = (torch.quantile(h, level, 0) for level in (0.025, 0.975))
            covered = float(((task.truth >= low) & (task.truth <= high)).double().mean())
            rows[name].append([*(float(h.std(0)[part].mean()) for part in parts), covered, spent])
        off, ratio = (learnt.mean(0) - exact.mean(0)).abs() / exact.std(0), learnt.std(0) / exact.std(0)
        apart.append([float(off.mean()), float(off.max()), float(ratio.mean()), taken])
    harness.say(f"\nRegression, means over {len(apart)} truths: the layer and exact sampling of the same posterior\n")
    harness.say("| what | std of h at data | in the gap | outside | truth within 95 % | CPU s |")
    harness.say("|---|---|---|---|---|---|")
    for name, of_truths in rows.items():
        *spreads, covered, spent = np.mean(of_truths, axis=0)
        harness.say(f"| {name} | {' | '.join(f'{v:.3f}' for v in spreads)} | {100 * covered:.0f} % | {spent:.0f} |")
    mean, most, ratio, taken = np.mean(apart, axis=0)
    harness.say(
        f"\nThe means of h differ by {mean:.2f} standard deviations of the exact posterior on average, {most:.2f} at "
        f"most; its standard deviations are {ratio:.2f} of the exact ones; {100 * taken:.0f} % of proposals accepted"
    )
    assert first is not None
    return first


def main() -> None:
    """All three parts; the figure of the last two beside that of the first."""
    given = harness.settings(__doc__ or "", budget=60.0)
    teams = relax.Teams(harness.COMM, 1)
    reference = Reference(100 if given.quick else 2000)
    methods = [harness.Method(name, learning(name, reference, teams), 0.02) for name in ESTIMATORS]
    harness.compare("Path posterior", methods, given, times=(5.0, 20.0))
    teams.close()
    steps = (10, 50) if given.quick else (10, 50, 200, 800)
    spreads = landing_table(32 if given.quick else 8192, steps)
    task, found = regression(given.quick)
    drawn = style.is_there(harness.COMM)
    with parallel.together(harness.COMM):
        if drawn and harness.COMM.rank == 0:
            _draw(given.output / "landing_and_regression.png", steps, spreads, task, found)


def _draw(
    path: Path,
    steps: tuple[int, ...],
    spreads: dict[tuple[str, str], list[float]],
    task: Regression,
    found: list[tuple[str, Tensor]],
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with style.pyplot() as plt:
        figure, (left, right) = plt.subplots(1, 2, figsize=(10.0, 4.0), constrained_layout=True)
        for (scheme, estimator), values in spreads.items():
            colour = style.LINES[ESTIMATORS.index(estimator)]
            line = "-" if scheme == "euler" else "--"
            left.plot(1.0 / np.array(steps), values, line, color=colour, label=f"{estimator}, {scheme}")
        left.set(xscale="log", yscale="log", xlabel="dt", ylabel="std of a path's gradient at the posterior")
        left.legend(frameon=False, fontsize=8)
        grid = task.grid[:, 0].numpy()
        for i, (name, h) in enumerate(found):
            mean, spread = h.mean(0).numpy(), h.std(0).numpy()
            right.plot(grid, mean, color=style.LINES[i], label=name)
            right.fill_between(grid, mean - 2 * spread, mean + 2 * spread, color=style.LINES[i], alpha=0.2, lw=0)
        right.plot(grid, task.truth.numpy(), "k:", lw=1, label="truth")
        right.plot(task.x[:, 0].numpy(), task.y.numpy(), "k.", label="data")
        right.set(xlabel="x", ylabel="h, mean ± 2 std")
        right.legend(frameon=False, fontsize=8)
        style.bare(left)
        style.bare(right)
        style.save(plt, figure, path)


if __name__ == "__main__":
    relax.init(sys.argv)
    main()
