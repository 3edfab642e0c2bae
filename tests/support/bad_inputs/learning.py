"""Layers, optimisers, inverse solvers of gradients; relaxed landscapes and misfits."""

from __future__ import annotations

import pickle

import numpy as np
import torch

from bad_inputs.given import COMM
from relax import (
    SGLD,
    ComplexLayer,
    ElasticSGD,
    EntropySGD,
    HalfInverse,
    HamiltonJacobi,
    HeatSmoothing,
    Parle,
    ProximalPoint,
    RelaxedLandscape,
    SolutionLayer,
    Teams,
    gauss_newton_inverse,
    lbfgs_inverse,
    physical_gradient,
)
from relax.relaxation import beta_from_eps, cole_hopf, hopf_lax, relax_misfit
from relax.train import heat_inverse, poisson_inverse


def weights(grad=True):
    return [torch.nn.Parameter(torch.ones(3))]


def layer(g, m, **more):
    return SolutionLayer(g.G, **more)(m)


def landscape(g, **more):
    return RelaxedLandscape(**{"mesh": g.line, "f": lambda x: x[0] ** 2, "beta": 2.0, "times": [0.1], **more})


def gradient(g, x=None, y=None, target=None, inverse=None, **more):
    x = torch.ones(g.G.size_in, dtype=torch.float64, requires_grad=True) if x is None else x
    y = SolutionLayer(g.G)(x) if y is None else y
    return physical_gradient(x, y, g.y if target is None else target, inverse or gauss_newton_inverse(g.G), **more)


def misfit(g, **more):
    G = more.pop("G", g.numbers)
    given = {"data": np.zeros(g.numbers.size_out), "box": [[0.5, 1.5]], "noise": 1.0, **more}
    return relax_misfit(G, given.pop("data"), given.pop("box"), **given)


def lax(**more):
    given = {"f": lambda x: x[0] ** 2, "x": [[0.0]], "t": 0.1, "box": [[-1.0, 1.0]], "num": 9, **more}
    return hopf_lax(given.pop("f"), given.pop("x"), given.pop("t"), **given)


def stepped(optimizer, closure=None):
    return optimizer.step(closure)


