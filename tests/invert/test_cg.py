"""Conjugate gradients with a prior as preconditioner, against dense algebra."""

from __future__ import annotations

import numpy as np

from relax.invert.cg import conjugate_gradients


def matrices(n=15, seed=0):
    rng = np.random.default_rng(seed)
    B = rng.standard_normal((4, n))
    S = rng.standard_normal((n, n))
    return B.T @ B, S @ S.T + np.eye(n), rng.standard_normal(n)


def test_they_solve_and_track_the_precision():
    H, C, b = matrices()
    found = conjugate_gradients(lambda v: H @ v, lambda v: C @ v, b, C @ b, np.dot, rtol=1e-13, max_iterations=100)
    assert np.allclose(found.p, np.linalg.solve(H + np.linalg.inv(C), b))
    assert np.allclose(C @ found.precision_p, found.p)
    # H of rank 4 leaves five distinct eigenvalues of I + C^½ H C^½; one more for rounding.
    assert found.iterations <= 6 and not found.curved_down


def test_they_stop_at_negative_curvature():
    H, C, b = matrices()
    found = conjugate_gradients(lambda v: -H @ v, lambda v: C @ v, b, C @ b, np.dot, rtol=1e-13, max_iterations=100)
    assert found.curved_down and b @ found.p > 0.0
    assert np.allclose(C @ found.precision_p, found.p)


def test_they_obey_their_limit():
    H, C, b = matrices()
    found = conjugate_gradients(lambda v: H @ v, lambda v: C @ v, b, C @ b, np.dot, rtol=1e-13, max_iterations=2)
    assert found.iterations == 2 and b @ found.p > 0.0
