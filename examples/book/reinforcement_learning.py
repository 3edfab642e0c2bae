"""Reinforcement learning: the task of control.py as a Gymnasium environment, learnt by proximal policy optimisation.

The environment is one step of an ``Evolution`` and a reward; nothing is differentiated through it. The policy is as
large as the one network of control.py, which is trained beside it through the physics (``relax.train.ClosedLoop``)
for as many CPU seconds. PPO: Schulman et al., arXiv:1707.06347, with clipped ratios and generalised advantages.

Run: python3 examples/book/reinforcement_learning.py. One rank; needs the package gymnasium.
"""

from __future__ import annotations

from chapter import Chapter, opened, say, table  # first: it sets the number of threads

import math
import statistics
import sys
import time
from typing import Any

import clash
import numpy as np
import torch
from clash import FINAL, STEPS
from control import NODES, Loop, dense
from relax.jobs.view import style
from relax.train import OneStep
from torch import Tensor

try:
    import gymnasium
except ModuleNotFoundError:
    sys.exit("reinforcement_learning.py needs the package gymnasium: python3 -m pip install gymnasium")


class ClashEnv(gymnasium.Env):
    """Two waves under forces, as an environment: observations (67,) are u, u* and t, actions (33,) the force.

    Rewards sum to -J over an episode of 32 steps: -|f|²/32 for each step, and -32 |u - u*|² after the last.

    Args:
        step: u and f to u.
        runs: (num, 33, 33): each episode has the first state and the target of one of these.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, step: OneStep, runs: Tensor) -> None:
        self._step, self._runs = step, runs
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2 * NODES + 1,), np.float64)
        self.action_space = gymnasium.spaces.Box(-np.inf, np.inf, (NODES,), np.float64)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        run = self._runs[int(self.np_random.integers(len(self._runs)))]
        self._u, self._target, self._t = run[0], run[-1], 0
        return self._seen(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        force = torch.from_numpy(np.asarray(action, dtype=np.float64))
        with torch.no_grad():
            self._u = self._step(self._u, force)
        self._t += 1
        done = self._t == STEPS
        reward = -clash.mean_square(force).item() / STEPS
        if done:
            reward -= FINAL * clash.mean_square(self._u - self._target).item()
        return self._seen(), reward, done, False, {}

    def _seen(self) -> np.ndarray:
        return torch.cat([self._u, self._target, torch.tensor([self._t / STEPS])]).numpy()


class Policy(torch.nn.Module):
    """A Gaussian policy and the value that is expected of a state."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.value = dense(2 * NODES + 1), dense(2 * NODES + 1)
        self.log_std = torch.nn.Parameter(torch.full((NODES,), math.log(0.5)))

    def forward(self, s: Tensor) -> tuple[torch.distributions.Normal, Tensor]:
        return torch.distributions.Normal(self.mean(s), self.log_std.exp()), self.value(s).mean(-1)


def episodes(policy: Policy, envs: list[ClashEnv]) -> dict[str, Tensor]:
    """One episode of each environment: (steps, num, ...)."""
    seen = torch.from_numpy(np.stack([env.reset()[0] for env in envs]))
    kept: dict[str, list[Tensor]] = {"state": [], "action": [], "log": [], "value": [], "reward": []}
    with torch.no_grad():
        for _ in range(STEPS):
            chances, value = policy(seen)
            action = chances.sample()
            answers = [env.step(a.numpy()) for env, a in zip(envs, action, strict=True)]
            reward = torch.tensor([answer[1] for answer in answers])
            step = (seen, action, chances.log_prob(action).sum(-1), value, reward)
            for name, tensor in zip(kept, step, strict=True):
                kept[name].append(tensor)
            seen = torch.from_numpy(np.stack([answer[0] for answer in answers]))
    return {name: torch.stack(tensors) for name, tensors in kept.items()}


def advantages(reward: Tensor, value: Tensor, keep: float = 0.95) -> Tensor:
    """Generalised advantages, undiscounted, of episodes that end with the last step: (steps, num)."""
    following = torch.cat([value[1:], torch.zeros_like(value[:1])])
    errors, found = reward + following - value, torch.zeros_like(value)
    running = torch.zeros_like(value[0])
    for t in reversed(range(len(reward))):
        found[t] = running = errors[t] + keep * running
    return found


def learn(policy: Policy, envs: list[ClashEnv], budget: float) -> tuple[int, list[float]]:
    """Rounds of episodes and of descent for so many CPU seconds; how many, and the mean J of each."""
    adam = torch.optim.Adam(policy.parameters())
    start, history = time.process_time(), []
    while (spent := time.process_time() - start) < budget:
        adam.param_groups[0]["lr"] = 1e-3 * (1 - spent / budget)
        found = episodes(policy, envs)
        history.append(-found["reward"].sum(0).mean().item())
        gain = advantages(found["reward"], found["value"])
        wanted = (gain + found["value"]).flatten()
        gain = ((gain - gain.mean()) / (gain.std() + 1e-8)).flatten()
        state, action, log = found["state"].flatten(0, 1), found["action"].flatten(0, 1), found["log"].flatten()
        for _ in range(10):
            for part in torch.randperm(len(log)).split(128):
                chances, value = policy(state[part])
                ratio = torch.exp(chances.log_prob(action[part]).sum(-1) - log[part])
                better = torch.minimum(ratio * gain[part], ratio.clamp(0.8, 1.2) * gain[part])
                loss = -better.mean() + 0.05 * ((value - wanted[part]) ** 2).mean()
                adam.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
                adam.step()
    return len(history), history


def main() -> None:
    chapter = opened(__doc__ or "", seeds=3)
    budget = 0.2 if chapter.quick else 45.0
    step = clash.burgers()
    runs = clash.samples(step, 4 if chapter.quick else 400, 0)
    tests = clash.samples(step, 2 if chapter.quick else 32, 1)
    envs = [ClashEnv(step, runs) for _ in range(2 if chapter.quick else 10)]
    found: dict[str, list[tuple[float, float, float]]] = {"PPO": [], "through the physics": []}
    curves = []
    for seed in range(chapter.seeds):
        torch.manual_seed(seed)
        for i, env in enumerate(envs):
            env.reset(seed=100 * seed + i)
        policy = Policy()
        rounds, history = learn(policy, envs, budget)
        curves.append(history)
        through = dense(2 * NODES + 1)
        updates = Loop(step, through).train(runs, budget, 3e-3, seed)
        for name, law in zip(found, (policy.mean, through), strict=True):
            last, forces = Loop(step, law).run(tests)
            found[name].append(clash.judged(last, tests[:, -1], forces))
        say(f"  seed {seed}: {rounds} rounds of {len(envs)} episodes, {updates} updates through the physics")
    rows = [
        [name, *(f"{statistics.median(column):.3f}" for column in zip(*scores, strict=True))]
        for name, scores in found.items()
    ]
    table(["forces by", "mean |u - u*| over mean |u*|", "mean |f|²", "J"], rows)
    draw(chapter, curves)


def draw(chapter: Chapter, curves: list[list[float]]) -> None:
    def fill(axis: Any) -> None:
        for history in curves:
            axis.plot(history, color=style.BLUE, lw=0.8)
        axis.set(xlabel="round of episodes", ylabel="J, with exploring", yscale="log", title="Learning by trial")

    chapter.draw(fill, size=(5.6, 3.4))


if __name__ == "__main__":
    main()
