"""Energies and states at one potential, and their derivatives there."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from relax.base import parallel
from relax.base.types import Array
from relax.engine.eigen.system import EigenPoint, EigenSystem
from relax.engine.linearization import BLOCK
from relax.errors import BadInput

# Weights that differ by rounding only are equal.
_EQUAL = 1e-12


class EigenDerivatives:
    """Derivative products of an ``EigenMap`` at one potential, behind ``Linearization``.

    Collective, as is every method. With J_i the bordered operator of the i-th pair (see ``BorderedSolver``):

    - energies: dE_i = (dV psi_i, psi_i) (Hellmann and Feynman), without a solve;
    - tangent: J_i (dpsi, dE) = -(dV psi_i, 0);
    - adjoint of a state's seed y: J_i (a, alpha) = (y, 0), dm = -(a psi_i, phi) for the potential's basis phi;
    - second order: the derivatives of these along (dV, dpsi_i, dE_i).
    """

    is_everywhere_the_same = False

    hessian_block = BLOCK

    def __init__(self, system: EigenSystem, point: EigenPoint) -> None:
        self._system = system
        self._point = point
        # The latest adjoint of each state, for Hessian actions with one seed: (seed, a, alpha).
        self._adjoints: dict[int, tuple[Array, Array, Array]] = {}

    def tangents(self, directions: Array) -> Array:
        """G'(m) dm: (p, size_in) -> (p, size_out).

        Raises:
            BadInput: when two of the k energies, or the last one and the next, are too close.
        """
        system, k = self._system, self._system.num_states
        self._refuse_clusters(range(k))
        system.install(self._point)
        parts = [system.layout.split(row)[0] for row in directions]
        owned = self._densities.shape[1]
        energies = np.array([part[:owned] @ self._densities.T for part in parts]).reshape(len(parts), k)
        result = np.empty((len(parts), system.size_out))
        result[:, :k] = parallel.sum_over_ranks(system.comm, energies)
        if system.has_states:
            whole = np.zeros((len(parts), k, system.stationary.num_owned))
            for i in range(k):
                whole[:, i, system.stationary.free] = self._state_tangents(i, parts)[0]
            result[:, k:] = system.state_layout.gather(whole).reshape(len(parts), -1)
        return result

    def gradients(self, seeds: Array) -> Array:
        """G'(m)ᵀ dy: (p, size_out) -> (p, size_in).

        Raises:
            BadInput: when a seed weighs the energies of a cluster differently, or its states at all.
        """
        system, k = self._system, self._system.num_states
        for seed in seeds:
            self._refuse_unequal(seed)
        system.install(self._point)
        duals = seeds[:, :k] @ self._densities
        for i in range(k) if system.has_states else ():
            chosen, of_state = self._nonzero_seeds(seeds, i)
            if chosen.size:
                duals[chosen] -= self._density_duals(self._state_adjoints(i, of_state)[0], self._state(i))
        return system.layout.join([duals])

    def hessian_actions(self, seeds: Array, directions: Array, which: npt.NDArray[np.int64]) -> Array:
        """d/dε of the gradients along directions[which]: (p, size_out), (q, size_in), (p,) -> (p, size_in).

        Raises:
            BadInput: when a seed weighs a member of a cluster.
        """
        system = self._system
        weighed = [i for i in range(system.num_states) if any(self._weighs(seed, i) for seed in seeds)]
        self._refuse_clusters(weighed)
        system.install(self._point)
        parts = [system.layout.split(row)[0] for row in directions]
        duals = np.zeros((len(seeds), self._densities.shape[1]))
        for i in weighed:
            dpsi, dE = self._state_tangents(i, parts)
            duals += seeds[:, i : i + 1] * (2.0 * self._density_duals(dpsi, self._state(i)))[which]
            chosen, of_state = self._nonzero_seeds(seeds, i)
            if chosen.size:
                along = which[chosen]
                given = [parts[j] for j in along]
                duals[chosen] -= self._state_actions(i, of_state, given, dpsi[along], dE[along])
        return system.layout.join([duals])

    # -- the work ------------------------------------------------------------------------------------------------------

    @cached_property
    def _densities(self) -> Array:
        """The derivative of each energy, (psi_i^2, phi): (k, owned). Collective."""
        states = [self._state(i) for i in range(self._system.num_states)]
        return np.array([self._system.forms.density_dual(psi, psi) for psi in states])

    def _state(self, i: int) -> Array:
        """psi_i on the free degrees of freedom. Local."""
        return self._point.vectors[i, self._system.stationary.free]

    def _density_duals(self, rows: Array, psi: Array) -> Array:
        """(a psi, phi) for each row a of (p, free): (p, owned)."""
        duals = [self._system.forms.density_dual(rows[i], psi) for i in range(len(rows))]
        return np.array(duals).reshape(len(rows), self._densities.shape[1])

    def _state_tangents(self, i: int, parts: list[Array]) -> tuple[Array, Array]:
        """(dpsi_i, dE_i) for each direction: (p, free), (p,)."""
        system, psi = self._system, self._state(i)
        sources = np.array([system.forms.potential_times(part, psi) for part in parts]).reshape(len(parts), psi.size)
        system.counts["tangent"] += len(parts)
        return system.solve_bordered(self._point, i, -sources, np.zeros(len(parts)))

    def _state_seeds(self, seeds: Array, i: int) -> Array:
        """The part of seeds (p, size_out) that the values of the i-th state have: (p, size), the same on each rank."""
        size = self._system.state_layout.size
        start = self._system.num_states + i * size
        return seeds[:, start : start + size] if self._system.has_states else np.zeros((len(seeds), 0))

    def _nonzero_seeds(self, seeds: Array, i: int) -> tuple[npt.NDArray[np.int64], Array]:
        """Which seeds see the i-th state, and what of them does, (p, size)."""
        of_state = self._state_seeds(seeds, i)
        chosen = np.flatnonzero(of_state.any(axis=1))
        return chosen, of_state[chosen]

    def _state_adjoints(self, i: int, seeds: Array) -> tuple[Array, Array]:
        """(a, alpha) for seeds (p, size) of the i-th state: (p, free), (p,)."""
        system = self._system
        known = self._adjoints.get(i)
        if known is not None and len(seeds) == 1 and np.array_equal(known[0], seeds[0]):
            return known[1], known[2]
        duals = system.state_layout.spread(seeds)[:, system.stationary.free]
        a, alpha = system.solve_bordered(self._point, i, duals, np.zeros(len(seeds)))
        system.counts["adjoint"] += len(seeds)
        if len(seeds) == 1:
            self._adjoints[i] = (seeds[0].copy(), a, alpha)
        return a, alpha

    def _state_actions(self, i: int, seeds: Array, parts: list[Array], dpsi: Array, dE: Array) -> Array:
        """The derivative of (a psi_i, phi) along each direction: (p, owned).

        J (da, dalpha) = -J' (a, alpha), where J' is the derivative of J along (dV, dpsi, dE).
        """
        system = self._system
        distinct, number = np.unique(seeds, axis=0, return_inverse=True)
        number = number.reshape(-1)  # NumPy 2.0 alone gives it the shape of the seeds
        a, alpha = (x[number] for x in self._state_adjoints(i, distinct))
        moved = np.array([system.forms.potential_times(parts[j], a[j]) for j in range(len(a))]).reshape(a.shape)
        mass_a, mass_dpsi = system.mass_times(a), system.mass_times(dpsi)
        rhs = -moved + dE[:, None] * mass_a + alpha[:, None] * mass_dpsi
        border = parallel.sum_over_ranks(system.comm, (dpsi * mass_a).sum(axis=1))
        da, _ = system.solve_bordered(self._point, i, rhs, border)
        system.counts["adjoint"] += len(rhs)
        moving = np.array([system.forms.density_dual(a[j], dpsi[j]) for j in range(len(a))])
        return self._density_duals(da, self._state(i)) + moving

    # -- clusters ------------------------------------------------------------------------------------------------------

    def _weighs(self, seed: Array, i: int) -> bool:
        return bool(seed[i] != 0.0 or self._state_seeds(seed[None, :], i).any())

    def _refuse_clusters(self, states: range | list[int]) -> None:
        for cluster in self._point.clusters:
            if any(i in cluster for i in states):
                raise BadInput(
                    f"{self._told(cluster)}: none of them has a derivative of its own. Their sum has a "
                    "derivative: take vjp, and weigh them equally" + self._cut(cluster)
                )

    def _refuse_unequal(self, seed: Array) -> None:
        """Seeds are rank 0's on every rank: all of them raise, or none."""
        for cluster in self._point.clusters:
            members = [i for i in cluster if i < self._system.num_states]
            weights = seed[members]
            if any(self._state_seeds(seed[None, :], i).any() for i in members):
                raise BadInput(
                    f"{self._told(cluster)}: their states are known up to a rotation only and have no "
                    "derivative. The sum of the energies has one: weigh them equally" + self._cut(cluster)
                )
            if not weights.any():
                continue
            if cluster.stop > self._system.num_states:
                raise BadInput(f"{self._told(cluster)}: not all of them are among the k{self._cut(cluster)}")
            if np.ptp(weights) > _EQUAL * np.abs(weights).max():
                raise BadInput(
                    f"{self._told(cluster)}: none of them has a derivative of its own, got weights "
                    f"{', '.join(f'{w:.6g}' for w in weights)}. Their sum has a derivative: weigh them equally"
                )

    def _told(self, cluster: range) -> str:
        members = [i for i in cluster if i < self._system.num_states]
        listed = ", ".join(f"E_{i + 1} = {self._point.energies[i]:.12g}" for i in members)
        return f"the energies {listed} are one cluster of {len(cluster)}"

    def _cut(self, cluster: range) -> str:
        k = self._system.num_states
        return f"; it is cut by k = {k}: raise k to {cluster.stop}" if cluster.stop > k else ""
