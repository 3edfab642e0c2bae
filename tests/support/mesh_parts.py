"""Parts of meshes that states live on: tagged facets, the halves of a square and what is between them."""

from __future__ import annotations

import numpy as np
import ufl
from dolfinx import fem, mesh

from relax import meshes


def on_facets(domain, tags, element):
    """A Function on the mesh of tagged facets, and the measure of these."""
    part = meshes.submesh(domain, domain.topology.dim - 1, meshes.facets(domain, tags))
    return fem.Function(fem.functionspace(part, element), name="lam"), meshes.ds(domain, tags)


def halves(domain):
    """The cells left and right of x = 1/2 as meshes, dx with 1 and 2 on them, the facets between, dS(1) from 1 to 2."""
    dim, topology = domain.topology.dim, domain.topology
    topology.create_connectivity(dim - 1, dim)
    topology.create_connectivity(dim, dim - 1)
    cells = [mesh.locate_entities(domain, dim, lambda x, s=s: s * (x[0] - 0.5) < 1e-10) for s in (1, -1)]
    number = np.zeros(topology.index_map(dim).size_local + topology.index_map(dim).num_ghosts, dtype=np.int32)
    for k, own in enumerate(cells):
        number[own] = k + 1
    tags = mesh.meshtags(domain, dim, np.arange(len(number), dtype=np.int32), number)
    between = mesh.locate_entities(domain, dim - 1, lambda x: np.isclose(x[0], 0.5))
    of_facets, of_cells = topology.connectivity(dim - 1, dim), topology.connectivity(dim, dim - 1)
    rows = []
    for facet in between[between < topology.index_map(dim - 1).size_local]:
        both = sorted(of_facets.links(facet), key=lambda c: number[c])
        rows += [n for c in both for n in (c, np.flatnonzero(of_cells.links(c) == facet)[0])]
    parts = [meshes.submesh(domain, dim, own) for own in cells]
    line = meshes.submesh(domain, dim - 1, between)
    dS = ufl.Measure("dS", domain=domain, subdomain_data=[(1, np.array(rows, dtype=np.int32))])
    return parts, ufl.Measure("dx", domain=domain, subdomain_data=tags), line, dS(1)
