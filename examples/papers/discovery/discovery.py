"""The equation behind 1 000 noisy samples: weak forms with known noise, beside pysindy's weak library and a network.

Run: python3 examples/papers/discovery/discovery.py; see README.md.

u_t - u_xx + u_x^2 = 0 on (-2, 2) x (0, 2), u = x^2/(1 + 4t) + log(1 + 4t)/2, eight terms, as in Hasan, Pereira, Ravier,
Farsiu and Tarokh (ICASSP 2020), whose method is the network: u by softplus layers, fitted together with a unit vector c
of which D(u) c is small. Noise is a share of the spread of u. e = sqrt(1 - |cos|) of the angle to the true c. pysindy
has no u_x^2; it is given Burgers' equation on a grid of 32 x 32, and so is relax, as scattered samples.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import harness  # noqa: E402, I001  (first: it sets the number of threads)

import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
import ufl  # noqa: E402
from dolfinx import fem  # noqa: E402

import relax  # noqa: E402
from relax import discovery  # noqa: E402
from relax.base import parallel  # noqa: E402
from relax.jobs.view import style  # noqa: E402

TERMS = ("u_tt", "u_xx", "u_t", "u_x", "u", "u^2", "u u_x", "u_x^2")
VISCOUS = {"u_t": 1.0, "u_xx": -1.0, "u_x^2": 1.0}
BURGERS = {"u_t": 1.0, "u_xx": -0.1, "u u_x": 1.0}
LEVELS = (0.01, 0.032, 0.1, 0.316)
# Above this noise a field by itself tells no derivatives.
JOINT = 0.2

Samples = tuple[np.ndarray, np.ndarray, np.ndarray, float]
#: Coefficients by name, of samples.
Method = Callable[[Samples], dict[str, float]]


def viscous(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    return x**2 / (1 + 4 * t) + 0.5 * np.log(1 + 4 * t)


def burgers(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    a, b = np.exp(-0.1 * np.pi**2 * t), 0.4 * np.exp(-0.4 * np.pi**2 * t)
    phi = 2 + a * np.cos(np.pi * x) + b * np.cos(2 * np.pi * x)
    return 0.2 * np.pi * (a * np.sin(np.pi * x) + 2 * b * np.sin(2 * np.pi * x)) / phi


def scattered(level: float, seed: int) -> Samples:
    """Samples of the viscous equation."""
    rng = np.random.default_rng(seed)
    x, t = rng.uniform(-2, 2, 1000), rng.uniform(0, 2, 1000)
    u = viscous(x, t)
    noise = level * u.std()
    return x, t, u + noise * rng.standard_normal(1000), noise


def gridded(level: float, seed: int) -> Samples:
    """Samples of Burgers' equation on a grid, x by x."""
    x, t = (a.ravel() for a in np.meshgrid(np.linspace(0, 1, 32), np.linspace(0, 1, 32), indexing="ij"))
    u = burgers(x, t)
    noise = level * u.std()
    return x, t, u + noise * np.random.default_rng(seed).standard_normal(len(u)), noise


def by_weak_forms(ends: tuple[float, float]) -> Method:
    """relax: null_space, or the joint fit where the noise is large."""
    V = fem.functionspace(relax.meshes.interval(24, ends), ("Lagrange", 2))
    u, v = discovery.unknown(V), discovery.test(V)
    forms = (u.dt.dt * v, -ufl.inner(ufl.grad(u), ufl.grad(v)), u.dt * v, u.dx(0) * v, u * v, u**2 * v)
    library = dict(zip(TERMS, (*forms, -(u**2) / 2 * v.dx(0), u.dx(0) ** 2 * v), strict=True))

    def method(samples: Samples) -> dict[str, float]:
        x, t, values, noise = samples
        data = (x[:, None], t, values)
        if noise > JOINT * values.std():
            best = discovery.rank_by_bic(library, data, noise=noise, leading="u_t")[0]
            return dict(zip(best.terms, best.coefficients, strict=True))
        return discovery.null_space(library, data, noise=noise).by_name

    return method


def by_pysindy(samples: Samples) -> dict[str, float]:
    """Sequentially thresholded least squares on pysindy's weak library: of six thresholds and four boxes the best.

    By the truth, which nobody has.
    """
    import pysindy

    x, t, values, _ = samples
    grid = np.stack(np.meshgrid(np.unique(x), np.unique(t), indexing="ij"), axis=-1)
    polynomials = pysindy.PolynomialLibrary(degree=2, include_bias=False)
    tried = []
    for half in (0.1, 0.15, 0.2, 0.25):
        np.random.seed(0)  # noqa: NPY002  (its subdomains are drawn from there)
        boxes = {"K": 200, "H_xt": [half, half]}
        library = pysindy.WeakPDELibrary(polynomials, derivative_order=2, spatiotemporal_grid=grid, **boxes)
        for threshold in (0.01, 0.02, 0.03, 0.05, 0.07, 0.1):
            # Its ridge, 0.05 by default, is large beside integrals over small boxes.
            optimizer = pysindy.STLSQ(threshold=threshold, alpha=1e-10)
            model = pysindy.SINDy(feature_library=library, optimizer=optimizer)
            model.fit(values.reshape(32, 32, 1), t=np.unique(t))
            names = model.get_feature_names()
            c = {_name(n): -float(a) for n, a in zip(names, model.coefficients()[0], strict=True) if a}
            tried.append({"u_t": 1.0} | c)
    return min(tried, key=lambda c: error(c, BURGERS))


def _name(name: str) -> str:
    """What pysindy calls x0, x0_1, x0x0_1, ..., in the words of here."""
    known = {"x0": "u", "x0^2": "u^2", "x0_1": "u_x", "x0_11": "u_xx", "x0x0_1": "u u_x"}
    return known.get(name.replace(" ", ""), name)


