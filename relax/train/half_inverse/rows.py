"""From the graph behind a batch of outputs to the rows of its Jacobian, in one sweep for each output.

Samples do not know of each other, so one sweep serves all of them: its cotangent is the same output of every sample. A
``SolutionLayer`` in the graph sees all sweeps together, as a block of adjoint directions for each sample.

Whether they do know of each other is seen by one sweep more, from some of the samples alone: what comes to the others
is zero to the last bit, in any precision, or it is not. Sizes would not tell: where small singular values dominate a
step, small couplings do, too. Samples on one side that know of each other alone are left to the comparison of the rows
with an ordinary sweep.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from relax.train.half_inverse.graph import Meeting, Unstructured, meetings
from relax.train.half_inverse.pieces import Piece

# Rows of a Jacobian that are computed together, and numbers in them.
_SWEEPS, _CHUNK = 64, 2**22


@dataclass(frozen=True)
class Columns:
    """The places of each parameter's columns in a Jacobian.

    Attributes:
        params: in the order of the columns.
    """

    params: Sequence[Tensor]

    def of(self, which: int, start: int = 0, length: int | None = None) -> slice:
        """The columns of a parameter, or of a run of its numbers."""
        first = sum(p.numel() for p in self.params[:which]) + start
        return slice(first, first + (self.params[which].numel() if length is None else length))


def structured(y: Tensor, params: Sequence[Tensor], basis: Tensor) -> dict[str, Piece]:
    """The rows C[:, j]ᵀ dy_b/dθ of samples b, by the layers that parameters are in.

    Args:
        y: (B, o), with its graph, which is kept.
        params: θ.
        basis: C, (o, o).

    Returns:
        Pieces of the rows, under names that are the same for every batch of a network.

    Raises:
        Unstructured: where the graph does not show how parameters meet samples, or samples know of each other.
    """
    met = meetings(y, params)
    if not met:
        raise Unstructured
    B, o = y.shape
    seeds = basis.T.to(y.dtype)[:, None, :].expand(o, B, o)
    # Positive for some samples, which has no pattern: neighbours and halves are parted by it, two samples are, too.
    some = (torch.arange(1, B + 1, device=y.device, dtype=torch.float64) ** 2).sin().clamp(min=0.0)
    seeds = torch.cat([seeds, some.to(y.dtype)[None, :, None].expand(1, B, o)])
    edges = [GradientEdge(meeting.node, 0) for meeting in met]
    deltas = _swept(lambda seed: torch.autograd.grad(y, edges, seed, retain_graph=True), seeds)
    columns = Columns(params)
    pieces: dict[tuple[object, ...], Piece] = {}
    for meeting, swept in zip(met, deltas, strict=True):
        delta = _by_samples(meeting, swept.detach(), B)
        if bool((delta[o, some == 0.0] != 0.0).any()):
            raise Unstructured
        for key, piece in _pieces(meeting, delta[:o], columns):
            pieces[key] = _joined(pieces[key], piece) if key in pieces else piece
    _check_disjoint(list(pieces))
    return {str(key): pieces[key] for key in sorted(pieces, key=str)}


def by_rows(y: Tensor, params: Sequence[Tensor], basis: Tensor) -> dict[str, Piece]:
    """The rows by a sweep for each output of each sample: right for any graph, B times as dear."""
    B, o = y.shape

    def sweep(seed: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(y, params, seed, retain_graph=True, allow_unused=True, materialize_grads=True)

    def seeds(b: Tensor, k: Tensor) -> Tensor:
        cotangents = torch.zeros(len(b), B, o, dtype=y.dtype, device=y.device)
        cotangents[torch.arange(len(b)), b] = basis.T.to(y)[k]
        return cotangents

    return {"all": _rows_of(sweep, seeds, (B, o, B * o), Columns(params), range(len(params)))}


def _swept(sweep: Callable[[Tensor], tuple[Tensor, ...]], seeds: Tensor) -> tuple[Tensor, ...]:
    """A sweep for each seed: all at once, or one by one where a node of the graph cannot take them so."""
    try:
        return tuple(torch.func.vmap(sweep)(seeds))
    except (RuntimeError, NotImplementedError):
        each = [sweep(seed) for seed in seeds]
        return tuple(torch.stack(column) for column in zip(*each, strict=True))


def _rows_of(
    sweep: Callable[[Tensor], tuple[Tensor, ...]],
    seeds: Callable[[Tensor, Tensor], Tensor],
    size: tuple[int, int, int],
    columns: Columns,
    which: Sequence[int],
) -> Piece:
    """One sweep for each row, as many at once as memory should hold.

    Args:
        sweep: of a cotangent.
        seeds: the cotangents of some rows, by their samples and their outputs.
        size: samples, outputs, numbers in a cotangent.
        columns: of all parameters.
        which: of them are swept to.
    """
    B, o, numbers = size
    width = sum(columns.params[i].numel() for i in which)
    step = max(1, min(_SWEEPS, _CHUNK // max(width, numbers)))
    blocks = []
    for start in range(0, B * o, step):
        row = torch.arange(start, min(start + step, B * o))
        swept = _swept(sweep, seeds(row // o, row % o))
        blocks.append(torch.cat([g.detach().double().reshape(len(g), -1) for g in swept], 1))

    def write(J: Tensor, rows: Tensor) -> None:
        start = 0
        for i in which:
            size = columns.params[i].numel()
            J[..., columns.of(i)] += rows[..., start : start + size, 0]
            start += size

    rows = torch.cat(blocks).reshape(B, o, 1, width)
    return Piece(rows, rows.new_ones(B, 1, 1), write)


# -- pieces ------------------------------------------------------------------------------------------------------------


def _by_samples(meeting: Meeting, delta: Tensor, B: int) -> Tensor:
    """(sweeps, B, ...): sensitivities with their samples in the second axis; (sweeps, B, T, q) of a dense layer."""
    if meeting.kind in ("other", "convolution"):
        if delta.shape[1] != B:
            raise Unstructured
        return delta
    k, q, rows = delta.shape[0], delta.shape[-1], math.prod(delta.shape[1:-1])
    if rows % B:
        raise Unstructured
    if meeting.positions_first:
        return delta.reshape(k, rows // B, B, q).transpose(1, 2)
    return delta.reshape(k, B, rows // B, q)


def _pieces(meeting: Meeting, delta: Tensor, columns: Columns) -> list[tuple[tuple[object, ...], Piece]]:
    """The pieces of a Jacobian that one meeting gives, each with a name that tells what it is a derivative in."""
    if meeting.kind == "other":
        return [(("other", *meeting.others), _other(meeting, delta, columns))]
    if meeting.kind == "convolution":
        return _convolution(meeting, delta, columns)
    _, B, T, q = delta.shape
    delta = delta.transpose(0, 1).double()
    taken = delta.new_empty(B, T, 0)
    if meeting.kind == "dense" and meeting.weight is not None:
        node = meeting.node
        taken = (node._saved_mat1 if "Addmm" in node.name() else node._saved_self).detach().double()
        taken = taken.reshape(T, B, -1).transpose(0, 1) if meeting.positions_first else taken.reshape(B, T, -1)
    write = _writer(columns, meeting, 0, q, 0)
    key = (meeting.kind == "shift", meeting.weight, meeting.bias, meeting.transposed, 0)
    return [(key, Piece(delta, _with_ones(taken, meeting.bias), write))]


def _convolution(meeting: Meeting, delta: Tensor, columns: Columns) -> list[tuple[tuple[object, ...], Piece]]:
    """One piece for each group of channels."""
    node = meeting.node
    kernel, groups = node._saved_weight.shape[2:], node._saved_groups
    o, B, channels = delta.shape[:3]
    delta = delta.reshape(o, B, channels, -1).permute(1, 0, 3, 2).double()
    T, q = delta.shape[2], channels // groups
    if meeting.weight is None:
        taken = delta.new_empty(B, T, 0)
    else:
        taken = _patches(
            node._saved_input.detach().double(), kernel, node._saved_stride, node._saved_padding, node._saved_dilation
        )
    n = taken.shape[2] // groups
    pieces: list[tuple[tuple[object, ...], Piece]] = []
    for i in range(groups):
        own = _with_ones(taken[..., i * n : (i + 1) * n], meeting.bias)
        write = _writer(columns, meeting, i * q * n, q, i * q)
        key = (False, meeting.weight, meeting.bias, True, i)
        pieces.append((key, Piece(delta[..., i * q : (i + 1) * q], own, write)))
    return pieces


def _other(meeting: Meeting, delta: Tensor, columns: Columns) -> Piece:
    """The rows by the node's own backward step, from each sample alone."""
    params = [columns.params[i] for i in meeting.others]
    edge = GradientEdge(meeting.node, 0)
    B = delta.shape[1]

    def sweep(seed: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad([edge], params, seed, retain_graph=True, allow_unused=True, materialize_grads=True)

    def seeds(b: Tensor, k: Tensor) -> Tensor:
        cotangents = delta.new_zeros(len(b), *delta.shape[1:])
        cotangents[torch.arange(len(b)), b] = delta[k, b]
        return cotangents

    return _rows_of(sweep, seeds, (B, delta.shape[0], delta[0].numel()), columns, meeting.others)


def _patches(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """The input that each output of a convolution sees: (B, channels, ...) to (B, positions, channels * kernel)."""
    x = torch.nn.functional.pad(x, [p for side in reversed(padding) for p in (side, side)])
    for axis, (k, s, d) in enumerate(zip(kernel, stride, dilation, strict=True), start=2):
        x = x.unfold(axis, d * (k - 1) + 1, s)[..., ::d]
    B, channels, dim = x.shape[0], x.shape[1], len(kernel)
    positions = math.prod(x.shape[2 : 2 + dim])
    order = [0, *range(2, 2 + dim), 1, *range(2 + dim, 2 + 2 * dim)]
    return x.permute(order).reshape(B, positions, channels * math.prod(kernel))


def _with_ones(a: Tensor, bias: int | None) -> Tensor:
    return a if bias is None else torch.cat([a, a.new_ones(*a.shape[:2], 1)], 2)


def _writer(
    columns: Columns, meeting: Meeting, start: int, q: int, bias_start: int
) -> Callable[[Tensor, Tensor], None]:
    """Puts rows (B, o, q, n) of a weight and its bias into a Jacobian."""
    transposed = meeting.transposed or meeting.kind == "convolution"

    def write(J: Tensor, rows: Tensor) -> None:
        n = rows.shape[3]
        if meeting.bias is not None:
            n -= 1
            J[..., columns.of(meeting.bias, bias_start, q)] += rows[..., n]
        if meeting.weight is not None:
            own = rows[..., :n] if transposed else rows[..., :n].transpose(2, 3)
            J[..., columns.of(meeting.weight, start, q * n)] += own.reshape(*rows.shape[:2], q * n)

    return write


def _joined(one: Piece, other: Piece) -> Piece:
    """A weight that is used twice is seen at the positions of both."""
    if one.delta.shape[3] != other.delta.shape[3] or one.a.shape[2] != other.a.shape[2]:
        raise Unstructured
    return Piece(torch.cat([one.delta, other.delta], 2), torch.cat([one.a, other.a], 1), one.write)


def _check_disjoint(keys: Sequence[tuple[object, ...]]) -> None:
    """A parameter in two pieces would have their products with each other missing."""
    seen: set[object] = set()
    for key in keys:
        own: set[object]
        if key[0] == "other":
            own = {(which, 0) for which in key[1:]}
        else:
            _, weight, bias, _, group = key
            own = {(which, group) for which in (weight, bias) if which is not None}
        if own & seen:
            raise Unstructured
        seen |= own
