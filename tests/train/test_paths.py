"""Posteriors over paths: estimators against closed forms and the Hamilton–Jacobi drift."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
from contract import close, everyone_has, raised_everywhere
from mpi4py import MPI

import relax
from relax.errors import BadInput, SolveFailed
from relax.relaxation.control import OptimalControl

torch = pytest.importorskip("torch")
from relax.train import PathPosterior  # noqa: E402

COMM = MPI.COMM_WORLD
# A linear-Gaussian bridge: w(0) = 0, dw = -w dt + SIGMA dB, and Y = w(1) + NOISE N(0, 1) is seen.
SIGMA, Y, NOISE = 0.8, 1.3, 0.3
SPREAD = SIGMA**2 * (1.0 - math.exp(-2.0)) / 2.0 + NOISE**2
LOG_EVIDENCE = -0.5 * Y**2 / SPREAD - 0.5 * math.log(2.0 * math.pi * SPREAD)
ESTIMATORS = ("ckl", "fmc", "stl")


class Bridge(torch.nn.Module):
    """``part`` = 1 is the drift of the posterior; one ``part`` for all paths, or one each."""

    def __init__(self, part=1.0):
        super().__init__()
        self.part = torch.nn.Parameter(torch.as_tensor(part, dtype=torch.float64))

    def forward(self, w, t):
        left = torch.exp(t - 1.0)
        return -w + self.part * SIGMA**2 * left * (Y - w * left) / (SIGMA**2 * (1.0 - left**2) / 2.0 + NOISE**2)


def seen(w):
    return -0.5 * ((w[:, 0] - Y) / NOISE) ** 2 - math.log(NOISE * math.sqrt(2.0 * math.pi))


def bridge(part=1.0, **how):
    return PathPosterior(Bridge(part), start=torch.zeros(1, dtype=torch.float64), sigma=SIGMA, **how)


def by_path(part, estimator, steps, scheme="euler", num=2048):
    """The gradient in ``part`` of each path's bound."""
    posterior = bridge(torch.full((num, 1), part), steps=steps, scheme=scheme)
    noise = np.random.default_rng(0).standard_normal((steps, num, 1)) / math.sqrt(steps)
    walk = posterior(torch.from_numpy(noise), estimator)
    (seen(walk.path[-1]) - walk.log_ratio).sum().backward()
    return posterior.drift.part.grad.numpy()[:, 0]


def bound_in_steps(part, steps):
    """The mean bound of Euler's steps, by the moments of a linear recursion: of any number of paths, without noise."""
    part, dt = torch.as_tensor(part, dtype=torch.float64), 1.0 / steps
    mean = variance = ratio = torch.zeros((), dtype=torch.float64)
    for n in range(steps):
        left = math.exp(n * dt - 1.0)
        gain = part * SIGMA * left / (SIGMA**2 * (1.0 - left**2) / 2.0 + NOISE**2)
        ratio = ratio + 0.5 * dt * gain**2 * ((Y - mean * left) ** 2 + variance * left**2)
        mean, variance = (
            mean + dt * (SIGMA * gain * (Y - mean * left) - mean),
            variance * (1.0 - dt * (1.0 + SIGMA * gain * left)) ** 2 + SIGMA**2 * dt,
        )
    return -0.5 * ((mean - Y) ** 2 + variance) / NOISE**2 - math.log(NOISE * math.sqrt(2.0 * math.pi)) - ratio


@pytest.mark.parametrize("scheme", ["euler", "heun"])
def test_sticking_the_landing(scheme):
    """At the posterior the standard deviation of the gradient falls as the step with "stl", with others it stays."""
    steps = np.array([40, 80, 160])
    for estimator, slope, room in (("ckl", 0.0, 0.1), ("fmc", 0.0, 0.1), ("stl", -1.0, 0.1)):
        spreads = [by_path(1.0, estimator, n, scheme, 1024).std() for n in steps]
        assert np.polyfit(np.log(steps), np.log(spreads), 1)[0] == pytest.approx(slope, abs=room), (estimator, spreads)


@pytest.mark.parametrize("part", [0.7, 1.0])
def test_estimators_are_unbiased(part):
    at = torch.tensor(part, dtype=torch.float64, requires_grad=True)
    bound_in_steps(at, 25).backward()
    for estimator in ESTIMATORS:
        gradients = by_path(part, estimator, 25, num=4096)
        assert gradients.mean() == pytest.approx(float(at.grad), abs=3.0 * gradients.std() / 64.0), estimator


