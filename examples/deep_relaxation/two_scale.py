"""Homogenisation: a fast variable that samples the Gibbs measure makes a slow one descend the relaxed landscape.

    dx = -(1/t) (x - y) ds,  dy = -(1/eps) [grad f(y) + (y - x)/t] ds + sqrt(2 / (eps beta)) dW.

As eps -> 0, x converges to the solution of dX/ds = -grad u(X, t), with u the viscous relaxation of f at time t: the
invariant density of y at fixed x is that of Gibbs, exp(-beta f(y) - beta |x - y|²/(2 t)), whose mean is x - t grad u.
The mean of x is away from X by O(eps), and x spreads around it by O(eps^½). With the noise sqrt(1 / (eps beta)) the
density of y would be that of 2 beta, and so would be the limit.

The limit is that of averaging (Pavliotis and Stuart, "Multiscale Methods", 2008); for Entropy-SGD: Chaudhari, Oberman,
Osher, Soatto and Carlier, "Deep Relaxation: partial differential equations for optimizing deep neural networks", 2017,
arXiv:1704.04932. Dimensionless.

Run: python3 examples/deep_relaxation/two_scale.py
"""

import numpy as np
from relax.relaxation import cole_hopf
from scipy.integrate import solve_ivp

BETA, T, START, DURATION = 2.0, 0.5, 2.2, 2.0
PATHS = 4096


def f(x):
    """A wavy bowl, (d, n) -> (n,)."""
    return 0.3 * x[0] ** 2 + 0.4 * np.sin(3.0 * x[0])


def slow_ends(eps, beta=BETA):
    """x(DURATION) of each path, by Heun's method of weak order 2 in steps of 0.05 eps."""
    steps = int(np.ceil(DURATION / (0.05 * eps)))
    ds = DURATION / steps
    rng = np.random.default_rng(5)

    def drift(state):
        x, y = state
        spring = (y - x) / T
        return np.stack([spring, -(0.6 * y + 1.2 * np.cos(3.0 * y) + spring) / eps])

    state = np.full((2, PATHS), START)
    kick = np.zeros_like(state)
    for _ in range(steps):
        kick[1] = np.sqrt(2.0 * ds / (eps * beta)) * rng.standard_normal(PATHS)
        here = drift(state)
        state = state + 0.5 * ds * (here + drift(state + ds * here + kick)) + kick
    return state[0]


def limit(beta):
    """X(DURATION)."""
    descent = solve_ivp(
        lambda _, x: -cole_hopf.gradient(f, x[None, :], T, beta=beta)[0],
        (0.0, DURATION),
        [START],
        rtol=1e-8,
        atol=1e-11,
    )
    return descent.y[0, -1]


X, other = limit(BETA), limit(2.0 * BETA)
print(f"limit X = {X:.5f}; that of 2 beta = {other:.5f}")
print(f"{'eps':>12} {'mean of x':>10} {'error':>8} {'(mean - X)/eps':>15} {'spread/eps^½':>13}")
means, errors = {}, {}
for eps in (0.1, 0.05, 0.025):
    ends = slow_ends(eps)
    spread = ends.std(ddof=1)
    means[eps], errors[eps] = ends.mean(), spread / np.sqrt(PATHS)
    away = means[eps] - X
    print(f"{eps:12g} {means[eps]:10.5f} {errors[eps]:8.5f} {away / eps:15.3f} {spread / eps**0.5:13.3f}")
    assert abs(away) < 3.0 * errors[eps] + 0.6 * eps
    assert abs(spread / eps**0.5 - 0.63) < 0.06
# To eps = 0 by a line: what is left is the noise of the sample, and O(eps²).
mean, error = 2.0 * means[0.025] - means[0.05], np.hypot(2.0 * errors[0.025], errors[0.05])
print(f"{'extrapolated':>12} {mean:10.5f} {error:8.5f}")
assert abs(mean - X) < 3.0 * error and abs(mean - other) > 10.0 * error

ends = slow_ends(0.05, 2.0 * BETA)
mean, error = ends.mean(), ends.std(ddof=1) / np.sqrt(PATHS)
print(f"with the noise sqrt(1 / (eps beta)), eps = 0.05: {mean:.5f}, error {error:.5f}")
assert abs(mean - X) > 3.0 * error + 0.6 * 0.05 and abs(mean - other) < 3.0 * error + 0.6 * 0.05
