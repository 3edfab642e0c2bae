"""Rows of a Jacobian in pieces: one for each group of parameters that meets the samples in one place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Numbers in a temporary array: 64 MiB.
_CHUNK = 2**23


@dataclass(frozen=True)
class Piece:
    """Rows Σ_t delta[b, k, t] ⊗ a[b, t] of samples b and outputs k: a layer's weight, seen position by position.

    A bias is one more column of a, of ones. Rows as they are have one position, and a = 1.

    Attributes:
        delta: (B, o, T, q), sensitivities of the outputs to what the layer gives, float64.
        a: (B, T, n), what the layer takes, float64.
        write: takes rows (B, o, q, n) into the columns of the parameters of a Jacobian (B, o, p).
    """

    delta: Tensor
    a: Tensor
    write: Callable[[Tensor, Tensor], None]

    def of(self, select: Callable[[Tensor], Tensor]) -> Piece:
        """The same piece of other samples, which ``select`` chooses from an array."""
        return Piece(select(self.delta), select(self.a), self.write)

    def gram(self, other: Piece) -> Tensor:
        """The rows' products with another one's: (B, o, B', o')."""
        (B, o, T, q), (C, r, S, _) = self.delta.shape, other.delta.shape
        if T == S == 1:
            K = (self.delta.reshape(B * o, q) @ other.delta.reshape(C * r, q).T).reshape(B, o, C, r)
            return K.mul_((self.a[:, 0] @ other.a[:, 0].T)[:, None, :, None])
        if self.a.shape[2] <= T * S:
            return self._gram_of_rows(other)
        return self._gram_of_positions(other)

    def _gram_of_rows(self, other: Piece) -> Tensor:
        """The products by rows, a few units of the layer at a time."""
        (B, o, _, q), (C, r, _, _), n = self.delta.shape, other.delta.shape, self.a.shape[2]
        K = self.delta.new_zeros(B * o, C * r)
        step = max(1, _CHUNK // max(B * o * n, C * r * n))
        for start in range(0, q, step):
            units = slice(start, start + step)
            J = _rows(self.delta[..., units], self.a).reshape(B * o, -1)
            other_J = J if other is self else _rows(other.delta[..., units], other.a).reshape(C * r, -1)
            K.addmm_(J, other_J.T)
        return K.reshape(B, o, C, r)

    def _gram_of_positions(self, other: Piece) -> Tensor:
        """The products by pairs of positions, a few samples at a time."""
        (B, o, T, q), (C, r, S, _) = self.delta.shape, other.delta.shape
        K = self.delta.new_empty(B, o, C, r)
        step = max(1, _CHUNK // (o * T * C * r * S))
        for start in range(0, B, step):
            some = slice(start, start + step)
            of_delta = self.delta[some].reshape(-1, q) @ other.delta.reshape(-1, q).T
            of_a = self.a[some].reshape(-1, self.a.shape[2]) @ other.a.reshape(-1, other.a.shape[2]).T
            pairs = of_delta.reshape(-1, o, T, C, r, S).mul_(of_a.reshape(-1, 1, T, C, 1, S))
            K[some] = pairs.sum((2, 5))
        return K

    def put(self, J: Tensor) -> None:
        """The rows into a Jacobian, (B, o, p)."""
        self.write(J, _rows(self.delta, self.a))

    def put_sum(self, J: Tensor, w: Tensor) -> None:
        """Their sum with weights w, (B, o), into a Jacobian of one row, (1, 1, p)."""
        if self.a.shape[1:] == (1, 1):
            # Whole rows: nothing of the size of a sample's is formed beside them.
            row = torch.einsum("bo,boq->q", w * self.a[:, 0], self.delta[:, :, 0])
            self.write(J, row[None, None, :, None])
            return
        of_delta = torch.einsum("bo,boTq->bTq", w, self.delta)
        self.write(J, torch.einsum("bTq,bTn->qn", of_delta, self.a)[None, None])


def _rows(delta: Tensor, a: Tensor) -> Tensor:
    """(B, o, q, n)."""
    if a.shape[1] == 1:
        return delta[:, :, 0, :, None] * a[:, 0, None, None, :]
    return torch.einsum("boTq,bTn->boqn", delta, a)


def gram(mine: list[Piece], all_of_them: list[Piece]) -> Tensor:
    """J J'ᵀ for the rows of some samples and of others: (B o, B' o'), float64."""
    total: Tensor | None = None
    for one, other in zip(mine, all_of_them, strict=True):
        K = one.gram(other)
        total = K if total is None else total.add_(K)
    assert total is not None
    return total.reshape(total.shape[0] * total.shape[1], -1)


def dense(pieces: list[Piece], num_parameters: int, samples: slice = slice(None)) -> Tensor:
    """The Jacobian of some samples as a matrix: (B o, p), float64."""
    some = [piece.of(lambda array: array[samples]) for piece in pieces]
    B, o = some[0].delta.shape[:2]
    J = some[0].delta.new_zeros(B, o, num_parameters)
    for piece in some:
        piece.put(J)
    return J.reshape(B * o, num_parameters)


def combined(pieces: list[Piece], num_parameters: int, w: Tensor) -> Tensor:
    """Jᵀ w of all samples: (B, o) to (p,), float64. No row is formed."""
    J = w.new_zeros(1, 1, num_parameters)
    for piece in pieces:
        piece.put_sum(J, w)
    return J.reshape(-1)
