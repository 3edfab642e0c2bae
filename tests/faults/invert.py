"""Faults of optimisers and priors."""

from __future__ import annotations

from faults.mutant import Mutant

PAIRS = "test_prior.py -k 'consistent or ranks_or_layout or robin or block'"
GAUSS_NEWTON = "test_gauss_newton.py -k 'one_step or stationary_point or lbfgs_finds or its_goal or derivative_of'"

MUTANTS = [
    Mutant(
        "is_near = here.size <= near if is_absolute else _is_near(method, here)",
        "is_near = True",
        "test_gauss_newton.py -k first_gradient_below",
        "far from the minimum a run says that it has converged",
    ),
    Mutant(
        'self._method.load_state_dict(state["learnt"], layout)',
        "pass",
        "test_checkpoints.py -k 'takes_the_steps and lbfgs'",
        "a resumed L-BFGS begins without its pairs",
    ),
    Mutant(
        'start_size = float(recorder.history[0]["gradient_norm"])',
        "start_size = here.size",
        "test_checkpoints.py -k 'takes_the_steps and gauss'",
        "a resumed Gauss-Newton has another forcing term",
    ),
    Mutant(
        "return max(rtol * start_size, NEAREST * unit if atol is None else atol)",
        "return max(rtol, (NEAREST * unit if atol is None else atol) * start_size)",
        GAUSS_NEWTON,
        "swapped arguments: rtol and atol of any method",
    ),
    Mutant(
        "rtol=rtol, atol=atol,",
        "rtol=atol, atol=rtol,",
        GAUSS_NEWTON,
        "swapped arguments: rtol and atol of L-BFGS",
        file="lbfgs.py",
        below="LimitedBFGS(memory)",
    ),
    Mutant(
        "sums[:, -1] - weighing.root(point.residuals[0])",
        "sums[:, -1] + weighing.root(point.residuals[0])",
        GAUSS_NEWTON,
        "the sign of the residual in a step",
    ),
    Mutant(
        "Hv = Hv + lin.hvp(seed, v)",
        "Hv = Hv - lin.hvp(seed, v)",
        "test_minimize.py -k each_term",
        "the sign of Newton's second derivative",
    ),
    Mutant("r / self.kept / self.kept", "r / self.kept", GAUSS_NEWTON, "noise not squared"),
    Mutant(
        "self.seeds[i] += weight * weighed",
        "self.seeds[i] += weighed",
        "test_minimize.py -k 'each_term and form'",
        "a term's weight left out of its gradient",
    ),
    Mutant(
        "[a + step * is_per_step for a, is_per_step",
        "[a for a, is_per_step",
        "test_minimize.py -k summed_over",
        "the cost of a control in steps sees the first of them only",
    ),
    Mutant(
        "columns.scatter_forward()",
        "pass",
        "test_weighing.py -k their_integral",
        "a mass matrix sees old values of other ranks",
        file="fields.py",
        ranks=2,
    ),
    Mutant(
        "(m >= self.high - self._near) & (g < 0.0)",
        "(m >= self.high - self._near) & (g > 0.0)",
        "test_bounds.py -k all_their_forms",
        "an upper bound holds what wants to leave it",
    ),
    Mutant(
        "np.where(held * slope < 0.0, held, 0)",
        "held",
        "test_bounds.py -k 'do_not_depend'",
        "what a bound holds once is never let go",
    ),
    Mutant(
        "precision_p = r + (rz / before) * precision_p",
        "precision_p = r - (rz / before) * precision_p",
        "test_cg.py",
        "a sign in conjugate gradients",
    ),
    Mutant(
        "p += (a - dot(pair.y, p) / pair.sy)",
        "p += (a + dot(pair.y, p) / pair.sy)",
        GAUSS_NEWTON,
        "a sign in the two loops of L-BFGS",
    ),
    Mutant(
        "self.cost = self.misfit + self.prior_cost",
        "self.cost = self.misfit",
        GAUSS_NEWTON,
        "steps are measured without the prior",
    ),
    Mutant(
        'if objective.G.layout.kind == "owned" else products',
        "if False else products",
        "test_gauss_newton.py -k 'both_layouts'",
        "a reduction left out of a step in the owned layout",
        ranks=2,
    ),
    Mutant(
        "array = parallel.checked_on_all(G.comm, values, G.size_out, what)",
        "array = parallel.checked(G.comm, values, G.size_out, what)",
        "test_gauss_newton.py -k data_of_rank_0",
        "each rank fits data of its own",
        ranks=2,
    ),
    Mutant(
        "return parallel.any_rank(comm, bool(self._callback(entry, point.m.copy())))",
        "return bool(self._callback(entry, point.m.copy()))",
        "test_gauss_newton.py -k callback_on_one_rank",
        "a callback stops its own rank alone",
        ranks=2,
    ),
    Mutant("{1: math.sqrt(2.0) - 1.0,", "{1: math.sqrt(2.0),", PAIRS, "the Robin coefficient on a line"),
    Mutant(
        "return self._white.root_adjoint(self._solve(owned * self._std))",
        "return self._white.inverse_root_adjoint(self._solve(owned * self._std))",
        PAIRS,
        "Lᵀ without its root",
    ),
    Mutant(
        "noise = np.random.default_rng(seed).standard_normal(self._numbering.size)",
        "noise = np.random.default_rng([seed, self.comm.rank]).standard_normal(self._numbering.size)",
        PAIRS,
        "a seed that differs per rank: samples of the prior",
        ranks=2,
    ),
    Mutant("self._dot(d, d) / self.std**2", "self._dot(d, d) / self.std", PAIRS, "a standard deviation not squared"),
    Mutant(
        "parallel.dot(self.comm, a, b)",
        "float(np.dot(a, b))",
        PAIRS,
        "a reduction left out of an owned prior",
        ranks=2,
    ),
    Mutant(
        "[p.sample(int(s)) for p, s in zip(self.priors, seeds, strict=True)]",
        "[p.sample(seed) for p in self.priors]",
        PAIRS,
        "blocks are drawn from one stream",
    ),
    Mutant(
        "methods.gauss_newton:gauss_newton",
        "methods.lbfgs:lbfgs",
        "test_methods.py -k names",
        "a name that is at home in another method",
        file="table.py",
    ),
    Mutant("step = t * way.p", "step = way.p", "test_methods.py -k same_minimum", "a method is told a step not taken"),
    Mutant(
        "here.point.close()",
        "pass",
        "test_methods.py -k same_minimum",
        "linearisations are left open",
        file="loop.py",
    ),
]
