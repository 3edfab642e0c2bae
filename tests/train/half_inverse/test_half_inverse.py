"""HalfInverse against numpy's singular value decomposition, and what its step must not depend on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from half_inverse_cases import DTYPE, NETWORKS, by_hand, data, flat, mlp, squares, step_of

from relax import HalfInverse
from relax.train.half_inverse import by_matrix
from relax.train.half_inverse.band import BandReduction
from relax.train.half_inverse.spectrum import Symmetric

METHODS = ("gram", "svd", "krylov")
POWERS = (0.5, 1.0, -1.0, 0.2)


def error(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


# -- the formula -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS)
def test_one_step_is_the_formula(name, method):
    """All of these have a well-conditioned Jacobian: the methods differ by rounding."""
    make, shown = NETWORKS[name]
    if name == "attention" and method == "krylov":
        pytest.skip("torch differentiates its attention once on the CPU")
    x, target = data(5, 48, 3)
    for power in POWERS:
        torch.manual_seed(4)
        net = make()
        wanted = by_hand(net, x, squares(target), power=power)
        optimizer = HalfInverse(net.parameters(), lr=0.01, power=power, method=method)
        found = step_of(optimizer, net, x, squares(target))
        assert error(found, wanted) < 1e-9
        assert optimizer.report.by_layers == (shown or method == "krylov")


def ill_conditioned(seed=3):
    """Outputs of very different sizes, two of them the same, and a sample that is there twice."""
    x, target = data(6, 4, 4, seed)
    x[5], target[5] = x[1], target[1]
    scales = torch.tensor([1.0, 1e-1, 1e-2, 1e-2], dtype=DTYPE)
    mix = torch.eye(4, dtype=DTYPE)
    mix[2, 3] = 1.0
    mix[3, 3] = 0.0
    net = mlp(4, 9, 4)

    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return (self.net(x) @ mix) * scales

    return Scaled(), x, target * scales


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("rcond", [1e-5, 1e-3])
@pytest.mark.parametrize("method", ["gram", "svd", "krylov", "auto"])
def test_dependent_rows_and_a_cut(method, rcond, power):
    """J has 24 rows of rank 15. A singular value s is right to eps (s_max/s)^2 by the Gram matrix, eps s_max/s else."""
    net, x, target = ill_conditioned()
    wanted = by_hand(net, x, squares(target), power=power, rcond=rcond)
    optimizer = HalfInverse(net.parameters(), lr=0.01, power=power, rcond=rcond, method=method)
    found = step_of(optimizer, net, x, squares(target))
    s = optimizer.report.singular_values
    s = s[: optimizer.report.kept]
    # A Krylov space may be enough before it has all of them.
    assert (len(s) == 15 if rcond == 1e-5 else len(s) <= 15) or method == "krylov"
    assert error(found, wanted) < 100 * np.finfo(float).eps * (s[0] / s[-1]) ** (1 if method == "svd" else 2)


@pytest.mark.parametrize("power", [0.5, 1.0])
@pytest.mark.parametrize("rcond", [0.3, 0.1, 0.03, 0.01])
def test_a_cut_through_values_that_fall_smoothly(rcond, power):
    """Outputs of sizes from 1 down to 1e-4: wherever the edge lies there are values on both sides of it, near it."""
    x, target = data(6, 4, 6)
    scales = torch.logspace(0.0, -4.0, 6, dtype=DTYPE)
    for method in ("svd", "krylov"):
        net = mlp(4, 12, 6)
        whole = torch.nn.Sequential(net, Times(scales))
        wanted = by_hand(whole, x, squares(target), power=power, rcond=rcond)
        optimizer = HalfInverse(net.parameters(), lr=0.01, power=power, rcond=rcond, method=method)
        found = step_of(optimizer, whole, x, squares(target))
        assert error(found, wanted) < 1e-8
        s, kept = optimizer.report.singular_values, optimizer.report.kept
        assert 0 < kept < len(s) and s[kept] > 0.3 * s[kept - 1]


def test_a_small_rcond_takes_singular_values():
    """Squares of 1e-9 and 1 are 1e-18 and 1: nothing of the first is left in a Gram matrix."""
    x, target = data(3, 4, 2)
    scales = torch.tensor([1.0, 1e-9], dtype=DTYPE)
    errors = {}
    for method in ("gram", "auto"):
        net = mlp(4, 5, 2)
        whole = torch.nn.Sequential(net, Times(scales))
        wanted = by_hand(whole, x, squares(target), rcond=1e-11)
        optimizer = HalfInverse(net.parameters(), lr=0.01, rcond=1e-11, method=method)
        errors[method] = error(step_of(optimizer, whole, x, squares(target)), wanted)
        assert optimizer.report.method == ("svd" if method == "auto" else "gram")
        assert optimizer.report.kept == (6 if method == "auto" else 3)
    assert errors["auto"] < 1e-5 < 0.1 < errors["gram"]


class Times(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


@pytest.mark.parametrize("method", METHODS)
def test_damping(method):
    x, target = data(4, 4, 3)
    net = mlp(4, 9, 3)
    wanted = by_hand(net, x, squares(target), damping=0.1)
    optimizer = HalfInverse(net.parameters(), lr=0.01, damping=0.1, method=method)
    assert error(step_of(optimizer, net, x, squares(target)), wanted) < 1e-9


def test_single_precision():
    """Rows in float32 are right to 1e-7 of the largest singular value; all of these are above a hundredth of it."""
    x, target = data(4, 4, 3)
    net = mlp(4, 9, 3).float()
    wanted = by_hand(net, x.float(), squares(target.float()))
    for method in METHODS:
        net = mlp(4, 9, 3).float()
        optimizer = HalfInverse(net.parameters(), lr=1.0, method=method)
        # The weights themselves have 24 bits.
        assert error(step_of(optimizer, net, x.float(), squares(target.float())), wanted) < 1e-4
        assert optimizer.report.by_layers and next(net.parameters()).dtype == torch.float32


@pytest.mark.slow
def test_a_few_krylov_steps_are_a_regularised_step():
    """The more steps, the nearer; and the first is along the gradient."""
    x, target = data(16, 4, 4)
    errors = []
    for steps in (1, 10, 30, 64):
        net = mlp(4, 20, 4)
        wanted = by_hand(net, x, squares(target), rcond=1e-9)
        optimizer = HalfInverse(net.parameters(), lr=0.01, method="krylov", rcond=1e-9, krylov_steps=steps)
        found = step_of(optimizer, net, x, squares(target))
        errors.append(error(found, wanted))
        assert optimizer.report.iterations <= steps
        if steps == 1:
            gradient = by_hand(mlp(4, 20, 4), x, squares(target), power=-1.0)
            assert abs(found @ gradient) > (1.0 - 1e-12) * np.linalg.norm(found) * np.linalg.norm(gradient)
    assert errors[0] > errors[1] > errors[2] > 100 * errors[3]


# -- invariances -------------------------------------------------------------------------------------------------------


def one_step(net, x, loss, **settings):
    return step_of(HalfInverse(net.parameters(), lr=0.01, **settings), net, x, loss)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("power", POWERS)
def test_a_batch_k_times(method, power):
    """With a mean loss the step is multiplied by k^(-(1 + power)/2), with the sum by k^((1 - power)/2)."""
    x, target = data(4, 4, 3)
    k = 5
    again, targets = x.repeat(k, 1), target.repeat(k, 1)
    single = one_step(mlp(4, 9, 3), x, squares(target), power=power, method=method)
    summed = one_step(mlp(4, 9, 3), again, squares(targets), power=power, method=method)
    mean = one_step(mlp(4, 9, 3), again, lambda y: squares(targets)(y) / k, power=power, method=method)
    assert error(summed, k ** (0.5 * (1.0 - power)) * single) < 1e-9
    assert error(mean, k ** (-0.5 * (1.0 + power)) * single) < 1e-9
    settings = {"power": power, "method": method, "batch_invariant": True}
    assert error(
        one_step(mlp(4, 9, 3), again, lambda y: squares(targets)(y) / (4 * k), **settings),
        one_step(mlp(4, 9, 3), x, lambda y: squares(target)(y) / 4, **settings),
    ) < 1e-9  # fmt: skip


@pytest.mark.parametrize("power", POWERS)
def test_other_units_of_y(power):
    """c y and c target in the place of y and target: c^(1 - power) times the step."""
    x, target = data(4, 4, 3)
    for c in (-1.0, 7.0):
        found = one_step(torch.nn.Sequential(mlp(4, 9, 3), Times(c)), x, squares(c * target), power=power)
        wanted = abs(c) ** (1.0 - power) * one_step(mlp(4, 9, 3), x, squares(target), power=power)
        assert error(found, wanted) < 1e-9


def test_order_of_samples_and_of_outputs():
    x, target = data(6, 4, 3)
    wanted = one_step(mlp(4, 9, 3), x, squares(target))
    rows = torch.tensor([3, 1, 5, 0, 2, 4])
    assert error(one_step(mlp(4, 9, 3), x[rows], squares(target[rows])), wanted) < 1e-9
    net = mlp(4, 9, 3)
    mixed = torch.linalg.qr(torch.randn(3, 3, dtype=DTYPE))[0]
    found = one_step(torch.nn.Sequential(net, Mixed(mixed)), x, squares(target @ mixed))
    assert error(found, wanted) < 1e-9


class Mixed(torch.nn.Module):
    def __init__(self, matrix):
        super().__init__()
        self.matrix = matrix

    def forward(self, x):
        return x @ self.matrix


@pytest.mark.parametrize("method", METHODS)
def test_a_metric_is_a_change_of_outputs(method):
    """M = C Cᵀ: the step of outputs y Cᵀ... of the loss |C^T(y - target)|²/2, which is what M measures."""
    x, target = data(4, 4, 3)
    A = torch.randn(3, 3, dtype=DTYPE, generator=torch.Generator().manual_seed(1))
    for M in (A @ A.T + torch.eye(3, dtype=DTYPE), torch.tensor([0.5, 2.0, 3.0], dtype=DTYPE)):
        full = M if M.ndim == 2 else torch.diag(M)
        C = torch.linalg.cholesky(full)

        def measured(y, full=full):
            return 0.5 * torch.einsum("bi,ij,bj->", y - target, full, y - target)

        found = one_step(mlp(4, 9, 3), x, measured, metric=M, method=method)
        wanted = one_step(torch.nn.Sequential(mlp(4, 9, 3), Mixed(C)), x, squares(target @ C), method=method)
        assert error(found, wanted) < 1e-9


@pytest.mark.parametrize("method", ["gram", "svd", "krylov"])
@pytest.mark.parametrize("batch", [4, 40], ids=["fewer rows than columns", "more rows than columns"])
def test_a_step_points_down(batch, method):
    x, target = data(batch, 4, 3)
    for power in POWERS:
        net = mlp(4, 9, 3)
        # So short that its square does not count, where the least singular value is a thousandth, too.
        optimizer = HalfInverse(net.parameters(), lr=1e-8, power=power, measure=True, method=method)
        step_of(optimizer, net, x, squares(target))
        report = optimizer.report
        assert report.predicted > 0.0 and report.actual == pytest.approx(report.predicted, rel=1e-3)


# -- matrices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 200])
def test_functions_of_matrices(n):
    """Against numpy, with a null space and a cluster; and through a state that was saved."""
    random = np.random.default_rng(n)
    W = np.linalg.qr(random.standard_normal((n, n)))[0]
    x = np.linspace(0.0, 2.0, n) ** 2
    x[: n // 3] = 0.0
    x[n // 2 :] = x[n // 2]
    K, g = (W * x) @ W.T, random.standard_normal(n)
    for factor in (Symmetric(K.copy()), Symmetric.restored(Symmetric(K.copy()).state())):
        np.testing.assert_allclose(factor.eigenvalues, np.sort(x), atol=1e-13)
        found = factor.combination(np.cos(factor.eigenvalues) * factor.coordinates(g))
        np.testing.assert_allclose(found, (W * np.cos(x)) @ (W.T @ g), atol=1e-12)


@pytest.mark.parametrize("n", [65, 129, 300])
@pytest.mark.parametrize("a", [0.0, 0.1, 0.75, 1.0])
@pytest.mark.slow
def test_powers_by_a_band(n, a):
    """Against the eigenvectors that the matrix was made of; rounding grows by the condition, 1e6."""
    random = np.random.default_rng(n)
    W = np.linalg.qr(random.standard_normal((n, n)))[0]
    x, g = np.geomspace(1e-6, 3.0, n), random.standard_normal(n)
    K = (W * x) @ W.T
    band = BandReduction(K.copy())
    # Eigenvalues are right to rounding of the largest.
    np.testing.assert_allclose(band.eigenvalues, x, rtol=0, atol=1e-14 * 3.0 * n)
    for shift in (0.0, 1e-2):
        wanted = (W * (x + shift) ** -a) @ (W.T @ g)
        w, slope = band.power(a, shift, g)
        assert error(w, wanted) < (1e-9 if shift == 0.0 else 1e-11)
        assert slope == pytest.approx(wanted @ K @ g, rel=1e-10)


@pytest.mark.parametrize("rcond", [1e-5, 1e-2])
def test_a_large_gram_matrix_is_reduced_to_a_band(monkeypatch, rcond):
    """The same step, whether all singular values are kept or not, and the same spectrum."""
    x, target = data(30, 4, 3)
    reports, steps = [], []
    for many in (10**6, 20):
        monkeypatch.setattr(by_matrix, "_MANY", many)
        net = mlp(4, 60, 3)
        optimizer = HalfInverse(net.parameters(), lr=0.01, rcond=rcond, damping=1e-3)
        steps.append([step_of(optimizer, net, x, squares(target)) for _ in range(2)])
        reports.append(optimizer.report)
    assert (reports[0].kept == 90) == (rcond == 1e-5) and reports[0].kept == reports[1].kept
    np.testing.assert_allclose(steps[1], steps[0], rtol=0, atol=1e-7 * np.abs(steps[0]).max())
    assert reports[1].predicted == pytest.approx(reports[0].predicted, rel=1e-8)
    np.testing.assert_allclose(reports[1].singular_values, reports[0].singular_values, rtol=0, atol=1e-6)


def test_weights_move_by_exactly_lr_times_the_step():
    x, target = data(4, 4, 3)
    net = mlp(4, 9, 3)
    before = flat(net.parameters())
    wanted = by_hand(net, x, squares(target))
    step_of(HalfInverse(net.parameters(), lr=0.25), net, x, squares(target))
    np.testing.assert_allclose(flat(net.parameters()), before - 0.25 * wanted, rtol=0, atol=1e-13)
