"""The optimisers of relax.relaxation against closed forms: quadratics, torch's SGD, the fixed points."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from dolfinx import fem
from optim_common import CURVATURES, Trainer, equal, parameter, quadratic
from optim_contract import OptimizerContract

from relax import SmoothnessPrior, meshes
from relax.errors import BadInput, NotConverged
from relax.relaxation.optim import (
    SGLD,
    ElasticSGD,
    EntropySGD,
    Exponential,
    HamiltonJacobi,
    HeatSmoothing,
    Parle,
    ProximalPoint,
    t_from_spring,
)

ZERO = torch.zeros(3, dtype=torch.float64)
START = torch.tensor([2.0, -1.0, 4.0], dtype=torch.float64)


def making(kind, **settings):
    return staticmethod(lambda params, **options: kind(params, **{**settings, **options}))


def moved(optimizer_of, steps=1, curvatures=CURVATURES):
    """START after steps on 1/2 sum lambda x^2."""
    x = parameter(START)
    optimizer = optimizer_of([x])
    for _ in range(steps):
        optimizer.step(quadratic(x, optimizer, curvatures=curvatures, centre=ZERO))
    return x.detach()


def sgd(**options):
    return lambda params: torch.optim.SGD(params, **options)


MOMENTA = [{}, {"momentum": 0.7}, {"momentum": 0.7, "nesterov": True}]


class TestEntropySGD(OptimizerContract):
    make = making(EntropySGD, lr=0.9, t=0.4, beta=50.0, inner_steps=4, inner_lr=0.2)
    noiseless = {"beta": math.inf}
    calls = 4

    @pytest.mark.parametrize("decay", [0.0, 0.2])
    def test_chain_of_means(self, decay):
        """Without noise y and mu are linear recursions in x: here by hand, in numpy."""
        lr, inner_lr, t, averaging, steps = 0.6, 0.2, 0.5, 0.75, 7
        found = moved(
            lambda p: EntropySGD(
                p,
                lr,
                t=t,
                beta=math.inf,
                inner_steps=steps,
                inner_lr=inner_lr,
                averaging=averaging,
                weight_decay=decay,
            )
        )
        x = START.numpy()
        y, mu = x.copy(), x.copy()
        for _ in range(steps):
            y = y - inner_lr * ((CURVATURES.numpy() + decay) * y + (y - x) / t)
            mu = averaging * mu + (1.0 - averaging) * y
        np.testing.assert_allclose(found, x - lr * (x - mu), rtol=1e-14)

    def test_long_chains_give_the_gradient_of_the_local_entropy(self):
        """mu -> x/(1 + t lambda): (x - mu)/t is grad u = lambda x/(1 + t lambda), whatever beta is."""
        t = 0.5
        found = moved(lambda p: EntropySGD(p, 1.0, t=t, beta=math.inf, inner_steps=400, inner_lr=0.2))
        torch.testing.assert_close(found, START / (1.0 + t * CURVATURES), rtol=1e-13, atol=0.0)

    @pytest.mark.parametrize("options", MOMENTA)
    def test_one_inner_step_is_sgd(self, options):
        """mu = averaging x + (1 - averaging)(x - inner_lr grad f): SGD with lr (1 - averaging) inner_lr."""
        ours = moved(lambda p: EntropySGD(p, 0.8, t=0.3, beta=math.inf, inner_steps=1, **options), steps=5)
        theirs = moved(sgd(lr=0.8 * 0.25 * 0.1, **options), steps=5)
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=0.0)

    @pytest.mark.parametrize("options", [{"inner_momentum": 0.7}, {"inner_momentum": 0.7, "nesterov": True}])
    def test_inner_momentum_is_that_of_sgd_on_loss_and_spring(self, options):
        t, steps = 0.5, 6
        ours = moved(lambda p: EntropySGD(p, t=t, beta=math.inf, inner_steps=steps, averaging=0.0, **options))
        y = parameter(START)
        theirs = torch.optim.SGD([y], lr=0.1, momentum=0.7, nesterov="nesterov" in options)

        def closure():
            theirs.zero_grad()
            loss = 0.5 * (CURVATURES * y**2).sum() + ((y - START) ** 2).sum() / (2.0 * t)
            loss.backward()
            return loss

        for _ in range(steps):
            theirs.step(closure)
        torch.testing.assert_close(ours, y.detach(), rtol=1e-13, atol=0.0)

    def test_without_a_spring_it_is_sgd(self):
        """t = inf, the last point, the whole way to it: ``inner_steps`` steps of SGD."""
        ours = moved(lambda p: EntropySGD(p, t=math.inf, beta=math.inf, inner_steps=3, averaging=0.0), steps=2)
        torch.testing.assert_close(ours, moved(sgd(lr=0.1), steps=6), rtol=1e-14, atol=0.0)

    def test_scoping_advances(self):
        """Step k runs with the spring of step k, as one step with that spring does."""
        schedule = t_from_spring(Exponential(0.5, 0.3))
        one, steps = moved(lambda p: EntropySGD(p, t=schedule, beta=math.inf, inner_steps=5), steps=4), START
        for k in range(4):
            x = parameter(steps)
            fixed = EntropySGD([x], t=1.0 / (0.5 * 1.3**k), beta=math.inf, inner_steps=5)
            fixed.step(quadratic(x, fixed, centre=ZERO))
            steps = x.detach()
        torch.testing.assert_close(one, steps, rtol=1e-14, atol=0.0)
        inert = moved(lambda p: EntropySGD(p, t=2.0, beta=math.inf, inner_steps=5), steps=4)
        assert (one - inert).abs().min() > 1e-3

    def test_scoping_goes_on_after_a_load(self):
        trainers = [Trainer(self.new, t=t_from_spring(Exponential(0.5, 0.3)), seed=7) for _ in range(2)]
        trainers[0].train(3)
        state = trainers[0].optimizer.state_dict()
        assert state["param_groups"][0]["step"] == 3
        trainers[1].model.load_state_dict(trainers[0].model.state_dict())
        trainers[1].picks.set_state(trainers[0].picks.get_state())
        trainers[1].optimizer.load_state_dict(state)
        for trainer in trainers:
            trainer.train(3)
        assert equal(trainers[0].weights(), trainers[1].weights())
        assert trainers[1].optimizer.param_groups[0]["t"] == t_from_spring(Exponential(0.5, 0.3))

    def test_a_function_as_schedule_stays_with_the_optimiser(self):
        x = parameter([1.0])
        first = EntropySGD([x], t=lambda step: 1.0 / (1 + step), beta=10.0)
        second = EntropySGD([x], t=lambda step: 2.0, beta=10.0)
        second.load_state_dict(first.state_dict())
        assert second.param_groups[0]["t"](0) == 2.0

    @pytest.mark.parametrize(("options", "limit"), [({}, 2.0), (MOMENTA[1], 3.4), (MOMENTA[2], 3.4 / 2.4)])
    def test_a_spring_too_stiff_for_the_step(self, options, limit):
        """The limits are those of stability: without a loss the chain comes back below, and runs away above."""
        options = {("inner_momentum" if key == "momentum" else key): value for key, value in options.items()}
        x = parameter([1.0])

        def spring(t):
            return EntropySGD([x], t=t, beta=math.inf, inner_lr=0.1, **options)

        with pytest.raises(BadInput, match="expected inner_lr / t <"):
            spring(0.1 / (1.001 * limit)).step(lambda: 0.0 * x.sum())
        with pytest.raises(BadInput, match="expected inner_lr / t <"):
            optimizer = spring(0.0)
            optimizer.step(quadratic(x, optimizer, torch.ones(1), torch.zeros(1)))
        for factor, stable in ((0.95, True), (1.05, False)):
            y = parameter([1.0])
            chain = torch.optim.SGD([y], 0.1, **{k.removeprefix("inner_"): v for k, v in options.items()})
            for _ in range(150):
                chain.step(quadratic(y, chain, torch.tensor([factor * limit / 0.1]), torch.zeros(1)))
            assert (float(y.detach().abs()) < 1.0) == stable


class TestProximalPoint(OptimizerContract):
    make = making(ProximalPoint, lr=0.5, t=0.4, inner_steps=4)
    calls = 4

    def test_is_the_proximal_point_method_in_the_limit(self):
        """prox of 1/2 lambda x^2 is x/(1 + t lambda)."""
        t = 0.7
        found = moved(lambda p: ProximalPoint(p, t=t, inner_steps=150), steps=3)
        torch.testing.assert_close(found, START / (1.0 + t * CURVATURES) ** 3, rtol=1e-12, atol=0.0)

    def test_is_entropy_sgd_without_noise(self):
        options = {"t": 0.4, "inner_steps": 5, "inner_lr": 0.2, "momentum": 0.3, "inner_momentum": 0.5}
        one = Trainer(ProximalPoint, **options)
        other = Trainer(EntropySGD, beta=math.inf, averaging=0.0, **options)
        one.train(3)
        other.train(3)
        assert equal(one.weights(), other.weights())

    def test_envelope_of_an_absolute_value(self):
        """The Moreau envelope of |x| is Huber's function: from |x| > t the proximal point moves by t."""
        x = parameter([2.0])
        optimizer = ProximalPoint([x], t=0.5, inner_steps=200)

        def closure():
            optimizer.zero_grad()
            loss = x.abs().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        assert x.item() == pytest.approx(1.5, abs=1e-12)


