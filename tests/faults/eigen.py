"""Faults of eigenvalues and eigenstates, and of their derivatives."""

from __future__ import annotations

from faults.mutant import Mutant

STATES = "test_eigenstates.py -k 'same_as_dense or particle_in_a_box'"
EIGENMAP = "test_eigenmap.py -k 'derivatives_are or second_derivative or one_rank'"
EIGENPAIRS = "test_eigenpairs.py -k 'derivatives_are or norm_one or do_not_touch'"

MUTANTS = [
    Mutant(
        "return default if negative is None else negative",
        "return default",
        "test_eigenstates.py -k passed_over",
        "a state that was passed over is not looked for",
    ),
    Mutant(
        "sums = parallel.sum_over_ranks(self.comm, np.concatenate([basis @ A_basis.T, basis @ M_basis.T]))",
        "sums = np.concatenate([basis @ A_basis.T, basis @ M_basis.T])",
        STATES,
        "a reduction left out of Rayleigh and Ritz",
        ranks=2,
    ),
    Mutant("+ alpha[:, None] * mass_change", "- alpha[:, None] * mass_change", EIGENMAP, "the sign of alpha d(B u)"),
    Mutant(
        "border = parallel.sum_over_ranks(system.comm, (lam * mass_change).sum(axis=1))",
        "border = (lam * mass_change).sum(axis=1)",
        EIGENMAP,
        "a reduction left out of a bordered system",
        ranks=2,
    ),
    Mutant("border = 0.5 * parallel", "border = 0.0 * parallel", EIGENPAIRS, "states keep their norm where b moves"),
    Mutant(
        "self._contracted(r.state, r.adjoint) - 0.5 * self.alpha",
        "self._contracted(r.state, r.adjoint) - 0.0 * self.alpha",
        EIGENPAIRS,
        "a gradient without the norm's share",
    ),
    Mutant("- 0.5 * self.dalpha", "- 0.0 * self.dalpha", EIGENPAIRS, "a Hessian action without that of the norm"),
    Mutant("- self.denergy", "- 0.0 * self.denergy", EIGENPAIRS, "a Hessian action without dE in it"),
    Mutant("mass_moved + system", "system", EIGENPAIRS, "a bordered operator whose border does not move with b"),
    Mutant(
        "is_new = parallel.any_rank(self.comm, is_new)",
        "is_new = False",
        EIGENPAIRS,
        "the mass of the point before",
    ),
    Mutant(
        "diagonal.scale(1.0 - _DEFINITE)",
        "diagonal.scale(1.0 + 1.0 / _DEFINITE)",
        "test_eigenpairs.py -k 'density_that or wrong_input'",
        "a form that is semidefinite passes for definite",
    ),
    Mutant(
        "if gaps.min() <= SAME_EIGENVALUE * pairs.scale:",
        "if False:",
        "test_eigenpairs.py -k other_than_k",
        "an eigenvalue at a bound is not told",
    ),
    Mutant(
        "register.x.scatter_forward()",
        "pass",
        EIGENMAP,
        "a missing ghost update of eigenstates in derivatives",
        ranks=2,
        below="register.x.array[self._free] = vector",
    ),
]
