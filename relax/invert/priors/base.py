"""The prior, as optimisers ask for it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from relax.base.fem.layout import Kind
from relax.base.types import Array
from relax.errors import BadInput


class Prior(Protocol):
    """A Gaussian N(mean, C) on control vectors in one layout. All methods are collective.

    With L a square root, C = L Lᵀ: ``color`` is mean + L xi and ``whiten`` its inverse. A control vector is *primal*
    (values) or *dual* (a derivative, as ``vjp`` returns it): C maps dual to primal, C⁻¹ primal to dual.

    Attributes:
        kind: the layout of the control vectors.
        size: the length of the vectors that this rank hands over.
        mean: the mean, a control vector.
    """

    kind: Kind
    size: int
    mean: Array

    def cost(self, m: Array) -> float:
        """½ (m − mean)ᵀ C⁻¹ (m − mean)."""

    def gradient(self, m: Array) -> Array:
        """C⁻¹ (m − mean), dual."""

    def precision(self, v: Array) -> Array:
        """C⁻¹ v for v of shape (..., size), primal to dual."""

    def covariance(self, v: Array) -> Array:
        """C v for v of shape (..., size), dual to primal: the preconditioner of an optimiser."""

    def restricted(self, v: Array, free: npt.NDArray[np.bool_]) -> Array:
        """(C⁻¹_FF)⁻¹ v_F for the free entries F, zero elsewhere, for v of shape (size,): C where bounds hold some.

        Wanted with bounds alone: priors that are no metric there lack it.
        """

    def whiten(self, m: Array) -> Array:
        """L⁻¹ (m − mean): independent standard normal entries when m is drawn from the prior."""

    def color(self, xi: Array) -> Array:
        """mean + L xi, the inverse of ``whiten``."""

    def color_adjoint(self, v: Array) -> Array:
        """Lᵀ v for v of shape (..., size): a derivative with respect to m as one with respect to xi."""

    def sample(self, seed: int) -> Array:
        """A draw from the prior."""

    def variance(self, *, samples: int | None = None, seed: int = 0) -> Array:
        """The diagonal of C, a control vector: exactly, or from so many draws."""

    def close(self) -> None:
        """Free what PETSc holds."""


def check_prior(prior: Any, what: str) -> None:
    """Refuse what is no prior. Local.

    Raises:
        BadInput: then.
    """
    if isinstance(prior, type) or not hasattr(prior, "covariance"):
        hint = ", the class; make one" if isinstance(prior, type) else ""
        raise BadInput(f"{what}: expected a prior, such as relax.SmoothnessPrior, got {prior!r:.80}{hint}")
