"""Complex tensors in and out: the order of pairs, torch's convention of gradients, precisions, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import ufl
from contract import COMM, Bench, close, everyone_has, raised_everywhere
from dolfinx import fem
from layer_contract import DIFFERENCES
from mpi4py import MPI
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jacrev, jvp, vmap

import relax
from relax import ComplexLayer, FieldValues, Functional, PointValues, Problem, ReducedMap, SolutionLayer, Stack, meshes
from relax.errors import BadInput
from relax.layer.complex import as_complex, as_real

DT = 0.4


def gross_pitaevskii(domain):
    """A backward Euler step of i psi_t = -1/2 Lap psi + |psi|^2 psi, free at the ends; psi before it is the control.

    Not linear, and not holomorphic: conj(psi) stands in it.
    """
    V = fem.functionspace(domain, ("Lagrange", 1, (2,)))
    psi, before, v = fem.Function(V, name="psi"), fem.Function(V, name="before"), ufl.TestFunction(V)
    before.interpolate(lambda x: np.stack([np.cos(x[0]), np.sin(2.0 * x[0]) + x[1]]))
    # i psi_t is (-u_1, u_0)_t.
    turned = ufl.as_vector([before[1] - psi[1], psi[0] - before[0]]) / DT
    F = ufl.inner(turned - ufl.inner(psi, psi) * psi, v) * ufl.dx - 0.5 * ufl.inner(ufl.grad(psi), ufl.grad(v)) * ufl.dx
    return Problem(residual=F, state=psi, controls=[before], name="gross_pitaevskii")


class Step:
    make = staticmethod(gross_pitaevskii)
    domain = staticmethod(lambda comm: meshes.interval(3, (0.0, 2.0), comm=comm))
    observe = staticmethod(lambda problem: FieldValues(problem.state.function_space))


class Wide(Step):
    """Fewer observations than controls: the two sizes are not mistaken for each other."""

    observe = staticmethod(lambda problem: PointValues(problem.state.function_space, [[0.3], [1.1], [1.9]]))


@pytest.fixture(scope="module", params=[Step, Wide], ids=["field", "points"])
def bench(request):
    torch.manual_seed(0)
    bench = Bench(request.param)
    yield bench
    bench.close()


@pytest.fixture
def layer(bench):
    # torch.autograd's checks draw their own random numbers: every rank must draw the same.
    torch.manual_seed(0)
    return ComplexLayer(bench.replicated)


def complex_of(pairs):
    """Independent of torch's views: even places and odd places."""
    return pairs[..., 0::2] + 1j * pairs[..., 1::2]


def pairs_of(numbers):
    pairs = np.empty((*numbers.shape[:-1], 2 * numbers.shape[-1]))
    pairs[..., 0::2], pairs[..., 1::2] = numbers.real, numbers.imag
    return pairs


def controls(bench, *shape):
    """Complex controls near the start."""
    k = int(np.prod(shape))
    return torch.from_numpy(complex_of(bench.controls(k)).reshape(*shape, -1))


def seeds(bench, *shape):
    return torch.from_numpy(complex_of(bench.seeds(*shape)))


# -- pairs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4,), (2, 3), (0, 5), (2, 0)], ids=str)
def test_pairs_and_back(shape):
    rng = np.random.default_rng(0)
    z = torch.from_numpy(rng.normal(size=shape) + 1j * rng.normal(size=shape))
    for given in (z, z.conj(), z.to(torch.complex64), z.mT.contiguous().mT if z.ndim > 1 else z.flip(0)):
        x = as_real(given)
        assert x.shape == (*shape[:-1], 2 * shape[-1]) and x.dtype == given.real.dtype
        np.testing.assert_array_equal(x.numpy(), pairs_of(given.resolve_conj().numpy()).astype(x.numpy().dtype))
        assert torch.equal(as_complex(x), given)
    # Pairs that do not lie side by side in memory.
    x = torch.from_numpy(rng.normal(size=(6, 8)))
    for strided in (x.t(), x[:, ::2], x[:, 1:5], -x):
        np.testing.assert_array_equal(as_complex(strided).numpy(), complex_of(strided.numpy()))


