"""Control with a predictor and a controller: forces that lead two waves of Burgers' equation to a target.

At each step the predictor P says which state should come next, from the state, the target and the time; the
controller C says which force leads there: f = C(u, P(u, u*, t)). C is taught first, through one step of the physics,
on steps of waves under hidden forces; then both through all 32 steps (``relax.train.ClosedLoop``). Beside them: one
network (u, u*, t) -> f, trained as long; no force at all; and the forces that L-BFGS finds for each sample by itself,
of which J is the least.

Run: python3 examples/book/control.py, or mpirun -n 2 python3 examples/book/control.py
"""

from __future__ import annotations

from chapter import COMM, Chapter, opened, say, table  # first: it sets the number of threads

import statistics
import time
from typing import Any

import clash
import numpy as np
import torch
from clash import STEPS
from relax.base import parallel
from relax.jobs.view import style
from relax.train import ClosedLoop, OneStep
from torch import Tensor

NODES, BATCH, WIDTH = clash.CELLS + 1, 8, 64


def dense(n_in: int) -> torch.nn.Sequential:
    layers = [torch.nn.Linear(n_in, WIDTH), torch.nn.Tanh(), torch.nn.Linear(WIDTH, WIDTH), torch.nn.Tanh()]
    last = torch.nn.Linear(WIDTH, NODES)
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.zeros_(last.bias)
    return torch.nn.Sequential(*layers, last)


class TwoNetworks(torch.nn.Module):
    """(batch, 67) -> (batch, 33): the force from state, target and time, by way of the state that should come next."""

    def __init__(self) -> None:
        super().__init__()
        self.predictor, self.controller = dense(2 * NODES + 1), dense(2 * NODES)

    def force(self, u: Tensor, rate: Tensor) -> Tensor:
        """That under which u changes by ``rate`` times dt in the next step."""
        return self.controller(torch.cat([u, rate], dim=-1))

    def forward(self, s: Tensor) -> Tensor:
        return self.force(s[..., :NODES], self.predictor(s))

    def taught_one_step(self, step: OneStep, runs: Tensor, budget: float, seed: int) -> None:
        """Teach the controller which force leads from a state of a run to the next one, through the physics."""
        adam = torch.optim.Adam(self.controller.parameters(), lr=2e-3)
        random, start = np.random.default_rng(seed), time.process_time()
        while parallel.of_rank_0(COMM, time.process_time() - start) < budget:
            sample, t = random.integers(len(runs), size=32), random.integers(STEPS, size=32)
            before, after = runs[sample, t], runs[sample, t + 1]
            adam.zero_grad()
            reached = step(before, self.force(before, (after - before) / clash.DT))
            clash.mean_square((reached - after) / clash.DT).mean().backward()
            adam.step()


class Loop:
    """A law (u, u*, t) -> f in a loop with the physics; its state is u, u* and t one after the other."""

    def __init__(self, step: OneStep, law: torch.nn.Module) -> None:
        self.step, self.law = step, law
        effort = {t: lambda s, c: clash.mean_square(c).mean() / STEPS for t in range(1, STEPS)}
        self._loop = ClosedLoop(self._stepped, law, steps=STEPS, losses=effort | {STEPS: self._last})

    def _stepped(self, s: Tensor, c: Tensor) -> Tensor:
        return torch.cat([self.step(s[..., :NODES], c), s[..., NODES:-1], s[..., -1:] + 1 / STEPS], dim=-1)

    @staticmethod
    def _last(s: Tensor, c: Tensor) -> Tensor:
        distance = clash.mean_square(s[..., :NODES] - s[..., NODES:-1]).mean()
        return clash.mean_square(c).mean() / STEPS + clash.FINAL * distance

    @staticmethod
    def _start(runs: Tensor) -> Tensor:
        return torch.cat([runs[:, 0], runs[:, -1], torch.zeros(len(runs), 1)], dim=-1)

    def train(self, runs: Tensor, budget: float, rate: float, seed: int) -> int:
        """For so many CPU seconds; how many updates these were."""
        adam = torch.optim.Adam(self.law.parameters())
        random, begun, updates = np.random.default_rng(seed), time.process_time(), 0
        while (spent := parallel.of_rank_0(COMM, time.process_time() - begun)) < budget:
            adam.param_groups[0]["lr"] = rate * (1 - spent / budget)
            adam.zero_grad()
            self._loop.backward(self._start(runs[random.integers(len(runs), size=BATCH)]), flow="full")
            torch.nn.utils.clip_grad_norm_(self.law.parameters(), 10.0)
            adam.step()
            updates += 1
        return updates

    def run(self, runs: Tensor) -> tuple[Tensor, Tensor]:
        """Last states, and the forces of all steps."""
        s, forces = self._start(runs), []
        with torch.no_grad():
            for _ in range(STEPS):
                forces.append(self.law(s))
                s = self._stepped(s, forces[-1])
        return s[..., :NODES], torch.stack(forces, dim=1)


