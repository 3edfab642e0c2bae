"""What the noise of the optimisers samples: stationary laws on quadratics, gradients by quadrature.

Every entry of one large vector is a chain of its own, so that one step of the optimiser moves them all. Bounds are
three standard errors; with another noise constant each test of a variance fails, which is checked, too.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov

from relax.relaxation.optim import SGLD, EntropySGD, HeatSmoothing

CHAINS = 40_000


def entrywise(x, optimizer, f):
    """A closure of sum f(x_i)."""

    def closure():
        optimizer.zero_grad()
        loss = f(x).sum()
        loss.backward()
        return loss

    return closure


def run(make, f, steps, *, start=0.0, chains=CHAINS, dtype=torch.float64):
    """The chains after ``steps`` steps, as a numpy array."""
    x = torch.nn.Parameter(torch.full((chains,), start, dtype=dtype))
    optimizer = make([x])
    for _ in range(steps):
        optimizer.step(entrywise(x, optimizer, f))
    return x.detach().double().numpy()


def standard_errors_off(samples, variance):
    """By how many standard errors the variance of normal samples differs from ``variance``."""
    return abs(samples.var() / variance - 1.0) / math.sqrt(2.0 / len(samples))


def has_variance(samples, variance):
    """Within three standard errors; and a variance of half or twice as much would not be."""
    assert standard_errors_off(samples, variance) < 3.0
    assert min(standard_errors_off(samples, c * variance) for c in (0.5, 2.0)) > 5.0


# -- SGLD --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "exact"), [(torch.float64, False), (torch.float64, True), (torch.float32, False)], ids=str
)
def test_sgld_has_the_stationary_variance_of_its_step(dtype, exact):
    """1/(beta lambda (1 - lr lambda/2)): the bias of the step, 11 %, is seen, and it is not the noise constant's."""
    beta, curvature, lr = 2.0, 0.8, 0.25
    x = run(
        lambda p: SGLD(p, lr, beta=beta, seed=1, exact_noise=exact), lambda x: 0.5 * curvature * x**2, 50, dtype=dtype
    )
    has_variance(x, 1.0 / (beta * curvature * (1.0 - 0.5 * lr * curvature)))
    assert standard_errors_off(x, 1.0 / (beta * curvature)) > 5.0
    assert abs(x.mean()) < 3.0 * x.std() / math.sqrt(len(x))


def momentum_variance(curvature, lr, beta, momentum, nesterov):
    """Stationary variance of x under v <- m v + lambda x + c Z, x <- x - lr (v, or lambda x + c Z + m v)."""
    c = math.sqrt(2.0 * (1.0 - momentum) / (beta * lr))
    if nesterov:
        step = np.array([[1.0 - lr * (1.0 + momentum) * curvature, -lr * momentum**2], [curvature, momentum]])
        entry = np.array([-lr * (1.0 + momentum), 1.0]) * c
    else:
        step = np.array([[1.0 - lr * curvature, -lr * momentum], [curvature, momentum]])
        entry = np.array([-lr, 1.0]) * c
    return solve_discrete_lyapunov(step, np.outer(entry, entry))[0, 0]


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_keeps_the_temperature(nesterov):
    """The law of the pair (x, v) is exact, and its temperature is that of beta to first order in lr."""
    beta, curvature, lr, momentum = 2.0, 0.8, 0.1, 0.7
    x = run(
        lambda p: SGLD(p, lr, beta=beta, momentum=momentum, nesterov=nesterov, seed=2),
        lambda x: 0.5 * curvature * x**2,
        80,
    )
    has_variance(x, momentum_variance(curvature, lr, beta, momentum, nesterov))
    biases = [
        abs(beta * curvature * momentum_variance(curvature, step, beta, momentum, nesterov) - 1.0)
        for step in (0.01, 0.005, 0.0025)
    ]
    assert biases[0] < 0.02 and all(1.7 < a / b < 2.4 for a, b in zip(biases, biases[1:], strict=False))


# -- the inner loop of Entropy-SGD -------------------------------------------------------------------------------------


