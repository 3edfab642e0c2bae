"""Controllers trained by the flows of a closed loop against the exact feedback law, from a Hamilton-Jacobi equation.

Run: python3 examples/papers/hamilton_jacobi_feedback/hamilton_jacobi_feedback.py, or mpirun -n 2 python3 ...; see
README.md. Out of one well into the other with noise, under a control α, over a time of 1, dimensionless,

    dx = -(f'(x) + α) ds + β^(-1/2) dW,   cost  E V(x(1)) + ½ E ∫ α² ds,   f = (x² - 1)²/4,   V = 2 (x - 1)²,   β = 3.

With s the time to go the least cost u solves u_s = -½ u'² - f' u' + u''/(2β), u(., 0) = V, and α = u' is optimal:
``relax.relaxation.control.OptimalControl``. Networks see x and s and are trained on sampled paths.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import harness  # noqa: E402, I001  (first: it sets the number of threads)

import math  # noqa: E402
import statistics  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402

import closed_loops  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from mpi4py import MPI  # noqa: E402

import relax  # noqa: E402
from relax.relaxation.control import OptimalControl  # noqa: E402

Tensor = torch.Tensor

BETA, STEPS = 3.0, 40
DS = 1.0 / STEPS
CELLS, ENDS = 400, (-4.0, 4.0)
#: Paths that controllers are compared on, all from the same noise.
PATHS = 20_000


def descent(x: Tensor) -> Tensor:
    """f'."""
    return x * (x**2 - 1.0)


def step(s: Tensor, c: Tensor) -> Tensor:
    """Heun's step with the control held: s is x, the time to go, and the noise of the steps to come."""
    x, to_go, noise = s[..., :1], s[..., 1:2], s[..., 2:]
    moved = noise[..., :1] * math.sqrt(DS / BETA) - DS * c
    slope = descent(x)
    x = x + moved - 0.5 * DS * (slope + descent(x + moved - DS * slope))
    return torch.cat([x, to_go - DS, noise.roll(-1, -1)], -1)


def starts(samples: int, random: torch.Generator) -> Tensor:
    """x is uniform on (-2, 2)."""
    x = 4.0 * torch.rand(samples, 1, generator=random, dtype=torch.float64) - 2.0
    noise = torch.randn(samples, STEPS, generator=random, dtype=torch.float64)
    return torch.cat([x, torch.ones_like(x), noise], 1)


def spent(s: Tensor, c: Tensor) -> Tensor:
    """The cost of a step."""
    return 0.5 * DS * c[..., 0] ** 2


def at_the_end(s: Tensor, c: Tensor) -> Tensor:
    """The same, and V."""
    return spent(s, c) + 2.0 * (s[..., 0] - 1.0) ** 2


def networks(seeds: Sequence[int]) -> closed_loops.Controllers:
    """Of x and the time to go."""
    return closed_loops.Controllers((2, 50, 50, 1), seeds, sees=lambda s: s[..., :2])


def exact_law() -> tuple[Callable[[Tensor], Tensor], OptimalControl]:
    """α at states, and what it comes from. On each rank by itself."""
    mesh = relax.meshes.interval(CELLS, ENDS, comm=MPI.COMM_SELF)
    optimum = OptimalControl(
        mesh, lambda x: 0.25 * (x[0] ** 2 - 1.0) ** 2, beta=BETA, t=1.0, num_steps=2 * STEPS,
        V=lambda x: 2.0 * (x[0] - 1.0) ** 2,
    )  # fmt: skip

    def law(s: Tensor) -> Tensor:
        x = s[..., 0].reshape(-1, 1).numpy()
        return torch.from_numpy(optimum(x, float(s.reshape(-1, s.shape[-1])[0, 1]))).reshape(*s.shape[:-1], 1)

    return law, optimum


def gaps(one: closed_loops.Experiment, outcome: dict[str, closed_loops.Trained], paths: int) -> list[str]:
    """By how much a controller costs more than the exact law, on the same paths: median over seeds and extremes."""
    law, optimum = exact_law()
    s = starts(paths, torch.Generator().manual_seed(harness.TUNING_SEED))[:, None]
    best, value = one.run(law, s)[0], optimum.value(s[:, 0, :1].numpy(), 1.0)
    away = torch.zeros(1, dtype=torch.float64)
    lines = [
        f"Mean of the value function over the starts: {value.mean():.4f}; the exact law costs {float(best.mean()):.4f} "
        f"± {float(best.std()) / paths**0.5:.4f} ({paths} paths, {STEPS} steps)",
    ]
    laws: dict[str, Callable[[Tensor], Tensor]] = {"none, α = 0": lambda s: s[..., :1] * away}
    laws |= {flow: found.net for flow, found in outcome.items()}
    for name, net in laws.items():
        seeds = 1 if name not in outcome else len(outcome[name].runs)
        above = one.run(net, s.expand(-1, seeds, -1))[0] - best
        means = above.mean(0).tolist()
        spread = f" ({min(means):.4f} to {max(means):.4f})" if seeds > 1 else ""
        error = float(above.std(0).max()) / paths**0.5
        lines.append(
            f"{name}: costs {statistics.median(means):.4f}{spread} more than the exact law, ± {error:.4f}; "
            f"root mean square of α - u': {distance(net, law, seeds):.3f}"
        )
    return lines


def distance(net: Callable[[Tensor], Tensor], law: Callable[[Tensor], Tensor], seeds: int) -> float:
    """The root mean square of α - u' over -2 < x < 2 and all times to go, of all seeds."""
    x, found = torch.linspace(-2.0, 2.0, 81, dtype=torch.float64)[:, None, None], []
    with torch.no_grad():
        for to_go in np.arange(STEPS, 0, -1) * DS:
            s = torch.cat([x, torch.full_like(x, float(to_go))], -1)
            found.append(((net(s.expand(-1, seeds, -1)) - law(s)) ** 2).mean())
    return float(torch.stack(found).mean().sqrt())


def main() -> None:
    """Train by all flows, then compare with the exact law."""
    given = harness.settings(__doc__ or "", epochs=20)
    losses = dict.fromkeys(range(1, STEPS), spent) | {STEPS: at_the_end}
    one = closed_loops.Experiment(
        "Feedback law", step, STEPS, losses, starts, networks, flows=closed_loops.FLOWS, rate=1e-2
    )
    (outcome,) = closed_loops.compare("Hamilton Jacobi feedback", [one], given)
    harness.say("\n".join(gaps(one, outcome, 200 if given.quick else PATHS)))


if __name__ == "__main__":
    relax.init(sys.argv)
    main()
