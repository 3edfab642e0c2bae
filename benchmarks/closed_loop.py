"""What a gradient of ``ClosedLoop`` costs: beside the loop unrolled by torch alone, and both flows beside one.

Run: ``environment/enter python3 benchmarks/closed_loop.py``. The cart with its poles, the batch, the network and the
100 steps are those of Schnell and Thuerey (ICLR 2024), whose code takes twice the time of "full" for "combined".
"""

from __future__ import annotations

from timing import seconds, table  # isort: skip  (sets the number of threads)

from collections.abc import Callable

import torch
from relax import Evolution, meshes, pdes
from relax.train import ClosedLoop, one_step
from torch import Tensor

BATCH, STEPS = 8, 100
REPEATS = 15


def cart(poles: int, dt: float = 0.01) -> Callable[[Tensor, Tensor], Tensor]:
    """(x, v, θ_1, ..., w_1, ...) of a cart with poles after a step, velocities first."""
    g, m, M, length = 9.8, 0.1, 1.1, 0.5

    def step(s: Tensor, c: Tensor) -> Tensor:
        x, v, angle, w = s[..., :1], s[..., 1:2], s[..., 2 : 2 + poles], s[..., 2 + poles :]
        sine, cosine, pulls = angle.sin(), angle.cos(), w**2
        push = (c + m * length * pulls * sine) / M
        turn = (g * sine - cosine * push) / (length * (4 / 3 - m * cosine**2 / M))
        v = v + dt * (c + m * length * (pulls * sine - turn * cosine).sum(-1, keepdim=True)) / M
        w = w + dt * turn
        return torch.cat([x + dt * v, v, angle + dt * w, w], -1)

    return step


def network(n: int, k: int, width: int, dtype: torch.dtype) -> torch.nn.Module:
    """Two hidden layers."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(n, width), torch.nn.Tanh(), torch.nn.Linear(width, width), torch.nn.Tanh()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(width, k)).to(dtype)


def poles(number: int) -> list[tuple[str, float, float, float | None]]:
    """Flows of the cart beside autograd through all steps."""
    step, n = cart(number), 2 * (number + 1)
    net, s0 = network(n, 1, 100, torch.float32), torch.randn(BATCH, n)

    def loss(s: Tensor) -> Tensor:
        return 1.0 - s[..., 2 : 2 + number].cos().mean()

    def unrolled() -> None:
        net.zero_grad()
        s = s0
        for _ in range(STEPS):
            s = step(s, net(s))
        loss(s).backward()

    loop = ClosedLoop(step, net, steps=STEPS, losses={STEPS: loss})
    runs = {flow: lambda flow=flow: loop.backward(s0, flow) for flow in ("full", "physics", "combined")}
    alone, *flows = seconds(unrolled, *runs.values(), repeats=REPEATS)
    rows: list[tuple[str, float, float, float | None]] = [(f"{number} poles: autograd, unrolled", alone, 1.0, None)]
    for flow, taken in zip(runs, flows, strict=True):
        rows.append((f"{number} poles: {flow}", taken, taken / alone, 1.5 if flow == "combined" else None))
    return rows


def solves(name: str, evolution: Evolution, steps: int = 10) -> tuple[str, float, float, float | None]:
    """Both flows beside "full" alone, through solves."""
    step = one_step(evolution, control=evolution.per_step[0])
    net = network(step.size_state, step.size_control, 32, torch.float64)
    loop = ClosedLoop(step, net, steps=steps, losses={steps: lambda s: (s**2).mean()})
    s0 = torch.randn(4, step.size_state, dtype=torch.float64)
    full, both = seconds(lambda: loop.backward(s0, "full"), lambda: loop.backward(s0, "combined"), repeats=REPEATS)
    return f"{name}, {step.size_state} unknowns: combined / full", both, both / full, 1.3


def main() -> None:
    """Print the tables."""
    table("A cart, 100 steps, batch 8, beside autograd", [*poles(1), *poles(2), *poles(4)], repeats=REPEATS)
    burgers = pdes.burgers.evolution(
        meshes.interval(64), initial=0.0, viscosity=0.05, dt=0.02, num_steps=2, controls="force_per_step", supg=False
    )
    dipole = pdes.schrodinger.dipole(meshes.interval(64), dt=0.05, num_steps=2)
    table("A solve a step, 10 steps, batch 4", [solves("Burgers", burgers), solves("dipole", dipole)], repeats=REPEATS)


if __name__ == "__main__":
    main()
