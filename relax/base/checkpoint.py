"""``relax.Checkpoint``: what a long activity goes on from when its process has ended before it."""

from __future__ import annotations

import os
import random
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np
from mpi4py import MPI

from relax.base import checkpoint_files, ending, parallel, sigusr1
from relax.base.checks import as_number, at_least, nearest, of_kind
from relax.base.log import logger
from relax.errors import BadInput

_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


class Checkpoint:
    """The state of a long activity on disk, so that the next process goes on where this one ended.

    Collective, as are all methods: the ranks of ``comm`` call them together. ::

        checkpoint = relax.Checkpoint("run/checkpoints", every="10min", net=net, optimiser=optimiser)
        for step in range(checkpoint.restore(), num_steps):
            ...
            checkpoint.save(step + 1)

    Kept are the objects' states and the random states of torch (CPU and CUDA), NumPy and Python, on each rank. Of what
    is the same on all ranks there is one copy, rank 0's, and any number of ranks can go on from it; what differs
    between ranks is kept for each, and can be gone on from by as many. Fields are read on any number of ranks, on the
    same mesh. A file never holds code: reading one runs nothing.

    SIGUSR1, which batch systems send before the time of a job is over, ends the program: once a rank has heard it the
    next ``save`` writes a checkpoint, due or not, and every rank leaves with status 75 by SystemExit, so that the same
    command goes on when it is started again. It is heard from when a checkpoint has been made in the main thread for as
    long as one is there, and only where it would have killed the process: a handler of your own stays. In another
    thread than the main one SystemExit would not end the program, and ``save`` ends the job by ``MPI_Abort``.

    Args:
        path: a folder for these checkpoints alone; it is made when the first is written.
        every: how much time is between two: "30s", "10min", "2h", "1d", or a number of seconds; 0 for each ``save``.
        comm: the ranks.
        objects: by names that stay the same: anything with ``state_dict`` and ``load_state_dict`` (a module, an
            optimiser, a scheduler), random generators of NumPy and torch, and a ``fem.Function`` or ``fem.Constant``.

    Raises:
        BadInput: on every rank, for an ``every`` that is no time, or an object that has no state.
    """

    #: Of torch, NumPy and Python.
    keeps_random_states: ClassVar[bool] = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        every: str | float = "10min",
        *,
        comm: MPI.Comm = MPI.COMM_WORLD,
        **objects: Any,
    ) -> None:
        of_kind(path, (str, os.PathLike), "the path of a folder", "path")
        parallel.check_comm(comm)
        self.path = Path(path)
        self._comm = comm
        self._every = seconds(every, "every")
        self._objects: dict[str, _Object] = {}
        self.add(**objects)
        self._last = time.monotonic()
        self._ear = sigusr1.Ear()

    def add(self, **objects: Any) -> None:
        """Keep more objects. Collective.

        Raises:
            BadInput: for an object that has no state, or a name that is taken.
        """
        with parallel.together(self._comm):
            for name, value in objects.items():
                if name in self._objects:
                    raise BadInput(f"{name}: is the name of another object of this checkpoint; choose another")
                self._objects[name] = _object(value, name)

    def save(self, step: int, *, now: bool = False) -> bool:
        """Write a checkpoint when one is due; leave the program when SIGUSR1 has come.

        Collective.

        Args:
            step: what ``restore`` is to return.
            now: write it although none is due.

        Returns:
            Whether one was written, the same on every rank.

        Raises:
            BadInput: on every rank, for a state that cannot be kept, with its place.
            SolveFailed: on every rank, when the disk does not take it; the one before is whole.
            SystemExit: on every rank, with status 75, when a rank has heard SIGUSR1 and the checkpoint is on disk. With
                ``now``, too, since nobody knows how long what comes after it takes: started again, that alone is left.
        """
        why = next(filter(None, parallel.on_each_rank(self._comm, self._why_to_end(now))), "")
        is_due = now or bool(why) or time.monotonic() - self._last >= self._every
        # Rank 0's clock and step are everyone's.
        is_due, step = parallel.of_rank_0(self._comm, (is_due, step))
        if not is_due:
            return False
        at_least(step, 0, "step")
        states = {}
        for name, value in self._objects.items():
            # One after the other: a state may be a collective one, and where another fails on one rank none is begun.
            with parallel.together(self._comm):
                states[name] = value.state()
        chances = _random_states() if self.keeps_random_states else None
        checkpoint_files.write(self.path, self._comm, step, states, chances)
        self._last = time.monotonic()
        if why:
            sigusr1.answered()
            self._end(why, step)
        return True

    def _why_to_end(self, now: bool) -> str:
        """In a word; empty where the program goes on. Local."""
        return "SIGUSR1" if self._ear.has_heard() else ""

    def _end(self, why: str, step: int) -> NoReturn:
        """Collective."""
        ending.stop(
            f"{why}: the program ends after step {step}, which is kept in {self.path}; started again it goes on",
            self._comm,
        )

    def restore(self) -> int:
        """Give the objects and the random generators the states of the last good checkpoint.

        Collective.

        Returns:
            Its step; 0 where there is no checkpoint.

        Raises:
            BadInput: on every rank, when the path is no folder, all checkpoints there are damaged, or they hold other
                objects than these.
        """
        kept = checkpoint_files.newest(self.path, self._comm)
        if kept is None:
            return 0
        for mine, theirs, which in (
            (self._objects, kept.states, "is not kept there"),
            (kept.states, self._objects, "is kept there, and no object of that name was given"),
        ):
            if missing := sorted(mine.keys() - theirs.keys()):
                raise BadInput(f"{kept.folder}: the state of {missing[0]!r} {which}{nearest(missing[0], list(theirs))}")
        for name, value in self._objects.items():
            with parallel.together(self._comm):
                _load(value, kept.states[name], f"{kept.folder}: the state of {name}")
        if kept.chances is not None:
            _set_random_states(kept.chances)
        elif self.keeps_random_states:
            logger.warning("%s: another number of ranks has written it: random states stay as they are", kept.folder)
        self._last = time.monotonic()
        return kept.step


