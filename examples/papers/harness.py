"""Methods compared at equal cost: the same data and initial weights, a budget of CPU seconds or epochs, several seeds.

Data are drawn and test losses computed off the clock. The clock is rank 0's: all ranks stop at the same step.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import argparse  # noqa: E402
import contextlib  # noqa: E402
import ctypes  # noqa: E402
import gc  # noqa: E402
import math  # noqa: E402
import resource  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator, Mapping, Sequence  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from types import MappingProxyType  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from mpi4py import MPI  # noqa: E402
from outcomes import Run, curves, table  # noqa: E402
from relax.base import parallel  # noqa: E402
from relax.errors import RelaxError  # noqa: E402
from relax.jobs.view import style  # noqa: E402

torch.set_num_threads(1)

COMM = MPI.COMM_WORLD
#: How many test losses a run computes, at times that grow by a constant factor.
LOOKS = 25
#: The seed that learning rates are tuned with; none of the seeds that are reported.
TUNING_SEED = 1000


@dataclass(frozen=True)
class Training:
    """One method under way.

    Attributes:
        step: one update from a batch. Collective.
        batches: endless; the next one is drawn off the clock.
        test_loss: the loss on data that no step sees, the same on every rank. Collective.
        close: frees what the method holds. Collective.
        falling: an optimiser whose learning rate falls to zero over the budget, like a cosine from 0 to pi; None for
            a learning rate that stays.
    """

    step: Callable[[Any], object]
    batches: Iterator[Any]
    test_loss: Callable[[], float]
    close: Callable[[], None] = lambda: None
    falling: torch.optim.Optimizer | None = None


@dataclass(frozen=True)
class Method:
    """What is compared.

    Attributes:
        name: for the table.
        begin: of a seed, which decides data and initial weights, and a learning rate. Collective.
        rate: the learning rate.
        rates: where to look for a better one; none when it is not tuned.
    """

    name: str
    begin: Callable[[int, float], Training]
    rate: float
    rates: tuple[float, ...] = ()


@dataclass(frozen=True)
class Settings:
    """The command line.

    Attributes:
        budget: CPU seconds for each method and seed.
        seeds: how many.
        tuning: CPU seconds for each learning rate that is tried; 0 for the rates in the script.
        quick: a test that everything runs, not an experiment.
        output: the folder for the figure.
        chosen: the script's own flags that were given, without dashes.
        epochs: how often each method goes through the data; None where CPU seconds alone end a run.
    """

    budget: float
    seeds: int
    tuning: float
    quick: bool
    output: Path
    chosen: frozenset[str] = frozenset()
    epochs: int | None = None


def settings(
    description: str,
    *,
    budget: float = math.inf,
    seeds: int = 3,
    epochs: int | None = None,
    flags: Mapping[str, str] = MappingProxyType({}),
) -> Settings:
    """Read the command line, with these defaults; ``flags`` are the script's own, without dashes, and what they do."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=budget, help=f"CPU seconds per method and seed ({budget:g})")
    parser.add_argument("--seeds", type=int, default=seeds, help=f"data and initial weights to try ({seeds})")
    parser.add_argument("--tune", type=float, default=0.0, metavar="SECONDS", help="try learning rates, so long each")
    if epochs is not None:
        parser.add_argument("--epochs", type=int, default=epochs, help=f"times through the data ({epochs})")
    parser.add_argument("--quick", action="store_true", help="a second each and one seed: whether it runs")
    parser.add_argument("--output", type=Path, default=Path("results"), help="folder for the figure (results)")
    for flag, what in flags.items():
        parser.add_argument(f"--{flag}", action="store_true", help=what)
    given = parser.parse_args()
    chosen = frozenset(flag for flag in flags if getattr(given, flag))
    budget, seeds, tuning = (min(given.budget, 1.0), 1, 0.0) if given.quick else (given.budget, given.seeds, given.tune)
    return Settings(budget, seeds, tuning, given.quick, given.output, chosen, getattr(given, "epochs", None))


def say(text: str) -> None:
    """Print on rank 0. Local."""
    parallel.rank_0_prints(COMM, text)


def train(
    method: Method, *, seed: int, rate: float, budget: float, num_looks: int = LOOKS, steps: int | None = None
) -> Run:
    """Run a method for ``budget`` CPU seconds, to the last step that is likely to end in time, and at least one.

    Collective. A run whose loss is not finite, or in which a solve fails, is over.

    Args:
        method: what to run.
        seed: for data and initial weights.
        rate: the learning rate.
        budget: CPU seconds.
        num_looks: how many test losses, the one at the start apart.
        steps: where given, no more than these; test losses then come after equal numbers of steps.
    """
    run = Run(method.name, seed)
    training = method.begin(seed, rate)
    gc.collect()
    before = forget_peak()
    marks = np.geomspace(budget / 300, budget, num_looks) if steps is None else np.linspace(0, steps, num_looks + 1)[1:]
    looks = iter([*marks[:-1], math.inf])
    run.look(0.0, _finite(training.test_loss()))
    spent, last, look = 0.0, 0.0, next(looks)
    while not run.steps or (spent + last < budget and run.steps != steps):
        batch = next(training.batches)
        for group in training.falling.param_groups if training.falling else ():
            group["lr"] = 0.5 * rate * (1.0 + math.cos(math.pi * spent / budget))
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            training.step(batch)
        except (RelaxError, torch.linalg.LinAlgError):
            run.look(spent, math.inf)
            break
        last = parallel.of_rank_0(COMM, time.process_time() - cpu)
        run.wall += time.perf_counter() - wall
        spent += last
        run.steps += 1
        reached = spent + last if steps is None else run.steps
        if reached >= look or spent + last >= budget or run.steps == steps:
            run.look(spent, _finite(training.test_loss()))
            while reached >= look:
                look = next(looks)
            if math.isinf(run.losses[-1]):
                break
    run.memory = peak_memory() - before
    training.close()
    return run


