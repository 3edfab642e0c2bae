"""The operators ∂F/∂u of a residual, factored where they are needed and kept while they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from petsc4py import PETSc

from relax.base import parallel
from relax.base.fem.forms import is_same_form
from relax.base.la.factors import Factor, FactorStore, Key
from relax.base.la.linear import LinearSolver
from relax.base.la.null_space import NullSpace
from relax.base.la.options import (
    DIRECT,
    DIRECT_SYMMETRIC,
    Options,
    has_user_options,
    known,
    merged,
    preset,
    same_on_all_ranks,
    split,
    user_options,
)
from relax.base.la.parts import Parts
from relax.base.log import timed
from relax.base.types import Array
from relax.engine.residual.residual import Residual
from relax.engine.solve.kernel import check_constants
from relax.engine.solve.null_space import is_of_vectors, null_space_of, rigid_motions
from relax.engine.solve.parts import named, names_of, parts_of
from relax.errors import BadInput, BadProblem, SolveFailed

# What rounding, quadrature and Newton's method may leave of a residual that has a state.
_COMPATIBLE = 1e-7

# GAMG interpolates what it is told to be near the null space; BoomerAMG, told so, crashes (PETSc 3.22).
_BY_SMOOTHED_AGGREGATES = "gamg"
_TYPE, _OWN_SCHUR = "pc_fieldsplit_type", "pc_fieldsplit_schur_precondition"
# BoomerAMG solves its coarsest level by elimination, which of a singular one makes large numbers: GMRES breaks down.
_SINGULAR_COARSE = ("pc_hypre_boomeramg_relax_type_coarse", "Jacobi")


class Unbalanced(SolveFailed):
    """A residual that no state makes zero, whatever it is solved by."""


class FactoredOperator:
    """Factors by key, with the PETSc options of a problem. Collective, as are all methods.

    Args:
        residual: its registers hold the point of a key whenever a factor is asked for.
        name: the problem's; options have the prefixes ``relax_<name>_`` and ``relax_<name>_lin_``.
        factor_memory: bytes on each rank that factors may take.
        options: PETSc options or the name of a preset, as ``ReducedMap`` has them.
        assemble: writes ∂F/∂u at the registers' point into a matrix; the residual's own assembly when left out.

    Attributes:
        prefix: of the forward solves.
        options: of the forward solves, defaults included.
        lin_options: of tangent and adjoint solves; None where these have none of their own.
        factors: of the forward solves.
        lin_factors: of tangent and adjoint solves; the same store where these have no options of their own.

    Raises:
        BadInput: for options that are none, or differ between ranks.
    """

    def __init__(
        self,
        residual: Residual,
        name: str,
        factor_memory: float,
        options: Options | str | None,
        assemble: Callable[[PETSc.Mat], None] | None = None,
    ) -> None:
        self._residual = residual
        self._assemble = assemble if assemble is not None else residual.assemble_matrix
        self._closed = False
        self._is_regular = False
        self._space: NullSpace | None = None
        self._near: PETSc.NullSpace | None = None
        # With a mass matrix for Schur's complement, and without.
        self._parts: dict[bool, Parts] = {}
        self.prefix = f"relax_{name}_"
        same_on_all_ranks(residual.comm, self.prefix, options)
        self.options, self.lin_options = self._resolved(preset(options))
        self.factors = FactorStore(residual.comm, lambda: self._new(self.prefix, self.options), factor_memory)
        # A linear problem has one operator for the state and its derivatives; another solver for it is the user's wish.
        self.lin_factors = self.factors
        if (lin_options := self.lin_options) is not None:
            self.lin_factors = FactorStore(
                residual.comm, lambda: self._new(self.prefix + "lin_", lin_options), factor_memory
            )

    def _resolved(self, options: Options | None) -> tuple[Options, Options | None]:
        given = known(named(options or {}, names_of(self._residual.state)))
        users = user_options(self.prefix, ("mat_type", "pc_type"))
        if "nest" in (given.get("mat_type"), users.get("mat_type")):
            # Fieldsplit takes the blocks out of one matrix: the same blocks, treated the same.
            if {**given, **users}.get("pc_type") != "fieldsplit":
                raise BadInput(
                    "options: mat_type nest: expected pc_type fieldsplit beside it, by which each block is treated by "
                    "itself; another method takes the blocks as one matrix, mat_type aij"
                )
            given = {key: value for key, value in given.items() if key != "mat_type"}
        forward, lin = split(given)
        default = DIRECT_SYMMETRIC if self._residual.is_self_adjoint else DIRECT
        chosen = merged(default, forward)
        if self._residual.problem.nullspace is not None and chosen.get("pc_type") == "hypre":
            chosen.setdefault(*_SINGULAR_COARSE)
        own_lin = bool(lin) or has_user_options(self.prefix + "lin_")
        return chosen, merged(chosen, lin) if own_lin else None

    def _new(self, prefix: str, options: Options) -> Factor:
        residual = self._residual
        solver = LinearSolver(residual.comm, prefix, options, self_adjoint=residual.is_self_adjoint)
        matrix = solver.placed(residual.create_matrix(), residual.assemble_matrix)
        if solver.ksp.getPC().getType() == _BY_SMOOTHED_AGGREGATES and is_of_vectors(residual.state.function_space):
            self._near = rigid_motions(matrix, residual) if self._near is None else self._near
            matrix.setNearNullSpace(self._near)
        # PETSc itself splits vectors that have a component per axis at each node.
        if solver.is_in_parts and residual.state.function_space.dofmap.bs == 1:
            given = {**options, **user_options(prefix, (_TYPE, _OWN_SCHUR))}
            with_mass = given.get(_TYPE) == "schur" and _OWN_SCHUR not in given
            if with_mass not in self._parts:
                self._parts[with_mass] = parts_of(residual.state, with_mass=with_mass)
            solver.split(self._parts[with_mass])
        return Factor(matrix, solver)

    def is_that_of(self, other: FactoredOperator) -> bool:
        """Whether a linear residual's factors serve another one's, at the same controls and parameters. Collective.

        They do where ∂F/∂u is the same UFL form in the same Functions and Constants, the same values are held, and
        PETSc is asked for the same.
        """
        mine, its = self._residual, other._residual
        a, b = mine.problem, its.problem
        if a.mpc is not b.mpc:
            return False
        if (self.options, self.lin_options) != (other.options, other.lin_options):
            return False
        if self.prefix != other.prefix and any(has_user_options(o.prefix) for o in (self, other)):
            return False
        if not _is_same_null_space(a.nullspace, b.nullspace):
            return False
        held_apart = not np.array_equal(np.unique(mine.tied.held), np.unique(its.tied.held))
        if parallel.any_rank(mine.comm, held_apart):
            return False
        return is_same_form(mine.weak.J, its.weak.J)

    def check_open(self) -> None:
        """Raise when these have been closed. Local, and the same on all ranks.

        Raises:
            BadInput: then.
        """
        if self._closed:
            raise BadInput("this map has been closed; make a new one for more solves")

    def deflate(self, factor: Factor) -> None:
        """Make an operator just assembled one to solve with, where the problem names its null space.

        Raises:
            BadProblem: where that is another one.
        """
        if self._residual.problem.nullspace is not None:
            if self._space is None:
                self._space = null_space_of(self._residual, factor.matrix)
            factor.solver.deflate(factor.matrix, self._space)

    def check_constants(self, factor: Factor) -> None:
        """Look once at an operator for constants in its kernel.

        Raises:
            BadProblem: where there is one.
        """
        # Without a pin those of the null space are still there.
        if self._is_regular or (self._space is not None and not factor.solver.is_direct):
            return
        check_constants(factor.matrix, self._residual.state.function_space, self._residual.tied.no_constants)
        self._is_regular = True

    def check_compatible(self, rhs: Array, factor: Factor) -> None:
        """Refuse a right-hand side (owned,) that the operator of a linear equation does not reach.

        Raises:
            Unbalanced: with the amount.
        """
        deflation = factor.solver.deflation
        if deflation is None:
            return
        amount, size = deflation.incompatible(rhs)
        if amount > _COMPATIBLE * size:
            # A lid that slides along itself: fluxes through it cancel where they are summed, and leave their rounding.
            size = deflation.incompatible(self._residual.of_random_lifting())[1]
        self._check_balance(amount, size)

    def check_steps(self, residual: Array, size: float, factor: Factor) -> None:
        """Refuse a residual (owned,) of which Newton's method has left what no step changes.

        Raises:
            Unbalanced: with the amount.
        """
        if factor.solver.deflation is not None:
            self._check_balance(factor.solver.deflation.restrict(residual), size)

    def _check_balance(self, amount: float, size: float) -> None:
        if amount > _COMPATIBLE * size:
            raise Unbalanced(
                f"{self.prefix}: no state makes the residual zero: over its null space sources and fluxes add up to "
                f"{amount:.3e}, beside {size:.1e} of them, expected nothing, as no state changes that. Take their mean "
                "away, or balance them by fluxes through the boundary"
            )

    def in_gauge(self, state: Array) -> Array:
        """A state (owned,) less what the null space adds to it."""
        return state if self._space is None else self._residual.tied.extended(self._space.free(state[None]))[0]

    @contextmanager
    def factor_here(self, key: Key, *, derivatives: bool = False) -> Iterator[Factor]:
        """The factor of the operator at the point that the registers hold, kept from before or made now.

        A factor in which a solve fails within the block is destroyed.

        Args:
            key: names the point.
            derivatives: for tangent and adjoint solves, which may have solver options of their own.
        """
        self.check_open()
        store = self.lin_factors if derivatives else self.factors
        factor = store.find(key)
        fresh = factor is None
        factor = store.take() if factor is None else factor
        try:
            if fresh:
                with timed(f"{factor.solver.prefix}: operator"):
                    self._assemble(factor.matrix)
                    self.deflate(factor)
                    self.check_constants(factor)
                    factor.solver.factor(factor.matrix)
                factor.assign(key)
            yield factor
        except (SolveFailed, BadProblem):
            store.discard(factor)
            raise

    def close(self) -> None:
        """Free the factors; a second time does nothing."""
        self._closed = True
        self.factors.destroy()
        if self.lin_factors is not self.factors:
            self.lin_factors.destroy()
        for item in (self._near, *self._parts.values()):
            if item is not None:
                item.destroy()
        self._near = None
        self._parts.clear()


def _is_same_null_space(a: str | Sequence[object] | None, b: str | Sequence[object] | None) -> bool:
    """Whether two problems name the same one, by the same word or the same Functions. Local."""
    if isinstance(a, str | None) or isinstance(b, str | None):
        return a == b
    return len(a) == len(b) and all(n is other for n, other in zip(a, b, strict=True))
