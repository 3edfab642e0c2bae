"""Field and equation fitted together: derivatives, and the right terms at 32 % noise."""

from __future__ import annotations

import numpy as np
import pytest
from contract import close, raised_everywhere
from discovery_cases import HAMILTON_JACOBI, library_on, line, scattered, states_of, viscous
from dolfinx import fem
from mpi4py import MPI

from relax import meshes
from relax.discovery import FieldPosterior, bumps, rank_by_bic
from relax.discovery.joint import _Slopes
from relax.discovery.library import Library
from relax.discovery.weak import WeakMatrix
from relax.errors import BadInput

COMM = MPI.COMM_WORLD


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("dim", [1, 2])
def test_slopes(dim):
    """d(A c)/dw of all terms against central differences, which are exact for squares."""
    domain = meshes.interval(12) if dim == 1 else meshes.unit_square(5)
    V = fem.functionspace(domain, ("Lagrange", 2 if dim == 1 else 1))
    data, noise = scattered(viscous, [0.0] * (dim + 1), [1.0] * (dim + 1), 0.1, 0, num=60)
    field = FieldPosterior(V, data, noise=noise, times=np.linspace(0.0, 1.0, 7))
    (spanned,) = field.components
    library = Library(library_on(V))
    matrix = WeakMatrix(library, bumps(3, 3), field.times)
    rng = np.random.default_rng(0)
    w, dw = spanned.weights.mean, rng.standard_normal(len(spanned.weights.mean))
    c = rng.standard_normal(len(library.names))
    at = [field.field([(w + h * dw)[None]])[0] for h in (-0.01, 0.0, 0.01)]
    differences = (matrix(at[2][None])[0] - matrix(at[0][None])[0]) @ c / 0.02
    slope = _Slopes(matrix, spanned.in_space)(at[1], list(range(len(c))), c, spanned)
    close(slope @ dw, differences, 1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_third_of_noise(seed):
    """The true terms are first, their coefficients within a quarter."""
    V = line(24, ends=(-2.0, 2.0))
    data, noise = scattered(viscous, [-2.0, 0.0], [2.0, 2.0], 10**-0.5, seed)
    first, *others = rank_by_bic(library_on(V), data, noise=noise, leading="u_t")
    assert len(others) == 27 and first.bic < min(each.bic for each in others)
    assert first.terms == ("u_t", "lap", "|grad|^2")
    assert first.coefficients == pytest.approx([HAMILTON_JACOBI[name] for name in first.terms], rel=0.25)


@pytest.mark.ranks(1, 2)
def test_ranking_and_what_it_refuses():
    """At one tenth of the noise on a coarse line; the same on each rank."""
    V = line(8, ends=(-2.0, 2.0))
    library = {k: t for k, t in library_on(V).items() if k in ("u_t", "lap", "u", "|grad|^2")}
    data, noise = scattered(viscous, [-2.0, 0.0], [2.0, 2.0], 0.05, 0, num=200)
    ranked = rank_by_bic(library, data, noise=noise, leading="u_t", tests=bumps(5, 5))
    assert ranked[0].terms == ("u_t", "lap", "|grad|^2") and len(ranked) == 6
    assert ranked[0].mean.shape == (26 * 17,)
    states = states_of(V, viscous, np.linspace(0.0, 2.0, 9))
    for words, more in (("leading", {"leading": "u_x"}), ("most", {"leading": "u_t", "most": 0})):
        error = raised_everywhere(BadInput, lambda m=more: rank_by_bic(library, data, noise=noise, **m))
        assert words in str(error)
    nothing = library | {"0": fem.Constant(V.mesh, 0.0) * library["u"]}
    error = raised_everywhere(BadInput, lambda: rank_by_bic(nothing, data, noise=noise, leading="0", most=1))
    assert "not zero" in str(error)
    error = raised_everywhere(BadInput, lambda: rank_by_bic(library, states, noise=noise, leading="u_t"))
    assert "scattered samples" in str(error)
