"""Faults of meshes and tags, and of what is seen of a state."""

from __future__ import annotations

from faults.mutant import Mutant

MUTANTS = [
    Mutant(
        "blocks = blocks @ self._transformations(v, seen.shape[2])",
        "pass",
        "test_expressions.py -k edges",
        "fields whose values belong to edges that two cells see in two ways",
    ),
    Mutant(
        "parallel.smallest(V.mesh.comm, first)[places] == number",
        "first[places] == number",
        "test_expressions.py -k same_numbers",
        "what jumps is taken from one cell, on any number of ranks",
        ranks=2,
    ),
    Mutant(
        "given.x.array[:] = self._matrix.T @ here.x.array",
        "given.x.array[:] = 0.0",
        "test_expressions.py -k fluxes",
        "the transpose of the way from a field to the points",
    ),
    Mutant(
        "if isinstance(node, _SIZES) and not moved.is_affine:",
        "if False:",
        "test_expressions.py -k refused",
        "a moved cell has another size where its map bends",
    ),
    Mutant(
        "return self._dual(u, dy, of, dm if of is u else {u: du.x.array, **dm})",
        "return self._dual(u, dy, of, dm)",
        "test_controls.py -k closed_form",
        "what a change of the state does to the gradient in a control that is seen",
    ),
    Mutant(
        "if own if of is u else part.holds(of):",
        "if of is not u and part.holds(of):",
        "test_controls.py -k test_derivatives",
        "in a stack, too, a control bends the derivative in the state",
    ),
    Mutant(
        "if own if of is u else part.holds(of):",
        "if own or part.holds(of):",
        "test_controls.py -k part_without",
        "what holds no control adds its first derivative to the second one",
    ),
    Mutant(
        "function.x.scatter_forward()",
        "pass",
        "test_fill.py",
        "a Function is filled but for its ghosts",
        ranks=2,
        file="fields.py",
    ),
    Mutant(
        "if type(self) is not Functional:",
        "if False:",
        "test_dual_weighted.py -k cannot",
        "an observable of one's own is not taken for what it is made of",
    ),
    Mutant(
        "if type(self) is not PointValues:", "if False:", "test_dual_weighted.py -k cannot", "as one of points is not"
    ),
    Mutant(
        "self._columns.scatter_reverse(la.InsertMode.add)",
        "pass",
        "test_dual_weighted.py -k values_of",
        "what a value at a degree of freedom does to those of other ranks",
        ranks=2,
    ),
    Mutant(
        "*([self.dt] if isinstance(self.dt, fem.Constant) else [])",
        "*[]",
        "test_evolution_looks.py -k step_length",
        "an integral in time whose weights are not differentiated",
    ),
    Mutant(
        "names = known.cell_names if kind",
        "names = known.facet_names if kind",
        "test_mesh_files.py -k plate",
        "names of facets are taken for those of cells",
    ),
    Mutant(
        "parallel.any_rank(domain.comm, entities.size > 0)",
        "entities.size > 0",
        "test_meshes.py",
        "a rank without facets of a tag says there are none",
        ranks=2,
    ),
    Mutant(
        'waiting.append(f"{file}.opt")',
        "pass",
        "test_mesh_files.py -k programs",
        "the options beside a mesh, which Gmsh reads as a script, are not looked at",
    ),
    Mutant(
        "if piece in _READS:",
        "if piece in _READS[:1]:",
        "test_mesh_files.py -k programs",
        "what a geometry merges may run programs",
    ),
    Mutant(
        "rows, keys = (parallel.rows_at_home(comm, what, home) for what in (rows, keys))",
        "pass",
        "test_mesh_files.py -k other_ranks",
        "cells are compared with those of their own rank alone",
        ranks=2,
    ),
    Mutant(
        "bad = np.flatnonzero(~(np.abs(points) <= FAR).all(axis=1))",
        "bad = np.flatnonzero((np.abs(points) > FAR).all(axis=1))",
        "test_mesh_files.py -k no_mesh",
        "nodes at NaN are nodes",
    ),
    Mutant(
        "place = (upper if at_upper else lower)[axis]",
        "place = (lower if at_upper else upper)[axis]",
        "test_meshes.py",
        "sides of a box have each other's tags",
    ),
    Mutant(
        "dual.scatter_reverse(la.InsertMode.add)",
        "pass",
        "test_contract.py::TestPoints",
        "adjoints of points lose what ghosts collect",
        ranks=2,
    ),
    Mutant(
        "total += parallel.dot(terminal.space.mesh.comm, dual, change[: len(dual)])",
        "total += np.dot(dual, change[: len(dual)])",
        "test_schrodinger_observables.py::TestNorm",
        "a reduction left out of a functional's tangent",
        ranks=2,
    ),
    Mutant(
        "return factor * terminal.dual(self._derived(terminal, *moved))",
        "return terminal.dual(self._derived(terminal, *moved))",
        "test_schrodinger_observables.py::TestNorm",
        "the curvature of a functional without its seed",
    ),
    Mutant(
        "/ (2.0 * step))",
        "/ step)",
        "test_contract.py::TestSumOfQuartics",
        "a one-sided step under a central difference",
        file="base.py",
    ),
    Mutant(
        "@ self._bras).conj()",
        "@ self._bras)",
        "test_schrodinger_observables.py::TestOverlapsWithComplexStates",
        "a conjugate left out of an adjoint",
    ),
    Mutant(
        "(0.5 if n in ends else 1.0)",
        "1.0",
        "test_evolution_looks.py",
        "ends of an integral weigh in full",
    ),
    Mutant(
        "num_steps + 1 + n,",
        "num_steps + n,",
        "test_evolution_looks.py",
        "the last step but one for the last",
    ),
    Mutant(
        "rows = np.take_along_axis(values, order[:, None, :], axis=2).reshape",
        "rows = values.reshape",
        "test_observe.py -k points_in_cells",
        "basis functions are not sorted with their columns",
    ),
    Mutant(
        "domain.topology.create_entity_permutations()",
        "pass",
        "test_observe.py -k elements_on_facets",
        "a rank without a point leaves the others waiting",
        ranks=3,
        file="points.py",
    ),
    Mutant(
        "weights = self.values * dy[self.rows]",
        "weights = self.values * dy[: len(self.rows)]",
        "test_observe.py -k derivatives_of_point",
        "a rank takes the seeds of the first points",
        ranks=2,
    ),
    Mutant(
        "starts = start + self._ends[:-1]",
        "starts = self._ends[:-1]",
        "test_evolution_looks.py",
        "a stack in a stack starts at the beginning",
    ),
    Mutant(
        "part.looks(num_steps, int(first))",
        "part.looks(num_steps, start)",
        "test_evolution_looks.py",
        "looks of the second part begin with the first",
    ),
]