def tuned(methods: Sequence[Method], seconds: float) -> list[Method]:
    """The methods with the learning rate of the lowest test loss after ``seconds``, on a seed of its own. Collective.

    Without ``seconds`` they keep the one they have.
    """
    if not seconds:
        return list(methods)
    found = []
    for method in methods:
        rates = method.rates
        if not rates:
            found.append(method)
            continue
        runs = [train(method, seed=TUNING_SEED, rate=r, budget=seconds) for r in rates]
        losses = [run.losses[-1] for run in runs]
        best = rates[losses.index(min(losses))]
        tried = ", ".join(f"{r:g}: {loss:.2e}" for r, loss in zip(rates, losses, strict=True))
        say(f"{method.name}: learning rate {best:g} (test loss after {seconds:g} s: {tried})")
        found.append(Method(method.name, method.begin, best, method.rates))
    return found


def compare(title: str, methods: Sequence[Method], given: Settings, *, times: Sequence[float]) -> list[Run]:
    """Run every method with every seed, print the table, draw the figure. Collective.

    Args:
        title: for the table and the figure; the figure's file is named after it.
        methods: what to compare; tuned first where the command line says so.
        given: the command line.
        times: CPU seconds at which the table shows test losses; those within the budget are.
    """
    runs = []
    for method in tuned(methods, given.tuning):
        for seed in range(given.seeds):
            looks = 4 if given.quick else LOOKS
            runs.append(train(method, seed=seed, rate=method.rate, budget=given.budget, num_looks=looks))
            say(f"  {method.name}, seed {seed}: {runs[-1].losses[-1]:.2e} after {runs[-1].times[-1]:.1f} CPU s")
    say(table(title, runs, [t for t in times if t < given.budget] + [given.budget]))
    drawn = style.is_there(COMM)
    with parallel.together(COMM):
        if drawn and COMM.rank == 0:
            given.output.mkdir(parents=True, exist_ok=True)
            curves(given.output / f"{title.lower().replace(' ', '_')}.png", title, runs)
    return runs


def share(samples: int) -> slice:
    """This rank's part of a batch whose samples are shared among all ranks. Local."""
    bounds = np.linspace(0, samples, COMM.size + 1).round().astype(int)
    return slice(int(bounds[COMM.rank]), int(bounds[COMM.rank + 1]))


def sum_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Replace each rank's gradients, of its samples' part of a sum, by those of the sum. Collective."""
    if COMM.size == 1:
        return
    whole = torch.cat([p.grad.reshape(-1) for p in parameters if p.grad is not None]).numpy()
    whole = parallel.sum_over_ranks(COMM, whole)
    parts = torch.from_numpy(whole).split([p.numel() for p in parameters])
    for p, part in zip(parameters, parts, strict=True):
        p.grad = part.reshape(p.shape).clone()


def in_order(samples: int, size: int) -> Iterator[slice]:
    """Batches one after the other, without end, in the order of the data: the papers do not shuffle."""
    while True:
        yield from (slice(i, i + size) for i in range(0, samples - size + 1, size))


def glorot(widths: Sequence[int], activation: Callable[[], torch.nn.Module], seed: int) -> torch.nn.Sequential:
    """A dense network in float64: Glorot's uniform weights, no bias at first, linear output; the same on each rank."""
    random = torch.Generator().manual_seed(seed)
    layers: list[torch.nn.Module] = []
    for n_in, n_out in zip(widths[:-1], widths[1:], strict=True):
        linear = torch.nn.Linear(n_in, n_out, dtype=torch.float64)
        torch.nn.init.xavier_uniform_(linear.weight, generator=random)
        torch.nn.init.zeros_(linear.bias)
        layers += [linear, activation()]
    return torch.nn.Sequential(*layers[:-1])


def peak_memory() -> float:
    """The peak of resident memory, MB: since it was last forgotten where Linux can, of the whole process elsewhere."""
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def forget_peak() -> float:
    """Begin a new peak; MB now. Local."""
    # Where these are not to be had, it is the peak of the whole process.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    return peak_memory()


def _finite(loss: float) -> float:
    """Rank 0's loss; infinite where it is not a number. Collective."""
    loss = parallel.of_rank_0(COMM, float(loss))
    return loss if math.isfinite(loss) else math.inf


def _status(name: str) -> float:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name + ":")), 0.0)
