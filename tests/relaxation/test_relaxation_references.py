"""References without a mesh: quadrature of the Cole–Hopf formula, closed forms, the Hopf–Lax envelope."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from relax.errors import BadInput
from relax.relaxation import cole_hopf, hopf_lax


def wavy(x):
    return 0.3 * x[0] ** 2 + 0.4 * np.sin(3.0 * x[0])


def wavy_gradient(points):
    return 0.6 * points + 1.2 * np.cos(3.0 * points)


# -- Cole–Hopf by quadrature -------------------------------------------------------------------------------------------

AT = [-1.0, 0.0, 0.5, 1.5]
TABLE = {
    1.0: [0.2721677448, 0.0916135348, 0.2148739527, 0.5892192478],
    2.0: [0.1151287440, -0.0091448202, 0.2123028289, 0.4626188795],
}


@pytest.mark.parametrize("rule", [cole_hopf.GaussHermite(200), cole_hopf.Trapezoidal(), cole_hopf.GaussHermite()])
@pytest.mark.parametrize("beta", TABLE)
def test_values_of_the_table(rule, beta):
    u = cole_hopf.value(wavy, AT, 0.5, beta=beta, rule=rule)
    assert np.abs(u - TABLE[beta]).max() < 1e-10


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_derivatives_are_those_of_the_value(dim):
    def f(x):
        return 0.4 * np.sum(x**2, axis=0) + np.sin(x[0] + 2.0 * x[dim - 1])

    x = np.random.default_rng(3).uniform(-1.0, 1.0, (3, dim))
    found = cole_hopf.gibbs(f, x, 0.3, beta=2.0)
    h = 1e-4
    for i, step in enumerate(h * np.eye(dim)):
        plus, minus = (cole_hopf.gibbs(f, x + sign * step, 0.3, beta=2.0) for sign in (1.0, -1.0))
        # Central differences: h² times third derivatives of order 10, beside rounding over h.
        assert np.abs((plus.value - minus.value) / (2 * h) - found.gradient[:, i]).max() < 1e-6
        assert np.abs((plus.gradient - minus.gradient) / (2 * h) - found.hessian[:, i]).max() < 1e-6
    # The gradient is the mean of grad f, and (x - E y)/t.
    assert np.allclose(found.gradient, (x - found.mean) / 0.3, atol=1e-12)
    assert np.linalg.eigvalsh(found.hessian).max() <= 1.0 / 0.3
    assert np.allclose(cole_hopf.gradient(f, x, 0.3, beta=2.0), found.gradient)
    assert np.allclose(cole_hopf.hessian(f, x, 0.3, beta=2.0), found.hessian)


def test_gradient_is_the_mean_of_gradients_and_the_density_has_mass_one():
    beta, t = 2.0, 0.5
    y = np.linspace(-8.0, 8.0, 4001)
    rho = cole_hopf.density(wavy, AT, y, t, beta=beta)
    width = y[1] - y[0]
    assert np.abs(rho.sum(axis=1) * width - 1.0).max() < 1e-12
    found = cole_hopf.gibbs(wavy, AT, t, beta=beta)
    assert np.abs(rho @ wavy_gradient(y) * width - found.gradient[:, 0]).max() < 1e-10
    assert np.abs(rho @ y * width - found.mean[:, 0]).max() < 1e-10
    # Gibbs' variational principle: u = E f + KL(rho | normal)/beta.
    log_normal = -beta * (np.array(AT)[:, None] - y) ** 2 / (2 * t) - 0.5 * np.log(2 * np.pi * t / beta)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = np.where(rho > 0.0, rho * (np.log(rho) - log_normal), 0.0)
    assert np.abs((rho @ wavy(y[None]) + entropy.sum(axis=1) / beta) * width - found.value).max() < 1e-12


def test_heat_smoothing_lies_above_and_is_exact_for_a_sine():
    x = np.linspace(-2.0, 2.0, 9)
    smooth = cole_hopf.heat(lambda x: np.sin(3.0 * x[0]), x, 0.4, beta=2.0)
    assert np.abs(smooth - np.exp(-9.0 * 0.2 / 2.0) * np.sin(3.0 * x)).max() < 1e-12
    assert (cole_hopf.heat(wavy, x, 0.4, beta=2.0) > cole_hopf.value(wavy, x, 0.4, beta=2.0)).all()


def test_the_trapezoidal_rule_is_for_rugged_landscapes_and_tells_where_it_is_not_enough():
    def rugged(x):
        return 0.05 * x[0] ** 2 + 0.5 * (1.0 - np.cos(25.0 * x[0]))

    x = [0.3, 1.0]
    fine = cole_hopf.value(rugged, x, 2.0, beta=40.0, rule=cole_hopf.Trapezoidal(40000))
    assert np.abs(cole_hopf.value(rugged, x, 2.0, beta=40.0, rule=cole_hopf.Trapezoidal()) - fine).max() < 1e-9
    assert np.abs(cole_hopf.value(rugged, x, 2.0, beta=40.0) - fine).max() > 1e-4
    with pytest.raises(BadInput, match="Try more intervals than 40"):
        cole_hopf.value(rugged, x, 2.0, beta=40.0, rule=cole_hopf.Trapezoidal(40))
    with pytest.raises(BadInput, match="larger width"):
        cole_hopf.value(lambda x: 30.0 * x[0], x, 2.0, beta=4.0, rule=cole_hopf.Trapezoidal())


def test_values_at_time_0_and_large_betas_do_not_overflow():
    assert np.allclose(cole_hopf.value(wavy, AT, 0, beta=1.0), wavy(np.array([AT])))
    assert np.isfinite(cole_hopf.value(lambda x: 1e4 * x[0] ** 2, AT, 0.1, beta=1e3)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cole_hopf.gibbs(wavy, AT, 0.0, beta=1.0), "t: expected a finite number above 0"),
        (lambda: cole_hopf.gibbs(wavy, AT, 0.1, beta=np.inf), "beta: expected a finite number above 0"),
        (lambda: cole_hopf.value(lambda x: x, np.zeros((2, 3)), 0.1, beta=1.0), "expected values of shape"),
        (lambda: cole_hopf.value(wavy, np.zeros((2, 4)), 0.1, beta=1.0), "dimension 1 to 3"),
        (lambda: cole_hopf.value(wavy, [np.nan], 0.1, beta=1.0), "finite coordinates"),
        (lambda: cole_hopf.value(lambda x: x[0] / 0.0 * np.inf, [1.0], 0.1, beta=1.0), "finite values"),
        (lambda: cole_hopf.density(wavy, AT, np.zeros((2, 2)), 0.1, beta=1.0), "dimension 1"),
        (lambda: cole_hopf.value(wavy, AT, 0.1, beta=1.0, rule=cole_hopf.Trapezoidal(7)), "even"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_mistakes(call, message):
    with pytest.raises(BadInput, match=message):
        call()


# -- closed forms ------------------------------------------------------------------------------------------------------

FORMS = {
    "affine": (cole_hopf.affine([0.7, -0.4], 0.3), 2, 1.7),
    "quadratic": (cole_hopf.quadratic(1.3, beta=1.7, dim=2), 2, 1.7),
    "concave quadratic": (cole_hopf.quadratic(-0.8, beta=1.7), 1, 1.7),
    "cosine": (cole_hopf.cosine([np.pi, 2 * np.pi], beta=1.7, amplitude=0.8), 2, 1.7),
    "cosine in three": (cole_hopf.cosine([np.pi, np.pi, 2 * np.pi], beta=1.7, amplitude=-0.5), 3, 1.7),
    "convex kink": (cole_hopf.kink(1.2, beta=1.7), 1, 1.7),
    "concave kink": (cole_hopf.kink(-1.2, beta=1.7), 1, 1.7),
}
# Every second node of a rule that meets a kink sees another value: with errors of order h².
RULES = {1: cole_hopf.Trapezoidal(40000, tolerance=1e-5), 2: cole_hopf.Trapezoidal(200), 3: cole_hopf.Trapezoidal(60)}


@pytest.mark.parametrize("name", FORMS)
def test_closed_forms_agree_with_quadrature(name):
    form, dim, beta = FORMS[name]
    x = np.random.default_rng(1).uniform(-1.0, 1.0, (4, dim))
    found = cole_hopf.gibbs(form.f, x, 0.3, beta=beta, rule=RULES[dim])
    tolerance = 2e-8 if "kink" in name else 1e-12
    assert np.abs(form.u(x.T, 0.3) - found.value).max() < tolerance
    assert np.abs(form.gradient(x.T, 0.3) - found.gradient).max() < 10 * tolerance
    assert np.allclose(form.u(x.T, 0.0), form.f(x.T), atol=1e-15)


def test_cosine_has_the_values_of_the_table():
    line = cole_hopf.cosine(np.pi, beta=2.0, amplitude=0.8)
    assert np.allclose(line.u(np.array([[0.0, 0.5, 1.0]]), 0.1), [-0.242776979493, 0.0, 0.490514615754], atol=1e-12)
    square = cole_hopf.cosine([np.pi, 2 * np.pi], beta=2.0, amplitude=0.8)
    x = np.array([[0.0, 1.0, 0.25], [0.0, 0.0, 0.25]])
    assert np.allclose(square.u(x, 0.1), [-0.104713087036, 0.132614908393, 0.0], atol=1e-12)


def test_the_inviscid_limit_of_a_convex_quartic():
    """beta (u_beta - u_HopfLax) -> ½ log(1 + t f''(y*)), the deviation falling as 1/beta."""

    def f(x):
        return x[0] ** 4 / 4.0 + x[0] ** 2 / 2.0

    t = 0.5
    x = np.linspace(-1.5, 1.5, 7)
    limit = hopf_lax(f, x, t, gradient=lambda p: p**3 + p)
    expected = cole_hopf.inviscid_correction((3.0 * limit.minimiser**2 + 1.0)[:, :, None], t)
    away = []
    for beta in (10.0, 40.0, 160.0):
        u = cole_hopf.value(f, x, t, beta=beta, rule=cole_hopf.Trapezoidal(width=30.0))
        assert (u > limit.value).all()
        away.append(np.abs(beta * (u - limit.value) - expected).max())
    assert away[0] < 3e-2
    assert away[0] / away[1] == pytest.approx(4.0, rel=0.15)
    assert away[1] / away[2] == pytest.approx(4.0, rel=0.05)


def test_kinks_in_the_inviscid_limit():
    x = np.linspace(-2.0, 2.0, 41)
    huber, concave = cole_hopf.kink(1.0, beta=np.inf), cole_hopf.kink(-1.0, beta=np.inf)
    assert np.allclose(hopf_lax(huber.f, x, 0.7).value, huber.u(x[None], 0.7), atol=1e-12)
    assert np.allclose(hopf_lax(concave.f, x, 0.7).value, concave.u(x[None], 0.7), atol=1e-12)
    beta, t = 50.0, 0.7
    assert np.abs(cole_hopf.kink(1.0, beta=beta).u(x[None], t) - huber.u(x[None], t)).max() < 0.55 * np.log(beta) / beta
    # -|x| at 0: -t/2 - log(2 Phi(sqrt(beta t)))/beta.
    at_0 = cole_hopf.kink(-1.0, beta=beta).u(np.zeros((1, 1)), t)[0]
    assert at_0 == pytest.approx(-t / 2 - np.log(2.0) / beta, abs=1e-8)


def test_closed_forms_of_control_have_the_numbers_of_the_note():
    form = cole_hopf.ControlledQuadratic(1.3, 2.0)
    plain, guided, cost = (
        a[0] for a in (form.expected(1.7, 0.8), form.expected_controlled(1.7, 0.8), form.cost(1.7, 0.8))
    )
    assert [plain, guided, cost] == pytest.approx([0.34406513, 0.18965549, 0.06432961], abs=1e-8)
    assert plain - guided - cost == pytest.approx(0.09008002, abs=1e-8)
    # u = -(1/beta) log E exp(-beta V) over the uncontrolled paths, which are normal.
    e = np.exp(-2 * 1.3 * 0.8)
    mean, variance = 1.7 * np.sqrt(e), (1 - e) / (2 * 1.3 * 2.0)
    y = np.linspace(-8.0, 8.0, 20001)
    weight = np.exp(-((y - mean) ** 2) / (2 * variance) - 2.0 * 0.65 * y**2).sum() * (y[1] - y[0])
    assert form.value(1.7, 0.8)[0] == pytest.approx(-0.5 * np.log(weight / np.sqrt(2 * np.pi * variance)), abs=1e-12)


def test_closed_forms_refuse_what_has_none():
    with pytest.raises(BadInput, match="blows up"):
        cole_hopf.quadratic(-1.0, beta=1.0).u(np.zeros((1, 1)), 1.5)
    with pytest.raises(BadInput, match="amplitude"):
        cole_hopf.cosine(np.pi, beta=1.0, amplitude=1.0)
    with pytest.raises(BadInput, match="positive"):
        cole_hopf.inviscid_correction([[[-3.0]]], 1.0)


# -- Hopf–Lax ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(60,), (15, 17), (7, 8, 9)])
def test_envelopes_on_grids_are_exact(shape):
    """Against the minimum over all pairs of nodes, on axes with uneven steps."""
    rng = np.random.default_rng(0)
    f, t = rng.normal(size=shape), 0.13
    axes = [np.sort(rng.uniform(-1.0, 1.0, n)) + 5.0 for n in shape]
    found = hopf_lax(f, axes, t)
    nodes = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(shape))
    every = f.ravel() + np.sum((nodes[:, None] - nodes[None]) ** 2, axis=2) / (2 * t)
    assert np.abs(found.value.ravel() - every.min(axis=1)).max() < 1e-13
    minimiser = nodes[every.argmin(axis=1)]
    assert np.array_equal(found.minimiser.reshape(minimiser.shape), minimiser)
    assert np.allclose(found.gradient.reshape(minimiser.shape), (nodes - minimiser) / t)


def test_a_line_takes_one_axis_and_ties_are_no_trouble():
    x = np.linspace(-1.0, 1.0, 11)
    found = hopf_lax(np.abs(x).tolist(), x, 0.5)
    assert found.value.shape == (11,) and found.minimiser.shape == (11, 1)
    assert np.allclose(hopf_lax(np.zeros(11), x, 0.5).value, 0.0)
    assert np.allclose(hopf_lax(x, x, 0.5).minimiser[:, 0], np.maximum(x - 0.5, -1.0), atol=0.11)
    assert hopf_lax([3.0], [np.array([1.0])], 0.5).value[0] == 3.0


def test_minima_and_minimisers_stay():
    """The least value and its place are those of f at any t: beta = infinity does not prefer wide wells."""
    x = np.linspace(-4.0, 4.0, 801)
    f = wavy(x[None])
    for t in (0.1, 1.0, 10.0):
        u = hopf_lax(f, x, t).value
        assert u.min() == f.min() and u.argmin() == f.argmin()
        assert (u <= f).all()


def test_points_agree_with_a_fine_grid():
    x, t = np.linspace(-3.0, 3.0, 41), 1.0
    y = np.linspace(-6.0, 6.0, 200001)
    brute = np.array([(wavy(y[None]) + (y - p) ** 2 / (2 * t)).min() for p in x])
    for found in (
        hopf_lax(wavy, x, t),
        hopf_lax(wavy, x, t, gradient=wavy_gradient),
        hopf_lax(wavy, x, t, box=[-6, 6]),
    ):
        # The brute minimum is too large by at most (h²/8) (f'' + 1/t) = 2e-9.
        assert np.abs(found.value - brute).max() < 4e-9 and (found.value <= brute + 1e-12).all()
    exact = hopf_lax(wavy, x, t, gradient=wavy_gradient)
    assert np.abs(exact.gradient - wavy_gradient(exact.minimiser)).max() < 1e-12
    assert np.abs(hopf_lax(wavy, x, t).minimiser - exact.minimiser).max() < 1e-7


@pytest.mark.parametrize("dim", [2, 3])
def test_points_in_more_dimensions(dim):
    """Against BFGS from many starts."""

    def f(x):
        return x[0] ** 2 + 3.0 * (x[1] - x[0] ** 2) ** 2 + np.sin(5.0 * x[dim - 1]) + 0.2 * x[dim - 1] ** 2

    rng = np.random.default_rng(5)
    points, t = rng.uniform(-1.0, 1.0, (5, dim)), 0.5
    found = hopf_lax(f, points, t)
    for point, value in zip(points, found.value, strict=True):
        starts = rng.uniform(-2.0, 2.0, (10, dim))
        best = min(minimize(lambda y, p=point: f(y) + np.sum((y - p) ** 2) / (2 * t), s).fun for s in starts)
        assert value == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hopf_lax(wavy, [0.0], 0.0), "t: expected"),
        (lambda: hopf_lax(np.zeros(4), np.arange(5.0), 1.0), "shape of their axes"),
        (lambda: hopf_lax(np.zeros(3), np.array([0.0, 2.0, 1.0]), 1.0), "increasing"),
        (lambda: hopf_lax(np.array([0.0, np.nan]), np.array([0.0, 1.0]), 1.0), "finite values"),
        (lambda: hopf_lax(np.zeros(3), np.arange(3.0), 1.0, num=5), "values on a grid take none"),
        (lambda: hopf_lax(wavy, [0.0], 1.0, box=[1.0, -1.0]), "box"),
        (lambda: hopf_lax(wavy, np.zeros((1, 4)), 1.0), "dimension 1 to 3"),
        (lambda: hopf_lax(wavy, [0.0], 1.0, num=2), "num"),
        (lambda: hopf_lax(wavy, [0.0], 1.0, gradient=lambda p: p[0]), "gradient"),
    ],
)
def test_mistakes_of_hopf_lax(call, message):
    with pytest.raises(BadInput, match=message):
        call()
    assert hopf_lax(wavy, np.empty((0, 1)), 1.0).value.shape == (0,)