def test_pairs_are_differentiable():
    z = torch.randn(3, 2, dtype=torch.complex128, generator=torch.Generator().manual_seed(0)).requires_grad_()
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    for f, at in ((as_real, z), (as_complex, x)):
        assert gradcheck(f, (at,), check_forward_ad=True) and gradgradcheck(f, (at,))
        assert torch.equal(vmap(f)(at), f(at))


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    ("action", "words"),
    [
        (lambda: as_real(torch.ones(4)), "float32"),
        (lambda: as_real(np.ones(4, dtype=complex)), "ndarray"),
        (lambda: as_real(torch.tensor(1j)), "last axis"),
        (lambda: as_complex(torch.ones(2, 3)), "(2, 3)"),
        (lambda: as_complex(torch.ones(4, dtype=torch.complex64)), "complex64"),
        (lambda: as_complex(torch.ones(4, dtype=torch.float16)), "float16"),
        (lambda: as_complex([1.0, 2.0]), "list"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_pairs(action, words):
    message = str(raised_everywhere(BadInput, action))
    assert "expected" in message and words in message


def test_the_order_is_that_of_the_field(bench, layer):
    """Entry j of the complex control is psi at node j of the replicated order."""
    G = bench.replicated
    V = bench.problem.state.function_space
    x = FieldValues(V).coordinates[::2, 0]
    close(as_complex(torch.from_numpy(bench.start)).numpy(), np.cos(x) + 1j * np.sin(2.0 * x), 1e-14)
    close(layer(as_complex(torch.from_numpy(bench.start))).numpy(), complex_of(G(bench.start)))


# -- values and gradients ----------------------------------------------------------------------------------------------


@pytest.mark.ranks(1, 2)
def test_values(bench, layer):
    """One sample, a batch, leading axes, nothing at all; the same for a real tensor of pairs."""
    M = controls(bench, 2, 2)
    each = np.array([[complex_of(bench.replicated(pairs_of(m.numpy()))) for m in row] for row in M])
    y = layer(M)
    assert y.dtype == torch.complex128 and y.shape == (2, 2, bench.replicated.size_out // 2)
    everyone_has(y.numpy())
    close(y.numpy(), each)
    close(layer(M[0, 1]).numpy(), each[0, 1])
    close(layer(M.conj()).numpy(), layer(M.conj().resolve_conj()).numpy())
    close(layer(as_real(M)).numpy(), each)
    assert layer(M[:0]).shape == (0, 2, bench.replicated.size_out // 2)
    assert (layer.size_in, layer.size_out) == (bench.replicated.size_in, bench.replicated.size_out)
    assert f"{layer.size_in // 2} -> {layer.size_out // 2}" in repr(layer)


def test_gradcheck(bench, layer):
    m = controls(bench, 1)[0].requires_grad_()
    assert gradcheck(layer, (m,), check_forward_ad=True, **DIFFERENCES)
    assert gradcheck(layer, (as_real(m.detach()).requires_grad_(),), **DIFFERENCES)


@pytest.mark.slow
def test_gradgradcheck(bench, layer):
    assert gradgradcheck(layer, (controls(bench, 1)[0].requires_grad_(),), **DIFFERENCES)


def loss_of(y, w):
    """Real, and not symmetric under y -> conj(y)."""
    return (w.conj() * y).real.sum() + (y.abs() ** 4).sum()


def test_gradients_are_torchs(bench, layer):
    """dL/dRe + i dL/dIm: by the map's adjoint, and by differences of real numbers that know nothing of torch."""
    G, m, w = bench.replicated, controls(bench, 1)[0].requires_grad_(), seeds(bench)
    loss_of(layer(m), w).backward()
    start, weight = pairs_of(m.detach().numpy()), w.numpy()

    def loss(pairs):
        y = complex_of(G(pairs))
        return (weight.conj() * y).real.sum() + (np.abs(y) ** 4).sum()

    step = 1e-4
    slopes = [(loss(start + step * e) - loss(start - step * e)) / (2 * step) for e in np.eye(start.size)]
    # Central differences: step**2 of truncation, 1e-12 (Newton) / step of rounding.
    np.testing.assert_allclose(m.grad.numpy(), complex_of(np.array(slopes)), rtol=1e-5, atol=1e-6)
    y = complex_of(G(start))
    with G.linearize(start) as lin:
        close(m.grad.numpy(), complex_of(lin.vjp(pairs_of(weight + 4.0 * np.abs(y) ** 2 * y))))
    # The same loss of the same numbers as a real tensor, and down the gradient is downhill.
    x = as_real(m.detach()).requires_grad_()
    loss_of(layer(x), w).backward()
    close(x.grad.numpy(), pairs_of(m.grad.numpy()))
    assert loss_of(layer(m.detach() - 1e-3 * m.grad), w) < loss_of(layer(m.detach()), w)


def test_functional_transforms(bench, layer):
    """vmap, jvp, grad and jacrev of torch.func."""
    M, w = controls(bench, 3), seeds(bench, 3)
    close(vmap(layer)(M).numpy(), layer(M).numpy())
    leaf = M.clone().requires_grad_()
    loss_of(layer(leaf), w).backward()
    close(vmap(grad(lambda m, w: loss_of(layer(m), w)))(M, w).numpy(), leaf.grad.numpy())
    real = as_real(M[0])
    with bench.replicated.linearize(real.numpy()) as lin:
        J, d = lin.matrix(), bench.directions()
        tangent = lin.jvp(d)
    close(jacrev(lambda x: as_real(layer(x)))(real).numpy(), J)
    close(jacrev(lambda x: as_real(layer(as_complex(x))))(real).numpy(), J)
    close(jvp(layer, (M[0],), (as_complex(torch.from_numpy(d)),))[1].numpy(), complex_of(tangent))


@pytest.mark.parametrize(
    ("dtype", "result"),
    [
        (torch.complex64, torch.complex64),
        (torch.complex128, torch.complex128),
        (torch.float32, torch.complex64),
        (torch.float64, torch.complex128),
    ],
    ids=str,
)
def test_precisions(bench, layer, dtype, result):
    """In and out in the caller's precision; computed in double."""
    m = controls(bench, 2)
    m = (m if dtype.is_complex else as_real(m)).to(dtype).requires_grad_()
    y = layer(m)
    y.abs().sum().backward()
    exact = m.detach().to(torch.complex128 if dtype.is_complex else torch.float64)
    assert y.dtype == result and m.grad.dtype == dtype
    assert torch.equal(y, layer(exact).to(result))
    exact.requires_grad_()
    layer(exact).abs().sum().backward()
    # The gradient of |y| is rounded to y's precision on its way to the map.
    eps = torch.finfo(dtype).eps
    np.testing.assert_allclose(m.grad.numpy(), exact.grad.numpy(), rtol=0, atol=20 * eps * exact.grad.abs().max())


@pytest.mark.ranks(1, 2)
def test_a_wave_learns_where_it_came_from(bench, layer):
    """A complex parameter of torch's own optimiser finds the psi before the step from its observations after it."""
    m = controls(bench, 1)[0]
    target = layer(m)
    guess = torch.nn.Parameter(controls(bench, 2)[1])
    optimiser = torch.optim.Adam([guess], lr=0.05)
    losses = []
    for _ in range(25):
        optimiser.zero_grad()
        loss = ((layer(guess) - target).abs() ** 2).sum()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]
    everyone_has(guess.detach().numpy())


@pytest.mark.ranks(1, 2)
def test_rank_0s_control_counts(bench, layer):
    m, w = controls(bench, 1)[0], seeds(bench)
    mine = (m * (1.0 + 1e-9j * COMM.rank)).requires_grad_()
    y = layer(mine)
    loss_of(y, w).backward()
    everyone_has(y.detach().numpy())
    everyone_has(mine.grad.numpy())
    close(y.detach().numpy(), layer(m).numpy())


@pytest.mark.ranks(1, 2)
def test_the_owned_layout(bench):
    """Each rank hands over its own part, as complex numbers, and gets the gradient of it."""
    m, w = controls(bench, 1)[0], seeds(bench)
    whole = m.clone().requires_grad_()
    loss_of(ComplexLayer(bench.replicated)(whole), w).backward()
    mine = torch.from_numpy(complex_of(bench.cut(pairs_of(m.numpy())))).requires_grad_()
    y = ComplexLayer(bench.owned)(mine)
    loss_of(y, w).backward()
    everyone_has(y.detach().numpy())
    close(mine.grad.numpy(), complex_of(bench.cut(pairs_of(whole.grad.numpy()))))


@pytest.mark.ranks(1, 2)
def test_samples_over_teams():
    teams = relax.Teams(COMM, 1)
    shared, alone = Bench(Step, teams.space), Bench(Step, MPI.COMM_SELF)
    M, w = controls(alone, 5), seeds(alone, 5)
    results = []
    for layer in (ComplexLayer(shared.replicated, teams=teams), ComplexLayer(alone.replicated)):
        leaf = M.clone().requires_grad_()
        y = layer(leaf)
        loss_of(y, w).backward()
        results.append((y.detach().numpy(), leaf.grad.numpy()))
    for ours, theirs in zip(*results, strict=True):
        close(ours, theirs)
    shared.close()
    alone.close()
    teams.close()


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.ranks(1, 2)
def test_wrong_tensors_are_refused_on_every_rank(bench, layer):
    m = controls(bench, 1)[0]
    n = layer.size_in
    nan = m.clone()
    nan[: int(COMM.rank == COMM.size - 1)] = complex(0.0, np.nan)
    longer = torch.cat([m, m[:1]]) if COMM.rank == COMM.size - 1 else m
    for bad, words in (
        (m.numpy(), "ndarray"),
        (torch.ones(n, dtype=torch.int64), "int64"),
        (torch.ones(n, dtype=torch.float16), "float16"),
        (torch.tensor(1j), "last axis"),
        (torch.ones(3, n, dtype=torch.complex128), f"(..., {n // 2}) complex or (..., {n}) real, got (3, {n})"),
        (torch.ones(n // 2, dtype=torch.float64), f"(..., {n}) real, got ({n // 2},)"),
        (longer, f"got ({n // 2 + 1},)"),
        (nan, "NaN"),
    ):
        message = str(raised_everywhere(BadInput, lambda bad=bad: layer(bad)))
        assert "expected" in message and words in message
    assert layer(m).isfinite().all()


@pytest.mark.ranks(1, 2)
def test_odd_sizes():
    """Observations that are no pairs are refused at once, a complex control that is none when it comes."""
    problem = relax.pdes.poisson.source(meshes.interval(4))
    V = problem.state.function_space
    points = PointValues(V, [0.3, 0.6])
    with ReducedMap(problem, Stack([points, Functional(problem.state * ufl.dx)])) as G:
        message = str(raised_everywhere(BadInput, lambda: ComplexLayer(G)))
        assert "even size_out" in message and "got 3" in message
    with ReducedMap(problem, points) as G:
        assert G.size_in == 5
        layer = ComplexLayer(G)
        message = str(raised_everywhere(BadInput, lambda: layer(torch.ones(2, dtype=torch.complex128))))
        assert "(..., 5)" in message and "complex128" in message
        m = torch.linspace(1.0, 2.0, 5, dtype=torch.float64)
        close(layer(m).numpy(), complex_of(SolutionLayer(G)(m).numpy()))
        message = str(raised_everywhere(BadInput, lambda: layer(m[:4])))
        assert "expected shape (..., 5) real, got (4,)" in message