class TestHamiltonJacobi(OptimizerContract):
    make = making(HamiltonJacobi, lr=0.2, t=0.4, iterations=4)
    calls = 5

    def test_fixed_point_of_a_quadratic(self):
        """p = lambda x/(1 + t lambda)."""
        t, lr = 0.7, 0.3
        found = moved(lambda p: HamiltonJacobi(p, lr, t=t, iterations=120))
        torch.testing.assert_close(found, START * (1.0 - lr * CURVATURES / (1.0 + t * CURVATURES)), rtol=1e-13, atol=0)

    def test_fixed_point_of_an_anharmonic_loss(self):
        """f = x^4/4 + sin x: the characteristic x - t p through x, found by bisection."""
        t, lr, start = 0.4, 0.1, 1.3
        x = parameter([start])
        optimizer = HamiltonJacobi([x], lr, t=t, iterations=120)

        def closure():
            optimizer.zero_grad()
            loss = (x**4 / 4 + x.sin()).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        lower, upper = -10.0, 10.0
        for _ in range(200):
            y = 0.5 * (lower + upper)
            lower, upper = (y, upper) if y + t * (y**3 + math.cos(y)) < start else (lower, y)
        assert x.item() == pytest.approx(start - lr * (start - y) / t, abs=1e-12)

    def test_stability_is_as_documented(self):
        """|damping - (1 - damping) t lambda| < 1: -1 < t lambda < 7 for the default."""
        for t_lambda, stable in ((-0.95, True), (-1.05, False), (6.9, True), (7.1, False)):
            curvature = torch.tensor([t_lambda], dtype=torch.float64)
            errors = []
            for iterations in (50, 100):
                x = parameter([1.0])
                optimizer = HamiltonJacobi([x], 1.0, t=1.0, iterations=iterations)
                optimizer.step(quadratic(x, optimizer, curvature, torch.zeros(1, dtype=torch.float64)))
                errors.append(abs(1.0 - x.item() - t_lambda / (1.0 + t_lambda)))
            assert (errors[1] < errors[0]) == stable

    @pytest.mark.parametrize("options", [*MOMENTA, {"weight_decay": 0.1, "maximize": True}])
    @pytest.mark.parametrize("limit", [{"t": 0.5, "iterations": 0}, {"t": 0.0, "iterations": 0}])
    def test_is_sgd_to_the_bit(self, limit, options):
        ours, theirs = Trainer(HamiltonJacobi, lr=0.1, **limit, **options), Trainer(torch.optim.SGD, lr=0.1, **options)
        ours.train(4)
        theirs.train(4)
        assert equal(ours.weights(), theirs.weights())

    def test_no_time_is_sgd(self):
        found = moved(lambda p: HamiltonJacobi(p, 0.1, t=0.0), steps=3)
        torch.testing.assert_close(found, moved(sgd(lr=0.1), steps=3), rtol=1e-14, atol=0.0)


