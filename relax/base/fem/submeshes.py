"""Meshes that are a part of another one, facets or cells of it, and Functions on them in forms over the whole one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import ufl
from dolfinx import fem, la, mesh
from ufl.core.expr import Expr
from ufl.corealg.traversal import traverse_unique_terminals, unique_pre_traversal
from ufl.domain import extract_unique_domain

from relax.base import parallel
from relax.base.checks import of_kind
from relax.base.fem import compat
from relax.errors import BadInput, BadProblem


@dataclass(frozen=True, eq=False)
class Part:
    """A mesh as a part of another.

    Attributes:
        whole: the other.
        entities: which of its entities each local cell of the part is.
        entity_map: the same as DOLFINx gave it.
    """

    whole: mesh.Mesh
    entities: npt.NDArray[np.int32]
    entity_map: Any


_parts: WeakKeyDictionary[mesh.Mesh, Part] = WeakKeyDictionary()


def set_whole(part: mesh.Mesh, whole: mesh.Mesh, entity_map: Any) -> None:
    """Let forms over a mesh know a part of it that ``dolfinx.mesh.create_submesh`` has made.

    Collective. :func:`submesh` does both.

    Args:
        part: the submesh, of facets or of cells.
        whole: the mesh that it was made of.
        entity_map: the second of what ``create_submesh`` gave.

    Raises:
        BadInput: on every rank, when they do not belong together.
    """
    of_kind(part, mesh.Mesh, "a mesh of dolfinx.mesh.create_submesh", "set_whole: part")
    of_kind(whole, mesh.Mesh, "the mesh that it is a part of", "set_whole: whole")
    dim, tdim = part.topology.dim, whole.topology.dim
    with parallel.together(whole.comm):
        if dim not in (tdim, tdim - 1):
            raise BadInput(f"set_whole: expected a part of cells or facets, got entities of dimension {dim} in {tdim}")
        cells = part.topology.index_map(dim)
        try:
            entities = compat.entities_of_part(entity_map, cells.size_local + cells.num_ghosts)
        except (AttributeError, TypeError, ValueError) as cause:
            raise BadInput(
                "set_whole: entity_map: expected the second of what create_submesh gave for these meshes, got "
                f"{entity_map!r:.80}"
            ) from cause
    _parts[part] = Part(whole, entities, entity_map)


def part_of(domain: mesh.Mesh) -> Part | None:
    """As what part of which mesh a mesh is known; None for one that is known as none. Local."""
    return _parts.get(domain)


def submesh(domain: mesh.Mesh, dim: int, entities: npt.ArrayLike) -> mesh.Mesh:
    """Some facets or cells of a mesh as a mesh of their own, whose Functions may stand in forms over the whole one.

    Collective. As ``dolfinx.mesh.create_submesh``; a Function of the part may be a coefficient, a control or a state in
    integrals over those facets (``ds``; inside ``dS``, as ``f("+")``) or cells (``dx``) of the whole mesh: in a
    residual, and in what is seen. On facets it has values alone, no gradient.

    Args:
        domain: the whole mesh.
        dim: the dimension of the entities: that of the mesh, or one less.
        entities: local indices, ghosts included, such as ``relax.meshes.facets(domain, "top")``; a rank may have none.

    Raises:
        BadInput: on every rank, for other dimensions or indices, and for none at all.
    """
    of_kind(domain, mesh.Mesh, "a mesh of DOLFINx", "submesh: domain")
    topology, tdim = domain.topology, domain.topology.dim
    if dim not in (tdim, tdim - 1):
        raise BadInput(f"submesh: dim: expected {tdim} for cells or {tdim - 1} for facets, got {dim!r}")
    topology.create_entities(dim)
    topology.create_connectivity(dim, tdim)
    topology.create_connectivity(tdim, dim)
    index_map = topology.index_map(dim)
    known = index_map.size_local + index_map.num_ghosts
    with parallel.together(domain.comm):
        wanted = np.unique(np.asarray(entities))
        is_whole = wanted.dtype.kind in "iu" or wanted.size == 0
        if not is_whole or (wanted.size and not 0 <= wanted[0] <= wanted[-1] < known):
            raise BadInput(
                f"submesh: entities: expected indices from 0 to {known - 1} on this rank, got {entities!r:.80}"
            )
    if parallel.total(domain.comm, len(wanted)) == 0:
        raise BadInput("submesh: entities: expected at least one on some rank, got none")
    part, entity_map, *_ = mesh.create_submesh(domain, dim, wanted.astype(np.int32))
    set_whole(part, domain, entity_map)
    return part


def entity_maps(form: ufl.Form) -> Any:
    """What ``fem.form`` asks for as ``entity_maps``: None where all is on the mesh of the integrals. Local."""
    parts = {}
    for terminal in (*form.arguments(), *form.coefficients()):
        domain: Any = getattr(terminal.ufl_function_space(), "mesh", None)
        if domain in _parts and domain.ufl_domain() not in form.ufl_domains():
            parts[domain] = _parts[domain]
    return compat.entity_maps(parts) if parts else None


def outer_facets(domain: mesh.Mesh) -> npt.NDArray[np.int32]:
    """The facets of this rank's cells on the boundary of the mesh: local indices, sorted. Collective.

    As ``dolfinx.mesh.exterior_facet_indices``, which on a part of a mesh counts facets where two ranks meet, too.
    """
    topology, tdim = domain.topology, domain.topology.dim
    topology.create_entities(tdim - 1)
    topology.create_connectivity(tdim - 1, tdim)
    facets: npt.NDArray[np.int32] = mesh.exterior_facet_indices(topology)
    if domain not in _parts:
        return facets
    topology.create_connectivity(tdim, tdim - 1)
    of_cells = topology.connectivity(tdim, tdim - 1)
    cells = la.vector(topology.index_map(tdim - 1))
    owned = of_cells.array[: of_cells.offsets[topology.index_map(tdim).size_local]]
    np.add.at(cells.array, owned, 1.0)
    cells.scatter_reverse(la.InsertMode.add)
    cells.scatter_forward()
    return facets[cells.array[facets] == 1.0]


def boundary_measure(domain: mesh.Mesh) -> ufl.Measure:
    """The measure of the whole boundary of a mesh that may be a part of another. Collective."""
    if domain not in _parts:
        return ufl.Measure("ds", domain=domain)
    facets = outer_facets(domain)
    tags = mesh.meshtags(domain, domain.topology.dim - 1, facets, np.ones(len(facets), dtype=np.int32))
    return ufl.Measure("ds", domain=domain, subdomain_data=tags)(1)


def check_both_sides(domain: mesh.Mesh, what: str) -> None:
    """Refuse a mesh whose facets between two ranks have a cell of one of them alone. Collective.

    Raises:
        BadInput: on every rank, with how many: DOLFINx leaves such facets out of integrals over dS.
    """
    topology, tdim = domain.topology, domain.topology.dim
    outer = outer_facets(domain)
    beside = np.diff(topology.connectivity(tdim - 1, tdim).offsets)
    alone = np.flatnonzero(beside[: topology.index_map(tdim - 1).size_local] == 1)
    if count := parallel.total(domain.comm, int(np.count_nonzero(~np.isin(alone, outer)))):
        raise BadInput(
            f"{what}: {count} facets between cells of two ranks are known with one of the cells alone; expected a mesh "
            "with ghost_mode=GhostMode.shared_facet, as relax.meshes makes them"
        )


def check_meshes(form: ufl.Form, what: str) -> None:
    """Refuse a form with what is on another mesh, unless that is a part over which its integral goes. Collective.

    Raises:
        BadProblem: on every rank, saying what stands where.
    """
    parts: dict[Any, mesh.Mesh] = {part.ufl_domain(): part for part in _parts}
    for integral in form.integrals():
        domain = integral.ufl_domain()
        is_untagged = integral.integral_type() == "exterior_facet" and integral.subdomain_id() == "everywhere"
        if is_untagged and domain in parts and parts[domain].comm.size > 1:
            raise BadProblem(
                f"{what}: an integral over the whole boundary (ds) of a part of a mesh, where DOLFINx on several ranks "
                "counts facets between ranks, too; expected ds of tagged facets"
            )
        for terminal in traverse_unique_terminals(integral.integrand()):
            if isinstance(terminal, fem.Constant | ufl.classes.GeometricQuantity | ufl.Coefficient):
                of = extract_unique_domain(terminal)
                if of is not None and of != domain:
                    _check_terminal(integral, terminal, what)


def _check_terminal(integral: ufl.Integral, terminal: Expr, what: str) -> None:
    """Of another mesh than the integral's. Collective."""
    where = f"{what}: {terminal} is on another mesh than its integral"
    if not isinstance(terminal, fem.Function):
        raise BadProblem(f"{where}; expected one of the integral's own mesh")
    given = terminal.function_space.mesh
    part = _parts.get(given)
    if part is None or part.whole.ufl_domain() != integral.ufl_domain():
        raise BadProblem(
            f"{where}; expected a part of that one, which relax.meshes.submesh has made, or its values there: "
            "relax.interpolated(f, V), once, of a coefficient that stays"
        )
    whole, kind = part.whole, integral.integral_type()
    is_of_facets = given.topology.dim < whole.topology.dim
    if kind not in (("exterior_facet", "interior_facet") if is_of_facets else ("cell", "exterior_facet")):
        raise BadProblem(
            f"{where}, a part of {'facets' if is_of_facets else 'cells'}; expected it in integrals over "
            + ("the boundary (ds) or facets inside (dS)" if is_of_facets else "cells (dx) or the boundary (ds)")
            + f", got one over {kind}"
        )
    if kind == "interior_facet" and None in sides_of(integral.integrand(), [terminal]):
        raise BadProblem(f'{where}, over facets inside; expected {terminal}("+") there, as it has one value on a facet')
    if is_of_facets:
        element = terminal.ufl_element()
        if element.pullback != ufl.identity_pullback:
            raise BadProblem(f"{where}, a part of facets; expected a Lagrange or DG space there, got {element}")
        if any(terminal is t for node in slopes_in(integral.integrand()) for t in traverse_unique_terminals(node)):
            raise BadProblem(
                f"{where}, a part of facets, and its derivative is taken there; expected its values alone in integrals "
                "over the whole mesh"
            )
    over = integrated(integral, whole, given.topology.dim)
    comm, outside = whole.comm, np.count_nonzero(~np.isin(over, part.entities))
    if count := parallel.total(comm, int(outside)):
        raise BadProblem(
            f"{where}, a part of {'facets' if is_of_facets else 'cells'}, and {count} of the "
            f"{parallel.total(comm, len(over))} that the integral goes over are outside it; expected an integral over "
            "the part alone, by its tag: relax.meshes.ds(mesh, tag), relax.meshes.dx(mesh, tag)"
        )


