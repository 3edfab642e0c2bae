"""Files for ParaView: fields, and the state over time."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dolfinx import fem, io

from relax.base import parallel
from relax.base.files import in_words
from relax.errors import SolveFailed
from relax.jobs.contents import FIELDS, STATES
from relax.jobs.folder import check_space
from relax.jobs.view.fields import density, in_one_element, in_spaces, num_bytes, parts_of
from relax.problem.evolution import Evolution


def write_fields(folder: Path, fields: dict[str, fem.Function]) -> None:
    """Write fields on one mesh to ``fields.bp`` (VTX) and ``fields.xdmf``.

    Collective. VTX keeps the degree: all fields are interpolated to the highest one among them, discontinuous when one
    of them is. XDMF has the degree of the mesh. A mixed field is written part by part.

    Args:
        folder: an output folder that ``clear`` made.
        fields: by the name they have in the files.
    """
    parts = [part.field for name, u in fields.items() for part in parts_of(name, u)]
    domain = parts[0].function_space.mesh
    parallel.on_rank_0(domain.comm, lambda: check_space(folder, 6 * num_bytes(parts)))
    fields_in_one = _interpolated(parts, in_one_element(parts))
    vtx = _Written(folder / FIELDS[0], lambda path: io.VTXWriter(domain.comm, path, fields_in_one, "BP4"))
    vtx.do("write", 0.0)
    vtx.do("close")
    mesh_degree = domain.ufl_domain().ufl_coordinate_element().degree
    fields_of_mesh = _interpolated(parts, in_spaces(parts, "Lagrange", mesh_degree))
    xdmf = _Written(folder / FIELDS[1], lambda path: io.XDMFFile(domain.comm, path, "w"))
    xdmf.do("write_mesh", domain)
    for v in fields_of_mesh:
        xdmf.do("write_function", v, 0.0)
    xdmf.do("close")


class _Written:
    """A file that DOLFINx writes. Collective, as are its methods.

    Raises:
        SolveFailed: when the disk does not take it.
    """

    def __init__(self, path: Path, opened: Callable[[Path], Any]) -> None:
        self._path = path
        self._file: Any = None
        self._try(lambda: opened(path))

    def do(self, what: str, *given: Any) -> None:
        """Call a method of the file."""
        self._try(lambda: getattr(self._file, what)(*given))

    def _try(self, action: Callable[[], Any]) -> None:
        try:
            with in_words(self._path):
                made = action()
        except SolveFailed:
            # A file that could not be written is closed again where it is destroyed, and that ends the process.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._file))
            raise
        self._file = made if self._file is None else self._file


def _interpolated(fields: Sequence[fem.Function], others: Sequence[fem.Function]) -> Sequence[fem.Function]:
    for u, v in zip(fields, others, strict=True):
        v.interpolate(u)
    return others


class TrajectoryFile:
    """``states.bp``: the state, part by part, and the density of a wave function. Collective, as is every method."""

    def __init__(self, folder: Path, evolution: Evolution, num_frames: int) -> None:
        state = evolution.state
        self._parts = parts_of(state.name, state)
        if evolution.is_wave_function:
            self._parts.append(density("density", state))
        fields = [part.field for part in self._parts]
        self._fields = in_one_element(fields)
        comm = evolution.mesh.comm
        needed = 2 * num_frames * num_bytes(self._fields)
        parallel.on_rank_0(comm, lambda: check_space(folder, needed))
        fields, policy = self._fields, io.VTXMeshPolicy.reuse
        self._file = _Written(folder / STATES, lambda path: io.VTXWriter(comm, path, fields, "BP4", policy))

    def write(self, time: float) -> None:
        """Append the state as it is now."""
        for part, field in zip(self._parts, self._fields, strict=True):
            part.update()
            field.interpolate(part.field)
        self._file.do("write", time)

    def close(self) -> None:
        """Close the file."""
        self._file.do("close")
