"""Files for ParaView: fields, and the state over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dolfinx import fem, io

from relax.base import parallel
from relax.jobs.folder import FIELDS, STATES, check_space
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
    with io.VTXWriter(domain.comm, folder / FIELDS[0], _interpolated(parts, in_one_element(parts)), "BP4") as file:
        file.write(0.0)
    mesh_degree = domain.ufl_domain().ufl_coordinate_element().degree
    with io.XDMFFile(domain.comm, folder / FIELDS[1], "w") as file:
        file.write_mesh(domain)
        for v in _interpolated(parts, in_spaces(parts, "Lagrange", mesh_degree)):
            file.write_function(v, 0.0)


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
        self._file = io.VTXWriter(comm, folder / STATES, self._fields, "BP4", io.VTXMeshPolicy.reuse)

    def write(self, time: float) -> None:
        """Append the state as it is now."""
        for part, field in zip(self._parts, self._fields, strict=True):
            part.update()
            field.interpolate(part.field)
        self._file.write(time)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
