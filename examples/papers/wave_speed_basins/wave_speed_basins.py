"""Wave speeds along 32 cells from waves at the two ends that skip cycles: in how many runs the global basin is found.

Run: python3 examples/papers/wave_speed_basins/wave_speed_basins.py; see README.md. Dimensionless, on (0, 1),

    -u'' - k² (1 + 0.02 i) u = 0,  k = f exp(-m),  u' = ± i k u at the ends, where a wave comes in from the left,

for f = 40 and 50: the real and the imaginary part of u at both ends are seen with 3 % of noise. The log-speed m, linear
in each cell, is N(0, C) by ``relax.SmoothnessPrior`` with std 0.4 and length 0.3. J is misfit + ½ |m|² in C⁻¹.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import harness  # noqa: E402, I001  (first: it sets the number of threads)

import time  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
import ufl  # noqa: E402
from dolfinx import fem  # noqa: E402

import relax  # noqa: E402
from relax.base import parallel  # noqa: E402
from relax.base.types import Array  # noqa: E402
from relax.jobs.view import style  # noqa: E402
from relax.relaxation.optim import SGLD, EntropySGD, Exponential  # noqa: E402

#: Forward solves of a run, most with an adjoint one; those of its chain, from whose best point the rest descends.
SOLVES, CHAIN, INNER = 1000, 800, 40
#: Data are fitted as well as their noise allows: misfit in noise levels.
FITTED = 1.5
#: Chains in whitened parameters: their step, the momentum, and the inverse temperature at first and at last.
RATE, MOMENTUM, COLD = 1e-5, 0.8, (0.002, 0.3)


def waves(frequencies: tuple[float, ...] = (40.0, 50.0)) -> relax.Problem:
    """The equation for all frequencies, real and imaginary parts one after the other."""
    mesh = relax.meshes.interval(32)
    V = fem.functionspace(mesh, ("Lagrange", 4, (2 * len(frequencies),)))
    m, u, v = fem.Function(fem.functionspace(mesh, ("Lagrange", 1)), name="m"), fem.Function(V), ufl.TestFunction(V)
    left = ufl.conditional(ufl.SpatialCoordinate(mesh)[0] < 1e-8, 1.0, 0.0)
    F = 0
    for i, frequency in enumerate(frequencies):
        k = frequency * ufl.exp(-m)
        one, test = ufl.as_vector((u[2 * i], u[2 * i + 1])), ufl.as_vector((v[2 * i], v[2 * i + 1]))
        turned = ufl.as_vector((-one[1], one[0]))
        F += (ufl.inner(one.dx(0), test.dx(0)) - k**2 * ufl.inner(one + 0.02 * turned, test)) * ufl.dx
        F -= (k * ufl.inner(turned, test) + 2.0 * frequency * left * test[1]) * ufl.ds
    return relax.Problem(residual=F, state=u, controls=[m], name="waves")


class Task:
    """A truth with its data, and what every method asks for."""

    def __init__(self, seed: int) -> None:
        problem = waves()
        ends = relax.PointValues(problem.state.function_space, np.array([[0.0], [1.0]]))
        self.G = relax.ReducedMap(problem, ends)
        self.prior = relax.SmoothnessPrior(problem.controls[0].function_space, length=0.3, std=0.4)
        self.layer = relax.SolutionLayer(self.G)
        clean = self.G(self.prior.sample(10_000 + seed))
        self.noise = 0.03 * float(np.abs(clean).max())
        self.data = clean + self.noise * np.random.default_rng(seed).standard_normal(clean.size)
        self.size = self.prior.size
        self.root = torch.from_numpy(self.prior.color(np.eye(self.size)))
        self.precision = torch.from_numpy(self.prior.precision(np.eye(self.size)))

    def J(self, m: torch.Tensor) -> torch.Tensor:
        """Of each row."""
        misfit = ((self.layer(m) - torch.from_numpy(self.data)) / self.noise).square().sum(1)
        return 0.5 * (misfit + ((m @ self.precision) * m).sum(1))

    def descended(self, m: Array, solves: int) -> tuple[float, int]:
        """The misfit in noise levels by L-BFGS from a start, and its forward solves, hardly more than ``solves``."""
        found = relax.lbfgs(
            self.G, self.data, m, noise=self.noise, prior=self.prior, max_steps=solves, rtol=1e-3,
            callback=lambda entry, _: entry["forward"] >= solves,
        )  # fmt: skip
        return found.history[-1]["misfit_in_noise_levels"], found.stats.forward

    def ends(self, starts: Array, kind: str, total: int) -> tuple[Array, Array]:
        """Misfits in noise levels of a method's runs from starts (n, size), and their forward solves."""
        found = []
        if kind in ("Entropy-SGD", "SGLD"):
            chain = int(total * CHAIN / SOLVES)
            for m in self.chained(starts, kind, chain):
                misfit, solves = self.descended(m, total - chain)
                found.append((misfit, solves + chain))
            return tuple(np.array(found).T)
        for n, m in enumerate(starts):
            misfit, solves, again = *self.descended(m, total), 0
            while kind == "L-BFGS, restarted" and solves < total:
                again += 1
                other, more = self.descended(self.prior.sample(1000 * (n + 1) + again), total - solves)
                misfit, solves = min(misfit, other), solves + more
            found.append((misfit, solves))
        return tuple(np.array(found).T)

    def chained(self, starts: Array, kind: str, solves: int) -> Array:
        """The point of least J that each start's chain has come by."""
        inner = min(INNER, solves)
        steps = max(1, solves // inner) if kind == "Entropy-SGD" else solves
        cold = Exponential(COLD[0], (COLD[1] / COLD[0]) ** (1.0 / steps) - 1.0)
        whitened = torch.linalg.solve(self.root.T, torch.from_numpy(starts).T).T
        x = torch.nn.Parameter(torch.from_numpy(starts.copy()) if kind == "Entropy-SGD" else whitened.clone())
        optimizer: torch.optim.Optimizer
        if kind == "Entropy-SGD":
            shrinking = Exponential(0.02, 0.025 ** (1.0 / max(steps - 1, 1)) - 1.0)
            optimizer = EntropySGD(
                [x], t=shrinking, beta=cold, inner_steps=inner, inner_lr=RATE, inner_momentum=MOMENTUM,
                metric=self.prior, seed=0,
            )  # fmt: skip
        else:
            optimizer = SGLD([x], lr=RATE, beta=cold, momentum=MOMENTUM, seed=0)
        least, best = np.full(len(starts), np.inf), starts.copy()

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            m = x if kind == "Entropy-SGD" else x @ self.root
            J = self.J(m)
            J.sum().backward()
            lower = J.detach().numpy() < least
            least[lower], best[lower] = J.detach().numpy()[lower], m.detach().numpy()[lower]
            return J.sum()

        for _ in range(steps):
            optimizer.step(closure)
        return best


METHODS = ("L-BFGS", "L-BFGS, restarted", "SGLD", "Entropy-SGD")


def main() -> None:
    """All methods from the same starts, for several truths."""
    given = harness.settings(__doc__ or "", seeds=2)
    starts, total = (2, 20) if given.quick else (25, SOLVES)
    misfits: dict[str, list[Array]] = {name: [] for name in METHODS}
    solves: dict[str, list[Array]] = {name: [] for name in METHODS}
    seconds = dict.fromkeys(METHODS, 0.0)
    for seed in range(given.seeds):
        task = Task(seed)
        m = np.array([task.prior.sample(100 * seed + n) for n in range(starts)])
        at_truth = task.descended(task.prior.sample(10_000 + seed), total)[0]
        for name in METHODS:
            began = time.process_time()
            misfit, spent = task.ends(m, name, total)
            seconds[name] += time.process_time() - began
            misfits[name].append(misfit)
            solves[name].append(spent)
            share = (misfit < FITTED).sum()
            harness.say(f"  truth {seed}, {name}: {share} of {starts}; from the truth {at_truth:.2f} noise levels")
    harness.say(f"Runs that end in the global basin, of {starts} starts for each of {given.seeds} truths\n")
    harness.say("| method | in the basin | solves of a run | % | median misfit, noise levels | CPU s |")
    harness.say("|---|---|---|---|---|---|")
    for name in METHODS:
        shares = [int((one < FITTED).sum()) for one in misfits[name]]
        cells = [" + ".join(map(str, shares)), f"{np.mean(solves[name]):.0f}"]
        cells += [f"{100.0 * sum(shares) / starts / len(shares):.0f}"]
        cells += [f"{np.median(misfits[name]):.2f}", f"{seconds[name]:.0f}"]
        harness.say(f"| {name} | {' | '.join(cells)} |")
    drawn = style.is_there(harness.COMM)
    with parallel.together(harness.COMM):
        if drawn and harness.COMM.rank == 0:
            _draw(given.output / "wave_speed_basins.png", misfits)


def _draw(path: Path, misfits: dict[str, list[Array]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with style.pyplot() as plt:
        figure, axis = plt.subplots(figsize=(6.4, 4.2), constrained_layout=True)
        for i, (name, of_truths) in enumerate(misfits.items()):
            ends = np.sort(np.concatenate(of_truths))
            axis.plot(100.0 * np.arange(1, len(ends) + 1) / len(ends), ends, color=style.LINES[i], label=name)
        axis.axhline(FITTED, color="k", lw=0.8, ls=":")
        axis.set(yscale="log", xlabel="% of runs", ylabel="misfit in noise levels")
        axis.legend(frameon=False, fontsize=8)
        style.bare(axis)
        style.save(plt, figure, path)


if __name__ == "__main__":
    relax.init(sys.argv)
    main()