def best_forces(step: OneStep, runs: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """What L-BFGS finds for these samples, from no force, through the physics."""
    forces = torch.zeros(len(runs), STEPS, NODES, requires_grad=True)

    def last() -> Tensor:
        u = runs[:, 0]
        for t in range(STEPS):
            u = step(u, forces[:, t])
        return u

    def closure() -> Tensor:
        descent.zero_grad()
        loss = clash.mean_square(forces).mean(1).sum() + clash.FINAL * clash.mean_square(last() - runs[:, -1]).sum()
        loss.backward()
        return loss

    descent = torch.optim.LBFGS([forces], max_iter=iterations, line_search_fn="strong_wolfe")
    descent.step(closure)
    with torch.no_grad():
        return last(), forces.detach()


def main() -> None:
    chapter = opened(__doc__ or "", seeds=3)
    budget = 0.2 if chapter.quick else 45.0
    step = clash.burgers()
    runs = clash.samples(step, 4 if chapter.quick else 400, 0)
    tests = clash.samples(step, 2 if chapter.quick else 32, 1)
    found: dict[str, list[tuple[float, float, float]]] = {"predictor and controller": [], "one network": []}
    for seed in range(chapter.seeds):
        for name, scores in found.items():
            torch.manual_seed(seed)
            law, left = (TwoNetworks(), budget) if name != "one network" else (dense(2 * NODES + 1), budget)
            if isinstance(law, TwoNetworks):
                law.taught_one_step(step, runs, 0.2 * budget, seed)
                left = 0.8 * budget
            loop = Loop(step, law)
            updates = loop.train(runs, left, 3e-3, seed)
            last, forces = loop.run(tests)
            scores.append(clash.judged(last, tests[:, -1], forces))
            say(f"  {name}, seed {seed}: J {scores[-1][2]:.3f} after {updates} updates")
    still = torch.zeros(len(tests), STEPS, NODES)
    u = tests[:, 0]
    with torch.no_grad():
        for t in range(STEPS):
            u = step(u, still[:, t])
    found["no force"] = [clash.judged(u, tests[:, -1], still)]
    last, forces = best_forces(step, tests, 2 if chapter.quick else 60)
    found["each by itself, L-BFGS"] = [clash.judged(last, tests[:, -1], forces)]
    rows = []
    for name, scores in found.items():
        rows.append([name, *(f"{statistics.median(column):.3f}" for column in zip(*scores, strict=True))])
    table(["forces by", "mean |u - u*| over mean |u*|", "mean |f|²", "J"], rows)
    draw(chapter, last, tests)


def draw(chapter: Chapter, last: Tensor, tests: Tensor) -> None:
    def fill(*axes: Any) -> None:
        for i, axis in enumerate(axes):
            axis.plot(tests[i, 0], color="0.8", label="at first")
            axis.plot(tests[i, -1], color=style.BLUE, label="target")
            axis.plot(last[i], color=style.RED, ls="--", label="reached")
            axis.set(xlabel="node")

    chapter.draw(fill, size=(7.2, 3.2), columns=2)


if __name__ == "__main__":
    main()
