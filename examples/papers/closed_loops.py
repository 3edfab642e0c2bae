"""Closed loops trained by each flow of ``relax.train.ClosedLoop``: the same data and initial weights, epochs, tests.

256 samples to train with, in fixed order, and as many others to test with; Adam, gradients clipped to norm 1. The
controllers of all seeds are trained at once, each by its own samples: numbers are few and operations many, so that
three cost little more than one. States are (batch, seeds, n).
"""

from __future__ import annotations

import harness  # isort: skip  (first: it sets the number of threads)

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import relax
import torch
from outcomes import Run, draw, table
from relax.base import parallel
from relax.jobs.view import style

Tensor = torch.Tensor

FLOWS = ("full", "physics", "combined", "stop")
SAMPLES, BATCH, RATE = 256, 8, 1e-3


class Controllers(torch.nn.Module):
    """Tanh networks, one for each seed: (batch, seeds, n) -> (batch, seeds, k).

    Args:
        widths: of the layers.
        seeds: of the initial weights, which are Glorot's.
        starts_at_zero: with a last layer of zeros.
        sees: s -> what the first layer is given.
    """

    def __init__(
        self,
        widths: Sequence[int],
        seeds: Sequence[int],
        *,
        starts_at_zero: bool = False,
        sees: Callable[[Tensor], Tensor] = lambda s: s,
    ) -> None:
        super().__init__()
        nets = [harness.glorot(widths, torch.nn.Tanh, seed) for seed in seeds]
        layers = [[net[i] for net in nets] for i in range(0, len(nets[0]), 2)]
        self.weights = torch.nn.ParameterList([torch.stack([one.weight.detach().T for one in of]) for of in layers])
        self.biases = torch.nn.ParameterList([torch.stack([one.bias.detach()[None] for one in of]) for of in layers])
        if starts_at_zero:
            torch.nn.init.zeros_(self.weights[-1])
        self._sees = sees

    def forward(self, s: Tensor) -> Tensor:
        """s -> c."""
        x = self._sees(s).transpose(0, 1)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, torch.tanh(x) if i else x, weight)
        return x.transpose(0, 1)

    def clip(self, most: float) -> None:
        """Cut each seed's gradient to a norm."""
        squares = sum(p.grad.square().sum((1, 2), keepdim=True) for p in self.parameters() if p.grad is not None)
        factor = (most / (torch.as_tensor(squares).sqrt() + 1e-6)).clamp(max=1.0)
        for p in self.parameters():
            if p.grad is not None:
                p.grad *= factor


def of_seed(net: Controllers, seed: int) -> Controllers:
    """The controller of one seed."""
    one = copy.deepcopy(net)
    for p in one.parameters():
        p.data = p.data[seed : seed + 1].clone()
    return one