@pytest.mark.parametrize(("scheme", "order"), [("euler", 1.0), ("heun", 2.0)])
def test_the_bound_is_the_evidence_at_the_posterior(scheme, order):
    """The mean over the noise without sampling: what is averaged is a polynomial of degree 2 in the increments."""
    errors = []
    for steps in (64, 128, 256):
        one = torch.eye(steps, dtype=torch.float64)[:, :, None] / math.sqrt(steps)
        walk = bridge(steps=steps, scheme=scheme)(torch.cat([one, -one, 0.0 * one[:, :1]], 1), "ckl")
        bounds = (seen(walk.path[-1]) - walk.log_ratio).detach()
        mean = bounds[-1] + 0.5 * (bounds[:-1] - bounds[-1]).sum()
        errors.append(abs(float(mean) - LOG_EVIDENCE))
        if scheme == "euler":
            assert float(mean) == pytest.approx(float(bound_in_steps(1.0, steps)), abs=1e-10)
    slopes = np.log2(np.array(errors)[:-1] / errors[1:])
    assert slopes[-1] == pytest.approx(order, abs=0.15), errors
    assert errors[-1] < (2e-3 if scheme == "euler" else 5e-5)


def two_modes(w):
    """log of a likelihood."""
    return torch.logaddexp(-8.0 * (w[:, 0] + 0.5) ** 2, -6.0 * (w[:, 0] - 0.6) ** 2 + 0.3)


