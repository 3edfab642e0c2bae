"""Eigenvalues and states at one control, and their derivatives there."""

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
    """Derivative products of an ``EigenMap`` at one control, behind ``Linearization``.

    Collective, as is every method. With A u = E B u, uᵀ B u = 1, dA and dB along dm, and J the bordered operator of the
    pair (see ``BorderedSolver``):

    - eigenvalues: dE = uᵀ (dA - E dB) u (Hellmann and Feynman), without a solve;
    - tangent: J (du, dE) = (-(dA - E dB) u, uᵀ dB u / 2);
    - adjoint of a state's seed y: J (λ, α) = (y, 0), and the gradient is that of -Λ, with
      Λ = λᵀ (A - E B) u - α uᵀ B u / 2 as a function of m alone; of an eigenvalue it is that of Λ for λ = u, α = 0;
    - second order: the derivatives of these along (dm, du, dE).
    """

    is_everywhere_the_same = False

    hessian_block = BLOCK

    def __init__(self, system: EigenSystem, point: EigenPoint) -> None:
        self._system = system
        self._point = point
        # The latest adjoint of each state, for Hessian actions with one seed: (seed, λ, α).
        self._adjoints: dict[int, tuple[Array, Array, Array]] = {}

    def tangents(self, directions: Array) -> Array:
        """G'(m) dm: (p, size_in) -> (p, size_out).

        Raises:
            BadInput: when two of the k eigenvalues, or the last one and the next, are too close.
        """
        system, k = self._system, self._system.num_states
        self._refuse_clusters(range(k))
        result = np.empty((len(directions), system.size_out))
        with system.at(self._point):
            result[:, :k] = self._products(directions)
            if system.has_states:
                parts = [system.layout.split(row) for row in directions]
                whole = np.zeros((len(parts), k, system.pencil.num_owned))
                for i in range(k):
                    whole[:, i, system.pencil.free] = self._state_tangents(i, parts)[0]
                result[:, k:] = system.state_layout.gather(whole).reshape(len(parts), -1)
        return result

    def gradients(self, seeds: Array) -> Array:
        """G'(m)ᵀ dy: (p, size_out) -> (p, size_in).

        Raises:
            BadInput: when a seed weighs the eigenvalues of a cluster differently, or its states at all.
        """
        system, k = self._system, self._system.num_states
        for seed in seeds:
            self._refuse_unequal(seed)
        with system.at(self._point):
            result = seeds[:, :k] @ self._slopes
            for i in range(k) if system.has_states else ():
                chosen, of_state = self._nonzero_seeds(seeds, i)
                if chosen.size:
                    lam, alpha = self._state_adjoints(i, of_state)
                    system.install_state(self._point, i)
                    rows = [self._gradient(lam[j], alpha[j]) for j in range(len(lam))]
                    result[chosen] -= self._joined(rows)
        return result

    def hessian_actions(self, seeds: Array, directions: Array, which: npt.NDArray[np.int64]) -> Array:
        """d/dε of the gradients along directions[which]: (p, size_out), (q, size_in), (p,) -> (p, size_in).

        Raises:
            BadInput: when a seed weighs a member of a cluster.
        """
        system = self._system
        weighed = [i for i in range(system.num_states) if any(self._weighs(seed, i) for seed in seeds)]
        self._refuse_clusters(weighed)
        result = np.zeros((len(seeds), system.layout.size))
        with system.at(self._point):
            parts = [system.layout.split(row) for row in directions]
            for i in weighed:
                du, dE = self._state_tangents(i, parts)
                system.install_state(self._point, i)
                if seeds[:, i].any():
                    u, rows = system.state(self._point, i), []
                    for j in range(len(parts)):
                        system.registers.install_tangent(parts[j])
                        rows.append(self._second_gradient((u, 0.0), (du[j], dE[j]), (du[j], 0.0)))
                    result += seeds[:, i : i + 1] * self._joined(rows)[which]
                chosen, of_state = self._nonzero_seeds(seeds, i)
                if chosen.size:
                    along = which[chosen]
                    given = [parts[j] for j in along]
                    result[chosen] -= self._state_actions(i, of_state, given, du[along], dE[along])
        return result

    # -- the work ------------------------------------------------------------------------------------------------------

    @cached_property
    def _slopes(self) -> Array:
        """The gradient of each eigenvalue, at the installed point: (k, size_in). Collective."""
        rows = []
        for i in range(self._system.num_states):
            self._system.install_state(self._point, i)
            rows.append(self._gradient(self._system.state(self._point, i), 0.0))
        return self._joined(rows)

    def _products(self, directions: Array) -> Array:
        """dE of each eigenvalue along each direction: (p, k). Collective."""
        local = directions @ self._slopes.T
        return parallel.sum_over_ranks(self._system.comm, local) if self._system.layout.kind == "owned" else local

    def _joined(self, rows: list[list[Array]]) -> Array:
        """Derivatives in controls, parts of each row, as control vectors: (p, size_in). Collective."""
        system = self._system
        return system.layout.join([np.array(part) for part in zip(*rows, strict=True)])

    def _gradient(self, lam: Array, alpha: float) -> list[Array]:
        """∂Λ/∂m at the installed u and E. Collective."""
        forms = self._system.forms
        forms.install(forms.registers.adjoint, lam)
        forms.alpha.value = alpha
        return forms.gradient()

    def _second_gradient(
        self, adjoint: tuple[Array, float], change: tuple[Array, float], adjoint_change: tuple[Array, float]
    ) -> list[Array]:
        """d/dε ∂Λ/∂m along the installed dm, for (λ, α), (du, dE), (dλ, dα) at the installed u and E. Collective."""
        forms, registers = self._system.forms, self._system.registers
        for register, number, (vector, value) in (
            (registers.adjoint, forms.alpha, adjoint),
            (registers.tangent_state, forms.denergy, change),
            (registers.second_adjoint, forms.dalpha, adjoint_change),
        ):
            forms.install(register, vector)
            number.value = value
        return forms.second_gradient()

    def _moved(self, part: list[Array], vector: Array) -> tuple[Array, Array]:
        """(dA - E dB) x and dB u along dm, by its parts, at the installed u and E: (free,) each. Collective."""
        forms, registers = self._system.forms, self._system.registers
        registers.install_tangent(part)
        forms.install(registers.adjoint, vector)
        return forms.moved(), forms.mass_moved()

    def _state_tangents(self, i: int, parts: list[list[Array]]) -> tuple[Array, Array]:
        """(du_i, dE_i) for each direction: (p, free), (p,)."""
        system, u = self._system, self._system.state(self._point, i)
        system.install_state(self._point, i)
        sources, masses = np.empty((2, len(parts), u.size))
        for j, part in enumerate(parts):
            sources[j], masses[j] = self._moved(part, u)
        border = 0.5 * parallel.sum_over_ranks(system.comm, masses @ u)
        system.counts["tangent"] += len(parts)
        return system.solve_bordered(self._point, i, -sources, border)

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
        """(λ, α) for seeds (p, size) of the i-th state: (p, free), (p,)."""
        system = self._system
        known = self._adjoints.get(i)
        if known is not None and len(seeds) == 1 and np.array_equal(known[0], seeds[0]):
            return known[1], known[2]
        duals = system.state_layout.spread(seeds, dual=True)[:, system.pencil.free]
        lam, alpha = system.solve_bordered(self._point, i, duals, np.zeros(len(seeds)))
        system.counts["adjoint"] += len(seeds)
        if len(seeds) == 1:
            self._adjoints[i] = (seeds[0].copy(), lam, alpha)
        return lam, alpha

    def _state_actions(self, i: int, seeds: Array, parts: list[list[Array]], du: Array, dE: Array) -> Array:
        """The derivative of ∂Λ/∂m along each direction: (p, size_in).

        J (dλ, dα) = -J' (λ, α), where J' is the derivative of J along (dm, du, dE).
        """
        system = self._system
        distinct, number = np.unique(seeds, axis=0, return_inverse=True)
        number = number.reshape(-1)  # NumPy 2.0 alone gives it the shape of the seeds
        lam, alpha = (x[number] for x in self._state_adjoints(i, distinct))
        system.install_state(self._point, i)
        moved, mass_moved = np.empty((2, *lam.shape))
        for j, part in enumerate(parts):
            moved[j], mass_moved[j] = self._moved(part, lam[j])
        # B u changes by dB u + B du.
        mass_change = mass_moved + system.mass_times(du)
        rhs = -moved + dE[:, None] * system.mass_times(lam) + alpha[:, None] * mass_change
        border = parallel.sum_over_ranks(system.comm, (lam * mass_change).sum(axis=1))
        dlam, dalpha = system.solve_bordered(self._point, i, rhs, border)
        system.counts["adjoint"] += len(rhs)
        rows = []
        for j, part in enumerate(parts):
            system.registers.install_tangent(part)
            rows.append(self._second_gradient((lam[j], alpha[j]), (du[j], dE[j]), (dlam[j], dalpha[j])))
        return self._joined(rows)

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
                    f"derivative. The sum of the {self._system.words[0]} has one: weigh them equally"
                    + self._cut(cluster)
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
        name, letter = self._system.words
        listed = ", ".join(f"{letter}_{i + 1} = {self._point.energies[i]:.12g}" for i in members)
        return f"the {name} {listed} are one cluster of {len(cluster)}"

    def _cut(self, cluster: range) -> str:
        k = self._system.num_states
        return f"; it is cut by k = {k}: raise k to {cluster.stop}" if cluster.stop > k else ""
