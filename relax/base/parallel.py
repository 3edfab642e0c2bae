"""What ranks agree on: errors, sums, broadcasts. With ``layout.py``, the one home of reductions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from relax.base.checks import array_like, of_kind
from relax.base.types import Array
from relax.errors import BadInput, RelaxError

T = TypeVar("T")


_NO_ERROR = np.iinfo(np.int32).max


def check_comm(comm: Any) -> None:
    """Refuse what is no communicator. Local.

    Raises:
        BadInput: then.
    """
    of_kind(comm, MPI.Comm, "a communicator, such as MPI.COMM_WORLD", "comm")


def raise_together(comm: MPI.Comm, error: BaseException | None) -> None:
    """Raise on every rank when any rank has an error; return on every rank when none has.

    Collective. A rank that failed raises its own exception. The others raise the same type where it is one of relax's
    own (``RelaxError`` otherwise), with the message of the lowest rank that failed.

    Args:
        comm: the communicator whose ranks all call this.
        error: what went wrong on this rank, or None.
    """
    first = np.array([_NO_ERROR if error is None else comm.rank], dtype=np.int32)
    if comm.size > 1:
        comm.Allreduce(MPI.IN_PLACE, first, op=MPI.MIN)
    if first[0] == _NO_ERROR:
        return
    told = None
    if comm.rank == first[0]:
        assert error is not None
        kind = type(error) if isinstance(error, RelaxError) else RelaxError
        text = str(error) if isinstance(error, RelaxError) else f"{type(error).__name__}: {error}"
        told = (kind, text)
    kind, text = comm.bcast(told, root=int(first[0]))
    if error is not None:
        raise error
    elsewhere = kind(text)
    elsewhere.of_another_rank = True  # its traceback is the other rank's to print
    raise elsewhere


@contextmanager
def together(comm: MPI.Comm) -> Iterator[None]:
    """A block that may fail on some ranks: at its end all ranks go on, or all raise.

    Collective. Nothing inside the block may communicate over ``comm``: a rank that fails leaves it at once.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        error = caught
    raise_together(comm, error)


def on_rank_0(comm: MPI.Comm, action: Callable[[], T]) -> T:
    """Run ``action`` on rank 0 and give its result to every rank; an exception there is raised on every rank.

    Collective. The result is pickled.
    """
    result = None
    with together(comm):
        if comm.rank == 0:
            result = action()
    return comm.bcast(result, root=0)


def sum_over_ranks(comm: MPI.Comm, values: Array) -> Array:
    """Elementwise sum of ``values`` over the ranks, the same on each. Collective."""
    if comm.size == 1:
        return values
    total = np.empty_like(values)
    comm.Allreduce(np.ascontiguousarray(values), total, op=MPI.SUM)
    # MPI does not promise that each rank's copy of a sum has the same last bit: rank 0's is everyone's.
    comm.Bcast(total, root=0)
    return total


def sum_in_place(comm: MPI.Comm, values: npt.NDArray[Any]) -> None:
    """Replace a contiguous float32 or float64 array by its elementwise sum over the ranks. Collective.

    One reduction and no copy, for large arrays; the last bit may differ between ranks, see :func:`sum_over_ranks`.
    """
    if comm.size > 1:
        comm.Allreduce(MPI.IN_PLACE, values, op=MPI.SUM)


def dot(comm: MPI.Comm, a: Array, b: Array) -> float:
    """Inner product of two distributed arrays, each rank holding its part. Collective."""
    return float(sum_over_ranks(comm, np.array([float(np.dot(a, b))]))[0])


def any_rank(comm: MPI.Comm, flag: bool) -> bool:
    """True on every rank when ``flag`` is true on one of them. Collective."""
    return bool(flag) if comm.size == 1 else bool(comm.allreduce(bool(flag), op=MPI.LOR))


def all_ranks_mask(comm: MPI.Comm, bits: int) -> int:
    """Bitwise AND of ``bits`` over the ranks. Collective."""
    return bits if comm.size == 1 else int(comm.allreduce(bits, op=MPI.BAND))


def largest(comm: MPI.Comm, value: float) -> float:
    """The maximum of ``value`` over the ranks. Collective."""
    return value if comm.size == 1 else float(comm.allreduce(value, op=MPI.MAX))


