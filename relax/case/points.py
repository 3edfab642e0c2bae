"""Where a job observes, and the columns of a CSV file in which its observations stand."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
from dolfinx import mesh

from relax import parallel, tables
from relax.errors import BadInput
from relax.job import JobFile
from relax.observe import points_inside
from relax.slices import bounding_box

Array = npt.NDArray[np.float64]

_MAX_TRIES = 200
_OF_STEP = re.compile(r"value(?:_\d+)?_step_(\d+)")


def random_points(domain: mesh.Mesh, num: int, seed: int) -> Array:
    """``num`` points uniform in the mesh, (num, gdim), that depend on the seed and not on the number of ranks.

    Collective.
    """
    low, high = bounding_box(domain)
    random = np.random.default_rng(seed)
    found: Array = np.empty((0, len(low)))
    for _ in range(_MAX_TRIES):
        tried = low + (high - low) * random.random((max(4 * num, 64), len(low)))
        found = np.concatenate([found, tried[points_inside(domain, tried)]])
        if len(found) >= num:
            return found[:num]
    raise BadInput(f"[observe] points: only {len(found)} of {num} random points are inside the mesh; name a CSV file")


def points_of(file: JobFile, domain: mesh.Mesh, table: tables.Table | None) -> Array:
    """The points of [observe], or of the data file where it has none: (num_points, gdim). Collective."""
    gdim = domain.geometry.dim
    observe = file.job.observe
    if observe is None:
        assert table is not None
        return table.points(gdim)
    if isinstance(observe.points, int):
        return random_points(domain, observe.points, observe.seed)
    path = file.root / observe.points
    return parallel.on_rank_0(domain.comm, lambda: read_table("[observe] points", path)).points(gdim)


def read_table(place: str, path: Path) -> tables.Table:
    """A CSV file; the message of an error starts with the place in the job. On one rank."""
    try:
        return tables.read(path)
    except BadInput as error:
        raise BadInput(f"{place}: {error}") from None


def columns(stem: str, components: int, steps: tuple[int, ...] | None) -> list[str]:
    """The columns of observations, in the order step, component: ``value``, ``value_1``, ``value_step_8``.

    Args:
        stem: the first word.
        components: how many values at a point; a single one is not numbered.
        steps: those of an equation in time.
    """
    names = [stem] if components == 1 else [f"{stem}_{i}" for i in range(components)]
    return names if steps is None else [f"{name}_step_{n}" for n in steps for name in names]


def steps_in(table: tables.Table) -> list[int]:
    """The steps of which a data file has values, in the order of its columns; none where they are not named."""
    found = [_OF_STEP.fullmatch(name) for name in table.columns]
    return list(dict.fromkeys(int(match.group(1)) for match in found if match))


def as_columns(values: Array, components: int, names: list[str]) -> dict[str, Array]:
    """Observations, in the order step, point, component, as a column for each of the names of :func:`columns`."""
    by_step = values.reshape(len(names) // components, -1, components)
    return dict(zip(names, np.moveaxis(by_step, 1, 2).reshape(len(names), -1), strict=True))


def from_columns(table: tables.Table, names: list[str], components: int) -> Array | None:
    """Columns as observations in the order step, point, component; None where one is missing."""
    if any(name not in table.columns for name in names):
        return None
    rows = np.array([table.columns[name] for name in names])
    return np.moveaxis(rows.reshape(-1, components, table.num_rows), 1, 2).ravel()
