"""How a program ends on many ranks: with one status on all, one message, and no rank left waiting."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from types import CodeType, TracebackType
from typing import Any, NoReturn

import numpy as np
from mpi4py import MPI

from relax.base import parallel
from relax.errors import BadInput, BadProblem, CheckFailed, NotConverged, PointsOutsideMesh, RelaxError

OK, FAILED, BAD_INPUT, NOT_CONVERGED = 0, 1, 2, 3
#: As EX_TEMPFAIL of sysexits.h: try again later.
STOPPED = 75

#: Ranks that fail together arrive within this many seconds; one that is alone after it ends the whole job.
PATIENCE = 4.0
#: The launcher has this many seconds to read what a rank said before that rank ends the job: MPICH's Hydra drops what
#: it has not read when it hears of the abort (a traceback in 2 of 600 runs on a busy machine, with 0.2 s in none).
_HEARD = 0.5
# A rank that leaves well waits so many seconds for the others to come to their end: one may still draw a figure.
_LAST_WORDS = 120.0
# One of the numbers of tools that watch a program which Python has given to nobody.
_TOOL = 4
_NOBODY = np.iinfo(np.int32).max


class Stopped(RelaxError):
    """A job has been asked to stop, and has kept what it can be gone on from."""


def status_of(error: BaseException) -> int:
    """The exit status for an exception."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else FAILED if error.code else OK
    if isinstance(error, BadInput | BadProblem | PointsOutsideMesh):
        return BAD_INPUT
    if isinstance(error, Stopped):
        return STOPPED
    return NOT_CONVERGED if isinstance(error, NotConverged) else FAILED


def run(action: Callable[[], int], comm: MPI.Comm, *, debug: bool = False) -> int:
    """Run ``action`` on every rank; return one exit status on all of them.

    Collective. When ranks fail together the lowest of them says why: one of relax's own errors without its traceback
    (unless ``debug``), any other with it. When a rank fails alone, its traceback is printed and the job is ended, since
    the others may wait for it in a collective call for ever.

    Args:
        action: what to do; returns an exit status.
        comm: the ranks, all of which call this.
        debug: print the traceback of relax's own errors, too.
    """
    private = comm.Dup()
    error: BaseException | None = None
    status = OK
    try:
        status = action()
    except KeyboardInterrupt:
        if comm.size > 1:
            sys.stderr.write(f"[rank {comm.rank}] interrupted; the whole job ends\n")
            abort(130)
        raise
    except BaseException as caught:
        error = caught
        status = status_of(caught)
    # One rank may leave early and well by sys.exit(0): that, too, would strand the others.
    alone_is_fatal = status != OK or error is not None
    mine = np.array([-status, comm.rank if error is not None else _NOBODY], dtype=np.int32)

    def alone() -> None:
        _tell(error, comm, with_trace=True)
        abort(status or FAILED)

    agreed = parallel.smallest_or(private, mine, *([(PATIENCE, alone)] if alone_is_fatal else []))
    private.Free()
    if error is not None and comm.rank == agreed[1]:
        _tell(error, comm, with_trace=debug or not isinstance(error, RelaxError | SystemExit))
    return int(-agreed[0])


def stop(words: str, comm: MPI.Comm) -> NoReturn:
    """Leave the program with status 75, since it can be gone on with: by SystemExit. The lowest rank says why.

    Collective. Where SystemExit would end a thread alone the whole job is ended.
    """
    if comm.rank == 0:
        _tell(Stopped(words), comm, with_trace=False)
    if threading.current_thread() is not threading.main_thread():
        abort(STOPPED)
    sys.exit(STOPPED)


def _tell(error: BaseException | None, comm: MPI.Comm, *, with_trace: bool) -> None:
    if error is None:
        return
    who = f"[rank {comm.rank}] " if comm.size > 1 and with_trace else ""
    if with_trace:
        text = "".join(traceback.format_exception(error))
        sys.stderr.write("".join(f"{who}{line}\n" for line in text.splitlines()))
    elif isinstance(error, SystemExit):
        if isinstance(error.code, str):
            sys.stderr.write(f"{error.code}\n")
    else:
        kind = (
            "check failed" if isinstance(error, CheckFailed) else "stopped" if isinstance(error, Stopped) else "error"
        )
        sys.stderr.write(f"relax: {kind}: {error}\n")
    sys.stderr.flush()


