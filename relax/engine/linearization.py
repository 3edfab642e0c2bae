"""The linearisation point: a reduced map at one control, as an object that owns its state and factors."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from mpi4py import MPI
from petsc4py import PETSc

from relax.base import parallel
from relax.base.fem.layout import ControlLayout, as_rows
from relax.base.la.factors import Key
from relax.base.types import Array
from relax.engine.operators import petsc_operator, scipy_operator
from relax.errors import BadInput
from relax.observe.base import Look

# Directions that go through one block solve; more are taken in turns, so that memory stays a few states.
BLOCK = 64


class ControlSpace(Protocol):
    """What a linearisation point needs to know of its map: the vectors that go in and come out."""

    comm: MPI.Comm
    layout: ControlLayout
    size_in: int
    size_out: int

    def dot(self, a: Array, b: Array) -> float:
        """The inner product of two control vectors over all ranks."""


class Derivatives(Protocol):
    """Derivative products at one solved point, for up to ``BLOCK`` rows at once. Collective.

    Attributes:
        hessian_block: how many rows ``hessian_actions`` takes at once.
    """

    hessian_block: int

    @property
    def is_everywhere_the_same(self) -> bool:
        """Whether the derivative is the same at every control. Local."""

    def tangents(self, directions: Array) -> Array:
        """G'(m) dm: (k, size_in) -> (k, size_out)."""

    def gradients(self, seeds: Array) -> Array:
        """G'(m)ᵀ dy: (k, size_out) -> (k, size_in)."""

    def hessian_actions(self, seeds: Array, directions: Array, which: npt.NDArray[np.int64]) -> Array:
        """d/dε of the gradients along directions[which]: (k, size_out), (l, size_in), (k,) -> (k, size_in)."""


@runtime_checkable
class StepDerivatives(Derivatives, Protocol):
    """Those of a trajectory."""

    def momenta(self, seed: Array) -> Iterator[tuple[int, Array]]:
        """As ``Linearization.momenta``."""

    def momentum_gaps(self, seed: Array, direction: Array) -> Array:
        """As ``Linearization.momentum_gaps``."""

    def hamiltonians(self, seed: Array) -> Array:
        """As ``Linearization.hamiltonians``."""


@runtime_checkable
class PointsInSteps(Derivatives, Protocol):
    """Those of which the points can be looked at, one after the other."""

    def points(self) -> Generator[tuple[int, Key, list[Look]]]:
        """(n, the name of ∂F/∂u there, what is seen there) for n = N, ..., 1, with u_n, u_{n-1}, controls and time of
        step n in the problem's Functions and Constants until the next is asked for; then 0, with u_0. A stationary
        problem has step 1 alone.
        """