def slopes_in(integrand: Expr) -> Iterator[Expr]:
    """Derivatives in x."""
    others = (ufl.classes.CoefficientDerivative, ufl.classes.VariableDerivative)
    for node in unique_pre_traversal(integrand):
        if isinstance(node, ufl.classes.Derivative) and not isinstance(node, others):
            yield node


def integrated(integral: ufl.Integral, whole: mesh.Mesh, dim: int) -> npt.NDArray[np.int32]:
    """The cells or facets that an integral goes over on this rank; for ``dim`` of cells those beside facets. Local.

    Of facets inside these are the facets.
    """
    topology, tdim, kind = whole.topology, whole.topology.dim, integral.integral_type()
    if kind == "interior_facet":
        return inner_facets(integral, whole)[0]
    if kind == "cell":
        every = np.arange(topology.index_map(tdim).size_local, dtype=np.int32)
    else:
        topology.create_connectivity(tdim - 1, tdim)
        every = mesh.exterior_facet_indices(topology)
    over = tagged_entities(integral, whole, every)
    if kind == "cell" or dim < tdim:
        return over
    beside = topology.connectivity(tdim - 1, tdim)
    return np.array([beside.links(facet)[0] for facet in over], dtype=np.int32)


def inner_facets(
    integral: ufl.Integral, whole: mesh.Mesh
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """The inner facets that an integral goes over on this rank, and the cells on their sides + and -. Local."""
    topology, tdim = whole.topology, whole.topology.dim
    topology.create_connectivity(tdim - 1, tdim)
    topology.create_connectivity(tdim, tdim - 1)
    cells, of_cells = topology.connectivity(tdim - 1, tdim), topology.connectivity(tdim, tdim - 1)
    data, numbers = integral.subdomain_data(), integral.subdomain_id()
    if data is None or numbers in ("everywhere", "otherwise") or isinstance(data, mesh.MeshTags):
        is_inner = np.diff(cells.offsets) == 2
        is_inner[topology.index_map(tdim - 1).size_local :] = False
        facets = tagged_entities(integral, whole, np.flatnonzero(is_inner).astype(np.int32))
        first = cells.offsets[facets]
        return facets, cells.array[first], cells.array[first + 1]
    # Rows of a cell, the facet's number in it, and the same for the other side.
    wanted = numbers if isinstance(numbers, tuple) else (numbers,)
    rows = [np.asarray(of, dtype=np.int32).reshape(-1, 4) for n, of in data if n in wanted]
    given = np.concatenate([np.empty((0, 4), dtype=np.int32), *rows])
    plus, minus = given[:, 0], given[:, 2]
    return of_cells.array[of_cells.offsets[plus] + given[:, 1]], plus, minus


def sides_of(integrand: Expr, terminals: Sequence[Any]) -> set[str | None]:
    """On which sides of facets some terminals are taken; None where no side is said."""
    found: set[str | None] = set()
    seen: set[tuple[Expr, str | None]] = set()
    left: list[tuple[Expr, str | None]] = [(integrand, None)]
    while left:
        node, side = left.pop()
        if (node, side) in seen:
            continue
        seen.add((node, side))
        if isinstance(node, ufl.classes.Restricted):
            side = node.side()
        if any(node == t for t in terminals):
            found.add(side)
        left += [(operand, side) for operand in node.ufl_operands]
    return found


def tagged_entities(integral: ufl.Integral, whole: mesh.Mesh, every: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Those of some cells or facets that an integral goes over by its tags. Local."""
    data, numbers = integral.subdomain_data(), integral.subdomain_id()
    if data is None or numbers in ("everywhere", "otherwise"):
        return every
    wanted = [n for n in (numbers if isinstance(numbers, tuple) else (numbers,)) if not isinstance(n, str)]
    if isinstance(data, mesh.MeshTags):
        tagged = [data.find(n) for n in wanted]
    else:
        kind = integral.integral_type()
        tagged = [_entities(whole, kind, np.asarray(of)) for n, of in data if n in wanted]
    return np.intersect1d(every, np.concatenate([np.empty(0, dtype=np.int32), *tagged]))


def _entities(whole: mesh.Mesh, kind: str, given: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Cells, or facets that are given as a cell and the facet's number in it. Local."""
    if kind == "cell":
        return given.ravel()
    whole.topology.create_connectivity(whole.topology.dim, whole.topology.dim - 1)
    facets = whole.topology.connectivity(whole.topology.dim, whole.topology.dim - 1)
    return np.array([facets.links(cell)[i] for cell, i in given.reshape(-1, 2)], dtype=np.int32)
