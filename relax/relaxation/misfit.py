"""Inverse problems with up to three scalar parameters whose misfit has many minima: relaxed, followed, then solved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from dolfinx import fem
from dolfinx.mesh import Mesh
from mpi4py import MPI

from relax import meshes
from relax.base.checkpoint import Checkpoint
from relax.base.checks import positive
from relax.base.log import logger
from relax.base.teams import Teams
from relax.base.types import Array
from relax.engine.reduced import ReducedMap
from relax.errors import BadInput, SolveFailed
from relax.invert import Result, gauss_newton
from relax.invert.objective import Objective
from relax.invert.priors import IdentityPrior
from relax.invert.priors.base import Prior
from relax.relaxation.box import checked_box, checked_num, checked_starts, default_times, from_unit, lattice, to_unit
from relax.relaxation.landscape.landscape import RelaxedLandscape
from relax.relaxation.shared_work import Pieces

# Starts in each direction.
_STARTS = 5
# Steps of the descent at each time, and of the equation between two times.
_DESCENT_STEPS, _MARCH_STEPS = 4, 4
# exp(-beta f) keeps its digits for beta (max f - min f) up to this.
COLE_HOPF = 24.0
# The weak prior's standard deviation, in units of the longest side of the box.
_WEAK = 10.0
# Descents that end this close, as a part of the box, go on as one.
_SAME = 1e-3


@dataclass(frozen=True)
class RelaxedMisfit:
    """The result of :func:`relax_misfit`, the same on every rank. k starts, d parameters.

    Attributes:
        box: (d, 2) the lower and the upper bound of each parameter.
        samples: J at the lattice of the box, (n_1 + 1, ..., n_d + 1); inf where the forward solve failed.
        scale: max J - min J over the lattice.
        landscape: the relaxed one, of (J - min J)/scale on the unit interval, square or cube: see :meth:`to_unit`.
        starts: (k, d).
        path: (steps + 1, k, d) the descents.
        prior: of Gauss–Newton.
        results: Gauss–Newton's result for each start, from the end of its descent. Starts whose descents end in one
            point share one; None where the forward solve failed at that point.
    """

    box: Array
    samples: Array
    scale: float
    landscape: RelaxedLandscape
    starts: Array
    path: Array
    prior: Prior
    results: tuple[Result | None, ...]

    @property
    def ends(self) -> Array:
        """(k, d) where the descents ended, and Gauss–Newton began."""
        return np.asarray(self.path[-1])

    @property
    def result(self) -> Result:
        """The result with the lowest cost of all.

        Raises:
            SolveFailed: when the forward solve failed at the end of each descent.
        """
        return lowest(self.results)

    @property
    def axes(self) -> tuple[Array, ...]:
        """The lattice's values of each parameter."""
        shape = self.samples.shape
        return tuple(np.asarray(np.linspace(self.box[i, 0], self.box[i, 1], n)) for i, n in enumerate(shape))

    def to_unit(self, m: npt.ArrayLike) -> Array:
        """Parameters (..., d) as points of the landscape's mesh: 0 at the lower bound, 1 at the upper one. Local."""
        return to_unit(m, self.box)

    def from_unit(self, z: npt.ArrayLike) -> Array:
        """Points of the landscape's mesh (..., d) as parameters. Local."""
        return from_unit(z, self.box)

    def relaxed_samples(self, t: float) -> Array:
        """The relaxed misfit on the lattice at time t, in units of J. Collective."""
        unit = lattice(self.samples.shape)
        least = np.min(self.samples)
        return np.asarray(least + self.scale * self.landscape.value(unit, t)).reshape(self.samples.shape)

    def close(self) -> None:
        """Free what PETSc holds. Collective."""
        self.landscape.close()

    def __enter__(self) -> RelaxedMisfit:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def relax_misfit(
    G: ReducedMap,
    data: npt.ArrayLike,
    box: npt.ArrayLike,
    *,
    noise: float | Array,
    num: int | Sequence[int] | None = None,
    beta: float = 20.0,
    times: npt.ArrayLike | None = None,
    starts: int | npt.ArrayLike = _STARTS,
    prior: Prior | None = None,
    teams: Teams | None = None,
    max_steps: int = 50,
    rtol: float = 1e-8,
    checkpoint: Checkpoint | None = None,
) -> RelaxedMisfit:
    """Minimise J(m) = ½ |(G(m) - data)/noise|² over one to three numbers m where J has many minima.

    Collective. J is sampled on a lattice over the box, one forward solve a sample, and relaxed by the viscous
    Hamilton–Jacobi equation; from each start the minima of the relaxed misfit are followed as t goes to 0
    (``RelaxedLandscape.descend``), and where they lead Gauss–Newton takes over. At large t the descent goes to the mean
    of the Gibbs measure exp(-beta J/scale) around the start, over the whole box: the wide and low valleys decide, not
    the nearest one. The lattice has to see the valley of the least minimum: where Gauss–Newton's reach is narrower than
    a cell, no relaxation finds it.

    The landscape is dimensionless: the box is the unit interval, square or cube, with walls that reflect, and the
    misfit, which is huge where the noise is small, is (J - min J)/(max J - min J). ``beta`` and ``times`` are in these
    units, so that their defaults depend neither on the noise nor on the number of data nor on the parameters' units.

    Args:
        G: the map, in layout "replicated", of a control of 1 to 3 numbers (``fem.Constant``). Where it lives on all
            ranks, each sample is solved by all of them; where it lives on the ``space`` of ``teams``, each team solves
            its share of the samples, and of the Gauss–Newton runs.
        data: (size_out,).
        box: (d, 2) the lower and the upper bound of each number, in the order of the control vector.
        noise: standard deviation of the data's noise: a number, or one for each observation.
        num: cells of the box in each direction, one number or d; by default 200, 24, 12 in 1, 2, 3 dimensions.
        beta: the inverse temperature: where J is 1/beta of its range above its least value the weight is 1/e. Small,
            the mean of the whole box decides; large, the one best sample. Up to 24 the equation is solved by the
            substitution of Cole and Hopf; above, directly, with an artificial viscosity that undoes a larger beta
            unless ``num`` grows with it.
        times: where the relaxed misfit is stored and the descent stops to take steps; by default 12 in geometric order,
            at which sqrt(t/beta), how far the relaxed misfit looks, goes from half a cell to half the box.
        starts: how many in each direction, evenly over the box; or (k, d) of them.
        prior: of Gauss–Newton, on the control of G; by default a weak one, around the middle of the box, with a
            standard deviation of ten times its longest side.
        teams: the teams on whose ``space`` G lives.
        max_steps: of Gauss–Newton.
        rtol: of Gauss–Newton, relative to its first gradient.
        checkpoint: where samples and results are kept as they come, and gone on from: a ``relax.Checkpoint`` of its
            own, on the ranks of all teams.

    Returns:
        The landscape, the samples, the descents, and Gauss–Newton's results.

    Raises:
        BadInput: on every rank, for what does not fit.
        SolveFailed: when no sample could be solved for. A sample for which that fails counts as the largest misfit of
            the others.
    """
    _check_map(G, teams)
    bounds = checked_box(box, G.size_in)
    cells = checked_num(num, len(bounds))
    positive(beta, "beta")
    times = default_times(beta, cells) if times is None else times
    prior = weak_prior(G, bounds) if prior is None else prior
    objective = Objective(G, np.asarray(data), noise, prior)
    first = checked_starts(starts, bounds)
    comm = G.comm if teams is None else teams.comm

    shape = tuple(n + 1 for n in cells)
    points = from_unit(lattice(shape), bounds)
    given = np.concatenate([objective.data, objective.noise])
    sampled = Pieces(teams, lambda m: _misfit(objective, m), "samples of the misfit", given)
    runs = _runs(G, objective.data, objective.noise, prior, teams, max_steps, rtol)
    if checkpoint is not None:
        checkpoint.add(samples=sampled, runs=runs)
        checkpoint.restore()
    samples = np.array(sampled.each(points, checkpoint)).reshape(shape)
    unit, scale = _normalised(samples)
    landscape = relaxed_lattice(comm, unit, beta, times)
    descent = landscape.descend(to_unit(first, bounds), landscape.times[:0:-1], steps=_DESCENT_STEPS, path=True)
    which, distinct = _merged(descent.x)
    results = runs.each(from_unit(distinct, bounds), checkpoint)
    path = from_unit(descent.path, bounds)
    return RelaxedMisfit(bounds, samples, scale, landscape, first, path, prior, tuple(results[i] for i in which))


