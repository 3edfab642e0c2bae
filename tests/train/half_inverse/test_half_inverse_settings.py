"""HalfInverse as a torch optimiser: the contract, settings, closures that make no sense."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import scipy.sparse
import torch
from half_inverse_cases import DTYPE, by_hand, data, flat, mlp, squares, step_of
from optim_common import CENTRE, CURVATURES, CommonContract, Trainer, equal, parameter

from relax import HalfInverse
from relax.errors import BadInput, NotConverged


def quadratic(x, optimizer, curvatures=CURVATURES, centre=CENTRE):
    """A closure of f = 1/2 sum lambda (x - c)^2 with y = sqrt(lambda) (x - c) as one sample of as many outputs."""

    def closure():
        y = (curvatures.to(x.dtype).sqrt() * (x - centre.to(x.dtype)))[None]
        return y, 0.5 * (y**2).sum()

    return closure


class PairTrainer(Trainer):
    """Closures that return (y, loss)."""

    def closure(self):
        self.calls += 1
        rows = torch.randint(32, (8,), generator=self.picks)
        y = self.model(self.inputs[rows])
        return y, torch.nn.functional.mse_loss(y, self.targets[rows])

    @staticmethod
    def spoiled(result):
        return result[0], result[1] * np.nan

    @staticmethod
    def loss(result):
        return result[1].detach()


class TestHalfInverse(CommonContract):
    make = staticmethod(lambda params, **options: HalfInverse(params, **{"lr": 0.7, "rcond": 1e-4, **options}))
    trainer = PairTrainer
    quadratic = staticmethod(quadratic)
    no_closure = r"expected a closure that returns \(y, loss\), got None"
    no_loss = r"expected a closure that returns \(y, loss\), got NoneType"
    foreign = "expected the state of a HalfInverse"

    def test_groups_have_learning_rates_of_their_own(self):
        """They share one Jacobian."""
        wanted, net, x, target = setting()
        first, second = list(net[0].parameters()), list(net[2].parameters())
        optimizer = HalfInverse([{"params": first, "lr": 0.02}, {"params": second}], lr=0.01)
        before = flat(net.parameters())
        optimizer.step(closure_of(net, x, target))
        n = sum(p.numel() for p in first)
        rates = np.where(np.arange(len(before)) < n, 0.02, 0.01)
        np.testing.assert_allclose(before - flat(net.parameters()), rates * wanted, atol=1e-14)
        with pytest.raises(BadInput, match="one power for all groups"):
            optimizer.add_param_group({"params": [parameter([1.0])], "power": 1.0})

    def test_frozen_and_unused_parameters_stay(self):
        wanted, net, x, target = setting()
        unused, frozen = parameter([3.0]), parameter([2.0])
        frozen.requires_grad_(False)
        optimizer = HalfInverse([frozen, *net.parameters(), unused], lr=0.01)
        before = flat(net.parameters())
        optimizer.step(closure_of(net, x, target))
        np.testing.assert_allclose(before - flat(net.parameters()), 0.01 * wanted, atol=1e-14)
        assert unused.item() == 3.0 and frozen.item() == 2.0

    def test_gradients_are_left_alone(self):
        _, net, x, target = setting()
        HalfInverse(net.parameters()).step(closure_of(net, x, target))
        assert all(p.grad is None for p in net.parameters())


def setting():
    x, target = data(4, 4, 3)
    net = mlp(4, 9, 3)
    return by_hand(net, x, squares(target)), net, x, target


def closure_of(net, x, target):
    def closure():
        y = net(x)
        return y, squares(target)(y)

    return closure


# -- closures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (lambda y: (y, (y**2).sum(), 1), r"returns \(y, loss\), got tuple"),
        (lambda y: (y, float((y.detach() ** 2).sum())), "expected tensors"),
        (lambda y: (y[0], (y**2).sum()), r"shape \(batch, outputs\), got \(3,\)"),
        (lambda y: (y[:0], (y**2).sum()), r"expected samples, got outputs of shape \(0, 3\)"),
        (lambda y: (y.detach(), (y**2).sum()), "with a graph back to the parameters"),
        (lambda y: (torch.complex(y, y), (y**2).sum()), "real outputs"),
        (lambda y: (y, (y**2).sum(0)), r"scalar loss, got shape \(3,\)"),
        (lambda y: (y, (y**2).sum().detach()), "without a graph"),
        (lambda y: (y.reshape(3, 4), (y**2).sum()), "does not depend on it; return the very tensor"),
        (lambda y: (y.retain_grad() or y, (y**2).sum()), "without retain_grad"),
    ],
)
def test_closures_that_make_no_sense(outcome, words):
    _, net, x, _ = setting()
    before = flat(net.parameters())
    with pytest.raises(BadInput, match=words):
        HalfInverse(net.parameters()).step(lambda: outcome(net(x)))
    assert np.array_equal(flat(net.parameters()), before)


def test_derivatives_that_are_not_finite():
    """sqrt has an infinite slope at 0, while outputs and loss are numbers."""
    x = parameter([0.0, 1.0])

    def closure():
        y = x.sqrt()[None]
        return y, ((y - 1.0) ** 2).sum()

    optimizer = HalfInverse([x])
    for method in ("gram", "svd", "krylov"):
        optimizer.method = method
        with pytest.raises(NotConverged, match="not finite"):
            optimizer.step(closure)
        assert x.tolist() == [0.0, 1.0]


def test_a_loss_at_its_minimum_moves_nothing():
    _, net, x, _ = setting()
    target = net(x).detach()
    before = flat(net.parameters())
    optimizer = HalfInverse(net.parameters())
    assert float(optimizer.step(closure_of(net, x, target))) == 0.0
    assert np.array_equal(flat(net.parameters()), before) and optimizer.report.predicted == 0.0


def test_outputs_that_do_not_depend_on_the_parameters():
    """All singular values are zero: nothing to be done, and nothing divided by it."""
    x = parameter([1.0, 2.0])

    def closure():
        y = 0.0 * x[None] + 1.0
        return y, (y**2).sum()

    for method in ("gram", "svd", "krylov"):
        optimizer = HalfInverse([x], method=method)
        optimizer.step(closure)
        assert x.tolist() == [1.0, 2.0] and optimizer.report.kept == 0


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lr": -1.0}, "lr: expected .*, got -1.0"),
        ({"lr": "fast"}, "lr: expected .*, got 'fast'"),
        ({"power": 1.5}, "power: expected a number from -1 to 1"),
        ({"rcond": 1.0}, "rcond: expected"),
        ({"damping": -0.1}, "damping: expected"),
        ({"cap": 0.0}, "cap: expected"),
        ({"method": "grem"}, "method: expected 'auto', .* or 'krylov', got 'grem'; did you mean 'gram'"),
        ({"krylov_steps": 0}, "krylov_steps: expected"),
        ({"sub_batches": 1.5}, "sub_batches: expected"),
        ({"sub_batches": 2, "keep_factor": 2}, "keep_factor=1 with sub_batches"),
    ],
)
def test_settings_out_of_range(settings, words):
    with pytest.raises(BadInput, match=words):
        HalfInverse([parameter([1.0])], **settings)


def test_complex_parameters_are_refused():
    with pytest.raises(BadInput, match="expected real parameters"):
        HalfInverse([torch.nn.Parameter(torch.zeros(2, dtype=torch.complex128))])
    optimizer = HalfInverse([parameter([1.0])])
    with pytest.raises(BadInput, match="expected real parameters"):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(2, dtype=torch.complex128))]})
    assert len(optimizer.param_groups) == 1


def test_settings_that_are_changed_are_looked_at():
    _, net, x, target = setting()
    optimizer = HalfInverse([{"params": [p]} for p in net.parameters()])
    before = flat(net.parameters())

    def refused(words):
        with pytest.raises(BadInput, match=words):
            optimizer.step(closure_of(net, x, target))

    optimizer.method = "qr"
    refused("got 'qr'")
    saved = optimizer.state_dict()
    optimizer.method = "gram"
    with pytest.raises(BadInput, match="got 'qr'"):
        optimizer.load_state_dict(saved)
    optimizer.param_groups[1]["power"] = 1.0
    refused("one power for all groups")
    optimizer.param_groups[1]["power"] = 0.5
    optimizer.param_groups[0]["lr"] = -1.0
    refused("lr: expected .*, got -1.0")
    assert np.array_equal(flat(net.parameters()), before)


@pytest.mark.parametrize(
    "metric", [torch.eye(2), torch.tensor([1.0, 0.0, 1.0]), torch.ones(3, 3), [np.inf, 1.0, 1.0]], ids=str
)
def test_metrics_that_are_none(metric):
    _, net, x, target = setting()
    with pytest.raises(BadInput, match="symmetric positive definite"):
        HalfInverse(net.parameters(), metric=metric).step(closure_of(net, x, target))


def test_a_metric_that_is_sparse_or_none_at_all():
    _, net, x, target = setting()
    M = np.array([[2.0, 0.5, 0.0], [0.5, 2.0, 0.5], [0.0, 0.5, 2.0]])
    found = []
    for metric in (M, scipy.sparse.csr_matrix(M)):
        own = copy.deepcopy(net)
        found.append(step_of(HalfInverse(own.parameters(), lr=0.01, metric=metric), own, x, squares(target)))
    assert np.array_equal(*found)
    with pytest.raises(BadInput, match="metric made of numbers, got str"):
        HalfInverse(net.parameters(), metric="mass")


def test_sub_batches_leave_out_what_they_share():
    """By hand: a step of each part of the batch alone, all from the same weights."""
    x, target = data(7, 4, 3)
    net = mlp(4, 9, 3)
    # Three runs of seven samples: 2, 3, 2.
    wanted = sum(by_hand(net, x[s], squares(target[s])) for s in (slice(0, 2), slice(2, 5), slice(5, 7)))
    optimizer = HalfInverse(net.parameters(), lr=0.01, sub_batches=3)
    found = step_of(optimizer, net, x, squares(target))
    np.testing.assert_allclose(found, wanted, atol=1e-9)
    assert optimizer.report.kept == 21 and len(optimizer.report.singular_values) == 21


def test_a_factor_that_is_kept():
    """The second of two steps has the weights' new Jacobian and the old eigenvalues; the third is new again."""
    x, target = data(4, 4, 3)
    net, plain = mlp(4, 9, 3), mlp(4, 9, 3)
    lazy, usual = HalfInverse(net.parameters(), lr=0.02, keep_factor=2), HalfInverse(plain.parameters(), lr=0.02)
    spectra = []
    for _ in range(3):
        for optimizer, model in ((lazy, net), (usual, plain)):
            optimizer.step(closure_of(model, x, target))
        spectra.append((lazy.report.singular_values, usual.report.singular_values))
    assert np.array_equal(*spectra[0]) and np.array_equal(spectra[1][0], spectra[0][0])
    assert not np.array_equal(*spectra[1]) and not np.array_equal(spectra[2][0], spectra[1][0])
    assert lazy.report.loss == pytest.approx(usual.report.loss, rel=0.01)


