"""Meshes and their tags: generators, files, and the way from a tag's name to the entities and measures it stands for.

A mesh is a plain ``dolfinx.mesh.Mesh``. Its tags are kept beside it: :func:`tags_of` finds them.
"""

from relax.base.fem.submeshes import set_whole, submesh
from relax.meshes.files import read
from relax.meshes.generators import box, disk, interval, rectangle, unit_cube, unit_square
from relax.meshes.tags import Tag, Tags, cells, ds, dx, facets, set_tags, tags_of

__all__ = [
    "Tag",
    "Tags",
    "box",
    "cells",
    "disk",
    "ds",
    "dx",
    "facets",
    "interval",
    "read",
    "rectangle",
    "set_tags",
    "set_whole",
    "submesh",
    "tags_of",
    "unit_cube",
    "unit_square",
]
