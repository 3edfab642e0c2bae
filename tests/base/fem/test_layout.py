"""The order of vectors at the boundary: independent of the partition, and the way to the ranks' parts and back."""

from __future__ import annotations

import basix.ufl
import numpy as np
import pytest
from contract import close, everyone_has, raised_everywhere
from dolfinx import fem, mesh
from dolfinx.graph import adjacencylist
from mpi4py import MPI

from relax import FieldValues, PointValues, ReducedMap, control_values, meshes, pdes
from relax.base.fem.layout import Owned, Replicated, SpaceLayout, as_rows, control_layout
from relax.errors import BadInput

pytestmark = pytest.mark.ranks(1, 2, 3)

COMM = MPI.COMM_WORLD

MESHES = {
    "interval": lambda comm: meshes.interval(9, comm=comm),
    "triangles": lambda comm: meshes.unit_square(4, comm=comm),
    "quadrilaterals": lambda comm: meshes.unit_square(4, cell="quadrilateral", comm=comm),
    "tetrahedra": lambda comm: meshes.unit_cube(2, comm=comm),
    "hexahedra": lambda comm: meshes.unit_cube(2, cell="hexahedron", comm=comm),
    # Fewer cells than three ranks have need of: some own nothing.
    "one square": lambda comm: meshes.unit_square(1, comm=comm),
}
ELEMENTS = {
    "P1": lambda cell, gdim: basix.ufl.element("Lagrange", cell, 1),
    "P2": lambda cell, gdim: basix.ufl.element("Lagrange", cell, 2),
    "P3": lambda cell, gdim: basix.ufl.element("Lagrange", cell, 3),
    "P1 vector": lambda cell, gdim: basix.ufl.element("Lagrange", cell, 1, shape=(gdim,)),
    "DG0": lambda cell, gdim: basix.ufl.element("DG", cell, 0),
    "DG1": lambda cell, gdim: basix.ufl.element("DG", cell, 1),
    "mixed": lambda cell, gdim: basix.ufl.mixed_element(
        [basix.ufl.element("Lagrange", cell, 2, shape=(gdim,)), basix.ufl.element("Lagrange", cell, 1)]
    ),
    "mixed twice": lambda cell, gdim: basix.ufl.mixed_element([basix.ufl.element("Lagrange", cell, 1)] * 2),
}


def space(domain, element):
    return fem.functionspace(domain, ELEMENTS[element](domain.basix_cell(), domain.geometry.dim))


def marked(V):
    """A function that is different in each degree of freedom, and the same function on any partition."""
    u = fem.Function(V)
    frequencies = np.array([[1.0], [np.sqrt(2.0)], [np.sqrt(3.0)]])
    parts = [u] if V.num_sub_spaces == 0 or V.dofmap.bs > 1 else [u.sub(i) for i in range(V.num_sub_spaces)]
    for i, part in enumerate(parts):
        size = int(np.prod(part.function_space.value_shape, dtype=np.int64))
        part.interpolate(
            lambda x, i=i, s=size: np.array([np.exp((frequencies * x).sum(0)) + 100 * i + 10 * j for j in range(s)])
        )
    if V.num_sub_spaces == 0 and V.ufl_element().discontinuous:
        # Cells meet in a point; what tells their values apart there is the number that the mesh was made with.
        cells = np.asarray(V.mesh.topology.original_cell_index, dtype=float)[: len(V.dofmap.list)]
        u.x.array[V.dofmap.list.ravel()] += np.repeat(cells, V.dofmap.list.shape[1])
    u.x.scatter_forward()
    return u


def owned_part(u, layout):
    return u.x.array[: layout.num_owned]


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("name", MESHES)
def test_order_is_that_of_one_rank(name, element):
    """Partitions differ from run to run on several ranks; the order of a vector does not know them."""
    alone = MESHES[name](MPI.COMM_SELF)
    V = space(alone, element)
    reference = SpaceLayout(V)
    wanted = reference.gather(owned_part(marked(V), reference))
    together = space(MESHES[name](COMM), element)
    layout = SpaceLayout(together)
    found = layout.gather(owned_part(marked(together), layout))
    assert layout.size == reference.size == len(found)
    close(found, wanted, 1e-12)
    everyone_has(found)


def dealt_out(*arguments):
    """A partition that no graph partitioner would give: cells are dealt to ranks in turn."""
    num_cells = len(arguments[-1][0]) // 3
    made = adjacencylist((np.arange(num_cells, dtype=np.int32) * 7 % 5) % COMM.size)
    return getattr(made, "_cpp_object", made)


@pytest.mark.parametrize("element", ["P2", "DG1", "mixed"])
def test_order_is_that_of_any_partition(element):
    """Two partitions of one mesh, one of them absurd, and one without ghosts."""
    found = []
    for more in ({}, {"partitioner": dealt_out}, {"ghost_mode": mesh.GhostMode.none}):
        V = space(mesh.create_unit_square(COMM, 4, 4, **more), element)
        layout = SpaceLayout(V)
        found.append(layout.gather(owned_part(marked(V), layout)))
    close(found[1], found[0], 1e-12)
    close(found[2], found[0], 1e-12)


@pytest.mark.parametrize("element", ELEMENTS)
def test_spread_is_gather_backwards(element):
    """Whole vector to owned and ghost values, and back; and ghosts hold what their owners hold."""
    V = space(MESHES["triangles"](COMM), element)
    layout = SpaceLayout(V)
    whole = np.random.default_rng(0).standard_normal((2, 3, layout.size))
    local, u = layout.spread(whole), fem.Function(V)
    assert local.shape == (2, 3, len(u.x.array))
    assert (layout.gather(local[..., : layout.num_owned]) == whole).all()
    u.x.array[: layout.num_owned] = local[0, 0, : layout.num_owned]
    u.x.scatter_forward()
    assert (u.x.array == local[0, 0]).all()