def smallest(comm: MPI.Comm, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Elementwise minimum of an array over the ranks. Collective."""
    result = np.empty_like(values)
    comm.Allreduce(np.ascontiguousarray(values), result, op=MPI.MIN)
    return result


def count_before(comm: MPI.Comm, count: int) -> int:
    """The sum of the counts of the ranks before this one. Collective."""
    return sum(comm.allgather(count)[: comm.rank])


def extremes(comm: MPI.Comm, values: npt.NDArray[Any]) -> tuple[Array, Array]:
    """The least and the largest of rows, column by column, over the ranks; infinite of no rows. Collective."""
    low, high = np.min(values, axis=0, initial=np.inf), np.max(values, axis=0, initial=-np.inf)
    least, minus_largest = smallest(comm, np.array([low, -high]))
    return least, -minus_largest


def smallest_or(
    comm: MPI.Comm, values: npt.NDArray[Any], *otherwise: tuple[float, Callable[[], None]]
) -> npt.NDArray[Any]:
    """Elementwise minimum over the ranks; what to do when some rank has not come after so many seconds.

    Collective. ``comm`` is one that nothing else is sent over.
    """
    result = np.empty_like(values)
    request = comm.Iallreduce(values, result, op=MPI.MIN)
    began, waiting = time.monotonic(), list(otherwise)
    while not request.Test():
        if waiting and time.monotonic() - began > waiting[0][0]:
            waiting.pop(0)[1]()
        time.sleep(0.002)
    return result


def total(comm: MPI.Comm, value: int) -> int:
    """The sum of an integer over the ranks. Collective."""
    return int(comm.allreduce(int(value), op=MPI.SUM))


def from_rank_0(comm: MPI.Comm, values: Array) -> Array:
    """Rank 0's array on every rank; a copy. Collective. The shape must be the same on each rank."""
    copy = np.array(values, dtype=np.float64, order="C")
    if comm.size > 1:
        comm.Bcast(copy, root=0)
    return copy


def of_rank_0(comm: MPI.Comm, value: T) -> T:
    """Rank 0's object on every rank, pickled on the way. Collective."""
    return value if comm.size == 1 else comm.bcast(value, root=0)


def on_each_rank(comm: MPI.Comm, value: T) -> list[T]:
    """Every rank's object, in the order of ranks, on every rank; pickled on the way. Collective."""
    return comm.allgather(value)


def to_rank_0(comm: MPI.Comm, value: T) -> list[T] | None:
    """Every rank's object, in the order of ranks, on rank 0; None elsewhere. Pickled on the way. Collective."""
    return comm.gather(value, root=0)


def checked(comm: MPI.Comm, values: Any, last: int, what: str) -> Array:
    """``values`` as a float64 array whose last axis has length ``last`` and whose entries are finite.

    Collective.

    Args:
        comm: the communicator whose ranks all call this.
        values: anything numpy takes for an array of real numbers.
        last: the expected length of the last axis.
        what: the name of the argument, for the message.

    Raises:
        BadInput: on every rank, with the expected and the found shape, or the number of entries that are not finite.
    """
    error: BadInput | None = None
    array: Array = np.empty(0)
    try:
        array = np.asarray(array_like(values, what))
        if np.iscomplexobj(array):
            hint = "hand over real and imaginary parts apart"
            error = BadInput(f"{what}: expected real numbers, got {array.dtype}; {hint}")
        else:
            array = np.asarray(array, dtype=np.float64)
    except BadInput as refused:
        error = refused
    except (TypeError, ValueError) as cause:
        error = BadInput(f"{what}: expected an array of real numbers, got {type(values).__name__} ({cause})")
    if error is None and (array.ndim == 0 or array.shape[-1] != last):
        hint = "" if array.size else " (an empty array)"
        error = BadInput(
            f"{what}: expected shape (..., {last}), got {tuple(array.shape)}{hint}; "
            "`control_values` makes a control vector, `G.size_in` and `G.size_out` are the lengths"
        )
    if error is None and not np.isfinite(array).all():
        count = int(np.count_nonzero(~np.isfinite(array)))
        error = BadInput(f"{what}: {count} of {array.size} entries are NaN or infinite; expected finite numbers")
    if comm.size > 1:
        # One reduction for both questions: has any rank an error, and do all have as many vectors in as many axes?
        vectors = int(np.prod(array.shape[:-1], dtype=np.int64)) if error is None else 0
        mine = [comm.rank if error is not None else _NO_ERROR, array.ndim, -array.ndim, vectors, -vectors]
        least = smallest(comm, np.array(mine, dtype=np.int64))
        first = int(least[0])
        if first == _NO_ERROR and (least[1] != -least[2] or least[3] != -least[4]):
            error = BadInput(f"{what}: expected the same number of vectors on each rank, got shape {array.shape} here")
        elif first == _NO_ERROR:
            return array
    raise_together(comm, error)
    return array


def checked_on_all(comm: MPI.Comm, values: Any, last: int, what: str) -> Array:
    """What ``checked`` gives, the same on every rank: rank 0's, when the others' differ by no more than rounding.

    Collective.

    Raises:
        BadInput: on every rank, as by ``checked``; or where a rank was given other values, by more than 1e-6 of the
            largest, or 1e-3 where they come from single precision.
    """
    mine = checked(comm, values, last, what)
    array = from_rank_0(comm, mine)
    if comm.size > 1:
        largest_entry = max(np.abs(array).max(initial=0.0), np.abs(mine).max(initial=0.0))
        with np.errstate(over="ignore"):
            is_single = bool((mine == mine.astype(np.float32)).all())
        if any_rank(comm, bool(np.abs(mine - array).max(initial=0.0) > (1e-3 if is_single else 1e-6) * largest_entry)):
            raise BadInput(
                f"{what}: expected the same values on each of the {comm.size} ranks, which solve together, got others "
                "on some; for samples of its own on each rank, make the mesh on MPI.COMM_SELF, or share a batch by "
                "relax.Teams"
            )
    return array


def rows_at_home(comm: MPI.Comm, rows: npt.NDArray[Any], home: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The rows of all ranks whose ``home``, (n,), is this rank; pickled on the way. Collective."""
    return np.concatenate(comm.alltoall([rows[home == rank] for rank in range(comm.size)]))


def gather_rows(comm: MPI.Comm, rows: Array) -> Array:
    """The rows of every rank, rank 0's first, on every rank. Collective. Shapes agree but for the first axis."""
    return rows if comm.size == 1 else np.concatenate(comm.allgather(rows))


def rank_0_prints(comm: MPI.Comm, text: str) -> None:
    """Print on rank 0. Local."""
    if comm.rank == 0:
        print(text, flush=True)