def seconds(given: Any, what: str) -> float:
    """A time as a number of seconds, from "90s", "10min", "2h", "1d" or a number of at least 0. Local.

    Raises:
        BadInput: for anything else.
    """
    number = as_number(given)
    if isinstance(given, str) and (match := re.fullmatch(r"\s*(\d+\.?\d*)\s*(s|min|h|d)\s*", given)):
        number = float(match[1]) * _UNITS[match[2]]
    if not 0.0 <= number < np.inf:
        raise BadInput(f'{what}: expected a time, as "30s", "10min", "2h", "1d" or a number of seconds, got {given!r}')
    return number


@dataclass(frozen=True)
class _Object:
    """How the state of an object is got and set."""

    state: Callable[[], Any]
    load: Callable[[Any], Any]


def _load(value: _Object, state: Any, what: str) -> None:
    try:
        value.load(state)
    except BadInput:
        raise
    except (LookupError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise BadInput(f"{what} is not one for the present object: {error}") from error


def _object(value: Any, name: str) -> _Object:
    if isinstance(value, type):
        raise BadInput(f"{name}: expected an object with state_dict, got the class {value.__name__}; make one")
    if hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
        return _Object(value.state_dict, value.load_state_dict)
    if isinstance(value, np.random.Generator):
        return _Object(lambda: value.bit_generator.state, partial(setattr, value.bit_generator, "state"))
    if hasattr(value, "get_state") and hasattr(value, "set_state"):
        return _Object(value.get_state, value.set_state)
    if hasattr(value, "function_space") and hasattr(value, "x"):
        return _Object(lambda: value, lambda stored: stored.into(value))
    if hasattr(value, "ufl_shape") and hasattr(value, "value"):
        return _Object(lambda: np.array(value.value), lambda array: value.value.__setitem__(..., array))
    raise BadInput(
        f"{name}: expected an object with state_dict and load_state_dict, a random generator, a Function or a "
        f"Constant, got {type(value).__name__}"
    )


def _random_states() -> dict[str, Any]:
    states: dict[str, Any] = {"python": random.getstate(), "numpy": np.random.get_state()}
    torch = sys.modules.get("torch")
    if torch is not None:
        states["torch"] = torch.get_rng_state().numpy()
        if torch.cuda.is_initialized():
            states["cuda"] = [state.numpy() for state in torch.cuda.get_rng_state_all()]
    return states


def _set_random_states(states: dict[str, Any]) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch = sys.modules.get("torch")
    if torch is not None and "torch" in states:
        torch.set_rng_state(torch.from_numpy(states["torch"]))
        if "cuda" in states and len(states["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([torch.from_numpy(state) for state in states["cuda"]])
