"""The terms of a step, assembled by DOLFINx from the engine's forms, each once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import dolfinx.fem.petsc as fem_petsc
import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
import ufl
from dolfinx import fem

from relax.base.fem.expansion import Expansion
from relax.base.fem.forms import Control, compiled, given_back, holds, jumps_with, num_owned, values_of
from relax.base.types import Array
from relax.engine.dense.affine import Affine, Indices, affine
from relax.engine.dense.terms import Given, Inflow, Terms, Walls
from relax.engine.march.affine import Scalar, scalars_in, slopes
from relax.engine.march.plan import Plan
from relax.engine.reduced import ReducedMap
from relax.errors import BadInput
from relax.problem.evolution import Evolution
from relax.problem.problem import standing_in
from relax.problem.stages import Stage

_INSTEAD = "try SolutionLayer(G) without dense=True, or the map itself"

#: More values than these, and a sparse factor is cheaper: an operator has 8 MB, its inverse costs 2e9 operations.
MOST_VALUES = 1000


def refuse(why: str) -> BadInput:
    """What is said of a map that cannot be marched densely."""
    return BadInput(f"DenseMap: {why}; {_INSTEAD}")


@dataclass(frozen=True, eq=False)
class _Family:
    """A form and its derivatives in the scalars, by their number."""

    base: fem.Form
    slopes: dict[int, fem.Form]
    changes: bool


class Assembly:
    """The compiled forms of a map's step, and the arrays that they give at the present parameters. On one rank.

    Args:
        G: the map.

    Raises:
        BadInput: when its steps are not linear in the state, not affine in the controls, too many values for dense
            matrices, or shared by several ranks.
    """

    def __init__(self, G: ReducedMap) -> None:
        _check(G)
        self._G = G
        self._evolution = G.problem if isinstance(G.problem, Evolution) else None
        self._plan = None if self._evolution is None else Plan(self._evolution)
        self._residual = residual = G.residual
        self.parameters = residual.parameters
        self.num_steps = 1 if self._evolution is None else self._evolution.num_steps
        first = 0 if self._evolution is None else 1
        #: Of each control of the step but ``previous``: where its part of each step lies, (num_steps, length).
        self._index = self._indices()
        self._controls = residual.controls[first:]
        weak = residual.weak
        fields = [i for i, c in enumerate(residual.controls) if isinstance(c, fem.Function)]
        bilinear = {i: form for i in fields if (form := weak.sensitivities[i]) is not None}
        functions = [residual.state, *(residual.controls[i] for i in fields)]
        _check_affine(weak.F, weak.J, bilinear, functions, residual.controls)
        rest = weak.at_zero(functions)
        forms = [weak.J, *bilinear.values(), *([] if rest is None else [rest])]
        constants = [c for c in self._controls if isinstance(c, fem.Constant)]
        standing = {
            (id(s.constant), s.entry): s for form in forms for s in scalars_in(form, residual.registers, constants)
        }
        self._scalars: list[Scalar] = list(standing.values())
        self._J = self._family(weak.J)
        self._by_field = {i: self._family(form) for i, form in bilinear.items()}
        self._rest = self._family(rest) if rest is not None else None
        boundary = residual.boundary
        self._free: Indices = np.setdiff1d(np.arange(residual.num_owned), boundary.owned)
        if len(self._free) > MOST_VALUES:
            raise refuse(
                f"expected at most {MOST_VALUES} values of the state that are not clamped, got {len(self._free)}: "
                "dense matrices of more cost more than sparse factors"
            )

    def initial(self) -> Array:
        """u_0 as it is now, where it is no control; zero otherwise: (n_state,)."""
        if self._evolution is None or self._plan is None or self._plan.initial is not None:
            return np.zeros(self._residual.num_owned)
        return np.array(self._evolution.initial_state.x.array)

    def _indices(self) -> list[Indices]:
        G = self._G
        parts = [np.rint(p).astype(np.int64) for p in G.layout.split(np.arange(G.size_in, dtype=np.float64))]
        self._parts = parts
        self._initial_index: Indices | None = None
        if self._plan is None:
            return [part[None, :] for part in parts]
        if self._plan.initial is not None:
            self._initial_index = parts[self._plan.initial]
        assert self._evolution is not None
        (stage,) = self._evolution.stages
        assert isinstance(stage, Stage)
        return [np.array([parts[p.at(n)] for n in range(self.num_steps)]) for p in self._plan.places(stage)]

    def beside(self, n: int) -> list[tuple[Control, Indices]]:
        """Each control and where it lies in a control vector, as u_n is seen beside it."""
        if self._plan is None:
            return list(zip(self._controls, self._parts, strict=True))
        return [(c, self._parts[place.at(max(n - 1, 0))]) for c, place in self._plan.of_controls]

    # -- forms ---------------------------------------------------------------------------------------------------------

    def _family(self, form: ufl.Form) -> _Family:
        weak = self._residual.weak
        mine = scalars_in(form, self._residual.registers, [s.constant for s in self._scalars if s.entry == 0])
        in_scalars = slopes(weak, form, mine)
        if in_scalars is None:
            at = [str(i) for i, c in enumerate(self._G.problem.controls) if any(c is s.constant for s in mine)]
            raise refuse(
                "expected steps that are affine in all numbers together, got products or functions of them: of those "
                f"of controls[{', '.join(at)}]"
            )
        number = {(id(s.constant), s.entry): j for j, s in enumerate(self._scalars)}
        distinct = {id(slope): slope for slope in in_scalars if slope is not None}
        once = {key: compiled(slope) for key, slope in distinct.items()}
        by_number = {
            number[id(s.constant), s.entry]: once[id(slope)]
            for s, slope in zip(mine, in_scalars, strict=True)
            if slope is not None
        }
        time = None if self._evolution is None else self._evolution.time
        changes = time is not None and holds(form, time)
        return _Family(compiled(form), by_number, changes)

    def _arrays(self, family: _Family) -> Affine:
        """The terms of a form at all values of the state: rows by columns, or rows."""
        evolution = self._evolution
        times = [] if evolution is None or evolution.time is None else [evolution.time]
        steps = range(self.num_steps) if family.changes else range(1)
        base, slopes_of = [], {j: list[Array]() for j in family.slopes}
        with given_back([*(s.constant for s in self._scalars), *(s.direction for s in self._scalars), *times]):
            for s in self._scalars:
                s.constant.value[...] = 0.0
            for n in steps:
                for time in times:
                    values_of(time)[...] = evolution.time_at(n + 1) if evolution is not None else None
                base.append(self._array(family.base))
                for j, form in family.slopes.items():
                    self._scalars[j].point_along()
                    slopes_of[j].append(self._array(form))
        return affine(np.array(base), {j: np.array(slope) for j, slope in slopes_of.items()})

    def _array(self, form: fem.Form) -> Array:
        if form.rank == 1:
            vector = np.zeros(self._residual.num_owned)
            fem.assemble_vector(vector, form)
            return vector
        matrix = fem_petsc.create_matrix(form)
        try:
            fem_petsc.assemble_matrix(matrix, form)
            matrix.assemble()
            rows, columns, values = matrix.getValuesCSR()
            return np.asarray(scipy.sparse.csr_matrix((values, columns, rows), shape=matrix.getSize()).toarray())
        finally:
            matrix.destroy()

    # -- terms ---------------------------------------------------------------------------------------------------------

    def terms(self) -> Terms:
        """Everything at the present parameters."""
        N, clamped, evolution = self.num_steps, self._residual.boundary.owned, self._evolution
        A = self._arrays(self._J)
        free = self._free[_narrow_order(A.part(self._free, self._free))]
        by_field = {i: self._arrays(family) for i, family in self._by_field.items()}
        B = None
        if evolution is not None:
            # Everything that stands in the step is there: a residual without ``previous`` is refused by Evolution.
            B = by_field.pop(0)
            by_field = {i - 1: matrix for i, matrix in by_field.items()}
        walls, values, start = self._walls(), self._wall_values(), self.initial()
        inflows = [Inflow(matrix.part(free), self._index[i], range(N)) for i, matrix in by_field.items()]
        to_walls = A.part(free, clamped)
        givens = [Given(to_walls.times(values), range(N))]
        inflows += [Inflow(to_walls.times(wall.lift), wall.index, range(N)) for wall in walls]
        if self._rest is not None:
            givens.append(Given(self._arrays(self._rest).part(free), range(N)))
        if B is not None:
            past = B.part(free, clamped)
            givens += [Given(past.times(values), range(1, N)), Given(past.times(start[clamped]), range(1))]
            # In step n stand the clamped values of step n - 1; those of the initial state are its own.
            inflows += [
                Inflow(past.times(w.lift), np.roll(w.index, 1, axis=0), range(1, N)) for w in walls if w.lift.any()
            ]
            if self._initial_index is not None:
                index = np.broadcast_to(self._initial_index[clamped], (N, len(clamped)))
                inflows.append(Inflow(past, index, range(1)))
        return Terms(
            A=A.part(free, free),
            B=None if B is None else B.part(free, free),
            inflows=[i for i in inflows if not i.matrix.is_zero and len(i.steps) > 0],
            givens=[g for g in givens if not g.vector.is_zero and len(g.steps) > 0],
            scalars=self._scalar_index(),
            per_step=tuple(evolution is not None and evolution.is_per_step(s.constant) for s in self._scalars),
            free=free,
            clamped=clamped,
            walls=walls,
            wall_values=values,
            initial=start,
            initial_index=self._initial_index,
        )

    def _scalar_index(self) -> Indices:
        index = np.empty((self.num_steps, len(self._scalars)), dtype=np.int64)
        for j, s in enumerate(self._scalars):
            (i,) = (i for i, control in enumerate(self._controls) if control is s.constant)
            index[:, j] = self._index[i][:, s.entry]
        return index

    def _walls(self) -> Sequence[Walls]:
        """Which control gives which clamped values: found by lifting the numbers of its entries."""
        residual = self._residual
        boundary = residual.boundary
        skipped = len(residual.controls) - len(self._controls)
        walls = []
        for i, control in enumerate(self._controls):
            parts: list[Array] = [np.zeros(values_of(c).size) for c in residual.controls]
            parts[skipped + i][:] = np.arange(1, values_of(control).size + 1)
            numbers = np.zeros(residual.num_owned)
            boundary.lift(parts, numbers)
            entries = np.rint(numbers[boundary.owned]).astype(np.int64)
            used, column = np.unique(entries[entries > 0], return_inverse=True)
            if len(used):
                lift = np.zeros((len(entries), len(used)))
                lift[np.flatnonzero(entries), column] = 1.0
                walls.append(Walls(lift, self._index[i][:, used - 1]))
        return walls

    def _wall_values(self) -> Array:
        """The clamped values that no control gives; zero where one does."""
        residual = self._residual
        state = np.zeros(residual.num_owned)
        residual.boundary.apply(state)
        ones: list[Array] = [np.ones(values_of(c).size) for c in residual.controls]
        by_controls = np.zeros(residual.num_owned)
        residual.boundary.lift(ones, by_controls)
        state[by_controls > 0.0] = 0.0
        return state[residual.boundary.owned]


def _narrow_order(A: Affine) -> Indices:
    """The reverse Cuthill-McKee order, in which the matrices' band is small."""
    if A.base.shape[-1] == 0:
        return np.arange(0)
    present = sum(abs(scipy.sparse.csr_matrix(term)) for term in (*A.base, *(t for s in A.slopes.values() for t in s)))
    order = scipy.sparse.csgraph.reverse_cuthill_mckee(scipy.sparse.csr_matrix(present), symmetric_mode=False)
    return np.asarray(order, dtype=np.int64)