def by_network(seconds: float) -> Method:
    """The paper's: 10 sqrt(mse + 1e-4) (1 + |D c|^2/n + 1e-3 |c|_1), c a singular vector at step 500, then by Adam."""

    def method(samples: Samples) -> dict[str, float]:
        began = time.process_time()
        torch.manual_seed(0)
        x, t, values = (torch.tensor(a, dtype=torch.float32) for a in samples[:3])
        low, high = torch.stack([x.min(), t.min()]), torch.stack([x.max(), t.max()])
        sizes = [2, 50, 50, 50, 50, 1]
        layers: list[torch.nn.Module] = []
        for a, b in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [torch.nn.Linear(a, b), torch.nn.Softplus()]
        net = torch.nn.Sequential(*layers[:-1])
        c = torch.nn.Parameter(torch.zeros(len(TERMS)))
        optimiser = torch.optim.Adam([{"params": net.parameters(), "lr": 2e-3}, {"params": [c], "lr": 2e-2}])
        falling = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.9998)
        step = 0
        while time.process_time() - began < seconds:
            misfit = ((net(torch.stack([x, t], dim=1))[:, 0] - values) ** 2).mean()
            loss = 10 * torch.sqrt(misfit + 1e-4)
            if step >= 500:
                D = dictionary(net, low + (high - low) * torch.rand(len(x), 2))
                if step == 500:
                    c.data[:] = torch.linalg.svd(D.detach(), full_matrices=False)[2][-1]
                unit = c / c.norm()
                loss = loss * (1 + ((D @ unit) ** 2).mean() + 1e-3 * unit.abs().sum())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            falling.step()
            step += 1
        return dict(zip(TERMS, c.detach().numpy().astype(float), strict=True))

    return method


def dictionary(net: torch.nn.Module, points: torch.Tensor) -> torch.Tensor:
    """The eight terms at points (n, 2)."""
    points = points.requires_grad_()
    u = net(points)[:, 0]

    def slopes(f: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        (g,) = torch.autograd.grad(f.sum(), points, create_graph=True)
        return g[:, 0], g[:, 1]

    u_x, u_t = slopes(u)
    return torch.stack([slopes(u_t)[1], slopes(u_x)[0], u_t, u_x, u, u**2, u * u_x, u_x**2], dim=1)


def error(c: dict[str, float], truth: dict[str, float]) -> float:
    """sqrt(1 - |cos|); 1 of nothing."""
    names = sorted(set(c) | set(truth))
    a, b = (np.array([v.get(n, 0.0) for n in names]) for v in (c, truth))
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.sqrt(max(0.0, 1.0 - abs(a @ b) / size))) if size else 1.0


def row(name: str, method: Method, data: Callable[[float, int], Samples], truth: dict[str, float], seeds: int,
        levels: tuple[float, ...]) -> tuple[str, list[float]]:  # fmt: skip
    """A line of the table, and the median of e at each level."""
    cells, medians, spent = [], [], []
    for level in levels:
        errors, right = [], 0
        for seed in range(seeds):
            samples = data(level, seed)
            began = time.process_time()
            c = method(samples)
            spent.append(time.process_time() - began)
            errors.append(error(c, truth))
            right += set(c) == set(truth)
        medians.append(float(np.median(errors)))
        cells.append(f"{', '.join(f'{e:.3f}' for e in errors)} ({right} of {seeds})")
        harness.say(f"  {name}, {100 * level:g} %: {cells[-1]}")
    return f"| {name} | {' | '.join(cells)} | {np.median(spent):.2g} |", medians


def main() -> None:
    given = harness.settings(__doc__ or "", budget=60.0)
    seeds, levels = (1, LEVELS[2:3]) if given.quick else (given.seeds, LEVELS)
    seconds = min(given.budget, 1.0) if given.quick else given.budget
    methods: list[Any] = [
        ("relax, viscous Hamilton-Jacobi", by_weak_forms((-2.0, 2.0)), scattered, VISCOUS),
        ("network, viscous Hamilton-Jacobi", by_network(seconds), scattered, VISCOUS),
        ("relax, Burgers", by_weak_forms((0.0, 1.0)), gridded, BURGERS),
    ]
    try:
        import pysindy  # noqa: F401

        methods.append(("pysindy, Burgers", by_pysindy, gridded, BURGERS))
    except ImportError:
        harness.say("pysindy is not installed, so its line is missing: pip install pysindy")
    lines, figure = [], []
    for name, method, data, truth in methods:
        line, medians = row(name, method, data, truth, seeds, levels)
        lines.append(line)
        figure.append((name, medians))
    head = " | ".join(f"{100 * level:g} % noise" for level in levels)
    harness.say("\n".join(["", f"| method | {head} | CPU s |", "|---" * (len(levels) + 2) + "|", *lines]))
    draw(figure, levels, given.output)


def draw(figure: list[tuple[str, list[float]]], levels: tuple[float, ...], folder: Path) -> None:
    """The median of e against the noise."""

    def figure_of(plt: Any) -> Any:
        drawn, axes = plt.subplots(figsize=(5.5, 3.5), layout="constrained")
        for name, medians in figure:
            axes.loglog(levels, medians, "o-", label=name)
        axes.set(xlabel="noise, share of the spread", ylabel="error e of the equation")
        axes.legend(fontsize="small")
        return drawn

    with parallel.together(harness.COMM):
        if harness.COMM.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
    style.draw(harness.COMM, folder / "discovery.png", figure_of)


if __name__ == "__main__":
    main()
