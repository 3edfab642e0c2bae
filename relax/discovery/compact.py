"""Smooth test functions in space and time that are zero at every boundary."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from math import comb

import numpy as np
from dolfinx import mesh
from scipy.interpolate import CubicSpline

from relax.base import parallel
from relax.base.checks import at_least
from relax.base.fem.points import CellFinder
from relax.base.fem.submeshes import outer_facets
from relax.base.types import Array
from relax.discovery.library import powers
from relax.errors import BadInput

# The power of a bump: (1 - |z|²)^5 has four continuous derivatives.
_POWER = 5
# Neighbours are this share of a radius apart.
_APART = 1.0 / 3.0
# A bump that the boundary leaves less than this of its radius is left out.
_LEAST = 0.5
# A facet's point is no farther from one of its vertices than this share of its longest edge.
_FARTHEST = {1: 0.0, 2: 0.5, 3: 0.58}
# Points of Gauss's rule between two times: exact for a cubic times a bump between its ends.
_GAUSS = 8


@dataclass(frozen=True)
class Bumps:
    """Test functions phi(x) chi(t), with phi = (1 - |z|²)^5, z = (x - c)/r axis by axis, and chi alike in time.

    Made by :func:`bumps`.
    """

    counts: tuple[int, ...]

    def in_space(self, domain: mesh.Mesh) -> BumpsInSpace:
        """Those of a mesh. Collective.

        Raises:
            BadInput: where the numbers do not fit the mesh, or no bump does.
        """
        dim = domain.geometry.dim
        given = self.counts[:-1]
        if len(given) not in (1, dim):
            raise BadInput(f"bumps: expected a number for each of {dim} directions, or one, and one for time, got "
                           f"{self.counts}")  # fmt: skip
        finder = CellFinder(domain)
        low, extent = finder.low[:dim], (finder.high - finder.low)[:dim]
        axes, radii = [], []
        for start, length, n in zip(low, extent, given if len(given) == dim else given * dim, strict=True):
            centres, radius = _spread(start, length, n)
            axes.append(centres)
            radii.append(radius)
        centres = np.array(list(itertools.product(*axes)))
        found = finder.owning_cells(np.pad(centres, ((0, 0), (0, 3 - dim))))[1]
        share = np.where(found, np.minimum(_distances(domain, centres, np.array(radii)), 1.0), 0.0)
        kept = share >= _LEAST
        if not kept.any():
            raise BadInput(f"bumps: none of {len(centres)} bumps lies within the mesh; take more of them, which are "
                           "smaller")  # fmt: skip
        return BumpsInSpace(centres[kept], share[kept, None] * np.array(radii))

    def in_time(self, times: Array) -> dict[int, Array]:
        """For each derivative s = 0, ..., 2 the weights (num, num_times) for (-1)^s ∫ chi^(s) g dt of values of g.

        g is the cubic spline through its values, with the smoothness of its end cells that de Boor calls not-a-knot.
        """
        centres, radius = _spread(times[0], times[-1] - times[0], self.counts[-1])
        nodes, weights = np.polynomial.legendre.leggauss(_GAUSS)
        half = 0.5 * np.diff(times)
        t = (0.5 * (times[1:] + times[:-1])[:, None] + half[:, None] * nodes).ravel()
        splines = CubicSpline(times, np.eye(len(times)))(t) * (half[:, None] * weights).reshape(-1, 1)
        z = np.asarray((t - centres[:, None])[:, :, None] / radius, dtype=np.float64)
        return {s: (-1) ** s * (_derivative(z, (s,)) / radius**s) @ splines for s in (0, 1, 2)}


def bumps(*counts: int) -> Bumps:
    """Smooth test functions with compact support: a number in each direction of space, and one in time.

    phi(x) chi(t) with phi = (1 - |z|²)^5, z_k = (x_k - c_k)/r_k, |z| < 1, and chi alike. Centres are spread evenly over
    the box around the mesh. One outside of the mesh is left out, as is one that is too near to the boundary; one that
    is rather near is made smaller. So none touches the boundary, whatever its shape, nor the first and the last time.

    Args:
        counts: of the directions of space, or one number for all of them; the last is of time. ``bumps(8, 8)``.
    """
    if len(counts) < 2:
        raise BadInput(f"bumps: expected numbers for space and for time, as in bumps(8, 8), got {counts!r}")
    return Bumps(tuple(at_least(n, 1, "bumps") for n in counts))


@dataclass(frozen=True)
class BumpsInSpace:
    """Bumps on a mesh: ``centres`` and ``radii``, (num, dim)."""

    centres: Array
    radii: Array

    def jets(self, x: Array, origin: Array, most: int) -> dict[tuple[int, ...], Array]:
        """g_beta (num, num_points): phi = sum of g_beta(x) (y - origin)^beta at y near x, to order ``most``. Local.

        A linear operator of that order takes phi where it takes the sum over beta of g_beta(x) times the monomials,
        seen from x: Taylor's formula, in powers of y - origin.
        """
        dim = x.shape[1]
        z = (x - self.centres[:, None, :]) / self.radii[:, None, :]
        xi = origin - x
        jets = {beta: np.zeros(z.shape[:2]) for beta in powers(dim, most)}
        for alpha in jets:
            slope = _derivative(z, alpha) / np.prod(self.radii**alpha, axis=1)[:, None]
            for beta in itertools.product(*(range(a + 1) for a in alpha)):
                factor = np.prod([comb(a, b) for a, b in zip(alpha, beta, strict=True)], dtype=float)
                for a in alpha:
                    factor /= np.prod(np.arange(1, a + 1), dtype=float)
                rest = np.subtract(alpha, beta)
                jets[beta] += factor * np.prod(xi**rest, axis=1) * slope
        return jets


def _spread(start: float, length: float, n: int) -> tuple[Array, float]:
    """Centres of n bumps over a line, none of which leaves it, and their radius."""
    radius = float(length) / (2.0 + (n - 1) * _APART)
    return start + radius * (1.0 + _APART * np.arange(n)), radius


def _derivative(z: Array, alpha: tuple[int, ...]) -> Array:
    """∂^alpha of (1 - |z|²)^5 in z, of shape (..., dim); 0 where |z| >= 1."""
    # A sum of coefficients times z^a (1 - |z|²)^p.
    terms = {((0,) * len(alpha), _POWER): 1.0}
    for axis, order in enumerate(alpha):
        for _ in range(order):
            after: dict[tuple[tuple[int, ...], int], float] = {}
            for (a, p), c in terms.items():
                up, down = list(a), list(a)
                up[axis] += 1
                down[axis] -= 1
                after[tuple(up), p - 1] = after.get((tuple(up), p - 1), 0.0) - 2.0 * p * c
                if a[axis]:
                    after[tuple(down), p] = after.get((tuple(down), p), 0.0) + a[axis] * c
            terms = after
    w = np.maximum(1.0 - (z**2).sum(axis=-1), 0.0)
    return np.asarray(sum(c * np.prod(z**a, axis=-1) * w**p for (a, p), c in terms.items()))


def _distances(domain: mesh.Mesh, centres: Array, radii: Array) -> Array:
    """How far the boundary is from each centre, axes in units of radii, at least. Collective."""
    topology, dim = domain.topology, domain.geometry.dim
    facets = outer_facets(domain)
    topology.create_connectivity(dim - 1, 0)
    distances = np.full(len(centres), np.inf)
    if len(facets):
        nodes = mesh.entities_to_geometry(domain, dim - 1, facets)
        corners = domain.geometry.x[nodes][:, :, :dim] / radii
        edges = np.linalg.norm(corners[:, :, None] - corners[:, None], axis=-1).max(axis=(1, 2))
        for centre, at in enumerate(centres / radii):
            near = np.linalg.norm(corners - at, axis=-1).min(axis=1) - _FARTHEST[dim] * edges
            distances[centre] = near.min()
    return parallel.smallest(domain.comm, distances)
