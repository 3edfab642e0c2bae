"""Parle and ElasticSGD: replicas on ranks, against the fixed points of quadratics, Entropy-SGD and SGD."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from contract import COMM, everyone_has, raised_everywhere
from mpi4py import MPI
from optim_common import CURVATURES, Trainer, equal, parameter, quadratic

from relax.base import parallel
from relax.errors import BadInput, RelaxError
from relax.relaxation.optim import ElasticSGD, EntropySGD, Exponential, Parle

# Each rank has a minimum of its own.
MINE = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64) * (1 + COMM.rank)
MEAN = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64) * (1 + 0.5 * (COMM.size - 1))
KINDS = [Parle, ElasticSGD]


def make(kind, params, **options):
    settings = {"t": 0.5, "rho": 0.4} if kind is Parle else {"rho": 0.4}
    return kind(params, **{**settings, **options})


def settled(make_optimizer, steps):
    x = parameter([3.0, 3.0, 3.0])
    optimizer = make_optimizer([x])
    for _ in range(steps):
        optimizer.step(quadratic(x, optimizer, centre=MINE))
    return x, optimizer


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("options", [{}, {"momentum": 0.6, "nesterov": True, "inner_momentum": 0.3}])
def test_parle_on_one_rank_is_entropy_sgd_to_the_bit(options):
    shared = {"t": 0.5, "beta": 20.0, "inner_steps": 5, "seed": 7, **options}
    alone, serial = Trainer(Parle, rho=0.0, comm=MPI.COMM_SELF, **shared), Trainer(EntropySGD, **shared)
    assert equal(alone.train(4), serial.train(4)) and equal(alone.weights(), serial.weights())


@pytest.mark.ranks(1, 2)
def test_parle_on_one_rank_with_elasticity_takes_longer_steps():
    """The mean is the rank's own: x - mu counts 1 + rho times."""
    shared = {"t": 0.5, "beta": math.inf, "inner_steps": 5}
    alone, serial = Trainer(Parle, lr=0.5, rho=0.6, comm=MPI.COMM_SELF, **shared), Trainer(EntropySGD, lr=0.8, **shared)
    alone.train(3)
    serial.train(3)
    torch.testing.assert_close(alone.weights(), serial.weights(), rtol=1e-12, atol=1e-14)


@pytest.mark.ranks(1, 2)
def test_fixed_point_of_parle():
    """kappa (x - c) + rho (x - mean of c) = 0 with kappa = t lambda/(1 + t lambda): exact where mu is the limit."""
    t, rho = 0.5, 0.4
    x, _ = settled(lambda p: Parle(p, 1.2, t=t, rho=rho, inner_steps=30, inner_lr=0.2, averaging=0.0), 50)
    kappa = t * CURVATURES / (1.0 + t * CURVATURES)
    torch.testing.assert_close(x.detach(), (kappa * MINE + rho * MEAN) / (kappa + rho), rtol=0.0, atol=1e-9)


@pytest.mark.ranks(1, 2)
def test_fixed_point_of_elastic_sgd():
    """lambda (x - c) + rho (x - mean) = 0, and the mean is that of the minima."""
    rho = 0.7
    x, optimizer = settled(lambda p: ElasticSGD(p, 0.2, rho=rho, inner_steps=3), 150)
    torch.testing.assert_close(x.detach(), (CURVATURES * MINE + rho * MEAN) / (CURVATURES + rho), rtol=0.0, atol=1e-9)
    optimizer.average()
    torch.testing.assert_close(x.detach(), MEAN, rtol=0.0, atol=1e-9)


@pytest.mark.ranks(1, 2)
def test_elastic_sgd_step_by_step():
    """Three gradients on springs to where the mean was when the step began, by hand."""
    lr, rho = 0.1, 0.5
    start = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64) + COMM.rank
    x = parameter(start)
    optimizer = ElasticSGD([x], lr, rho=rho, inner_steps=3, momentum=0.6, same_start=False)
    mean = start - COMM.rank + 0.5 * (COMM.size - 1)
    y, v = start.clone(), torch.zeros(3, dtype=torch.float64)
    for _ in range(3):
        v = 0.6 * v + CURVATURES * (y - MINE) + rho * (y - mean)
        y = y - lr * v
    optimizer.step(quadratic(x, optimizer, centre=MINE))
    torch.testing.assert_close(x.detach(), y, rtol=1e-13, atol=1e-14)


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("options", [{}, {"momentum": 0.6}, {"momentum": 0.6, "nesterov": True, "weight_decay": 0.1}])
def test_elastic_sgd_without_springs_is_sgd_to_the_bit(options):
    ours, theirs = (
        Trainer(ElasticSGD, lr=0.1, rho=0.0, inner_steps=4, **options),
        Trainer(torch.optim.SGD, lr=0.1, **options),
    )
    ours.train(2)
    theirs.train(8)
    assert equal(ours.weights(), theirs.weights())


@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_replicas_start_together(kind, dtype):
    torch.manual_seed(COMM.rank)
    model = torch.nn.Linear(5, 3).to(dtype)
    own = model.weight.detach().clone()
    make(kind, model.parameters(), same_start=False)
    assert torch.equal(model.weight.detach(), own)
    make(kind, model.parameters())
    everyone_has(model.weight.detach().numpy())
    assert model.weight.dtype == dtype
    if COMM.rank == 0:
        assert torch.equal(model.weight.detach(), own)


