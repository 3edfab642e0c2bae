"""CSV files of points and of measurements: read on one rank, checked, with the line named that is wrong."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from relax.base.types import Array
from relax.errors import BadInput

_AXES = ("x", "y", "z")


@dataclass(frozen=True)
class Table:
    """Columns of numbers by name, in the order of the file."""

    path: Path
    columns: dict[str, Array]

    @property
    def num_rows(self) -> int:
        return len(next(iter(self.columns.values())))

    def points(self, gdim: int) -> Array:
        """(num_rows, gdim) coordinates.

        Raises:
            BadInput: when a column of ``x, y, z`` is missing, or there is one too many for the mesh.
        """
        axes = [axis for axis in _AXES if axis in self.columns]
        if axes != list(_AXES[:gdim]):
            raise BadInput(
                f"{self.path}: expected the columns {', '.join(_AXES[:gdim])} for a mesh in {gdim} dimension(s), "
                f"got {', '.join(self.columns)}"
            )
        return np.column_stack([self.columns[axis] for axis in axes])


def read(path: Path) -> Table:
    """A CSV file of numbers.

    The first line names the columns: ``x, y, z`` (as many as the mesh has dimensions), ``value``, ``sigma``; others are
    read and not used. A file of numbers alone has the columns ``x, y, z`` as far as they go. Empty lines and lines that
    start with ``#`` are skipped.

    Raises:
        BadInput: naming the line, when a row is too short or too long, or an entry is not a finite number.
    """
    try:
        # A spreadsheet may begin with a byte-order mark.
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [(n, row) for n, row in enumerate(csv.reader(file, skipinitialspace=True), 1) if row]
    except FileNotFoundError:
        raise BadInput(f"{path}: there is no such CSV file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path}: expected a readable CSV file: {error}") from None
    lines = [(n, [entry.strip() for entry in row]) for n, row in lines if not row[0].lstrip().startswith("#")]
    if not lines:
        raise BadInput(f"{path}: expected at least one row of numbers, got an empty file")
    if any(";" in entry or "\t" in entry for entry in lines[0][1]):
        raise BadInput(
            f"{path}, line {lines[0][0]}: expected commas between entries and points in numbers, as in 0.5,1.25; got "
            f"{','.join(lines[0][1])!r}, with semicolons or tabs"
        )
    names = list(_AXES[: len(lines[0][1])])
    if not all(_is_number(entry) for entry in lines[0][1]):
        names = [entry.lower() for entry in lines[0][1]]
        lines = lines[1:]
    elif len(lines[0][1]) > len(_AXES):
        raise BadInput(f"{path}: {len(lines[0][1])} columns without names; start with a line such as x,y,value,sigma")
    if len(set(names)) < len(names):
        raise BadInput(f"{path}: two columns have the same name: {', '.join(names)}")
    if not lines:
        raise BadInput(f"{path}: expected at least one row of numbers below {', '.join(names)}, got none")
    values = np.empty((len(lines), len(names)))
    for i, (number, row) in enumerate(lines):
        if len(row) != len(names):
            raise BadInput(f"{path}, line {number}: expected {len(names)} entries ({', '.join(names)}), got {len(row)}")
        for j, entry in enumerate(row):
            if not _is_number(entry):
                raise BadInput(f"{path}, line {number}, {names[j]}: expected a finite number, got {entry!r}")
            values[i, j] = float(entry)
    return Table(path, {name: values[:, j].copy() for j, name in enumerate(names)})


def write(path: Path, columns: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write columns of numbers, with every digit, so that :func:`read` gives them back bit for bit."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        writer.writerows([repr(v) for v in row] for row in rows)


def _is_number(entry: str) -> bool:
    try:
        return bool(np.isfinite(float(entry)))
    except ValueError:
        return False
