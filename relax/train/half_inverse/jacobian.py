"""The Jacobian of a whole batch of outputs, shared by teams: its products and its Gram matrices."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from relax.base.types import Array
from relax.errors import BadInput, NotConverged
from relax.layer.products import points_held
from relax.train.half_inverse.exchange import Exchange
from relax.train.half_inverse.graph import Unstructured
from relax.train.half_inverse.pieces import Piece, combined, dense, gram
from relax.train.half_inverse.rows import by_rows, structured

# Numbers in the rows of a Jacobian that are formed together: 128 MiB.
_CHUNK = 2**24
_NOT_FINITE = (
    "HalfInverse: the derivatives of the outputs are not finite; the weights are those before this step. A square root "
    "or a logarithm at zero, or a division by it, has no slope"
)


class BatchJacobian:
    """J = Cᵀ dy/dθ, of m = samples * outputs rows, those of a sample beside each other. Collective over the teams.

    Vectors over the rows are of all teams' samples, and the same on every rank; so are vectors over the parameters.

    Args:
        y: (samples, outputs) of this team, with its graph, which is kept.
        params: θ, the same on every rank.
        basis: C, (outputs, outputs): the identity, or a factor C Cᵀ of a metric.
        exchange: between the teams.

    Attributes:
        exchange: as given.
        num_rows: m, of all teams.
        num_columns: p, the number of parameters.
        by_layers: whether to find the rows by the layers that parameters are in, else each takes a sweep; after their
            first use, whether they have been.
    """

    def __init__(self, y: Tensor, params: Sequence[Tensor], basis: Tensor, exchange: Exchange) -> None:
        self._y = y
        self._params = list(params)
        self._basis = basis
        self.exchange = exchange
        self._before, self._samples = exchange.samples_before(*y.shape)
        self.num_rows = self._samples * y.shape[1]
        self.num_columns = sum(p.numel() for p in self._params)
        self.by_layers = True

    # -- products ------------------------------------------------------------------------------------------------------

    def vjp(self, w: Array) -> Array:
        """Jᵀ w: (m,) to (p,). One sweep backwards."""
        with self.exchange.together():
            gradients = torch.autograd.grad(
                self._y, self._params, self._cotangent(w), retain_graph=True, allow_unused=True, materialize_grads=True
            )
        return _finite(self.exchange.sum(np.concatenate([_array(g).reshape(-1) for g in gradients])))

    def jvp(self, v: Array) -> Array:
        """J v: (p,) to (m,). By a sweep backwards of the sweep backwards, which is linear in its cotangent."""
        with self.exchange.together():
            cotangent, pulled = self._pulled
            parts = torch.from_numpy(v).split([p.numel() for p in self._params])
            pushed = [part.view(p.shape).to(p) for p, part in zip(self._params, parts, strict=True)]
            used = [(g, t) for g, t in zip(pulled, pushed, strict=True) if g is not None and g.requires_grad]
            try:
                (dy,) = torch.autograd.grad([g for g, _ in used], cotangent, [t for _, t in used], retain_graph=True)
            except RuntimeError as error:
                raise BadInput(
                    f"HalfInverse: expected outputs that can be differentiated twice, for J v, got: {error}; "
                    'method="gram" needs one derivative only'
                ) from error
        return self.exchange.all_rows(_array(dy @ self._basis.to(dy)).reshape(-1))

    @cached_property
    def _pulled(self) -> tuple[Tensor, Sequence[Tensor | None]]:
        cotangent = torch.zeros_like(self._y, requires_grad=True)
        with points_held():
            return cotangent, torch.autograd.grad(
                self._y, self._params, cotangent, create_graph=True, retain_graph=True, allow_unused=True
            )

    def mine(self, w: Array) -> Array:
        """This team's samples of a vector over the rows: (samples, outputs)."""
        o = self._y.shape[1]
        start = self._before * o
        return w[start : start + self._y.numel()].reshape(-1, o)

    def _cotangent(self, w: Array) -> Tensor:
        own = torch.from_numpy(self.mine(w)).to(self._basis)
        return (own @ self._basis.T).to(self._y)

    # -- matrices ------------------------------------------------------------------------------------------------------

    def gram(self) -> Array:
        """J Jᵀ, (m, m). Each team makes its own rows, from its factors and those of all."""
        return _finite(self.exchange.all_rows(_array(gram(self._pieces, self._all_pieces))))

    def gram_of_blocks(self, blocks: int) -> list[tuple[slice, Array]]:
        """J Jᵀ of this team's samples alone, in blocks of neighbours: (rows of the vector over all, block)."""
        count, o = self._y.shape
        bounds = [int(b) for b in np.linspace(0, count, min(blocks, max(count, 1)) + 1).round()]
        blocks_of_rows = []
        for start, end in zip(bounds[:-1], bounds[1:], strict=True):
            some = [piece.of(operator.itemgetter(slice(start, end))) for piece in self._pieces]
            rows = slice((self._before + start) * o, (self._before + end) * o)
            blocks_of_rows.append((rows, _array(gram(some, some))))
        if self.exchange.any(not all(np.all(np.isfinite(K)) for _, K in blocks_of_rows)):
            raise NotConverged(_NOT_FINITE)
        return blocks_of_rows

    def normal(self) -> Array:
        """JᵀJ, (p, p)."""
        total = np.zeros((self.num_columns, self.num_columns))
        for rows in self._blocks_of_rows(self._pieces):
            total += rows.T @ rows
        return _finite(self.exchange.sum(total))

    def _blocks_of_rows(self, pieces: list[Piece]) -> Iterator[Array]:
        """The rows of some samples, some at a time: (k, p) each."""
        step = max(1, _CHUNK // max(1, self._y.shape[1] * self.num_columns))
        for start in range(0, len(pieces[0].delta), step):
            yield _array(dense(pieces, self.num_columns, slice(start, start + step)))

    @cached_property
    def _pieces(self) -> list[Piece]:
        pieces: dict[str, Piece] | None = None
        with self.exchange.together():
            if self.by_layers:
                try:
                    pieces = structured(self._y, self._params, self._basis)
                except Unstructured:
                    pieces = None
        shapes = {key: (piece.delta.shape[1:], piece.a.shape[1:]) for key, piece in (pieces or {}).items()}
        self.by_layers = self.exchange.agree(str(shapes)) and pieces is not None
        if pieces is None or not self.by_layers:
            with self.exchange.together():
                pieces = by_rows(self._y, self._params, self._basis)
        return list(pieces.values())

    @cached_property
    def _all_pieces(self) -> list[Piece]:
        return [piece.of(self.exchange.all_samples) for piece in self._pieces]

    def triangle_of_columns(self) -> Array:
        """R of Jᵀ = Q R, (m, m): each team makes the triangle of its share of the parameters."""
        mine = self.exchange.share(self.num_columns)
        blocks = [rows[:, mine].copy() for rows in self._blocks_of_rows(self._all_pieces)]
        return self._triangle_of_all(_triangle(np.concatenate(blocks).T))

    def triangle_of_rows(self) -> Array:
        """R of J = Q R, (p, p): each team makes the triangle of its samples."""
        own: Array = np.empty((0, self.num_columns))
        for rows in self._blocks_of_rows(self._pieces):
            own = _triangle(np.concatenate([own, rows]))
        return self._triangle_of_all(own)

    def _triangle_of_all(self, own: Array) -> Array:
        every = _finite(self.exchange.all_rows(np.ascontiguousarray(own)))
        return own if len(every) == len(own) else _triangle(every)

    @property
    def epsilon(self) -> float:
        """The rounding unit of sweeps."""
        return max(float(torch.finfo(t.dtype).eps) for t in (self._y, *self._params))

    def probe(self) -> Array:
        """A vector over the rows that no structure of J knows of."""
        return np.sin(np.arange(1.0, self.num_rows + 1.0) ** 2)

    @cached_property
    def swept_probe(self) -> Array:
        """Jᵀ r by an ordinary sweep, for the probe r."""
        return self.vjp(self.probe())

    def discrepancy(self) -> float:
        """How far Jᵀ r by rows is from Jᵀ r by a sweep, in the worst parameter, relative, for the probe r.

        Parameters that the outputs hardly depend on, such as a bias before a normalisation, have rounding alone:
        a thousandth of the whole is their measure.
        """
        own = torch.from_numpy(self.mine(self.probe())).to(self._basis)
        by_rows_here = self.exchange.sum(_array(combined(self._pieces, self.num_columns, own)))
        ends = np.cumsum([p.numel() for p in self._params])[:-1]
        floor = 1e-3 * float(np.linalg.norm(self.swept_probe))
        worst = 0.0
        for one, other in zip(np.split(by_rows_here, ends), np.split(self.swept_probe, ends), strict=True):
            size = floor + max(float(np.linalg.norm(one)), float(np.linalg.norm(other)))
            worst = max(worst, float(np.linalg.norm(one - other)) / size if size else 0.0)
        return worst

    def forget(self) -> None:
        """Find the rows anew when they are asked for."""
        for name in ("_pieces", "_all_pieces"):
            self.__dict__.pop(name, None)


def _finite(values: Array) -> Array:
    """Values that all ranks hold alike, seen to be finite."""
    if not np.all(np.isfinite(values)):
        raise NotConverged(_NOT_FINITE)
    return values


def _array(tensor: Tensor) -> Array:
    return np.asarray(tensor.detach().cpu().double().numpy())


def _triangle(matrix: Array) -> Array:
    """R of a QR factorisation, with as many rows as columns or fewer."""
    return np.asarray(scipy.linalg.qr(matrix, mode="r", check_finite=False)[0][: matrix.shape[1]])