def gauss_newton_each(
    G: ReducedMap,
    data: Array,
    starts: npt.ArrayLike,
    *,
    noise: float | Array,
    prior: Prior,
    teams: Teams | None = None,
    max_steps: int = 50,
    rtol: float = 1e-8,
    checkpoint: Checkpoint | None = None,
) -> list[Result | None]:
    """Gauss–Newton from each of several starts (k, size_in), each team its share of them; None where a solve failed.

    Collective over all teams. The result is the same on every rank.

    Args:
        G: the map; with ``teams`` on their ``space``.
        data: as :func:`relax.gauss_newton`.
        starts: control vectors.
        noise: as :func:`relax.gauss_newton`.
        prior: as :func:`relax.gauss_newton`.
        teams: who shares the work.
        max_steps: of each run.
        rtol: of each run.
        checkpoint: as of :func:`relax_misfit`.
    """
    runs = _runs(G, data, noise, prior, teams, max_steps, rtol)
    if checkpoint is not None:
        checkpoint.add(runs=runs)
        checkpoint.restore()
    return runs.each(np.asarray(starts, dtype=np.float64), checkpoint)


def _runs(
    G: ReducedMap,
    data: Array,
    noise: float | Array,
    prior: Prior,
    teams: Teams | None,
    max_steps: int,
    rtol: float,
) -> Pieces[Result | None]:
    """Runs of Gauss–Newton. Local."""

    def run(m0: Array) -> Result | None:
        try:
            return gauss_newton(G, data, m0, noise=noise, prior=prior, max_steps=max_steps, rtol=rtol)
        except SolveFailed as failure:
            logger.info("Gauss-Newton from %s: %s", m0, failure)
            return None

    return Pieces(teams, run, "runs of Gauss-Newton", np.append(data, noise))


