"""A torch module inside a UFL form, whose weights are a control."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import ufl
from torch import Tensor
from ufl.core.expr import Expr

from relax.base import parallel
from relax.base.fem.pointwise import PointLaw
from relax.base.start import one_torch_thread_per_rank
from relax.base.types import Array
from relax.errors import BadInput, BadProblem

one_torch_thread_per_rank()

# Points that go through the network at once: what its layers hold of them stays in the cache, or near it.
_ROWS = 16384
# Rows of a trial, and how far one by itself may be from the same one among others: sums in another order.
_TRIAL, _SAME = 16, 1e-9


class LearnedCoefficient(PointLaw):
    """The coefficient k(x) = N(z(x); θ) of a form: a network N at quadrature points, whose weights θ are a control.

    z is the components of ``inputs`` side by side, such as (u, ∂u/∂x, ∂u/∂y): the network takes a tensor (n, d) of n
    points to (n, *shape), one with as many numbers, (n, 1) of a scalar, serves. It stands in the residual of a
    ``Problem``, in integrals over cells, as any coefficient: constitutive laws, closures, reaction terms. Newton's
    method sees dk = ∂N/∂z dz, tangents, adjoints and Hessian actions are those of the sum that is solved, exactly.

    In ``controls`` it stands for θ: its part of a control vector is ``parameters_to_vector(network.parameters())``,
    (num_weights,), on every rank in the replicated layout, on rank 0 in the owned one. The network's parameters are the
    register: after a call of a map they hold what it last worked at. Whether they require a gradient is not looked at.
    As no control the network is data, with its weights as they are when a map is called.

    k counts as exp(z) where UFL chooses the quadrature's degree; ``dx(metadata={"quadrature_degree": 4})`` sets it.
    Several coefficients may share a network, and then its θ: one of them stands in ``controls``.
    ``theta_evolution`` takes k at the state that each term has; ``ufl.replace`` does not reach into ``inputs``:
    ``k.replaced({u: u_before})`` is k at another state.

    Collective.

    Args:
        network: of float64 on the CPU, the same on every rank; differentiable twice. It takes each row by itself:
            no dropout, and no statistics of a batch, where it trains.
        inputs: UFL expressions of Functions, Constants and coordinates: the state, its gradient, other controls.
        shape: of k.

    Raises:
        BadProblem: for inputs or a shape that do not fit.
        BadInput: on every rank, for a network that does not fit, or has other weights on some rank.
        SolveFailed: from any call that solves, where the network gives numbers that are not finite.
    """

    def __init__(self, network: torch.nn.Module, inputs: Sequence[Expr], shape: tuple[int, ...] = ()) -> None:
        if not isinstance(network, torch.nn.Module):
            raise BadInput(f"LearnedCoefficient: network: expected a torch.nn.Module, got {type(network).__name__}")
        if not isinstance(shape, tuple) or not all(type(n) is int and n > 0 for n in shape):
            raise BadProblem(f"LearnedCoefficient: shape: expected a tuple of whole numbers above 0, got {shape!r}")
        parameters = dict(network.named_parameters())
        if not parameters or any(torch.nn.parameter.is_lazy(p) for p in parameters.values()):
            raise BadInput(
                "LearnedCoefficient: network: expected one with parameters that have their shapes, got none; write "
                "what has none in UFL, and call a lazy module once"
            )
        self.network = network
        self._names = list(parameters)
        self._shapes = [p.shape for p in parameters.values()]
        self._lengths = [p.numel() for p in parameters.values()]
        super().__init__(inputs, shape, network, sum(self._lengths), "LearnedCoefficient")
        self._inputs = list(inputs)
        comm = self.ufl_function_space().ufl_domain().ufl_cargo().comm
        with parallel.together(comm):
            self._check_kind()
            self._check_rows()
        if parallel.any_rank(comm, parallel.of_rank_0(comm, self.size) != self.size):
            raise BadInput("LearnedCoefficient: network: expected the same on every rank, got other numbers of weights")
        parallel.checked_on_all(comm, self.value, self.size, "LearnedCoefficient: weights (torch.manual_seed first)")

    def replaced(self, mapping: Mapping[Any, Any]) -> LearnedCoefficient:
        """The same network at other inputs, ``ufl.replace`` of these: at an earlier state. Collective."""
        return LearnedCoefficient(self.network, [ufl.replace(z, dict(mapping)) for z in self._inputs], self.ufl_shape)

    # -- weights -------------------------------------------------------------------------------------------------------

    @property
    def value(self) -> Array:
        """θ as the network holds it now: a copy, (num_weights,). Local."""
        return torch.nn.utils.parameters_to_vector(self.network.parameters()).detach().numpy().copy()

    def write(self, weights: Array) -> None:
        """Set the network's θ. Local."""
        pieces = torch.from_numpy(np.array(weights, dtype=np.float64).reshape(-1)).split(self._lengths)
        for parameter, piece in zip(self.network.parameters(), pieces, strict=True):
            # Not as an operation of autograd: the numbers of graphs that hold the parameter are theirs.
            parameter.data.copy_(piece.view_as(parameter))

    # -- numbers at points ---------------------------------------------------------------------------------------------

    def values(self, z: Array) -> Array:
        return self._rows((self.components,), self._at, z)

    def slopes(self, z: Array) -> Array:
        return self._rows((self.components, z.shape[1]), self._slope, z)

    def changes(self, z: Array, dz: Array, dw: Array) -> tuple[Array, Array]:
        s, d = self.components, z.shape[1]

        def both(theta: Tensor, here: Tensor) -> Tensor:
            value, slope = self._at(theta, here), self._slope(theta, here)
            return torch.cat([value, slope.reshape(len(here), s * d)], dim=1)

        def change(theta: Tensor, here: Tensor, along: Tensor) -> Tensor:
            return _jvp(both, (theta, here), (torch.from_numpy(dw), along))

        flat = self._rows((s + s * d,), change, z, dz)
        return flat[:, :s], flat[:, s:].reshape(-1, s, d)

    def tangents(self, z: Array, dw: Array) -> Array:
        def change(theta: Tensor, here: Tensor) -> Tensor:
            return _jvp(lambda t: self._at(t, here), (theta,), (torch.from_numpy(dw),))

        return self._rows((self.components,), change, z)

    def collected(self, z: Array, dual: Array) -> Array:
        return self._sum(self._pulled, z, dual)

    def collected_change(self, z: Array, dual: Array, dz: Array, dw: Array, change: Array) -> Array:
        def along(theta: Tensor, *pieces: Tensor) -> Tensor:
            here, seed, dhere, dseed = pieces
            return _jvp(self._pulled, (theta, here, seed), (torch.from_numpy(dw), dhere, dseed))

        return self._sum(along, z, dual, dz, change)

    # -- the network ---------------------------------------------------------------------------------------------------

    def _at(self, theta: Tensor, z: Tensor) -> Tensor:
        """N as a function of its weights, too: (num_weights,), (n, d) -> (n, s)."""
        pieces = zip(self._names, theta.split(self._lengths), self._shapes, strict=True)
        weights = {name: piece.view(shape) for name, piece, shape in pieces}
        k = torch.func.functional_call(self.network, weights, (z,))
        self._check_output(k, z)
        return k.reshape(len(z), self.components)

    def _slope(self, theta: Tensor, z: Tensor) -> Tensor:
        """∂N/∂z: (n, s, d). A row of k depends on its own row of z alone, so the sum of a component serves all rows."""
        k, pull = torch.func.vjp(lambda here: self._at(theta, here), z)
        seeds = torch.eye(self.components, dtype=k.dtype)
        return torch.stack([pull(seed.expand(len(z), -1).contiguous())[0] for seed in seeds], dim=1)

    def _pulled(self, theta: Tensor, z: Tensor, dual: Tensor) -> Tensor:
        """(∂N/∂θ)ᵀ dual, summed over the rows: (num_weights,)."""
        _, pull = torch.func.vjp(lambda t: self._at(t, z), theta)
        return pull(dual)[0]

    def _rows(self, shape: tuple[int, ...], of: Callable[..., Tensor], *arrays: Array) -> Array:
        """What a function of the weights and of rows gives for each row: (n, *shape)."""
        pieces = [of(*given).detach().numpy() for given in self._blocks(arrays)]
        return np.concatenate([np.empty((0, *shape)), *pieces])

    def _sum(self, of: Callable[..., Tensor], *arrays: Array) -> Array:
        """What a function of the weights and of rows gives for all rows together: (num_weights,)."""
        total = np.zeros(self.size)
        for given in self._blocks(arrays):
            total += of(*given).detach().numpy()
        return total

    def _blocks(self, arrays: Sequence[Array]) -> Iterator[tuple[Tensor, ...]]:
        self._check_kind()
        theta = torch.from_numpy(self.value)
        for start in range(0, len(arrays[0]), _ROWS):
            yield theta, *(torch.from_numpy(np.ascontiguousarray(a[start : start + _ROWS])) for a in arrays)

    # -- what it is ----------------------------------------------------------------------------------------------------

    def _check_kind(self) -> None:
        """Refuse numbers of other kinds, and what is not one function."""
        if [p.numel() for p in self.network.parameters()] != self._lengths:
            raise BadInput("LearnedCoefficient: network: its parameters are others than when the coefficient was made")
        buffers = [(name, b) for name, b in self.network.named_buffers() if b.is_floating_point()]
        for name, tensor in (*self.network.named_parameters(), *buffers):
            if tensor.dtype != torch.float64 or tensor.device.type != "cpu":
                raise BadInput(
                    f"LearnedCoefficient: network: expected float64 on the CPU, got {name} of {tensor.dtype} on "
                    f"{tensor.device}; try network.double().cpu()"
                )
        for name, module in self.network.named_modules():
            noisy = isinstance(module, torch.nn.modules.dropout._DropoutNd | torch.nn.modules.batchnorm._BatchNorm)
            if noisy and module.training:
                raise BadInput(
                    f"LearnedCoefficient: network: expected one function of each point by itself, got {name}, a "
                    f"{type(module).__name__} that trains; try network.eval(), or leave it out"
                )

    def _check_output(self, k: Any, z: Tensor) -> None:
        n, shape = len(z), tuple(self.ufl_shape)
        if not isinstance(k, Tensor) or k.shape[:1] != (n,) or k.numel() != n * self.components:
            got = tuple(k.shape) if isinstance(k, Tensor) else type(k).__name__
            raise BadInput(
                f"LearnedCoefficient: network: expected a tensor {(n, *(shape or (1,)))} for inputs {tuple(z.shape)}, "
                f"got {got}; shape= is that of the coefficient, {shape}"
            )
        if k.dtype != torch.float64:
            raise BadInput(f"LearnedCoefficient: network: expected numbers of float64, got {k.dtype}")

    def _check_rows(self) -> None:
        """Try the network: its output's shape, the same twice, a row by itself as among others, second derivatives."""
        z = torch.from_numpy(np.random.default_rng(20).uniform(0.5, 1.5, (_TRIAL, len(self.z))))
        theta, dual = torch.from_numpy(self.value), np.ones((1, self.components))
        try:
            k, again, alone = (self._at(theta, rows).detach() for rows in (z, z, z[:1]))
            one = z[:1].numpy()
            self.changes(one, one, self.value)
            self.collected_change(one, dual, one, self.value, dual)
        except RuntimeError as cause:
            raise BadInput(
                f"LearnedCoefficient: network: it fails on a tensor {tuple(z.shape)} of {_TRIAL} points, with the "
                f"components of the inputs side by side: {cause}"
            ) from cause
        for other, first, what in ((again, k, "it gives other numbers each time"), (alone, k[:1], "rows see others")):
            size = float(torch.nan_to_num(k).abs().max())
            if not torch.allclose(other, first, rtol=_SAME, atol=_SAME * size, equal_nan=True):
                raise BadInput(f"LearnedCoefficient: network: expected one function of each row by itself; {what}")


def _jvp(function: Callable[..., Tensor], at: tuple[Tensor, ...], along: tuple[Tensor, ...]) -> Tensor:
    change: Tensor = torch.func.jvp(function, at, along)[1]
    return change
