"""Half-inverse gradients: two coupled oscillators are led back to where they began, by 24 forces from a network.

x' = v, v' = -x + 0.2 L x + u(t) e_2 with L the coupling of the two, 24 steps of Runge and Kutta of length ½, and a
network 4-20-20-20-24 that sees the first state; the loss is |x_24 - x_0|² for 4 096 states in the unit cube. As in
the book: Adam with batches of 256, the physical gradient (Adam again, its inner loss towards the Gauss–Newton step),
and half-inverse gradients with batches of 32 and rate 1.

Run: python3 examples/book/half_inverse_gradients.py. One rank; the experiments with a PDE are in examples/papers.
"""

from __future__ import annotations

from chapter import Chapter, opened, table  # first: it sets the number of threads

import statistics
import time
from typing import Any

import relax
import numpy as np
import torch
from relax.jobs.view import style
from torch import Tensor

STEPS, DT, COUPLING, SAMPLES = 24, 0.5, 0.2, 2**12
COUPLED = COUPLING * torch.tensor([[-1.0, 1.0], [1.0, -1.0]])


def rate(s: Tensor, force: Tensor) -> Tensor:
    x, v = s[..., :2], s[..., 2:]
    pull = torch.stack([torch.zeros_like(force), force], dim=-1)
    return torch.cat([v, -x + x @ COUPLED + pull], dim=-1)


def physics(s: Tensor, forces: Tensor) -> Tensor:
    """The last state: (..., 4), (..., 24) -> (..., 4)."""
    for i in range(STEPS):
        force = forces[..., i]
        k1 = rate(s, force)
        k2 = rate(s + 0.5 * DT * k1, force)
        k3 = rate(s + 0.5 * DT * k2, force)
        s = s + DT * (k1 + 2 * k2 + 2 * k3 + rate(s + DT * k3, force)) / 6
    return s


def network(seed: int) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    layers: list[torch.nn.Module] = []
    for n_in, n_out in ((4, 20), (20, 20), (20, 20), (20, STEPS)):
        layers += [torch.nn.Linear(n_in, n_out), torch.nn.Tanh()]
        torch.nn.init.xavier_uniform_(layers[-2].weight)
        torch.nn.init.zeros_(layers[-2].bias)
    return torch.nn.Sequential(*layers[:-1])


def stepper(name: str, net: torch.nn.Module) -> tuple[int, Any]:
    """The batch size of a method, and what one update does with a batch of states."""
    if name == "half-inverse":
        half = relax.HalfInverse(net.parameters(), lr=1.0, rcond=1e-10)
        return 32, lambda s: half.step(lambda: (y := physics(s, net(s)), ((y - s) ** 2).sum(-1).mean()))
    adam = torch.optim.Adam(net.parameters())
    # The physics is linear in the forces: one Jacobian for all states.
    pseudo_inverse = torch.linalg.pinv(physics(torch.zeros(STEPS, 4), torch.eye(STEPS)).T, rtol=1e-5)

    def update(s: Tensor) -> None:
        adam.zero_grad()
        forces = net(s)
        if name == "Adam":
            ((physics(s, forces) - s) ** 2).sum(-1).mean().backward()
        else:
            y = physics(s, forces.detach())
            (relax.physical_gradient(forces, y, s, lambda r: r @ pseudo_inverse.T) / len(s)).backward()
        adam.step()

    return 256, update


def main() -> None:
    chapter = opened(__doc__ or "", seeds=3)
    budget = 0.2 if chapter.quick else 15.0
    looks = np.linspace(0, budget, 31)[1:]
    curves: dict[str, list[list[float]]] = {"Adam": [], "physical gradient": [], "half-inverse": []}
    rows = []
    for name, runs in curves.items():
        epochs = []
        for seed in range(chapter.seeds):
            states = torch.from_numpy(np.random.default_rng(seed).random((SAMPLES, 4)))
            net = network(seed)
            size, update = stepper(name, net)
            losses: list[float] = []
            spent, updates = 0.0, 0
            while spent < budget:
                first = updates * size % SAMPLES
                start = time.process_time()
                update(states[first : first + size])
                spent += time.process_time() - start
                updates += 1
                while len(losses) < len(looks) and spent >= looks[len(losses)]:
                    with torch.no_grad():
                        losses.append(((physics(states, net(states)) - states) ** 2).sum(-1).mean().item())
            runs.append(losses)
            epochs.append(updates * size / SAMPLES)
        at = [statistics.median(run[i] for run in runs) for i in (9, 19, 29)]
        rows.append([name, *(f"{loss:.1e}" for loss in at), f"{statistics.median(epochs):.1f}"])
    table(["method", *(f"loss at {looks[i]:g} CPU s" for i in (9, 19, 29)), "epochs"], rows)
    draw(chapter, looks, curves)
    assert chapter.quick or float(rows[1][3]) < float(rows[0][3])


def draw(chapter: Chapter, looks: np.ndarray, curves: dict[str, list[list[float]]]) -> None:
    def fill(axis: Any) -> None:
        for (name, runs), colour in zip(curves.items(), style.LINES, strict=False):
            axis.plot(looks, np.median(runs, axis=0), color=colour, label=name)
        axis.set(xlabel="CPU seconds in updates", ylabel="|x_24 - x_0|²", yscale="log", title="Two oscillators")

    chapter.draw(fill, size=(5.6, 3.6))


if __name__ == "__main__":
    main()
