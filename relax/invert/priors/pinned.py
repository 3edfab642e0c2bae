"""A Gaussian prior conditioned on values that are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from dolfinx import fem

from relax.base import parallel
from relax.base.checks import array_like, of_kind, several
from relax.base.fem.layout import Kind
from relax.base.types import Array
from relax.errors import BadInput
from relax.invert.priors.form import FormPrior
from relax.invert.priors.smoothness import SmoothnessPrior
from relax.invert.priors.vectors import FieldVectors
from relax.observe.points import PointValues

# Of the prior's variance of a pinned value: one with less beside the others is told by them.
_TOLD = 1e-12
# In prior standard deviations: a control this far from its pinned values does not have them.
_APART = 1e-6


class PinnedPrior:
    """A Gaussian field with known values: N(mean, C) given P m = d, P the values in nodes and points.

    With Q an orthonormal basis of the range of Lᵀ Pᵀ, C = L Lᵀ, the conditional Gaussian is

        N(mean + C Pᵀ (P C Pᵀ)⁻¹ (d − P mean),  L (I − Q Qᵀ) Lᵀ):

    no variance where it is pinned, and less beside. It is a prior like any other; its covariance is singular, and
    optimisers that start from controls with the pinned values (its mean, ``pinned(m)``) keep them. ``precision``,
    ``cost`` and ``gradient`` are those of the prior on such controls.

    Collective, as are all methods. A solve for each pinned value, once, and as many vectors of the control's size.

    Args:
        prior: a ``SmoothnessPrior`` or ``FormPrior``; ``close`` closes it.
        bcs: conditions on its space: ``relax.clamp(V, tags, value)``, ``relax.clamp_boundary(V, value)``, or
            ``fem.dirichletbc`` of any degrees of freedom.
        points: (num_points, gdim), where more values are known; the same on every rank.
        values: of these: a number, or (num_points,), for a vector field (num_points, components).

    Raises:
        BadInput: for conditions on another space, nothing that is pinned, and values that contradict one another.
        PointsOutsideMesh: naming the points.
    """

    def __init__(
        self,
        prior: SmoothnessPrior | FormPrior,
        bcs: Sequence[fem.DirichletBC] = (),
        *,
        points: npt.ArrayLike | None = None,
        values: Any = None,
    ) -> None:
        of_kind(prior, (SmoothnessPrior, FormPrior), "a SmoothnessPrior or a FormPrior", "prior")
        self.prior = prior
        self.space = prior.space
        self.kind: Kind = prior.kind
        self.size = prior.size
        self._vectors = FieldVectors(prior.space, prior.kind)
        self._comm = self._vectors.comm
        rows, data = _pins(prior.space, several(bcs, "conditions", "bcs"), points, values)
        if not len(data):
            raise BadInput("PinnedPrior: expected conditions or points with values, got none")
        #: Rows of P, dual, (num_pins, size), and their values.
        self._rows = self._vectors.join(rows, np.empty((len(rows), self.size)), dual=True)
        self._values = data
        white = prior.color_adjoint(self._rows)
        gram = self._products(white, white)
        scale = np.sqrt(np.diag(gram))
        variances, turns = np.linalg.eigh(gram / np.outer(scale, scale))
        kept = variances > _TOLD * len(data)
        told = turns[:, ~kept]
        # In units of the standard deviations of what is pinned.
        gap = (data - self._products(self._rows, prior.mean)) / scale
        if (apart := np.abs(told.T @ gap)).max(initial=0.0) > _APART * (1.0 + np.abs(gap).max()):
            raise BadInput(
                f"PinnedPrior: {told.shape[1]} of {len(data)} values follow from the others, and are others by up to "
                f"{apart.max():.3g} standard deviations; expected each value once, or the same"
            )
        self._scale = scale
        # P = (basis in white space): each row of `_basis` is one of Qᵀ.
        turn = turns[:, kept] / np.sqrt(variances[kept])
        self._basis = (turn.T / scale) @ white
        self._columns = prior.color(self._basis) - prior.mean
        self.mean: Array = prior.mean + (turn.T @ gap) @ self._columns
        self._weights = turn

    def _products(self, a: Array, b: Array) -> Array:
        """a bᵀ over all ranks, for rows of control vectors."""
        products = np.asarray(a @ b.T)
        return parallel.sum_over_ranks(self._comm, products) if self.kind == "owned" else products

    def _free(self, xi: Array) -> Array:
        """(I − Q Qᵀ) xi, of shape (..., size)."""
        return np.asarray(xi - self._products(xi, self._basis) @ self._basis)

    def pinned(self, m: Array) -> Array:
        """The control nearest to m, (size,), in the prior's norm, that has the pinned values."""
        m = self._vectors.checked(m, "m")
        gap = (self._values - self._products(self._rows, m)) / self._scale
        return np.asarray(m + (self._weights.T @ gap) @ self._columns)

    def _check(self, m: Array) -> None:
        apart = np.abs(self._products(self._rows, m) - self._values) / self._scale
        if apart.max() > _APART * (1.0 + np.abs(self._values / self._scale).max()):
            raise BadInput(
                f"m: expected the {len(self._values)} pinned values, got one that is {apart.max():.3g} standard "
                "deviations away; start from prior.mean or prior.pinned(m)"
            )

    def cost(self, m: Array) -> float:
        """½ (m − mean)ᵀ C⁻¹ (m − mean) with the prior's C, for a control (size,) that has the pinned values.

        Raises:
            BadInput: for one that has not.
        """
        self._check(self._vectors.checked(m, "m"))
        return self.prior.cost(m - self.mean + self.prior.mean)

    def gradient(self, m: Array) -> Array:
        """C⁻¹ (m − mean), dual, with the prior's C."""
        return self.prior.gradient(m - self.mean + self.prior.mean)

    def precision(self, v: Array) -> Array:
        """The prior's C⁻¹ on v of shape (..., size), primal to dual: for v that is zero where values are pinned."""
        return self.prior.precision(v)

    def covariance(self, v: Array) -> Array:
        """The conditional covariance on v of shape (..., size), dual to primal; it is zero where values are pinned."""
        return np.asarray(self.prior.covariance(v) - self._products(v, self._columns) @ self._columns)

    def whiten(self, m: Array) -> Array:
        """L⁻¹ (m − mean), with the prior's L, for m of shape (..., size)."""
        return self.prior.whiten(m - self.mean + self.prior.mean)

    def color(self, xi: Array) -> Array:
        """mean + L (I − Q Qᵀ) xi for xi of shape (..., size): ``whiten`` gives (I − Q Qᵀ) xi."""
        return self.mean + self.prior.color(self._free(xi)) - self.prior.mean

    def color_adjoint(self, v: Array) -> Array:
        """(I − Q Qᵀ) Lᵀ v for v of shape (..., size)."""
        return self._free(self.prior.color_adjoint(v))

    def sample(self, seed: int) -> Array:
        """A draw, the same field on any number of ranks, in either layout."""
        return self.color(self._vectors.noise(seed))

    def variance(self, *, samples: int | None = None, seed: int = 0) -> Array:
        """The variance of each value, a control vector: that of the prior less what is told by the pinned ones.

        Args:
            samples: of the prior's; see there.
            seed: of the draws.
        """
        known = self.prior.variance(samples=samples, seed=seed) - (self._columns**2).sum(axis=0)
        return np.maximum(known, 0.0)

    def close(self) -> None:
        """Close the prior."""
        self.prior.close()