class TestHeatSmoothing(OptimizerContract):
    make = making(HeatSmoothing, lr=0.2, t=0.02, beta=50.0, samples=4)
    noiseless = {"t": 0.0}
    calls = 4
    first_loss = False

    def test_antithetic_pairs_are_exact_for_a_quadratic(self):
        """E grad f(x + Z) = grad f(x), and a pair cancels: SGD with any noise."""
        options = {"t": 3.0, "beta": 2.0, "samples": 4, "seed": 1}
        found = moved(lambda p: HeatSmoothing(p, 0.1, antithetic=True, **options), steps=3)
        torch.testing.assert_close(found, moved(sgd(lr=0.1), steps=3), rtol=1e-13, atol=0.0)
        noisy = moved(lambda p: HeatSmoothing(p, 0.1, **options), steps=3)
        assert (noisy - found).abs().max() > 1e-2
        with pytest.raises(BadInput, match="even number of samples"):
            HeatSmoothing([parameter([1.0])], t=1.0, beta=1.0, samples=3, antithetic=True)

    @pytest.mark.parametrize("options", [*MOMENTA, {"weight_decay": 0.1}])
    def test_one_sample_without_noise_is_sgd_to_the_bit(self, options):
        ours = Trainer(HeatSmoothing, lr=0.1, t=1.0, beta=math.inf, samples=1, **options)
        theirs = Trainer(torch.optim.SGD, lr=0.1, **options)
        ours.train(4)
        theirs.train(4)
        assert equal(ours.weights(), theirs.weights())


