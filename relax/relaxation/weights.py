"""A loss as a function of all weights in one vector: values, gradients, products with its Hessian."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor

from relax.base import parallel
from relax.errors import BadInput, NotConverged

#: Gives the loss, with its graph: it does not call ``backward``.
LossClosure: TypeAlias = Callable[[], Tensor]


class Weights:
    """Weights and a loss. Collective over ``comm``, as are the methods that compute a loss.

    Args:
        what: whose arguments these are, for messages.
        params: a model, or parameters.
        closure: gives the loss; on several ranks each its own samples' part of a sum.
        comm: whose ranks share the samples.

    Attributes:
        size: how many numbers the weights are.
        comm: the ranks.
    """

    def __init__(self, what: str, params: Any, closure: LossClosure, comm: MPI.Comm) -> None:
        parallel.check_comm(comm)
        self.comm = comm
        self._what = what
        self._closure = closure
        with parallel.together(comm):
            self._params = _parameters(what, params)
            if not callable(closure):
                raise BadInput(f"{what}: closure: expected a function that gives the loss, got {closure!r:.80}")
        first = self._params[0]
        wide = any(p.dtype == torch.float64 for p in self._params)
        self._like = {"dtype": torch.float64 if wide else torch.float32, "device": first.device}
        self._sizes = [p.numel() for p in self._params]
        self.size = sum(self._sizes)
        sizes = parallel.on_each_rank(comm, self.size)
        if any(other != sizes[0] for other in sizes):
            raise BadInput(f"{what}: expected the same parameters on each rank, got so many numbers by rank: {sizes}")
        own = self.present().cpu().numpy()
        if parallel.any_rank(comm, not np.array_equal(own, parallel.from_rank_0(comm, own))):
            raise BadInput(f"{what}: expected the same weights on each of the {comm.size} ranks, got others on some")

    def present(self) -> Tensor:
        """A copy of the weights, (size,). Local."""
        return self._flat([p.detach() for p in self._params]).clone()

    @contextmanager
    def given_back(self) -> Iterator[None]:
        """The weights are after the block what they were before it, to the bit. Local."""
        before = [p.detach().clone() for p in self._params]
        try:
            yield
        finally:
            with torch.no_grad():
                for p, kept in zip(self._params, before, strict=True):
                    p.copy_(kept)

    def put(self, flat: Tensor) -> None:
        """Write to the weights. Local."""
        with torch.no_grad():
            for p, piece in zip(self._params, self._pieces(flat), strict=True):
                p.copy_(piece)

    def value_and_gradient(self) -> tuple[float, Tensor]:
        """(loss, (size,) gradient) of all ranks' samples.

        Raises:
            NotConverged: on every rank, where they are not finite.
        """
        with parallel.together(self.comm):
            loss = self._loss()
            gradient = self._flat(self._gradients(loss, graph=False))
        both = self._summed(torch.cat([loss.detach().reshape(1).to(gradient), gradient]))
        if not bool(torch.isfinite(both).all()):
            raise NotConverged(f"{self._what}: the loss is {float(both[0])}, or its gradient is not finite")
        return float(both[0]), both[1:]

    def hessian(self) -> Callable[[Tensor], Tensor]:
        """The product with the Hessian, (size,) -> (size,), collective. The closure is called once, now.

        What is random in it is then the same for every product.
        """
        with parallel.together(self.comm):
            loss = self._loss()
            if not math.isfinite(float(loss.detach())):
                raise NotConverged(f"{self._what}: the loss is {float(loss.detach())}")
            slopes = self._gradients(loss, graph=True)
        curved = [i for i, slope in enumerate(slopes) if slope.requires_grad]

        def product(v: Tensor) -> Tensor:
            with parallel.together(self.comm):
                pieces = self._pieces(v)
                rows = [torch.zeros_like(p) for p in self._params]
                if curved:
                    rows = torch.autograd.grad(
                        [slopes[i] for i in curved], self._params, [pieces[i] for i in curved],
                        retain_graph=True, materialize_grads=True,
                    )  # fmt: skip
                flat = self._flat([row.detach() for row in rows])
            flat = self._summed(flat)
            if not bool(torch.isfinite(flat).all()):
                raise NotConverged(f"{self._what}: a product with the Hessian is NaN or infinite")
            return flat

        return product

    def _loss(self) -> Tensor:
        with torch.enable_grad():
            loss = self._closure()
        words = f"{self._what}: closure: expected one that returns the loss, a real tensor of one number with its graph"
        if not isinstance(loss, Tensor) or loss.numel() != 1 or loss.is_complex():
            raise BadInput(f"{words}, got {loss!r:.80}")
        if not loss.requires_grad:
            raise BadInput(f"{words}, got one that depends on no parameter; was it detached, or computed in no_grad?")
        return loss.reshape(())

    def _gradients(self, loss: Tensor, *, graph: bool) -> tuple[Tensor, ...]:
        try:
            return torch.autograd.grad(loss, self._params, create_graph=graph, materialize_grads=True)
        except RuntimeError as cause:
            if "backward through the graph a second time" in str(cause):
                raise BadInput(
                    f"{self._what}: closure: expected one that returns the loss and does not call backward"
                ) from cause
            raise

    def _pieces(self, flat: Tensor) -> list[Tensor]:
        parts = zip(flat.split(self._sizes), self._params, strict=True)
        return [piece.view(p.shape).to(p.device, p.dtype) for piece, p in parts]

    def _flat(self, tensors: Any) -> Tensor:
        return torch.cat([tensor.reshape(-1).to(**self._like) for tensor in tensors])

    def _summed(self, flat: Tensor) -> Tensor:
        """The sum over ranks, the same to the bit on each."""
        if self.comm.size == 1:
            return flat
        total = parallel.sum_over_ranks(self.comm, flat.cpu().numpy().astype(np.float64))
        return torch.as_tensor(total).to(flat)


def _parameters(what: str, params: Any) -> list[Tensor]:
    given = list(params.parameters()) if isinstance(params, torch.nn.Module) else params
    if isinstance(given, Tensor) or not hasattr(given, "__iter__"):
        raise BadInput(f"{what}: expected a model, or parameters, got {type(params).__name__}")
    kept = [p for p in given if not isinstance(p, Tensor) or p.requires_grad]
    if not kept or any(not isinstance(p, Tensor) or not p.is_leaf for p in kept):
        raise BadInput(f"{what}: expected parameters that require gradients, got {[type(p).__name__ for p in kept]}")
    if len({id(p) for p in kept}) < len(kept):
        raise BadInput(f"{what}: expected each parameter once, got one twice")
    if any(p.is_complex() for p in kept):
        raise BadInput(f"{what}: expected real parameters, got complex ones")
    return kept
