"""Which terms of a library add up to zero, within the noise of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ufl.core.expr import Expr

from relax.base import parallel
from relax.base.checks import ABOVE_0, at_least, number_in, of_kind
from relax.base.types import Array
from relax.discovery.compact import Bumps, bumps
from relax.discovery.data import Data, Scattered, States, read
from relax.discovery.elimination import MOST, eliminate, rivals, smallest_within
from relax.discovery.fields import FieldPosterior
from relax.discovery.found import Found
from relax.discovery.library import Library
from relax.discovery.weak import WeakMatrix
from relax.errors import BadInput
from relax.invert.posterior import Drawn

# Pairs of draws, one on either side of the mean; times of a field in a test function's share of time.
_PAIRS, _TIMES = 30, 5


class _Observed:
    """States that were seen with independent errors at the nodes: the data, and others that might have been."""

    def __init__(self, states: States, noise: float) -> None:
        self.mean = states.values.ravel()
        self._noise = noise

    def sample(self, num: int, *, seed: int = 0) -> Array:
        white = np.random.default_rng(seed).standard_normal((num, len(self.mean)))
        return self.mean + self._noise * white


def null_space(
    library: Mapping[str, Expr],
    data: Data,
    *,
    noise: float,
    posterior: Drawn | None = None,
    tests: Bumps = bumps(8, 8),
    seed: int = 0,
) -> Found:
    """The equation sum of c_k term_k = 0 that a field satisfies, in as few of the terms as its noise allows.

    Collective; the same on any number of ranks. Each term is integrated against smooth test functions of compact
    support in space and time, to which derivatives in time have gone: a matrix A (tests, terms), A c = 0. With S =
    E[δAᵀ δA], over draws of the field around its mean, c is the least of

        mu(c) = |A c|² / (cᵀ S c),

    total least squares with the covariance of the errors: mu is about 1 where A c is zero within the noise, and far
    larger where it is not. Of each number of terms the set with the least mu is found; the smallest set is taken whose
    mu is at most twice that of all terms, or 2 where that is less than 1.

    Scattered samples become a field first, a :class:`FieldPosterior`, whose lengths and size are those under which the
    samples are most likely. A is the mean over the draws, as what is nonlinear in the field has another mean than at
    the field's mean.

    Of a vector u a scalar test function finds the equation of one component; those of all are a :class:`System`.

    Args:
        library: name -> UFL: what is integrated, linear in the test function, with ``u = unknown(V)``, its derivatives
            in time ``u.dt`` and ``u.dt.dt``, and ``v = test(V)``; at most 16 terms.
        data: states, a list of (t, nodal values), as of :func:`samples`; or scattered samples, a tuple (points, times,
            values) of shapes (num, gdim), (num,), (num,), or (num, components). Rank 0's count.
        noise: the standard deviation of independent errors of the data, in their unit. For states that a solver or a
            formula gives: how far they are to be trusted, such as 1e-4.
        posterior: of a field at the times of ``data``, which are states then: anything with ``.mean`` and
            ``.sample(num, seed=)``, state after state; instead of errors at nodes.
        tests: of :func:`bumps`.
        seed: of the draws.

    Raises:
        BadInput, BadProblem: on every rank, for what does not fit.
    """
    terms = Library(library)
    if len(terms.names) > MOST:
        raise BadInput(
            f"library: expected at most {MOST} terms, got {len(terms.names)}: all sets of them are looked at"
        )
    comm = terms.mesh.comm
    noise, seed, tests = parallel.of_rank_0(comm, (noise, seed, tests))
    of_kind(tests, Bumps, "test functions, relax.discovery.bumps(...)", "tests")
    noise, seed = number_in(noise, ABOVE_0, "noise"), at_least(seed, 0, "seed")
    given = read(data, terms.space)
    field: Drawn
    if isinstance(given, Scattered):
        if posterior is not None:
            raise BadInput("posterior: expected data that are states at the times of the posterior, got samples")
        times = np.linspace(given.times.min(), given.times.max(), _TIMES * tests.counts[-1] + 1)
        field = FieldPosterior(terms.space, data, noise=noise, times=times)
    else:
        times = given.times
        field = _Observed(given, noise) if posterior is None else posterior
    matrix = WeakMatrix(terms, tests, times)
    if matrix.num_tests < len(terms.names):
        raise BadInput(f"tests: expected as many as there are terms or more, got {matrix.num_tests}; take more of them")
    mean = _checked(comm, field.mean, (len(times) * matrix.layout.size,), "posterior.mean")
    draws = _checked(comm, field.sample(_PAIRS, seed=seed), (_PAIRS, len(mean)), "posterior.sample")
    around = np.concatenate([mean[None], draws, 2.0 * mean - draws])
    A = matrix(around.reshape(len(around), len(times), -1))
    if strange := [name for k, name in enumerate(terms.names) if not np.isfinite(A[:, :, k]).all()]:
        raise BadInput(f"library: expected terms that are finite for all fields within the noise, got {strange}")
    of_draws = A[1:].mean(axis=0)
    # Of a posterior the draws are what the field may be. Errors of data have moved A once already.
    here = 2.0 * A[0] - of_draws if isinstance(field, _Observed) else of_draws
    errors = A[1:] - of_draws
    S = np.einsum("ijk,ijl->kl", errors, errors) / len(errors)
    M = here.T @ here
    if nothing := [name for name, size in zip(terms.names, np.diag(M) + np.diag(S), strict=True) if size == 0.0]:
        raise BadInput(
            f"library: expected terms that are not zero for all of these data, got {nothing}; leave them out"
        )
    _check_independent(terms.names, M + S)
    path = eliminate(M, S)
    found = smallest_within(path)
    return Found(terms, path, found, rivals(M, S, found), times, field)


def _check_independent(names: Sequence[str], both: Array) -> None:
    """Refuse terms that add up to zero whatever the field is, or whose noise is lost in rounding."""
    units = 1.0 / np.sqrt(np.diag(both))
    sizes, vectors = np.linalg.eigh(units[:, None] * both * units)
    if sizes[0] <= len(names) * np.finfo(float).eps:
        shares = np.abs(vectors[:, 0])
        held = [name for name, share in zip(names, shares, strict=True) if share > 1e-6 * shares.max()]
        raise BadInput(
            f"library: {held} add up to zero but for rounding, whatever the noise: leave one out where it is a sum of "
            "the others, or else take a larger noise"
        )


def _checked(comm: Any, values: Any, shape: tuple[int, ...], what: str) -> Array:
    with parallel.together(comm):
        if np.shape(values) != shape or not np.isfinite(values).all():
            raise BadInput(f"{what}: expected finite numbers of shape {shape}, got shape {np.shape(values)}")
    return parallel.from_rank_0(comm, np.asarray(values))