def test_a_factor_that_is_too_old():
    """Large steps change the Jacobian: the factor of the step before is not used, whatever was asked for."""
    x, target = data(4, 4, 3)
    net, plain = mlp(4, 9, 3), mlp(4, 9, 3)
    lazy, usual = HalfInverse(net.parameters(), lr=0.5, keep_factor=100), HalfInverse(plain.parameters(), lr=0.5)
    for _ in range(2):
        for optimizer, model in ((lazy, net), (usual, plain)):
            optimizer.step(closure_of(model, x, target))
    assert equal(list(net.parameters()), list(plain.parameters()))


def test_a_kept_factor_is_part_of_the_state():
    x, target = data(4, 4, 3)
    net = mlp(4, 9, 3)
    optimizer = HalfInverse(net.parameters(), lr=0.02, keep_factor=3)
    optimizer.step(closure_of(net, x, target))
    other = mlp(4, 9, 3)
    other.load_state_dict(net.state_dict())
    resumed = HalfInverse(other.parameters(), lr=0.02, keep_factor=3)
    resumed.load_state_dict(optimizer.state_dict())
    for _ in range(3):
        optimizer.step(closure_of(net, x, target))
        resumed.step(closure_of(other, x, target))
    assert equal(list(net.parameters()), list(other.parameters()))


