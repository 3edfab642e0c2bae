"""Viscous Hamilton–Jacobi equations: orders in space and time, and values known to many digits."""

import numpy as np
import pytest
from landscapes import ROUTES, Cosine, errors, on_line, wells, whole_line
from unsteady import orders

from relax import meshes
from relax.pdes.hamilton_jacobi import viscous_evolution

PI = np.pi
COSINES = {1: Cosine(PI), 2: Cosine(PI, 2 * PI), 3: Cosine(PI, PI, PI, A=0.4)}
CUBES = {1: meshes.interval, 2: meshes.unit_square, 3: meshes.unit_cube}


def cosine_errors(n, dim, *, num_steps, f=None, **options):
    domain, f = CUBES[dim](n), f or COSINES[dim]
    given = {"beta": f.beta, "t": 0.1, "num_steps": num_steps, "stabilisation": False, **options}
    return errors(viscous_evolution(domain, f.ufl(domain, 0.0), **given), f.ufl(domain, given["t"]))


# -- space -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("dim", "degree", "sizes", "num_steps"),
    [(1, 1, (16, 32), 32), (1, 2, (8, 16), 64), (2, 1, (16, 32), 16), (2, 2, (8, 16), 64)],
)
def test_order_in_space(dim, degree, sizes, num_steps, route):
    """Crank–Nicolson, with steps of an error that is small beside that in space."""
    # Two waves across the plane are resolved too late for quadratic elements: one will do there.
    f = Cosine(PI, PI) if (dim, degree) == (2, 2) else None
    found = [cosine_errors(n, dim, degree=degree, num_steps=num_steps, route=route, f=f) for n in sizes]
    in_l2, in_h1 = zip(*found, strict=True)
    assert orders(in_l2) == pytest.approx(degree + 1, abs=0.1)
    assert orders(in_h1) == pytest.approx(degree, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("route", ROUTES)
def test_order_in_three_dimensions(route):
    """On a coarse mesh."""
    in_l2, in_h1 = zip(*(cosine_errors(n, 3, num_steps=4, route=route) for n in (4, 8)), strict=True)
    assert orders(in_l2) == pytest.approx(2.0, abs=0.3) and orders(in_h1) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(("dim", "n", "num_steps", "most"), [(1, 64, 64, 1e-4), (2, 32, 32, 8e-4)])
def test_errors_of_the_cosine(dim, n, num_steps, most, route):
    assert cosine_errors(n, dim, num_steps=num_steps, route=route)[0] < most


# -- time --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(("theta", "order"), [(1.0, 1.0), (0.5, 2.0), ("midpoint", 2.0)])
def test_order_in_time(theta, order, route):
    """64 quadratic elements: the error in space, 4e-7, is a tenth of the least in time."""
    found = [
        cosine_errors(64, 1, degree=2, num_steps=n, theta=theta, route=route)[0]
        for n in ((8, 16, 32) if order == 1 else (4, 8))
    ]
    assert orders(found)[-1] == pytest.approx(order, abs=0.1)


# -- numbers -----------------------------------------------------------------------------------------------------------

# f = 0.3 x² + 0.4 sin 3x on the whole line at t = 0.5, by 200 points: beta -> u(-1), u(0), u(0.5), u(1.5).
WELLS = {
    1.0: [0.2721677448, 0.0916135348, 0.2148739527, 0.5892192478],
    2.0: [0.1151287440, -0.0091448202, 0.2123028289, 0.4626188795],
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("beta", WELLS)
def test_five_digits(beta, route):
    """A domain 4.5 wider than the points: five times (t/beta)^½ = 0.7, and t times the largest slope."""
    domain = meshes.interval(240, (-6.0, 6.0))
    evolution = viscous_evolution(
        domain, wells, beta=beta, t=0.5, num_steps=160, degree=2, route=route, stabilisation=False
    )
    u, x = on_line(evolution)
    points = [-1.0, 0.0, 0.5, 1.5]
    found = u[[np.argmin(np.abs(x - p)) for p in points]]
    np.testing.assert_allclose(found, WELLS[beta], atol=5e-6)
    # The quadrature that other tests look at, too.
    np.testing.assert_allclose(whole_line(wells, points, 0.5, beta), WELLS[beta], atol=1e-9)