def lowest(results: Sequence[Result | None]) -> Result:
    """The result with the lowest cost. Local.

    Raises:
        SolveFailed: when there is none.
    """
    there = [result for result in results if result is not None]
    if not there:
        raise SolveFailed("Gauss-Newton: the forward solve failed at every start; take a smaller box")
    return min(there, key=lambda result: float(result.history[-1]["cost"]))


def weak_prior(G: ReducedMap, box: Array) -> IdentityPrior:
    """Around the middle of a box (d, 2), ten times as wide as its longest side. Collective."""
    return IdentityPrior(G, std=_WEAK * float(np.max(box[:, 1] - box[:, 0])), mean=box.mean(axis=1))


# -- the work ----------------------------------------------------------------------------------------------------------


def _check_map(G: ReducedMap, teams: Teams | None) -> None:
    """See that G takes a few numbers and lives where the teams say. Local.

    Raises:
        BadInput: otherwise.
    """
    if G.layout.kind != "replicated":
        raise BadInput(f"relax_misfit: expected a map in layout 'replicated', got {G.layout.kind!r}")
    if not 1 <= G.size_in <= 3:
        raise BadInput(
            f"relax_misfit: expected a control of 1 to 3 numbers, got {G.size_in}; a lattice over more has too many "
            "samples. For a field use gauss_newton or lbfgs with a prior"
        )
    if teams is not None and MPI.Comm.Compare(G.comm, teams.space) not in (MPI.IDENT, MPI.CONGRUENT):
        raise BadInput(
            f"teams: expected a map whose mesh lives on teams.space, of {teams.space.size} rank(s); got one on "
            f"{G.comm.size} rank(s). Make the mesh with comm=teams.space"
        )


def _misfit(objective: Objective, m: Array) -> float:
    """J at one control, inf where the forward solve fails. Collective over the map's ranks."""
    try:
        residual = (objective.G(m) - objective.data) / objective.noise
    except SolveFailed as failure:
        logger.info("misfit at %s: %s", m, failure)
        return float("inf")
    return 0.5 * float(np.dot(residual, residual))


def _normalised(samples: Array) -> tuple[Array, float]:
    """(J - min J)/(max J - min J), and the range; what is not finite is the largest."""
    there = samples[np.isfinite(samples)]
    if len(there) == 0:
        raise SolveFailed("relax_misfit: the forward solve failed at each sample of the box; take another box")
    least, scale = float(there.min()), float(np.ptp(there))
    if scale == 0.0:
        raise BadInput("relax_misfit: the misfit is the same all over the box: the data do not depend on these numbers")
    return np.where(np.isfinite(samples), (samples - least) / scale, 1.0), scale


def relaxed_lattice(
    comm: MPI.Comm,
    values: Array,
    beta: float,
    times: npt.ArrayLike,
    *,
    num_steps: int = _MARCH_STEPS,
    theta: float | None = 1.0,
) -> RelaxedLandscape:
    """The landscape of values on a lattice of the unit box, linear in each cell. Collective.

    Samples may be rough: by default steps are implicit, which damps that, and with a lumped mass keeps exp(-beta u)
    positive.
    """
    cells = np.array(values.shape) - 1
    domain = _unit_box([n - 1 for n in values.shape], comm)
    f = fem.Function(fem.functionspace(domain, ("Lagrange", 1)), name="misfit")
    f.interpolate(lambda x: values[tuple(np.rint(x[: len(cells)] * cells[:, None]).astype(int))])
    route = "cole_hopf" if beta * np.ptp(values) <= COLE_HOPF else "direct"
    return RelaxedLandscape(
        domain, f, beta=beta, times=times, num_steps=num_steps, route=route, degree=1, theta=theta
    )  # fmt: skip


def _unit_box(n: list[int], comm: MPI.Comm) -> Mesh:
    if len(n) == 1:
        return meshes.interval(n[0], comm=comm)
    if len(n) == 2:
        return meshes.rectangle((0.0, 0.0), (1.0, 1.0), (n[0], n[1]), comm=comm)
    return meshes.box((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (n[0], n[1], n[2]), comm=comm)


def _merged(ends: Array) -> tuple[list[int], Array]:
    """Points of the unit box that are one: for each the number of its own, and those. Local."""
    kept: list[int] = []
    which: list[int] = []
    for i in range(len(ends)):
        near = [k for k, j in enumerate(kept) if np.max(np.abs(ends[i] - ends[j])) <= _SAME]
        if not near:
            kept.append(i)
        which.append(near[0] if near else len(kept) - 1)
    return which, ends[kept]
