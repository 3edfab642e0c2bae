"""A batch of runs, and their derivatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from relax.base.types import Array
from relax.engine.dense.affine import Affine, of_step, rows_times
from relax.engine.dense.banded import BandedStep
from relax.engine.dense.observation import DenseObservation
from relax.engine.dense.steps import DenseStep, StepMatrices
from relax.engine.dense.terms import Terms
from relax.errors import SolveFailed


class DensePoints:
    """G at S controls, marched together, and derivatives there. Local.

    With A_n, B_n, D_n, q_n at the numbers c_n of step n, and g_nj = A_j u_n + B_j u_{n-1} + D_j w_n + q_j:

    - tangent: A_n du_n = -B_n du_{n-1} - D_n dw_n - Σ g_nj dc_nj, forwards;
    - adjoint: A_nᵀ λ_n = b_n, b_n = (what is seen)ᵀ dy - B_{n+1}ᵀ λ_{n+1}, backwards; the gradient is -g_nj·λ_n in c_nj
      and -D_nᵀ λ_n in w_n;
    - second order: the derivative of these along another direction. The step is bilinear, so it is exact.

    Attributes:
        values: (S, size_out).
    """

    def __init__(
        self, terms: Terms, matrices: StepMatrices, seen: DenseObservation, controls: Array, memory: float
    ) -> None:
        self._terms = terms
        self._seen = seen
        self._m = controls
        self._memory = memory
        self._c = terms.scalars_of(controls)
        self._operators = matrices.operators(self._c, terms.num_steps, memory)
        self.values: Array = np.zeros((len(controls), seen.size))
        self._states = self._march()
        self._slopes: Array | None = None

    # -- forward -------------------------------------------------------------------------------------------------------

    def _march(self) -> Array:
        """u_0, ..., u_N, (N + 1, S, n), and what is seen of them."""
        terms = self._terms
        u = terms.start(self._m)
        states = np.empty((terms.num_steps + 1, *u.shape))
        states[0] = u
        with self._seen.at_parameters():
            self._see(0, u)
            for n, step in self._operators.steps():
                after = step.forward(states[n][:, None])
                source = self._source(n)
                if source is not None:
                    after = after - step.solve(source[:, None])
                states[n + 1] = after[:, 0]
                self._see(n + 1, states[n + 1])
        if not np.isfinite(states[-1]).all():
            raise SolveFailed("a state is not finite: the steps have overflowed; is a control out of range?")
        return states

    def _see(self, n: int, u: Array) -> None:
        if self._seen.looks_at(n):
            self._seen.add_values(n, self._terms.whole(n, u, self._m), self._m, self.values)

    def _source(self, n: int) -> Array | None:
        """Σ D(c) w + Σ q(c), (S, n); None where there is none in this step."""
        shape = len(self._m), len(self._terms.free)
        parts = [part[:, 0] for part in self._from_inflows(n, self._m[:, None])]
        givens = [given.vector for given in self._terms.givens if n in given.steps]
        return _total([*parts, *(np.broadcast_to(q.at(n, of_step(self._c, n)), shape) for q in givens)])

    def _from_inflows(self, n: int, m: Array) -> list[Array]:
        """D w for each D in this step, for rows m (S, K, size_in): (S, K, n)."""
        present = [inflow for inflow in self._terms.inflows if n in inflow.steps]
        return [rows_times(m[..., i.index[n]], _T(i.matrix.at(n, of_step(self._c, n)))) for i in present]

    def _slopes_all(self) -> Array:
        """g_nj, (N, S, num_scalars, n)."""
        if self._slopes is None:
            slopes = self._changes_of_slopes(self._states[:, :, None], self._m[:, None], with_given=True)
            self._slopes = np.ascontiguousarray(slopes[:, :, 0])
        return self._slopes

    def _changes_of_slopes(self, states: Array, m: Array, *, with_given: bool = False) -> Array:
        """Σ A_j u_n + B_j u_{n-1} + D_j w_n (+ q_j) for states (N + 1, S, K, n), m (S, K, size_in): (N, S, K, j, n)."""
        terms = self._terms
        result = np.zeros((terms.num_steps, *states.shape[1:3], len(terms.per_step), states.shape[3]))
        for matrix, of in ((terms.A, states[1:]), (terms.B, states[:-1])):
            if matrix is None:
                continue
            for j, slope in matrix.slopes.items():
                if len(slope) > 1:
                    result[..., j, :] += of @ slope.transpose(0, 2, 1)[:, None]
                else:
                    result[..., j, :] += (of.reshape(-1, of.shape[-1]) @ slope[0].T).reshape(of.shape)
        for inflow in terms.inflows:
            for j, slope in inflow.matrix.slopes.items():
                for n in inflow.steps:
                    result[n, :, :, j] += m[..., inflow.index[n]] @ of_step(slope, n).T
        for given in terms.givens if with_given else ():
            for j, slope in given.vector.slopes.items():
                for n in given.steps:
                    result[n, :, :, j] += of_step(slope, n)
        return result

    # -- first order ---------------------------------------------------------------------------------------------------

    def jvp(self, dm: Array) -> Array:
        """Tangents: (S, K, size_in) -> (S, K, size_out)."""
        result = np.zeros((*dm.shape[:2], self._seen.size))
        with self._seen.at_parameters():
            for n, du in self._tangents(dm):
                if self._seen.looks_at(n):
                    whole = self._terms.whole(n, du, dm, change=True)
                    self._seen.add_tangents(n, self._whole(n), self._m, whole, result, dm)
        return result

    def _tangents(self, dm: Array) -> Iterator[tuple[int, Array]]:
        """(n, du_n), du_n of shape (S, K, n)."""
        terms = self._terms
        du = terms.start(dm, change=True)
        yield 0, du
        for n, step in self._operators.steps():
            du = step.forward(du)
            change = self._change_of_source(n, dm)
            if change is not None:
                du = du - step.solve(change)
            yield n + 1, du

    def _change_of_source(self, n: int, dm: Array) -> Array | None:
        """D dw + Σ g_j dc_j, (S, K, n); None where there is none in this step."""
        parts = self._from_inflows(n, dm)
        if self._terms.per_step:
            parts.append(dm[..., self._terms.scalars[n]] @ self._slopes_all()[n])
        return _total(parts)

    def vjp(self, dy: Array) -> Array:
        """Adjoints: (S, K, size_out) -> (S, K, size_in).

        More directions than there are controls, or observations, go through the matrix.
        """
        size_in, size_out = self._m.shape[1], self._seen.size
        if dy.shape[1] > min(size_in, size_out):
            return np.asarray(dy @ self.matrix())
        return self._vjp(dy)

    def matrix(self) -> Array:
        """The Jacobians, (S, size_out, size_in): by adjoints or by tangents, whichever are fewer."""
        S, size_in, size_out = len(self._m), self._m.shape[1], self._seen.size
        if size_out <= size_in:
            return self._vjp(np.broadcast_to(np.eye(size_out), (S, size_out, size_out)))
        columns = self.jvp(np.broadcast_to(np.eye(size_in), (S, size_in, size_in)))
        return np.ascontiguousarray(columns.transpose(0, 2, 1))

    def _vjp(self, dy: Array) -> Array:
        terms = self._terms
        result = np.zeros((*dy.shape[:2], self._m.shape[1]))
        dual = np.zeros((*dy.shape[:2], len(terms.free)))
        in_scalars = np.zeros((terms.num_steps, *dy.shape[:2], len(terms.per_step)))
        slopes = self._slopes_all() if terms.per_step else None
        with self._seen.at_parameters():
            for n, step in self._operators.steps(backwards=True):
                dual = self._add_seen(n + 1, self._seen_adjoints(n + 1, dy, result), dual, result)
                if slopes is not None:
                    # λ·g = b·A⁻¹ g: fewer products where there are fewer scalars than directions.
                    np.matmul(dual, -_T(step.solve(slopes[n])), out=in_scalars[n])
                adjoint = self._put_inflows(n, dual, step, result)
                dual = step.backward(dual, adjoint)
            self._add_start(self._seen_adjoints(0, dy, result), dual, result)
        terms.put_scalars(in_scalars, result)
        return result

    def _seen_adjoints(self, n: int, dy: Array, result: Array | None) -> Array | None:
        """(What is seen of u_n)ᵀ dy, (S, K, n_state); None where nothing is. Controls beside it are served at once."""
        return self._seen.adjoints(n, self._whole(n), self._m, dy, result) if self._seen.looks_at(n) else None

    def _add_seen(self, n: int, seen: Array | None, dual: Array, result: Array) -> Array:
        """What is seen of u_n arrives: at the state, and at the controls behind its clamped values."""
        if seen is None:
            return dual
        self._terms.put(n, seen, result)
        return dual + seen[..., self._terms.free]

    def _add_start(self, seen: Array | None, dual: Array, result: Array) -> None:
        whole = np.zeros((*dual.shape[:2], len(self._terms.initial)))
        whole[..., self._terms.free] = dual
        self._terms.put(0, whole if seen is None else whole + seen, result)

    def _put_inflows(self, n: int, dual: Array, step: DenseStep | BandedStep, result: Array) -> Array | None:
        """-Dᵀ λ to where w lies; λ, if it was needed."""
        present = [inflow for inflow in self._terms.inflows if n in inflow.steps]
        if not present:
            return None
        adjoint = step.adjoint(dual)
        for inflow in present:
            result[..., inflow.index[n]] -= rows_times(adjoint, inflow.matrix.at(n, of_step(self._c, n)))
        return adjoint

    def _whole(self, n: int) -> Array:
        return self._terms.whole(n, self._states[n], self._m)

    # -- second order --------------------------------------------------------------------------------------------------

    def hvp(self, dy: Array, dm: Array) -> Array:
        """d/dε of the adjoints at m + ε dm, in pairs: (S, K, size_out), (S, K, size_in) -> (S, K, size_in)."""
        return self._in_blocks(self._hvp, dy, dm)

    def second_tangent(self, a: Array, b: Array) -> Array:
        """G''(m)[a, b], in pairs: (S, K, size_in) twice -> (S, K, size_out)."""
        return self._in_blocks(self._second_tangent, a, b)

    def _in_blocks(self, action: Callable[[Array, Array], Array], one: Array, other: Array) -> Array:
        """Tangents along all steps are held: so many directions at once as there is memory for."""
        each = max(1.0, 8.0 * self._states.size * (2 + len(self._terms.per_step)))
        block = max(1, int(self._memory / each))
        K = one.shape[1]
        blocks = [action(one[:, i : i + block], other[:, i : i + block]) for i in range(0, max(K, 1), block)]
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)

    def _along(self, dm: Array) -> tuple[Array, Array]:
        """du_n, (N + 1, S, K, n), and the derivative of the g_nj, (N, S, K, num_scalars, n)."""
        states = np.array([du for _, du in self._tangents(dm)])
        return states, self._changes_of_slopes(states, dm)

    def _hvp(self, dy: Array, dm: Array) -> Array:
        terms = self._terms
        result = np.zeros((*dy.shape[:2], self._m.shape[1]))
        unused = np.empty_like(result)
        states, bent = self._along(dm)
        slopes = self._slopes_all()
        dual = np.zeros((*dy.shape[:2], len(terms.free)))
        second = np.zeros_like(dual)
        in_scalars = np.zeros((terms.num_steps, *dy.shape[:2], len(terms.per_step)))
        with self._seen.at_parameters():
            for n, step in self._operators.steps(backwards=True):
                dual = self._add_seen(n + 1, self._seen_adjoints(n + 1, dy, None), dual, unused)
                bent_seen = self._seen_seconds(n + 1, dy, dm, states[n + 1], result)
                second = self._add_seen(n + 1, bent_seen, second, result)
                adjoint = step.adjoint(dual)
                dc = dm[..., terms.scalars[n]]
                second = second - _combined(terms.A, n, dc, adjoint)
                turned = step.adjoint(second)
                in_scalars[n] = -turned @ slopes[n].transpose(0, 2, 1)
                in_scalars[n] -= (bent[n] @ adjoint[..., None])[..., 0]
                for inflow in terms.inflows:
                    if n in inflow.steps:
                        part = rows_times(turned, inflow.matrix.at(n, of_step(self._c, n)))
                        result[..., inflow.index[n]] -= part + _combined(inflow.matrix, n, dc, adjoint)
                dual, second = step.backward(dual, adjoint), step.backward(second, turned)
                if terms.B is not None:
                    second = second - _combined(terms.B, n, dc, adjoint)
            self._add_start(self._seen_seconds(0, dy, dm, states[0], result), second, result)
        terms.put_scalars(in_scalars, result)
        return result

    def _seen_seconds(self, n: int, dy: Array, dm: Array, du: Array, result: Array) -> Array | None:
        """The derivative of ``_seen_adjoints`` along (du, dm); None where there is none."""
        if self._seen.is_linear or not self._seen.looks_at(n):
            return None
        whole = self._terms.whole(n, du, dm, change=True)
        return self._seen.seconds(n, self._whole(n), self._m, dy, whole, dm, result)

    def _second_tangent(self, a: Array, b: Array) -> Array:
        terms, seen = self._terms, self._seen
        result = np.zeros((*a.shape[:2], seen.size))
        (u_a, g_a), (u_b, g_b) = self._along(a), self._along(b)
        bend = np.zeros_like(u_a[0])
        zero = np.zeros_like(a)
        with seen.at_parameters():
            for n in range(terms.num_steps + 1):
                if seen.looks_at(n) and not seen.is_linear:
                    one, other = (terms.whole(n, u[n], m, change=True) for u, m in ((u_a, a), (u_b, b)))
                    seen.add_curvature(n, self._whole(n), self._m, one, a, other, b, result)
            for n, step in self._operators.steps():
                at = terms.scalars[n]
                source = (a[..., None, at] @ g_b[n] + b[..., None, at] @ g_a[n])[..., 0, :]
                bend = step.forward(bend) - step.solve(source)
                if seen.looks_at(n + 1):
                    whole = terms.whole(n + 1, bend, zero, change=True)
                    seen.add_tangents(n + 1, self._whole(n + 1), self._m, whole, result)
        return result


def _total(parts: list[Array]) -> Array | None:
    """The sum of arrays; None of none."""
    return sum(parts[1:], start=parts[0]) if parts else None


def _T(matrices: Array) -> Array:
    return matrices.transpose(0, 2, 1)


def _combined(matrix: Affine, n: int, dc: Array, rows: Array) -> Array | float:
    """Σ dc_j rows X_j, for rows (S, K, n) and dc (S, K, num_scalars)."""
    total: Array | float = 0.0
    for j, slope in matrix.slopes.items():
        total = total + dc[..., j, None] * (rows @ of_step(slope, n))
    return total