def test_the_drift_of_hamilton_and_jacobi_leaves_no_gap():
    """Along *each* path likelihood and log ratio give the evidence, up to the step; 40 % of paths end left."""
    mesh = relax.meshes.interval(200, (-5.0, 5.0), comm=MPI.COMM_SELF)
    V = OptimalControl(
        mesh, lambda x: 0.5 * (x[0] / SIGMA) ** 2, beta=1.0, t=SIGMA**2, num_steps=50,
        V=lambda x: -np.logaddexp(-8.0 * (x[0] + 0.5) ** 2, -6.0 * (x[0] - 0.6) ** 2 + 0.3),
    )  # fmt: skip

    def drift(w, t):
        return -w - SIGMA**2 * torch.from_numpy(V(w.numpy(), SIGMA**2 * (1.0 - float(t))))

    exact = PathPosterior(drift, start=torch.zeros(1, dtype=torch.float64), sigma=SIGMA, steps=100)
    x, weights = np.polynomial.hermite_e.hermegauss(80)
    ends = torch.from_numpy(x[:, None] * math.sqrt(SPREAD - NOISE**2))
    masses = two_modes(ends).exp().numpy() * weights / math.sqrt(2.0 * math.pi)
    evidence = np.log(masses.sum())
    assert float(exact.elbo(two_modes, estimator="ckl", num=2000, seed=0)) == pytest.approx(evidence, abs=0.05)
    noise = torch.randn(100, 2000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 10.0
    walk = exact(noise, "fmc")
    bounds = two_modes(walk.path[-1]) - walk.log_ratio
    assert float(bounds.mean()) == pytest.approx(evidence, abs=3.0 * float(bounds.std()) / 2000**0.5 + 2e-3)
    assert bounds.std() < 0.2
    share = masses[ends[:, 0].numpy() < 0.0].sum() / masses.sum()
    found = float((exact.paths(4000, seed=1)[-1] < 0.0).double().mean())
    assert found == pytest.approx(share, abs=3.0 * (share * (1.0 - share) / 4000) ** 0.5 + 0.01)


class Net(torch.nn.Module):
    """A drift in two dimensions that is nothing in particular."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.inner, self.outer = torch.nn.Linear(3, 8).double(), torch.nn.Linear(8, 2).double()

    def forward(self, w, t):
        return self.outer(torch.tanh(self.inner(torch.cat([w, t.expand(len(w), 1)], 1))))


class Seen(torch.nn.Module):
    """A log-likelihood whose noise is learnt."""

    def __init__(self):
        super().__init__()
        self.log_noise = torch.nn.Parameter(torch.tensor(-0.5, dtype=torch.float64))

    def forward(self, w):
        return -0.5 * ((w - 0.4) / self.log_noise.exp()).square().sum(1) - 2.0 * self.log_noise


def gradients(posterior, likelihood, **how):
    """The bound and its gradient in everything."""
    value = posterior.elbo(likelihood, **how)
    value.backward()
    learnt = [*posterior.parameters(), *likelihood.parameters()]
    return torch.cat([value.detach()[None], *(p.grad.reshape(-1) for p in learnt)]).numpy()


def general(**how):
    start = torch.nn.Parameter(torch.tensor([0.1, -0.2], dtype=torch.float64))
    return PathPosterior(Net(), Net(), start=start, sigma=torch.tensor([0.5, 0.7]), steps=5, **how)


@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_ranks_share_the_paths(estimator):
    """Loss and whole gradient as on one rank; of 9 paths all but one rank have none."""
    teams = relax.Teams(COMM, 1)
    for num in (9, 70):
        alone = gradients(general(), Seen(), estimator=estimator, num=num, seed=4)
        shared = gradients(general(teams=teams), Seen(), estimator=estimator, num=num, seed=4 + COMM.rank)
        close(shared, alone, 1e-12)
        everyone_has(shared)
    close(general(teams=teams).paths(40, seed=1), general().paths(40, seed=1), 1e-12)
    teams.close()


@pytest.mark.ranks(2)
def test_what_ranks_disagree_on_is_said_everywhere():
    teams = relax.Teams(COMM, 1)
    other = general(teams=teams)
    with torch.no_grad():
        other.drift.outer.bias += COMM.rank
    assert "same parameters" in str(raised_everywhere(BadInput, lambda: other.elbo(Seen())))
    noise = torch.tensor(1.0, requires_grad=True)
    hidden = raised_everywhere(BadInput, lambda: general(teams=teams).elbo(lambda w: -noise * w[:, 0] ** 2))
    assert "summed over the teams" in str(hidden)

    def fails_on_one(w):
        return -(w[:, 0] ** 2) if COMM.rank else w

    assert "one number per path" in str(raised_everywhere(BadInput, lambda: general(teams=teams).elbo(fails_on_one)))
    teams.close()


def test_precision_state_and_copies():
    torch.manual_seed(0)
    posterior, again = general(), general()
    close(gradients(general().float(), Seen().float(), seed=2), gradients(general(), Seen(), seed=2), 1e-4)
    assert general().float().elbo(Seen().float()).dtype == torch.float32
    with torch.no_grad():
        posterior.start += 1.0
    again.load_state_dict(posterior.state_dict())
    assert again.elbo(Seen(), seed=1) == posterior.elbo(Seen(), seed=1) == copy.deepcopy(posterior).elbo(Seen(), seed=1)
    torch.manual_seed(0)
    first = posterior.elbo(Seen())
    assert first != posterior.elbo(Seen())
    torch.manual_seed(0)
    assert first == posterior.elbo(Seen())
    # A float32 drift decides on the precision where nothing else does.
    assert PathPosterior(torch.nn.Linear(1, 1).double(), start=0.0).start.dtype == torch.float64


def test_torch_compile():
    """The drift compiled, and code around a bound."""
    compiled = general()
    compiled.drift = torch.compile(compiled.drift, backend="eager")
    close(gradients(compiled, Seen(), seed=2), gradients(general(), Seen(), seed=2), 1e-12)
    posterior, likelihood = general(), Seen()
    around = torch.compile(lambda: 2.0 * posterior.elbo(likelihood, seed=2), backend="eager")
    assert around().item() == pytest.approx(2.0 * posterior.elbo(likelihood, seed=2).item())


def test_doubtful_input():
    w = torch.tensor(1.0, requires_grad=True)
    net = Net()
    start = torch.zeros(2, dtype=torch.float64)
    ok = general()
    for call, words in (
        (lambda: PathPosterior(3.0), "drift"),
        (lambda: PathPosterior(net, "uo"), "did you mean 'ou'"),
        (lambda: PathPosterior(net, scheme="rk4"), "scheme"),
        (lambda: PathPosterior(net, steps=0), "steps"),
        (lambda: PathPosterior(net, sigma=0.0), "sigma"),
        (lambda: PathPosterior(net, start=start, sigma=[0.1, 0.2, 0.3]), "sigma"),
        (lambda: PathPosterior(net, start=float("nan")), "start"),
        (lambda: PathPosterior(net, start=start + w), "torch.nn.Parameter"),
        (lambda: PathPosterior(net, start=start.float()), "in the precision of the drift's parameters"),
        (lambda: PathPosterior(net, start=torch.zeros(2, dtype=torch.int64)), "start"),
        (lambda: ok.elbo(Seen(), estimator="sti"), "did you mean 'stl'"),
        (lambda: ok.elbo(Seen(), num=0), "num"),
        (lambda: ok.elbo(Seen(), seed=-1), "seed"),
        (lambda: ok.elbo(lambda x: x), "one number per path"),
        (lambda: ok.elbo(lambda x: 1.0), "one number per path"),
        (lambda: PathPosterior(lambda x, t: x[:, 0], start=start).elbo(Seen(), estimator="ckl"), "shape of w"),
        (lambda: PathPosterior(net, lambda x, t: 0.0, start=start).elbo(Seen()), "prior: expected a tensor"),
        (lambda: PathPosterior(lambda x, t: net(x, t), start=start).elbo(Seen()), "torch module"),
        (lambda: PathPosterior(Hides(net), start=start).elbo(Seen()), "register them"),
    ):
        with pytest.raises(BadInput) as caught:
            call()
        assert words in str(caught.value)
    with pytest.raises(SolveFailed, match="run away"):
        ok.elbo(lambda x: x[:, 0] * math.inf)


class Hides(torch.nn.Module):
    """A module that torch does not know the parameters of."""

    def __init__(self, net):
        super().__init__()
        self.nets = [net]

    def forward(self, w, t):
        return self.nets[0](w, t)


def test_one_module_under_two_names():
    """The drift keeps its weights, which get gradients, where it uses a layer twice."""

    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = self.second = torch.nn.Linear(1, 1)

        def forward(self, w, t):
            return self.first(w) + self.second(w) - w

    drift = Twice()
    PathPosterior(drift).elbo(lambda w: -((w[:, 0] - 1) ** 2), num=4, seed=0).backward()
    assert drift.second.weight.grad is not None and drift.first.weight.requires_grad