def test_what_was_found_out_about_a_batch_is_part_of_the_state():
    """Samples knew of each other while the normalisation was trained: rows of this size go by sweeps from then on."""
    x, target = data(6, 4, 3)
    torch.manual_seed(1)
    net = torch.nn.Sequential(mlp(4, 6), torch.nn.BatchNorm1d(6), torch.nn.Tanh(), torch.nn.Linear(6, 3)).to(DTYPE)
    optimizer = HalfInverse(net.parameters(), lr=0.02, keep_factor=np.int64(1))
    optimizer.step(closure_of(net, x, target))
    net.eval()
    other = copy.deepcopy(net)
    saved = io.BytesIO()
    torch.save(optimizer.state_dict(), saved)
    saved.seek(0)
    resumed = HalfInverse(other.parameters())
    resumed.load_state_dict(torch.load(saved))
    for _ in range(3):
        optimizer.step(closure_of(net, x, target))
        resumed.step(closure_of(other, x, target))
        assert not optimizer.report.by_layers and not resumed.report.by_layers
    assert equal(list(net.parameters()), list(other.parameters()))


@pytest.mark.parametrize("power", [0.5, -1.0])
def test_the_cap_is_the_bound_of_linear_stability(power):
    """For the loss of curvature 3 |y|²/2 the bound is 2/(3 s_max^(1 - power)); a learning rate below it is used."""
    x, target = data(4, 4, 3)
    for cap in (1.0, 0.25):
        net = mlp(4, 9, 3)
        optimizer = HalfInverse(net.parameters(), lr=100.0, power=power, cap=cap)
        optimizer.step(lambda net=net: (lambda y: (y, 3.0 * squares(target)(y)))(net(x)))
        bound = 2.0 / (3.0 * optimizer.report.singular_values[0] ** (1.0 - power))
        assert optimizer.report.lr == pytest.approx(cap * bound, rel=1e-12)
    small = HalfInverse(mlp(4, 9, 3).parameters(), lr=1e-3, cap=1.0)
    net = mlp(4, 9, 3)
    small = HalfInverse(net.parameters(), lr=1e-3, power=power, cap=1.0)
    small.step(closure_of(net, x, target))
    assert small.report.lr == 1e-3


