"""Schedules, the papers' settings, noise from the table, batch-norm statistics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from contract import COMM, everyone_has, raised_everywhere
from mpi4py import MPI
from scipy import stats

from relax.errors import BadInput
from relax.relaxation.optim import (
    Constant,
    EntropySGD,
    Exponential,
    Linear,
    Reciprocal,
    beta_from_eps,
    refresh_batch_norm,
    t_from_spring,
)
from relax.relaxation.optim.noise import Noise
from relax.relaxation.optim.schedules import decoded, encoded

# -- schedules ---------------------------------------------------------------------------------------------------------


def test_schedules():
    assert [Constant(2.0)(k) for k in (0, 9)] == [2.0, 2.0]
    assert [Exponential(0.01, 0.5, most=0.03)(k) for k in range(4)] == pytest.approx([0.01, 0.015, 0.0225, 0.03])
    assert [Exponential(1.0, -0.5, least=0.2)(k) for k in range(4)] == [1.0, 0.5, 0.25, 0.2]
    assert Exponential(1.0, 1.0, most=7.0)(100_000) == 7.0
    assert [Linear(1.0, 3.0, 4)(k) for k in (0, 1, 4, 9)] == [1.0, 1.5, 3.0, 3.0]
    assert [Reciprocal(Linear(1.0, 4.0, 3))(k) for k in (0, 3)] == [1.0, 0.25]


def test_the_papers_settings():
    """gamma is the spring: t = 1/gamma, and the spring of scoping is g0 (1 + g1)^k."""
    assert t_from_spring(0.03) == pytest.approx(1.0 / 0.03)
    assert t_from_spring(0.0) == math.inf
    assert t_from_spring(Exponential(1e-4, 1e-3))(500) == pytest.approx(1e4 / 1.001**500)
    assert t_from_spring(Exponential(0.01, 0.5, most=1.0))(100) == 1.0
    assert beta_from_eps(1e-4) == pytest.approx(1e8)
    assert beta_from_eps(1e-4, convention="paper") == pytest.approx(2e8)
    assert beta_from_eps(0.0) == math.inf
    for wrong in ({"eps": -1.0}, {"eps": math.nan}, {"eps": 1.0, "convention": "lua"}):
        with pytest.raises(BadInput):
            beta_from_eps(**wrong)


@pytest.mark.parametrize("convention", ["code", "paper"])
def test_eps_gives_the_step_noise_that_it_names(convention):
    """sqrt(2 eta) eps in the code, sqrt(eta) eps in the paper: measured on one inner step without a loss."""
    eps, eta, count = 0.3, 0.2, 40_000
    x = torch.nn.Parameter(torch.zeros(count))
    optimizer = EntropySGD(
        [x], t=1.0, beta=beta_from_eps(eps, convention=convention), inner_steps=1, inner_lr=eta, averaging=0.0, seed=3
    )

    def closure():
        optimizer.zero_grad()
        loss = 0.0 * x.sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    expected = eps * math.sqrt((2.0 if convention == "code" else 1.0) * eta)
    # The relative standard error of a standard deviation from n samples is 1/sqrt(2 n).
    assert x.detach().std().item() == pytest.approx(expected, rel=3.0 / math.sqrt(2 * count))


def test_schedules_are_saved_as_numbers():
    nested = Reciprocal(Exponential(1e-4, 1e-3, most=math.inf))
    plain = encoded(nested)
    assert plain["schedule"] == "Reciprocal" and isinstance(plain["of"], dict)
    assert decoded(plain, None) == nested
    assert decoded(encoded(Linear(1.0, 2.0, 3)), None) == Linear(1.0, 2.0, 3)
    assert decoded(encoded(0.5), None) == 0.5


# -- noise -------------------------------------------------------------------------------------------------------------


def sample(shape, steps=1, *, seed=1, exact=False, dtype=torch.float32):
    noise = Noise(seed, exact=exact)
    drawn = [torch.zeros(shape, dtype=dtype) for _ in range(steps)]
    for one in drawn:
        noise.add_([one], 1.0)
    return torch.stack(drawn).double().numpy()


@pytest.mark.parametrize("exact", [False, True])
def test_large_tensors_get_normal_noise(exact):
    """Kolmogorov–Smirnov, moments, and correlations in time and along the tensor, within what 300 000 samples allow."""
    z = sample((300_000,), 2, exact=exact)
    n = z[0].size
    assert stats.kstest(z[0], "norm").pvalue > 1e-3
    for power, moment, variance in ((1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)):
        assert abs((z**power).mean() - moment) < 4.0 * math.sqrt(variance / z.size)
    limit = 4.0 / math.sqrt(n)
    assert abs((z[0] * z[1]).mean()) < limit
    for lag in (1, 2, 64, 1 << 17):
        assert abs((z[0][lag:] * z[0][:-lag]).mean()) < 4.0 / math.sqrt(n - lag)


def test_each_entry_is_normal_in_time():
    """The sequence of one entry, over steps, and of the absolute values of neighbours."""
    z = sample((10_000,), 600)[:, :3]
    assert all(stats.kstest(column, "norm").pvalue > 1e-3 for column in z.T)
    limit = 4.0 / math.sqrt(len(z))
    assert abs((z[1:] * z[:-1]).mean()) < limit
    sizes = (np.abs(z) - np.abs(z).mean(axis=0)) / np.abs(z).std(axis=0)
    assert abs((sizes[1:] * sizes[:-1]).mean()) < limit and abs((sizes[:, 0] * sizes[:, 1]).mean()) < limit


def test_noise_does_not_mind_how_a_tensor_lies_in_memory():
    assert np.array_equal(sample((20_000,)), sample((100, 200)).reshape(1, -1))
    plain, scaled = torch.zeros(100, 200), torch.ones(200, 100).T
    Noise(1).add_([plain], 1.0)
    Noise(1).add_([scaled], 0.5)
    torch.testing.assert_close(scaled, 1.0 + 0.5 * plain)
    for dtype in (torch.float64, torch.bfloat16):
        tolerance = 1e-15 if dtype == torch.float64 else 1e-2
        np.testing.assert_allclose(sample((20_000,), dtype=dtype), sample((20_000,)), rtol=tolerance, atol=tolerance)


def test_streams_go_on_where_they_were_saved():
    noise, other = Noise(5), Noise(6)
    first, second = torch.zeros(20_000), torch.zeros(20_000)
    noise.add_([torch.zeros(20_000), torch.zeros(3)], 1.0)
    other.restore(noise.state())
    noise.add_([first], 1.0)
    other.add_([second], 1.0)
    assert torch.equal(first, second)
    with pytest.raises(BadInput, match=r"expected a torch.Generator, got int; seed= takes a number"):
        Noise(generator=3)


# -- batch normalisation -----------------------------------------------------------------------------------------------


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(4), torch.nn.ReLU(), torch.nn.Linear(4, 1)
    ).double()


def expected_statistics(model, batches):
    """Means over batches, weighted by their samples, of each batch's mean and unbiased variance; no dropout."""
    hidden = [model[0](x).detach() for x in batches]
    sizes = np.array([len(h) for h in hidden], dtype=float)
    means = np.average([h.mean(0).numpy() for h in hidden], axis=0, weights=sizes)
    variances = np.average([h.var(0).numpy() for h in hidden], axis=0, weights=sizes)
    return means, variances


