"""Samples of a posterior of up to three numbers, by the drift of a viscous Hamilton–Jacobi equation."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.interpolate import RegularGridInterpolator
from scipy.special import erf

from relax.base import parallel
from relax.base.checks import at_least, number_in, of_kind
from relax.base.monte_carlo import Paths, heun_step
from relax.base.types import Array
from relax.errors import BadInput
from relax.relaxation.box import from_unit, lattice, to_unit
from relax.relaxation.functions import as_numbers, as_points
from relax.relaxation.landscape.history import interpolation_weights
from relax.relaxation.misfit import RelaxedMisfit, relaxed_lattice

# How long a path is, in units of the box squared: of where it began no more is left than exp(-pi^2 T/2).
_TIME = 3.0
# How many times the equation is kept at, and its steps between two.
_TIMES, _STEPS = 48, 6
# Above the least value by this much a posterior is nothing (e^-24), and exp(-Φ) keeps its digits up to there.
_NOTHING = 24.0
# Where Φ is this close to its least value it may change from node to node by so much.
_MATTERS, _CHANGE = 6.0, 1.5
# What of a prior lies in the box, at least.
_LEAST_MASS = 1e-6


class Posterior:
    """p(m) = exp(-J(m)) π(m) / Z over the box of a misfit J = ½ |(G(m) - data)/noise|², sampled exactly. Dimensionless.

    In coordinates z of the unit box, with V(z, τ) = -log E exp(-J(z_τ)) over Brownian paths z_τ from z that walls
    reflect, V_τ = -½ |grad V|² + ½ Lap V from V(z, 0) = J(z), and paths

        dz = -grad V(z, T - t) dt + dB,    reflected,   z_0 anywhere,

    end in p (Föllmer's drift; the uniform distribution is where reflected paths end, and a Gaussian prior is counted
    with J, cut off at the box). No path is thrown away, and none knows of another: modes get what is theirs however far
    they are apart. What is sampled is the lattice's J, linear between its nodes.

    Collective to make, and every method; all ranks get the same.

    Args:
        landscape: of :func:`relax_misfit`; of this its samples of J are taken, in units of the noise.
        prior: None for the uniform one; or (mean, std) of a Gaussian, independent in each parameter: numbers, or (d,).

    Attributes:
        log_evidence: log of the integral of exp(-J) π, the prior's mass in the box being 1.

    Raises:
        BadInput: where the lattice does not resolve exp(-J) π, with the cells that it takes; for a prior of which next
            to nothing lies in the box.
    """

    def __init__(self, landscape: RelaxedMisfit, prior: Any = None) -> None:
        of_kind(landscape, RelaxedMisfit, "what relax_misfit gives", "Posterior: landscape")
        self.box = landscape.box
        self._shape = landscape.samples.shape
        self._comm = landscape.landscape.mesh.comm
        energy = landscape.samples.copy()
        log_mass, prior = 0.0, parallel.of_rank_0(self._comm, prior)
        if prior is not None:
            mean, std = _gaussian(prior, len(self.box))
            nodes = from_unit(lattice(self._shape), self.box)
            energy += 0.5 * (((nodes - mean) / std) ** 2).sum(axis=1).reshape(self._shape)
            log_mass = _log_mass(self.box, mean, std)
        least = float(energy.min())
        energy = np.minimum(energy - least, _NOTHING)
        _check_resolved(energy)
        farthest = 0.25 / max(self._shape)
        self._times = np.concatenate([[0.0], np.geomspace(farthest**2, _TIME, _TIMES)])
        relaxed = relaxed_lattice(self._comm, energy, 1.0, self._times[1:], num_steps=_STEPS, theta=None)
        self._axes = [np.linspace(0.0, 1.0, n) for n in self._shape]
        nodes = lattice(self._shape)
        with relaxed:
            self._slopes = [relaxed.gradient(nodes, t).reshape(*self._shape, -1) for t in self._times]
            everywhere = relaxed.value(nodes, _TIME)
        self.log_evidence = -least - float(everywhere.mean()) - log_mass

    def drift(self, x: npt.ArrayLike, t: float) -> Array:
        """The drift of dm = drift dt + L dB at points (n, d) of the box and a time t in [0, 3], L its sides: (n, d)."""
        x, t = parallel.of_rank_0(self._comm, (x, t))
        time = number_in(t, (lambda v: 0.0 <= v <= _TIME, f"a time from 0 to {_TIME:g}"), "drift: t")
        points = to_unit(as_points(x), self.box)
        if points.shape[1] != len(self.box) or (points < 0.0).any() or (points > 1.0).any():
            raise BadInput(f"drift: x: expected points of the box {self.box.tolist()}, (n, {len(self.box)})")
        return self._drift(points, time) * (self.box[:, 1] - self.box[:, 0])

    def sample(self, num: int, *, seed: int = 0, steps: int = 400) -> Array:
        """Independent samples, (num, d).

        Steps are Heun's, shorter and shorter towards the end; what they leave of a mean or a share falls as they do.
        Paths are shared among the ranks, and the same on any number of them.
        """
        num, seed, steps = parallel.of_rank_0(self._comm, (num, seed, steps))
        paths = Paths(num, seed, self._comm)
        d = len(self.box)
        to_go = np.geomspace(_TIME, self._times[1], at_least(steps, 2, "steps"))
        times = _TIME - np.append(to_go, 0.0)
        z = paths.uniform(d)
        for t, after in pairwise(times):
            kick = np.sqrt(after - t) * paths.normal(d)
            z = _reflected(heun_step(lambda y, s: self._drift(_reflected(y), s), z, t, after - t, kick))
        return from_unit(paths.gathered(z), self.box)

    def _drift(self, z: Array, t: float) -> Array:
        """-grad V at own points of the unit box. Local."""
        weights = interpolation_weights(self._times, max(_TIME - t, 0.0))
        slopes = sum(weight * self._slopes[i] for i, weight in weights.items())
        return -np.asarray(RegularGridInterpolator(self._axes, slopes)(z))


def _reflected(z: Array) -> Array:
    """Points of space as walls of the unit box reflect them."""
    return np.asarray(1.0 - np.abs(1.0 - np.mod(z, 2.0)))


def _gaussian(prior: Any, d: int) -> tuple[Array, Array]:
    """Means and standard deviations, (d,) each."""
    expected = f"Posterior: prior: expected None, or (mean, std), numbers or arrays of shape ({d},)"
    if not isinstance(prior, tuple | list) or len(prior) != 2:
        raise BadInput(f"{expected}, got {prior!r:.80}")
    parts = [as_numbers(part, expected) for part in prior]
    if any(part.shape not in ((), (d,)) or not np.isfinite(part).all() for part in parts) or not (parts[1] > 0.0).all():
        raise BadInput(f"{expected}, std above 0, got {prior!r:.80}")
    mean, std = (np.broadcast_to(part, (d,)) for part in parts)
    return mean, std


def _log_mass(box: Array, mean: Array, std: Array) -> float:
    """log of the mean over the box of exp(-½ |(m - mean)/std|²).

    Raises:
        BadInput: where of a parameter's prior less than one part in a million lies in the box.
    """
    low, high = ((box[:, i] - mean) / (np.sqrt(2.0) * std) for i in range(2))
    masses = 0.5 * (erf(high) - erf(low))
    if (masses < _LEAST_MASS).any():
        raise BadInput(
            f"Posterior: prior: expected one that lies in the box {box.tolist()}, where the misfit is known, got "
            f"one of which {masses.min():.1e} does; take another box, or another prior"
        )
    means = std * np.sqrt(2.0 * np.pi) * masses / (box[:, 1] - box[:, 0])
    return float(np.log(means).sum())


def _check_resolved(energy: Array) -> None:
    """Refuse an energy, its least value 0, that changes from node to node by more than exp(-energy) is seen by.

    Raises:
        BadInput: naming the cells that it takes.
    """
    cells = []
    for axis, n in enumerate(energy.shape):
        low, high = (np.delete(energy, end, axis) for end in (-1, 0))
        near = np.minimum(low, high) < _MATTERS
        change = np.abs(high - low)[near].max(initial=0.0)
        cells.append(int(np.ceil((n - 1) * max(change / _CHANGE, 1.0))))
    if any(n > size - 1 for n, size in zip(cells, energy.shape, strict=True)):
        raise BadInput(
            f"Posterior: the lattice does not resolve exp(-J): expected some num={cells} cells, got "
            f"{[n - 1 for n in energy.shape]}; take a smaller box, or relax_misfit(..., num=...)"
        )
