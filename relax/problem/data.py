"""What Functions and Constants hold at each step of an evolution, without being controls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
import ufl
from dolfinx import fem, mesh
from mpi4py import MPI
from ufl.core.expr import Expr

from relax.base import parallel
from relax.base.checks import of_kind
from relax.base.fem.coefficients import local_values
from relax.base.fem.expansion import Expansion
from relax.base.fem.forms import Control, holds, like
from relax.base.fem.layout import SpaceLayout
from relax.base.types import Array
from relax.errors import BadInput, BadProblem

_WAYS = (
    "one value for each step, one more where the start has one, too; a function of the time t; or a file, .csv with "
    "the time in its first column or .npy"
)


class StepValues(ABC):
    """The values f_0, ..., f_N of a Function or Constant f at the steps of an evolution.

    Attributes:
        terminal: f.
    """

    terminal: Control

    @property
    @abstractmethod
    def needs_time(self) -> bool:
        """Whether the times of the steps have to be known. Local."""

    @property
    @abstractmethod
    def changes_within(self) -> bool:
        """Whether a step has another value at its beginning than at its end, rather than one for the whole. Local."""

    @abstractmethod
    def fits(self, num_steps: int) -> bool:
        """Whether it has values for so many steps. Local."""

    @abstractmethod
    def at(self, n: int, grid: Array | None) -> Array:
        """f_n, f_1 for f_0 where the start has no value of its own: local values with ghosts, or those of a Constant.

        Collective.

        Args:
            n: the number of the step.
            grid: the times of the steps.

        Raises:
            BadInput: where there is no value.
        """


class GivenValues(StepValues):
    """Values that a user gives.

    Collective to make.

    Args:
        terminal: f.
        given: N values, those of the steps, or N + 1, that of the start first, along the first axis of an array or in
            a list: numbers, functions of x, Functions, or for a Function all its degrees of freedom (those of
            ``relax.fill``); a function of the time t that gives one such value; a file ``.npy`` of such an array, or
            ``.csv`` with rows "t, value, ...", between whose times values are interpolated linearly.
        num_steps: N.
        comm: the ranks of the mesh.
        what: the argument's name, for messages.

    Raises:
        BadInput: on every rank, for anything else.
    """

    def __init__(self, terminal: Control, given: Any, num_steps: int, comm: MPI.Comm, what: str) -> None:
        self.terminal = terminal
        self._comm = comm
        self._what = what
        self._num_steps = num_steps
        self._layout: SpaceLayout | None = None
        # A matrix of a Constant is named by its values: they are all asked for when a run begins.
        self._most = 1 if isinstance(terminal, fem.Function) else num_steps + 1
        self._known: dict[float, Array] = {}
        with parallel.together(comm):
            kind = self._kind(given)
        self._check_same(kind, what)
        if isinstance(given, str | Path):
            given = self._read(Path(given))
        self._function: Callable[[float], Any] | None = given if callable(given) else None
        self._rows: list[Array] = [] if callable(given) else self._of_steps(given)

    @property
    def needs_time(self) -> bool:
        return self._function is not None

    def fits(self, num_steps: int) -> bool:
        return self._function is not None or num_steps == self._num_steps

    @property
    def changes_within(self) -> bool:
        return self._function is not None or len(self._rows) == self._num_steps + 1

    def at(self, n: int, grid: Array | None) -> Array:
        if self._function is None:
            if n > self._num_steps:
                raise BadInput(f"{self._what}: expected a value for step {n}, got those of {self._num_steps} steps")
            return self._rows[n if self.changes_within else max(n - 1, 0)]
        assert grid is not None
        t = float(grid[n])
        if t not in self._known:
            with parallel.together(self._comm):
                value = self._called(self._function, t)
            if len(self._known) >= self._most:
                self._known.clear()
            self._known[t] = self._values(value, f"{self._what} at the time {t:g}")
        return self._known[t]

    def _called(self, function: Callable[[float], Any], t: float) -> Any:
        try:
            return function(t)
        except BadInput:
            raise
        except Exception as cause:
            raise BadInput(
                f"{self._what}: the function failed at the time {t:g}: {type(cause).__name__}: {cause}; expected a "
                "function of the time t, whose values may be functions of x: lambda t: lambda x: t * x[0]"
            ) from cause

    def _kind(self, given: Any) -> str:
        """In which way values are given, in words. Local."""
        if isinstance(given, str | Path):
            return "a file"
        if isinstance(given, Expr | Mapping | Set) or not (callable(given) or hasattr(given, "__len__")):
            raise BadInput(f"{self._what}: expected {_WAYS}; got {given!r:.80}")
        return "a function" if callable(given) else f"{len(given)} values"

    def _check_same(self, kind: str, what: str) -> None:
        kinds = parallel.on_each_rank(self._comm, kind)
        if len(set(kinds)) > 1:
            raise BadInput(f"{what}: expected the same on each of the ranks, which solve together, got {kinds!r:.80}")

    def _of_steps(self, given: Any) -> list[Array]:
        N, first = self._num_steps, self._num_steps + 1 - len(given)
        if first not in (0, 1):
            raise BadInput(f"{self._what}: expected {_WAYS}; got {len(given)} values for {N} steps")
        return [self._values(value, f"{self._what}, step {first + i}") for i, value in enumerate(given)]

    def _values(self, value: Any, what: str) -> Array:
        """One value of f as what f is to hold. Collective."""
        f = self.terminal
        is_field = isinstance(f, fem.Function) and not isinstance(f, Expansion)
        with parallel.together(self._comm):
            numbers = _numbers(value, what, is_field=is_field)
        self._check_same("a function" if numbers is None else f"numbers {numbers.shape}", what)
        if numbers is not None:
            # The same on every rank: random ones are not.
            same = parallel.checked_on_all(self._comm, numbers.ravel(), numbers.size, what)
            if is_field and numbers.ndim == 1:
                self._layout = self._layout or SpaceLayout(f.function_space)
                if len(same) == self._layout.size:
                    return np.array(self._layout.spread(same))
            value = same.reshape(numbers.shape).tolist()
        values = np.array(local_values(f, value, what))
        if parallel.any_rank(self._comm, not np.isfinite(values).all()):
            raise BadInput(f"{what}: expected finite values for {f}, got NaN or infinity")
        return values

    def _read(self, path: Path) -> Any:
        """An array of steps, or a function of t. Collective."""
        if path.suffix not in (".npy", ".csv"):
            raise BadInput(f"{self._what}: expected a file .npy or .csv, got {str(path)!r}")
        table: Array = parallel.on_rank_0(self._comm, lambda: _table(path, self._what))
        if path.suffix == ".npy":
            return table

        def between(t: float) -> Any:
            times = table[:, 0]
            slack = 1e-9 * (times[-1] - times[0])
            if not times[0] - slack <= t <= times[-1] + slack:
                raise BadInput(
                    f"{self._what}: {path} has values from t = {times[0]:g} to {times[-1]:g}, a step ends at t = {t:g}"
                )
            columns = [float(np.interp(t, times, column)) for column in table[:, 1:].T]
            return columns[0] if len(columns) == 1 else np.reshape(columns, self.terminal.ufl_shape or -1)

        return between


class EarlierValues(StepValues):
    """What a Function or Constant holds one step earlier: f_{n-1} at step n, for a copy of f that stands for it.

    Args:
        terminal: the copy.
        values: those of f.
    """

    def __init__(self, terminal: Control, values: StepValues) -> None:
        self.terminal = terminal
        self._values_of = values

    @property
    def needs_time(self) -> bool:
        return self._values_of.needs_time

    @property
    def changes_within(self) -> bool:
        return self._values_of.changes_within

    def fits(self, num_steps: int) -> bool:
        return self._values_of.fits(num_steps)

    def at(self, n: int, grid: Array | None) -> Array:
        return self._values_of.at(max(n - 1, 0), grid)


def at_steps(data: Any, num_steps: int, comm: MPI.Comm) -> dict[Control, StepValues]:
    """What is given as ``data=`` of an evolution, and what has been made of it already.

    Collective.

    Raises:
        BadInput, BadProblem: on every rank, for what is not ``{f: values}``.
    """
    of_kind(data, Mapping, "a dictionary {f: values}", "data")
    made = {}
    for f, values in data.items():
        if not isinstance(f, fem.Function | fem.Constant):
            raise BadProblem(f"data: expected Functions and Constants as keys, got {f!s:.80}")
        made[f] = values if isinstance(values, StepValues) else GivenValues(f, values, num_steps, comm, f"data[{f}]")
        if not made[f].fits(num_steps):
            raise BadProblem(f"data[{f}]: has values for another number of steps than {num_steps}; pass data= anew")
    return made


def held_before(data: dict[Control, StepValues], residual: ufl.Form, domain: mesh.Mesh) -> dict[Control, Control]:
    """For what changes within steps and stands in a residual, copies that hold it at the beginning of a step.

    Local. The copies and their values are put among the data.
    """
    copies: dict[Control, Control] = {}
    for f, values in list(data.items()):
        if values.changes_within and holds(residual, f):
            copies[f] = fem.Function(f.function_space) if isinstance(f, fem.Function) else like(f, domain)
            data[copies[f]] = EarlierValues(copies[f], values)
    return copies


def _numbers(value: Any, what: str, *, is_field: bool) -> Array | None:
    """Numbers as an array; None for a function of x, UFL, or a list of the parts of a mixed field. Local.

    Raises:
        BadInput: for none of these.
    """
    if is_field and (isinstance(value, Expr) or callable(value)):
        return None
    try:
        if np.iscomplexobj(value):
            raise TypeError("complex numbers")
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as cause:
        if is_field and isinstance(value, list | tuple):
            return None
        kinds = "real numbers" + (", a function of x or UFL" if is_field else "")
        raise BadInput(f"{what}: expected {kinds}, got {value!r:.80}") from cause


def _table(path: Path, what: str) -> Array:
    """The numbers of a file: those of .npy as they are, of .csv (rows, columns) with rising times first.

    Raises:
        BadInput: naming the file.
    """
    try:
        if path.suffix == ".npy":
            return np.asarray(np.load(path, allow_pickle=False), dtype=np.float64)
        with path.open(encoding="utf-8-sig") as file:
            lines = [line for line in file if line.strip() and not line.lstrip().startswith("#")]
        table = np.loadtxt(lines[1:] if lines and not _is_of_numbers(lines[0]) else lines, delimiter=",", ndmin=2)
    except (OSError, ValueError, TypeError) as cause:
        raise BadInput(f"{what}: {path} cannot be read as numbers ({cause}); expected {_WAYS}") from cause
    if table.shape[1] < 2 or len(table) < 2 or not np.isfinite(table).all() or np.any(np.diff(table[:, 0]) <= 0.0):
        raise BadInput(
            f"{what}: {path}: expected at least two rows of finite numbers, the time first, which rises from row to "
            f"row, then at least one value; got {table.shape[0]} rows of {table.shape[1]}"
        )
    return table


def _is_of_numbers(line: str) -> bool:
    try:
        [float(entry) for entry in line.split(",")]
    except ValueError:
        return False
    return True