def _pins(V: fem.FunctionSpace, bcs: Sequence[Any], points: Any, values: Any) -> tuple[Array, Array]:
    """P as rows of this rank's values, (num_pins, owned), and d, the same on every rank. Collective."""
    owned = V.dofmap.index_map.size_local * V.dofmap.index_map_bs
    comm = V.mesh.comm
    held = fem.Function(V)
    with parallel.together(comm):
        dofs = []
        for i, bc in enumerate(bcs):
            of_kind(bc, fem.DirichletBC, "a condition, such as relax.clamp(V, tags, value)", f"bcs[{i}]")
            if bc.function_space != V._cpp_object and not V._cpp_object.contains(bc.function_space):
                raise BadInput(f"bcs[{i}]: expected a condition on the prior's space, got one on another")
            bc.set(held.x.array)
            dofs.append(bc.dof_indices()[0])
        mine = np.unique(np.concatenate([np.empty(0, dtype=np.int32), *dofs]))
        mine = mine[mine < owned]
    first, total = parallel.count_before(comm, len(mine)), parallel.total(comm, len(mine))
    rows = np.zeros((total, owned))
    rows[first + np.arange(len(mine)), mine] = 1.0
    data = parallel.gather_rows(comm, held.x.array[mine])
    if points is None and values is None:
        return rows, data
    if points is None or values is None:
        raise BadInput("PinnedPrior: expected points and values together, got one of them")
    observed = PointValues(V, points)
    seen = np.asarray(array_like(values, "values"), dtype=np.float64)
    seen = np.full(observed.size, seen) if seen.ndim == 0 else seen.ravel()
    seen = parallel.checked_on_all(comm, seen, observed.size, "values")
    unit = np.eye(observed.size)
    at_points = np.stack([observed.adjoint(held, e) for e in unit]) if observed.size else np.empty((0, owned))
    return np.concatenate([rows, at_points]), np.concatenate([data, seen])