def end_job_on_exception() -> None:
    """Make an exception that one rank does not catch end the whole MPI job, with its traceback and status 1.

    Collective. Without this a rank that dies leaves the others waiting in their next collective for ever. Replaces
    ``sys.excepthook`` when more than one rank runs. SystemExit does not pass by that hook, be it raised, or by
    ``sys.exit``, ``exit`` or ``quit``: on some ranks alone it ends the job, too, in words. With status 0 or 75 that
    takes two minutes, in which the others may come to their end. Python 3.11 does not tell what leaves a script: there
    it is ``sys.exit`` with another status than 0 alone. Harmless when called twice.
    """
    if MPI.COMM_WORLD.size == 1 or sys.excepthook is _end_job:
        return
    sys.excepthook = _end_job
    last = _LastMeeting()
    if sys.version_info >= (3, 12):

        def unwound(code: CodeType, offset: int, error: BaseException) -> None:
            is_last = sys._getframe(1).f_back is None and threading.current_thread() is threading.main_thread()
            if is_last and isinstance(error, SystemExit):
                last.leave(error)

        # Nothing is called unless an exception leaves a function.
        sys.monitoring.use_tool_id(_TOOL, "relax")
        sys.monitoring.register_callback(_TOOL, sys.monitoring.events.PY_UNWIND, unwound)
        sys.monitoring.set_events(_TOOL, sys.monitoring.events.PY_UNWIND)
        # Before MPI is finalised, which waits for all ranks, too.
        atexit.register(last.end)
    else:

        def leave(status: Any = None, /) -> NoReturn:
            error = SystemExit(status)
            if status_of(error) != OK:
                last.leave(error)
            raise error

        sys.exit = leave


class _LastMeeting:
    """Where the ranks of a script meet once, at its end, whichever way it ends. Collective to make."""

    def __init__(self) -> None:
        self._comm = MPI.COMM_WORLD.Dup()
        self._process = os.getpid()
        self._is_over = False
        # What to do at the end when the others have not come.
        self._alone: list[tuple[float, Callable[[], None]]] = []

    def leave(self, error: SystemExit) -> None:
        """A rank leaves by SystemExit: after a while alone it ends the job, with status 0 from ``end`` on."""
        status = status_of(error)
        told = f"[rank {self._comm.rank}] SystemExit({error.code!r}) on this rank and not on all"

        def alone() -> None:
            sys.stderr.write(f"{told}\n")
            abort(status or FAILED)

        def later() -> None:
            sys.stderr.write(f"{told}: if the others have not ended in {_LAST_WORDS:.0f} s the job is ended\n")
            sys.stderr.flush()

        if status == OK:
            # What the user has registered for the end comes before, and may be collective.
            self._alone = [(PATIENCE, later), (_LAST_WORDS, alone)]
        elif status == STOPPED:
            # Others that were asked to stop may be in longer steps.
            self._meet(status, [(PATIENCE, later), (_LAST_WORDS, alone)])
        else:
            self._meet(status, [(PATIENCE, alone)])

    def end(self) -> None:
        """A rank has come to the end."""
        self._meet(OK, self._alone)

    def _meet(self, status: int, otherwise: Sequence[tuple[float, Callable[[], None]]]) -> None:
        # A forked process ends by itself, and nothing is sent any more where the user has finalised MPI.
        if not self._is_over and os.getpid() == self._process and not MPI.Is_finalized():
            self._is_over = True
            parallel.smallest_or(self._comm, np.array([status], dtype=np.int32), *otherwise)


def _end_job(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if getattr(error, "of_another_rank", False):
        time.sleep(PATIENCE)
    lines = traceback.format_exception(kind, error, trace)
    text = "".join(f"[rank {MPI.COMM_WORLD.rank}] {line}" for line in lines)
    sys.stderr.write(text)
    abort(130 if issubclass(kind, KeyboardInterrupt) else 1)


def abort(status: int) -> None:
    """End every rank of the job with ``status``, after what this one has written has gone out."""
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(_HEARD)
    MPI.COMM_WORLD.Abort(status)
