"""Faults of states and derivatives: stationary, in time, in dense batches, of eigenvalues."""

from __future__ import annotations

from faults.mutant import Mutant

DIFFUSION = "test_contract.py::TestDiffusion"
CLAMPED = "test_contract.py::TestDirichletAndField"
NUMBER = "test_contract.py::TestReactionConstant"
DENSE = "test_dense.py -k 'equals_the_map or inverses'"
FOLLOWED = "test_boundary_expressions.py"
EIGENMAP = "test_eigenmap.py -k 'derivatives_are or second_derivative or one_rank'"

MUTANTS = [
    Mutant(
        "weight = (self._z.x.array - self._lifted.x.array)[:n]",
        "weight = self._z.x.array[:n]",
        "test_dual_weighted.py -k reaction",
        "residuals of the mesh's own functions count, which a solve leaves at rounding but for quadrature",
    ),
    Mutant(
        "share = dual * self._initial_error()",
        "share = 0.0 * dual",
        "test_dual_weighted.py -k heat",
        "what interpolating the initial state leaves out",
    ),
    Mutant(
        "dual -= assembled(self._back, self._dual)",
        "dual += assembled(self._back, self._dual)",
        "test_dual_weighted.py -k heat",
        "the step after does not reach the one before",
    ),
    Mutant(
        "self._matrix.zeroRowsColumnsLocal(self._clamped, 1.0)",
        "self._matrix.zeroRowsColumnsLocal(self._clamped[:0], 1.0)",
        "test_dual_weighted.py -k reaction",
        "the adjoint state vanishes where the state is given",
    ),
    Mutant(
        "low, high = (middle, high) if is_enough else (low, middle)",
        "low, high = (low, middle) if is_enough else (middle, high)",
        "test_dual_weighted.py -k marked",
        "the fewest cells that make the fraction",
    ),
    Mutant(
        "values[n + 1] = 0.5 * (duals[0] @ (later - before)[: duals.shape[1]])",
        "values[n + 1] = duals[0] @ (later - after)[: duals.shape[1]]",
        "test_momenta.py -k hamiltonian",
        "a difference to one side is of first order",
    ),
    Mutant(
        "if left <= _NOTHING * y.norm():", "if False:", "test_kernel.py", "a pressure up to a constant is solved for"
    ),
    Mutant(
        "self._newton_from(guess, {**operators.options, **FULL_STEPS})",
        "self._newton_from(guess, operators.options)",
        "test_newton.py -k 'beam or penalty'",
        "the line search that failed is tried again",
    ),
    Mutant(
        "or self._steps_are_the_users():",
        "or False:",
        "test_newton.py -k keeps_it",
        "full steps where the user has chosen a line search",
    ),
    Mutant("and self._step_is_nothing():", "and False:", "test_newton.py -k rounding", "rounding is no convergence"),
    Mutant(
        '"snes_divergence_tolerance": 1e300}',
        '"snes_divergence_tolerance": 1e4}',
        "test_newton.py -k penalty",
        "a residual may not grow for a while",
    ),
    Mutant(
        'return "" if newton.has_stepped else flat_rows(factor.matrix)',
        'return ""',
        "test_newton.py -k flat",
        "nobody says that a p-Laplacian starts with no gradient",
    ),
    Mutant('.startswith("vi"):', '.startswith("tr"):', "test_newton.py -k bounds", "bounds that nobody gave are held"),
    Mutant("places.reshape(-1, bs)[:, j]", "places", "test_kernel.py", "all components are moved together"),
    Mutant(
        "sizes = G.layout.sizes(point)",
        "sizes = np.ones_like(point)",
        "test_verify.py -k 'different_size or 1e12'",
        "controls of different size move alike",
    ),
    Mutant("if not taylor.is_right:", "if False:", "test_verify.py -k by_chance", "one direction decides"),
    Mutant("pairwise(clear[-3:])", "pairwise(clear[-2:])", "test_verify.py -k change_their_sign", "one pair decides"),
    Mutant(
        'at = direction("+") if one_sided else direction',
        "at = ufl.jump(direction) if one_sided else direction",
        "test_constants.py -k as_many",
        "numbers on facets between cells",
    ),
    Mutant(
        "self.direction.value.reshape(-1)[self.entry] = 1.0",
        "self.direction.value.reshape(-1)[0] = 1.0",
        "test_constants.py -k in_time",
        "all entries are the first",
    ),
    Mutant("if holder is not None:", "if False:", "test_turn.py", "two calls share the registers"),
    Mutant(
        "gap.max(initial=0.0) > _SAME", "gap.max(initial=0.0) > 1e6", "test_turn.py", "half of an integral", ranks=2
    ),
    Mutant(
        "dual.x.scatter_reverse(la.InsertMode.add)",
        "pass",
        DIFFUSION,
        "residuals lose what ghosts collect",
        ranks=2,
        file="forms.py",
    ),
    Mutant(
        "owned[self.boundary.owned] = 0.0",
        "pass",
        "test_contract.py::TestCubicReaction",
        "an unclamped row of the residual",
        below="owned = self._assemble(self._F())",
    ),
    Mutant(
        "register.x.scatter_reverse(la.InsertMode.add)",
        "pass",
        DIFFUSION,
        "gradients lose what ghosts collect",
        ranks=2,
        file="residual.py",
    ),
    Mutant(
        "parts.append(parallel.sum_over_ranks(self.comm, values))",
        "parts.append(values)",
        NUMBER,
        "a reduction left out of the gradient in a constant",
        ranks=2,
    ),
    Mutant(
        "u.scatter_forward()",
        "pass",
        DIFFUSION,
        "a missing ghost update of the state",
        ranks=2,
        below="u.array[: residual.num_owned] -= factor.solution.array_r",
    ),
    Mutant(
        "direction[...] = 0.0",
        "pass",
        "test_contract.py::TestAdvectionConstant",
        "the entries of a constant before stay in the direction",
    ),
    Mutant("rhs[:, residual.boundary.owned] = 0.0", "pass", CLAMPED, "an unclamped row of a tangent's right-hand side"),
    Mutant(
        "residual.operator_adjoint_action() - state_duals[row]",
        "residual.operator_adjoint_action() + state_duals[row]",
        CLAMPED,
        "the sign of what a clamped value collects",
    ),
    Mutant(
        "result[i] -= parallel.sum_over_ranks(residual.comm, adjoints @ columns.T)",
        "result[i] -= adjoints @ columns.T",
        "test_constants.py -k as_many",
        "a reduction left out of many gradients in a constant",
        ranks=2,
    ),
    Mutant(
        "if held is not None and held() is stamp:",
        "if held is not None:",
        DIFFUSION,
        "stale sensitivities: those of another point",
    ),
    Mutant(
        "self._scatter(self.adjoint, lam)",
        "self.adjoint.x.array[: len(lam)] = lam",
        DIFFUSION,
        "a missing ghost update of the adjoint",
        ranks=2,
    ),
    Mutant(
        "rhs = curved - residual.second_state_source()",
        "rhs = curved + residual.second_state_source()",
        "test_contract.py::TestCubicReaction",
        "the sign of (F_uu du + F_um dm)ᵀ λ",
    ),
    Mutant(
        "self._scatter(self.second_adjoint, dlam)",
        "self.second_adjoint.x.array[: len(dlam)] = dlam",
        DIFFUSION,
        "a missing ghost update of the second adjoint",
        ranks=2,
    ),
    Mutant(
        "bc.refresh()",
        "pass",
        FOLLOWED + " -k 'parameters or at_hand'",
        "a boundary value that keeps its first value",
        file="clamped.py",
    ),
    Mutant(
        "bent = self.operator_adjoint_action() - dual",
        "bent = self.operator_adjoint_action() + dual",
        FOLLOWED + " -k 'by_hand or see_the'",
        "the sign of the observation where boundary values are not affine",
    ),
    Mutant(
        "                self.boundary.collect_change(bent, i, values)",
        "                pass",
        FOLLOWED + " -k 'by_hand'",
        "the curvature of a boundary value",
    ),
    Mutant(
        "return self.weak.is_affine and self.boundary.is_affine",
        "return self.weak.is_affine",
        FOLLOWED + " -k 'by_hand or affine'",
        "boundary values that are taken for affine",
    ),
    Mutant(
        "self._registers.install_tangent(parts)",
        "pass",
        FOLLOWED + " -k affine",
        "the direction of the call before in a boundary value",
        file="followed.py",
    ),
    Mutant(
        "weak.second_adjoint_action)()) - second_dual",
        "weak.second_adjoint_action)()) + second_dual",
        CLAMPED,
        "the sign of the observation's curvature at clamped values",
    ),
    Mutant(
        "rhs[:, self._residual.boundary.owned] = 0.0",
        "pass",
        DIFFUSION,
        "an unclamped row of an adjoint's right-hand side",
    ),
    Mutant("with self.lent():", "if True:", "test_contract.py::TestSource", "parameters not given back by derivatives"),
    Mutant(
        "if known is not None and np.array_equal(known[0], seed):",
        "if known is not None:",
        DIFFUSION,
        "the adjoint of another seed in a Hessian action",
    ),
    Mutant(
        "summed([self._with_second_adjoint(gradient), self.varied(gradient)])",
        "summed([self._with_second_adjoint(gradient)])",
        DIFFUSION,
        "(F_mu du + F_mm dm)ᵀ λ left out",
    ),
    Mutant(
        "return summed([along_state, self.along_controls(form, range(len(self.controls)))])",
        "return summed([along_state])",
        DIFFUSION,
        "F_mm and F_um left out",
    ),
    Mutant(
        "operator_key if residual.operator_is_constant else",
        "operator_key if residual.is_linear else",
        DIFFUSION,
        "a stale factor: one operator for all controls",
        file="stationary.py",
    ),
    Mutant(
        "self.operator_key = Key()",
        "pass",
        "test_contract.py::TestSource",
        "a stale factor: parameters of the operator have changed",
        below="if parallel.any_rank(comm, any(c and held",
    ),
    Mutant(
        "self._point is not None and self._point() is point:",
        "self._point is not None:",
        "test_packing.py " + DIFFUSION,
        "stale coefficients: those of another point",
    ),
    Mutant(
        "for scales in (sizes, [1.0] * len(sizes)):",
        "for scales in ([1.0] * len(sizes),):",
        "test_edges.py test_linear.py -k 'symmetry or indefinite or small_advection'",
        "symmetry is tried at one size of the coefficients",
    ),
    Mutant(
        "with given_back(terminals):",
        "if True:",
        "test_reduced.py -k 'leaves_registers'",
        "registers not given back by the trial of symmetry",
    ),
    Mutant("_GAP = 1e-8", "_GAP = 1e-1", "test_verify.py", "wrong adjoints pass the check"),
    Mutant("with given_back(registers):", "if True:", "test_verify.py", "registers not given back by the check"),
    Mutant(
        "rhs[i] -= residual.second_state_source()",
        "rhs[i] += residual.second_state_source()",
        "test_burgers.py::TestEverything -k 'derivatives or layouts'",
        "the sign of (F_uu du + F_um dm)ᵀ λ in time",
    ),
    Mutant(
        "duals = sensitivity.gradients(point, adjoints, duals, which=(0,))[0]",
        "pass",
        "test_burgers.py::TestEverything -k 'derivatives or layouts'",
        "second order goes back with the adjoint of the last step",
    ),
    Mutant(
        "into.axpy(scalar.value, term,",
        "into.axpy(-scalar.value, term,",
        "test_schrodinger.py::TestDipole",
        "the sign of a term",
    ),
    Mutant("total = total + c[:, :, j", "total = total - c[:, :, j", DENSE, "the sign of a term of dense operators"),
    Mutant(
        "second = second - _combined(terms.B, n, dc, adjoint)",
        "second = second + _combined(terms.B, n, dc, adjoint)",
        DENSE,
        "the sign of dBᵀ λ in dense Hessian actions",
    ),
    Mutant(
        "in_scalars[n] -= (bent[n] @ adjoint[..., None])[..., 0]",
        "in_scalars[n] += (bent[n] @ adjoint[..., None])[..., 0]",
        DENSE,
        "the sign of the bent slopes in dense Hessian actions",
    ),
    Mutant(
        "a[..., None, at] @ g_b[n] + b[..., None, at] @ g_a[n]",
        "2.0 * (a[..., None, at] @ g_b[n])",
        DENSE,
        "one half of G''[a, b] for both",
    ),
    Mutant("np.roll(w.index, 1, axis=0)", "w.index", DENSE, "the new clamped values for those of the step before"),
    Mutant("values[:, part] += look.weight * seen", "values[:, part] += seen", DENSE, "dense values without weights"),
    Mutant(
        "total += part if j < 0 else c[:, j, None, None] * part",
        "total += part",
        DENSE,
        "band products without their scalars",
    ),
    Mutant("+ alpha[:, None] * mass_dpsi", "- alpha[:, None] * mass_dpsi", EIGENMAP, "the sign of alpha M dpsi"),
    Mutant(
        "border = parallel.sum_over_ranks(system.comm, (dpsi * mass_a).sum(axis=1))",
        "border = (dpsi * mass_a).sum(axis=1)",
        EIGENMAP,
        "a reduction left out of a bordered system",
        ranks=2,
    ),
    Mutant(
        "register.x.scatter_forward()",
        "pass",
        EIGENMAP,
        "a missing ghost update of eigenstates in derivatives",
        ranks=2,
        below="register.x.array[self._free] = psi",
    ),
    Mutant(
        "self.install_parameters(users)", "pass", "test_contract.py::TestSource", "lent parameters are not given back"
    ),
    Mutant(
        "self._values = now",
        "pass",
        "test_contract.py::TestSource -k parameters",
        "a point keeps the parameters of the point before",
    ),
]
