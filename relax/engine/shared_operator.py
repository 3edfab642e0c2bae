"""Stationary maps of one linear operator, solved for together: one factor, one block of right-hand sides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import numpy.typing as npt

from relax.base import parallel
from relax.base.la.factors import Factor, Key
from relax.base.types import Array
from relax.engine.linearization import BLOCK
from relax.engine.protocols import Map
from relax.engine.reduced import ReducedMap
from relax.engine.residual.registers import Point
from relax.engine.solve.sensitivity import solve_rows
from relax.engine.stationary import Asking, Made, Stationary, StationaryDerivatives
from relax.engine.turn import turn
from relax.errors import SolveFailed


class SharedOperator:
    """Maps on the same controls whose residuals have one ∂F/∂u, affine in their states. Collective, as are all methods.

    Args:
        maps: of stationary problems, the first of which has the factors.
        numbers: of the maps, in messages.
    """

    def __init__(self, maps: Sequence[ReducedMap], numbers: Sequence[int]) -> None:
        self._maps = list(maps)
        self._numbers = list(numbers)
        self.solutions = [_stationary(G) for G in maps]
        self.layout = self.solutions[0].layout
        self.operators = self.solutions[0].operators
        ends = np.cumsum([0, *(G.size_out for G in maps)])
        #: Where in a row of observations those of each map are.
        self.places = [slice(int(a), int(b)) for a, b in zip(ends[:-1], ends[1:], strict=True)]

    def values(self, rows: Array) -> Array:
        """(k, size_in) -> (k, size_out of all)."""
        with self._turns():
            # A point that nobody keeps leaves its factor to the next one.
            values = [self._at(row)[1] for row in rows]
        return np.array(values).reshape(len(rows), self.places[-1].stop)

    def linearize(self, rows: Array) -> list[tuple[SharedDerivatives, Array]]:
        """Derivatives and observations at several controls: (k, size_in), a block solve each."""
        with self._turns():
            return [self._at(row) for row in rows]

    @contextmanager
    def _turns(self) -> Iterator[None]:
        states = {id(G.problem.state): G.problem.state for G in self._maps}
        with ExitStack() as stack:
            for state in states.values():
                stack.enter_context(turn(state))
            yield

    def _at(self, control: Array) -> tuple[SharedDerivatives, Array]:
        self.check_open()
        first = self.solutions[0].residual
        parts = self.layout.split(control)
        first.registers.install_controls(parts)
        parameters = [s.residual.parameters.snapshot() for s in self.solutions]
        key = first.parameters.operator_key if first.operator_is_constant else Key()
        points, values = [], []
        with self.operators.factor_here(key) as factor:
            sources, states = self._sources(factor)
            found = _in_blocks(factor, sources, adjoint=False)
            for i, (G, s) in enumerate(zip(self._maps, self.solutions, strict=True)):
                u = s.residual.state.x.array
                u[:] = states[i]
                s.forward.accept(found[i], sources[i])
                s.counts["forward"] += 1
                lasting = (s.residual.parameters.everything_key,) * len(parts) if s.residual.is_affine else ()
                points.append(Point(u.copy(), parts, parameters[i], key, lasting))
                values.append(s.observe())
                G.compare(values[-1][None])
        each = [StationaryDerivatives(s, p) for s, p in zip(self.solutions, points, strict=True)]
        return SharedDerivatives(self, each), np.concatenate(values)

    def check_open(self) -> None:
        """Raise where one of the maps has been closed: what ties its state's values is gone. Local, the same on all.

        Raises:
            BadInput: then.
        """
        for s in self.solutions:
            s.operators.check_open()

    def _sources(self, factor: Factor) -> tuple[Array, list[Array]]:
        """Right-hand sides (maps, owned) of the states, and the given values from which these are told."""
        rows, states = [], []
        for i, s in enumerate(self.solutions):
            try:
                rows.append(s.forward.source(factor))
            except SolveFailed as failure:
                raise SolveFailed(f"Experiments: maps[{self._numbers[i]}]: {failure}") from failure
            states.append(s.residual.state.x.array.copy())
        return np.array(rows), states


class SharedDerivatives:
    """Derivatives of the maps of a shared operator at their points, solved for together. Collective.

    Args:
        shared: the maps.
        each: derivatives of each of them, at points of one key.
    """

    hessian_block = BLOCK

    def __init__(self, shared: SharedOperator, each: Sequence[StationaryDerivatives]) -> None:
        self._shared = shared
        self._each = list(each)

    @property
    def is_everywhere_the_same(self) -> bool:
        """As ``Derivatives``."""
        return all(d.is_everywhere_the_same for d in self._each)

    def tangents(self, directions: Array) -> Array:
        """G'(m) dm: (k, size_in) -> (k, size_out of all)."""
        parts = self._split(directions)
        return np.concatenate(self._answered({i: d.asking_tangents(parts) for i, d in enumerate(self._each)}), axis=1)

    def gradients(self, seeds: Array) -> Array:
        """G'(m)ᵀ dy: (k, size_out of all) -> (k, size_in)."""
        return self._summed(seeds, lambda i, rows: self._each[i].asking_gradients(seeds[rows, self._shared.places[i]]))

    def hessian_actions(self, seeds: Array, directions: Array, which: npt.NDArray[np.int64]) -> Array:
        """d/dε of the gradients along directions[which]: (k, size_out of all), (l, size_in), (k,) -> (k, size_in)."""
        parts, places = self._split(directions), self._shared.places
        return self._summed(
            seeds, lambda i, rows: self._each[i].asking_hessian_actions(seeds[rows, places[i]], parts, which[rows])
        )

    def _split(self, directions: Array) -> list[list[Array]]:
        return [self._shared.layout.split(row) for row in directions]

    def _summed(self, seeds: Array, ask: Callable[[int, npt.NDArray[np.int64]], Asking[list[Array]]]) -> Array:
        """The sum over the maps of what they make of their seeds, those that are not zero: (k, size_in)."""
        rows = {i: np.flatnonzero(seeds[:, place].any(axis=1)) for i, place in enumerate(self._shared.places)}
        rows = {i: which for i, which in rows.items() if len(which)}
        if not rows:
            return np.zeros((len(seeds), self._shared.layout.size))
        made = self._answered({i: ask(i, which) for i, which in rows.items()})
        total = [np.zeros((len(seeds), part.shape[1])) for part in made[0]]
        for which, parts in zip(rows.values(), made, strict=True):
            for whole, part in zip(total, parts, strict=True):
                whole[which] += part
        return self._shared.layout.join(total)

    def _answered(self, asking: dict[int, Asking[Made]]) -> list[Made]:
        """What generators of some of the maps make; what they ask for at once is solved for in one block."""
        self._shared.check_open()
        made: dict[int, Made] = {}
        asked: dict[int, tuple[Array, bool]] = {}
        answers: dict[int, Array] = {}
        for i, generator in asking.items():
            self._go_on(i, generator, None, asked, made)
        while asked:
            # Those that are ahead of others by a known adjoint wait for them.
            adjoint = all(of_adjoint for _, of_adjoint in asked.values())
            now = [i for i, (_, of_adjoint) in asked.items() if of_adjoint is adjoint]
            rows = [asked.pop(i)[0] for i in now]
            lengths = [len(of_one) for of_one in rows]
            found = self._solved(np.concatenate(rows), np.repeat(now, lengths), adjoint=adjoint)
            answers = dict(zip(now, np.split(found, np.cumsum(lengths)[:-1]), strict=True))
            for i, answer in answers.items():
                self._go_on(i, asking[i], answer, asked, made)
        return [made[i] for i in asking]

    def _go_on(
        self,
        i: int,
        generator: Asking[Made],
        answer: Array | None,
        asked: dict[int, tuple[Array, bool]],
        made: dict[int, Made],
    ) -> None:
        with self._each[i].held():
            try:
                asked[i] = next(generator) if answer is None else generator.send(answer)
            except StopIteration as done:
                made[i] = done.value

    def _solved(self, rhs: Array, of: npt.NDArray[np.int64], *, adjoint: bool) -> Array:
        """Solutions of right-hand sides (k, owned) of the maps ``of``, (k,); equal ones are solved for once."""
        first = self._each[0]
        comm = first.solution.residual.comm
        # Rows of a Jacobian: what is seen of one state is seen of the others, too.
        alone = np.arange(len(rhs)) if len(rhs) <= len(self._each) else _first_equal(comm, rhs)
        rows = np.unique(alone)
        for i in np.delete(of, rows):
            self._each[i].solution.counts["adjoint" if adjoint else "tangent"] -= 1
        with first.held(), self._shared.operators.factor_here(first.point.key, derivatives=True) as factor:
            found = _in_blocks(factor, rhs[rows], adjoint=adjoint)
        return found if len(rows) == len(rhs) else found[np.searchsorted(rows, alone)]


