"""Faults of problems, steps in time and equations."""

from __future__ import annotations

from faults.mutant import Mutant

CLAMPED = "test_contract.py::TestDirichletAndField"
THETA = "test_heat.py test_evolution.py -k 'by_hand or order_in_time or theta'"
SUBSTITUTED = "test_hamilton_jacobi.py::TestColeHopf"
STATES = "test_eigenstates.py -k 'same_as_dense or particle_in_a_box'"

BLOCKS, BLOCK_FUNCTIONS = "test_blocks.py", "test_block_functions.py"
MULTIPLIERS = "test_multipliers.py"

MUTANTS = [
    Mutant(
        "dual[dofs[: len(part)]] = part",
        "dual[: len(part)] = part",
        f"{BLOCKS} -k derivatives_are",
        "what an observable sees of a block goes to other values of the whole",
    ),
    Mutant(
        "return np.flatnonzero(np.isin(cell_dofs(V, slice(None)), dofs).any(axis=1)).astype(np.int32)",
        "return np.empty(0, dtype=np.int32)",
        f"{BLOCKS} -k derivatives_are",
        "a vector number that a block is held at stays what it was",
    ),
    Mutant(
        "own = fields.moved(with_fixed_degrees(compat.one_subdomain_data(F), for_good=False))",
        "own = fields.moved(F)",
        f"{BLOCKS} -k stokes_beside_blocks",
        "an equation of a block is integrated as all of the mixed space is",
    ),
    Mutant(
        "one_subdomain_data(with_free_degrees(step.residual))",
        "one_subdomain_data(step.residual)",
        f"{BLOCK_FUNCTIONS} -k goal",
        "the richer space is integrated as the blocks are",
    ),
    Mutant(
        "hand_out(self.state)",
        "pass",
        f"{BLOCK_FUNCTIONS} -k ones_own",
        "blocks hold another point than the one at which a gradient is asked for",
    ),
    Mutant(
        "is_new = before is None or not np.array_equal(block.x.array, before)",
        "is_new = True",
        f"{BLOCK_FUNCTIONS} -k first_guess",
        "a first guess in the state of blocks is not seen",
    ),
    Mutant(
        "v.x.array[self.dofs[: self._num_owned]] = values[: self._num_owned]",
        "v.x.array[self.dofs] = values",
        "test_extended.py",
        "ghosts of a field on a part of the mesh are added to what their owner has",
        ranks=2,
    ),
    Mutant(
        "return collected(u.function_space, dual) if self._is_shared else dual[: num_owned(u.function_space)]",
        "return dual[: num_owned(u.function_space)]",
        f"{MULTIPLIERS} -k same_numbers",
        "what is seen of a multiplier is lost where another rank owns the value on the whole mesh",
        ranks=3,
    ),
    Mutant(
        "nodes = np.take_along_axis(known, nearest, axis=1)",
        "nodes = known",
        "test_extended.py",
        "nodes on a facet are taken in the order in which its cell has them",
    ),
    Mutant(
        "if is_new if state.extended[i] is None else parallel.any_rank(state.function_space.mesh.comm, is_new):",
        "if is_new and state.extended[i] is None:",
        f"{MULTIPLIERS} -k first_guess",
        "a first guess in a multiplier is not seen",
    ),
    Mutant(
        "self.values.x.array[:] = self._extended.spread(self._held)",
        "self.values.x.array[self._extended.dofs] = self._held",
        f"{MULTIPLIERS} -k first_guess",
        "a rank without the facets of a multiplier does not know at what it is held",
        ranks=3,
    ),
    Mutant(
        "side = node.side()",
        "pass",
        f"{MULTIPLIERS} -k joined",
        "a field in some cells counts as one on both sides of a facet",
    ),
    Mutant(
        "if isinstance(initial, fem.Function) and not initial_is_fixed:",
        "if not initial_is_fixed:",
        "test_no_controls.py -k initial_states",
        "an initial state of numbers is a control",
    ),
    Mutant(
        "return np.empty((*lead, 0))",
        "pass",
        "test_no_controls.py -k alone",
        "a Hessian action of no columns is computed",
    ),
    Mutant(
        "(size, mapped[0].shape[-2])",
        "(size, product.shape[-2] // size)",
        "test_no_controls.py -k torch",
        "directions are counted by a division by none",
    ),
    Mutant(
        "np.concatenate(parts, axis=-1) if parts else np.empty(0)",
        "np.concatenate(parts, axis=-1)",
        "test_layout.py -k no_controls",
        "a vector of no controls cannot be strung together",
    ),
    Mutant(
        "is_place = any(isinstance(t, ufl.SpatialCoordinate)",
        "is_place = all(isinstance(t, fem.Constant)",
        "test_bad_input.py -k mistakes",
        "coordinates as a control are refused without the way around",
        ranks=2,
    ),
    Mutant(
        "if _holds_ufl(value):",
        "if False:",
        "test_bad_input.py -k mistakes",
        "a Constant in a list is taken for the number that it is now",
        ranks=2,
    ),
    Mutant("return numbers.ravel()", "return numbers", "test_boundary.py -k matrix", "no matrix for a boundary value"),
    Mutant("at(previous, 1.0)", "at(previous, 0.0)", THETA, "the load of the new time at the old state"),
    Mutant(
        "return at((state + previous) / 2, 0.5)",
        "return at((state + previous) / 2, 1.0)",
        THETA,
        "the midpoint takes the load of the step's start",
    ),
    Mutant(
        "self._start + np.arange(N + 1)",
        "np.arange(N + 1)",
        "test_evolution_looks.py -k 'time_in_an_observable or trajectory'",
        "time starts at zero, whatever is said",
    ),
    Mutant(
        "largest[kind] = max(largest.get(kind, 0), int(degree))",
        "largest[kind] = int(degree)",
        "test_quadrature.py",
        "the last integral decides on all quadratures",
    ),
    Mutant(
        "register[...] = wanted",
        "pass",
        "test_hamilton_jacobi_stationary.py -k failed_continuation",
        "a register not given back after a continuation",
        below="finally:",
    ),
    Mutant(
        "not parallel.any_rank(domain.comm, facets.size > 0)",
        "not facets.size > 0",
        "test_boundary.py",
        "a rank without facets says there are none",
        ranks=2,
    ),
    Mutant(
        "holder[bc.dof_indices()[0]] = k",
        "holder[[d for d in bc.dof_indices()[0] if holder[d] < 0]] = k",
        "test_boundary.py " + CLAMPED,
        "a later condition leaves its rows to a control",
    ),
    Mutant(
        "(self._transposed @ duals.T).T",
        "(self._inverse @ duals.T).T",
        "test_pieces.py -k field",
        "of a piece's gradient that of one cell",
    ),
    Mutant(
        "return parallel.sum_over_ranks(self._comm, np.ascontiguousarray((self._transposed",
        "return np.array(np.ascontiguousarray((self._transposed",
        "test_pieces.py -k field",
        "the gradient in a number by this rank's cells alone",
        ranks=2,
    ),
    Mutant(
        "number.x.scatter_forward()  # floats",
        "# floats",
        "test_pieces.py -k field",
        "the tags of a rank's ghosts are not known",
        ranks=2,
    ),
    Mutant(
        "np.linalg.solve(M[dofs][:, dofs].toarray(), seen.values[:, of_cell])",
        "seen.values[:, of_cell]",
        "test_point_source.py -k transpose",
        "basis functions at a point, without the inverse of the cell's mass matrix, as its load",
    ),
    Mutant("- f * v * ufl.dx", "+ f * v * ufl.dx", "test_poisson_mesh.py", "the sign of a source"),
    Mutant(
        "residual -= as_coefficient(q, V)",
        "residual += as_coefficient(q, V)",
        "test_poisson_mesh.py",
        "the sign of a flux",
    ),
    Mutant(
        "- s * v * ufl.dx",
        "+ s * v * ufl.dx",
        "test_heat.py -k 'order_in_space or by_hand'",
        "the sign of a heat source",
    ),
    Mutant(
        "(12 * nu / h**2) ** 2) ** (-0.5)",
        "(12 * nu / h) ** 2) ** (-0.5)",
        "test_burgers.py -k 'vanishes or by_hand'",
        "the diffusive limit of SUPG has the wrong power of h",
    ),
    Mutant(
        "weighted = ufl.inner(u - p + k * mean,",
        "weighted = ufl.inner(k * mean,",
        "test_burgers.py -k 'vanishes or by_hand'",
        "u_t left out of the residual of SUPG",
    ),
    Mutant(
        "strong = _convected(u, u) - ufl.div(nu * ufl.grad(u)) - f",
        "strong = _convected(u, u) + ufl.div(nu * ufl.grad(u)) - f",
        "test_burgers.py -k 'vanishes or by_hand'",
        "the sign of diffusion in the residual of SUPG",
    ),
    Mutant(
        "parallel.largest(domain.comm, float(np.max(each, initial=0.0)))",
        "float(np.max(each, initial=0.0))",
        "test_burgers.py -k cell_peclet",
        "each rank has a Péclet number of its own",
        ranks=2,
    ),
    Mutant(
        "_UPWIND = {1: (0.25, 2)",
        "_UPWIND = {1: (0.5, 2)",
        "test_hamilton_jacobi.py -k 'engquist or galerkins'",
        "twice the upwind viscosity on a line",
    ),
    Mutant(
        "(ufl.Identity(gdim) + dim * squares / ufl.tr(squares)) / 2",
        "ufl.Identity(gdim) * ufl.tr(squares) / ufl.tr(squares)",
        "test_hamilton_jacobi_adjoint.py -k rugged",
        "no upwind viscosity between vertices that see each other from a right angle",
    ),
    Mutant(
        "largest <= ONE_SIZE * least",
        "largest <= 0 * least",
        "test_hamilton_jacobi_limits.py -k 'of_a_plane'",
        "an upwind viscosity that varies from cell to cell on meshes of one size",
    ),
    Mutant(
        "largest <= ONE_SIZE * least",
        "largest >= ONE_SIZE * least",
        "test_hamilton_jacobi_limits.py -k 'goes_with_the_cells'",
        "the upwind viscosity of the largest cell on a graded mesh",
    ),
    Mutant(
        "2: (0.45, 6)",
        "2: (0.45, 2)",
        "test_hamilton_jacobi_limits.py -k accuracy_where",
        "an upwind viscosity that is felt where the mesh resolves the equation",
    ),
    Mutant(
        "(ufl.inner(p, p) / 2 + self._drifted(p))",
        "(ufl.inner(p, p) + self._drifted(p))",
        "test_hamilton_jacobi.py -k 'engquist or galerkins'",
        "the Hamiltonian without its half",
    ),
    Mutant(
        "np.asarray(1.0 / (self.beta * w**2), dtype=np.float64)",
        "np.asarray(-1.0 / (self.beta * w**2), dtype=np.float64)",
        SUBSTITUTED,
        "the sign of the substitution's curvature",
    ),
    Mutant(
        "return -self.beta * self.unknown(u)",
        "return self.beta * self.unknown(u)",
        SUBSTITUTED,
        "the sign of the substitution's slope",
    ),
    Mutant(
        "(change[1] * v_a + change[0] * v_b)",
        "(change[1] * v_a - change[0] * v_b)",
        "test_schrodinger.py -k 'eigenstate or uniform or middle or pushes'",
        "the sign of i in Schrödinger's equation",
    ),
    Mutant(
        "(b * v_a + a * v_b)",
        "(b * v_a - a * v_b)",
        "test_schrodinger.py -k 'eigenstate or uniform or middle or pushes'",
        "an absorber that absorbs one part alone",
    ),
    Mutant(
        "{time: time - k / 2}",
        "{time: time - k}",
        "test_schrodinger.py -k 'eigenstate or uniform or middle or pushes'",
        "the potential of a step's start",
    ),
    Mutant(
        'V_x += registers["field"]',
        'V_x -= registers["field"]',
        "test_schrodinger.py -k 'eigenstate or uniform or middle or pushes'",
        "the sign of a driving field",
    ),
    Mutant(
        "np.where(best < 0.0, -1.0, 1.0)",
        "np.where(best < 0.0, 1.0, 1.0)",
        STATES,
        "states keep the signs that the solver gave them",
    ),
    Mutant("psi.x.scatter_forward()", "pass", STATES, "eigenstates without ghost values", ranks=2),
    Mutant(
        "return -parallel.largest(self._mesh.comm, -float(np.min(values, initial=np.inf)))",
        "return float(np.min(values, initial=np.inf))",
        "test_eigenstates.py -k 'dense or potentials_of'",
        "each rank shifts the Hamiltonian by a value of its own",
        ranks=2,
    ),
]