def test_no_learning_rate_but_the_cap():
    x, target = data(4, 4, 3)
    net = mlp(4, 9, 3)
    optimizer = HalfInverse(net.parameters(), lr=np.inf, cap=0.5, batch_invariant=True)
    losses = [float(optimizer.step(closure_of(net, x, target))) for _ in range(30)]
    assert losses[-1] < 1e-6 * losses[0]
    assert optimizer.report.lr == pytest.approx(1.0 / optimizer.report.singular_values[0] ** 0.5, rel=1e-12)
    with pytest.raises(BadInput, match="inf with a cap"):
        HalfInverse(net.parameters(), lr=np.inf)
    with pytest.raises(BadInput, match="no curvature in y"):
        optimizer.step(lambda: (lambda y: (y, y.sum()))(net(x)))


def test_at_the_bound_a_linear_map_neither_converges_nor_diverges():
    """y = A theta, L = |y|²/2: a step multiplies the component of s by 1 - lr s^(1 - power)."""
    A = torch.diag(torch.tensor([4.0, 2.0, 1.0], dtype=DTYPE))
    theta = parameter([1.0, 0.0, 0.0])
    optimizer = HalfInverse([theta], lr=1e9, cap=1.0)
    for _ in range(4):
        optimizer.step(lambda: (lambda y: (y, 0.5 * (y**2).sum()))((A @ theta)[None]))
    assert theta.detach().tolist() == pytest.approx([1.0, 0.0, 0.0], abs=1e-9)
    optimizer = HalfInverse([theta], lr=1e9, cap=0.5)
    optimizer.step(lambda: (lambda y: (y, 0.5 * (y**2).sum()))((A @ theta)[None]))
    assert float(theta.detach().norm()) < 1e-9


def test_a_report():
    x, target = data(4, 4, 3)
    net = mlp(4, 9, 3)
    optimizer = HalfInverse(net.parameters(), lr=0.5, measure=True)
    assert optimizer.report is None
    loss = optimizer.step(closure_of(net, x, target))
    report = optimizer.report
    assert float(loss) == report.loss == pytest.approx(float(squares(target)(mlp(4, 9, 3)(x)).detach()))
    assert report.loss - report.actual == pytest.approx(float(squares(target)(net(x)).detach()))
    assert report.kept == 12 and report.method == "gram" and report.lr == 0.5 and report.iterations == 0
    assert np.all(np.diff(report.singular_values) <= 0.0)