def test_coordinates_rule_the_order():
    """By x, then y: what the docstring promises and what a user who plots a control sees."""
    V = fem.functionspace(meshes.unit_square(5), ("Lagrange", 2))
    x = FieldValues(V).coordinates
    everyone_has(x)
    rounded = np.round(x, 9)
    assert (np.lexsort((rounded[:, 2], rounded[:, 1], rounded[:, 0])) == np.arange(len(x))).all()


# -- controls ----------------------------------------------------------------------------------------------------------


def controls(domain):
    """A field, a vector of numbers, a number, another field."""
    fields = [fem.Function(space(domain, e)) for e in ("P1", "P2")]
    return [fields[0], fem.Constant(domain, (1.0, 2.0)), fem.Constant(domain, 3.0), fields[1]]


def lengths(made):
    return [
        c.function_space.dofmap.index_map.size_global if isinstance(c, fem.Function) else c.value.size for c in made
    ]


def test_replicated_controls():
    made = controls(meshes.unit_square(3))
    layout = Replicated(COMM, made)
    assert layout.kind == "replicated" and layout.size == sum(lengths(made))
    m = np.random.default_rng(1).standard_normal(layout.size)
    parts = layout.split(m)
    assert [len(p) for p in parts] == [len(made[0].x.array), 2, 1, len(made[3].x.array)]
    joined = layout.join(
        [p if isinstance(c, fem.Constant) else p[: owned(c)] for c, p in zip(made, parts, strict=True)]
    )
    assert (joined == m).all()
    close(layout.dot(m, 2.0 * m), 2.0 * m @ m)


def owned(c):
    return c.function_space.dofmap.index_map.size_local


def test_owned_controls():
    """Each rank hands over what it owns, constants are rank 0's, inner products are global."""
    made = controls(meshes.unit_square(3))
    layout = Owned(COMM, made)
    assert layout.size == owned(made[0]) + owned(made[3]) + (3 if COMM.rank == 0 else 0)
    assert COMM.allreduce(layout.size) == sum(lengths(made))
    m = np.random.default_rng(COMM.rank).standard_normal(layout.size)
    parts = layout.split(m)
    everyone_has(parts[1])
    everyone_has(parts[2])
    for control, part in ((made[0], parts[0]), (made[3], parts[3])):
        control.x.array[: owned(control)] = part[: owned(control)]
        control.x.scatter_forward()
        assert (control.x.array == part).all()
    assert (layout.join([parts[0][: owned(made[0])], parts[1], parts[2], parts[3][: owned(made[3])]]) == m).all()
    close(layout.dot(m, m), COMM.allreduce(m @ m))
    everyone_has(np.array(layout.dot(m, m)))


def test_rank_0_counts():
    """Ranks that disagree about a replicated vector by rounding take rank 0's; by more, they are told."""
    layout = Replicated(COMM, controls(meshes.unit_square(3)))
    whole = np.random.default_rng(0).standard_normal(layout.size)
    mine = whole * (1.0 + 1e-9 * COMM.rank)
    agreed = layout.checked(mine, "control")
    assert (agreed == whole).all()
    agreed[:] = 0.0
    assert mine.any()
    if COMM.size > 1:
        of_my_own = np.random.default_rng(COMM.rank).standard_normal(layout.size)
        raised_everywhere(BadInput, lambda: layout.checked(of_my_own, "control"))


def test_unknown_layout():
    error = raised_everywhere(BadInput, lambda: control_layout("shared", COMM, controls(meshes.unit_square(2))))
    assert "'replicated' or 'owned'" in str(error) and "'shared'" in str(error)


def test_rows():
    assert as_rows(np.zeros((2, 3, 4))).shape == (6, 4)
    assert as_rows(np.zeros(4)).shape == (1, 4)
    assert as_rows(np.zeros((2, 3, 0))).shape == (6, 0)
    assert as_rows(np.zeros((0, 4))).shape == (0, 4)


# -- maps --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["triangles", "quadrilaterals", "tetrahedra"])
def test_maps_give_the_numbers_of_one_rank(name):
    """Values, adjoints and Hessian actions do not know how many ranks there are, nor how the mesh is cut."""
    found = []
    for comm in (MPI.COMM_SELF, COMM):
        domain = MESHES[name](comm)
        problem = pdes.poisson.diffusion(domain, degree=2)
        inside = np.random.default_rng(3).uniform(0.1, 0.9, (5, domain.geometry.dim))
        with ReducedMap(problem, PointValues(problem.state.function_space, inside)) as G:
            m = control_values(G, lambda x: np.sin(3.0 * x[0]) + x[1] ** 2)
            seed, direction = np.arange(1.0, 6.0), np.cos(np.arange(G.size_in))
            lin = G.linearize(m)
            found.append([m, lin.value, lin.vjp(seed), lin.hvp(seed, direction), lin.jvp(direction)])
    for alone, together in zip(*found, strict=True):
        close(together, alone)
        everyone_has(together)


@pytest.mark.parametrize("kind", ["replicated", "owned"])
def test_no_controls(kind):
    """Vectors of no entries go every way."""
    layout = control_layout(kind, COMM, [])
    m = layout.join(layout.split(layout.checked([], "control")))
    assert layout.is_empty and layout.size == 0 and m.shape == layout.sizes(m).shape == (0,)
    assert layout.restored(layout.as_kept(m), "kept").shape == (0,) and layout.dot(m, m) == 0.0
    assert not control_layout(kind, COMM, [fem.Constant(meshes.unit_square(1), 1.0)]).is_empty
