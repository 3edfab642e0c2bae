"""Fields on file, to be read on any number of ranks: by adios4dolfinx, or io4dolfinx, as it is called since 2025."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from dolfinx import fem

from relax.base.fem.forms import num_owned
from relax.base.types import Array
from relax.errors import BadInput

_PACKAGES = ("adios4dolfinx", "io4dolfinx")


def _installed() -> Any:
    for name in _PACKAGES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def _package() -> Any:
    package = _installed()
    if package is None:
        raise BadInput(
            "fields are kept by adios4dolfinx or io4dolfinx, and neither is installed: on Debian `apt install "
            "python3-adios4dolfinx`, with conda `conda install -c conda-forge adios4dolfinx`"
        )
    return package


def is_possible() -> bool:
    """Whether a package that writes fields is installed. Local."""
    return _installed() is not None


def write(path: Path, fields: Sequence[fem.Function]) -> None:
    """Write fields by the cells of their meshes' input, as "field 0", "field 1", ... Collective.

    Raises:
        BadInput: on every rank, where the package for it is missing.
    """
    for i, field in enumerate(fields):
        _package().write_function_on_input_mesh(path, field, name=f"field {i}")


@dataclass(frozen=True)
class StoredField:
    """A field on file, not read yet.

    Attributes:
        path: of the file.
        number: of the field in it.
        element: that it is of, in words.
        size: the number of its degrees of freedom.
    """

    path: Path
    number: int
    element: str
    size: int

    def into(self, field: fem.Function) -> None:
        """Read it into a field of the same element on the same mesh, however that is partitioned. Collective.

        Raises:
            BadInput: on every rank, when the space is another one, or no package for it is installed.
        """
        V = field.function_space
        element, size = str(V.ufl_element()), V.dofmap.index_map.size_global * V.dofmap.index_map_bs
        if (element, size) != (self.element, self.size):
            raise BadInput(
                f"{self.path}: expected a field of {element} with {size} degrees of freedom, as the present one has; "
                f"kept is one of {self.element} with {self.size}"
            )
        _package().read_function(self.path, field, name=f"field {self.number}")
        field.x.scatter_forward()

    def owned(self, V: fem.FunctionSpace) -> Array:
        """This rank's values of it in a space. Collective."""
        field = fem.Function(V)
        self.into(field)
        return np.array(field.x.array[: num_owned(V)])
