"""What every SolutionLayer must do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from contract import COMM, LAYOUTS, close, everyone_has, raised_everywhere, same
from torch.autograd import gradcheck, gradgradcheck
from torch.func import hessian, jacfwd, jacrev, jvp, vjp, vmap

from relax import FieldValues, SolutionLayer, meshes
from relax.errors import BadInput, RelaxError

# Central differences with this step are exact to its square, 1e-8, and to rounding (Newton's, 1e-12) over it, 1e-8.
DIFFERENCES = {"eps": 1e-4, "atol": 1e-6, "rtol": 1e-5}


class LayerContract:
    """A layer over a map: every transform of torch against the map's own products.

    Attributes:
        make: a function of a mesh that returns the Problem.
        domain: a function of a communicator that returns the mesh, a tiny one.
        observe: a function of the problem that returns the observable.
    """

    make = None
    domain = staticmethod(lambda comm: meshes.unit_square(2, comm=comm))
    observe = staticmethod(lambda problem: FieldValues(problem.state.function_space))

    @pytest.fixture
    def layer(self, bench):
        # torch.autograd's checks draw their own random numbers: every rank must draw the same.
        torch.manual_seed(0)
        return SolutionLayer(bench.replicated)

    @staticmethod
    def controls(bench, *shape):
        k = int(np.prod(shape))
        return torch.from_numpy(bench.controls(k).reshape(*shape, -1)).requires_grad_()

    def test_gradcheck(self, bench, layer):
        assert gradcheck(layer, (self.controls(bench, 1)[0],), check_forward_ad=True, **DIFFERENCES)
        assert gradcheck(layer, (self.controls(bench, 2),), check_forward_ad=True, **DIFFERENCES)

    def test_gradgradcheck(self, bench, layer):
        options = {"check_fwd_over_rev": True, "check_rev_over_rev": True, **DIFFERENCES}
        assert gradgradcheck(layer, (self.controls(bench, 1)[0],), **options)

    def test_one_sample(self, bench, layer):
        m, d, w = self.controls(bench, 1)[0], bench.directions(), bench.seeds()
        with bench.replicated.linearize(m.detach().numpy()) as lin:
            J, H = lin.matrix(), [lin.hvp(w, e) for e in np.eye(layer.size_in)]
            second = lin.hvp(np.eye(layer.size_out), d)
            value, tangent, adjoint = lin.value, lin.jvp(d), lin.vjp(w)
        m_, d, w = m.detach(), torch.from_numpy(d), torch.from_numpy(w)
        close(layer(m).detach(), value)
        (gradient,) = torch.autograd.grad(layer(m), m, w)
        close(gradient, adjoint)
        for ours, theirs in zip(jvp(layer, (m_,), (d,)), (value, tangent), strict=True):
            close(ours, theirs)
        close(vjp(layer, m_)[1](w)[0], adjoint)
        close(jacrev(layer)(m_), J)
        close(jacfwd(layer)(m_), J)

        def loss(m):
            return layer(m) @ w

        close(hessian(loss)(m_), H)
        close(jacrev(jacrev(loss))(m_), H)
        close(jacrev(jacfwd(loss))(m_), H)
        # Forward over forward costs a Hessian action for each observation: one pair of directions is enough.
        close(jvp(lambda m: jvp(loss, (m,), (d,))[1], (m_,), (0.5 * d,))[1], 0.5 * d @ torch.tensor(np.array(H)) @ d)
        close(jvp(jacrev(layer), (m_,), (d,))[1], second)
        close(torch.autograd.functional.hessian(loss, m_), H)

    @pytest.mark.ranks(1, 2)
    def test_many_samples(self, bench, layer):
        """Leading axes, vmap over samples, over directions, and over both."""
        m, w = self.controls(bench, 2, 2), torch.from_numpy(bench.seeds(2, 2))
        each = [[layer(one).detach().numpy() for one in row] for row in m]
        y = layer(m)
        assert y.shape == (2, 2, layer.size_out)
        close(y.detach(), each)
        (gradients,) = torch.autograd.grad(y, m, w)
        for index in np.ndindex(2, 2):
            with bench.replicated.linearize(m[index].detach().numpy()) as lin:
                close(gradients[index], lin.vjp(w[index].numpy()))
        M = m.detach()
        close(vmap(layer)(M), each)
        close(vmap(vmap(layer))(M), each)
        close(vmap(layer, in_dims=1, out_dims=1)(M), each)
        J = vmap(vmap(jacrev(layer)))(M)
        close(vmap(vmap(jacfwd(layer)))(M), J)
        close(J[1, 0], jacrev(layer)(M[1, 0]))
        d = torch.from_numpy(bench.directions(3))
        close(vmap(lambda v: jvp(layer, (M[0, 0],), (v,))[1])(d), d @ J[0, 0].T)
        pulled = vmap(lambda one, v: vjp(layer, one)[1](v)[0])(M[0], w[0])
        close(pulled, gradients[0])

    def test_forwards_then_backwards_in_any_order(self, bench, layer):
        """Each forward pass owns its points: bitwise the gradients of one at a time."""
        w = torch.from_numpy(bench.seeds())
        alone = []
        for m in self.controls(bench, 4):
            leaf = m.detach().clone().requires_grad_()
            (layer(leaf) @ w).backward()
            alone.append(leaf.grad)
        leaves = [m.detach().clone().requires_grad_() for m in self.controls(bench, 4)]
        losses = [layer(leaf) @ w for leaf in leaves]
        for i in (2, 0, 3, 1):
            losses[i].backward()
        for leaf, gradient in zip(leaves, alone, strict=True):
            same(leaf.grad.numpy(), gradient.numpy())

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_other_precisions(self, bench, layer, dtype):
        """In and out in the caller's precision; computed in double."""
        m = self.controls(bench, 2).detach().to(dtype).requires_grad_()
        y = layer(m)
        y.sum().backward()
        exact = m.detach().double().requires_grad_()
        expected = layer(exact)
        expected.sum().backward()
        assert y.dtype == m.grad.dtype == dtype
        assert torch.equal(y, expected.to(dtype)) and torch.equal(m.grad, exact.grad.to(dtype))

    @pytest.mark.ranks(1, 2)
    def test_wrong_tensors_are_refused_on_every_rank(self, bench, layer):
        m = self.controls(bench, 1)[0].detach()
        n = layer.size_in
        nan = m.clone()
        nan[: int(COMM.rank == COMM.size - 1)] = np.nan
        for bad, words in (
            (torch.ones(n, dtype=torch.int64), "int64"),
            (m.to(torch.complex128), "complex128"),
            (m.numpy(), "ndarray"),
            (torch.ones(3, n + 1), f"(..., {n}), got (3, {n + 1})"),
            (torch.tensor(1.0), f"(..., {n})"),
            (nan, "NaN"),
        ):
            message = str(raised_everywhere(BadInput, lambda bad=bad: layer(bad)))
            assert "expected" in message and words in message
        y = layer(m.requires_grad_())
        raised_everywhere(BadInput, lambda: y.backward(torch.full_like(y, np.nan)))

    def test_what_torch_batches_itself(self, bench, layer):
        """Its older vmap: ``is_grads_batched``, and ``vectorize`` of torch.autograd.functional; hvp by two sweeps."""
        m = self.controls(bench, 1)[0].detach()
        functional, eye = torch.autograd.functional, torch.eye(layer.size_out, dtype=torch.float64)
        J = torch.func.jacrev(layer)(m)
        live = m.clone().requires_grad_()
        (rows,) = torch.autograd.grad(layer(live), live, eye, is_grads_batched=True)
        close(rows, J)
        close(functional.jacobian(layer, m, vectorize=True), J)
        close(functional.jacobian(layer, m, vectorize=True, strategy="forward-mode"), J)

        def loss(x):
            return (layer(x) ** 3).sum()

        # An observable without a second derivative of its own takes a difference, along another direction here.
        H, near = torch.func.hessian(loss)(m), 1e-6
        close(functional.hessian(loss, m, vectorize=True), H, near)
        v = torch.linspace(-1.0, 1.0, layer.size_in, dtype=torch.float64)
        close(functional.hvp(loss, m, v)[1], H @ v, near)
        close(functional.vhp(loss, m, v)[1], H @ v, near)
        mixed = functional.hvp(loss, m.clone().requires_grad_(), v, create_graph=True)[1]
        raised_everywhere(RelaxError, lambda: mixed.sum().backward())

    def test_a_third_derivative_says_so(self, bench, layer):
        m = self.controls(bench, 1)[0]
        (g,) = torch.autograd.grad((layer(m) ** 3).sum(), m, create_graph=True)
        (h,) = torch.autograd.grad((g**3).sum(), m, create_graph=True)
        message = str(raised_everywhere(RelaxError, lambda: torch.autograd.grad((h**3).sum(), m)))
        assert "third" in message

    def test_without_gradients(self, bench, layer):
        m = self.controls(bench, 2)
        with torch.no_grad():
            y = layer(m)
        assert not y.requires_grad and not layer(m.detach()).requires_grad
        close(y, layer(m).detach())
        assert layer(m[:0]).shape == (0, layer.size_out)

    @pytest.mark.ranks(1, 2)
    def test_in_a_network(self, bench, layer):
        """A linear layer before the PDE learns to hit a target; the gradient is that of every rank."""
        m = self.controls(bench, 2).detach()
        target = layer(m)
        net = torch.nn.Sequential(torch.nn.Linear(2, layer.size_in, dtype=torch.float64), layer)
        with torch.no_grad():
            net[0].bias.copy_(m.mean(0))
        optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
        losses = []
        for _ in range(8):
            optimiser.zero_grad()
            loss = ((net(torch.eye(2, dtype=torch.float64)) - target) ** 2).sum()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        assert losses[-1] < 0.8 * losses[0]
        for parameter in net.parameters():
            everyone_has(parameter.detach().numpy())

    @pytest.mark.ranks(1, 2)
    def test_rank_0s_control_counts_once(self, bench, layer):
        """Ranks whose controls differ by rounding, and any seeds, get rank 0's answer, not a multiple of it."""
        m, w = self.controls(bench, 1)[0].detach(), torch.from_numpy(bench.seeds())
        mine = (m * (1.0 + 1e-9 * COMM.rank)).requires_grad_()
        y = layer(mine)
        y.backward(w * (1 + COMM.rank))
        with bench.replicated.linearize(m.numpy()) as lin:
            same(y.detach().numpy(), lin.value)
            same(mine.grad.numpy(), lin.vjp(w.numpy()))
        everyone_has(mine.grad.numpy())
        if COMM.size > 1:
            of_my_own = m + 0.1 * COMM.rank
            assert "relax.Teams" in str(raised_everywhere(BadInput, lambda: layer(of_my_own)))

    @pytest.mark.ranks(1, 2)
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, bench, layout):
        """Under the owned layout each rank gets the gradient of its own part, of the one global loss."""
        m, w = bench.controls(2), bench.seeds(2)
        G = getattr(bench, layout)
        layer = SolutionLayer(G)
        cut = bench.cut if layout == "owned" else np.array
        mine = torch.from_numpy(np.array([cut(row) for row in m])).requires_grad_()
        y = layer(mine)
        y.backward(torch.from_numpy(w))
        for i in range(2):
            with bench.replicated.linearize(m[i]) as lin:
                close(y[i].detach(), lin.value)
                close(mine.grad[i], cut(lin.vjp(w[i])))
