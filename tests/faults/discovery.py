"""Faults of the search for equations."""

from __future__ import annotations

from faults.mutant import Mutant

LINE = "test_null_space.py -k exact_fields_on_a_line"

MUTANTS = [
    Mutant(
        "std=_WIDE * abs(float(each))",
        "std=_WIDE * max(abs(float(each)), 1.0)",
        "test_refine.py -k other_units",
        "the prior of a small coefficient is lost in rounding",
    ),
    Mutant(
        "_check_independent(terms.names, M + S)",
        "pass",
        "test_null_space.py -k libraries_that_are_none",
        "terms that depend on one another are an error of linear algebra",
    ),
    Mutant(
        "np.random.default_rng(0).permutation(len(t))[:_CHOOSE]",
        "slice(None, None, -(-len(t) // _CHOOSE))",
        "test_null_space.py -k sensors_that_stay",
        "the prior is chosen by every tenth sample, all of one sensor of ten",
    ),
    Mutant(
        "s: (-1) ** s * (",
        "s: (",
        LINE,
        "a derivative in time goes to the test function with its own sign",
    ),
    Mutant(
        "after[tuple(up), p - 1] = after.get((tuple(up), p - 1), 0.0) - 2.0 * p * c",
        "after[tuple(up), p - 1] = -2.0 * p * c",
        "test_null_space.py -k third_derivatives",
        "the third derivative of a bump lacks a part",
    ),
    Mutant(
        "share[kept, None] * np.array(radii)",
        "np.ones_like(share[kept, None]) * np.array(radii)",
        "test_null_space.py -k bumps_stay",
        "a bump touches the boundary",
    ),
    Mutant(
        "np.minimum(_distances(domain, centres, np.array(radii)), 1.0)",
        "1.0",
        "test_null_space.py -k bumps_stay",
        "bumps know nothing of the boundary",
    ),
    Mutant(
        "_WITHIN * max(path[0].mu, 1.0)",
        "_WITHIN * path[0].mu",
        LINE,
        "a set of terms has to be as near to zero as the largest, not as the noise",
    ),
    Mutant(
        "for step in _sets(M, S, len(found.kept))[1:]",
        "for step in _sets(M, S, len(found.kept))[:0]",
        "test_null_space.py -k not_identifiable",
        "equations that fit as well are kept quiet",
    ),
    Mutant(
        "here = 2.0 * A[0] - of_draws if isinstance(field, _Observed) else of_draws",
        "here = of_draws",
        "test_null_space.py -k noise_of_states",
        "the errors of states are counted twice in what is nonlinear",
    ),
    Mutant(
        "K[np.diag_indices(len(r))] += noise**2",
        "K[np.diag_indices(len(r))] += 0.01 * noise**2",
        "test_null_space.py -k scattered",
        "the prior is chosen as if there were hardly any noise",
    ),
    Mutant(
        "np.asarray((1.0 + self.eigenvalues) ** -0.5)",
        "np.asarray((1.0 + self.eigenvalues) ** -1.0)",
        "test_posterior_of_linear.py",
        "draws have the square of the posterior's covariance",
    ),
    Mutant(
        "field = u[-1] - before[-1] if s == order else u[s]",
        "field = u[-1] - before[-1] if s == order else u[0]",
        "test_refine.py -k damped",
        "in an equation with u_tt u stands where u_t is meant",
    ),
    Mutant(
        "- (count - 2) // 2, 0,",
        ", 0,",
        "test_refine.py -k scattered_values",
        "a sample is seen by states that all come after it",
    ),
    Mutant(
        "covariance = at.covariance(units)[:, len(m0) - num :]",
        "covariance = np.linalg.inv(units @ at.prior.precision(units.T).T)[:, :num]",
        "test_refine.py -k refine_states",
        "the covariance is the prior's",
    ),
    Mutant(
        "{each.library.v: v[k]}",
        "{each.library.v: v[len(leads) - 1]}",
        "test_system.py -k steps_are",
        "an equation is tested by the component at its place in the list, not by the one that it evolves",
    ),
    Mutant(
        "leads.append(len(terms) + each.leading)",
        "leads.append(each.leading)",
        "test_system.py -k on_a_disk",
        "the leading terms of all equations are sought in the first",
    ),
    Mutant(
        "pivots.append(at := int(np.argmax(left)))",
        "pivots.append(at := n)",
        "test_fields.py -k span_a_prior",
        "the nodes that span a prior are the first ones",
    ),
    Mutant(
        "nodes = np.round(nodes, _DIGITS - round(float(np.log10(np.ptp(nodes, axis=0).max()))))",
        "nodes = nodes + 0.0",
        "test_fields.py -k any_number_of_ranks",
        "which of several equally good nodes are taken depends on the number of ranks",
        ranks=2,
    ),
    Mutant(
        "lengths.size**2 - float((J**2).sum(axis=1).mean())",
        "lengths.size**2 - float((J**2).sum(axis=1).max())",
        "test_fields.py -k are_named",
        "a prior counts as resolved where it is at one sample",
    ),
]