class Linearization:
    """G at one control m. It owns its states: what is evaluated elsewhere, in whatever order, does not change it.

    Collective, as is every method. Factors are kept while memory lasts (``Newton.factor_memory``) and made again when
    they are asked for after that; ``close`` gives them free at once. Of an evolution it owns the trajectory, or as much
    of it as ``storage=`` says; ``hvp`` then holds tangents beside as many states, those of up to eight directions.

    Attributes:
        value: G(m), (size_out,).
        map: G.
    """

    def __init__(self, G: ControlSpace, derivatives: Derivatives, value: Array) -> None:
        self.value = value
        self.map = G
        self._open: Derivatives | None = derivatives

    # -- products ------------------------------------------------------------------------------------------------------

    def jvp(self, dm: npt.ArrayLike) -> Array:
        """The tangent G'(m) dm: (..., size_in) -> (..., size_out). Leading axes are directions, for one factor."""
        G, derivatives = self.map, self._derivatives()
        directions = G.layout.checked(dm, "direction", compared=False)
        if G.layout.is_empty:
            return np.zeros((*directions.shape[:-1], G.size_out))
        rows = as_rows(directions)
        blocks = [derivatives.tangents(rows[start : start + BLOCK]) for start in range(0, len(rows), BLOCK)]
        return _joined(blocks, G.size_out).reshape(*directions.shape[:-1], G.size_out)

    def vjp(self, dy: npt.ArrayLike) -> Array:
        """The adjoint G'(m)ᵀ dy: (..., size_out) -> (..., size_in). Leading axes are directions; one factor serves all.

        The result is a derivative (a dual vector): ``G.dot(vjp(dy), dm) == dy @ jvp(dm)``.
        """
        G, derivatives = self.map, self._derivatives()
        seeds = self._checked_seed(dy)
        if G.layout.is_empty:
            return np.empty((*seeds.shape[:-1], 0))
        rows = as_rows(seeds)
        blocks = [derivatives.gradients(rows[start : start + BLOCK]) for start in range(0, len(rows), BLOCK)]
        return _joined(blocks, G.size_in).reshape(*seeds.shape[:-1], G.size_in)

    def hvp(self, dy: npt.ArrayLike, dm: npt.ArrayLike) -> Array:
        """The Hessian action d/dε vjp(dy) at m + ε dm: (..., size_out), (..., size_in) -> (..., size_in).

        The leading axes of ``dy`` and ``dm`` are broadcast against each other.
        """
        G, derivatives = self.map, self._derivatives()
        seeds = self._checked_seed(dy)
        directions = G.layout.checked(dm, "direction", compared=False)
        try:
            lead = np.broadcast_shapes(seeds.shape[:-1], directions.shape[:-1])
        except ValueError as error:
            raise BadInput(f"hvp: leading axes of {seeds.shape} and {directions.shape} do not fit together") from error
        if G.layout.is_empty:
            return np.empty((*lead, 0))
        given = as_rows(directions)
        which = np.broadcast_to(np.arange(len(given)).reshape(directions.shape[:-1]), lead).ravel()
        seed_rows = as_rows(np.broadcast_to(seeds, (*lead, G.size_out)))
        blocks = []
        for start in range(0, len(which), derivatives.hessian_block):
            end = start + derivatives.hessian_block
            distinct, number = np.unique(which[start:end], return_inverse=True)
            blocks.append(derivatives.hessian_actions(seed_rows[start:end], given[distinct], number))
        return _joined(blocks, G.size_in).reshape(*lead, G.size_in)

    def matrix(self) -> Array:
        """The Jacobian G'(m), (size_out, size_in): by adjoints or by tangents, whichever are fewer.

        Under ``layout="owned"`` each rank gets the columns of the control values that it owns.
        """
        G = self.map
        if G.layout.kind == "owned" or G.size_out <= G.size_in:
            return self.vjp(np.eye(G.size_out))
        return np.ascontiguousarray(self.jvp(np.eye(G.size_in)).T)

    def vjp_of_many(self, dy: Array) -> Array:
        """``vjp`` of rows (k, size_out): through the matrix, where that takes fewer solves than k."""
        return self._checked_seed(dy) @ self.matrix() if len(dy) > self._fewest else self.vjp(dy)

    def jvp_of_many(self, dm: Array) -> Array:
        """``jvp`` of rows (k, size_in): through the matrix, where that takes fewer solves than k."""
        if self.map.layout.kind == "owned" or len(dm) <= self._fewest:
            return self.jvp(dm)
        return np.asarray(self.map.layout.checked(dm, "direction", compared=False) @ self.matrix().T)

    @property
    def _fewest(self) -> int:
        """How many solves ``matrix`` takes. The same on every rank."""
        G = self.map
        return G.size_out if G.layout.kind == "owned" else min(G.size_in, G.size_out)

    # -- for other software --------------------------------------------------------------------------------------------

    def as_linear_operator(self) -> Any:
        """G'(m) as a ``scipy.sparse.linalg.LinearOperator``, (size_out, size_in), in float64.

        Local to make; its products are collective: every rank runs the same iteration on the same vectors. ``matvec``
        is ``jvp`` and ``rmatvec`` is ``vjp``, of a vector or a column (n, 1); columns (n, k) are k directions for one
        factor. The transpose is the Euclidean one: least squares in a prior's metric are those of G'(m) L, with L of
        ``prior.color``.

        Raises:
            BadInput: under ``layout="owned"`` on several ranks, where scipy would take a part for the whole.
        """
        return scipy_operator(self)

    def as_petsc(self) -> PETSc.Mat:
        """G'(m) as a shell matrix of PETSc, for its KSP (``lsqr``), TAO and SLEPc: ``mult`` and ``multTranspose``.

        Collective, as are its products. Its columns lie over the ranks as control vectors do under
        ``layout="owned"``; under "replicated" a rank has a share of the vector, in its order, and the rows, which are
        the observations, are shared in this way in both. ``createVecs`` makes vectors that fit. It works
        while this point is open, ``destroy`` it when done; an error of relax is then the cause of a ``PETSc.Error``.
        """
        return petsc_operator(self)

    # -- of an evolution -----------------------------------------------------------------------------------------------

    def momenta(self, dy: npt.ArrayLike) -> Iterator[tuple[int, Array]]:
        """(n, p_n) for n = N, ..., 0: p_n = d(dy · y)/du_n, how what is seen at step n and after it depends on u_n.

        In the words of Ruseckas (arXiv:1909.03767) the momentum conjugate to u_n. A dual vector: p_n · du_n is how
        dy · y changes when step n is left with u_n + du_n. Where u_0 is a control p_0 is its gradient, less what it
        does elsewhere in the steps. Collective, as is each step of the iteration; one adjoint solve each.

        Args:
            dy: (size_out,).

        Yields:
            n and p_n, (n_state,) in the order of ``FieldValues``; under ``layout="owned"`` the values this rank owns.

        Raises:
            BadInput: for a point of a problem without steps.
        """
        derivatives = self._derivatives()
        if not isinstance(derivatives, StepDerivatives):
            raise BadInput(
                f"momenta: expected a point of an evolution, and this {type(self.map).__name__} has no steps; of "
                "several experiments ask each map"
            )
        seed = self._checked_seed(dy)
        if seed.ndim != 1:
            raise BadInput(f"momenta: expected one cotangent, ({self.map.size_out},), got shape {seed.shape}")
        return derivatives.momenta(seed)

    def momentum_gaps(self, dy: Array, dm: Array) -> Array | None:
        """How far p_n · du_n is from what the step before it makes of it, (N + 1,), relative; None without steps.

        Zero up to rounding, at each n, for the discrete adjoint. Collective.
        """
        derivatives = self._derivatives()
        if not isinstance(derivatives, StepDerivatives):
            return None
        direction = self.map.layout.checked(dm, "direction", compared=False)
        return derivatives.momentum_gaps(self._checked_seed(dy), direction)

    def hamiltonians(self, dy: Array) -> Array | None:
        """dt times p_n · du/dt, n = 1, ..., N - 1, by differences of states; None without steps. Collective."""
        derivatives = self._derivatives()
        return derivatives.hamiltonians(self._checked_seed(dy)) if isinstance(derivatives, StepDerivatives) else None

    def points(self) -> Generator[tuple[int, Key, list[Look]]]:
        """Each step's point, held in the problem's registers, backwards, as ``PointsInSteps.points``. Collective."""
        derivatives = self._derivatives()
        assert isinstance(derivatives, PointsInSteps), "of a map that solves a residual"
        return derivatives.points()

    def dot(self, a: Array, b: Array) -> float:
        """The map's inner product of two control vectors."""
        return self.map.dot(a, b)

    @property
    def is_everywhere_the_same(self) -> bool:
        """Whether the derivative is the same at every control: an affine problem seen linearly. Local."""
        return self._derivatives().is_everywhere_the_same

    # -- life time -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Give the factors and the states free. The value stays; products are errors from here on. Collective."""
        self._open = None

    def __enter__(self) -> Linearization:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    # -- the work ------------------------------------------------------------------------------------------------------

    def _derivatives(self) -> Derivatives:
        if self._open is None:
            raise BadInput("this linearisation point has been closed; linearise again for more derivatives")
        return self._open

    def _checked_seed(self, dy: npt.ArrayLike) -> Array:
        G = self.map
        return parallel.from_rank_0(G.comm, parallel.checked(G.comm, dy, G.size_out, "observation"))


def _joined(blocks: list[Array], length: int) -> Array:
    """Blocks of rows as one array, also of none, and where a rank's rows are empty."""
    return np.concatenate(blocks) if blocks else np.empty((0, length))