MISTAKES = {
    # layers
    "a layer: of a problem": (lambda g: SolutionLayer(g.problem), "expected a map, such as relax.ReducedMap"),
    "a layer: of complex numbers": (lambda g: layer(g, torch.ones(g.G.size_in) * 1j), "got torch.complex64"),
    "a layer: of integers": (lambda g: layer(g, torch.ones(g.G.size_in, dtype=torch.int64)), "got torch.int64"),
    "a layer: an array": (lambda g: layer(g, g.m), "expected a torch tensor, got ndarray"),
    "a layer: NaN": (lambda g: layer(g, torch.full((g.G.size_in,), torch.nan)), "NaN or infinite"),
    "a layer: too long": (lambda g: layer(g, torch.ones(g.G.size_in + 1)), "expected shape (..., "),
    "a layer: no axis": (lambda g: layer(g, torch.tensor(1.0)), "expected shape (..., "),
    "a layer: meta": (
        lambda g: layer(g, torch.ones(g.G.size_in, device="meta")),
        "SolutionLayer: expected a tensor with values, got a meta",
    ),
    "a layer: teams": (lambda g: layer(g, torch.ones(g.G.size_in), teams=3), "teams: expected relax.Teams"),
    "a layer: teams of another size": (
        lambda g: SolutionLayer(g.G, teams=Teams(COMM, 1)),
        "SolutionLayer: expected a map with the replicated layout on",
    ),
    "a layer: dense": (lambda g: SolutionLayer(g.G, dense=True), "DenseMap: expected a mesh on one rank"),
    "a layer: pickled": (
        lambda g: pickle.dumps(SolutionLayer(g.G)),
        "ReducedMap: cannot be pickled or sent to another process:",
    ),
    "a complex layer: odd": (
        lambda g: ComplexLayer(g.odd),
        "ComplexLayer: expected an even size_out, real and imaginary",
    ),
    "a third derivative": (lambda g: third(g), "at most two derivatives"),
    # optimisers
    "weights: none": (lambda g: SGLD([], beta=1.0), "SGLD: expected parameters, or groups of them: optimizer"),
    "weights: a module": (lambda g: SGLD(torch.nn.Linear(2, 2), beta=1.0), "SGLD: expected parameters"),
    "lr: negative": (
        lambda g: SGLD(weights(), lr=-1.0, beta=1.0),
        "SGLD: lr: expected a finite number of at least 0, got -1.0",
    ),
    "lr: NaN": (
        lambda g: EntropySGD(weights(), lr=np.nan, t=1.0, beta=1.0),
        "EntropySGD: lr: expected a finite number of at least 0, got",
    ),
    "beta: 0": (lambda g: SGLD(weights(), beta=0.0), "SGLD: beta: expected an inverse temperature > 0 (inf for no"),
    "beta: text": (
        lambda g: SGLD(weights(), beta="hot"),
        "SGLD: beta: expected an inverse temperature > 0 (inf for no",
    ),
    "t: negative": (lambda g: EntropySGD(weights(), t=-1.0, beta=1.0), "EntropySGD: t: expected a time >= 0, got -1.0"),
    "inner steps: 0": (
        lambda g: ProximalPoint(weights(), t=1.0, inner_steps=0),
        "ProximalPoint: inner_steps: expected a whole number of at",
    ),
    "inner lr: too large": (
        lambda g: EntropySGD(weights(), t=0.01, beta=1.0, inner_lr=1.0).step(lambda: 0.0),
        "EntropySGD: expected inner_lr / t < 2, else the spring",
    ),
    "momentum: 1": (
        lambda g: HamiltonJacobi(weights(), t=0.1, momentum=1.0),
        "HamiltonJacobi: momentum: expected a number in [0, 1), got",
    ),
    "nesterov: alone": (
        lambda g: HeatSmoothing(weights(), t=0.1, beta=1.0, nesterov=True),
        "HeatSmoothing: expected momentum > 0 with nesterov=True, got",
    ),
    "samples: odd": (
        lambda g: HeatSmoothing(weights(), t=0.1, beta=1.0, samples=3, antithetic=True),
        "HeatSmoothing: expected an even number of samples with",
    ),
    "a group: misspelt": (lambda g: SGLD([{"params": weights(), "moment": 0.5}], beta=1.0), "did you mean 'momentum'"),
    "a seed and a generator": (
        lambda g: SGLD(weights(), beta=1.0, seed=1, generator=torch.Generator()),
        "expected a seed or a generator",
    ),
    "a seed: text": (lambda g: SGLD(weights(), beta=1.0, seed="x"), "seed: expected a whole number of at least 0"),
    "a closure: None": (lambda g: EntropySGD(weights(), t=1.0, beta=1.0).step(), "expected a closure"),
    "a closure: of nothing": (lambda g: SGLD(weights(), beta=1.0).step(lambda: None), "returns the loss"),
    "a closure: a number": (
        lambda g: HamiltonJacobi(weights(), t=0.1).step(3.0),
        "HamiltonJacobi.step: expected a closure, which zeroes the gr",
    ),
    "a loss: text": (
        lambda g: SGLD(weights(), beta=1.0).step(lambda: "x"),
        "SGLD.step: expected a closure that returns one number",
    ),
    "a loss: a vector": (
        lambda g: SGLD(weights(), beta=1.0).step(lambda: torch.ones(3)),
        "SGLD.step: expected a closure that returns one number",
    ),
    "a loss: NaN": (lambda g: SGLD(weights(), beta=1.0).step(lambda: torch.tensor(np.nan)), "the loss is nan"),
    "replicas: a communicator": (
        lambda g: Parle(weights(), t=1.0, comm=3),
        "comm: expected a communicator, such as MPI.COMM_WORLD",
    ),
    "replicas: rho": (
        lambda g: ElasticSGD(weights(), rho=-1.0),
        "ElasticSGD: rho: expected a finite number of at least 0, got",
    ),
    "a state: another's": (
        lambda g: SGLD(weights(), beta=1.0).load_state_dict(torch.optim.SGD(weights()).state_dict()),
        "expected the state of",
    ),
    "eps: negative": (lambda g: beta_from_eps(-1.0), "beta_from_eps: expected a finite eps"),
    # half-inverse gradients
    "power: 2": (
        lambda g: HalfInverse(weights(), power=2.0),
        "HalfInverse: power: expected a number from -1 to 1, got 2.0",
    ),
    "rcond: negative": (
        lambda g: HalfInverse(weights(), rcond=-1.0),
        "HalfInverse: rcond: expected a number in [0, 1), got -1.0",
    ),
    "a method: a word": (
        lambda g: HalfInverse(weights(), method="magic"),
        "HalfInverse: method: expected 'auto', 'gram', 'svd' or",
    ),
    "cap: 0": (
        lambda g: HalfInverse(weights(), cap=0.0),
        "HalfInverse: cap: expected a finite number above 0, or None,",
    ),
    "half-inverse: no closure": (
        lambda g: HalfInverse(weights()).step(None),
        "HalfInverse.step: expected a closure that returns (y, loss),",
    ),
    "half-inverse: a loss alone": (
        lambda g: HalfInverse(weights()).step(lambda: torch.tensor(1.0)),
        "HalfInverse.step: expected a closure that returns (y, loss)",
    ),
    "half-inverse: teams": (lambda g: HalfInverse(weights(), teams=3), "teams: expected relax.Teams"),
    # physical gradients
    "an inverse: None": (
        lambda g: physical_gradient(torch.ones(3), g.y, g.y, None),
        "physical_gradient: inverse: expected a function of the resid",
    ),
    "an inverse: of a problem": (
        lambda g: gauss_newton_inverse(g.problem),
        "gauss_newton_inverse: expected a map, such as relax.ReducedM",
    ),
    "an inverse: steps": (
        lambda g: gauss_newton_inverse(g.G, steps=0),
        "gauss_newton_inverse: steps: expected a whole number of at",
    ),
    "an inverse: damping": (
        lambda g: gauss_newton_inverse(g.G, damping=-1.0),
        "gauss_newton_inverse: damping: expected a finite number of",
    ),
    "an inverse: lbfgs": (
        lambda g: lbfgs_inverse(g.G, noise=1.0, prior=g.prior, colour=3),
        "lbfgs_inverse: colour: expected memory, atol or max_halvings",
    ),
    "an inverse: of heat": (
        lambda g: heat_inverse(g.G),
        "heat_inverse: expected a map of an evolution whose one contr",
    ),
    "an inverse: modes": (
        lambda g: heat_inverse(g.H, modes=0),
        "heat_inverse: modes: expected a whole number of at least 1,",
    ),
    "an inverse: of Poisson": (
        lambda g: poisson_inverse(g.H),
        "poisson_inverse: expected a map of a stationary problem that",
    ),
    "x: an array": (
        lambda g: gradient(g, x=g.m, y=g.y),
        "physical_gradient: x: expected a tensor of floating point nu",
    ),
    "a target: too short": (
        lambda g: gradient(g, target=np.ones(2)),
        "physical_gradient: expected y and target of one shape, got",
    ),
    "a target: NaN": (
        lambda g: gradient(g, target=np.full(g.G.size_out, np.nan)),
        "physical_gradient: target: 16 of 16 entries are NaN or infin",
    ),
    "a step: negative": (
        lambda g: gradient(g, step=-1.0),
        "physical_gradient: step: expected one finite number above 0,",
    ),
    "a proxy: a word": (
        lambda g: gradient(g, proxy="l3"),
        "physical_gradient: proxy: expected 'l2' or 'l1', got 'l3';",
    ),
    "a weight: text": (lambda g: gradient(g, weight="x"), "physical_gradient: weight: expected finite numbers of at"),
    # landscapes
    "a landscape: beta": (lambda g: landscape(g, beta=-1.0), "beta: expected a finite number above 0, got -1.0"),
    "a landscape: no times": (
        lambda g: landscape(g, times=[]),
        "times: expected different finite times of at least 0, got []",
    ),
    "a landscape: time NaN": (
        lambda g: landscape(g, times=[np.nan]),
        "times: expected different finite times of at least 0, got",
    ),
    "a landscape: f": (lambda g: landscape(g, f="x"), "expected a finite number, a function of x, a UFL expression,"),
    "a landscape: f is NaN": (
        lambda g: landscape(g, f=lambda x: np.nan * x[0]),
        "hamilton_jacobi: f: expected finite values with finite slope",
    ),
    "a landscape: f of another length": (
        lambda g: landscape(g, f=lambda x: np.ones(2)),
        "a function of x gave shape (2,) for x of shape (3, 33); expe",
    ),
    "a landscape: f that fails": (
        lambda g: landscape(g, f=lambda x: x[4]),
        "a function of x failed: IndexError: index 4 is out of bounds",
    ),
    "a landscape: steps": (
        lambda g: landscape(g, num_steps=0),
        "num_steps: expected a whole number of at least 1, got 0",
    ),
    "a landscape: a route": (
        lambda g: landscape(g, route="x"),
        "hamilton_jacobi: route: expected 'direct', 'cole_hopf' or",
    ),
    "a landscape: theta": (
        lambda g: landscape(g, theta=3.0),
        "theta: expected a number above 0 and at most 1, 'midpoint'",
    ),
    "a landscape: no mesh": (
        lambda g: landscape(g, mesh=None),
        "RelaxedLandscape: mesh: expected a mesh, such as relax.meshe",
    ),
    "a landscape: at a time": (
        lambda g: g.landscape.value([[0.0]], 9.0),
        "t: expected a time between 0 and 0.5, the last of `times`",
    ),
    "a landscape: at a place": (
        lambda g: g.landscape.gradient([[9.0]], 0.1),
        "1 of 1 points lie outside the mesh: 0: (9.0,). relax.observe",
    ),
    "a landscape: in the plane": (
        lambda g: g.landscape.value(np.zeros((1, 2)), 0.1),
        "points: expected shape (num_points, 1) with num_points > 0",
    ),
    "a landscape: at text": (
        lambda g: g.landscape.hessian("x", 0.1),
        "points: expected coordinates, an array of shape (num_points,",
    ),
    "a landscape: a field": (
        lambda g: g.landscape.field(7.0),
        "t: expected a time between 0 and 0.5, the last of `times`",
    ),
    "a descent: from outside": (
        lambda g: g.landscape.descend([[9.0]], [0.5, 0.1]),
        "1 of 1 points lie outside the mesh: 0: (9.0,). relax.observe",
    ),
    "a descent: steps": (
        lambda g: g.landscape.descend([[0.0]], [0.1], steps=0),
        "steps: expected a whole number of at least 1, got 0",
    ),
    "a descent: rate": (
        lambda g: g.landscape.descend([[0.0]], [0.1], rate=np.nan),
        "rate: expected a finite number above 0, got nan",
    ),
    "a descent: a schedule": (
        lambda g: g.landscape.descend([[0.0]], []),
        "schedule: expected times between 0 and 0.5, the last of the",
    ),
    "a misfit: of a field": (lambda g: misfit(g, G=g.G), "relax_misfit: expected a control of 1 to 3 numbers"),
    "a misfit: a box": (
        lambda g: misfit(g, box=[[1.5, 0.5]]),
        "box: expected finite bounds, each lower one below its upper",
    ),
    "a misfit: another box": (
        lambda g: misfit(g, box=[[0.0, 1.0], [0.0, 1.0]]),
        "box: expected a lower and an upper bound for each of 1 numbe",
    ),
    "a misfit: data": (lambda g: misfit(g, data=np.ones(2)), "data: expected shape (..., 16), got"),
    "a misfit: noise": (lambda g: misfit(g, noise=-1.0), "noise: expected positive standard deviations, got -1; it"),
    "a misfit: num": (lambda g: misfit(g, num=0), "num: expected a whole number of at least 2, got 0"),
    "a misfit: starts": (
        lambda g: misfit(g, starts=[[9.0]]),
        "starts: expected points in the box [[0.5, 1.5]], got some",
    ),
    "a misfit: a box of NaN": (
        lambda g: misfit(g, box=[[np.nan, 1.0]]),
        "box: expected finite bounds, each lower one below its upper",
    ),
    "hopf_lax: t": (lambda g: lax(t=-1.0), "t: expected a finite number above 0, got -1.0"),
    "hopf_lax: a box": (
        lambda g: lax(box=[[1.0, -1.0]]),
        "box: expected finite bounds, each lower one below its upper",
    ),
    "hopf_lax: num": (lambda g: lax(num=1), "hopf_lax: num: expected a whole number of at least 3, got 1"),
    "hopf_lax: f": (lambda g: lax(f="x"), "hopf_lax: box, num and gradient are for a function f at poin"),
    "hopf_lax: x": (lambda g: lax(x="x"), "x: expected points, an array of shape (n, d): could not conv"),
    "cole_hopf: beta": (
        lambda g: cole_hopf.value(lambda x: x[0], [[0.0]], 0.1, beta=-1.0),
        "beta: expected a finite number above 0, got -1.0",
    ),
    "cole_hopf: t": (
        lambda g: cole_hopf.heat(lambda x: x[0], [[0.0]], np.nan, beta=1.0),
        "t: expected a finite number above 0, got nan",
    ),
}


def third(g):
    m = torch.ones(g.G.size_in, dtype=torch.float64, requires_grad=True)
    (a,) = torch.autograd.grad(SolutionLayer(g.G)(m).square().sum(), m, create_graph=True)
    (b,) = torch.autograd.grad(a.sum(), m, create_graph=True)
    return torch.autograd.grad(b.sum(), m)
