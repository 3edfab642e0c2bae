"""relax.jax: value and derivatives of both orders against the map's own, under jit and vmap, in both precisions."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from contract import COMM, raised_everywhere

import relax
from relax import PointValues, ReducedMap, meshes, pdes
from relax.errors import BadInput


def make():
    problem = pdes.poisson.diffusion(meshes.unit_square(3))
    return ReducedMap(problem, PointValues(problem.state.function_space, [[0.3, 0.4], [0.6, 0.7]]))


@pytest.fixture
def jax():
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    yield jax
    jax.config.update("jax_enable_x64", False)


def test_value_and_derivatives(jax):
    G, rng = make(), np.random.default_rng(0)
    f = relax.jax.function(G)
    m, v = 0.3 * rng.standard_normal((2, 16))

    def loss(m):
        return jax.numpy.sum(jax.numpy.sin(20.0 * f(m)))

    with G.linearize(m) as lin:
        y, J = lin.value, lin.matrix()
        gradient = lin.vjp(20.0 * np.cos(20.0 * y))
        curved = lin.hvp(20.0 * np.cos(20.0 * y), v) + lin.vjp(-400.0 * np.sin(20.0 * y) * lin.jvp(v))
    close = {"rtol": 1e-10, "atol": 1e-14}
    for run in (lambda g: g, jax.jit):
        np.testing.assert_allclose(run(f)(m), y, **close)
        np.testing.assert_allclose(run(jax.grad(loss))(m), gradient, **close)
        np.testing.assert_allclose(run(jax.jacrev(f))(m), J, **close)
        np.testing.assert_allclose(run(jax.grad(lambda m: jax.grad(loss)(m) @ v))(m), curved, **close)
    samples = m + 0.1 * rng.standard_normal((3, 16))
    np.testing.assert_allclose(jax.vmap(f)(samples), G(samples), **close)
    np.testing.assert_allclose(jax.vmap(jax.grad(loss))(samples), [jax.grad(loss)(row) for row in samples], **close)
    # Calls that do not depend on each other, which JAX may make at once.
    many = jax.jit(lambda m: sum(f(i * m) for i in range(1, 9)))(m)
    np.testing.assert_allclose(many, G(np.arange(1.0, 9.0)[:, None] * m).sum(axis=0), **close)
    single = f(jax.numpy.asarray(m, "float32"))
    assert single.dtype == "float32"
    np.testing.assert_allclose(single, y, rtol=1e-5)


def test_what_jax_is_told(jax):
    f = relax.jax.function(make())
    for wrong in (np.zeros(15), np.zeros((2, 16)), np.zeros(16, dtype=int)):
        with pytest.raises(BadInput, match=r"floating point numbers of shape \(16,\), got"):
            f(wrong)
    for wrong, words in ((np.full(16, np.nan), "16 of 16 entries are NaN"), (np.full(16, 800.0), "linear solve")):
        with pytest.raises(jax.errors.JaxRuntimeError, match=words):
            f(wrong).block_until_ready()
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(f, (np.zeros(16),), (np.zeros(16),))


@pytest.mark.ranks(1, 2)
def test_what_is_refused():
    if find_spec("jax") is None:
        assert "pip install jax" in str(raised_everywhere(ImportError, lambda: relax.jax.function(make())))
    else:
        assert "expected a map" in str(raised_everywhere(BadInput, lambda: relax.jax.function("G")))
        if COMM.size > 1:
            assert "on one rank, got one on" in str(raised_everywhere(BadInput, lambda: relax.jax.function(make())))
