"""Faults of relaxed landscapes, references and optimisers."""

from __future__ import annotations

from faults.mutant import Mutant

MUTANTS = [
    Mutant(
        "higher.x.scatter_reverse(la.InsertMode.add)",
        "pass",
        "test_landscape.py -k 'minim'",
        "a node is lowest in the cells of its own rank alone",
        ranks=2,
    ),
    Mutant("x - rate * t * landscape", "x - rate * landscape", "test_landscape_descent.py", "descents without t"),
    Mutant(
        "vector.scatter_forward()",
        "pass",
        "test_landscape.py -k 'gradient or derivative or hessian or minim'",
        "a missing ghost update of fitted polynomials",
        ranks=2,
        files=("recovery.py",),
    ),
    Mutant(
        "np.sqrt(times[i]) - np.sqrt(t)", "times[i] - t", "test_landscape.py", "interpolation in t, not in its root"
    ),
    Mutant(
        "* (x[j] - x[a]) < (g[j]",
        "* (x[j] - x[a]) > (g[j]",
        "test_relaxation_references.py -k 'envelopes or minima or points'",
        "the upper hull for the lower",
    ),
    Mutant(
        "np.asarray((points - y) / t))",
        "np.asarray((y - points) / t))",
        "test_relaxation_references.py -k 'envelopes or minima or points'",
        "the sign of Hopf and Lax's gradient",
    ),
    Mutant(
        "- cov) / t",
        "+ cov) / t",
        "test_relaxation_references.py -k 'derivatives or closed'",
        "the sign of the covariance in a Hessian",
    ),
    Mutant(
        "* t / (2.0 * beta))",
        "* t / beta)",
        "test_relaxation_references.py -k 'derivatives or closed'",
        "a cosine that decays twice as fast",
        files=("closed_forms.py",),
        below="def parts",
    ),
    Mutant(
        'np.random.SeedSequence(at_least(seed, 0, "seed"))',
        'np.random.SeedSequence(at_least(seed, 0, "seed") + comm.rank)',
        "test_relaxation_paths.py -k 'any_number or fewer or streams'",
        "a seed that differs per rank: paths",
        ranks=2,
    ),
    Mutant(
        "np.random.default_rng(streams[b])",
        "np.random.default_rng(streams[0])",
        "test_relaxation_paths.py -k 'any_number or fewer or streams'",
        "blocks of paths share their noise",
    ),
    Mutant(
        "np.asarray(parallel.sum_over_ranks(self._comm, sums).sum(axis=0))",
        "np.asarray(sums.sum(axis=0))",
        "test_relaxation_paths.py -k 'any_number or fewer or streams'",
        "a reduction left out of an expectation",
        ranks=2,
    ),
    Mutant(
        "least + self.scale * self",
        "least + self",
        "test_misfit.py -k 'samples or gibbs'",
        "a relaxed misfit in units of its own",
    ),
    Mutant(
        "self.part.points, 1.0 - self.averaging)",
        "self.part.points, self.averaging)",
        "test_optim.py -k 'chain_of_means or EntropySGD'",
        "a swapped argument of EntropySGD: averaging",
    ),
    Mutant(
        "y, x, self.lr / self.t)",
        "y, x, self.lr * self.t)",
        "test_optim.py -k 'chain_of_means or EntropySGD'",
        "a swapped argument of EntropySGD: the spring",
    ),
    Mutant(
        'if "beta" in group else math.inf',
        'if "beta" in group else 1.0',
        "test_optim.py -k 'proximal or without_noise or envelope'",
        "a proximal point with noise",
    ),
    Mutant(
        'forces, 1.0 - part.group["damping"])',
        'forces, part.group["damping"])',
        "test_optim.py -k 'HamiltonJacobi or fixed_point'",
        "a swapped argument of HamiltonJacobi: damping",
    ),
    Mutant(
        "part.start, 2.0)",
        "part.start, 1.0)",
        "test_optim.py test_optim_statistics.py -k 'heat or Heat or antithetic or one_sample'",
        "antithetic samples at the start itself",
    ),
    Mutant(
        'part.setting("t") / part.setting("beta")',
        'part.setting("beta") / part.setting("t")',
        "test_optim.py test_optim_statistics.py -k 'heat or Heat or antithetic or one_sample'",
        "a swapped argument of HeatSmoothing: t and beta",
    ),
    Mutant(
        "math.sqrt(2.0 * (1.0 - momentum) * lr / beta)",
        "math.sqrt(2.0 * lr / beta)",
        "test_optim_statistics.py -k 'momentum or sgld'",
        "noise that heats up with momentum",
    ),
    Mutant(
        "beta=beta,",
        'beta=float(group["lr"]),',
        "test_optim_statistics.py -k 'momentum or sgld'",
        "a swapped argument of SGLD: beta and lr",
        files=("sgld.py",),
    ),
    Mutant(
        "torch._foreach_sub(x, chosen(centre, which)), alpha=rho)",
        "torch._foreach_sub(x, chosen(centre, which)), alpha=-rho)",
        "test_optim_replicas.py -k 'fixed_point or step_by_step'",
        "the sign of Parle's springs",
        ranks=2,
    ),
    Mutant(
        "torch._foreach_mul_(springs, rho)",
        "pass",
        "test_optim_replicas.py -k 'fixed_point or step_by_step'",
        "ElasticSGD without its rho",
        ranks=2,
    ),
    Mutant(
        "parallel.sum_in_place(comm, flat.numpy())",
        "pass",
        "test_optim_replicas.py -k 'fixed_point or step_by_step'",
        "a reduction left out of the mean of replicas",
        ranks=2,
    ),
    Mutant(
        "derived_seed(start, self.comm.rank)",
        "derived_seed(start, 0)",
        "test_optim_replicas.py -k noise",
        "replicas that share their noise",
        ranks=2,
    ),
    Mutant(
        "flat * (seen / total)",
        "flat / comm.size",
        "test_optim_helpers.py -k batch_norm_over",
        "ranks weigh the same, however much they have seen",
        ranks=2,
    ),
    Mutant(
        "alpha=momentum) if nesterov else velocity",
        "alpha=momentum) if not nesterov else velocity",
        "test_optim.py -k 'bit'",
        "a swapped argument of descent: nesterov",
    ),
    Mutant(
        "self._stream(device).set_state(saved.cpu())",
        "self._stream(device)",
        "test_optim_helpers.py -k streams",
        "streams start anew after a load",
    ),
    Mutant(
        "min(max(value, self.least), self.most)",
        "min(max(value, self.most), self.least)",
        "test_optim_helpers.py -k schedules",
        "a schedule's bounds swapped",
    ),
    Mutant(
        "self.noise.restore(self._noise_before)",
        "pass",
        "test_optim.py -k not_finite",
        "a step that failed uses up noise",
    ),
]
