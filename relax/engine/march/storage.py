"""A trajectory walked forwards once and backwards, holding all of it or what a checkpointing schedule says.

Records are arrays that are never changed once they are stored: a state, or a state with its tangents.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mpi4py import MPI

from relax.base import parallel
from relax.base.types import Array
from relax.errors import BadInput

Advance = Callable[[int, Array], Array]
Visit = Callable[[int, Array], None]


class Walk(Protocol):
    """A trajectory. Collective, as are all methods.

    Attributes:
        first: record 0.
        most: the most states and tangents that were held at once, in memory and on disk together.
    """

    first: Array
    most: int

    def forward(self, visit: Visit) -> None:
        """Go from the first record to the last; ``visit`` sees each with its number. Once."""

    def records(self) -> Iterator[tuple[int, Array]]:
        """Each record with its number, from the first to the last; made again where it is not held."""

    def held(self, n: int) -> Array | None:
        """Record n where all records are at hand; None where they are made again. Local."""

    def backward(self) -> Iterator[tuple[int, Array, Array]]:
        """(n, record n, record n + 1) for n = N-1, ..., 0; made again where they are not held."""


class Storage:
    """What ``storage=`` asks for.

    Args:
        schedule: a schedule of the package ``checkpoint_schedules``, not used yet; None holds all in memory.
        num_steps: N.
        comm: the ranks; each writes the states that go to disk into a folder of its own, under ``TMPDIR``.

    Raises:
        BadInput: for something else, one that has been started, or one for another number of steps.
    """

    def __init__(self, schedule: Any, num_steps: int, comm: MPI.Comm) -> None:
        self._schedule = schedule
        self._num_steps = num_steps
        self._comm = comm
        if schedule is None:
            return
        if not hasattr(schedule, "finalize") or not hasattr(schedule, "__next__"):
            raise BadInput(
                f"storage: expected a schedule of the package checkpoint_schedules, such as Revolve({num_steps}, 20), "
                f"or None to keep all states in memory; got {schedule!r}"
            )
        if hasattr(schedule, "iter"):
            raise BadInput("storage: this schedule has been used already; pass a new one")
        if schedule.max_n is not None and schedule.max_n != num_steps:
            raise BadInput(f"storage: expected a schedule for {num_steps} steps, got one for {schedule.max_n}")
        from checkpoint_schedules import NoneCheckpointSchedule

        if isinstance(schedule, NoneCheckpointSchedule):
            raise BadInput("storage: this schedule stores nothing for adjoints; leave storage None for values alone")

    @property
    def keeps_all(self) -> bool:
        """Whether every state is kept in memory."""
        return self._schedule is None

    def kept(self, records: list[Array]) -> Walk:
        """A walk that has been gone already, with all its records."""
        return _KeepAll(records)

    def walk(self, first: Array, advance: Advance) -> Walk:
        """A new walk from a record; ``advance(n, record n)`` is record n + 1. Collective."""
        if self._schedule is None:
            return _KeepAll([first], advance, self._num_steps)
        return _Scheduled(first, advance, self._num_steps, self._schedule, self._comm)


class _KeepAll:
    """Every record in memory."""

    def __init__(self, records: list[Array], advance: Advance | None = None, num_steps: int = 0) -> None:
        self.first = records[0]
        self._records = records
        self._advance = advance
        self._num_steps = num_steps
        self.most = max(num_steps + 1, len(records)) * _num_states(self.first)

    def forward(self, visit: Visit) -> None:
        assert self._advance is not None
        visit(0, self.first)
        for n in range(self._num_steps):
            self._records.append(self._advance(n, self._records[n]))
            visit(n + 1, self._records[n + 1])

    def records(self) -> Iterator[tuple[int, Array]]:
        return enumerate(self._records)

    def held(self, n: int) -> Array | None:
        return self._records[n]

    def backward(self) -> Iterator[tuple[int, Array, Array]]:
        for n in reversed(range(len(self._records) - 1)):
            yield n, self._records[n], self._records[n + 1]


@dataclass(frozen=True)
class _Item:
    """What is stored under one number: a record to start again from, records for the adjoint of the steps from it."""

    start: Array | None
    steps: list[Array] | None

    def arrays(self) -> list[Array]:
        return [*([] if self.start is None else [self.start]), *(self.steps or [])]


class _Scheduled:
    """Records as a schedule says; a schedule that has run out is started anew with a forward run."""

    def __init__(self, first: Array, advance: Advance, num_steps: int, schedule: Any, comm: MPI.Comm) -> None:
        self.first = first
        self._advance = advance
        self._num_steps = num_steps
        self._fresh = schedule
        self._comm = comm
        self.most = 0
        # Whether somebody is on the way back: the stores are his until he is done, or gone.
        self._is_walked = False
        self._start()

    def _start(self) -> None:
        self._schedule = _unused(self._fresh)
        self._memory: dict[int, _Item] = {}
        self._disk = _Disk(self._comm)
        # Records that the adjoint of a step is to find: by the number of the step.
        self._work: dict[int, tuple[Array, Array]] = {}
        self._here = (0, self.first)
        self._forward_done = False

    def forward(self, visit: Visit) -> None:
        visit(0, self.first)
        self._run_forward(visit)

    def _run_forward(self, visit: Visit | None = None) -> None:
        from checkpoint_schedules import EndForward

        for action in self._schedule:
            self._act(action, visit)
            if isinstance(action, EndForward):
                break
        self._forward_done = True

    def records(self) -> Iterator[tuple[int, Array]]:
        record = self.first
        yield 0, record
        for n in range(self._num_steps):
            record = self._advance(n, record)
            yield n + 1, record

    def held(self, n: int) -> Array | None:
        return None

    def backward(self) -> Iterator[tuple[int, Array, Array]]:
        if self._is_walked:
            yield from _Scheduled(self.first, self._advance, self._num_steps, self._fresh, self._comm).backward()
            return
        self._is_walked = True
        try:
            yield from self._backward()
        finally:
            self._is_walked = False

    def _backward(self) -> Iterator[tuple[int, Array, Array]]:
        from checkpoint_schedules import EndReverse, Reverse

        action = next(self._schedule, None) if self._forward_done else None
        if action is None:
            self._start()
            self._run_forward()
            action = next(self._schedule)
        # A sweep that is left half-way, by an error, leaves the schedule where nobody can go on from.
        self._forward_done = False
        while not isinstance(action, EndReverse):
            if isinstance(action, Reverse):
                for n in range(action.n1 - 1, action.n0 - 1, -1):
                    before, after = self._work[n]
                    yield n, before, after
                    if action.clear_adj_deps and not self._keeps_work():
                        del self._work[n]
            else:
                self._act(action, None)
            action = next(self._schedule)
        self._forward_done = not self._schedule.is_exhausted
        if not self._forward_done:
            self._memory.clear()
            self._work.clear()
            self._disk.clear()

    def _keeps_work(self) -> bool:
        # What was stored for adjoints on the way forward, in work, is there for every sweep to come.
        from checkpoint_schedules import SingleMemoryStorageSchedule

        return isinstance(self._schedule, SingleMemoryStorageSchedule)

    def _act(self, action: Any, visit: Visit | None) -> None:
        from checkpoint_schedules import Copy, Forward, Move, StorageType

        if isinstance(action, Forward):
            self._forward_by(action, visit)
        elif isinstance(action, Copy | Move):
            store = self._store(action.from_storage)
            item = store.pop(action.n) if isinstance(action, Move) else store[action.n]
            if action.to_storage is StorageType.WORK:
                self._take(action.n, item)
            elif action.to_storage is not StorageType.NONE:
                self._store(action.to_storage)[action.n] = item
        self._count()

    def _store(self, kind: Any) -> Any:
        from checkpoint_schedules import StorageType

        return self._disk if kind is StorageType.DISK else self._memory

    def _take(self, n: int, item: _Item) -> None:
        if item.start is not None:
            self._here = (n, item.start)
        for i, (before, after) in enumerate(itertools.pairwise(item.steps or [])):
            self._work[n + i] = (before, after)

    def _forward_by(self, action: Any, visit: Visit | None) -> None:
        from checkpoint_schedules import StorageType

        first, record = self._here
        last = min(action.n1, self._num_steps)
        steps = [record]
        start = record
        for n in range(first, last):
            after = self._advance(n, record)
            if visit is not None:
                visit(n + 1, after)
            if action.write_adj_deps:
                if action.storage is StorageType.WORK:
                    self._work[n] = (record, after)
                else:
                    steps.append(after)
            record = after
        self._here = (last, record)
        if action.storage in (StorageType.RAM, StorageType.DISK):
            for_adjoint = steps if action.write_adj_deps else None
            self._store(action.storage)[first] = _Item(start if action.write_ics else None, for_adjoint)
        if last == self._num_steps and self._schedule.max_n is None:
            self._schedule.finalize(self._num_steps)

    def _count(self) -> None:
        held = {id(a) for item in self._memory.values() for a in item.arrays()}
        # The two states of the step at hand are not stored: they are worked with.
        work = {id(a) for pair in self._work.values() for a in pair} - held
        records = len(held) + max(0, len(work) - 2) + self._disk.num_arrays
        self.most = max(self.most, records * _num_states(self.first))


def _unused(schedule: Any) -> Any:
    """A copy to be used up. Its own lists are new, what is in them is not: a schedule can be thousands of actions."""
    fresh = copy.copy(schedule)
    for name, value in vars(fresh).items():
        if isinstance(value, list | dict | set):
            setattr(fresh, name, copy.copy(value))
    return fresh


def _num_states(record: Array) -> int:
    """How many arrays of the size of a state a record is."""
    return 1 if record.ndim == 1 else len(record)


class _Disk:
    """Items in files: each rank its own, in a folder that goes when this does. Collective to write and to read."""

    def __init__(self, comm: MPI.Comm) -> None:
        self._comm = comm
        self._kept: tempfile.TemporaryDirectory[str] | None = None
        self._num_arrays: dict[int, int] = {}

    @property
    def num_arrays(self) -> int:
        """How many records are on disk."""
        return sum(self._num_arrays.values())

    def _file(self, n: int) -> Path:
        assert self._kept is not None
        return Path(self._kept.name, f"{n}.pickle")

    def __setitem__(self, n: int, item: _Item) -> None:
        with parallel.together(self._comm):
            try:
                if self._kept is None:
                    # Python passes over a TMPDIR that does not exist: the states would fill another disk.
                    place = os.environ.get("TMPDIR") or None
                    self._kept = tempfile.TemporaryDirectory(
                        prefix="relax-states-", dir=place, ignore_cleanup_errors=True
                    )
                with self._file(n).open("wb") as file:
                    pickle.dump(item, file)
            except OSError as error:
                there = self._kept.name if self._kept else os.environ.get("TMPDIR") or tempfile.gettempdir()
                raise BadInput(
                    f"storage: a state cannot be written to {there} ({error.strerror}); "
                    "set TMPDIR to a folder with room, or store in memory"
                ) from error
        self._num_arrays[n] = len(item.arrays())

    def __getitem__(self, n: int) -> _Item:
        item = _Item(None, None)
        with parallel.together(self._comm):
            try:
                with self._file(n).open("rb") as file:
                    item = pickle.load(file)
            except (OSError, ValueError, EOFError, pickle.UnpicklingError) as error:
                raise BadInput(f"storage: the state {self._file(n)} cannot be read back ({error})") from error
        return item

    def pop(self, n: int) -> _Item:
        """Read and forget."""
        item = self[n]
        self._remove(n)
        return item

    def clear(self) -> None:
        """Forget all. Local."""
        for n in list(self._num_arrays):
            self._remove(n)

    def _remove(self, n: int) -> None:
        """Delete a file; one that cannot be deleted goes with the folder. Local: it raises on no rank."""
        del self._num_arrays[n]
        with contextlib.suppress(OSError):
            self._file(n).unlink()