@dataclass(frozen=True)
class Experiment:
    """What is trained.

    Attributes:
        title: for table and figure.
        step: (s, c) -> s, as of ``ClosedLoop``.
        steps: T.
        losses: {t: (s_t, c_{t-1}) -> the loss of each sample, (batch, seeds)}.
        starts: (samples, random) -> (samples, n).
        networks: of seeds.
        test_samples: how many are tested, of 256.
        flows: those that are compared; "stop" where a control shows in the loss of the next state.
        rate: Adam's.
    """

    title: str
    step: Callable[..., Tensor]
    steps: int
    losses: Mapping[int, Callable[[Tensor, Tensor], Tensor]]
    starts: Callable[[int, torch.Generator], Tensor]
    networks: Callable[[Sequence[int]], Controllers]
    test_samples: int = SAMPLES
    flows: tuple[str, ...] = FLOWS[:3]
    rate: float = RATE

    def data(self, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """To train and to test with, (samples, seeds, n)."""
        drawn = [torch.Generator().manual_seed(seed) for seed in seeds]
        known, tested = [torch.stack([self.starts(SAMPLES, random) for random in drawn], dim=1) for _ in range(2)]
        return known, tested[: self.test_samples]

    def run(self, net: Callable[[Tensor], Tensor], s: Tensor) -> tuple[Tensor, Tensor]:
        """J of each sample and seed, (samples, seeds), and the states at the end, without gradients."""
        total = s.new_zeros(s.shape[:2])
        with torch.no_grad():
            for t in range(1, self.steps + 1):
                c = net(s)
                s = self.step(s, c)
                if t in self.losses:
                    total += self.losses[t](s, c)
        return total, s


@dataclass(frozen=True)
class Trained:
    """What a flow has come to: a run for each seed, with the time of all, and the controllers."""

    runs: list[Run]
    net: Controllers


def train(one: Experiment, flow: str, given: harness.Settings, clip: float | None, epochs: int) -> Trained:
    """Adam on a flow. Samples of a batch are shared among ranks. Collective."""
    seeds, teams = range(given.seeds), relax.Teams(harness.COMM, 1) if harness.COMM.size > 1 else None
    net = one.networks(seeds)
    looked: list[list[float]] = []

    def begin(seed: int, rate: float) -> harness.Training:
        known, tested = one.data(seeds)
        mine, test = harness.share(BATCH), harness.share(len(tested))
        losses = {t: lambda s, c, f=f: f(s, c).sum() / BATCH for t, f in one.losses.items()}
        loop = relax.train.ClosedLoop(one.step, net, steps=one.steps, losses=losses, teams=teams)
        adam = torch.optim.Adam(net.parameters(), lr=rate, fused=True)

        def step(s0: Tensor) -> None:
            adam.zero_grad()
            loop.backward(s0, flow)
            if clip is not None:
                net.clip(clip)
            adam.step()

        def batches() -> Iterator[Tensor]:
            for rows in harness.in_order(SAMPLES, BATCH):
                yield known[rows][mine]

        def test_loss() -> float:
            sums = one.run(net, tested[test])[0].sum(0).double().numpy()
            looked.append(list(parallel.sum_over_ranks(harness.COMM, sums) / len(tested)))
            return sum(looked[-1])

        return harness.Training(step, batches(), test_loss, lambda: None if teams is None else teams.close())

    run = harness.train(
        harness.Method(flow, begin, one.rate), seed=0, rate=one.rate, budget=given.budget,
        num_looks=1 if given.quick else min(4 * epochs, 50), steps=epochs * SAMPLES // BATCH,
    )  # fmt: skip
    # A loop that ran away has no test loss at its end.
    looked += [[math.inf] * given.seeds] * (len(run.losses) - len(looked))
    return Trained([replace(run, seed=i, losses=[values[i] for values in looked]) for i in seeds], net)


def compare(
    title: str, experiments: Sequence[Experiment], given: harness.Settings, *, clip: float | None = 1.0
) -> list[dict[str, Trained]]:
    """Train each by each flow, print its table, and draw all in one figure. Collective.

    A table has test losses after a fifth, half and all of the epochs, and at equal CPU time: when the quickest flow was
    half through, and at its end.

    Args:
        title: of the figure, whose file is named after it.
        experiments: a panel each.
        given: the command line.
        clip: the norm that gradients are cut to.

    Returns:
        {flow: what it has come to}, for each experiment.
    """
    outcomes: list[dict[str, Trained]] = []
    for one in experiments:
        epochs = given.epochs or 1
        outcomes.append({})
        for flow in one.flows:
            outcomes[-1][flow] = found = train(one, flow, given, clip, epochs)
            ends = ", ".join(f"{run.losses[-1]:.3g}" for run in found.runs)
            harness.say(f"  {one.title}, {flow}: {ends} after {found.runs[0].times[-1]:.1f} CPU s for all seeds")
        runs = [run for found in outcomes[-1].values() for run in found.runs]
        quickest = min(run.times[-1] for run in runs)
        named = sorted({max(epochs // 5, 1), max(epochs // 2, 1), epochs})
        columns = [(f"{n} epochs", n * SAMPLES // BATCH) for n in named]
        harness.say(table(one.title, runs, [quickest / 2, quickest], columns) + "\n")
    given.output.mkdir(parents=True, exist_ok=True)
    path = given.output / f"{title.lower().replace(' ', '_')}.png"
    style.draw(harness.COMM, path, lambda plt: _figure(plt, experiments, outcomes))
    return outcomes


def _figure(plt: Any, experiments: Sequence[Experiment], outcomes: Sequence[Mapping[str, Trained]]) -> Any:
    """Test losses against CPU seconds, a panel for each experiment."""
    colours = dict(zip(FLOWS, style.LINES, strict=False))
    size = (1.6 + 2.4 * len(experiments), 3.2)
    figure, axes = plt.subplots(1, len(experiments), figsize=size, constrained_layout=True, squeeze=False, sharey=True)
    for axis, one, outcome in zip(axes[0], experiments, outcomes, strict=True):
        draw(axis, [run for found in outcome.values() for run in found.runs], colours)
        axis.set(title=one.title, xlabel="CPU seconds, all seeds")
    axes[0, 0].set(ylabel="test loss")
    axes[0, 0].legend(frameon=False, fontsize=8)
    return figure