class TestSGLD(OptimizerContract):
    make = making(SGLD, lr=0.2, beta=50.0)
    noiseless = {"beta": math.inf}
    no_closure = r"expected gradients, from loss\.backward\(\) or a closure"

    def test_without_a_closure_after_backward(self):
        ours, theirs = Trainer(SGLD, lr=0.1, beta=50.0, seed=1), Trainer(SGLD, lr=0.1, beta=50.0, seed=1)
        theirs.train(3)
        for _ in range(3):
            ours.closure()
            assert ours.optimizer.step() is None
        assert equal(ours.weights(), theirs.weights())
        before = ours.weights()
        ours.closure()
        next(iter(ours.optimizer.param_groups))["params"][0].grad.fill_(math.nan)
        with pytest.raises(NotConverged, match="a gradient is NaN"):
            ours.optimizer.step()
        assert equal(ours.weights(), before)

    @pytest.mark.parametrize("options", [*MOMENTA, {"weight_decay": 0.1, "maximize": True}])
    def test_without_noise_is_sgd_to_the_bit(self, options):
        ours, theirs = Trainer(SGLD, lr=0.1, beta=math.inf, **options), Trainer(torch.optim.SGD, lr=0.1, **options)
        assert equal(ours.train(4), theirs.train(4)) and equal(ours.weights(), theirs.weights())

    def test_a_generator_on_another_device_is_refused_before_anything_moves(self):
        x = parameter([1.0])
        optimizer = SGLD([x, torch.nn.Parameter(torch.ones(1, device="meta"))], beta=1.0, generator=torch.Generator())
        with pytest.raises(BadInput, match="expected one on meta, where parameters are, got one on cpu"):
            optimizer.step(quadratic(x, optimizer, torch.ones(1), torch.zeros(1)))
        assert x.item() == 1.0


class TestParle(OptimizerContract):
    make = making(Parle, lr=0.6, t=0.4, beta=50.0, rho=0.5, inner_steps=4, inner_lr=0.2)
    noiseless = {"beta": math.inf}
    calls = 4


class TestElasticSGD(OptimizerContract):
    make = making(ElasticSGD, lr=0.1, rho=0.5, inner_steps=4)
    calls = 4
    linear_in_lr = False


# -- a metric ----------------------------------------------------------------------------------------------------------


def prior_of(**how):
    V = fem.functionspace(meshes.interval(6), ("Lagrange", 1))
    return SmoothnessPrior(V, length=0.4, std=1.5, mean=0.3, **how)


def rugged(x, optimizer, to_y=lambda x: x):
    """A closure for rows of x."""

    def closure():
        optimizer.zero_grad()
        y = to_y(x)
        loss = (2.0 * (y - 0.5) ** 2 + torch.sin(3.0 * y)).sum()
        loss.backward()
        return loss

    return closure


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("inner_momentum", [0.0, 0.6])
def test_a_metric_is_the_euclidean_norm_of_whitened_parameters(inner_momentum):
    prior = prior_of()
    L = torch.from_numpy(prior.color(np.eye(prior.size)) - prior.mean)
    z = parameter(np.random.default_rng(0).standard_normal((2, prior.size)))
    y = parameter((z @ L).detach())
    settings = {"t": 0.3, "beta": 5.0, "inner_lr": 0.05, "inner_steps": 4, "momentum": 0.5, "seed": 1}
    settings["inner_momentum"] = inner_momentum
    plain, metric = EntropySGD([z], **settings), EntropySGD([{"params": [y], "metric": prior}], **settings)
    for _ in range(3):
        plain.step(rugged(z, plain, lambda z: z @ L))
        metric.step(rugged(y, metric))
    assert (y.detach() - z.detach() @ L).abs().max() <= 1e-10 * y.detach().abs().max()
    # A copy goes on with the same prior; so does an optimiser that loads what was saved.
    twin = copy.deepcopy(metric)
    other = EntropySGD([y], metric=prior, **settings)
    other.load_state_dict(metric.state_dict())
    assert twin.param_groups[0]["metric"] is metric.param_groups[0]["metric"]
    start, ends = y.detach().clone(), []
    for optimizer in (metric, other):
        with torch.no_grad():
            y.copy_(start)
        optimizer.step(rugged(y, optimizer))
        ends.append(y.detach().clone())
    assert torch.equal(*ends)
    with pytest.raises(BadInput, match=r"\(\.\.\., 7\)"):
        short = EntropySGD([parameter(START)], t=0.3, beta=5.0, metric=prior)
        short.step(quadratic(short.param_groups[0]["params"][0], short))
    prior.close()


@pytest.mark.ranks(1, 2)
def test_a_metric_is_a_prior():
    with pytest.raises(BadInput, match="expected a prior"):
        EntropySGD([parameter(START)], t=0.3, beta=5.0, metric=torch.eye(3))
    owned = prior_of(layout="owned")
    with pytest.raises(BadInput, match="replicated"):
        EntropySGD([parameter(START)], t=0.3, beta=5.0, metric=owned)
    owned.close()
