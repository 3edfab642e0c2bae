"""Faults of solves: operators that are singular, Newton's method, null spaces, preconditioners."""

from __future__ import annotations

from faults.mutant import Mutant

MUTANTS = [
    Mutant("if share <= _NOTHING:", "if False:", "test_kernel.py", "a pressure up to a constant is solved for"),
    Mutant(
        "self._newton_from(guess, {**operators.options, **FULL_STEPS})",
        "self._newton_from(guess, operators.options)",
        "test_newton.py -k 'beam or penalty'",
        "the line search that failed is tried again",
    ),
    Mutant(
        "or steps_are_chosen(operators.prefix, operators.options):",
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
        "return rows - space.products(rows, space.duals) @ along",
        "return rows",
        "test_singular.py -k neumann",
        "a state is known up to a constant, which the solver chooses",
    ),
    Mutant(
        "u.array[: residual.num_owned] = self._operators.in_gauge(u.array[: residual.num_owned])",
        "pass",
        "test_singular.py -k neumann",
        "Newton's method keeps the constant of its first guess",
    ),
    Mutant(
        "against = space.vectors if adjoint else self._left",
        "against = space.vectors",
        "test_singular.py -k transpose",
        "sources are balanced over another null space than that of the transpose",
    ),
    Mutant(
        "self._operators.check_compatible(rhs, factor)",
        "pass",
        "test_singular.py -k incompatible",
        "a source that nothing balances has a state",
    ),
    Mutant(
        "return self.is_affine and self.problem.nullspace is None",
        "return self.is_affine",
        "test_singular.py -k incompatible",
        "so it has in a batch",
    ),
    Mutant(
        ".uniform(-(3**0.5), 3**0.5, vectors.shape[1])",
        ".choice([-1.0, 1.0], vectors.shape[1])",
        "test_singular.py -k few_pressures",
        "random signs that are all the same are a constant",
    ),
    Mutant(
        ".reshape(len(free), n))",
        ".reshape(-1, n))",
        "test_singular.py -k without_cells",
        "a rank without unknowns cannot say how many vectors there are",
        ranks=3,
    ),
    Mutant(
        "np.linalg.norm(products / self._norms)",
        "np.linalg.norm(products)",
        "test_singular.py -k any_units",
        "in a large domain a source that nothing balances has a state",
    ),
    Mutant(
        "if self._residual.problem.nullspace is not None and factor.solver.deflation is None:",
        "if self.first_norm and self._residual.problem.nullspace is not None and factor.solver.deflation is None:",
        "test_singular.py -k any_units",
        "a guess that is a root keeps what it has of the null space",
    ),
    Mutant(
        'is_factored = self.ksp.getPC().getType() in ("lu", "cholesky")',
        "is_factored = self.is_direct",
        "test_singular.py -k preconditioner",
        "a singular matrix is factored",
    ),
    Mutant(
        "if not np.isfinite(found).all():",
        "if False:",
        "test_singular.py -k doubtful",
        "a coefficient out of range is told as a problem that is wrong",
    ),
    Mutant(
        "if with_mass not in self._parts:",
        "if not self._parts.setdefault(with_mass, next(iter(self._parts.values()), None)):",
        "test_preconditioners.py -k otherwise",
        "derivatives have the parts of the state's solver",
    ),
    Mutant(
        "chosen.setdefault(*_SINGULAR_COARSE)", "pass", "test_singular.py -k neumann", "the coarsest level is singular"
    ),
    Mutant(
        "matrix.setNearNullSpace(self._near)",
        "pass",
        "test_preconditioners.py -k rigid_motions",
        "multigrid knows of no motion",
    ),
    Mutant(
        "scale.array[:] = np.sqrt(np.abs(scale.array_r) / own.array_r)",
        "scale.array[:] = 1.0",
        "test_preconditioners.py -k velocity",
        "Schur's complement knows nothing of the viscosity",
    ),
    Mutant(
        "self._x.array[:] = self._operators.in_gauge(u.array[: self._residual.num_owned])",
        "self._x.array[:] = u.array[: self._residual.num_owned]",
        "test_singular.py -k large_constant",
        "a constant of the first guess costs the residual its digits",
    ),
    Mutant(
        "except Unbalanced:",
        "except ZeroDivisionError:",
        "test_singular.py -k incompatible",
        "another first guess is advised where no state makes the residual zero",
    ),
    Mutant(
        "self._newton_from(state, options, (1.0 - ahead) * at_first)",
        "self._newton_from(state, options)",
        "test_newton.py -k path_of_loads",
        "loads do not grow on the way from rest",
    ),
    Mutant(
        "_CRAWLS, _CRAWLED = 0.01, 10",
        "_CRAWLS, _CRAWLED = 0.01, 1000",
        "test_newton.py -k path_of_loads",
        "a line search that crawls is waited for",
    ),
    Mutant(
        "raise (SolveFailed if too_few and self._ran_out else _NoLength)(words)",
        "raise _NoLength(words)",
        "test_reduced.py -k says_why_it_failed",
        "who allows few steps waits for those of a path",
    ),
    Mutant(
        "size = deflation.incompatible(self._residual.of_random_lifting())[1]",
        "pass",
        "test_singular.py -k lid",
        "a lid that slides along itself is refused for its rounding",
    ),
    Mutant(
        "residual.tied.complete(residual.registers.tangent_state)",
        "pass",
        "test_multi_point.py -k one_rank",
        "a slave does not follow a boundary value that is a control",
    ),
    Mutant(
        "dual, bent = (None if d is None else self.tied.gathered(d[None])[0] for d in (dual, bent))",
        "pass",
        "test_multi_point.py -k one_rank",
        "a boundary value that is a control has no part in what its slaves do",
    ),
    Mutant(
        "return self._residual.tied.extended(solutions)",
        "return solutions",
        "test_multi_point.py -k one_rank",
        "adjoints are zero at slaves",
    ),
    Mutant(
        "return lifts - self._residual.tied.extended(solutions)",
        "return lifts - solutions",
        "test_multi_point.py -k one_rank",
        "tangents are zero at slaves",
    ),
    Mutant("for _ in range(_CHAIN):", "for _ in ():", "test_multi_point.py -k torus", "masters may be slaves"),
    Mutant(
        "residual.tied.restrict(row)", "pass", "test_multi_point.py -k torus", "a mean counts slaves and not masters"
    ),
]