@pytest.mark.ranks(2, 3)
def test_ranks_have_noise_of_their_own():
    weights = []
    for seed in (7, 7, None):
        x = parameter([0.0] * 4)
        # A seed that is not given is rank 0's, and what ranks derive from it still differs.
        torch.manual_seed(COMM.rank)
        optimizer = Parle([x], t=0.5, beta=1.0, rho=0.0, seed=seed)
        optimizer.step(quadratic(x, optimizer, torch.ones(4), torch.zeros(4)))
        weights.append(x.detach().numpy().copy())
    assert np.array_equal(weights[0], weights[1])
    for mine in weights:
        everyones = COMM.allgather(mine)
        assert all((abs(everyones[0] - other) > 1e-6).all() for other in everyones[1:])


@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize("kind", KINDS)
def test_springs_hold_replicas_together(kind):
    """Distances between replicas shrink with rho, in single precision as in double."""
    spreads = []
    for rho in (0.0, 1.0):
        x = parameter([3.0, 3.0, 3.0], torch.float32)
        optimizer = make(kind, [x], rho=rho, inner_steps=10)
        for _ in range(30):
            optimizer.step(quadratic(x, optimizer, centre=MINE))
        everyones = np.array(COMM.allgather(x.detach().numpy()))
        spreads.append(np.ptp(everyones, axis=0).max())
    assert spreads[1] < 0.7 * spreads[0] or COMM.size == 1


@pytest.mark.ranks(2, 3)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("call", [1, 3])
def test_a_closure_that_fails_on_one_rank_fails_on_all(kind, call):
    """Nobody waits for it, weights and momentum are those before, and the run goes on."""
    trainers = [Trainer(lambda p, **o: make(kind, p, inner_steps=4, momentum=0.5, **o)) for _ in range(2)]
    for trainer in trainers:
        trainer.train(1)
    failing, undisturbed = trainers
    before, picks, count = failing.weights(), failing.picks.get_state(), failing.calls

    def closure():
        if COMM.rank == COMM.size - 1 and failing.calls - count == call - 1:
            raise ZeroDivisionError("a closure of this rank")
        return failing.closure()

    error = ZeroDivisionError if COMM.rank == COMM.size - 1 else RelaxError
    with pytest.raises(error, match="a closure of this rank"):
        failing.optimizer.step(closure)
    assert equal(failing.weights(), before)
    failing.picks.set_state(picks)
    for trainer in trainers:
        trainer.train(2)
    assert equal(failing.weights(), undisturbed.weights())


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("kind", KINDS)
def test_one_rank_without_a_closure(kind):
    x = parameter([1.0, 1.0, 1.0])
    optimizer = make(kind, [x])
    closure = None if COMM.rank == 0 else quadratic(x, optimizer)
    assert "expected a closure" in str(raised_everywhere(BadInput, lambda: optimizer.step(closure)))


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("kind", KINDS)
def test_wrong_settings_on_one_rank_are_wrong_on_all(kind):
    x = parameter([1.0])
    lr = -1.0 if COMM.rank == COMM.size - 1 else 0.1
    assert "lr: expected" in str(raised_everywhere(BadInput, lambda: make(kind, [x], lr=lr)))
    last = parameter([1.0] * (2 if COMM.rank == COMM.size - 1 else 1))
    if COMM.size > 1:
        assert "weights by rank: [1" in str(raised_everywhere(BadInput, lambda: make(kind, [last])))


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("kind", KINDS)
def test_one_exchange_of_weights_per_step(kind, monkeypatch):
    lengths = []
    whole = parallel.sum_in_place

    def counted(comm, values):
        lengths.append(len(values))
        whole(comm, values)

    monkeypatch.setattr(parallel, "sum_in_place", counted)
    trainer = Trainer(lambda p: make(kind, p, inner_steps=4))
    trainer.train(3)
    size = sum(w.numel() for w in trainer.weights())
    assert lengths == ([size] * 3 if COMM.size > 1 else [])


@pytest.mark.ranks(1, 2)
def test_a_parameter_in_use_on_one_rank_alone():
    """Where it has no gradient the springs still pull, and it follows the others."""
    x, mine = parameter([0.0]), parameter([0.0])
    optimizer = Parle([x, mine], 0.7, t=1.0, rho=1.0, inner_steps=10, inner_lr=0.3, averaging=0.0)

    def closure():
        optimizer.zero_grad()
        loss = ((x - 1.0) ** 2).sum() + (((mine - 1.0) ** 2).sum() if COMM.rank == 0 else 0.0)
        loss.backward()
        return loss

    for _ in range(60):
        optimizer.step(closure)
    assert mine.item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sum_in_place(dtype):
    values = np.arange(5, dtype=dtype) * (1 + COMM.rank)
    parallel.sum_in_place(COMM, values)
    n = COMM.size
    assert values.dtype == dtype and np.array_equal(values, np.arange(5) * (n * (n + 1) // 2))


@pytest.mark.ranks(1, 2)
def test_scoping_of_the_springs():
    """rho grows to its cap as steps go by."""
    x = parameter([1.0, 1.0, 1.0])
    optimizer = Parle([x], 0.1, t=0.5, rho=Exponential(0.1, 1.0, most=0.3), inner_steps=2)
    found = []
    for _ in range(3):
        found.append(optimizer.param_groups[0]["rho"](optimizer.param_groups[0]["step"]))
        optimizer.step(quadratic(x, optimizer))
    assert found == [0.1, 0.2, 0.3]