@pytest.mark.parametrize("averaging", [0.0, 0.75])
def test_entropy_sgd_chain_on_a_quadratic(averaging):
    """An autoregression around x/(1 + t lambda), and the running average of one: mean and variance of mu."""
    beta, curvature, t, lr, start = 2.0, 0.8, 0.5, 0.1, 1.5
    mu = run(
        lambda p: EntropySGD(p, t=t, beta=beta, inner_steps=60, inner_lr=lr, averaging=averaging, seed=3),
        lambda y: 0.5 * curvature * y**2,
        1,
        start=start,
    )
    stiffness = curvature + 1.0 / t
    phi = 1.0 - lr * stiffness
    of_the_average = (1.0 - averaging) / (1.0 + averaging) * (1.0 + averaging * phi) / (1.0 - averaging * phi)
    has_variance(mu, of_the_average / (beta * stiffness * (1.0 - 0.5 * lr * stiffness)))
    assert abs(mu.mean() - start / (1.0 + t * curvature)) < 3.0 * mu.std() / math.sqrt(len(mu))


BETA, T, X = 2.0, 0.5, -1.1


def rugged(x):
    return 0.3 * x**2 + 0.4 * torch.sin(3.0 * x)


def rugged_slope(x):
    return 0.6 * x + 1.2 * np.cos(3.0 * x)


GRID = np.linspace(-5.0, 3.0, 401)


def exact_gradient():
    """(X - E y)/T by quadrature: the integrand and its derivatives vanish at the ends of the grid."""
    energy = 0.3 * GRID**2 + 0.4 * np.sin(3.0 * GRID) + (GRID - X) ** 2 / (2.0 * T)
    weights = np.exp(-BETA * (energy - energy.min()))
    return (X - np.average(GRID, weights=weights)) / T


def gradient_of_the_step(lr, beta=BETA):
    """(X - E y)/T under the stationary law of the step of size ``lr`` itself: powers of its transition matrix."""
    drifted = GRID - lr * (rugged_slope(GRID) + (GRID - X) / T)
    transitions = np.exp(-beta * (GRID[None, :] - drifted[:, None]) ** 2 / (4.0 * lr))
    transitions /= transitions.sum(axis=1, keepdims=True)
    for _ in range(10):
        transitions = transitions @ transitions
    return (X - transitions[0] @ GRID) / T


def test_gradient_of_the_local_entropy_by_quadrature():
    """Inner steps of size eta' give grad u up to O(eta'): each as its transition matrix says, which tends to grad u."""
    exact = exact_gradient()
    errors = [gradient_of_the_step(lr) - exact for lr in (0.08, 0.04, 0.02)]
    assert all(1.8 < a / b < 2.3 for a, b in zip(errors, errors[1:], strict=False))
    for lr, steps in ((0.08, 60), (0.04, 120)):
        y = run(
            lambda p, lr=lr, steps=steps: EntropySGD(
                p, t=T, beta=BETA, inner_steps=steps, inner_lr=lr, averaging=0.0, seed=4
            ),
            rugged,
            1,
            start=X,
        )
        gradient, error = (X - y.mean()) / T, y.std() / T / math.sqrt(len(y))
        assert abs(gradient - gradient_of_the_step(lr)) < 3.0 * error
        # Noise sqrt(eta'/beta), or 2 sqrt(eta'/beta), would be another temperature.
        assert all(abs(gradient - gradient_of_the_step(lr, beta=c * BETA)) > 5.0 * error for c in (0.5, 2.0))


# -- heat --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("antithetic", [False, True])
def test_heat_gradient_of_a_wave(antithetic):
    """E d/dx cos k(x + sqrt(t/beta) Z) = -k sin(k x) exp(-k^2 t/(2 beta)), whatever the width: no small-t limit."""
    k, t, beta, x = 3.0, 0.4, 2.0, 0.3
    moved = run(
        lambda p: HeatSmoothing(p, 1.0, t=t, beta=beta, samples=4, antithetic=antithetic, seed=5),
        lambda x: torch.cos(k * x),
        1,
        start=x,
    )
    gradient = x - moved
    exact = -k * math.sin(k * x) * math.exp(-(k**2) * t / (2.0 * beta))
    error = gradient.std() / math.sqrt(len(gradient))
    assert abs(gradient.mean() - exact) < 3.0 * error
    wrong = [-k * math.sin(k * x) * math.exp(-(k**2) * c * t / (2.0 * beta)) for c in (0.5, 2.0)]
    assert min(abs(gradient.mean() - value) for value in wrong) > 5.0 * error