def test_batch_norm_statistics():
    model = network()
    model[2].running_mean.fill_(9.0)
    model.train()
    model[4].eval()
    batches = [torch.randn(n, 3, dtype=torch.float64) for n in (5, 8, 2)]
    means, variances = expected_statistics(model, batches)
    weights = model[2].weight.detach().clone()
    assert refresh_batch_norm(model, [(x, None) for x in batches]) == 15
    np.testing.assert_allclose(model[2].running_mean, means, rtol=1e-13)
    np.testing.assert_allclose(model[2].running_var, variances, rtol=1e-13)
    assert [m.training for m in model] == [True, True, True, True, False] and model.training
    assert model[2].momentum == 0.1 and torch.equal(model[2].weight.detach(), weights)


@pytest.mark.ranks(1, 2, 3)
def test_batch_norm_over_ranks():
    """Each rank brings batches of its own, the last rank none when there are several."""
    model = network()
    everyones = [torch.randn(4 + r, 3, dtype=torch.float64) for r in range(3)]
    mine = everyones[COMM.rank :: max(COMM.size - 1, 1)] if COMM.rank < max(COMM.size - 1, 1) else []
    means, variances = expected_statistics(model, everyones)
    assert refresh_batch_norm(model, mine, comm=COMM) == 15
    np.testing.assert_allclose(model[2].running_mean, means, rtol=1e-13)
    np.testing.assert_allclose(model[2].running_var, variances, rtol=1e-13)
    everyone_has(model[2].running_mean.numpy())


@pytest.mark.ranks(1, 2)
def test_batch_norm_that_fails_leaves_the_model_as_it_was():
    model = network().train()
    model(torch.randn(6, 3, dtype=torch.float64))
    before = [b.clone() for b in model.buffers()]
    for batches, error in (([], BadInput), ([torch.randn(4, 3).double(), torch.randn(4, 2).double()], Exception)):
        raised_everywhere(error, lambda batches=batches: refresh_batch_norm(model, batches, comm=MPI.COMM_WORLD))
        assert all(torch.equal(b, c) for b, c in zip(model.buffers(), before, strict=True))
        assert all(m.training for m in model.modules())
    assert refresh_batch_norm(torch.nn.Linear(2, 2), []) == 0
