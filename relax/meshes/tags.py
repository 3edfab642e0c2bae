"""Tags of a mesh, kept beside it: by number or by name to entities and UFL measures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import ufl
from dolfinx import mesh

from relax.base import parallel
from relax.base.checks import of_kind
from relax.base.fem.submeshes import outer_facets
from relax.errors import BadInput

Tag = str | int
Entities = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Tags:
    """The tags of one mesh.

    Attributes:
        cells: a number for each tagged cell, or None when no cell has one.
        facets: a number for each tagged facet, or None when no facet has one.
        cell_names: what the cells' numbers are called, the same on every rank.
        facet_names: what the facets' numbers are called, the same on every rank.
    """

    cells: mesh.MeshTags | None = None
    facets: mesh.MeshTags | None = None
    cell_names: Mapping[str, int] = field(default_factory=dict)
    facet_names: Mapping[str, int] = field(default_factory=dict)


_tags: WeakKeyDictionary[mesh.Mesh, Tags] = WeakKeyDictionary()


def set_tags(domain: mesh.Mesh, tags: Tags) -> None:
    """Give a mesh these tags; any that it had before are forgotten."""
    for entities, dim in ((tags.cells, domain.topology.dim), (tags.facets, domain.topology.dim - 1)):
        if entities is not None and entities.dim != dim:
            raise BadInput(f"set_tags: expected tags of entities of dimension {dim}, got dimension {entities.dim}")
    _tags[domain] = tags


def tags_of(domain: mesh.Mesh) -> Tags:
    """The tags of a mesh; empty ones when it has none.

    Raises:
        BadInput: for what is no mesh.
    """
    of_kind(domain, mesh.Mesh, "a mesh of DOLFINx", "domain")
    return _tags.get(domain, Tags())


def facets(domain: mesh.Mesh, tags: Tag | Sequence[Tag]) -> Entities:
    """Facets that carry one of the tags.

    Collective.

    Args:
        domain: the mesh.
        tags: a name, a number, or a sequence of them; the same on every rank.

    Returns:
        Indices local to this rank, ghosts included, sorted, each once.

    Raises:
        BadInput: when the mesh has no such tag; the message lists those that it has.
    """
    return np.unique(np.concatenate(_entities(domain, tags, "facet")))


def cells(domain: mesh.Mesh, tags: Tag | Sequence[Tag]) -> Entities:
    """Cells that carry one of the tags, as :func:`facets`. Collective."""
    return np.unique(np.concatenate(_entities(domain, tags, "cell")))


def labels(domain: mesh.Mesh, tags: mesh.MeshTags | Sequence[Tag]) -> tuple[int, npt.NDArray[np.int64]]:
    """Which of the tags each cell has: each cell exactly one.

    Collective.

    Args:
        domain: the mesh.
        tags: names and numbers of cells' tags, the same on every rank; or a number for each cell, as DOLFINx has them,
            whose values in rising order are the tags.

    Returns:
        How many tags, and for each cell that this rank owns the place of its own among them.

    Raises:
        BadInput: when a tag has no cell, stands there twice, or a cell has none of them.
    """
    of_kind(domain, mesh.Mesh, "a mesh of DOLFINx", "domain")
    tdim, comm = domain.topology.dim, domain.comm
    if isinstance(tags, mesh.MeshTags):
        if tags.dim != tdim or tags.topology is not domain.topology._cpp_object:
            raise BadInput(f"tags: expected tags of the cells of this mesh, got {tags.name!r} of dimension {tags.dim}")
        each = [tags.find(n) for n in sorted(set().union(*parallel.on_each_rank(comm, set(tags.values.tolist()))))]
    else:
        each = _entities(domain, parallel.of_rank_0(comm, _sequence(tags)), "cell")
    places = np.full(domain.topology.index_map(tdim).size_local, -1, dtype=np.int64)
    twice = False
    for i, entities in enumerate(each):
        mine = entities[entities < len(places)]
        twice |= bool((places[mine] >= 0).any())
        places[mine] = i
    if parallel.any_rank(comm, twice):
        raise BadInput("tags: expected each once, got one again")
    if without := parallel.total(comm, int(np.count_nonzero(places < 0))):
        raise BadInput(f"tags: expected one of the {len(each)} tags on every cell, and {without} cells have none")
    return len(each), places


def dx(domain: mesh.Mesh, tags: Tag | Sequence[Tag] | None = None) -> ufl.Measure:
    """The measure of the cells with these tags, or of all cells.

    Collective. In one form use this measure throughout, or ``ufl.dx`` throughout: DOLFINx 0.9 refuses a mixture.
    """
    known = tags_of(domain)
    measure = ufl.Measure("dx", domain=domain, subdomain_data=known.cells)
    return measure if tags is None else measure(_numbers(domain, tags, "cell"))


def ds(domain: mesh.Mesh, tags: Tag | Sequence[Tag] | None = None) -> ufl.Measure:
    """The measure of the boundary facets with these tags, or of the whole boundary.

    Collective. In one form use this measure throughout, or ``ufl.ds`` throughout: DOLFINx 0.9 refuses a mixture.

    Raises:
        BadInput: when there is no such tag, or none of its facets is on the boundary.
    """
    known = tags_of(domain)
    measure = ufl.Measure("ds", domain=domain, subdomain_data=known.facets)
    if tags is None:
        return measure
    outer = outer_facets(domain)
    for tag, tagged in zip(_sequence(tags), _entities(domain, tags, "facet"), strict=True):
        if not parallel.any_rank(domain.comm, bool(np.isin(tagged, outer).any())):
            raise BadInput(
                f"ds: no facet tagged {tag!r} is on the boundary of the mesh, so an integral over it would be zero; "
                "expected a part of the boundary"
            )
    return measure(_numbers(domain, tags, "facet"))


def _sequence(tags: Tag | Sequence[Tag]) -> list[Tag]:
    wanted = list(tags) if isinstance(tags, Iterable) and not isinstance(tags, str) else [tags]
    if not wanted or not all(isinstance(t, str | int | np.integer) and not isinstance(t, bool) for t in wanted):
        raise BadInput(f"tags: expected a name, a number, or a non-empty sequence of them, got {tags!r}")
    return wanted


def _entities(domain: mesh.Mesh, tags: Tag | Sequence[Tag], kind: str) -> list[Entities]:
    """For each tag the entities that carry it, as far as this rank knows them. Collective."""
    known = tags_of(domain)
    values, names = (known.cells, known.cell_names) if kind == "cell" else (known.facets, known.facet_names)
    if values is None:
        raise BadInput(
            f"the mesh has no {kind} tags, so {tags!r} means nothing; read a file that has them (`relax.meshes.read`), "
            "or attach some with `relax.meshes.set_tags`"
        )
    each = []
    for tag in _sequence(tags):
        number = names.get(tag) if isinstance(tag, str) else int(tag)
        known_to_dolfinx = number is not None and -(2**31) <= number < 2**31
        entities = values.find(number) if known_to_dolfinx else np.empty(0, dtype=np.int32)
        if not parallel.any_rank(domain.comm, entities.size > 0):
            raise BadInput(f"the mesh has no {kind} tag {tag!r}; it has {_listed(domain, values, names)}")
        each.append(entities)
    return each


def _numbers(domain: mesh.Mesh, tags: Tag | Sequence[Tag], kind: str) -> tuple[int, ...]:
    """The tags as numbers, each once, all known to exist. Collective."""
    _entities(domain, tags, kind)
    known = tags_of(domain)
    names = known.cell_names if kind == "cell" else known.facet_names
    return tuple(sorted({names[t] if isinstance(t, str) else int(t) for t in _sequence(tags)}))


def _listed(domain: mesh.Mesh, values: mesh.MeshTags, names: Mapping[str, int]) -> str:
    """The tags there are, as text. Collective."""
    local = parallel.on_each_rank(domain.comm, np.unique(values.values).tolist())
    called = {number: name for name, number in names.items()}
    numbers = sorted(set().union(*local))
    return ", ".join(f"{n} ({called[n]!r})" if n in called else str(n) for n in numbers) or "none"
