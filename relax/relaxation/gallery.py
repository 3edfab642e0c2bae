"""The one-dimensional gallery of Deep Relaxation: a rugged parabola, and what each way of smoothing makes of it.

The landscape, its random numbers and the times are those of the authors' plotting code (Chaudhari, Oberman, Osher,
Soatto and Carlier, arXiv:1704.04932).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from relax.base.types import Array
from relax.engine.reduced import ReducedMap
from relax.meshes import interval
from relax.observe import FieldValues
from relax.pdes import heat
from relax.relaxation.envelope import hopf_lax
from relax.relaxation.landscape.landscape import RelaxedLandscape

ENDS = (-3.0, 3.0)
NUM = 500
BETA = 1.0
#: Times of the viscous, the inviscid and the heat equation.
TIMES = {"viscous": 0.2, "hopf_lax": 0.1, "heat": 0.2}

_KERNEL = 0.03
_NOISE = 2.5
_STEPS = 40


@dataclass(frozen=True)
class Gallery:
    """Curves over x, (500,) each, dimensionless.

    Attributes:
        x: nodes from -3 to 3.
        f: x² + 1.5 sin(2 pi x) and smoothed noise.
        viscous: u_t = -1/2 |u'|² + 1/2 u'' at t = 0.2.
        hopf_lax: u_t = -1/2 |u'|² at t = 0.1.
        heat: u_t = 1/2 u'' at t = 0.2.
    """

    x: Array
    f: Array
    viscous: Array
    hopf_lax: Array
    heat: Array

    @property
    def curves(self) -> dict[str, Array]:
        """The curves by label, for a figure."""
        return {
            "f": self.f,
            f"viscous, t = {TIMES['viscous']:g}": self.viscous,
            f"Hopf–Lax, t = {TIMES['hopf_lax']:g}": self.hopf_lax,
            f"heat, t = {TIMES['heat']:g}": self.heat,
        }

    @property
    def minima(self) -> tuple[int, int, int, int]:
        """How many local minima f, the viscous, the inviscid and the heat solution have."""
        return tuple(local_minima(u) for u in (self.f, self.viscous, self.hopf_lax, self.heat))  # type: ignore[return-value]


def local_minima(values: npt.ArrayLike) -> int:
    """How many inner nodes of a line lie below both of their neighbours. Local."""
    u = np.asarray(values, dtype=np.float64)
    return int(np.count_nonzero((u[1:-1] < u[:-2]) & (u[1:-1] < u[2:])))


def rugged_parabola(seed: int = 42) -> tuple[Array, Array]:
    """x, (500,), and f = x² + 1.5 sin(2 pi x) + uniform noise of +-2.5 smoothed by a normal kernel of width 0.03.

    Local. The convolution is that of samples, with nothing beyond the ends.
    """
    x: Array = np.linspace(*ENDS, NUM, dtype=np.float64)
    kernel = np.exp(-0.5 * (x / _KERNEL) ** 2)
    noise = np.random.RandomState(seed).uniform(-_NOISE, _NOISE, NUM)
    return x, x**2 + 1.5 * np.sin(2.0 * np.pi * x) + np.convolve(noise, kernel / kernel.sum(), mode="same")


def deep_relaxation(seed: int = 42, *, comm: MPI.Comm = MPI.COMM_WORLD) -> Gallery:
    """The gallery, each curve at the nodes of f, by elements of degree 1 between them; walls reflect. Collective."""
    x, f = rugged_parabola(seed)
    mesh = interval(NUM - 1, ENDS, comm=comm)

    def initial(at: Array) -> Array:
        return np.interp(at[0], x, f)

    t = TIMES["viscous"]
    with RelaxedLandscape(mesh, initial, beta=BETA, times=[t], num_steps=_STEPS, degree=1) as landscape:
        viscous = landscape.value(x, t)
    # Backward Euler: Crank–Nicolson would carry the noise of f along.
    dt = TIMES["heat"] / _STEPS
    diffusion = heat.evolution(
        mesh, initial=initial, conductivity=1.0 / (2.0 * BETA), dt=dt, num_steps=_STEPS, theta=1.0, dirichlet={}
    )
    with ReducedMap(diffusion, FieldValues(diffusion.state.function_space)) as G:
        smoothed = G(G.present_control())
    return Gallery(x, f, viscous, hopf_lax(f, x, TIMES["hopf_lax"]).value, smoothed)