def groups(maps: Sequence[Map]) -> list[list[int]]:
    """Numbers of the maps that share an operator, and of each other one by itself. Collective."""
    found: list[list[int]] = []
    for i, G in enumerate(maps):
        for group in found:
            if _share(maps[group[0]], G):
                group.append(i)
                break
        else:
            found.append([i])
    return found


def shared_by(maps: Sequence[Map], group: Sequence[int]) -> SharedOperator:
    """The operator that a group of them shares. Collective."""
    return SharedOperator([G for G in (maps[i] for i in group) if isinstance(G, ReducedMap)], group)


def _share(G: Map, other: Map) -> bool:
    a, b = (g.solution if isinstance(g, ReducedMap) else None for g in (G, other))
    if not isinstance(a, Stationary) or not isinstance(b, Stationary):
        return False
    return a.residual.is_linear and b.residual.is_linear and a.operators.is_that_of(b.operators)


def _stationary(G: ReducedMap) -> Stationary:
    assert isinstance(G.solution, Stationary), "maps in time share no operator"
    return G.solution


def _in_blocks(factor: Factor, rhs: Array, *, adjoint: bool) -> Array:
    """``solve_rows`` of any number of right-hand sides."""
    blocks = [solve_rows(factor, rhs[i : i + BLOCK], adjoint=adjoint) for i in range(0, len(rhs), BLOCK)]
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def _first_equal(comm: parallel.MPI.Comm, rows: Array) -> npt.NDArray[np.int64]:
    """For each vector (k, owned) the number of the first one that is the same on every rank. Collective."""
    seen: dict[bytes, int] = {}
    here = np.array([seen.setdefault(row.tobytes(), i) for i, row in enumerate(rows)])
    everywhere = np.array(parallel.on_each_rank(comm, here)).T
    known: dict[bytes, int] = {}
    return np.array([known.setdefault(row.tobytes(), i) for i, row in enumerate(everywhere)])
