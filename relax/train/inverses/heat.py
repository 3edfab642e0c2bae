"""Diffusion backwards: a damped spectral inverse with the eigenpairs of the discrete operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import dolfinx.fem.petsc as fem_petsc
import numpy as np
import ufl
from dolfinx import fem
from petsc4py import PETSc
from scipy.special import expit

from relax.base import parallel
from relax.base.checks import ABOVE_0, AT_LEAST_0, at_least, number_in, one_of
from relax.base.fem.layout import SpaceLayout
from relax.base.la.eigen import EigenPairs
from relax.base.la.factors import Key
from relax.base.la.matrices import products, restricted
from relax.base.teams import Teams
from relax.base.types import Array
from relax.engine.reduced import ReducedMap
from relax.errors import BadInput
from relax.invert.priors.base import Prior
from relax.observe import AtSteps
from relax.problem.evolution import Evolution
from relax.train.inverses.base import MapInverse, parameters_key
from relax.train.inverses.gauss_newton import check_prior
from relax.train.inverses.poisson import check_whole_state

# How far a mode may be from being one of the propagator, beside the largest gain.
_STAYS = 1e-6
# Holl et al. leave a mode alone whose probability to be signal lies between a half and this.
_SURE = 0.68


@dataclass(frozen=True, eq=False)
class Modes:
    """Modes of a linear evolution from its initial to its last state.

    Attributes:
        functions: φ_k in the replicated order, (k, size).
        duals: M φ_k, likewise: amplitudes are ``values @ duals.T``.
        gains: g_k, (k,).
        signal: S_k, (k,).
    """

    functions: Array
    duals: Array
    gains: Array
    signal: Array


class heat_inverse(MapInverse):  # noqa: N801 - used as a function
    """Undo diffusion mode by mode, as far as a mode stands out of the noise.

    Collective, to make and to call: :class:`relax.train.MapInverse`. For ``pdes.heat.evolution`` with its initial state
    as control and all values of the last state observed, and any other evolution that is linear with a symmetric
    operator. With φ_k the eigenfunctions of the discrete operator (mass-orthonormal, on any mesh) and g_k what the time
    steps themselves make of a mode, the residual r has the amplitude a_k = (φ_k, r), and dx = Σ c_k φ_k with

    - ``filter="probability"``: c_k = a_k g_k^(−α_k), α_k = 2 p_k − 1, or 0 where ½ < p_k < 0.68,
      p_k = e^(−a_k²/2s_k²) / (e^(−a_k²/2s_k²) + e^(−a_k²/2n_k²)): full inversion where p = 1, damping where p < ½
      (Holl, Koltun and Thuerey, NeurIPS 2022, in code, there for Fourier modes on a grid);
    - ``filter="wiener"``: c_k = a_k g_k S_k² / (g_k² S_k² + n_k²), the least mean squared error for independent modes
      of standard deviation S_k under noise n_k (Wiener).

    s_k = |g_k| S_k is the signal in the observation. Noise has two parts,
    n_k² = (noise |M φ_k|)² + (relative_noise |r|)²: independent errors of the observed values, and errors in proportion
    to the residual, |r|² = Σ a_k². Modes beyond ``modes`` are left out: take so many that the last is below the noise.

    Args:
        G: a map with ``FieldValues`` of the whole last state as observable; replicated layout.
        modes: how many of the slowest modes; those of a cluster are taken together.
        signal: S_k: a number, or a prior on the initial state, with S_k² = (M φ_k)ᵀ C (M φ_k).
        noise: standard deviation of each observed value.
        relative_noise: in units of |r|; the study has 1e-6, the rounding of its data.
        filter: as above.
        teams: share the samples of a batch among teams of ranks.

    Raises:
        BadInput: on every rank, for a map that is not of this kind, or settings out of their range.
        ImportError: without slepc4py, when it is first called.
        SolveFailed: when the eigenpairs cannot be found.
    """

    def __init__(
        self,
        G: ReducedMap,
        *,
        modes: int = 64,
        signal: float | Prior = 1.0,
        noise: float = 0.0,
        relative_noise: float = 1e-6,
        filter: Literal["probability", "wiener"] = "probability",  # noqa: A002 - the word of the field
        teams: Teams | None = None,
    ) -> None:
        super().__init__(G, teams)
        _check(G)
        with parallel.together(self.comm):
            one_of(filter, ("probability", "wiener"), f"{self.name}: filter")
            self.filter = filter
            self._wanted = at_least(modes, 1, f"{self.name}: modes")
            self.noise = number_in(noise, AT_LEAST_0, f"{self.name}: noise")
            self.relative_noise = number_in(relative_noise, AT_LEAST_0, f"{self.name}: relative_noise")
            if self.noise == self.relative_noise == 0.0:
                raise BadInput(f"{self.name}: expected noise or relative_noise above 0, got 0 for both")
            self._signal = self._checked_signal(signal)
        self._kept: tuple[Key, Modes] | None = None

    def _checked_signal(self, signal: Any) -> float | Prior:
        if not hasattr(signal, "covariance"):
            return number_in(signal, (ABOVE_0[0], f"{ABOVE_0[1]} or a prior"), f"{self.name}: signal")
        check_prior(self.G, signal, self.name)
        return cast("Prior", signal)

    @property
    def modes(self) -> Modes:
        """The modes, found when first needed and again when parameters of the problem have changed. Collective."""
        key = parameters_key(self.G)
        if self._kept is None or self._kept[0] is not key:
            self._kept = (key, self._of_evolution())
        return self._kept[1]

    def _of_evolution(self) -> Modes:
        functions, duals = _eigenfunctions(self.G, self._wanted, self.name)
        with self.G.linearize(np.zeros(self.G.size_in)) as lin:
            if not lin.is_everywhere_the_same:
                raise BadInput(f"{self.name}: expected an evolution that is affine in its initial state")
            after = lin.jvp(functions)
        gains = (duals * after).sum(axis=1)
        strays = np.abs(after - gains[:, None] * functions).max() / np.abs(functions).max()
        if strays > _STAYS * np.abs(gains).max():
            raise BadInput(
                f"{self.name}: expected eigenfunctions of the operator to keep their shape over all steps, and one "
                f"changes by {strays:.1e}; an operator that changes in time needs gauss_newton_inverse with a prior"
            )
        given = self._signal
        if isinstance(given, float):
            signal = np.full(len(gains), given)
        else:
            signal = np.sqrt((duals * given.covariance(duals)).sum(axis=1))
        return Modes(functions, duals, gains, signal)

    def _corrections(self, x: Array | None, residual: Array) -> Array:
        modes = self.modes
        a = residual @ modes.duals.T
        noise = np.sqrt(
            (self.noise * np.linalg.norm(modes.duals, axis=1)) ** 2
            + (self.relative_noise**2 * (a**2).sum(axis=1))[:, None]
        )
        weigh = _probability if self.filter == "probability" else _wiener
        return np.asarray(weigh(a, modes.gains, modes.signal, noise) @ modes.functions)


def _probability(a: Array, gains: Array, signal: Array, noise: Array) -> Array:
    """The coefficients of dx by the probability of a mode to be signal: (k, modes)."""
    tiny = np.finfo(np.float64).tiny ** 0.25
    s, n = np.maximum(np.abs(gains) * signal, tiny), np.maximum(noise, tiny)
    p = expit(0.5 * ((a / n) ** 2 - (a / s) ** 2))
    action = np.where((p > 0.5) & (p < _SURE), 0.0, 2.0 * p - 1.0)
    return np.asarray(np.sign(gains) * a * np.maximum(np.abs(gains), tiny) ** -action)


def _wiener(a: Array, gains: Array, signal: Array, noise: Array) -> Array:
    """The coefficients of dx of least mean squared error: (k, modes)."""
    power = (gains * signal) ** 2 + noise**2
    return np.asarray(a * gains * signal**2 / np.maximum(power, np.finfo(np.float64).tiny))


def _eigenfunctions(G: ReducedMap, count: int, name: str) -> tuple[Array, Array]:
    """φ_k and M φ_k of the slowest modes of one step, (k, size) twice in the replicated order. Collective."""
    residual = G.residual
    V = residual.state.function_space
    if residual.tied:
        raise BadInput(f"{name}: expected steps whose values are free or clamped, got a problem with an mpc")
    if not residual.is_self_adjoint:
        raise BadInput(f"{name}: expected an evolution with a symmetric operator")
    free = np.setdiff1d(np.arange(residual.num_owned, dtype=np.int32), residual.boundary.owned).astype(np.int32)
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    whole = [residual.create_matrix(), fem_petsc.assemble_matrix(fem.form(ufl.inner(u, v) * ufl.dx))]
    residual.assemble_matrix(whole[0])
    whole[1].assemble()
    A, M = (restricted(matrix, free) for matrix in whole)
    # A is the mass matrix and dt times the operator: what is left tells close eigenvalues from equal ones.
    T = A.copy()
    T.axpy(-1.0, M, PETSc.Mat.Structure.DIFFERENT_NONZERO_PATTERN)
    layout = SpaceLayout(V)
    try:
        size = A.getSize()[0]
        if count > size:
            raise BadInput(f"{name}: modes: expected at most {size}, the values that are not clamped, got {count}")
        pairs = EigenPairs(A, M, T, floor=0.0).lowest(count)
        owned = np.zeros((len(pairs.vectors), residual.num_owned))
        owned[:, free] = pairs.vectors
        return layout.gather(owned), layout.gather(products(whole[1], owned), dual=True)
    finally:
        for matrix in (*whole, A, M, T):
            matrix.destroy()


def _check(G: ReducedMap) -> None:
    """Refuse a map whose inverse is another. Local, and the same on every rank."""
    problem, seen = G.problem, G.observable
    if not isinstance(problem, Evolution) or not problem.is_plain or len(problem.controls) != 1:
        raise BadInput("heat_inverse: expected a map of an evolution whose one control is the initial state")
    if problem.controls[0] is not problem.initial_state:
        raise BadInput("heat_inverse: expected the initial state as control, got another")
    if isinstance(seen, AtSteps) and seen.steps in ((-1,), (problem.num_steps,)):
        seen = seen.observable
    check_whole_state(G, seen, "heat_inverse: expected FieldValues of the whole last state")
