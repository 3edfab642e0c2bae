"""Field and equation fitted together, for noise at which no field by itself tells its derivatives."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg
import ufl
from dolfinx import fem
from ufl.algorithms import expand_derivatives
from ufl.core.expr import Expr

from relax.base import parallel
from relax.base.checks import ABOVE_0, at_least, number_in, of_kind
from relax.base.types import Array
from relax.discovery.compact import Bumps, bumps
from relax.discovery.data import Data, Scattered, read
from relax.discovery.fields import FieldPosterior, Spanned
from relax.discovery.library import Library, powers
from relax.discovery.weak import WeakMatrix
from relax.errors import BadInput

# What an equation that is off by all of its leading term costs, from fit to fit: the last all but imposes it.
_PENALTIES = (1e2, 1e4, 1e6)
# Steps of Gauss and Newton under each of them, and how far one may fall short.
_STEPS, _ENOUGH = 12, 0.05
_TIMES = 5


@dataclass(frozen=True)
class Candidate:
    """An equation, and how well a field that satisfies it fits the samples. The better the smaller is ``bic``.

    Attributes:
        terms: names; the leading one is the first.
        coefficients: c, that of the leading term 1.
        chi2: |(u - data)/noise|² and what field and equation fall short of prior and zero.
        bic: -2 log of the likelihood of terms, field and coefficients integrated out: Laplace's chi2 + log det of what
            the field's precision is after the samples over what it was before, under prior and equation, as an equation
            that leaves the field more freedom fits noise better; and Schwarz's log(number of samples) for each
            coefficient.
        mean: the field, (num_times * size,).
    """

    terms: tuple[str, ...]
    coefficients: Array
    chi2: float
    bic: float
    mean: Array


def rank_by_bic(
    library: Mapping[str, Expr],
    data: Data,
    *,
    noise: float,
    leading: str,
    most: int = 2,
    tests: Bumps = bumps(8, 8),
) -> list[Candidate]:
    """Equations leading + up to ``most`` other terms = 0, those first that a field fits best that satisfies them.

    Collective. For each equation the least over fields u and coefficients c of

        |(u - data)/noise|² + |u|²_prior + γ |A(u) c|² / |A(û) e_leading|²,    γ = 1e2, 1e4, 1e6 in turn,

    by the method of Gauss and Newton, from the posterior mean û of the field alone. The equation smooths the field,
    so it is found in noise in which :func:`null_space` finds no derivatives any more; but it has to be told a term that
    is there.

    Args:
        library: as of :func:`null_space`, of a scalar field.
        data: scattered samples (points, times, values).
        noise: their standard deviation.
        leading: the name of a term that is in the equation, such as "u_t".
        most: how many other terms it may have.
        tests: as there.

    Raises:
        BadInput, BadProblem: on every rank, for what does not fit.
    """
    terms = Library(library)
    leading, most, tests, noise = parallel.of_rank_0(terms.mesh.comm, (leading, most, tests, noise))
    of_kind(tests, Bumps, "test functions, relax.discovery.bumps(...)", "tests")
    noise = number_in(noise, ABOVE_0, "noise")
    if leading not in terms.names:
        raise BadInput(f"leading: expected one of {', '.join(terms.names)}, got {leading!r}")
    if terms.space.value_shape or terms.num_components > 1:
        raise BadInput("rank_by_bic: expected a scalar field and a scalar test function")
    given = read(data, terms.space)
    if not isinstance(given, Scattered):
        raise BadInput("rank_by_bic: data: expected scattered samples, (points, times, values)")
    ends = float(given.times.min()), float(given.times.max())
    at = np.linspace(*ends, _TIMES * tests.counts[-1] + 1)
    field = FieldPosterior(terms.space, data, noise=noise, times=at)
    first = terms.names.index(leading)
    fit = _Fit(terms, field, noise, tests, first)
    others = [k for k in range(len(terms.names)) if k != first]
    sets = [s for n in range(1, at_least(most, 1, "most") + 1) for s in itertools.combinations(others, n)]
    return sorted((fit.candidate((first, *s)) for s in sets), key=lambda candidate: candidate.bic)


class _Fit:
    """Samples, and what weights of a field make of the terms. Collective, as are the methods."""

    def __init__(self, library: Library, field: FieldPosterior, noise: float, tests: Bumps, leading: int) -> None:
        (self._spanned,) = field.components
        self._field = field
        self._matrix = WeakMatrix(library, tests, field.times)
        self._names = library.names
        J = self._spanned.J / noise
        self._num = len(J)
        posterior = self._spanned.weights
        self._start = posterior.mean
        # |J w - r|² + |w|² = (w - mean)ᵀ H (w - mean) + what is left at the mean.
        self._H = J.T @ J + np.eye(J.shape[1])
        residual = J @ self._start - self._spanned.residual / noise
        self._left = float(residual @ residual + self._start @ self._start)
        self._slopes = _Slopes(self._matrix, self._spanned.in_space)
        self._A = self._weak(self._start)
        if not self._A[:, leading].any():
            raise BadInput(f"leading: expected a term that is not zero for these data, got {library.names[leading]!r}")

    def _weak(self, w: Array) -> Array:
        """A (num_tests, num_terms)."""
        return self._matrix(self._field.field([w[None]]))[0]

    def candidate(self, kept: tuple[int, ...]) -> Candidate:
        """The fit of one equation."""
        columns = list(kept)
        w, A, root = self._start, self._A[:, columns], 1.0
        unit = float(np.linalg.norm(A[:, 0]))
        c = np.linalg.lstsq(A[:, 1:], -A[:, 0], rcond=None)[0]
        chi2 = np.inf
        for penalty in _PENALTIES:
            root = np.sqrt(penalty) / unit
            chi2 = self._cost(w, A, c, root)
            for _ in range(_STEPS):
                slope = self._slopes(self._field.field([w[None]])[0], columns, np.append(1.0, c), self._spanned)
                rows = root * np.hstack([slope, A[:, 1:]])
                H = rows.T @ rows
                H[: len(w), : len(w)] += self._H
                g = rows.T @ (root * (A @ np.append(1.0, c)))
                g[: len(w)] += self._H @ (w - self._start)
                step = -scipy.linalg.solve(H + 1e-10 * np.diag(np.diag(H)), g, assume_a="pos")
                length, before = 1.0, chi2
                while length > 1e-3:
                    w1, c1 = w + length * step[: len(w)], c + length * step[len(w) :]
                    A1 = self._weak(w1)[:, columns]
                    if (cost := self._cost(w1, A1, c1, root)) < chi2:
                        w, c, A, chi2 = w1, c1, A1, cost
                        break
                    length *= 0.5
                if before - chi2 < _ENOUGH:
                    break
        at = self._field.field([w[None]])[0]
        slope = root * self._slopes(at, columns, np.append(1.0, c), self._spanned)
        equation = slope.T @ slope
        after, before = (np.linalg.slogdet(P + equation)[1] for P in (self._H, np.eye(len(w))))
        bic = chi2 + after - before + len(c) * np.log(self._num)
        return Candidate(tuple(self._names[k] for k in kept), np.append(1.0, c), chi2, float(bic), at.ravel())

    def _cost(self, w: Array, A: Array, c: npt.NDArray[Any], root: float) -> float:
        d, off = w - self._start, root * (A @ np.append(1.0, c))
        return self._left + float(d @ self._H @ d + off @ off)


class _Slopes:
    """The derivative of A c in the weights of a field. Collective to make and to call.

    What a term is where u varies as a monomial gives, as for test functions, what it is for any variation.
    """

    def __init__(self, matrix: WeakMatrix, in_space: Array) -> None:
        self._matrix = matrix
        library, dim = matrix.library, matrix.library.mesh.geometry.dim
        epsilon = ufl.variable(fem.Constant(library.mesh, 0.0))
        x = ufl.SpatialCoordinate(library.mesh) - matrix.origin
        self._parts: list[tuple[int, tuple[int, ...]]] = []
        expressions = []
        for number, column in enumerate(matrix.columns):
            for power in powers(dim, 1):
                monomial = ufl.as_ufl(1.0) if sum(power) == 0 else x[power.index(1)]
                moved = ufl.replace(column.expression, {library.u: library.u + epsilon * monomial})
                slope = expand_derivatives(ufl.diff(moved, epsilon))
                if not isinstance(slope, ufl.constantvalue.Zero):
                    self._parts.append((number, power))
                    expressions.append(slope)
        self._expression = matrix.compiled(expressions)
        u = library.u
        values = matrix.values_of(matrix.compiled([u, *(u.dx(i) for i in range(dim))]), in_space.T)
        xi = (matrix.where - matrix.origin_values)[:, :, None]
        # Of each function in space: g = sum of g_beta (x - origin)^beta to first order.
        self._in_space = {(0,) * dim: values[0] - (xi.transpose(1, 0, 2) * values[1:]).sum(axis=0)}
        for i in range(dim):
            self._in_space[tuple(int(j == i) for j in range(dim))] = values[1 + i]

    def __call__(self, trajectory: Array, kept: Sequence[int], c: Array, spanned: Spanned) -> Array:
        """d(A c)/dw, (num_tests, num_weights)."""
        matrix = self._matrix
        of = dict(zip(kept, c, strict=True))
        values = matrix.values_of(self._expression, trajectory)
        in_time, chosen = spanned.in_time, spanned.kept
        total = np.zeros((len(matrix.centres), len(matrix.in_time[0]), in_time.shape[1], spanned.in_space.shape[1]))
        for (number, power), at in zip(self._parts, values, strict=True):
            column = matrix.columns[number]
            if column.term not in of:
                continue
            jets = matrix.jets[column.degree, column.power]
            weights = np.einsum("lt,ta->tla", matrix.in_time[column.order], in_time)
            in_space = np.stack([jets @ (now[:, None] * self._in_space[power]) for now in np.transpose(at)])
            total += of[column.term] * np.tensordot(in_space, weights, axes=(0, 0)).transpose(0, 2, 3, 1)
        whole = parallel.sum_over_ranks(matrix.library.mesh.comm, total)
        return whole[:, :, chosen[0], chosen[1]].reshape(-1, chosen.shape[1])
