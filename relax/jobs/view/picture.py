"""Fields as `relax run` draws them, from a script or a notebook."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from dolfinx import fem

from relax.base import parallel
from relax.base.checks import of_kind
from relax.errors import BadInput
from relax.jobs.view import maps, pictures, style
from relax.jobs.view.fields import scalar_of
from relax.observe.fields import fill


def picture(
    what: fem.Function | npt.ArrayLike | Mapping[str, fem.Function | npt.ArrayLike],
    *,
    space: fem.FunctionSpace | None = None,
    points: npt.ArrayLike | None = None,
    label: str = "",
    path: str | os.PathLike[str] | None = None,
) -> Any:
    """Draw a field, or several beside each other on one scale, as the figures of ``relax run`` are drawn.

    Collective; rank 0 draws. On a line the fields are graphs, in one axis. Of a vector field the magnitude is drawn, of
    a mixed one the first part; a mesh in three dimensions is cut half-way up its last axis, and fields of higher degree
    are interpolated to degree 1 (on a line they keep it).

    Args:
        what: a Function; or a vector in the order of ``FieldValues``, as the part of a replicated control vector that
            belongs to a field is; or several of these by their titles, on a line the most important one last.
        space: of vectors.
        points: (num_points, gdim) sensors to be marked.
        label: what the colours are, beside their bar; on a line that of the y axis.
        path: where the figure is written, too; the suffix says how.

    Returns:
        The matplotlib figure on rank 0, None on the others. It is closed: a notebook shows it where it is the last
        thing in a cell, ``savefig`` writes it.

    Raises:
        BadInput: on every rank, for what is no field, vectors without their space or of another length, and meshes
            that are neither intervals, triangles, quadrilaterals, tetrahedra nor hexahedra, or lie in a space of
            more dimensions; for fields in other dimensions beside each other.
        ImportError: on every rank, where rank 0 has no matplotlib.
    """
    if isinstance(what, Mapping) and not what:
        raise BadInput("picture: expected a field, or several by their titles, got none")
    fields = {title: _function(f, space) for title, f in (what if isinstance(what, Mapping) else {"": what}).items()}
    domain = next(iter(fields.values())).function_space.mesh
    comm, gdim = domain.comm, domain.geometry.dim
    sensors = parallel.checked_on_all(comm, np.empty((0, gdim)) if points is None else points, gdim, "points")
    if not style.is_there(comm):
        raise ImportError("relax.picture needs matplotlib, which is not installed: try `pip install matplotlib`")
    drawn: dict[str, pictures.Picture] = {}
    for title, u in fields.items():
        pictures.check_mesh(u.function_space.mesh, "picture")
        if u.function_space.mesh.geometry.dim != gdim:
            raise BadInput(
                f"picture: expected fields in as many dimensions, got one in {gdim} and, as {title or u.name!r}, "
                f"one in {u.function_space.mesh.geometry.dim}; a picture of each is drawn by a call of its own"
            )
        scalar = scalar_of(u.name, u, wave=False).field
        part = pictures.gather(scalar)
        if part is not None:
            drawn[title or scalar.name] = part
    figure = None
    with parallel.together(comm):
        if comm.rank == 0:
            with style.look() as plt:
                rows, columns, size = maps.arrangement(list(drawn.values()))
                figure = plt.figure(figsize=size, layout="constrained")
                # Pyplot forgets it: no window, no memory, and no second copy below a notebook's cell.
                plt.close(figure)
                figure.get_layout_engine().set(w_pad=0.1, h_pad=0.06)
                maps.panels(figure, (rows, columns), drawn, sensors.reshape(-1, gdim), label)
                if path is not None:
                    figure.savefig(path, dpi=style.DPI)
    return figure


def _function(what: Any, space: Any) -> fem.Function:
    if isinstance(what, fem.Function):
        return what
    if space is None:
        raise BadInput(
            f"picture: expected a dolfinx.fem.Function, or a vector with its space=, got {type(what).__name__}; "
            "`space=problem.controls[0].function_space` is that of a control"
        )
    of_kind(space, fem.FunctionSpace, "a dolfinx.fem.FunctionSpace", "picture: space")
    u = fem.Function(space, name="field")
    fill(u, what)
    return u
