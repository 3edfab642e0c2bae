"""Faults of DOLFINx's side: orders of values, points, parts of meshes, compiled forms."""

from __future__ import annotations

from faults.mutant import Mutant

DIFFUSION = "test_contract.py::TestDiffusion"
CLAMPED_NUMBER = "test_contract.py::TestDirichletConstant"

MUTANTS = [
    Mutant(
        "held &= are_inside if dim == tdim else are_inside | are_outside[:, entity]",
        "pass",
        "test_richer.py -k clamped",
        "an inner facet between two vertices of the boundary is not clamped",
    ),
    Mutant(
        "are_inside | are_outside[:, entity]",
        "are_outside[:, entity]",
        "test_richer.py -k within",
        "a line that is held within the mesh is held between its vertices, too",
    ),
    Mutant(
        "for dim in {tdim, tdim - 1, 0}:", "for dim in {tdim - 1, 0}:", "test_richer.py -k within", "a cell is held"
    ),
    Mutant(
        "codes |= (places[:, 0] > places[:, 1]).astype(np.uint32) << np.uint32(bit)",
        "pass",
        "test_dof_order.py -k one_vector",
        "edges have the orientation of their cell, which is not that of its neighbour",
        ranks=2,
    ),
    Mutant(
        "matrix = self._dofs.turned if dual else self._dofs.back",
        "matrix = self._dofs.back",
        "test_dof_order.py -k one_vector",
        "derivatives in tangential moments of facets are turned as values are",
    ),
    Mutant(
        "return facets[cells.array[facets] == 1.0]",
        "return facets",
        "test_submesh.py -k prior_on",
        "on a part of a mesh facets between two ranks are its boundary",
        ranks=3,
    ),
    Mutant(
        "if count := parallel.total(comm, int(outside)):",
        "if count := 0:",
        "test_submesh.py -k test_refused",
        "an integral goes beyond the part that a coefficient lives on",
    ),
    Mutant(
        "if outside := parallel.total(comm, int(np.count_nonzero(owners < 0))):",
        "if outside := 0:",
        "test_interpolated.py -k refused",
        "zeros stand where the mesh of a coefficient has no point",
    ),
    Mutant(
        "fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "pass",
        "test_jit.py -k two_processes",
        "both compile",
    ),
    Mutant("or _is_held(lock)", "or False", "test_jit.py -k killed", "what lives is swept"),
    Mutant("and not is_abandoned(source):", "and False:", "test_jit.py -k alone", "a foreign compilation is cut off"),
    Mutant("raise _Missing(module) from damaged", "raise", "test_jit.py -k damaged", "a damaged module stays"),
    Mutant(
        "except of_ffcx.cffi.VerificationError as error:",
        "except ZeroDivisionError as error:",
        "test_jit.py -k fails",
        "a compiler that fails speaks for itself",
    ),
    Mutant(
        "5, -1), 4, 3, 2, 1, 0)",
        "5, -1), 3, 2, 1, 0)",
        "test_layout.py",
        "values of several cells at one point are in the order of the partition",
        ranks=2,
    ),
    Mutant(
        "_SAME_COORDINATE * extent)",
        "0.0 * extent)",
        "test_layout.py",
        "the last bits of a midpoint decide the order",
        ranks=3,
    ),
    Mutant(
        "n * (comm.rank == 0)",
        "n",
        CLAMPED_NUMBER,
        "every rank holds a constant that rank 0 owns",
        ranks=2,
    ),
    Mutant(
        "parts.append(parallel.from_rank_0(self._comm, mine))",
        "parts.append(mine)",
        CLAMPED_NUMBER,
        "a constant is zero on all ranks but the first",
        ranks=2,
    ),
    Mutant(
        "carrier.x.scatter_forward()",
        "pass",
        DIFFUSION,
        "a missing ghost update of controls",
        ranks=2,
        below="carrier.x.array[: b - a] = vector[a:b]",
    ),
    Mutant(
        "return parallel.dot(self._comm, a, b)",
        "return float(np.dot(a, b))",
        DIFFUSION,
        "a reduction left out: the inner product of owned vectors",
        ranks=2,
    ),
    Mutant(
        "return parallel.checked_on_all(self._comm, values, self.size, what)",
        "return parallel.checked(self._comm, values, self.size, what)",
        "test_layer.py::TestDiffusion -k rank_0s",
        "each rank solves at a control of its own",
        ranks=2,
        file="layout.py",
    ),
    Mutant(
        'finished = path.with_suffix(".c.cached").exists() and not path.is_dir()',
        "finished = False",
        "test_cli.py -k swept",
        "good forms are swept away",
    ),
    Mutant("mine[original != first] = -1", "pass", "test_observe.py", "two ranks own a point between them", ranks=2),
    Mutant(
        "np.minimum.reduceat(numbers[cells], starts)",
        "np.maximum.reduceat(numbers[cells], starts)",
        "test_observe.py",
        "a wrong owner of a point between cells",
        ranks=2,
    ),
    Mutant("_SLACK = 1e-10", "_SLACK = 0.0", "test_observe.py", "points of the boundary are outside"),
    Mutant(
        "[form for form in forms if form is not None]",
        "[form for form in forms[::-1] if form is not None]",
        "test_compiling.py",
        "a form in another one's place",
    ),
    Mutant("None), sorted(tags))", "None), sorted(tags)[:1])", "test_compiling.py", "one tag of several is integrated"),
]