def _check(G: ReducedMap) -> None:
    if not isinstance(G, ReducedMap):
        raise refuse(f"expected a ReducedMap, got {type(G).__name__}")
    if G.comm.size > 1:
        raise refuse(
            f"expected a mesh on one rank, got one on {G.comm.size}; make it on MPI.COMM_SELF, or share samples by "
            "Teams(comm, 1) with a mesh over teams.space"
        )
    if G.layout.kind != "replicated":
        raise refuse(f"expected the replicated layout, got {G.layout.kind!r}")
    if isinstance(G.problem, Evolution) and G.problem.substitution is not None:
        raise refuse("expected steps for the state itself, got a substitution, which is not linear")
    if isinstance(G.problem, Evolution) and not G.problem.is_plain:
        raise refuse("expected steps of one equation that hold one earlier state, got several of these")
    if isinstance(G.problem, Evolution) and G.problem.clock.registers not in ([], [G.problem.time]):
        raise refuse("expected steps of one length that differ in their controls and the time alone, got data or times")
    residual = G.residual
    if any(isinstance(c, Expansion) for c in residual.controls):
        raise refuse("expected fields and Constants as controls, got one of pieces or point sources")
    if residual.laws.each:
        raise refuse(f"expected coefficients that UFL knows, got a {residual.laws.each[0].law}")
    if not residual.is_linear or jumps_with(residual.weak.F, residual.state):
        raise refuse("expected steps that are linear in the state, got a residual that is not")
    if residual.problem.nullspace is not None:
        raise refuse("expected an operator that is regular, got a problem with a nullspace")
    if residual.tied:
        raise refuse("expected values of the state that are free or clamped, got an mpc, or a number as a block")
    moving = [*residual.controls, getattr(G.problem, "time", None)]
    if any(t is m for bc in G.problem.bcs for t in standing_in(bc) for m in moving):
        raise refuse("expected boundary values that are controls or known, got an expression of controls or the time")
    if num_owned(residual.state.function_space) != len(residual.state.x.array):
        raise refuse("expected a mesh without ghosts")


def _check_affine(
    F: ufl.Form,
    J: ufl.Form,
    bilinear: dict[int, ufl.Form],
    functions: Sequence[fem.Function],
    controls: Sequence[fem.Function | fem.Constant],
) -> None:
    """Neither ∂F/∂u nor the derivative in any field may hold a field."""
    for f in functions:
        if holds(J, f):
            raise refuse(f"expected an operator without fields that change, got one with {f.name!r} in it")
    for f in functions:
        if jumps_with(F, f):
            raise refuse(f"expected no condition on a field in the residual, got one on {f.name!r}")
        for i, form in bilinear.items():
            if holds(form, f):
                raise refuse(
                    f"expected a residual that is affine in its fields together, got one whose derivative in "
                    f"{getattr(controls[i], 'name', controls[i])!r} depends on {f.name!r}"
                )
